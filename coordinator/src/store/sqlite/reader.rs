//! Reads of the store, beside the writer. Called by `SqliteStore` on blocking threads.
//!
//! Invariant: each read sees one snapshot of the file, which has every commit acknowledged before the read
//! began.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};

use super::schema;
use crate::store::{Entry, Order, Rv, Snapshot, Span, Update};

/// Connections kept open; more are opened when more reads run at once.
const IDLE: usize = 4;

pub(super) struct Readers {
    path: PathBuf,
    busy: Duration,
    idle: Mutex<Vec<Connection>>,
}

/// What a watch needs from the file.
pub(super) struct History {
    pub(super) newest: Rv,
    pub(super) trimmed: Rv,
    pub(super) updates: Vec<Update>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, busy: Duration) -> Self {
        Self {
            path,
            busy,
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn load(&self) -> rusqlite::Result<Snapshot> {
        self.read(|db| {
            let rv = schema::read_meta(db)?.newest;
            let mut statement = db.prepare_cached("SELECT rv, key, value FROM state ORDER BY key")?;
            let entries = statement.query_map([], entry)?.collect::<Result<_, _>>()?;
            Ok(Snapshot { rv, entries })
        })
    }

    pub(super) fn get(&self, key: &str) -> rusqlite::Result<Option<Entry>> {
        self.read(|db| {
            db.prepare_cached("SELECT rv, key, value FROM state WHERE key = ?1")?
                .query_row([key], entry)
                .optional()
        })
    }

    /// The primary key gives the rows in either order, so that no others are read.
    pub(super) fn scan(&self, span: &Span) -> rusqlite::Result<Vec<Entry>> {
        let sql = match span.order {
            Order::Ascending => "SELECT rv, key, value FROM state WHERE key >= ?1 AND key < ?2 ORDER BY key LIMIT ?3",
            Order::Descending => {
                "SELECT rv, key, value FROM state WHERE key >= ?1 AND key < ?2 ORDER BY key DESC LIMIT ?3"
            }
        };
        let limit = i64::try_from(span.limit).unwrap_or(i64::MAX);
        self.read(|db| {
            db.prepare_cached(sql)?
                .query_map((&span.from, &span.until, limit), entry)?
                .collect()
        })
    }

    /// The log after `after` up to `up_to`; empty where the caller will refuse `after`.
    pub(super) fn history(&self, after: Rv, up_to: Rv) -> rusqlite::Result<History> {
        self.read(|db| {
            let meta = schema::read_meta(db)?;
            let mut updates = Vec::new();
            if after >= meta.trimmed && after < up_to {
                let mut statement =
                    db.prepare_cached("SELECT rv, key, value FROM log WHERE rv > ?1 AND rv <= ?2 ORDER BY rv")?;
                let range = [schema::sql_int(after.0), schema::sql_int(up_to.0)];
                updates = statement
                    .query_map(range, |row| {
                        Ok(Update {
                            rv: schema::rv_at(row, 0)?,
                            key: row.get(1)?,
                            value: row.get::<_, Option<Vec<u8>>>(2)?.map(Bytes::from),
                        })
                    })?
                    .collect::<Result<_, _>>()?;
            }
            Ok(History {
                newest: meta.newest,
                trimmed: meta.trimmed,
                updates,
            })
        })
    }

    /// Runs `work` on one snapshot.
    fn read<R>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> rusqlite::Result<R> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match idle {
            Some(db) => db,
            None => {
                let db = schema::connect(&self.path, self.busy)?;
                db.execute_batch("PRAGMA query_only = ON")?;
                db
            }
        };
        let snapshot = db.unchecked_transaction()?;
        let out = work(&snapshot)?;
        snapshot.finish()?;
        // A connection that failed is closed above by `?`.
        let mut kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < IDLE {
            kept.push(db);
        }
        Ok(out)
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        rv: schema::rv_at(row, 0)?,
        key: row.get(1)?,
        value: row.get::<_, Vec<u8>>(2)?.into(),
    })
}
