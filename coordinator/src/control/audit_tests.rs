//! Old audit records go, the others stay.

use super::*;
use crate::store::{Fence, Store, memory::MemoryStore};

async fn led() -> (Arc<MemoryStore>, Arc<Hub>, Fence, tokio::task::JoinSet<()>) {
    let store = Arc::new(MemoryStore::default());
    let fence = store.take_term("i", "test").await.expect("a term");
    let hub = Hub::load(store.clone()).await.expect("loads");
    let mut tasks = tokio::task::JoinSet::new();
    let run = hub.clone();
    tasks.spawn(async move {
        let _ = run.run().await;
    });
    (store, hub, fence, tasks)
}

async fn records(store: &MemoryStore) -> Vec<String> {
    let entries = store.load().await.expect("loads").entries;
    entries
        .into_iter()
        .map(|e| e.key)
        .filter(|k| k.starts_with(keys::AUDIT))
        .collect()
}

fn put(ms: u64, id: usize) -> Change {
    Change::put(keys::audit(ms, &id.to_string()), Expect::Absent, "{}")
}

#[tokio::test]
async fn what_is_old_goes_in_bounded_commits() {
    let (store, hub, fence, _tasks) = led().await;
    let old: Vec<Change> = (0..150).map(|i| put(1000 + i as u64, i)).collect();
    for batch in old.chunks(MAX_CHANGES) {
        store.commit(&fence, batch.to_vec()).await.expect("committed");
    }
    store
        .commit(&fence, vec![put(5000, 0), put(9000, 0)])
        .await
        .expect("committed");
    expire(&hub, 5000).await.expect("no leader");
    assert_eq!(records(&store).await.len(), 152, "only a leader removes");
    hub.set_fence(Some(fence));
    expire(&hub, 5000).await.expect("expired");
    assert_eq!(records(&store).await, [keys::audit(5000, "0"), keys::audit(9000, "0")]);
}

#[tokio::test]
async fn the_clusters_setting_goes_before_the_processs_own() {
    let (store, hub, fence, mut tasks) = led().await;
    let now = system_clock()();
    store
        .commit(&fence, vec![put(now - 3_600_000, 0), put(now, 1)])
        .await
        .expect("committed");
    hub.set_fence(Some(fence.clone()));
    let settings = Settings {
        audit_expiry_ms: 5,
        ..Settings::default()
    };
    tasks.spawn(async move {
        let _ = run(hub, settings).await;
    });
    let set = br#"{"audit-keep":"30m"}"#.to_vec();
    store
        .commit(&fence, vec![Change::put(keys::SETTINGS, Expect::Absent, set)])
        .await
        .expect("set");
    let gone = async {
        while records(&store).await != [keys::audit(now, "1")] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .expect("removed");
}
