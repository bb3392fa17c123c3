//! Terms and beats in etcd. Called through [`Contest`] and by `Store::take_term`.
//!
//! Invariant: a term begins by one transaction that compares the record of the term that it ends; sent again it finds its
//! own nonce, so it begins at most once.

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, KvClient, Txn, TxnOp};

use super::{
    EtcdStore, Shared,
    client::Failure,
    layout::{self, unwrap, wrap},
    reader::{Raw, raws},
};
use crate::store::{
    CommitError, Fence, ReadError,
    contest::{Claim, Contest, Look},
    keys::{self, TermRecord},
};

impl Shared {
    /// The term's record and the beat, both true at one moment.
    pub(super) async fn present(&self) -> Result<(Option<Raw>, Option<Raw>), Failure> {
        let keys = [self.layout.data(keys::TERM), self.layout.beat()];
        let mut found = self
            .read_keys_with(&keys, None, (self.options.beat_deadline, self.options.beat_patience))
            .await?
            .into_iter();
        Ok((found.next().flatten(), found.next().flatten()))
    }

    /// Begins a term over the one whose record has this revision; 0: over none.
    pub(super) async fn begin(&self, over: i64, record: TermRecord) -> Result<Fence, CommitError> {
        let (term, marker) = (self.layout.data(keys::TERM), self.layout.marker());
        let (base, importing, start) = (self.layout.base_key(), self.layout.importing_key(), self.start());
        // Strings always serialize.
        let value = serde_json::to_vec(&record).unwrap_or_default();
        let id = uuid::Uuid::new_v4();
        let txn = Txn::new()
            .when([
                Compare::mod_revision(term.as_str(), CompareOp::Equal, over),
                // Who opened it before it was filled counts versions from elsewhere.
                Compare::mod_revision(base.as_str(), CompareOp::Equal, start.revision),
                Compare::mod_revision(importing.as_str(), CompareOp::Equal, 0),
            ])
            .and_then([
                TxnOp::put(marker, wrap(0, id.as_bytes()), None),
                TxnOp::put(term.as_str(), wrap(0, &value), None),
                TxnOp::put(self.layout.term_by_nonce(&record.nonce), wrap(1, &value), None),
                TxnOp::put(self.layout.schema_key(), layout::SCHEMA.to_string(), None),
            ])
            .or_else([term, base, importing].map(|key| TxnOp::get(key, None)));
        let ask = |mut kv: KvClient| {
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        };
        let answer = self.cluster.call(self.options.takeover_deadline, ask).await;
        let answer = answer.map_err(|failure| match failure {
            Failure::NoSpace(why) => self.full(&why),
            Failure::Unsent(why) => CommitError::Unavailable(format!("etcd: {why}")),
            other => CommitError::Io(format!("etcd: whether the term began is unknown: {other}")),
        })?;
        let began = if answer.succeeded() {
            answer.header().map_or(0, etcd_client::ResponseHeader::revision)
        } else {
            let mut found = raws(&answer).into_iter();
            let (now, base, importing) = (found.next().flatten(), found.next().flatten(), found.next().flatten());
            let ours = |raw: &Raw| read_record(raw).is_some_and(|r| r.nonce == record.nonce);
            match now {
                Some(raw) if ours(&raw) => raw.revision,
                _ if importing.is_some() || base.map_or(0, |raw| raw.revision) != start.revision => {
                    return Err(CommitError::Unavailable(
                        "another process has filled this store since it was opened, or does so just now: start again"
                            .to_owned(),
                    ));
                }
                other => {
                    return Err(CommitError::Fenced {
                        ours: if over == 0 { 0 } else { self.layout.term(over) },
                        current: other.map_or(0, |raw| self.layout.term(raw.revision)),
                    });
                }
            }
        };
        self.handed_out(self.layout.rv(began, 1));
        Ok(Fence {
            incarnation: record.incarnation.into(),
            term: self.layout.term(began),
            nonce: record.nonce.into(),
        })
    }

    /// Begins a term over whatever there is.
    pub(super) async fn take(&self, record: TermRecord) -> Result<Fence, CommitError> {
        let mut over = None;
        loop {
            let present = match over.take() {
                Some(revision) => revision,
                None => {
                    let (term, _) = self
                        .present()
                        .await
                        .map_err(|e| CommitError::Unavailable(format!("etcd: {e}")))?;
                    term.map_or(0, |raw| raw.revision)
                }
            };
            match self.begin(present, record.clone()).await {
                // Whichever of the two it was: the next one ends it.
                Err(CommitError::Io(why)) => return Err(CommitError::Unavailable(why)),
                // Another one began meanwhile.
                Err(CommitError::Fenced { current, .. }) => over = self.layout.term_revision(current),
                other => return other,
            }
        }
    }
}

fn read_record(raw: &Raw) -> Option<TermRecord> {
    let (_, value) = unwrap(&raw.value)?;
    serde_json::from_slice(&value).ok()
}

pub(super) fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[async_trait]
impl Contest for EtcdStore {
    async fn look(&self) -> Result<Look, ReadError> {
        self.open_to_read()?;
        let (term, beat) = self.shared.present().await.map_err(super::read_error)?;
        let term = match term {
            // An unreadable record is a term all the same, which nobody holds.
            Some(raw) => Some((
                self.shared.layout.term(raw.revision),
                read_record(&raw).unwrap_or_default(),
            )),
            None => None,
        };
        Ok(Look {
            term,
            beat: beat.map_or(0, |raw| u64::try_from(raw.revision).unwrap_or(0)),
        })
    }

    async fn take_over(&self, over: Option<u64>, claim: &Claim) -> Result<Fence, CommitError> {
        if self.shared.closing.is_cancelled() {
            return Err(CommitError::Closed);
        }
        let record = TermRecord {
            incarnation: claim.incarnation.clone(),
            nonce: nonce(),
            holder: claim.holder.clone(),
            coordinator: claim.coordinator.clone(),
            address: claim.address.clone(),
        };
        let over = match over {
            None => 0,
            // No term of this store: the compare below cannot hold, and tells the present one.
            Some(term) => self.shared.layout.term_revision(term).unwrap_or(-1),
        };
        self.shared.begin(over, record).await
    }

    async fn beat(&self, fence: &Fence) -> Result<(), CommitError> {
        let shared = &self.shared;
        let term = shared.layout.data(keys::TERM);
        let present = shared.layout.term_revision(fence.term).unwrap_or(-1);
        let txn = Txn::new()
            .when([Compare::mod_revision(term.as_str(), CompareOp::Equal, present)])
            .and_then([TxnOp::put(shared.layout.beat(), &*fence.nonce, None)])
            .or_else([TxnOp::get(term, None)]);
        let ask = |mut kv: KvClient| {
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        };
        let answer = shared
            .cluster
            .call_with(shared.options.beat_deadline, shared.options.beat_patience, ask)
            .await;
        let answer = answer.map_err(|failure| match failure {
            Failure::NoSpace(why) => shared.full(&why),
            other => CommitError::Unavailable(format!("etcd: {other}")),
        })?;
        if answer.succeeded() {
            return Ok(());
        }
        let now = raws(&answer).into_iter().next().flatten();
        Err(CommitError::Fenced {
            ours: fence.term,
            current: now.map_or(0, |raw| shared.layout.term(raw.revision)),
        })
    }
}
