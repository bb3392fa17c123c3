//! Moves between stores, interrupted after any step.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;

use super::*;
use crate::{
    backup::tests as bed,
    store::{Committed, Fence, Span, Watch, memory::MemoryStore},
};

const NOW: u64 = 1_800_000_000_000;

fn end<'s, S: ?Sized>(store: &'s S, name: &str) -> End<'s, S> {
    End {
        store,
        name: name.to_owned(),
    }
}

async fn moved(from: &MemoryStore, to: &MemoryStore) -> Result<MigrateReport, MigrateError> {
    migrate(end(from as &dyn Store, "A"), end(to as &dyn Import, "B"), None, NOW).await
}

/// Whether a coordinator may serve it, as its start decides.
async fn served(store: &dyn Store) -> bool {
    Successor::read(store).await.expect("reads").is_none() && store.get(META_CLUSTER).await.expect("reads").is_some()
}

#[tokio::test]
async fn it_is_the_same_history_in_another_store() {
    let (from, to) = (bed::store().await, MemoryStore::default());
    let old = from.take_term(bed::INCARNATION, "running").await.unwrap();
    let before = from.load().await.unwrap();
    let report = moved(&from, &to).await.unwrap();
    assert_eq!((report.cluster.as_str(), report.finished), (bed::CLUSTER, false));
    let after = to.load().await.unwrap();
    for entry in &before.entries {
        let same = after.entries.iter().any(|e| e == entry);
        assert_eq!(same, entry.key != keys::TERM, "{}", entry.key);
    }
    // Every leadership is remembered, so that agents' last ones are known; the new one is above all.
    let terms = |s: &Snapshot| s.entries.iter().filter(|e| e.key.starts_with("terms/")).count();
    assert_eq!(terms(&after), terms(&before) + 2, "the mover's, in each store");
    let fence = to.take_term(bed::INCARNATION, "next").await.unwrap();
    assert!(fence.term > before.rv.revision() && fence.term > report.base);
    assert!(served(&to).await && !served(&from).await);
    let words = Successor::read(&from).await.unwrap().unwrap().words();
    assert!(words.contains("was moved to B"), "{words}");
    // Who led the old store writes nothing more there.
    let late = from
        .commit(&old, vec![Change::put("x", Expect::Any, "x")])
        .await
        .unwrap_err();
    assert!(matches!(late, CommitError::Fenced { .. }), "{late}");

    // And back, into another empty one.
    let back = MemoryStore::default();
    migrate(end(&to as &dyn Store, "B"), end(&back as &dyn Import, "A"), None, NOW)
        .await
        .unwrap();
    assert!(served(&back).await && !served(&to).await);
    assert_eq!(back.get("meta/b").await.unwrap(), from.get("meta/b").await.unwrap());
}

#[tokio::test]
async fn into_the_store_of_one_coordinator_goes_only_that_one() {
    let (from, to) = (bed::store().await, MemoryStore::default());
    let fence = from.take_term(bed::INCARNATION, "h").await.unwrap();
    let keys = [
        "coordinator/c1",
        "issuer/c1",
        "coordinator/c2",
        "issuer/c2",
        "issuer/c3",
    ];
    let changes = keys.map(|key| Change::put(key, Expect::Any, "x"));
    from.commit(&fence, changes.into()).await.unwrap();
    let report = migrate(
        end(&from as &dyn Store, "A"),
        end(&to as &dyn Import, "B"),
        Some("c1"),
        NOW,
    )
    .await;
    assert_eq!(report.unwrap().left_out, ["c2"]);
    let left: Vec<_> = to.load().await.unwrap().entries.into_iter().map(|e| e.key).collect();
    let there = |key: &&str| left.iter().any(|k| k == key);
    assert_eq!(
        keys.iter().copied().filter(there).collect::<Vec<_>>(),
        ["coordinator/c1", "issuer/c1"]
    );
}

#[tokio::test]
async fn what_cannot_be_moved_is_refused() {
    let (empty, full) = (MemoryStore::default(), bed::store().await);
    let refused = moved(&empty, &MemoryStore::default()).await.unwrap_err();
    assert!(matches!(refused, MigrateError::Empty { .. }), "{refused}");
    let refused = moved(&full, &bed::store().await).await.unwrap_err();
    assert!(refused.to_string().starts_with("B is not empty"), "{refused}");
    assert!(served(&full).await, "it goes on where it is");
    moved(&full, &MemoryStore::default()).await.unwrap();
    let refused = moved(&full, &MemoryStore::default()).await.unwrap_err();
    assert!(refused.to_string().contains("was moved to B"), "{refused}");
}

