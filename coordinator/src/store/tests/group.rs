//! Group commit in the file: many commits in one transaction, each on its own. The writer is held up by a
//! second connection that keeps the file's write lock, so what is queued meanwhile makes one group.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::Connection;
use tokio::task::JoinHandle;

use super::{
    super::{
        Change, CommitError, Committed, Expect, Fence, ReadError, Rv, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
    rig::{any, lead, put, until, value, within},
};

type Answer = JoinHandle<Result<Committed, CommitError>>;

fn open(dir: &Path, options: SqliteOptions) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(dir, options).unwrap())
}

/// Holds the writer up until it is dropped.
struct Held(Connection);

impl Held {
    fn new(dir: &Path) -> Self {
        let db = Connection::open(dir.join("store.db")).unwrap();
        db.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(db)
    }
}

/// Queues a commit and returns once it is queued.
async fn queue(store: &Arc<SqliteStore>, fence: &Fence, changes: Vec<Change>) -> Answer {
    let (store, fence) = (Arc::clone(store), fence.clone());
    let task = tokio::spawn(async move { store.commit(&fence, changes).await });
    // On the one thread of these tests the task runs up to its wait for the answer before we go on.
    tokio::task::yield_now().await;
    task
}

async fn answers(queued: Vec<Answer>) -> Vec<Result<Committed, CommitError>> {
    let mut out = Vec::new();
    for answer in queued {
        out.push(within(answer).await.unwrap());
    }
    out
}

#[tokio::test]
async fn queued_commits_share_a_transaction_and_stay_independent() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), SqliteOptions::default());
    let fence = lead(&*store).await;
    let base = put(&*store, &fence, "base", "0").await;
    let mut watch = store.watch(base).await.unwrap();

    let held = Held::new(dir.path());
    // The first one may begin alone, before the others are queued.
    let mut queued = vec![queue(&store, &fence, vec![any("first", "1")]).await];
    for i in 0..30 {
        let changes = match i % 3 {
            // Holds for i = 0 only: later ones see what the earlier ones of the group did.
            0 => vec![any(&format!("a{i}"), "1"), Change::put("base", Expect::At(base), "1")],
            1 => vec![any(&format!("b{i}"), "1"), any(&format!("c{i}"), "1")],
            _ => vec![any(&format!("d{i}"), "1"), Change::delete("none", Expect::At(base))],
        };
        queued.push(queue(&store, &fence, changes).await);
    }
    drop(held.0);
    let answers = answers(queued).await;

    let applied: Vec<&Committed> = answers.iter().flatten().collect();
    assert_eq!(applied.len(), 1 + 1 + 10);
    let mut revisions: Vec<u64> = applied.iter().map(|c| c.last().revision()).collect();
    revisions.dedup();
    assert!(revisions.len() <= 2, "31 commits took the transactions {revisions:?}");
    let rvs: Vec<Rv> = applied.iter().flat_map(|c| c.rvs.clone()).collect();
    assert!(rvs.is_sorted_by(|a, b| a < b));
    let changed = applied[1].rvs[1];
    assert_eq!(
        answers[4],
        Err(CommitError::Conflict {
            key: "base".to_owned(),
            expected: Expect::At(base),
            actual: Some(changed)
        })
    );
    // A refused commit left nothing, not even what stood before the refused change.
    assert_eq!(value(&*store, "a3").await, None);
    assert_eq!(value(&*store, "d2").await, None);
    assert_eq!(value(&*store, "c28").await.as_deref(), Some("1"));

    // A watch resumes between any two of them.
    let seen = until(&mut watch, store.newest()).await;
    assert_eq!(seen.iter().map(|u| u.rv).collect::<Vec<_>>(), rvs);
    for (i, update) in seen.iter().enumerate().take(seen.len() - 1) {
        let rest = until(&mut store.watch(update.rv).await.unwrap(), store.newest()).await;
        assert_eq!(rest, seen[i + 1..]);
    }
}

