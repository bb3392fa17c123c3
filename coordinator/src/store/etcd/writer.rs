//! The one writer of a store: takes queued commits, makes groups, writes each group in one etcd transaction. Spawned by
//! `EtcdStore::open`.
//!
//! Invariant: a transaction is applied only while the term's record and the marker are as they were when it was made, and
//! it changes the marker; so it is applied at most once however often it is sent, and whether it was can always be told
//! from what etcd has.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use etcd_client::{
    Compare, CompareOp, KvClient, Txn, TxnOp, TxnResponse,
    proto::{PbResponseOp, PbTxnOpResponse},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Shared,
    client::Failure,
    layout::{Ordinals, Version, unwrap, wrap},
    reader::{Raw, raws},
};
use crate::store::{
    Change, CommitError, Committed, Expect, Fence, MAX_BYTES, Rv, apply,
    keys::{self, TermRecord},
};

/// Most commits of one transaction. With the marker's write they and the 64 changes of one of them stay below the 128
/// that etcd allows along any path through nested transactions.
const GROUP: usize = 48;
/// Commits looked at for one group.
const PENDING: usize = 4_096;
/// Keys read in one transaction of reads.
const READS: usize = 100;

pub(super) struct Job {
    pub(super) fence: Fence,
    pub(super) changes: Vec<Change>,
    pub(super) since: Instant,
    pub(super) reply: oneshot::Sender<Result<Committed, CommitError>>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Job>,
    pending: VecDeque<Job>,
    /// The fence that was last seen to be the store's, with the marker's revision; none: to be read.
    ground: Option<(Fence, i64)>,
    /// Newest version of our own transactions.
    last: Rv,
}

/// What a change finds there: its version; `None`: the key does not exist.
type Found = Option<Rv>;

