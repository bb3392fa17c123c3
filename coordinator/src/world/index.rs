//! The indices over pods, and what the pods of a node take together. Called by the module above for each update.
//!
//! Invariant: what is taken out is what was put in: a pod is taken out as it stood before it changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proto::model::Protocol;

use super::{Amounts, Key, PodState, World};

impl World {
    pub(super) fn usage_of(&self, node: &str) -> (Amounts, BTreeMap<(u16, Protocol), u32>, u32) {
        let (mut used, mut ports, mut replaced) = (Amounts::default(), BTreeMap::new(), 0);
        for (_, pod) in self.pods_on(node) {
            count(&mut used, &mut ports, pod, true);
            replaced += u32::from(pod.lost());
        }
        (used, ports, replaced)
    }

    pub(super) fn index(&mut self, key: &Key, pod: &PodState) {
        let record = &pod.record;
        self.pods_by_uid.insert(record.uid.clone(), key.clone());
        self.pods_by_template
            .entry(record.template.clone())
            .or_default()
            .insert(key.clone());
        if let Some(owner) = &record.owner {
            self.pods_by_owner
                .entry(owner.uid.clone())
                .or_default()
                .insert(key.clone());
        }
        if record.owner.is_none() {
            self.bare.insert(key.clone());
        }
        if let Some(replaces) = &record.replaces {
            let of = &mut self.replacements;
            of.entry(replaces.uid.clone()).or_default().insert(key.clone());
            let from = &mut self.replacing;
            from.entry(replaces.node.clone()).or_default().insert(key.clone());
        }
        self.selection.pod(key, record, true);
        if record.node.is_empty() {
            if !pod.stopping() {
                self.unplaced.insert(key.clone());
            }
        } else {
            self.pods_by_node
                .entry(record.node.clone())
                .or_default()
                .insert(key.clone());
        }
        self.count_pod(pod, true);
    }

    pub(super) fn unindex(&mut self, key: &Key, pod: &PodState) {
        let record = &pod.record;
        self.pods_by_uid.remove(&record.uid);
        drop_from(&mut self.pods_by_template, &record.template, key);
        if let Some(owner) = &record.owner {
            drop_from(&mut self.pods_by_owner, &owner.uid, key);
        }
        drop_from(&mut self.pods_by_node, &record.node, key);
        if let Some(replaces) = &record.replaces {
            drop_from(&mut self.replacements, &replaces.uid, key);
            drop_from(&mut self.replacing, &replaces.node, key);
        }
        self.bare.remove(key);
        self.selection.pod(key, record, false);
        self.unplaced.remove(key);
        self.count_pod(pod, false);
    }

    pub(super) fn count_pod(&mut self, pod: &PodState, add: bool) {
        if let Some(node) = self.nodes.get_mut(&pod.record.node) {
            count(&mut node.used, &mut node.ports, pod, add);
            if pod.lost() {
                node.replaced = if add {
                    node.replaced + 1
                } else {
                    node.replaced.saturating_sub(1)
                };
            }
        }
    }
}

fn count(used: &mut Amounts, ports: &mut BTreeMap<(u16, Protocol), u32>, pod: &PodState, add: bool) {
    let Some(template) = pod.template.as_ref().filter(|_| pod.occupies()) else {
        return;
    };
    if add {
        used.add(template.request);
    } else {
        used.sub(template.request);
    }
    for port in pod.host_ports() {
        if add {
            *ports.entry(port).or_default() += 1;
        } else if let Some(n) = ports.get_mut(&port) {
            *n -= 1;
            if *n == 0 {
                ports.remove(&port);
            }
        }
    }
}

fn drop_from(index: &mut HashMap<String, BTreeSet<Key>>, at: &str, key: &Key) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}
