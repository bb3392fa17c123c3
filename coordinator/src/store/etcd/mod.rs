//! The store on an etcd cluster, which several coordinators share. The only part that names etcd. `docs/etcd.md` says how
//! it is set up and what was measured.
//!
//! Invariant: a commit is acknowledged when a majority of etcd's members has it on disk, under a compare of the term's
//! record; what load, get and watch give has the same versions in every coordinator. A fault of etcd delays and is named;
//! it never ends the process.

mod client;
mod contest;
mod import;
mod layout;
mod mirror;
mod quota;
mod reader;
pub mod status;
mod stream;
mod upkeep;
mod writer;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{
    client::{Cluster, Failure},
    import::Start,
    layout::Layout,
    mirror::Mirror,
    reader::Raw,
    writer::{Job, Writer},
};
use super::{
    Change, CommitError, Committed, Entry, Fence, OpenError, ReadError, Rv, Snapshot, Span, Store, Watch, apply,
    fanout::Fanout, keys::TermRecord,
};

pub use self::status::{EtcdStatus, MemberInfo, MemberStatus};

/// Where everything lies unless told otherwise.
pub const PREFIX: &str = "/wharfinger/";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of who may have signed etcd's.
    pub ca: PathBuf,
    /// Ours, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdOptions {
    /// URL of each member.
    pub endpoints: Vec<String>,
    /// `None`: without TLS.
    pub tls: Option<TlsFiles>,
    /// Ends in a slash.
    pub prefix: String,
    /// How long one member may take before another is asked.
    pub patience: Duration,
    pub read_deadline: Duration,
    /// How long a commit is tried for, and may wait for its turn.
    pub commit_deadline: Duration,
    pub takeover_deadline: Duration,
    /// Of a beat and of a look.
    pub beat_deadline: Duration,
    /// As `patience`, for those.
    pub beat_patience: Duration,
    /// How often a sign of life is asked of the watch, and after which silence it is begun anew.
    pub watch_ping: Duration,
    pub watch_silence: Duration,
    pub audit_every: Duration,
    /// How long a half-done import must have stood still to be begun anew.
    pub import_patience: Duration,
    /// How often the history is compacted by who leads, and how much of it stays.
    pub compact_every: Duration,
    /// Transactions that a watch may leave unread before it is ended.
    pub watch_queue: usize,
    /// Commits that may wait for the writer; more wait outside.
    pub commit_queue: usize,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tls: None,
            prefix: PREFIX.to_owned(),
            patience: Duration::from_secs(1),
            read_deadline: Duration::from_secs(5),
            commit_deadline: Duration::from_secs(10),
            takeover_deadline: Duration::from_secs(3),
            beat_deadline: Duration::from_secs(1),
            beat_patience: Duration::from_millis(150),
            watch_ping: Duration::from_millis(500),
            watch_silence: Duration::from_millis(1_500),
            audit_every: Duration::from_secs(60),
            import_patience: Duration::from_secs(3),
            compact_every: Duration::from_secs(300),
            watch_queue: 1_024,
            commit_queue: 1_024,
        }
    }
}

pub struct EtcdStore {
    queue: mpsc::Sender<Job>,
    writer: Mutex<Option<JoinHandle<()>>>,
    shared: Arc<Shared>,
}

/// What the parts of the store share.
struct Shared {
    options: EtcdOptions,
    cluster: Cluster,
    layout: Layout,
    mirror: Mutex<Mirror>,
    start: Mutex<Start>,
    fanout: Arc<Fanout>,
    /// Newest version that anybody was told.
    newest: AtomicU64,
    /// Newest version of an update, so that a reader that waits for it gets there.
    updated: AtomicU64,
    /// Marker of the newest transaction that was published.
    seen: watch::Sender<i64>,
    /// No new work is begun.
    refusing: CancellationToken,
    closing: CancellationToken,
}

impl EtcdStore {
    /// Opens the store below the prefix, empty or not. Waits for etcd for as long as it does not answer.
    pub async fn open(options: EtcdOptions) -> Result<Self, OpenError> {
        // Large, and nothing to carry about in every caller.
        Box::pin(Self::open_for(options, false)).await
    }

