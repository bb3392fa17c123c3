//! A node that was confirmed off and is heard again: what its agent still runs of before is stopped, and only then is
//! the node one that takes pods. Kept by `stream` for the session of such a node.
//!
//! Invariant: pure; the node's record is not taken back while a stop of before is not seen to its end, whatever became
//! of the pod's record meanwhile.

use std::collections::BTreeSet;

use proto::wire::Stop;

use super::assignments::{Desired, Wanted};
use crate::{store::Rv, world::World};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Back {
    /// Pods whose end was reported in this session.
    ended: BTreeSet<String>,
}

impl Back {
    pub fn see(&mut self, uid: &str, stopped: bool) {
        if stopped {
            self.ended.insert(uid.to_owned());
        }
    }

    /// Stops that were told and are not in `wanted` any more, the records of their pods being gone, and whose end was
    /// not seen.
    pub fn unseen(&self, sent: &Desired, wanted: &Desired) -> Vec<Stop> {
        let gone = sent
            .iter()
            .filter(|(uid, _)| !wanted.contains_key(*uid) && !self.ended.contains(*uid));
        gone.filter_map(|(_, entry)| match entry {
            Wanted::Stop(stop) => Some(stop.clone()),
            Wanted::Run(_) => None,
        })
        .collect()
    }
}

/// Version of the word that the node is off, if the world waits for no pod of it any more: those that are left are
/// bound to the data on it.
pub fn nothing_awaited(world: &World, node: &str) -> Option<Rv> {
    let off = world.nodes.get(node)?.off.as_ref()?.rv;
    let mut pods = world.pods_on(node);
    pods.all(|(_, pod)| !pod.stopping() && pod.bound_by_data().is_some())
        .then_some(off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_kept_up_until_its_end_is_seen() {
        let stop = |uid: &str| {
            let stop = Stop {
                uid: uid.into(),
                ..Stop::default()
            };
            (uid.to_owned(), Wanted::Stop(stop))
        };
        let sent = Desired::from([stop("a"), stop("b"), stop("c")]);
        let mut back = Back::default();
        back.see("b", true);
        back.see("c", false);
        let unseen: Vec<String> = back
            .unseen(&sent, &Desired::from([stop("a")]))
            .into_iter()
            .map(|s| s.uid)
            .collect();
        assert_eq!(unseen, ["c"]);
    }
}
