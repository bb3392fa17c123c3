//! The file `D/store.db`: made, opened, checked. Called by `SqliteStore::open` and the readers.
//!
//! Invariant: `store.db` appears under its name only when it is complete. So an empty one, or a missing one
//! beside its log, is damage and never a new store.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use crate::store::{OpenError, Rv};

pub(super) const FILE: &str = "store.db";
/// `PRAGMA user_version`.
const SCHEMA: u32 = 1;
/// `PRAGMA application_id`: "whar".
const APPLICATION: u32 = 0x7768_6172;
/// Marks a store that is still being made.
const UNFINISHED: &str = "store.db.new";

/// `meta` has one row. `revision` counts transactions, `base` lifts it above another history's numbers.
/// `newest` is the newest version of all, `trimmed` the newest one that the log no longer has.
const TABLES: &str = "
    CREATE TABLE meta(
        one INTEGER PRIMARY KEY CHECK (one = 1), base INTEGER NOT NULL, revision INTEGER NOT NULL,
        newest INTEGER NOT NULL, trimmed INTEGER NOT NULL) STRICT;
    INSERT INTO meta VALUES (1, 0, 0, 0, 0);
    CREATE TABLE state(key TEXT PRIMARY KEY, rv INTEGER NOT NULL, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE log(rv INTEGER PRIMARY KEY, key TEXT NOT NULL, value BLOB) STRICT;
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) base: u64,
    pub(super) revision: u64,
    pub(super) newest: Rv,
    pub(super) trimmed: Rv,
}

/// SQLite's integers are signed; versions stay far below the sign (47 bits of revisions).
#[allow(clippy::cast_possible_wrap)]
pub(super) fn sql_int(n: u64) -> i64 {
    n as i64
}

pub(super) fn int_at(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let n: i64 = row.get(column)?;
    u64::try_from(n).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, n))
}

pub(super) fn rv_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Rv> {
    int_at(row, column).map(Rv)
}

pub(super) fn read_meta(db: &Connection) -> rusqlite::Result<Meta> {
    db.prepare_cached("SELECT base, revision, newest, trimmed FROM meta")?
        .query_row([], |row| {
            Ok(Meta {
                base: int_at(row, 0)?,
                revision: int_at(row, 1)?,
                newest: rv_at(row, 2)?,
                trimmed: rv_at(row, 3)?,
            })
        })
}

/// A directory that only its owner can enter, if it is ours to say so: a new or an empty one.
pub(super) fn prepare_dir(dir: &Path) -> Result<(), OpenError> {
    let failed = |what: String| OpenError::Io {
        path: dir.display().to_string(),
        what,
    };
    let io = |what: &'static str| move |e: io::Error| failed(format!("cannot {what} the data directory: {e}"));
    if !dir.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("create"))?;
        if let Some(parent) = dir.canonicalize().ok().as_deref().and_then(Path::parent) {
            sync(parent).map_err(io("make durable"))?;
        }
    }
    let mode = fs::metadata(dir).map_err(io("read"))?.permissions().mode();
    let empty = fs::read_dir(dir).map_err(io("list"))?.next().is_none();
    if mode & 0o077 != 0 && empty {
        fs::set_permissions(dir, PermissionsExt::from_mode(0o700)).map_err(io("protect"))?;
    } else if mode & 0o002 != 0 {
        return Err(failed(
            "every user of this machine may write here; use a directory of its own, or chmod 0700 this one".to_owned(),
        ));
    }
    Ok(())
}

/// The writer's connection to a whole and known store, made if there is none.
pub(super) fn open(dir: &Path, busy: Duration) -> Result<(Connection, Meta), OpenError> {
    let path = dir.join(FILE);
    let at = path.display().to_string();
    let damaged = |what: String| OpenError::Damaged { path: at.clone(), what };
    let io = |what: &'static str| {
        let path = at.clone();
        move |e: io::Error| OpenError::Io {
            path,
            what: format!("cannot {what} it: {e}"),
        }
    };
    let length = match fs::metadata(&path) {
        Ok(found) => Some(found.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io("read")(e)),
    };
    match length {
        Some(0) => return Err(damaged("the file is empty".to_owned())),
        Some(_) => fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(io("protect"))?,
        None if dir.join("store.db-wal").exists() => {
            return Err(damaged("the file is missing, its log store.db-wal is there".to_owned()));
        }
        None => create(dir, &path, &at)?,
    }
    // After a crash the rest may be in the log; without one all must be in the file.
    let length = length.filter(|_| fs::metadata(dir.join("store.db-wal")).map_or(0, |log| log.len()) == 0);
    let db = connect(&path, busy).map_err(|e| explain(&at, &e))?;
    identify(&db, &at)?;
    if let Some(length) = length {
        let expected = db
            .query_row(
                "SELECT page_size * page_count FROM pragma_page_size, pragma_page_count",
                [],
                |row| int_at(row, 0),
            )
            .map_err(|e| explain(&at, &e))?;
        if length != expected {
            return Err(damaged(format!("the file has {length} bytes instead of {expected}")));
        }
    }
    let meta = check(&db, &at)?;
    let mode: String = db
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(|e| explain(&at, &e))?;
    if mode != "wal" {
        return Err(OpenError::Io {
            path: at,
            what: format!("this file system allows only journal mode {mode}; put the data directory on a local disk"),
        });
    }
    // FULL: a commit is on the disk before it is acknowledged. The log file shrinks again after a burst.
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 33554432;")
        .map_err(|e| explain(&at, &e))?;
    Ok((db, meta))
}

