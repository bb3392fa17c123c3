//! The probes of one attempt of a container in time. One task an attempt, begun and ended by [`super::Prober`].
//!
//! Invariants: until the startup probe has succeeded neither of the others is asked. A failed startup or liveness
//! probe is the last word on an attempt.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::model::{Container, Probe};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    Findings,
    check::check,
    tally::{Judged, Tally},
};
use crate::{
    ledger::PodEntry,
    settings::ms,
    step::{Failed, Health, Note},
    worker::Shared,
};

pub(super) struct Attempt {
    pub shared: Arc<Shared>,
    pub entry: Arc<PodEntry>,
    pub container: Container,
    /// Engine id.
    pub id: String,
    /// Of the pod; empty while it is not known.
    pub ip: watch::Receiver<String>,
    pub running_since_ms: u64,
    /// An agent before this one probed it.
    pub adopted: bool,
    /// What was found so far.
    pub health: Mutex<Health>,
    pub findings: watch::Sender<Findings>,
}

impl Attempt {
    pub async fn run(self) {
        let known = self.health().clone();
        if known.failed.is_some() {
            return;
        }
        if let Some(probe) = self.container.startup_probe.as_ref().filter(|_| !known.started)
            && !self.starts(probe).await
        {
            return;
        }
        self.say(|health| health.started = true);
        tokio::select! {
            () = self.readiness() => {}
            () = self.liveness() => {}
        }
    }

    /// True once it has started.
    async fn starts(&self, probe: &Probe) -> bool {
        let mut asked = self.ask("startup", probe);
        let started = asked.next().await;
        if !started {
            self.fail("startup", probe);
        }
        started
    }

    /// Goes on as long as the attempt.
    async fn readiness(&self) {
        let Some(probe) = &self.container.readiness_probe else {
            return std::future::pending().await;
        };
        let mut asked = self.ask("readiness", probe);
        loop {
            let ready = asked.next().await;
            self.say(|health| health.ready = ready);
        }
    }

    /// Ends with the attempt's health.
    async fn liveness(&self) {
        let Some(probe) = &self.container.liveness_probe else {
            return std::future::pending().await;
        };
        let mut asked = self.ask("liveness", probe);
        while asked.next().await {}
        self.fail("liveness", probe);
    }

    fn fail(&self, name: &str, probe: &Probe) {
        let failed = Failed {
            probe: name.to_owned(),
            grace_seconds: probe.termination_grace_period_seconds,
        };
        self.say(|health| health.failed = Some(failed));
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the pod's task what is new.
    fn say(&self, change: impl FnOnce(&mut Health)) {
        let health = {
            let mut health = self.health();
            change(&mut health);
            health.clone()
        };
        self.findings.send_if_modified(|all| {
            let before = all.insert(self.container.name.clone(), health.clone());
            before.is_none_or(|before| before != health)
        });
    }

    fn ask<'a>(&'a self, name: &'static str, probe: &'a Probe) -> Asked<'a> {
        let period = Duration::from_secs(probe.period().into());
        let delay = Duration::from_secs(probe.initial_delay().into());
        let mut first = self.shared.clock.instant(self.running_since_ms) + delay;
        if self.adopted {
            // After a restart of the agent all attempts of the host would be asked at once.
            first = first.max(Instant::now() + spread(&self.id, period));
        }
        let mut beat = interval_at(first.max(Instant::now()), period);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Asked {
            attempt: self,
            name,
            probe,
            tally: Tally::new(probe),
            beat,
        }
    }
}

/// One probe that is asked at its period.
struct Asked<'a> {
    attempt: &'a Attempt,
    name: &'static str,
    probe: &'a Probe,
    tally: Tally,
    beat: tokio::time::Interval,
}

impl Asked<'_> {
    /// The next verdict.
    async fn next(&mut self) -> bool {
        loop {
            self.beat.tick().await;
            let attempt = self.attempt;
            let ip = attempt.ip.borrow().clone();
            let finding = check(&attempt.shared, &attempt.container, &attempt.id, &ip, self.probe).await;
            let Judged { verdict, tell } = self.tally.count(finding);
            if let Some(words) = tell {
                let message = format!(
                    "Container {}: {} probe failed: {words}",
                    attempt.container.name, self.name
                );
                attempt
                    .shared
                    .notes
                    .push(&attempt.entry, Note::warning("Unhealthy", message));
            }
            if let Some(good) = verdict {
                return good;
            }
        }
    }
}

/// A part of the period, the same for the same id.
fn spread(id: &str, period: Duration) -> Duration {
    let sum = id
        .bytes()
        .fold(0_u64, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
    ms(sum % period_ms)
}
