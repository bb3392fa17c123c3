//! What the store in memory does about daemon sets: makes them as the api does, and knows where a daemon may come. Part
//! of `sim`.

use proto::model::{DaemonSet, DaemonSetSpec, Kind, Node, PodSelector, PodTemplate};

use super::{Sim, rc};
use crate::{
    store::{Change, Expect, keys},
    world::{
        Key,
        record::{PodRecord, StatusRecord},
    },
};

pub fn ds(namespace: &str, name: &str, uid: &str, template: PodTemplate) -> DaemonSet {
    DaemonSet {
        metadata: rc(namespace, name, uid, 0, template.clone()).metadata,
        spec: DaemonSetSpec {
            selector: PodSelector {
                match_labels: template.metadata.labels.clone(),
                ..PodSelector::default()
            },
            template,
            ..DaemonSetSpec::default()
        },
        status: None,
    }
}

impl Sim {
    pub fn put_ds(&mut self, set: &DaemonSet) {
        let key = keys::object(Kind::DaemonSet, &set.metadata.namespace, &set.metadata.name);
        self.put(key, set);
    }

    pub fn edit_ds(&mut self, at: &Key, f: impl FnOnce(&mut DaemonSet)) {
        let mut set = (*self.world.daemon_sets[at].set).clone();
        f(&mut set);
        self.put_ds(&set);
    }

    /// What the api does for `delete ds`.
    pub fn delete_ds(&mut self, at: &Key) {
        let keys = [
            keys::object(Kind::DaemonSet, &at.0, &at.1),
            keys::unplaced(&at.0, &at.1),
        ];
        let changes: Vec<_> = keys.into_iter().map(|k| Change::delete(k, Expect::Any)).collect();
        assert!(self.commit(&changes));
    }

    /// A daemon comes to a node that its set names, and beside none of its set that may run.
    pub(super) fn assert_daemon_lawful(&self, record: &PodRecord) {
        let owner = record.owner.as_ref().expect("an owner");
        let set = self.entries.iter().find_map(|(key, (_, value))| {
            let set: DaemonSet = key
                .starts_with("obj/daemonset/")
                .then(|| serde_json::from_slice(value).ok())??;
            (set.metadata.uid == owner.uid).then_some(set)
        });
        let set = set.expect("its set is there");
        let node = self.entries.get(&keys::object(Kind::Node, "", &record.node));
        let node: Node = serde_json::from_slice(&node.expect("its node is there").1).expect("a node");
        let mut wanted = set.spec.template.spec.node_selector.iter();
        assert!(
            wanted.all(|(k, v)| node.metadata.labels.get(k) == Some(v)),
            "{record:?}"
        );
        for (key, (_, value)) in self.entries.range("obj/pod/".to_owned().."obj/pod0".to_owned()) {
            let other: PodRecord = serde_json::from_slice(value).expect("a pod");
            let same = other.node == record.node && other.owner.is_some_and(|o| o.uid == owner.uid);
            let status = self.entries.get(&key.replacen("obj/", "status/", 1));
            let status: StatusRecord = status.map_or_else(StatusRecord::default, |(_, v)| {
                serde_json::from_slice(v).expect("a status")
            });
            let ended =
                status.uid == other.uid && (status.stopped || status.vanished || status.status.phase.is_final());
            assert!(!same || ended, "{record:?} beside {key}");
        }
    }
}