/// How a transaction that etcd answered went.
enum Answer {
    Applied(TxnResponse),
    /// The term or the marker is another one.
    Elsewhere {
        term: Option<Raw>,
        marker: Option<Raw>,
    },
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Job>) -> Self {
        Self {
            shared,
            queue,
            pending: VecDeque::new(),
            ground: None,
            last: Rv(0),
        }
    }

    /// Ends when the queue is closed and empty.
    pub(super) async fn run(mut self) {
        loop {
            if self.pending.is_empty() {
                match self.queue.recv().await {
                    Some(job) => self.pending.push_back(job),
                    None => return,
                }
            }
            while self.pending.len() < PENDING
                && let Ok(job) = self.queue.try_recv()
            {
                self.pending.push_back(job);
            }
            self.drop_late();
            let group = self.next_group();
            if group.is_empty() {
                continue;
            }
            let results = self.commit(&group).await;
            for (job, result) in group.into_iter().zip(results) {
                // Who no longer waits for the answer does not need it.
                let _ = job.reply.send(result);
            }
        }
    }

    /// Answers those that waited too long: nothing of them was begun.
    fn drop_late(&mut self) {
        let patience = self.shared.options.commit_deadline;
        while let Some(job) = self.pending.pop_front_if(|job| job.since.elapsed() > patience) {
            let why = "etcd has not taken the commits before this one in time".to_owned();
            let _ = job.reply.send(Err(CommitError::Unavailable(why)));
        }
    }

    /// Commits in a row under one fence, of which no two touch the same key.
    fn next_group(&mut self) -> Vec<Job> {
        let mut group: Vec<Job> = Vec::new();
        let mut keys = HashSet::new();
        let mut bytes = 0;
        while group.len() < GROUP
            && let Some(job) = self.pending.pop_front_if(|job| {
                let fits = bytes + apply::size(&job.changes) <= MAX_BYTES;
                let same = group.first().is_none_or(|first| first.fence == job.fence);
                group.is_empty() || (fits && same && !job.changes.iter().any(|c| keys.contains(&c.key)))
            })
        {
            bytes += apply::size(&job.changes);
            keys.extend(job.changes.iter().map(|c| c.key.clone()));
            group.push(job);
        }
        group
    }

    async fn commit(&mut self, group: &[Job]) -> Vec<Result<Committed, CommitError>> {
        match self.attempt(group).await {
            Ok(results) => results,
            Err(error) => group.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn attempt(&mut self, group: &[Job]) -> Result<Vec<Result<Committed, CommitError>>, CommitError> {
        let Some(first) = group.first() else {
            return Ok(Vec::new());
        };
        let until = Instant::now() + self.shared.options.commit_deadline;
        let id = uuid::Uuid::new_v4().into_bytes();
        loop {
            let term = self.stand_on(&first.fence).await?;
            let Some((_, marker)) = self.ground.clone() else {
                continue;
            };
            let txn = self.transaction(group, term, marker, &id);
            let sent = AtomicU32::new(0);
            let left = until.saturating_duration_since(Instant::now());
            let ask = |mut kv: KvClient| {
                sent.fetch_add(1, Ordering::Relaxed);
                let txn = txn.clone();
                async move { kv.txn(txn).await }
            };
            let answer = match self.shared.cluster.call(left, ask).await {
                Ok(answer) => read_answer(answer),
                Err(failure) => {
                    self.ground = None;
                    return Err(self.failed(group, failure));
                }
            };
            match answer {
                Answer::Applied(response) => return self.applied(group, &response),
                Answer::Elsewhere { term: now, marker } => {
                    self.ground = None;
                    // An earlier sending may have been applied without an answer.
                    if sent.load(Ordering::Relaxed) > 1
                        && let Some(at) = self.applied_at(term, &id, now.as_ref(), marker).await?
                    {
                        return self.found_applied(group, at).await;
                    }
                    if now.as_ref().map(|t| t.revision) != Some(term) {
                        return Err(self.fenced(&first.fence, now.as_ref()));
                    }
                    if Instant::now() >= until {
                        let why = "another process writes under the same term; end it".to_owned();
                        return Err(CommitError::Unavailable(why));
                    }
                }
            }
        }
    }

    /// Makes sure that the fence is the store's and that the marker's revision is known; gives the term's revision.
    async fn stand_on(&mut self, fence: &Fence) -> Result<i64, CommitError> {
        let term = self.shared.layout.term_revision(fence.term);
        if let (Some(term), Some((known, _))) = (term, &self.ground)
            && known == fence
        {
            return Ok(term);
        }
        self.ground = None;
        let keys = [self.shared.layout.data(keys::TERM), self.shared.layout.marker()];
        let deadline = self.shared.options.read_deadline;
        let mut found = match self.shared.read_keys(&keys, None, deadline).await {
            Ok(found) => found.into_iter(),
            Err(failure) => return Err(CommitError::Unavailable(format!("etcd: {failure}"))),
        };
        let (now, marker) = (found.next().flatten(), found.next().flatten());
        match (term, &now) {
            (Some(term), Some(raw)) if raw.revision == term && names(raw, fence) => {
                self.ground = Some((fence.clone(), marker.map_or(0, |m| m.revision)));
                Ok(term)
            }
            _ => Err(self.fenced(fence, now.as_ref())),
        }
    }

    fn fenced(&self, fence: &Fence, now: Option<&Raw>) -> CommitError {
        CommitError::Fenced {
            ours: fence.term,
            current: now.map_or(0, |raw| self.shared.layout.term(raw.revision)),
        }
    }

    /// The outer transaction holds the fence, each inner one a commit with its own expectations. Where those fail, the
    /// inner one reads what is there instead, and the others go on.
    fn transaction(&self, group: &[Job], term: i64, marker: i64, id: &[u8]) -> Txn {
        let layout = &self.shared.layout;
        let (term_key, marker_key) = (layout.data(keys::TERM), layout.marker());
        let mut ops = vec![TxnOp::put(marker_key.as_str(), wrap(0, id), None)];
        let mut ordinal: u16 = 0;
        for job in group {
            let (mut compares, mut writes, mut reads) = (Vec::new(), Vec::new(), Vec::new());
            for change in &job.changes {
                let key = self.shared.place(&change.key);
                let compare = match change.expect {
                    Expect::Any => None,
                    Expect::Absent => Some((CompareOp::Equal, 0)),
                    Expect::At(rv) => Some(self.written_at(&change.key, rv)),
                };
                if let Some((op, revision)) = compare {
                    compares.push(Compare::mod_revision(key.as_str(), op, revision));
                    reads.push(TxnOp::get(key.as_str(), None));
                }
                writes.push(match &change.value {
                    Some(value) => TxnOp::put(key, wrap(ordinal, value), None),
                    None => TxnOp::delete(key, None),
                });
                ordinal = ordinal.saturating_add(1);
            }
            ops.push(TxnOp::txn(Txn::new().when(compares).and_then(writes).or_else(reads)));
        }
        Txn::new()
            .when([
                Compare::mod_revision(term_key.as_str(), CompareOp::Equal, term),
                Compare::mod_revision(marker_key.as_str(), CompareOp::Equal, marker),
            ])
            .and_then(ops)
            .or_else([TxnOp::get(term_key, None), TxnOp::get(marker_key, None)])
    }

    /// Which revision a key must have to be at a version.
    fn written_at(&self, key: &str, rv: Rv) -> (CompareOp, i64) {
        let shared = &self.shared;
        let revision = shared.layout.revision(rv).or_else(|| shared.mirror().kept(key, rv));
        // Older than this store and nobody's: no key may match.
        revision.map_or((CompareOp::Less, 0), |r| (CompareOp::Equal, r))
    }

    fn applied(
        &mut self,
        group: &[Job],
        response: &TxnResponse,
    ) -> Result<Vec<Result<Committed, CommitError>>, CommitError> {
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        if let Some((_, marker)) = &mut self.ground {
            *marker = revision;
        }
        let unreadable = || CommitError::Unknown("etcd's answer has another form than was asked for".to_owned());
        // The first answers the marker's write.
        let inner = response.0.responses.get(1..).unwrap_or_default();
        if inner.len() != group.len() || revision == 0 {
            return Err(unreadable());
        }
        let mut tally = Tally::new(self, revision);
        let mut results = Vec::with_capacity(group.len());
        for (job, op) in group.iter().zip(inner) {
            let Some(PbTxnOpResponse::ResponseTxn(txn)) = &op.response else {
                return Err(unreadable());
            };
            let result = if txn.succeeded {
                Ok(tally.done(&job.changes, |i| was_there(txn.responses.get(i))))
            } else {
                let found = self.found(&job.changes, txn.responses.iter().map(range_of));
                tally.skip(&job.changes);
                Err(conflict(&job.changes, &found).unwrap_or_else(|| {
                    CommitError::Unavailable("etcd refused expectations that hold; try again".to_owned())
                }))
            };
            results.push(result);
        }
        let newest = tally.newest;
        self.last = newest;
        self.shared.handed_out(newest);
        Ok(results)
    }

    /// Newest version before a transaction of ours, which the watch may have delivered already.
    fn newest_before(&self, revision: i64) -> Rv {
        let shared = &self.shared;
        let newest = shared.newest_update();
        if newest < shared.layout.rv(revision, 0) {
            return newest;
        }
        let delivered = shared.mirror().newest_at(revision - 1);
        delivered.unwrap_or_default().max(self.last)
    }

    /// What the keys with an expectation were found at, by change.
    fn found(&self, changes: &[Change], raws: impl Iterator<Item = Option<Raw>>) -> Vec<Option<Found>> {
        let mut raws = raws;
        changes
            .iter()
            .map(|change| (change.expect != Expect::Any).then(|| self.version(raws.next().flatten().as_ref())))
            .collect()
    }

    fn version(&self, raw: Option<&Raw>) -> Found {
        let raw = raw?;
        let version = unwrap(&raw.value).map_or(Version::Own(0), |(version, _)| version);
        Some(self.shared.layout.version(raw.revision, version))
    }

    /// At which revision a transaction was applied, if it was: by the marker now, or, where other terms began since, by
    /// the marker as it was when our term ended.
    async fn applied_at(
        &self,
        term: i64,
        id: &[u8],
        now: Option<&Raw>,
        marker: Option<Raw>,
    ) -> Result<Option<i64>, CommitError> {
        let unknown = |failure: Failure| CommitError::Unknown(format!("etcd: {failure}"));
        let keys = [self.shared.layout.data(keys::TERM), self.shared.layout.marker()];
        let (mut present, mut marker) = (now.map_or(0, |t| t.revision), marker);
        while present > term {
            let deadline = self.shared.options.read_deadline;
            let mut found = self
                .shared
                .read_keys(&keys, Some(present - 1), deadline)
                .await
                .map_err(unknown)?
                .into_iter();
            present = found.next().flatten().map_or(0, |t| t.revision);
            marker = found.next().flatten();
        }
        Ok(marker
            .filter(|m| unwrap(&m.value).is_some_and(|(_, value)| *value == *id))
            .map(|m| m.revision))
    }

    /// The results of a transaction whose answer was lost: each commit is judged again by the state before it.
    async fn found_applied(
        &mut self,
        group: &[Job],
        at: i64,
    ) -> Result<Vec<Result<Committed, CommitError>>, CommitError> {
        let keys: Vec<String> = group
            .iter()
            .flat_map(|job| &job.changes)
            .map(|change| self.shared.place(&change.key))
            .collect();
        let mut before = Vec::with_capacity(keys.len());
        for some in keys.chunks(READS) {
            let deadline = self.shared.options.read_deadline;
            let found = self.shared.read_keys(some, Some(at - 1), deadline).await;
            let found =
                found.map_err(|e| CommitError::Unknown(format!("it was taken, and etcd does not say how: {e}")))?;
            before.extend(found);
        }
        let mut tally = Tally::new(self, at);
        let mut before = before.iter();
        let mut results = Vec::with_capacity(group.len());
        for job in group {
            let found: Vec<Found> = job
                .changes
                .iter()
                .map(|_| self.version(before.next().and_then(Option::as_ref)))
                .collect();
            let asked: Vec<Option<Found>> = found.iter().map(|f| Some(*f)).collect();
            results.push(match conflict(&job.changes, &asked) {
                None => Ok(tally.done(&job.changes, |i| found.get(i).is_some_and(Option::is_some))),
                Some(conflict) => {
                    tally.skip(&job.changes);
                    Err(conflict)
                }
            });
        }
        let newest = tally.newest;
        self.last = newest;
        self.shared.handed_out(newest);
        Ok(results)
    }

    fn failed(&self, group: &[Job], failure: Failure) -> CommitError {
        match failure {
            Failure::NoSpace(why) => self.shared.full(&why),
            Failure::Unsent(why) => CommitError::Unavailable(format!("etcd: {why}")),
            Failure::Refused(why) if why.contains("too large") => CommitError::TooLarge {
                changes: group.iter().map(|job| job.changes.len()).sum(),
                bytes: group.iter().map(|job| apply::size(&job.changes)).sum(),
            },
            Failure::Refused(why) => CommitError::Unavailable(format!("etcd refused it: {why}")),
            Failure::Unclear(why) | Failure::Compacted(why) => CommitError::Unknown(format!("etcd: {why}")),
        }
    }
}

/// Counts the versions of one transaction, as the watch does.
struct Tally<'w> {
    shared: &'w Shared,
    revision: i64,
    ordinals: Ordinals,
    /// Changes so far, applied or not.
    asked: u16,
    newest: Rv,
}

