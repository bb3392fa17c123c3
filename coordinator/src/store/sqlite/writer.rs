//! The writer thread: takes queued jobs, makes groups, commits each group as one transaction. Started by
//! `SqliteStore::open`; the only one that changes the file.
//!
//! Invariant: the order is commit (durable), publish to watchers, answer. A failed transaction is undone and
//! the undoing is verified before its number is used again; where that cannot be, the store closes.

use std::{collections::VecDeque, path::Path, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared, SqliteOptions,
    lock::Lock,
    schema::{self, Meta, read_meta, sql_int},
};
use crate::store::{
    Change, CommitError, Committed, Fence, Rv,
    apply::{self, Batch, Tables},
    import::{ImportError, Imported},
};

pub(super) enum Job {
    Commit(Commit),
    TakeTerm {
        incarnation: String,
        holder: String,
        reply: oneshot::Sender<Result<Fence, CommitError>>,
    },
    Import {
        state: Imported,
        reply: oneshot::Sender<Result<(), ImportError>>,
    },
    /// Answered by the store's end.
    Close,
}

/// A logical commit whose limits were checked.
pub(super) struct Commit {
    pub(super) fence: Fence,
    pub(super) changes: Vec<Change>,
    pub(super) reply: oneshot::Sender<Result<Committed, CommitError>>,
}

/// Jobs looked at for one group.
const PENDING: usize = 4_096;
/// Log entries trimmed at once, at most; more only where a transaction added more.
const TRIM: usize = 512;
/// Less free space than this (bytes) explains an I/O error before the commit.
const NO_SPACE: u64 = 64 << 10;

pub(super) struct Writer {
    db: Connection,
    queue: mpsc::Receiver<Job>,
    /// Taken from the queue, not begun.
    pending: VecDeque<Job>,
    shared: Arc<Shared>,
    options: SqliteOptions,
    /// As in the file.
    meta: Meta,
    /// Entries in the log.
    logged: usize,
    /// The last transaction found no room; said once, not for every commit.
    full: bool,
    // Dropped in this order, after `db`: the connection closes, the directory is free for another process, the
    // end is announced.
    _lock: Lock,
    end: End,
}

/// Announces the end of the store when it is dropped.
struct End {
    shared: Arc<Shared>,
    /// Why the writer must end.
    broken: Option<String>,
}

impl Drop for End {
    fn drop(&mut self) {
        let why = self.broken.take().unwrap_or_else(|| "it was closed".to_owned());
        self.shared.closed.send_replace(Some(why));
    }
}

enum Work {
    Commits(Vec<Commit>),
    TakeTerm(String, String, oneshot::Sender<Result<Fence, CommitError>>),
    Import(Imported, oneshot::Sender<Result<(), ImportError>>),
    Close,
}

impl Writer {
    pub(super) fn new(
        db: Connection,
        meta: Meta,
        queue: mpsc::Receiver<Job>,
        shared: Arc<Shared>,
        options: SqliteOptions,
        lock: Lock,
    ) -> rusqlite::Result<Self> {
        let logged = db.query_row("SELECT count(*) FROM log", [], |row| schema::int_at(row, 0))?;
        let end = End {
            shared: Arc::clone(&shared),
            broken: None,
        };
        Ok(Self {
            db,
            queue,
            pending: VecDeque::new(),
            shared,
            options,
            meta,
            logged: usize::try_from(logged).unwrap_or(usize::MAX),
            full: false,
            _lock: lock,
            end,
        })
    }

    pub(super) fn run(mut self) {
        while self.end.broken.is_none() {
            match self.next() {
                Some(Work::Commits(group)) => self.commit(group),
                Some(Work::TakeTerm(incarnation, holder, reply)) => {
                    let taken = self.transact(|batch, tables| batch.take_term(tables, &incarnation, &holder));
                    let _ = reply.send(taken);
                }
                Some(Work::Import(state, reply)) => {
                    let imported = self.import(&state);
                    let _ = reply.send(imported);
                }
                Some(Work::Close) | None => break,
            }
        }
        self.shared.fanout.close();
        self.queue.close();
        // Those being sent right now are among them.
        while let Some(job) = self.queue.blocking_recv() {
            self.pending.push_back(job);
        }
    }

    /// Waits for work. A takeover goes before the commits that have not begun, so that it fences them.
    fn next(&mut self) -> Option<Work> {
        if self.pending.is_empty() {
            self.pending.push_back(self.queue.blocking_recv()?);
        }
        while self.pending.len() < PENDING
            && let Ok(job) = self.queue.try_recv()
        {
            self.pending.push_back(job);
        }
        let takeover = self.pending.iter().position(|job| matches!(job, Job::TakeTerm { .. }));
        let first = self.pending.remove(takeover.unwrap_or(0))?;
        let first = match first {
            Job::TakeTerm {
                incarnation,
                holder,
                reply,
            } => return Some(Work::TakeTerm(incarnation, holder, reply)),
            Job::Import { state, reply } => return Some(Work::Import(state, reply)),
            Job::Close => return Some(Work::Close),
            Job::Commit(commit) => commit,
        };
        let (mut changes, mut bytes) = (first.changes.len(), apply::size(&first.changes));
        let mut group = vec![first];
        let most = self.options.group_changes.min(apply::MAX_ORDINALS);
        while let Some(Job::Commit(next)) = self.pending.front() {
            changes += next.changes.len();
            bytes += apply::size(&next.changes);
            if changes > most || bytes > self.options.group_bytes {
                break;
            }
            if let Some(Job::Commit(next)) = self.pending.pop_front() {
                group.push(next);
            }
        }
        Some(Work::Commits(group))
    }

