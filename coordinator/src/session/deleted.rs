//! What is left of a deleted node on its host, as its agent tells. Kept by `stream` for a session of such a node.
//!
//! Invariant: pure; nothing counts as gone that the agent has named and not been told to forget, or while its
//! Docker does not answer, for then it cannot know.

use std::collections::BTreeSet;

use proto::wire::{Hello, NodeFacts};

use crate::world::record::FactsRecord;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// By uid.
    pods: BTreeSet<String>,
    docker_ready: bool,
}

impl Left {
    pub fn new(hello: &Hello, facts: &FactsRecord) -> Self {
        Self {
            pods: hello.observed.iter().map(|o| o.uid.clone()).collect(),
            docker_ready: facts.docker_ready,
        }
    }

    pub fn hear(&mut self, facts: &NodeFacts) {
        self.docker_ready = facts.docker_ready;
    }

    /// A pod that is not the node's was reported; `stopped`: and its end was seen.
    pub fn see(&mut self, uid: &str, stopped: bool) {
        if stopped {
            self.pods.remove(uid);
        } else {
            self.pods.insert(uid.to_owned());
        }
    }

    /// The agent is told to forget these.
    pub fn forgot(&mut self, uids: &[String]) {
        for uid in uids {
            self.pods.remove(uid);
        }
    }

    pub fn is_nothing(&self) -> bool {
        self.docker_ready && self.pods.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proto::wire::Observed;

    use super::*;

    #[test]
    fn nothing_is_left_once_all_that_was_named_is_forgotten() {
        let observed = |uid: &str| Observed {
            uid: uid.into(),
            ..Observed::default()
        };
        let hello = Hello {
            observed: vec![observed("a"), observed("b")],
            ..Hello::default()
        };
        let facts = FactsRecord {
            docker_ready: true,
            ..FactsRecord::default()
        };
        let mut left = Left::new(&hello, &facts);
        assert!(!left.is_nothing());
        left.forgot(&["a".into()]);
        left.see("c", false);
        left.see("b", true);
        assert!(!left.is_nothing());
        left.see("c", true);
        assert!(left.is_nothing());
        left.hear(&NodeFacts::default());
        assert!(!left.is_nothing(), "an agent without Docker does not know what runs");
        let blind = Left::new(&Hello::default(), &FactsRecord::default());
        assert!(!blind.is_nothing());
    }
}
