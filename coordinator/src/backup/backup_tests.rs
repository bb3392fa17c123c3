//! What a backup holds of a store, and what it does not tell without a passphrase.

use super::*;
use crate::{ca::secret::random, store::memory::MemoryStore};

pub const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
pub const INCARNATION: &str = "4e2c11c0-8a55-4a7e-8a0b-0d6f6dd1c7f1";

/// The secret's own bytes, to look for them.
pub struct Secret {
    pub bytes: [u8; 32],
    pub key: ClusterKey,
}

pub fn secret() -> Secret {
    let bytes: [u8; 32] = random().expect("random");
    let key = ClusterKey::from_bytes(&bytes).expect("a key");
    Secret { bytes, key }
}

pub fn meta() -> ClusterMeta {
    ClusterMeta {
        cluster: CLUSTER.into(),
        incarnation: INCARNATION.into(),
        created_at_ms: 1,
        root_pem: "root".into(),
        sealed_root_key: "sealed".into(),
        addresses: vec!["c1:7443".into()],
    }
}

/// A store with some keys of a cluster.
pub async fn store() -> MemoryStore {
    let store = MemoryStore::default();
    let fence = store.take_term(INCARNATION, "test").await.expect("a term");
    let meta = serde_json::to_vec(&meta()).expect("JSON");
    let changes = vec![
        Change::put(META_CLUSTER, Expect::Any, meta),
        Change::put("meta/a", Expect::Any, &b"a"[..]),
        Change::put("meta/b", Expect::Any, &b"b"[..]),
    ];
    store.commit(&fence, changes).await.expect("committed");
    let gone = vec![Change::delete("meta/a", Expect::Any)];
    store.commit(&fence, gone).await.expect("committed");
    store
}

const QUICK: Cost = Cost {
    memory: 8,
    passes: 1,
    lanes: 1,
};

#[tokio::test]
async fn it_is_the_store_at_one_version() {
    let store = store().await;
    let taken = take(&store, None, 1_800_000_000_000).await.expect("taken");
    let read = backup::decode(&taken.bytes).expect("whole");
    assert_eq!(read.header, taken.header);
    assert_eq!(
        (
            read.header.cluster.as_str(),
            read.header.incarnation.as_str(),
            read.header.keys
        ),
        (CLUSTER, INCARNATION, false)
    );
    assert_eq!(read.header.newest, store.newest().0, "a delete counts, too");
    let snapshot = store.load().await.expect("loads");
    let entries: Vec<_> = snapshot
        .entries
        .iter()
        .map(|e| (e.rv.0, e.key.clone(), e.value.to_vec()))
        .collect();
    let got: Vec<_> = read.entries.into_iter().map(|e| (e.rv, e.key, e.value)).collect();
    assert_eq!(got, entries);
    let record = BackupRecord::new(&taken, "user/admin", String::new());
    assert_eq!(record.rv(), store.newest());
}

#[tokio::test]
async fn the_secret_goes_along_only_under_a_passphrase() {
    let store = store().await;
    let Secret { bytes, key } = secret();
    let keys = Keys {
        secret: Arc::new(key),
        passphrase: "a passphrase of some length".into(),
        cost: QUICK,
    };
    let taken = take(&store, Some(keys), 1).await.expect("taken");
    assert!(taken.header.keys);
    assert!(!taken.bytes.windows(32).any(|w| w == bytes), "in the clear");
    let read = backup::decode(&taken.bytes).expect("whole");
    let unlock = |words: &str| ClusterKey::unlock(CLUSTER, words, &read.sealed);
    let opened = unlock("a passphrase of some length").expect("opens");
    assert!(
        opened
            .open(
                CLUSTER,
                &ClusterKey::from_bytes(&bytes)
                    .expect("a key")
                    .seal(CLUSTER, b"x")
                    .expect("seals")
            )
            .is_ok()
    );
    assert!(matches!(unlock("another passphrase"), Err(PassphraseError::Wrong)));

    let Secret { key, .. } = secret();
    let short = Keys {
        secret: Arc::new(key),
        passphrase: "short".into(),
        cost: QUICK,
    };
    let refused = take(&store, Some(short), 1).await.expect_err("short").to_string();
    assert!(refused.contains("at least 12"), "{refused}");
}

#[tokio::test]
async fn a_store_without_a_cluster_is_no_backup() {
    let refused = take(&MemoryStore::default(), None, 1).await.expect_err("empty");
    assert!(matches!(refused, TakeError::NoCluster));
}