    fn commit(&mut self, group: Vec<Commit>) {
        let (replies, commits): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|commit| (commit.reply, (commit.fence, commit.changes)))
            .unzip();
        let judged = self.transact(|batch, tables| {
            commits
                .into_iter()
                .map(|(fence, changes)| batch.commit(tables, &fence, changes))
                .collect::<rusqlite::Result<Vec<_>>>()
        });
        // A refusal may rest on another commit of the group, so an undone group fails as a whole. Who no longer
        // waits for the answer does not need it.
        match judged {
            Ok(judged) => {
                for (reply, result) in replies.into_iter().zip(judged) {
                    let _ = reply.send(result);
                }
            }
            Err(e) => {
                for reply in replies {
                    let _ = reply.send(Err(e.clone()));
                }
            }
        }
    }

    /// Fills the empty store in one transaction. Nobody watches a store that is filled.
    fn import(&mut self, state: &Imported) -> Result<(), ImportError> {
        if self.meta.newest != Rv(0) {
            return Err(ImportError::NotEmpty);
        }
        let meta = Meta {
            base: state.base,
            revision: 0,
            newest: state.newest,
            trimmed: state.newest,
        };
        if let Err(e) = fill(&self.db, state, meta) {
            return Err(self.fail(&e, false).into());
        }
        if let Err(e) = execute(&self.db, "COMMIT") {
            return Err(self.fail(&e, true).into());
        }
        self.meta = meta;
        self.shared.saw(meta.newest);
        Ok(())
    }

    /// One transaction. With updates: durable and published on return. Without: nothing was written.
    fn transact<R>(
        &mut self,
        work: impl FnOnce(&mut Batch, &mut Sql<'_>) -> rusqlite::Result<R>,
    ) -> Result<R, CommitError> {
        let revision = self.meta.revision + 1;
        let mut batch = Batch::new(self.meta.base + revision, self.meta.newest);
        let prepared = self.prepare(revision, &mut batch, work);
        let (out, next) = match prepared {
            Ok((out, Some(next))) => (out, next),
            Ok((out, None)) => return Ok(out),
            Err(e) => return Err(self.fail(&e, false)),
        };
        if let Err(e) = execute(&self.db, "COMMIT") {
            return Err(self.fail(&e, true));
        }
        (self.meta, self.logged) = next;
        if std::mem::take(&mut self.full) {
            tracing::info!(dir = %self.shared.dir.display(), "the disk of the store has room again");
        }
        self.shared.saw(self.meta.newest);
        self.shared.fanout.publish(&batch.updates);
        Ok(out)
    }

    /// All of a transaction but its COMMIT, and what is true after it. `None`: there is nothing to commit.
    fn prepare<R>(
        &self,
        revision: u64,
        batch: &mut Batch,
        work: impl FnOnce(&mut Batch, &mut Sql<'_>) -> rusqlite::Result<R>,
    ) -> rusqlite::Result<(R, Option<(Meta, usize)>)> {
        execute(&self.db, "BEGIN IMMEDIATE")?;
        let out = work(batch, &mut Sql(&self.db))?;
        if batch.updates.is_empty() {
            execute(&self.db, "ROLLBACK")?;
            return Ok((out, None));
        }
        let (trimmed, removed) = self.trim(batch.updates.len())?;
        let meta = Meta {
            base: self.meta.base,
            revision,
            newest: batch.newest(),
            trimmed,
        };
        self.db
            .prepare_cached("UPDATE meta SET revision = ?1, newest = ?2, trimmed = ?3")?
            .execute(params![
                sql_int(revision),
                sql_int(meta.newest.0),
                sql_int(meta.trimmed.0)
            ])?;
        let logged = (self.logged + batch.updates.len()).saturating_sub(removed);
        Ok((out, Some((meta, logged))))
    }

    /// Removes the oldest log entries beyond the history, a few at a time. Returns the new `trimmed` and how
    /// many went.
    fn trim(&self, added: usize) -> rusqlite::Result<(Rv, usize)> {
        let excess = (self.logged + added).saturating_sub(self.options.history);
        let slack = (self.options.history / 16).min(256);
        if excess <= slack {
            return Ok((self.meta.trimmed, 0));
        }
        let wanted = excess.min(TRIM.max(2 * added));
        let last = self
            .db
            .prepare_cached("SELECT rv FROM log ORDER BY rv LIMIT 1 OFFSET ?1")?
            .query_row([sql_int(wanted as u64 - 1)], |row| schema::rv_at(row, 0))?;
        let removed = self
            .db
            .prepare_cached("DELETE FROM log WHERE rv <= ?1")?
            .execute([sql_int(last.0)])?;
        Ok((last, removed))
    }

    /// Undoes the open transaction. Full, if that is what it was and nothing remains of it; else the store
    /// closes.
    fn fail(&mut self, error: &rusqlite::Error, committing: bool) -> CommitError {
        let dir = self.shared.dir.display();
        if is_full(error, committing, &self.shared.dir) && self.undo() {
            if !std::mem::replace(&mut self.full, true) {
                tracing::error!(%dir, %error, "the disk of the store is full; every write is refused");
            }
            return CommitError::Full(format!("{dir} ({error})"));
        }
        let why = format!("{dir}: {error}");
        tracing::error!(%dir, %error, "the store failed and closes");
        self.end.broken = Some(why.clone());
        CommitError::Io(why)
    }

    /// True: the file is as before the transaction.
    fn undo(&self) -> bool {
        // SQLite has undone it itself after some errors.
        if !self.db.is_autocommit() && execute(&self.db, "ROLLBACK").is_err() {
            return false;
        }
        self.db.is_autocommit() && read_meta(&self.db).is_ok_and(|meta| meta == self.meta)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Also after a panic, when `run` did not get to it.
        self.shared.fanout.close();
        self.queue.close();
        while let Some(job) = self.pending.pop_front().or_else(|| self.queue.try_recv().ok()) {
            match job {
                Job::Commit(commit) => drop(commit.reply.send(Err(CommitError::Closed))),
                Job::TakeTerm { reply, .. } => drop(reply.send(Err(CommitError::Closed))),
                Job::Import { reply, .. } => drop(reply.send(Err(CommitError::Closed.into()))),
                Job::Close => {}
            }
        }
    }
}

/// Room that is missing is found while frames are written, before the one that commits: then nothing was
/// applied, not even if the process dies now. After that frame (when it is synced, for one) an error means
/// that the outcome is unknown, whatever its cause.
fn is_full(error: &rusqlite::Error, committing: bool, dir: &Path) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure) if !committing => {
            // So SQLite reports ENOSPC where it grows its shared memory file.
            nix::sys::statvfs::statvfs(dir).is_ok_and(|fs| fs.blocks_available() * fs.fragment_size() < NO_SPACE)
        }
        _ => false,
    }
}

