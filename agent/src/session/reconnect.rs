//! Keeps a session open to each coordinator, and says how long to wait before the next attempt. Started by
//! [`crate::run`].
//!
//! The coordinators are those that the last Welcome named. The configured addresses are only the first contact: they are
//! tried when none of those could be reached, one after the other, for they may be other names of the same ones.
//!
//! Invariants: after each failure comes a random wait, so that a fleet does not return in step; no answer of a
//! coordinator ends this loop, for the containers need their agent; at most [`MOST`] coordinators are spoken to.

use std::collections::{BTreeMap, BTreeSet};

use proto::{ids::IdGen, wire::goodbye::Reason};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{End, Links, run as run_session};
use crate::{
    settings::{Settings, ms},
    step::Backoff,
};

/// Most coordinators of a cluster.
const MOST: usize = 7;

/// Runs until the agent stops. `first` are the configured addresses.
pub async fn run(links: Links, first: Vec<String>) {
    let stop = links.stop.clone();
    let mut ledger = links.worker.keeper.watch();
    let mut tasks = JoinSet::new();
    let mut lines: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let mut spare: Option<(Vec<String>, CancellationToken)> = None;
    let mut jitter = Jitter::new();
    loop {
        let told = ledger.borrow_and_update().coordinators.clone();
        let (wanted, others) = addresses(&told, &first);
        if wanted.is_empty() {
            tracing::error!("no coordinator is known: give --coordinators HOST:PORT");
        }
        lines.retain(|address, gone| {
            let stays = wanted.contains(address);
            if !stays {
                gone.cancel();
            }
            stays
        });
        links.crew.only(&wanted);
        // Those that a fleet is told of at once are not all to be called at once.
        let spread = if links.contact.borrow().open() {
            links.worker.settings.reconnect_max_ms
        } else {
            0
        };
        for address in &wanted {
            if !lines.contains_key(address) {
                let gone = CancellationToken::new();
                lines.insert(address.clone(), gone.clone());
                let pause = jitter.up_to(spread);
                tasks.spawn(line(links.clone(), vec![address.clone()], gone, None, pause));
            }
        }
        let same = spare.as_ref().is_some_and(|(before, _)| *before == others);
        if !same && let Some((_, gone)) = spare.take() {
            gone.cancel();
        }
        if spare.is_none() && !others.is_empty() {
            let gone = CancellationToken::new();
            spare = Some((others.clone(), gone.clone()));
            tasks.spawn(line(links.clone(), others, gone, Some(ledger.clone()), 0));
        }
        let before = told;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    // Each says its farewell.
                    while tasks.join_next().await.is_some() {}
                    return;
                }
                // The sender goes with the agent.
                changed = ledger.changed() => if changed.is_err() { return },
                Some(ended) = tasks.join_next() => match ended {
                    Ok(()) => {}
                    Err(e) => {
                        tracing::error!("a session's task failed: {e}");
                        return;
                    }
                },
            }
            if ledger.borrow_and_update().coordinators != before {
                break;
            }
        }
    }
}

/// The told list, and what of the configured one is not in it; without a told one the configured one is all there is.
fn addresses(told: &[String], first: &[String]) -> (Vec<String>, Vec<String>) {
    let each_once = |all: &[String], but: &[String]| {
        let mut once: Vec<String> = Vec::with_capacity(all.len());
        for address in all {
            if !address.is_empty() && !once.contains(address) && !but.contains(address) {
                once.push(address.clone());
            }
        }
        once.truncate(MOST);
        once
    };
    let told = each_once(told, &[]);
    let first = each_once(first, &told);
    if told.is_empty() { (first, told) } else { (told, first) }
}

