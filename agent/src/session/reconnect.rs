//! Keeps a session open: which coordinator next, and how long to wait before. Started by [`crate::run`].
//!
//! Invariants: after each coordinator was tried once without success comes a random wait, so that a fleet does
//! not return in step; no answer of a coordinator ends this loop, for the containers need their agent.

use std::collections::BTreeSet;

use proto::{ids::IdGen, wire::goodbye::Reason};
use tokio::time::{Instant, sleep, timeout};

use super::{End, Links, run as run_session};
use crate::{
    settings::{Settings, ms},
    step::Backoff,
};

/// Standbys that may send on to another one before a wait.
const HOPS: u32 = 3;

/// Runs until the agent stops. `first` are the configured addresses.
pub async fn run(mut links: Links, first: Vec<String>) {
    let mut route = Route::new(links.worker.settings.clone());
    let stop = links.stop.clone();
    // Why no connection came about since the last one, so that an outage is said once and not each time.
    let mut unreached = BTreeSet::new();
    while !stop.is_cancelled() {
        let told = links.worker.keeper.current().coordinators.clone();
        let Some(address) = route.next(&addresses(&told, &first)) else {
            tracing::error!("no coordinator is known: give --coordinators HOST:PORT");
            return stop.cancelled().await;
        };
        let connector = links.connector.borrow_and_update().clone();
        let wait = ms(links.worker.settings.connect_timeout_ms);
        let connected = tokio::select! {
            () = stop.cancelled() => return,
            connected = timeout(wait, connector.connect(&address)) => connected,
        };
        let begun = Instant::now();
        let end = match connected {
            Ok(Ok(channel)) => {
                unreached.clear();
                run_session(&mut links, &address, channel).await
            }
            Ok(Err(why)) => End::Unreached(why),
            Err(_) => End::Unreached(format!("{address}: no connection within {} ms", wait.as_millis())),
        };
        if let End::Unreached(why) = &end
            && unreached.insert(why.clone())
        {
            tracing::warn!("cannot connect, goes on trying: {why}");
        }
        let was_active = links.contact.borrow().active;
        tell(&links, &address, &end);
        if end == End::Stopping {
            return;
        }
        let stable = was_active && begun.elapsed() >= ms(links.worker.settings.stable_after_ms);
        let pause = route.after(&end, stable);
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(ms(pause)) => {}
        }
    }
}

/// The told list first, then what was configured, each once.
fn addresses(told: &[String], first: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::with_capacity(told.len() + first.len());
    for address in told.iter().chain(first) {
        if !address.is_empty() && !all.contains(address) {
            all.push(address.clone());
        }
    }
    all
}

fn tell(links: &Links, coordinator: &str, end: &End) {
    let words = match end {
        End::Standby { leader } if leader.is_empty() => "a standby that knows no leader".into(),
        End::Standby { leader } => format!("a standby; the active one is {leader}"),
        End::Goodbye { reason, message } => format!("goodbye {}: {message}", reason.as_str_name()),
        End::NotAccepted(why) => why.to_string(),
        End::Denied(why) | End::Lost(why) | End::Unreached(why) => why.clone(),
        End::Renewed => "the certificate was renewed".into(),
        End::Stopping => "the agent stops".into(),
    };
    match end {
        // Said by the caller, once.
        End::Unreached(_) => {}
        End::Standby { .. } | End::Renewed | End::Stopping => tracing::info!(coordinator, "session ended: {words}"),
        End::Goodbye { .. } | End::Lost(_) => tracing::warn!(coordinator, "session ended: {words}"),
        End::NotAccepted(_) | End::Denied(_) => {
            links.worker.metrics.refusals.inc();
            tracing::error!(coordinator, "session ended: {words}; all containers keep running");
        }
    }
    links.contact.send_modify(|c| {
        c.address = None;
        c.active = false;
        c.last_error = words;
    });
}

/// Chooses addresses and waits. Without I/O; the only randomness is its own.
struct Route {
    settings: Settings,
    jitter: IdGen,
    next: usize,
    /// Named by a standby.
    leader: Option<String>,
    hops: u32,
    /// Failures since the last wait, and waits in a row.
    tried: usize,
    known: usize,
    level: u32,
    refused: bool,
}

