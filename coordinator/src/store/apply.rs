//! What a logical commit means, whatever keeps the data: limits, fence, expectations, versions. Called by
//! [`super::memory`] and the SQLite writer, which bring their tables.
//!
//! Invariant: a commit is judged as a whole before its first write, so a refused one leaves no trace and
//! needs no undoing; only a failing table can stop it halfway, and then the whole transaction is undone.

use std::collections::HashSet;

use bytes::Bytes;

use super::{
    Change, CommitError, Committed, Expect, Fence, MAX_BYTES, MAX_CHANGES, Rv, Update,
    contest::Claim,
    keys::{self, TermRecord},
};

/// Most updates of one transaction: the ordinal has 16 bits.
pub(super) const MAX_ORDINALS: usize = u16::MAX as usize;

/// The current state inside an open transaction; it shows the transaction's own writes.
pub(super) trait Tables {
    type Error;
    fn version(&mut self, key: &str) -> Result<Option<Rv>, Self::Error>;
    fn get(&mut self, key: &str) -> Result<Option<(Rv, Bytes)>, Self::Error>;
    /// Sets the key's state (`None`: deletes it) and appends to the log.
    fn write(&mut self, rv: Rv, key: &str, value: Option<&Bytes>) -> Result<(), Self::Error>;
}

/// Keys and values of one commit, in bytes.
pub(super) fn size(changes: &[Change]) -> usize {
    changes
        .iter()
        .map(|c| c.key.len() + c.value.as_ref().map_or(0, Bytes::len))
        .sum()
}

/// What can be refused without looking at the data.
pub(super) fn check_limits(changes: &[Change]) -> Result<(), CommitError> {
    let bytes = size(changes);
    if changes.len() > MAX_CHANGES || bytes > MAX_BYTES {
        return Err(CommitError::TooLarge {
            changes: changes.len(),
            bytes,
        });
    }
    let mut seen = HashSet::with_capacity(changes.len());
    match changes.iter().find(|c| !seen.insert(c.key.as_str())) {
        Some(twice) => Err(CommitError::DuplicateKey(twice.key.clone())),
        None => Ok(()),
    }
}

/// One transaction, which is one revision: the updates of a whole group of logical commits.
pub(super) struct Batch {
    revision: u64,
    /// Newest version before this transaction.
    before: Rv,
    pub(super) updates: Vec<Update>,
    /// The `term` record, read at most once: only [`Batch::write`] can change it meanwhile.
    term: Option<Option<(u64, Option<TermRecord>)>>,
}

impl Batch {
    /// `revision` counts from `base` on.
    pub(super) fn new(revision: u64, before: Rv) -> Self {
        Self {
            revision,
            before,
            updates: Vec::new(),
            term: None,
        }
    }

    /// Newest version so far.
    pub(super) fn newest(&self) -> Rv {
        self.updates.last().map_or(self.before, |u| u.rv)
    }

    /// Applies one logical commit whose limits were checked. The outer error is the tables' own: then nothing
    /// of the transaction may stay.
    pub(super) fn commit<T: Tables>(
        &mut self,
        tables: &mut T,
        fence: &Fence,
        changes: Vec<Change>,
    ) -> Result<Result<Committed, CommitError>, T::Error> {
        if let Some(refused) = self.fenced(tables, fence)? {
            return Ok(Err(refused));
        }
        let mut present = Vec::with_capacity(changes.len());
        for change in &changes {
            let actual = tables.version(&change.key)?;
            let holds = match change.expect {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::At(rv) => actual == Some(rv),
            };
            if !holds {
                return Ok(Err(CommitError::Conflict {
                    key: change.key.clone(),
                    expected: change.expect,
                    actual,
                }));
            }
            present.push(actual.is_some());
        }
        let mut rvs = Vec::with_capacity(changes.len());
        for (change, present) in changes.into_iter().zip(present) {
            if change.value.is_some() || present {
                self.write(tables, change.key, change.value)?;
            }
            rvs.push(self.newest());
        }
        Ok(Ok(Committed { rvs }))
    }

    /// Writes `term` and `terms/<term>`; meant for a transaction of its own.
    pub(super) fn take_term<T: Tables>(
        &mut self,
        tables: &mut T,
        incarnation: &str,
        holder: &str,
    ) -> Result<Fence, T::Error> {
        self.begin_term(
            tables,
            &Claim {
                incarnation: incarnation.to_owned(),
                holder: holder.to_owned(),
                coordinator: String::new(),
                address: String::new(),
            },
        )
    }

    /// As [`Batch::take_term`], if the present term is `over`.
    pub(super) fn take_over<T: Tables>(
        &mut self,
        tables: &mut T,
        over: Option<u64>,
        claim: &Claim,
    ) -> Result<Result<Fence, CommitError>, T::Error> {
        let current = tables.version(keys::TERM)?.map(Rv::revision);
        if current != over {
            return Ok(Err(CommitError::Fenced {
                ours: over.unwrap_or(0),
                current: current.unwrap_or(0),
            }));
        }
        self.begin_term(tables, claim).map(Ok)
    }

    fn begin_term<T: Tables>(&mut self, tables: &mut T, claim: &Claim) -> Result<Fence, T::Error> {
        let record = TermRecord {
            incarnation: claim.incarnation.clone(),
            nonce: uuid::Uuid::new_v4().simple().to_string(),
            holder: claim.holder.clone(),
            coordinator: claim.coordinator.clone(),
            address: claim.address.clone(),
        };
        // Some strings always serialize.
        let value = Bytes::from(serde_json::to_vec(&record).unwrap_or_default());
        self.write(tables, keys::TERM.to_owned(), Some(value.clone()))?;
        self.write(tables, keys::term_history(self.revision), Some(value))?;
        Ok(Fence {
            incarnation: record.incarnation.into(),
            term: self.revision,
            nonce: record.nonce.into(),
        })
    }

    /// The refusal of what comes under this fence, if it is not the present one.
    pub(super) fn fenced<T: Tables>(&mut self, tables: &mut T, fence: &Fence) -> Result<Option<CommitError>, T::Error> {
        if self.term.is_none() {
            let found = tables.get(keys::TERM)?;
            // An unreadable record matches no fence; the next take_term replaces it.
            self.term = Some(found.map(|(rv, value)| (rv.revision(), serde_json::from_slice(&value).ok())));
        }
        let current = self.term.as_ref().and_then(Option::as_ref);
        let holds = matches!(current, Some((term, Some(record)))
            if *term == fence.term && *record.incarnation == *fence.incarnation && *record.nonce == *fence.nonce);
        Ok((!holds).then(|| CommitError::Fenced {
            ours: fence.term,
            current: current.map_or(0, |(term, _)| *term),
        }))
    }

    fn write<T: Tables>(&mut self, tables: &mut T, key: String, value: Option<Bytes>) -> Result<(), T::Error> {
        debug_assert!(
            self.updates.len() < MAX_ORDINALS,
            "the caller closes a full transaction"
        );
        let ordinal = u16::try_from(self.updates.len()).unwrap_or(u16::MAX);
        let rv = Rv::new(self.revision, ordinal);
        tables.write(rv, &key, value.as_ref())?;
        if key == keys::TERM {
            self.term = None;
        }
        self.updates.push(Update { rv, key, value });
        Ok(())
    }
}