    /// As [`Self::open`], for who is to fill it: what an import left half done counts as nothing.
    pub async fn open_to_import(options: EtcdOptions) -> Result<Self, OpenError> {
        Box::pin(Self::open_for(options, true)).await
    }

    async fn open_for(options: EtcdOptions, to_import: bool) -> Result<Self, OpenError> {
        let cluster = Cluster::new(&options).await?;
        let mut shared = Shared {
            layout: Layout::new(&options.prefix, 0),
            mirror: Mutex::new(Mirror::new(
                Layout::new(&options.prefix, 0),
                &mirror::List::default(),
                Rv(0),
            )),
            start: Mutex::default(),
            fanout: Arc::new(Fanout::new(Rv(0), options.watch_queue)),
            newest: AtomicU64::new(0),
            updated: AtomicU64::new(0),
            seen: watch::Sender::new(0),
            refusing: CancellationToken::new(),
            closing: CancellationToken::new(),
            cluster,
            options,
        };
        loop {
            match shared.begin_at_present(to_import).await {
                Ok(Ok(())) => break,
                Ok(Err(refused)) => return Err(refused),
                Err(failure) => {
                    tracing::warn!("etcd does not answer, trying again: {failure}");
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            }
        }
        let shared = Arc::new(shared);
        let (queue, jobs) = mpsc::channel(shared.options.commit_queue.max(1));
        let writer = tokio::spawn(Writer::new(shared.clone(), jobs).run());
        // Both end soon after `closing`.
        let (following, auditing) = (shared.clone(), shared.clone());
        tokio::spawn(async move { following.follow().await });
        tokio::spawn(async move { auditing.audit().await });
        Ok(Self {
            queue,
            writer: Mutex::new(Some(writer)),
            shared,
        })
    }

    /// Finishes what is queued, then ends the watches and refuses the rest.
    pub async fn close(&self) {
        self.shared.refusing.cancel();
        let (reply, answer) = oneshot::channel();
        let last = Job {
            fence: Fence {
                incarnation: "".into(),
                term: 0,
                nonce: "".into(),
            },
            changes: Vec::new(),
            since: Instant::now(),
            reply,
        };
        // Behind all that was queued; a fence of nobody, which is refused.
        if self.queue.send(last).await.is_ok() {
            let patience = self.shared.options.commit_deadline;
            let _ = tokio::time::timeout(patience, answer).await;
        }
        let updated = self.shared.layout.revision(self.shared.newest_update()).unwrap_or(0);
        self.shared.reached(updated, Duration::from_secs(2)).await;
        self.shared.fanout.close();
        self.shared.closing.cancel();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.abort();
        }
    }

    /// Endpoints and prefix, for messages.
    pub fn place(&self) -> String {
        place(&self.shared.options)
    }

    #[cfg(test)]
    pub(in crate::store) async fn audit_now(&self) -> Result<Vec<String>, ReadError> {
        self.shared.audit_once().await.map_err(read_error)
    }

    #[cfg(test)]
    pub(in crate::store) async fn heal(&self) -> Result<(), ReadError> {
        self.shared.relist().await.map_err(read_error)
    }

    /// As if the watch had never told of these keys.
    #[cfg(test)]
    pub(in crate::store) fn forget(&self, keys: &[&str]) {
        self.shared.mirror().forget(keys);
    }

    /// Gives up the history up to a version.
    #[cfg(test)]
    pub(in crate::store) async fn compact_to(&self, rv: Rv) -> Result<(), ReadError> {
        let revision = self.shared.layout.revision(rv).unwrap_or(0);
        self.shared.compact(revision).await.map_err(read_error)
    }

    fn open_to_read(&self) -> Result<(), ReadError> {
        if self.shared.refusing.is_cancelled() {
            return Err(ReadError::Io("it is closed".to_owned()));
        }
        Ok(())
    }
}

pub fn place(options: &EtcdOptions) -> String {
    format!("etcd {} below {}", options.endpoints.join(","), options.prefix)
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.shared.refusing.cancel();
        self.shared.fanout.close();
        self.shared.closing.cancel();
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdStore in {}", self.place())
    }
}