/// Keeps a session open to one of `addresses`, the one after the other, until the agent stops or they are `gone`.
/// `unless`: only while none of the coordinators in that ledger can be reached.
async fn line(
    mut links: Links,
    addresses: Vec<String>,
    gone: CancellationToken,
    mut unless: Option<tokio::sync::watch::Receiver<std::sync::Arc<crate::ledger::Ledger>>>,
    pause: u64,
) {
    let stop = links.stop.clone();
    let mut route = Route::new(links.worker.settings.clone(), addresses);
    // Why no connection came about since the last one, so that an outage is said once and not each time.
    let mut unreached = BTreeSet::new();
    let mut pause = pause;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = gone.cancelled() => return,
            () = sleep(ms(pause)) => {}
        }
        if let Some(ledger) = &mut unless {
            let told = ledger.borrow_and_update().coordinators.clone();
            let mut contact = links.crew.contact();
            tokio::select! {
                () = stop.cancelled() => return,
                () = gone.cancelled() => return,
                // The sender lives in the crew.
                _ = contact.wait_for(|c| c.in_vain(&told)) => {}
            }
        }
        let Some(address) = route.next() else { return };
        let begun = Instant::now();
        let (end, welcomed) = attempt(&mut links, &address, &gone).await;
        match &end {
            End::Unreached(why) => {
                if unreached.insert(why.clone()) {
                    tracing::warn!("cannot connect, goes on trying: {why}");
                }
            }
            _ => unreached.clear(),
        }
        tell(&links, &address, &end);
        if matches!(end, End::Stopping | End::Gone) {
            return;
        }
        let stable = welcomed && begun.elapsed() >= ms(links.worker.settings.stable_after_ms);
        pause = route.after(&end, stable);
    }
}

/// One session, from the connection to its end, and whether the coordinator answered.
async fn attempt(links: &mut Links, address: &str, gone: &CancellationToken) -> (End, bool) {
    let stop = links.stop.clone();
    let connector = links.connector.borrow_and_update().clone();
    let wait = ms(links.worker.settings.connect_timeout_ms);
    let connected = tokio::select! {
        () = stop.cancelled() => return (End::Stopping, false),
        () = gone.cancelled() => return (End::Gone, false),
        connected = timeout(wait, connector.connect(address)) => connected,
    };
    let channel = match connected {
        Ok(Ok(channel)) => channel,
        Ok(Err(why)) => return (End::Unreached(why), false),
        Err(_) => {
            let why = format!("{address}: no connection within {} ms", wait.as_millis());
            return (End::Unreached(why), false);
        }
    };
    let crew = links.crew.clone();
    let seat = crew.enter(address);
    let mut contact = crew.contact();
    let left = async {
        gone.cancelled().await;
        // The session goes on until another coordinator is there and leads: this address may be another name of one, and
        // the one that is being welcomed just now is not known to lead yet.
        let _ = contact.wait_for(|c| c.active && !c.active_at(address)).await;
    };
    let end = tokio::select! {
        end = run_session(links, &seat, channel) => end,
        () = left => End::Gone,
    };
    (end, seat.was_welcomed())
}

fn tell(links: &Links, coordinator: &str, end: &End) {
    let words = match end {
        End::Goodbye { reason, message } => format!("goodbye {}: {message}", reason.as_str_name()),
        End::NotAccepted(why) => why.to_string(),
        End::Denied(why) | End::Lost(why) | End::Unreached(why) => why.clone(),
        End::Renewed => "the certificate was renewed".into(),
        End::Gone => "it is none of the cluster's coordinators any more".into(),
        End::Stopping => "the agent stops".into(),
    };
    match end {
        // Said by the caller, once.
        End::Unreached(_) => {}
        End::Gone | End::Renewed | End::Stopping => tracing::info!(coordinator, "session ended: {words}"),
        End::Goodbye { .. } | End::Lost(_) => tracing::warn!(coordinator, "session ended: {words}"),
        End::NotAccepted(_) | End::Denied(_) => {
            links.worker.metrics.refusals.inc();
            tracing::error!(coordinator, "session ended: {words}; all containers keep running");
        }
    }
    if !matches!(end, End::Gone) {
        links.crew.ended(coordinator, &words);
    }
}

/// Random waits.
struct Jitter(IdGen);

impl Jitter {
    fn new() -> Self {
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self(IdGen::new(seed))
    }

    /// Milliseconds, this many at most.
    fn up_to(&mut self, ceiling: u64) -> u64 {
        self.0.next_u64() % ceiling.saturating_add(1)
    }
}

/// Chooses addresses and waits. Without I/O; the only randomness is its own.
struct Route {
    settings: Settings,
    jitter: Jitter,
    addresses: Vec<String>,
    next: usize,
    /// Failures since the last wait, and waits in a row.
    tried: usize,
    level: u32,
    refused: bool,
}

impl Route {
    fn new(settings: Settings, addresses: Vec<String>) -> Self {
        Self {
            settings,
            jitter: Jitter::new(),
            addresses,
            next: 0,
            tried: 0,
            level: 0,
            refused: false,
        }
    }

