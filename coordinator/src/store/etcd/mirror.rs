//! Which keys etcd has and at which versions, as far as the watch has told. Pure; changed by the stream alone.
//!
//! Invariant: what is published is what changes here, in the same order; so a difference between this and a list of etcd
//! is exactly what the readers in this process lack.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::layout::{Layout, MARKER, Ordinals, Version, unwrap};
use crate::store::{Rv, Update};

/// Versions of updates kept, to say which was the newest at a revision.
const RECENT: usize = 8_192;
/// Ordinals from here on are no transaction's: those of deletes that only a list has shown.
const SHOWN: u16 = 0x1000;
/// Key of the update that ends a relist, so that a reader that waits for a version gets there. It never exists.
pub(super) const RELISTED: &str = "meta/relisted";

/// One event below the data prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) inner: String,
    pub(super) revision: i64,
    /// As stored; `None`: deleted.
    pub(super) value: Option<Vec<u8>>,
}

/// One key of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) inner: String,
    pub(super) revision: i64,
    pub(super) version: Version,
    pub(super) value: Bytes,
}

/// All keys, true at one revision of etcd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List {
    pub(super) revision: i64,
    /// That of the marker; 0: there is none.
    pub(super) marker: i64,
    /// Sorted by their names in etcd.
    pub(super) entries: Vec<Listed>,
    /// Keys whose value is not ours.
    pub(super) foreign: Vec<String>,
}

/// What events come to.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// One for each transaction.
    pub(super) batches: Vec<Vec<Update>>,
    pub(super) foreign: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Mirror {
    layout: Layout,
    /// By name in etcd.
    keys: BTreeMap<String, (i64, Version)>,
    /// The history of terms, by the revision at which each began.
    terms: BTreeMap<i64, String>,
    /// All of etcd's history up to here is in it.
    position: i64,
    marker: i64,
    recent: VecDeque<Rv>,
    /// Readers in this process that are behind this must load again.
    floor: Rv,
}

impl Mirror {
    /// `newest`: the newest version at the list.
    pub(super) fn new(layout: Layout, list: &List, newest: Rv) -> Self {
        let mut all = Self {
            layout,
            keys: BTreeMap::new(),
            terms: BTreeMap::new(),
            position: list.revision,
            marker: list.marker,
            recent: VecDeque::from([newest]),
            floor: Rv(0),
        };
        for entry in &list.entries {
            all.set(&entry.inner, Some((entry.revision, entry.version)));
        }
        all
    }

    /// No reader begins before this.
    pub(super) fn from(mut self, floor: Rv) -> Self {
        self.floor = self.floor.max(floor);
        self
    }

    /// At which revision a key was written that has this version from another store.
    pub(super) fn kept(&self, inner: &str, rv: Rv) -> Option<i64> {
        let (revision, version) = self.keys.get(inner)?;
        (*version == Version::Kept(rv)).then_some(*revision)
    }

    pub(super) fn position(&self) -> i64 {
        self.position
    }

    /// Revision of the newest transaction that it has.
    pub(super) fn marker(&self) -> i64 {
        self.marker
    }

    pub(super) fn floor(&self) -> Rv {
        self.floor
    }

    /// Name in etcd of the term that began at a revision.
    pub(super) fn term_at(&self, revision: i64) -> Option<&str> {
        self.terms.get(&revision).map(String::as_str)
    }

    /// Newest update that the mirror has.
    pub(super) fn newest(&self) -> Rv {
        self.recent.back().copied().unwrap_or_default()
    }

    /// Newest update at a revision that the mirror has; `None`: too long ago.
    pub(super) fn newest_at(&self, revision: i64) -> Option<Rv> {
        let most = self.layout.rv(revision, u16::MAX);
        self.recent.iter().rev().find(|rv| **rv <= most).copied()
    }