impl Shared {
    /// Reads what versions count from and all keys. The outer error is to be tried again.
    async fn begin_at_present(&mut self, to_import: bool) -> Result<Result<(), OpenError>, Failure> {
        let (schema, base, importing) = self.what_is_there().await?;
        let schema = schema.map(|raw| {
            let text = String::from_utf8(raw.value).ok()?;
            text.trim().parse::<u64>().ok()
        });
        let damaged = |what: &str| OpenError::Damaged {
            path: place(&self.options),
            what: what.to_owned(),
        };
        match schema {
            Some(Some(found)) if found > u64::from(layout::SCHEMA) => {
                return Ok(Err(OpenError::NewerSchema {
                    path: place(&self.options),
                    found: u32::try_from(found).unwrap_or(u32::MAX),
                    known: layout::SCHEMA,
                }));
            }
            Some(None) => return Ok(Err(damaged("the key schema is no number"))),
            _ => {}
        }
        let start = match base.map(|raw| Start::read(&raw)) {
            None => Start::default(),
            Some(Some(start)) => start,
            Some(None) => return Ok(Err(damaged("the key base cannot be read"))),
        };
        if let Some(raw) = &importing
            && !to_import
        {
            return Ok(Err(OpenError::Io {
                path: place(&self.options),
                what: import::unfinished(raw),
            }));
        }
        self.layout = Layout::new(&self.options.prefix, start.base);
        self.start = Mutex::new(start);
        let mut list = self.list(true).await?;
        if importing.is_some() {
            list.entries.clear();
            list.foreign.clear();
        }
        if schema.is_none() && !(list.entries.is_empty() && list.foreign.is_empty()) {
            let (schema, _, importing) = self.what_is_there().await?;
            if schema.is_some() || importing.is_some() {
                return Err(Failure::Unclear("somebody begins to use it just now".to_owned()));
            }
            return Ok(Err(damaged(
                "something else than Wharfinger wrote here: choose another --etcd-prefix",
            )));
        }
        for key in &list.foreign {
            tracing::error!(
                key,
                "etcd has a value here that no known release of Wharfinger wrote; it is left out"
            );
        }
        let newest = self.newest_at_list(&list).await?;
        let mirror = Mirror::new(self.layout.clone(), &list, newest).from(start.newest);
        self.mirror = Mutex::new(mirror);
        self.fanout = Arc::new(Fanout::new(newest, self.options.watch_queue));
        self.newest = AtomicU64::new(newest.0);
        self.updated = AtomicU64::new(newest.0);
        self.seen.send_replace(list.marker);
        Ok(Ok(()))
    }

    async fn newest_at_list(&self, list: &mirror::List) -> Result<Rv, Failure> {
        // Where the history may be gone, who compacts it has written the answer down.
        if let Some((marker, newest)) = self.written_newest().await?
            && marker == list.marker
        {
            return Ok(newest);
        }
        self.newest_of(list.marker).await
    }

    /// The keys schema, base and importing.
    async fn what_is_there(&self) -> Result<(Option<Raw>, Option<Raw>, Option<Raw>), Failure> {
        let layout = &self.layout;
        let keys = [layout.schema_key(), layout.base_key(), layout.importing_key()];
        let found = self.read_keys(&keys, None, self.options.read_deadline).await?;
        let mut found = found.into_iter();
        Ok((found.next().flatten(), found.next().flatten(), found.next().flatten()))
    }