impl<'w> Tally<'w> {
    fn new(writer: &'w Writer, revision: i64) -> Self {
        Self {
            shared: &writer.shared,
            revision,
            ordinals: Ordinals::default(),
            asked: 0,
            newest: writer.newest_before(revision),
        }
    }

    fn done(&mut self, changes: &[Change], was_there: impl Fn(usize) -> bool) -> Committed {
        let mut rvs = Vec::with_capacity(changes.len());
        for (i, change) in changes.iter().enumerate() {
            let ordinal = match &change.value {
                Some(_) => Some(self.ordinals.put(self.asked)),
                None => was_there(i).then(|| self.ordinals.delete()),
            };
            if let Some(ordinal) = ordinal {
                self.newest = self.shared.layout.rv(self.revision, ordinal);
            }
            self.asked = self.asked.saturating_add(1);
            rvs.push(self.newest);
        }
        Committed { rvs }
    }

    fn skip(&mut self, changes: &[Change]) {
        self.asked = self
            .asked
            .saturating_add(u16::try_from(changes.len()).unwrap_or(u16::MAX));
    }
}

fn read_answer(answer: TxnResponse) -> Answer {
    if answer.succeeded() {
        return Answer::Applied(answer);
    }
    let mut found = raws(&answer).into_iter();
    Answer::Elsewhere {
        term: found.next().flatten(),
        marker: found.next().flatten(),
    }
}