/// A connection with the settings that readers and the writer share.
pub(super) fn connect(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(busy)?;
    db.set_prepared_statement_cache_capacity(32);
    // No temporary files: their disk may be another one, and full.
    db.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;")?;
    Ok(db)
}

/// Made under another name and renamed when it is durable.
fn create(dir: &Path, path: &Path, at: &str) -> Result<(), OpenError> {
    let unfinished = dir.join(UNFINISHED);
    let io = |e: io::Error| OpenError::Io {
        path: at.to_owned(),
        what: format!("cannot create it: {e}"),
    };
    for leftover in [UNFINISHED, "store.db.new-journal"] {
        match fs::remove_file(dir.join(leftover)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io(e)),
            _ => {}
        }
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(io)?;
    let fill = || {
        let db = Connection::open(&unfinished)?;
        db.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {SCHEMA}; BEGIN; {TABLES} COMMIT;"
        ))
    };
    fill().map_err(|e: rusqlite::Error| explain(at, &e))?;
    sync(&unfinished)
        .and_then(|()| fs::rename(&unfinished, path))
        .and_then(|()| sync(dir))
        .map_err(io)
}

/// Ours, and of a schema that we know?
fn identify(db: &Connection, at: &str) -> Result<(), OpenError> {
    let pragma = |name: &str| {
        db.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, u32>(0))
            .map_err(|e| explain(at, &e))
    };
    let damaged = |what: String| OpenError::Damaged {
        path: at.to_owned(),
        what,
    };
    if pragma("application_id")? != APPLICATION {
        return Err(damaged("the file is no Wharfinger store".to_owned()));
    }
    match pragma("user_version")? {
        SCHEMA => Ok(()),
        found if found > SCHEMA => Err(OpenError::NewerSchema {
            path: at.to_owned(),
            found,
            known: SCHEMA,
        }),
        found => Err(damaged(format!("schema {found} was never released"))),
    }
}

/// Whole?
fn check(db: &Connection, at: &str) -> Result<Meta, OpenError> {
    let damaged = |what: String| OpenError::Damaged {
        path: at.to_owned(),
        what,
    };
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|e| explain(at, &e))?;
    if verdict != "ok" {
        return Err(damaged(format!("the file is damaged ({})", one_line(&verdict))));
    }
    let meta = read_meta(db).map_err(|e| damaged(format!("its counters cannot be read ({e})")))?;
    let logged = db
        .query_row("SELECT coalesce(max(rv), 0) FROM log", [], |row| rv_at(row, 0))
        .map_err(|e| explain(at, &e))?;
    if logged > meta.newest || meta.newest.revision() > meta.base + meta.revision {
        return Err(damaged(
            "the file is damaged (its counters are behind its log)".to_owned(),
        ));
    }
    Ok(meta)
}

fn explain(at: &str, error: &rusqlite::Error) -> OpenError {
    let path = at.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::Damaged {
            path,
            what: format!("the file is damaged ({})", one_line(&error.to_string())),
        },
        _ => OpenError::Io {
            path,
            what: format!("cannot open it: {}", one_line(&error.to_string())),
        },
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test can cut the power; these settings are what stands between it and the data.
    #[test]
    fn the_writer_syncs_each_commit() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let (db, _) = open(dir.path(), Duration::ZERO).unwrap();
            let pragma = |name| db.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, rusqlite::types::Value>(0));
            assert_eq!(pragma("synchronous"), Ok(2.into()));
            assert_eq!(pragma("journal_mode"), Ok("wal".to_owned().into()));
        }
    }
}
