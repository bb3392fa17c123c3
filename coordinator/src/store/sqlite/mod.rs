//! The embedded store: one SQLite file `D/store.db`, one writer thread. Used where one coordinator keeps the
//! state itself; the only part that names SQLite.
//!
//! Invariant: one transaction is one revision and carries a whole group of commits; it is durable before any
//! of them is acknowledged and before any watch sees it. After a failure of unknown outcome the store closes
//! for good: the process ends, and a new one reads what is really there.

mod lock;
mod reader;
mod schema;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Change, CommitError, Committed, Entry, Fence, OpenError, ReadError, Rv, Snapshot, Span, Store, Watch, apply,
    fanout::Fanout,
    import::{Import, ImportError, Imported},
};
use reader::Readers;
use writer::{Job, Writer};

#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// Updates kept at least for watches that resume; a sixteenth more (at most 256) may be there.
    pub history: usize,
    /// Transactions that a watch may leave unread before it is ended.
    pub watch_queue: usize,
    /// Commits that may wait for the writer; more wait outside.
    pub commit_queue: usize,
    /// Most changes of one transaction, at most 65,535 (a single commit always fits).
    pub group_changes: usize,
    /// Most bytes of one transaction (a single commit always fits).
    pub group_bytes: usize,
    /// How long another program may hold the file's lock (a backup, a look by hand) before that is a failure.
    pub busy_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            history: 20_000,
            watch_queue: 1_024,
            commit_queue: 1_024,
            group_changes: apply::MAX_ORDINALS,
            group_bytes: 4 << 20,
            busy_timeout: Duration::from_secs(10),
        }
    }
}

pub struct SqliteStore {
    /// `None` only while being dropped.
    queue: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Arc<Readers>,
    shared: Arc<Shared>,
}

/// What the writer thread and the callers share.
struct Shared {
    dir: PathBuf,
    fanout: Arc<Fanout>,
    /// Newest version that anybody was told.
    newest: AtomicU64,
    /// Why the store closed.
    closed: watch::Sender<Option<String>>,
}

impl Shared {
    fn saw(&self, rv: Rv) {
        self.newest.fetch_max(rv.0, Ordering::AcqRel);
    }
}

impl SqliteStore {
    /// Name of the file in the data directory.
    pub const FILE: &'static str = schema::FILE;

    /// Opens the store in directory `dir`, made if absent, and holds `dir/lock` until it is closed. Blocks
    /// while the whole file is checked.
    pub fn open(dir: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        schema::prepare_dir(dir)?;
        let lock = lock::Lock::take(dir)?;
        let (db, meta) = schema::open(dir, options.busy_timeout)?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            fanout: Arc::new(Fanout::new(meta.newest, options.watch_queue)),
            newest: AtomicU64::new(meta.newest.0),
            closed: watch::channel(None).0,
        });
        let readers = Arc::new(Readers::new(dir.join(schema::FILE), options.busy_timeout));
        let (queue, jobs) = mpsc::channel(options.commit_queue.max(1));
        let failed = |what: String| OpenError::Io {
            path: dir.display().to_string(),
            what,
        };
        let writer = Writer::new(db, meta, jobs, Arc::clone(&shared), options, lock)
            .map_err(|e| failed(format!("cannot read the log's length: {e}")))?;
        let writer = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| failed(format!("cannot start the writer thread: {e}")))?;
        Ok(Self {
            queue: Some(queue),
            writer: Some(writer),
            readers,
            shared,
        })
    }

    /// Finishes what is queued, then ends the watches, refuses the rest and frees the data directory. Dropping
    /// the store does the same and blocks meanwhile.
    pub async fn close(&self) {
        // Refused where the writer ended already.
        let _ = self.send(Job::Close).await;
        self.closed().await;
    }

    /// Waits until the store has closed and tells why. Unless [`Self::close`] was called, the process should
    /// then end.
    pub async fn closed(&self) -> String {
        let mut closed = self.shared.closed.subscribe();
        match closed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    async fn send(&self, job: Job) -> Result<(), CommitError> {
        match &self.queue {
            Some(queue) => queue.send(job).await.map_err(|_| CommitError::Closed),
            None => Err(CommitError::Closed),
        }
    }

    async fn read<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Readers) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, ReadError> {
        if !self.shared.fanout.is_open() {
            return Err(is_closed());
        }
        let readers = Arc::clone(&self.readers);
        match tokio::task::spawn_blocking(move || work(&readers)).await {
            Ok(Ok(out)) => Ok(out),
            Ok(Err(e)) => Err(ReadError::Io(format!("{}: {e}", self.shared.dir.display()))),
            Err(e) => Err(ReadError::Io(format!("the read was cut short: {e}"))),
        }
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteStore in {}", self.shared.dir.display())
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // Without a sender the writer finishes what is queued and ends.
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A panic there closed the store already.
            let _ = writer.join();
        }
    }
}

fn is_closed() -> ReadError {
    ReadError::Io("it is closed".to_owned())
}

/// The writer died without an answer, so nobody knows.
fn unanswered() -> CommitError {
    CommitError::Io("the writer thread ended before it answered".to_owned())
}

#[async_trait]
impl Store for SqliteStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        let snapshot = self.read(Readers::load).await?;
        self.shared.saw(snapshot.rv);
        Ok(snapshot)
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let key = key.to_owned();
        let entry = self.read(move |readers| readers.get(&key)).await?;
        self.shared.saw(entry.as_ref().map_or(Rv(0), |e| e.rv));
        Ok(entry)
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        let entries = self.read(move |readers| readers.scan(&span)).await?;
        let newest = entries.iter().map(|e| e.rv).max();
        self.shared.saw(newest.unwrap_or_default());
        Ok(entries)
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        // First in line for what is new, then the past: so nothing falls between.
        let joining = self.shared.fanout.join(after).ok_or_else(is_closed)?;
        let up_to = joining.up_to;
        let history = self.read(move |readers| readers.history(after, up_to)).await?;
        if after > history.newest {
            return Err(ReadError::Future {
                after,
                newest: history.newest,
            });
        }
        if after < history.trimmed {
            return Err(ReadError::Compacted {
                after,
                oldest: history.trimmed,
            });
        }
        Ok(joining.start(history.updates))
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        apply::check_limits(&changes)?;
        let (reply, answer) = oneshot::channel();
        let fence = fence.clone();
        self.send(Job::Commit(writer::Commit { fence, changes, reply })).await?;
        answer.await.unwrap_or_else(|_| Err(unanswered()))
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::TakeTerm {
            incarnation: incarnation.to_owned(),
            holder: holder.to_owned(),
            reply,
        })
        .await?;
        answer.await.unwrap_or_else(|_| Err(unanswered()))
    }

    fn newest(&self) -> Rv {
        Rv(self.shared.newest.load(Ordering::Acquire))
    }
}

#[async_trait]
impl Import for SqliteStore {
    async fn import(&self, state: Imported) -> Result<(), ImportError> {
        state.check()?;
        let (reply, answer) = oneshot::channel();
        self.send(Job::Import { state, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(unanswered().into()))
    }
}