/// True where the record at the term's key began with this fence.
pub(super) fn names(raw: &Raw, fence: &Fence) -> bool {
    unwrap(&raw.value)
        .and_then(|(_, value)| serde_json::from_slice::<TermRecord>(&value).ok())
        .is_some_and(|record| *record.incarnation == *fence.incarnation && *record.nonce == *fence.nonce)
}

fn was_there(op: Option<&PbResponseOp>) -> bool {
    matches!(op.and_then(|op| op.response.as_ref()), Some(PbTxnOpResponse::ResponseDeleteRange(d)) if d.deleted > 0)
}

fn range_of(op: &PbResponseOp) -> Option<Raw> {
    match op.response.as_ref()? {
        PbTxnOpResponse::ResponseRange(range) => range.kvs.first().map(|kv| Raw {
            revision: kv.mod_revision,
            value: kv.value.clone(),
        }),
        _ => None,
    }
}

/// The first expectation that what was found does not meet.
fn conflict(changes: &[Change], found: &[Option<Found>]) -> Option<CommitError> {
    changes.iter().zip(found).find_map(|(change, found)| {
        let actual = (*found)?;
        let holds = match change.expect {
            Expect::Any => true,
            Expect::Absent => actual.is_none(),
            Expect::At(rv) => actual == Some(rv),
        };
        (!holds).then(|| CommitError::Conflict {
            key: change.key.clone(),
            expected: change.expect,
            actual,
        })
    })
}