/// Fails at the n-th step that changes or reads something, before or after it was done.
struct Failing {
    inner: Arc<MemoryStore>,
    steps: Arc<AtomicUsize>,
    at: usize,
    after: bool,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Failing {
    async fn step<T, E>(
        &self,
        name: &'static str,
        error: impl Fn() -> E,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let fails = self.steps.fetch_add(1, Ordering::SeqCst) == self.at;
        self.log.lock().unwrap().push(name);
        if fails && !self.after {
            return Err(error());
        }
        let done = work.await;
        if fails { Err(error()) } else { done }
    }
}

fn cut() -> CommitError {
    CommitError::Io("cut".into())
}

#[async_trait]
impl Store for Failing {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        self.step("load", || ReadError::Io("cut".into()), self.inner.load())
            .await
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        self.step("get", || ReadError::Io("cut".into()), self.inner.get(key))
            .await
    }
    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        self.inner.scan(span).await
    }
    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        self.inner.watch(after).await
    }
    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        self.step("commit", cut, self.inner.commit(fence, changes)).await
    }
    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        self.step("take_term", cut, self.inner.take_term(incarnation, holder))
            .await
    }
    fn newest(&self) -> Rv {
        self.inner.newest()
    }
}

#[async_trait]
impl Import for Failing {
    async fn import(&self, state: Imported) -> Result<(), ImportError> {
        self.step("import", || ImportError::Commit(cut()), self.inner.import(state))
            .await
    }
}

#[tokio::test]
async fn at_no_moment_can_both_be_served_and_what_was_begun_is_finished_or_begun_again() {
    let mut interrupted = 0;
    for after in [false, true] {
        for at in 0.. {
            let (from, to) = (Arc::new(bed::store().await), Arc::new(MemoryStore::default()));
            let (steps, log) = (Arc::<AtomicUsize>::default(), Arc::default());
            let failing = |inner: &Arc<MemoryStore>| Failing {
                inner: inner.clone(),
                steps: Arc::clone(&steps),
                at,
                after,
                log: Arc::clone(&log),
            };
            let (a, b) = (failing(&from), failing(&to));
            let first = migrate(end(&a as &dyn Store, "A"), end(&b as &dyn Import, "B"), None, NOW).await;
            let (one, other) = (served(&*from).await, served(&*to).await);
            let done = log.lock().unwrap().clone();
            assert!(!(one && other), "both after {done:?} ({after})");
            if first.is_ok() {
                assert!(steps.load(Ordering::SeqCst) <= at, "a failure was swallowed");
                break;
            }
            interrupted += 1;
            // The same call again, into the same store or, while the old one may be served, into an empty one.
            match moved(&from, &to).await {
                Ok(_) => assert!(served(&*to).await && !served(&*from).await, "{done:?}"),
                Err(MigrateError::InUse { .. }) => {
                    assert!(served(&*from).await, "{done:?}");
                    let empty = MemoryStore::default();
                    moved(&from, &empty).await.expect("into an empty one");
                    assert!(served(&empty).await && !served(&*from).await);
                }
                // All was done but for the last answer.
                Err(MigrateError::Moved { .. }) => assert!(served(&*to).await, "{done:?}"),
                Err(other) => panic!("{done:?}: {other}"),
            }
        }
    }
    assert!(interrupted > 15, "{interrupted}");
}

#[test]
fn a_copy_that_differs_is_noticed() {
    let entry = |key: &str, value: &'static str| Entry {
        rv: Rv(1),
        key: key.into(),
        value: value.into(),
    };
    let wanted = Imported {
        entries: vec![entry("a", "1"), entry("b", "2")],
        ..Imported::default()
    };
    let copied = |entries| Snapshot { rv: Rv(1), entries };
    assert_eq!(difference(&wanted, &copied(wanted.entries.clone())), None);
    assert_eq!(
        difference(&wanted, &copied(vec![entry("a", "1"), entry("b", "x")])),
        Some("key b".into())
    );
    assert_eq!(
        difference(&wanted, &copied(vec![entry("a", "1")])),
        Some("1 of 2 keys".into())
    );
}