impl Route {
    fn new(settings: Settings) -> Self {
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        Self {
            settings,
            jitter: IdGen::new(seed),
            next: 0,
            leader: None,
            hops: 0,
            tried: 0,
            known: 0,
            level: 0,
            refused: false,
        }
    }

    fn next(&mut self, addresses: &[String]) -> Option<String> {
        self.known = addresses.len();
        if let Some(leader) = self.leader.take() {
            return Some(leader);
        }
        let address = addresses.get(self.next % addresses.len().max(1))?.clone();
        self.next = self.next.wrapping_add(1);
        Some(address)
    }

    /// Milliseconds to wait before the next session.
    fn after(&mut self, end: &End, stable: bool) -> u64 {
        if stable {
            self.level = 0;
            self.tried = 0;
            self.hops = 0;
        }
        match end {
            End::Renewed | End::Stopping => return 0,
            End::Standby { leader } if !leader.is_empty() && self.hops < HOPS => {
                self.hops += 1;
                self.leader = Some(leader.clone());
                return 0;
            }
            End::Goodbye {
                reason: Reason::Superseded | Reason::Revoked | Reason::Protocol,
                ..
            }
            | End::Denied(_) => self.refused = true,
            End::NotAccepted(why) => self.refused |= !matches!(why, crate::ledger::Saved::Refused(r) if r.is_gap()),
            End::Standby { .. } | End::Goodbye { .. } | End::Lost(_) | End::Unreached(_) => {}
        }
        self.tried += 1;
        if self.tried < self.known {
            return 0;
        }
        self.tried = 0;
        self.hops = 0;
        self.level = self.level.saturating_add(1);
        let (initial_ms, max_ms) = if std::mem::take(&mut self.refused) {
            (self.settings.refused_retry_ms, self.settings.refused_retry_ms)
        } else {
            (self.settings.reconnect_initial_ms, self.settings.reconnect_max_ms)
        };
        let ceiling = Backoff { initial_ms, max_ms }.delay_ms(self.level);
        // Full jitter.
        self.jitter.next_u64() % ceiling.saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.into()).collect()
    }

    fn lost() -> End {
        End::Lost("x".into())
    }

    #[test]
    fn the_told_list_goes_first() {
        assert_eq!(
            addresses(&list(&["b:1", "c:1"]), &list(&["a:1", "b:1", ""])),
            list(&["b:1", "c:1", "a:1"])
        );
    }

    #[test]
    fn all_are_tried_before_a_wait_and_waits_grow() {
        let mut route = Route::new(Settings::default());
        let all = list(&["a:1", "b:1", "c:1"]);
        let mut longest = 0;
        for round in 0..200_u32 {
            for (n, expected) in all.iter().enumerate() {
                assert_eq!(route.next(&all).as_ref(), Some(expected));
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
        route.next(&all);
        route.after(&lost(), true);
        assert_eq!(route.level, 0, "a stable session makes it quick again");
        assert_eq!(route.next(&[]), None);
    }

    #[test]
    fn a_standby_sends_on_but_not_in_circles() {
        let mut route = Route::new(Settings::default());
        let all = list(&["a:1", "b:1"]);
        let to = |leader: &str| End::Standby { leader: leader.into() };
        assert_eq!(route.next(&all).as_deref(), Some("a:1"));
        assert_eq!(route.after(&to("b:1"), false), 0);
        assert_eq!(route.next(&all).as_deref(), Some("b:1"));
        let mut quick = 0;
        while route.level == 0 {
            route.after(&to("a:1"), false);
            route.next(&all);
            quick += 1;
        }
        assert!(quick <= 6, "{quick}");
    }

    #[test]
    fn a_refusal_waits_longer() {
        let mut route = Route::new(Settings::default());
        let all = list(&["a:1"]);
        let longest = |route: &mut Route, end: &End| {
            (0..50)
                .map(|_| {
                    route.next(&all);
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
        for end in [goodbye(Reason::Shutdown), goodbye(Reason::Resync), gap, lost()] {
            assert!(longest(&mut route, &end).is_some_and(|p| p <= 250), "{end:?}");
        }
    }
}
