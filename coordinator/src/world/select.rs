//! Which pods of a namespace a selector chooses, without a look at all of them. Kept by `World::apply`, asked by the
//! scheduler and by the check of its plans.
//!
//! Invariant: a pod has its template's labels unless its record says otherwise, so that a template is judged once for
//! all its pods, and only the pods with other labels one by one.

use std::collections::{BTreeSet, HashMap};

use proto::model::PodSelector;

use super::{
    Key, PodState, Template, World,
    record::{Differences, PodRecord},
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Label key → value → hashes of the templates that have it.
    templates: HashMap<String, HashMap<String, BTreeSet<String>>>,
    /// Pods whose labels are not their template's.
    relabelled: BTreeSet<Key>,
}

impl Index {
    pub(super) fn template(&mut self, hash: &str, old: Option<&Template>, new: Option<&Template>) {
        for (key, value) in old.iter().flat_map(|t| &t.record.labels) {
            let Some(values) = self.templates.get_mut(key) else {
                continue;
            };
            if let Some(hashes) = values.get_mut(value) {
                hashes.remove(hash);
                if hashes.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.templates.remove(key);
            }
        }
        for (key, value) in new.iter().flat_map(|t| &t.record.labels) {
            let values = self.templates.entry(key.clone()).or_default();
            values.entry(value.clone()).or_default().insert(hash.to_owned());
        }
    }

    pub(super) fn pod(&mut self, key: &Key, record: &PodRecord, add: bool) {
        if record.labels.is_empty() {
            return;
        }
        if add {
            self.relabelled.insert(key.clone());
        } else {
            self.relabelled.remove(key);
        }
    }
}

/// Whether a selector may count the pod elsewhere, or no longer, or anew.
pub(super) fn moved(old: Option<&PodRecord>, new: Option<&PodRecord>) -> bool {
    fn seen(r: &PodRecord) -> (&str, &str, &Differences, bool) {
        (&r.uid, &r.node, &r.labels, r.stop.is_some())
    }
    old.map(seen) != new.map(seen)
}

impl World {
    /// The namespace's pods that the selector chooses, in no fixed order.
    pub fn selected<'a>(
        &'a self,
        namespace: &'a str,
        selector: &'a PodSelector,
    ) -> impl Iterator<Item = &'a PodState> + 'a {
        let hashes: Vec<&String> = match selector.pinned() {
            None => self.templates.keys().collect(),
            Some((key, values)) => {
                let known = self.selection.templates.get(key);
                let values: BTreeSet<&str> = values.into_iter().collect();
                let of = values.into_iter().filter_map(|v| known?.get(v));
                of.flatten().collect()
            }
        };
        let as_made = hashes
            .into_iter()
            .filter(move |hash| {
                let template = self.templates.get(*hash);
                template.is_some_and(|t| selector.matches(|k| t.record.labels.get(k).map(String::as_str)))
            })
            .filter_map(|hash| self.pods_by_template.get(hash))
            .flat_map(move |keys| self.in_namespace(keys, namespace))
            .filter(|pod| pod.record.labels.is_empty());
        let relabelled = self.in_namespace(&self.selection.relabelled, namespace);
        as_made.chain(relabelled.filter(move |pod| selector.matches(|k| pod.label(k))))
    }

    fn in_namespace<'a>(
        &'a self,
        keys: &'a BTreeSet<Key>,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a PodState> + 'a {
        keys.range((namespace.to_owned(), String::new())..)
            .take_while(move |key| key.0 == namespace)
            .filter_map(|key| self.pods.get(key))
    }
}