    fn start(&self) -> Start {
        *self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mirror(&self) -> MutexGuard<'_, Mirror> {
        // Nothing below the lock leaves it half changed.
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name in etcd of a key of the store.
    fn place(&self, key: &str) -> String {
        if let Some(revision) = self.layout.term_of(key)
            && let Some(inner) = self.mirror().term_at(revision)
        {
            return self.layout.data(inner);
        }
        self.layout.data(key)
    }

    fn newest_update(&self) -> Rv {
        Rv(self.updated.load(Ordering::Acquire))
    }

    fn saw_update(&self, rv: Rv) {
        self.updated.fetch_max(rv.0, Ordering::AcqRel);
        self.saw(rv);
    }

    fn saw(&self, rv: Rv) {
        self.newest.fetch_max(rv.0, Ordering::AcqRel);
    }

    /// Of a commit of ours, which the watch may not have delivered yet.
    fn handed_out(&self, rv: Rv) {
        self.saw_update(rv);
    }

    fn full(&self, why: &str) -> CommitError {
        CommitError::Full(format!(
            "etcd's space quota is used up ({why}); the leader compacts, defragments and ends the alarm where that is \
             enough, else raise --quota-backend-bytes of etcd"
        ))
    }
}

fn read_error(failure: Failure) -> ReadError {
    ReadError::Unavailable(format!("etcd: {failure}"))
}

#[async_trait]
impl Store for EtcdStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        self.open_to_read()?;
        let shared = &self.shared;
        let list = shared.list(true).await.map_err(read_error)?;
        // Which version was the newest then, the stream knows; without it any up to the next transaction is as true.
        let known = shared.reached(list.marker, Duration::from_secs(2)).await;
        let newest = known.then(|| shared.mirror().newest_at(list.revision)).flatten();
        let rv = match newest {
            Some(rv) => rv,
            None if list.marker == 0 => Rv(0),
            None => shared.layout.rv(list.revision, u16::MAX),
        };
        let mut entries: Vec<Entry> = list
            .entries
            .into_iter()
            .map(|e| Entry {
                rv: shared.layout.version(e.revision, e.version),
                key: shared.layout.shown(&e.inner, e.revision),
                value: e.value,
            })
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        shared.saw(rv);
        Ok(Snapshot { rv, entries })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.open_to_read()?;
        let entry = self.shared.entry_of(key).await.map_err(read_error)?;
        self.shared.saw(entry.as_ref().map_or(Rv(0), |e| e.rv));
        Ok(entry)
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        self.open_to_read()?;
        let entries = self.shared.entries(&span).await.map_err(read_error)?;
        self.shared.saw(entries.iter().map(|e| e.rv).max().unwrap_or_default());
        Ok(entries)
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        self.open_to_read()?;
        let shared = &self.shared;
        let newest = self.newest();
        if after > newest {
            return Err(ReadError::Future { after, newest });
        }
        // First in line for what is new, then the past: so nothing falls between.
        let joining = shared
            .fanout
            .join(after)
            .ok_or(ReadError::Io("it is closed".to_owned()))?;
        let up_to = joining.up_to;
        if after >= up_to {
            return Ok(joining.start(Vec::new()));
        }
        let floor = shared.mirror().floor();
        if after < floor {
            return Err(ReadError::Compacted { after, oldest: floor });
        }
        // The highest ordinal stands for all of its transaction.
        let whole = after.0 & 0xffff == 0xffff;
        // What was imported is no history.
        let first = shared.start().revision + 1;
        let from = shared.layout.revision(after).map_or(first, |r| r + i64::from(whole));
        let to = shared.layout.revision(up_to).unwrap_or(1);
        let events = match shared.events(from, to).await {
            Ok(events) => events,
            Err(Failure::Compacted(_)) => {
                let oldest = shared.oldest().await.map_err(read_error)?;
                return Err(ReadError::Compacted { after, oldest });
            }
            Err(failure) => return Err(read_error(failure)),
        };
        let mut replay = Mirror::new(shared.layout.clone(), &mirror::List::default(), Rv(0));
        let mut history = replay.apply(events).batches.concat();
        history.retain(|u| u.rv > after && u.rv <= up_to);
        Ok(joining.start(history))
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        apply::check_limits(&changes)?;
        if self.shared.refusing.is_cancelled() {
            return Err(CommitError::Closed);
        }
        let (reply, answer) = oneshot::channel();
        let job = Job {
            fence: fence.clone(),
            changes,
            since: Instant::now(),
            reply,
        };
        self.queue.send(job).await.map_err(|_| CommitError::Closed)?;
        let unanswered = || CommitError::Unknown("the store's writer ended before it answered".to_owned());
        answer.await.unwrap_or_else(|_| Err(unanswered()))
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        if self.shared.refusing.is_cancelled() {
            return Err(CommitError::Closed);
        }
        let record = TermRecord {
            incarnation: incarnation.to_owned(),
            nonce: contest::nonce(),
            holder: holder.to_owned(),
            ..TermRecord::default()
        };
        self.shared.take(record).await
    }

    fn newest(&self) -> Rv {
        Rv(self.shared.newest.load(Ordering::Acquire))
    }
}
