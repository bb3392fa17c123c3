//! Which of two observed states is the later one. Used by the agent's reporter and the coordinator's ingest.
//!
//! Invariant: phase, attempt and restart count never go back; container states and conditions move both
//! ways, ordered by (generation of the node's identity, agent epoch, sequence).

use crate::model::PodStatus;

/// When an agent said something: its start count, then its message count. Both begin anew when the node's host joins
/// again; the coordinator then counts another generation, which agents know nothing of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub generation: u64,
    pub epoch: u64,
    pub seq: u64,
}

/// Whether `new` may replace `old`. False is a regression or a repeat: drop it.
pub fn supersedes(old: (Stamp, &PodStatus), new: (Stamp, &PodStatus)) -> bool {
    new.0 > old.0
        && new.1.phase >= old.1.phase
        && !(old.1.phase.is_final() && new.1.phase != old.1.phase)
        && restarts_hold(old.1, new.1)
}

fn restarts_hold(old: &PodStatus, new: &PodStatus) -> bool {
    old.container_statuses.iter().all(|o| {
        new.container_statuses
            .iter()
            .find(|n| n.name == o.name)
            .is_none_or(|n| n.restart_count >= o.restart_count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerStatus, Phase};

    fn status(phase: Phase, restarts: u32) -> PodStatus {
        let c = ContainerStatus {
            name: "c".into(),
            restart_count: restarts,
            ..ContainerStatus::default()
        };
        PodStatus {
            phase,
            container_statuses: vec![c],
            ..PodStatus::default()
        }
    }

    #[test]
    fn later_wins_and_nothing_goes_back() {
        let at = |epoch, seq| Stamp {
            epoch,
            seq,
            ..Stamp::default()
        };
        let old = status(Phase::Running, 2);
        for (stamp, new, expected) in [
            (at(1, 6), status(Phase::Running, 2), true),
            (at(2, 1), status(Phase::Running, 3), true),
            (at(1, 5), status(Phase::Running, 2), false),
            (at(1, 4), status(Phase::Failed, 2), false),
            (at(1, 6), status(Phase::Pending, 2), false),
            (at(1, 6), status(Phase::Running, 1), false),
            (at(1, 6), status(Phase::Failed, 2), true),
        ] {
            assert_eq!(
                supersedes((at(1, 5), &old), (stamp, &new)),
                expected,
                "{stamp:?} {new:?}"
            );
        }
        let next = Stamp {
            generation: 1,
            ..at(1, 1)
        };
        assert!(
            supersedes((at(9, 9), &old), (next, &old)),
            "a host that joined again counts its starts from one"
        );
        let ended = status(Phase::Failed, 2);
        assert!(!supersedes(
            (at(1, 5), &ended),
            (at(1, 6), &status(Phase::Succeeded, 2))
        ));
        assert!(supersedes((at(1, 5), &ended), (at(1, 6), &ended.clone())));
    }
}