#[tokio::test]
async fn a_full_group_is_closed_and_the_next_one_begun() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        group_changes: 10,
        group_bytes: 1_000,
        ..SqliteOptions::default()
    };
    let store = open(dir.path(), options);
    let fence = lead(&*store).await;
    let held = Held::new(dir.path());
    let mut queued = vec![queue(&store, &fence, vec![any("first", "")]).await];
    for i in 0..12 {
        let three = (0..3).map(|k| any(&format!("c{i}/{k}"), "v")).collect();
        queued.push(queue(&store, &fence, three).await);
    }
    // One beyond the bounds still fits alone.
    for i in 0..3 {
        queued.push(queue(&store, &fence, vec![any(&format!("big{i}"), &"x".repeat(2_000))]).await);
    }
    drop(held.0);
    let revisions: Vec<u64> = answers(queued)
        .await
        .into_iter()
        .map(|a| a.unwrap().last().revision())
        .collect();
    let of_three: Vec<usize> = revisions[1..13].chunk_by(|a, b| a == b).map(<[u64]>::len).collect();
    assert!(of_three.iter().all(|n| *n <= 3), "{of_three:?}");
    assert!(of_three.contains(&3), "{of_three:?}");
    assert_eq!(revisions[13..].chunk_by(|a, b| a == b).count(), 3);
}

#[tokio::test]
async fn a_takeover_refuses_the_older_term_s_queued_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), SqliteOptions::default());
    let old = lead(&*store).await;
    let held = Held::new(dir.path());
    let mut queued = Vec::new();
    for i in 0..21 {
        queued.push(queue(&store, &old, vec![any(&format!("k{i}"), "1")]).await);
    }
    let taking = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.take_term("inc", "test:2").await })
    };
    tokio::task::yield_now().await;
    drop(held.0);
    let new = within(taking).await.unwrap().unwrap();
    // The writer may have had the first few in hand already; all that it had not begun are refused.
    let refused = Err(CommitError::Fenced {
        ours: old.term,
        current: new.term,
    });
    let answers = answers(queued).await;
    let late = answers.iter().filter(|a| **a == refused).count();
    let early = answers
        .iter()
        .filter(|a| a.as_ref().is_ok_and(|c| c.last().revision() < new.term))
        .count();
    assert_eq!(late + early, 21, "{answers:?}");
    assert!(late > 0, "{answers:?}");
}

#[tokio::test]
async fn a_failure_of_unknown_outcome_closes_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let options = SqliteOptions {
        busy_timeout: Duration::from_millis(50),
        ..SqliteOptions::default()
    };
    let store = open(dir.path(), options.clone());
    let fence = lead(&*store).await;
    let kept = put(&*store, &fence, "kept", "1").await;
    let mut watch = store.watch(kept).await.unwrap();
    let held = Held::new(dir.path());
    let failed = store.commit(&fence, vec![any("lost", "1")]).await;
    assert!(
        matches!(&failed, Err(CommitError::Io(why)) if why.contains("database is locked")),
        "{failed:?}"
    );
    assert!(within(store.closed()).await.contains("database is locked"));
    assert_eq!(within(watch.recv()).await, None);
    assert_eq!(
        store.commit(&fence, vec![any("lost", "1")]).await,
        Err(CommitError::Closed)
    );
    assert!(matches!(store.load().await, Err(ReadError::Io(_))));
    drop(held);
    // A new process finds what was acknowledged, though the old handle still exists.
    let again = open(dir.path(), options);
    assert_eq!(value(&*again, "kept").await.as_deref(), Some("1"));
    assert_eq!(value(&*again, "lost").await, None);
}

#[tokio::test]
async fn versions_count_from_base() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), SqliteOptions::default());
    let fence = lead(&*store).await;
    let before = put(&*store, &fence, "a", "1").await;
    store.close().await;
    let db = Connection::open(dir.path().join("store.db")).unwrap();
    db.execute_batch("UPDATE meta SET base = 1000000").unwrap();
    drop(db);
    let store = open(dir.path(), SqliteOptions::default());
    assert_eq!(store.newest(), before);
    let fence = lead(&*store).await;
    assert_eq!(fence.term, 1_000_000 + before.revision() + 1);
    assert_eq!(put(&*store, &fence, "b", "1").await.revision(), fence.term + 1);
}

#[tokio::test]
async fn a_smaller_history_is_reached_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), SqliteOptions::default());
    let fence = lead(&*store).await;
    for i in 0..30 {
        let changes = (0..64).map(|k| any(&format!("k{k}"), &i.to_string())).collect();
        store.commit(&fence, changes).await.unwrap();
    }
    store.close().await;
    let options = SqliteOptions {
        history: 100,
        ..SqliteOptions::default()
    };
    let store = open(dir.path(), options);
    let count = || {
        let db = Connection::open(dir.path().join("store.db")).unwrap();
        db.query_row("SELECT count(*) FROM log", [], |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let mut counts = vec![count()];
    for _ in 0..6 {
        put(&*store, &fence, "k", "v").await;
        counts.push(count());
    }
    assert_eq!(counts, [1922, 1411, 900, 389, 100, 101, 102]);
}
