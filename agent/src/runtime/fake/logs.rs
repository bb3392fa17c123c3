//! What the containers of the engine in memory write, and who reads it.
//!
//! Invariant: a reader takes one entry at a time and only when it is polled, so that a test sees what a slow one
//! leaves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::runtime::{LogEntry, LogQuery, LogStream};

#[derive(Default)]
struct Log {
    entries: Vec<LogEntry>,
    ended: bool,
}

#[derive(Default)]
struct Inner {
    /// By container id; logs outlive their containers, as nobody asks for them then.
    logs: BTreeMap<String, Log>,
    readers: usize,
    /// Bytes that readers took.
    taken: u64,
}

/// All logs of one engine.
#[derive(Clone, Default)]
pub struct Logs {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<watch::Sender<()>>,
}

impl Logs {
    /// A container starts, having written `text`.
    pub fn begin(&self, id: &str, at_ms: u64, text: &str) {
        self.lock().logs.entry(id.to_owned()).or_default().ended = false;
        self.write(id, at_ms, false, text.as_bytes());
    }

    pub fn write(&self, id: &str, at_ms: u64, stderr: bool, text: &[u8]) {
        let at = Timestamp::from_millisecond(i64::try_from(at_ms).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
        {
            let mut inner = self.lock();
            let entries = &mut inner.logs.entry(id.to_owned()).or_default().entries;
            for line in text.split_inclusive(|b| *b == b'\n') {
                entries.push(LogEntry {
                    at,
                    stderr,
                    text: line.to_vec(),
                });
            }
        }
        self.changed.send_replace(());
    }

    pub fn end(&self, id: &str) {
        if let Some(log) = self.lock().logs.get_mut(id) {
            log.ended = true;
        }
        self.changed.send_replace(());
    }

    pub fn readers(&self) -> usize {
        self.lock().readers
    }

    pub fn taken(&self) -> u64 {
        self.lock().taken
    }

    pub fn open(&self, query: &LogQuery) -> LogStream {
        let at = {
            let mut inner = self.lock();
            inner.readers += 1;
            let there = inner.logs.get(&query.id).map_or(0, |l| l.entries.len());
            query.tail.map_or(0, |n| there.saturating_sub(n as usize))
        };
        let reader = Reader {
            logs: self.clone(),
            query: query.clone(),
            at,
        };
        let changed = self.changed.subscribe();
        stream::unfold((reader, changed), async |(mut reader, mut changed)| {
            loop {
                changed.borrow_and_update();
                if let Some(entry) = reader.take() {
                    return Some((Ok(entry), (reader, changed)));
                }
                if reader.at_end() {
                    return None;
                }
                changed.changed().await.ok()?;
            }
        })
        .boxed()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    logs: Logs,
    query: LogQuery,
    at: usize,
}

impl Reader {
    fn take(&mut self) -> Option<LogEntry> {
        let mut inner = self.logs.lock();
        loop {
            let entry = inner.logs.get(&self.query.id)?.entries.get(self.at)?.clone();
            self.at += 1;
            if self.query.since.is_none_or(|since| entry.at >= since) {
                inner.taken += entry.text.len() as u64;
                return Some(entry);
            }
        }
    }

    fn at_end(&self) -> bool {
        !self.query.follow || self.logs.lock().logs.get(&self.query.id).is_none_or(|l| l.ended)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.logs.lock().readers -= 1;
    }
}