    fn next(&mut self) -> Option<String> {
        let address = self.addresses.get(self.next % self.addresses.len().max(1))?.clone();
        self.next = self.next.wrapping_add(1);
        Some(address)
    }

    /// Milliseconds to wait before the next session.
    fn after(&mut self, end: &End, stable: bool) -> u64 {
        if stable {
            self.level = 0;
            self.tried = 0;
        }
        match end {
            End::Renewed | End::Gone | End::Stopping => return 0,
            End::Goodbye {
                reason: Reason::Superseded | Reason::Revoked | Reason::Protocol,
                ..
            }
            | End::Denied(_) => self.refused = true,
            End::NotAccepted(why) => self.refused |= !matches!(why, crate::ledger::Saved::Refused(r) if r.is_gap()),
            End::Goodbye { .. } | End::Lost(_) | End::Unreached(_) => {}
        }
        self.tried += 1;
        if self.tried < self.addresses.len() {
            return 0;
        }
        self.tried = 0;
        self.level = self.level.saturating_add(1);
        let (initial_ms, max_ms) = if std::mem::take(&mut self.refused) {
            (self.settings.refused_retry_ms, self.settings.refused_retry_ms)
        } else {
            (self.settings.reconnect_initial_ms, self.settings.reconnect_max_ms)
        };
        // Full jitter.
        self.jitter.up_to(Backoff { initial_ms, max_ms }.delay_ms(self.level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.into()).collect()
    }

    fn route(names: &[&str]) -> Route {
        Route::new(Settings::default(), list(names))
    }

    fn lost() -> End {
        End::Lost("x".into())
    }

    #[test]
    fn the_told_list_goes_before_the_configured_one_which_is_only_the_first_contact() {
        assert_eq!(
            addresses(&list(&["b:1", "c:1", "b:1"]), &list(&["a:1", "b:1", ""])),
            (list(&["b:1", "c:1"]), list(&["a:1"]))
        );
        assert_eq!(addresses(&[], &list(&["a:1", "b:1"])), (list(&["a:1", "b:1"]), vec![]));
        let many: Vec<String> = (0..20).map(|n| format!("c{n}:1")).collect();
        assert_eq!(addresses(&many, &[]).0.len(), MOST);
    }

    #[test]
    fn all_are_tried_before_a_wait_and_waits_grow() {
        let all = list(&["a:1", "b:1", "c:1"]);
        let mut route = route(&["a:1", "b:1", "c:1"]);
        let mut longest = 0;
        for round in 0..200_u32 {
            for (n, expected) in all.iter().enumerate() {
                assert_eq!(route.next().as_ref(), Some(expected));
                let pause = route.after(&lost(), false);
                if n < 2 {
                    assert_eq!(pause, 0);
                } else {
                    let ceiling = (250_u64 << round.min(20)).min(3_000);
                    assert!(pause <= ceiling, "round {round}: {pause}");
                    longest = longest.max(pause);
                }
            }
        }
        assert!(longest > 2_000, "the jitter is over the whole range: {longest}");
        route.next();
        route.after(&lost(), true);
        assert_eq!(route.level, 0, "a stable session makes it quick again");
        assert_eq!(Route::new(Settings::default(), vec![]).next(), None);
    }

    #[test]
    fn a_refusal_waits_longer() {
        let mut route = route(&["a:1"]);
        let longest = |route: &mut Route, end: &End| {
            (0..50)
                .map(|_| {
                    route.next();
                    route.after(end, true)
                })
                .max()
        };
        let goodbye = |reason| End::Goodbye {
            reason,
            message: String::new(),
        };
        for end in [
            End::Denied("x".into()),
            goodbye(Reason::Revoked),
            goodbye(Reason::Superseded),
        ] {
            assert!(longest(&mut route, &end).is_some_and(|p| p > 3_000), "{end:?}");
        }
        let gap = End::NotAccepted(crate::ledger::Saved::Refused(crate::ledger::Refusal::Gap {
            ours: 1,
            theirs: 2,
        }));
        let moved = End::NotAccepted(crate::ledger::Saved::Refused(crate::ledger::Refusal::Moved));
        for end in [goodbye(Reason::Shutdown), goodbye(Reason::Resync), gap, moved, lost()] {
            assert!(longest(&mut route, &end).is_some_and(|p| p <= 250), "{end:?}");
        }
    }
}