/// All of an import but its COMMIT.
fn fill(db: &Connection, state: &Imported, meta: Meta) -> rusqlite::Result<()> {
    execute(db, "BEGIN IMMEDIATE")?;
    let mut insert = db.prepare_cached("INSERT INTO state(key, rv, value) VALUES (?1, ?2, ?3)")?;
    for entry in &state.entries {
        insert.execute(params![entry.key, sql_int(entry.rv.0), &entry.value[..]])?;
    }
    db.prepare_cached("UPDATE meta SET base = ?1, revision = ?2, newest = ?3, trimmed = ?4")?
        .execute(params![
            sql_int(meta.base),
            sql_int(meta.revision),
            sql_int(meta.newest.0),
            sql_int(meta.trimmed.0)
        ])?;
    Ok(())
}

fn execute(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

/// The tables inside the writer's transaction.
struct Sql<'c>(&'c Connection);

impl Tables for Sql<'_> {
    type Error = rusqlite::Error;

    fn version(&mut self, key: &str) -> rusqlite::Result<Option<Rv>> {
        self.0
            .prepare_cached("SELECT rv FROM state WHERE key = ?1")?
            .query_row([key], |row| schema::rv_at(row, 0))
            .optional()
    }

    fn get(&mut self, key: &str) -> rusqlite::Result<Option<(Rv, Bytes)>> {
        self.0
            .prepare_cached("SELECT rv, value FROM state WHERE key = ?1")?
            .query_row([key], |row| {
                Ok((schema::rv_at(row, 0)?, row.get::<_, Vec<u8>>(1)?.into()))
            })
            .optional()
    }

    fn write(&mut self, rv: Rv, key: &str, value: Option<&Bytes>) -> rusqlite::Result<()> {
        let (rv, value) = (sql_int(rv.0), value.map(|v| &v[..]));
        match value {
            Some(value) => self
                .0
                .prepare_cached(
                    "INSERT INTO state(key, rv, value) VALUES (?1, ?2, ?3)
                     ON CONFLICT(key) DO UPDATE SET rv = excluded.rv, value = excluded.value",
                )?
                .execute(params![key, rv, value])?,
            None => self
                .0
                .prepare_cached("DELETE FROM state WHERE key = ?1")?
                .execute([key])?,
        };
        self.0
            .prepare_cached("INSERT INTO log(rv, key, value) VALUES (?1, ?2, ?3)")?
            .execute(params![rv, key, value])?;
        Ok(())
    }
}
