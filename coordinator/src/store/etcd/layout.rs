//! What lies where below the prefix, and how a value is wrapped. Pure; called by all of the etcd store.
//!
//! | key below the prefix | what |
//! |---|---|
//! | `data/<key of the store>` | a value in its envelope; all that load and watch cover |
//! | `data/terms/n-<nonce>` | a leadership in the history of terms: its number is known only after the transaction |
//! | `data/~last` | the marker: which transaction was the last; first event of each one |
//! | `beat` | changed by who leads; in no watch |
//! | `upkeep` | what the newest version was, from when the history may be gone |
//! | `base`, `schema` | what versions count from, where it was filled from another store; format of all this |
//! | `importing` | there while it is filled: nobody else opens it |
//!
//! Invariant: the version of an entry follows from the entry alone, and the version of an event from the events before
//! it in its transaction, so that everybody who reads the same history has the same versions.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::store::Rv;

/// Format of what lies below the prefix.
pub(super) const SCHEMA: u32 = 1;
/// First byte of each value.
const ENVELOPE: u8 = 1;
/// Format and ordinal.
const HEAD: usize = 3;
/// First byte of a value that came from another store.
const KEPT: u8 = 2;
/// Format and version.
const KEPT_HEAD: usize = 9;

/// Sorts after every key of the store, which are lower-case words.
pub(super) const MARKER: &str = "~last";
const TERMS: &str = "terms/";
const BY_NONCE: &str = "terms/n-";
/// All of the history of terms comes before this.
const TERMS_END: &str = "terms0";

/// Which version a stored value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// That of its transaction, at this place in it.
    Own(u16),
    /// It came from another store with this one, and was not written since.
    Kept(Rv),
}

#[derive(Clone, Debug)]
pub(super) struct Layout {
    prefix: String,
    data: String,
    /// Added to etcd's revisions; the same one in all clones.
    base: Arc<AtomicU64>,
}

impl Layout {
    /// `prefix` ends in a slash.
    pub(super) fn new(prefix: &str, base: u64) -> Self {
        Self {
            prefix: prefix.to_owned(),
            data: format!("{prefix}data/"),
            base: Arc::new(AtomicU64::new(base)),
        }
    }

    fn base(&self) -> u64 {
        self.base.load(Ordering::Acquire)
    }

    /// For the one process that fills a store: before, no version was handed out.
    pub(super) fn rebase(&self, base: u64) {
        self.base.store(base, Ordering::Release);
    }

    pub(super) fn beat(&self) -> String {
        format!("{}{}", self.prefix, crate::store::contest::BEAT)
    }

    pub(super) fn upkeep(&self) -> String {
        format!("{}upkeep", self.prefix)
    }

    pub(super) fn base_key(&self) -> String {
        format!("{}base", self.prefix)
    }

    pub(super) fn schema_key(&self) -> String {
        format!("{}schema", self.prefix)
    }

    pub(super) fn importing_key(&self) -> String {
        format!("{}importing", self.prefix)
    }

    /// Where a key of the store lies.
    pub(super) fn data(&self, key: &str) -> String {
        format!("{}{key}", self.data)
    }

    pub(super) fn marker(&self) -> String {
        self.data(MARKER)
    }

    /// Where the history has the term that began with this nonce.
    pub(super) fn term_by_nonce(&self, nonce: &str) -> String {
        self.data(&format!("{BY_NONCE}{nonce}"))
    }

    /// First and one after the last of what load and watch cover.
    pub(super) fn range(&self) -> (String, String) {
        (self.data.clone(), format!("{}data0", self.prefix))
    }

    /// What is below [`Self::data`], if it is.
    pub(super) fn inner<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        std::str::from_utf8(key.strip_prefix(self.data.as_bytes())?).ok()
    }

    pub(super) fn rv(&self, revision: i64, ordinal: u16) -> Rv {
        Rv::new(
            self.base().saturating_add(u64::try_from(revision).unwrap_or(0)),
            ordinal,
        )
    }

    /// Of a value that was written at `revision`.
    pub(super) fn version(&self, revision: i64, version: Version) -> Rv {
        match version {
            Version::Own(ordinal) => self.rv(revision, ordinal),
            Version::Kept(rv) => rv,
        }
    }

    /// etcd's revision of a version; none: it is from before this store.
    pub(super) fn revision(&self, rv: Rv) -> Option<i64> {
        let revision = rv.revision().checked_sub(self.base())?;
        i64::try_from(revision).ok().filter(|r| *r > 0)
    }

    pub(super) fn term(&self, revision: i64) -> u64 {
        self.rv(revision, 0).revision()
    }

    pub(super) fn term_revision(&self, term: u64) -> Option<i64> {
        self.revision(Rv::new(term, 0))
    }

    /// The name that readers know, of an entry last written at `revision`.
    pub(super) fn shown(&self, inner: &str, revision: i64) -> String {
        if inner.starts_with(BY_NONCE) {
            crate::store::keys::term_history(self.term(revision))
        } else {
            inner.to_owned()
        }
    }

    /// The revision at which a term began, where a key names one of the history.
    pub(super) fn term_of(&self, key: &str) -> Option<i64> {
        let digits = key.strip_prefix(TERMS)?;
        let term = u64::from_str_radix(digits, 16).ok()?;
        (crate::store::keys::term_history(term) == key).then(|| self.term_revision(term))?
    }
}