    /// Takes in complete transactions. What it has already is dropped: etcd 3.4 may send events again.
    pub(super) fn apply(&mut self, events: Vec<Event>) -> Applied {
        let mut out = Applied::default();
        let before = self.position;
        let mut ordinals = Ordinals::default();
        for event in events {
            if event.revision <= before || event.revision < self.position {
                continue;
            }
            if event.revision > self.position {
                self.position = event.revision;
                ordinals = Ordinals::default();
                out.batches.push(Vec::new());
            }
            if event.inner == MARKER {
                self.marker = event.revision;
                continue;
            }
            let (ordinal, value) = match event.value {
                None => (ordinals.delete(), None),
                Some(stored) => match unwrap(&stored) {
                    Some((Version::Own(own), value)) => (ordinals.put(own), Some(value)),
                    // Written while the store was filled, which nobody watches.
                    Some((kept, _)) => {
                        self.set(&event.inner, Some((event.revision, kept)));
                        continue;
                    }
                    None => {
                        out.foreign.push(event.inner);
                        continue;
                    }
                },
            };
            let known = self
                .keys
                .get(&event.inner)
                .map_or(event.revision, |(revision, _)| *revision);
            let named_by = if value.is_some() { event.revision } else { known };
            let update = Update {
                rv: self.layout.rv(event.revision, ordinal),
                key: self.layout.shown(&event.inner, named_by),
                value,
            };
            let own = Version::Own(ordinal);
            let now = update.value.is_some().then_some((event.revision, own));
            self.set(&event.inner, now);
            self.remember(update.rv);
            if let Some(batch) = out.batches.last_mut() {
                batch.push(update);
            }
        }
        out.batches.retain(|b| !b.is_empty());
        out
    }

    /// Becomes as the list is, and says what a reader must be told for that: what was changed at its true version, what
    /// is gone at one just below the list's end.
    pub(super) fn replace(&mut self, list: List) -> Vec<Update> {
        let mut gone = std::mem::take(&mut self.keys);
        self.terms.clear();
        let mut changed = Vec::new();
        for entry in list.entries {
            let at = (entry.revision, entry.version);
            // What came from another store, every reader had when it began.
            if gone.remove(&entry.inner) != Some(at) && matches!(entry.version, Version::Own(_)) {
                changed.push(Update {
                    rv: self.layout.version(entry.revision, entry.version),
                    key: self.layout.shown(&entry.inner, entry.revision),
                    value: Some(entry.value),
                });
            }
            self.set(&entry.inner, Some(at));
        }
        changed.sort_by_key(|u| u.rv);
        let last = u16::MAX - 1;
        let first = usize::from(last).saturating_sub(gone.len());
        for (i, (inner, (revision, _))) in gone.into_iter().enumerate() {
            let ordinal = u16::try_from(first + i).unwrap_or(last).clamp(SHOWN, last);
            changed.push(Update {
                rv: self.layout.rv(list.revision, ordinal),
                key: self.layout.shown(&inner, revision),
                value: None,
            });
        }
        let end = self.layout.rv(list.revision, u16::MAX);
        changed.push(Update {
            rv: end,
            key: RELISTED.to_owned(),
            value: None,
        });
        self.position = self.position.max(list.revision);
        self.marker = list.marker;
        self.floor = end;
        self.remember(end);
        changed
    }

    /// Keys in which a list differs although the mirror has passed it, and what the mirror lacks: the latter may have
    /// been deleted since.
    pub(super) fn differences(&self, list: &List) -> (Vec<String>, Vec<(String, i64)>) {
        let (mut wrong, mut lacking) = (Vec::new(), Vec::new());
        let mut listed = BTreeMap::new();
        for entry in &list.entries {
            listed.insert(entry.inner.as_str(), entry.revision);
            match self.keys.get(&entry.inner) {
                None => lacking.push((entry.inner.clone(), entry.revision)),
                Some((revision, _)) if *revision > list.revision || *revision == entry.revision => {}
                Some(_) => wrong.push(entry.inner.clone()),
            }
        }
        let stale = |(key, (revision, _)): &(&String, &(i64, Version))| {
            *revision <= list.revision && !listed.contains_key(key.as_str())
        };
        wrong.extend(self.keys.iter().filter(stale).map(|(key, _)| key.clone()));
        (wrong, lacking)
    }

    #[cfg(test)]
    pub(super) fn forget(&mut self, keys: &[&str]) {
        self.keys.retain(|key, _| !keys.contains(&key.as_str()));
    }

    pub(super) fn has(&self, inner: &str) -> bool {
        self.keys.contains_key(inner)
    }

    fn set(&mut self, inner: &str, at: Option<(i64, Version)>) {
        let before = match at {
            Some(at) => self.keys.insert(inner.to_owned(), at),
            None => self.keys.remove(inner),
        };
        if inner.starts_with("terms/n-") {
            if let Some((revision, _)) = before {
                self.terms.remove(&revision);
            }
            if let Some((revision, _)) = at {
                self.terms.insert(revision, inner.to_owned());
            }
        }
    }

    fn remember(&mut self, rv: Rv) {
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(rv);
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