/// Whether a span of keys touches the history of terms, whose names are not those in etcd.
pub(super) fn touches_terms(from: &str, until: &str) -> bool {
    from < TERMS_END && until > TERMS
}

/// First and one after the last key of the history of terms.
pub(super) fn terms_range() -> (&'static str, &'static str) {
    (TERMS, TERMS_END)
}

pub(super) fn wrap(ordinal: u16, value: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(HEAD + value.len());
    out.put_u8(ENVELOPE);
    out.put_u16(ordinal);
    out.put_slice(value);
    out.into()
}

/// As [`wrap`], of what keeps the version that it had in another store.
pub(super) fn wrap_kept(rv: Rv, value: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::with_capacity(KEPT_HEAD + value.len());
    out.put_u8(KEPT);
    out.put_u64(rv.0);
    out.put_slice(value);
    out.into()
}

/// Version and value; none: this release did not write it.
pub(super) fn unwrap(stored: &[u8]) -> Option<(Version, Bytes)> {
    let (version, value) = match *stored.first()? {
        ENVELOPE => {
            let (head, value) = stored.split_at_checked(HEAD)?;
            let [_, high, low] = *head else { return None };
            (Version::Own(u16::from_be_bytes([high, low])), value)
        }
        KEPT => {
            let (head, value) = stored.split_at_checked(KEPT_HEAD)?;
            let rv = head.get(1..)?.try_into().ok()?;
            (Version::Kept(Rv(u64::from_be_bytes(rv))), value)
        }
        _ => return None,
    };
    Some((version, Bytes::copy_from_slice(value)))
}

/// Gives the events of one transaction their ordinals: a put says its own, which counts all changes that were asked
/// for; a delete has none and comes right after the event before it. So whoever wrote them, knowing which were applied,
/// and whoever watches have the same, and they rise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ordinals {
    next: u16,
}

impl Ordinals {
    pub(super) fn put(&mut self, own: u16) -> u16 {
        self.next = own.saturating_add(1);
        own
    }

    pub(super) fn delete(&mut self) -> u16 {
        self.put(self.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn terms_are_shown_by_number_and_found_again() {
        let layout = Layout::new("/w/", 1000);
        assert_eq!(layout.shown("terms/n-abc", 5), "terms/00000000000003ed");
        assert_eq!(layout.term_of("terms/00000000000003ed"), Some(5));
        for other in ["terms/3ed", "terms/", "terms/n-abc", "term", "terms/0000000000000001"] {
            assert_eq!(layout.term_of(other), None, "{other}");
        }
        assert_eq!(layout.shown("obj/pod/a/b", 5), "obj/pod/a/b");
    }

    #[test]
    fn versions_count_from_the_base() {
        let layout = Layout::new("/w/", 1000);
        assert_eq!(layout.rv(7, 3), Rv::new(1007, 3));
        assert_eq!(layout.revision(Rv::new(1007, 3)), Some(7));
        for before in [Rv(0), Rv::new(1000, 9), Rv::new(3, 0)] {
            assert_eq!(layout.revision(before), None, "{before}");
        }
        // What came from another store keeps its own, wherever it was written.
        assert_eq!(layout.version(7, Version::Own(3)), Rv::new(1007, 3));
        assert_eq!(layout.version(7, Version::Kept(Rv::new(3, 9))), Rv::new(3, 9));
        let other = layout.clone();
        other.rebase(5000);
        assert_eq!(layout.rv(7, 3), Rv::new(5007, 3));
    }

    #[test]
    fn what_load_and_watch_cover_leaves_the_beat_out() {
        let layout = Layout::new("/w/", 0);
        let (from, until) = layout.range();
        let covered = |key: &str| (from.as_str()..until.as_str()).contains(&key);
        for key in [
            layout.marker(),
            layout.data("term"),
            layout.data("ä"),
            layout.term_by_nonce("x"),
        ] {
            assert!(covered(&key), "{key}");
            assert!(layout.inner(key.as_bytes()).is_some());
        }
        let (base, schema, importing) = (layout.base_key(), layout.schema_key(), layout.importing_key());
        for key in [layout.beat(), layout.upkeep(), base, schema, importing] {
            assert!(!covered(&key), "{key}");
            assert_eq!(layout.inner(key.as_bytes()), None);
        }
    }

    #[test]
    fn a_foreign_value_is_no_value() {
        let value = || Bytes::from_static(b"v");
        assert_eq!(unwrap(&wrap(513, b"v")), Some((Version::Own(513), value())));
        let kept = Rv::new(1 << 40, 7);
        assert_eq!(unwrap(&wrap_kept(kept, b"v")), Some((Version::Kept(kept), value())));
        for foreign in [&b""[..], b"\x01\x00", b"\x02\x00\x00v", b"{}"] {
            assert_eq!(unwrap(foreign), None, "{foreign:?}");
        }
    }

    proptest! {
        /// Whatever of a transaction is applied, its versions rise and nobody gets one twice.
        #[test]
        fn ordinals_rise(ops in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..200)) {
            let mut ordinals = Ordinals::default();
            let mut last = None;
            for (i, (put, applied)) in ops.into_iter().enumerate() {
                if !applied { continue }
                let own = u16::try_from(i).unwrap();
                let got = if put { ordinals.put(own) } else { ordinals.delete() };
                prop_assert!(got <= own);
                prop_assert!(last.is_none_or(|l| got > l));
                last = Some(got);
            }
        }
    }
}
