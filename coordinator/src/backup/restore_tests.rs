//! Restores on real directories: with the keys that are there, with those of the backup, and what is refused.

use std::collections::BTreeMap;

use proto::{identity::spki_sha256, ids::hex};

use super::*;
use crate::{
    backup::{Keys, take},
    ca::secret::passphrase::Cost,
    init::{InitOptions, init},
    store::{
        Change, Expect, Store,
        memory::MemoryStore,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;
const WORDS: &str = "correct horse battery";

struct Bed {
    dir: tempfile::TempDir,
    cluster: String,
    incarnation: String,
    newest: Rv,
}

fn sqlite(dir: &Path) -> Result<Arc<SqliteStore>, OpenError> {
    SqliteStore::open(dir, SqliteOptions::default()).map(Arc::new)
}

async fn open(dir: PathBuf) -> Result<Arc<dyn Import>, OpenError> {
    Ok(sqlite(&dir)? as Arc<dyn Import>)
}

impl Bed {
    /// A cluster in `old`, with backups of it: `plain` and `keys`.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("old");
        let options = InitOptions {
            data_dir: old.clone(),
            advertise: Some("127.0.0.1:7443".into()),
            name: Some("c1".into()),
            now_ms: NOW - HOUR,
        };
        let open = async |dir: PathBuf| Ok(sqlite(&dir)? as Arc<dyn Store>);
        let report = init(options, Vec::new(), open).await.unwrap();
        let store = sqlite(&old).unwrap();
        let fence = store.take_term(&report.incarnation, "test").await.unwrap();
        let changes = [
            ("obj/pod/default/a", "a"),
            (
                "coordinator/c2",
                r#"{"address":"c2:7443","enrol":"c2:7444","joined":"2026-01-01T00:00:00Z"}"#,
            ),
            ("issuer/c2", "{}"),
        ];
        let changes = changes.map(|(key, value)| Change::put(key, Expect::Any, value));
        store.commit(&fence, changes.into()).await.unwrap();
        let key = std::fs::read(old.join("cluster.key")).unwrap();
        let keys = Keys {
            secret: Arc::new(ClusterKey::from_bytes(&key).unwrap()),
            passphrase: WORDS.into(),
            cost: Cost {
                memory: 8,
                passes: 1,
                lanes: 1,
            },
        };
        for (name, keys) in [("plain", None), ("keys", Some(keys))] {
            let taken = take(&*store, keys, NOW - HOUR).await.unwrap();
            std::fs::write(dir.path().join(name), taken.bytes).unwrap();
        }
        std::fs::write(dir.path().join("pass"), format!("{WORDS}\n")).unwrap();
        let newest = store.newest();
        store.close().await;
        Self {
            dir,
            cluster: report.cluster,
            incarnation: report.incarnation,
            newest,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self, file: &str, to: &str) -> RestoreOptions {
        RestoreOptions {
            file: self.at(file),
            data_dir: self.at(to),
            passphrase_file: Some(self.at("pass")),
            advertise: None,
            name: Some("c9".into()),
            place: None,
            now_ms: NOW,
        }
    }

    async fn refused(&self, options: RestoreOptions) -> String {
        let before = tree(&options.data_dir);
        let refused = restore(options.clone(), open).await.expect_err("refused").to_string();
        assert!(!refused.contains('\n'), "{refused}");
        assert_eq!(tree(&options.data_dir), before, "{refused}: something was left");
        refused
    }

    /// The store's file is lost.
    fn lose_store(&self) {
        for name in ["store.db", "store.db-wal", "store.db-shm"] {
            let _ = std::fs::remove_file(self.at("old").join(name));
        }
    }
}

fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else if !path.ends_with("lock") {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// The keys of coordinators.
fn replicas(entries: &[Entry]) -> Vec<&str> {
    let keys = entries.iter().map(|e| e.key.as_str());
    keys.filter(|k| k.starts_with("coordinator/") || k.starts_with("issuer/"))
        .collect()
}

fn json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn a_new_directory_is_made_of_a_backup_with_keys() {
    let bed = Bed::new().await;
    let options = RestoreOptions {
        advertise: Some("c9.example:7443".into()),
        ..bed.options("keys", "new")
    };
    let report = restore(options, open).await.unwrap();
    assert_eq!(report.cluster, bed.cluster);
    assert_ne!(report.incarnation, bed.incarnation);
    assert_eq!(report.admin_file, Some(bed.at("new/admin.yaml")));
    for name in ["cluster.key", "ca/intermediate.crt"] {
        let same = std::fs::read(bed.at("new").join(name)).unwrap() == std::fs::read(bed.at("old").join(name)).unwrap();
        assert_eq!(same, name == "cluster.key", "{name}");
    }
    let layout = Layout::new(&bed.at("new"));
    let file = ClusterFile::read(&layout.cluster_file()).unwrap();
    assert_eq!((file.name.as_str(), &file.incarnation), ("c9", &report.incarnation));
    // Below the same root: who trusts that trusts the new intermediate.
    let old = Layout::new(&bed.at("old")).issuer(&bed.cluster).unwrap();
    assert_eq!(layout.issuer(&bed.cluster).unwrap().root, old.root);

    let store = sqlite(&bed.at("new")).unwrap();
    let meta: ClusterMeta = json(&store.get(META_CLUSTER).await.unwrap().unwrap().value);
    assert_eq!(
        (&meta.incarnation, meta.addresses),
        (&report.incarnation, vec!["c9.example:7443".to_owned()])
    );
    let restored: RestoredRecord = json(&store.get(keys::RESTORED).await.unwrap().unwrap().value);
    assert_eq!(restored.accepted, None);
    let from = Former {
        incarnation: bed.incarnation.clone(),
        newest: bed.newest,
    };
    assert_eq!((restored.from, restored.taken_at_ms), (vec![from], NOW - HOUR));
    assert!(store.get(keys::TERM).await.unwrap().is_none(), "nobody leads it yet");
    // The new directory's coordinator is the only one, so that it may lead and no other one.
    let own = layout.issuer(&bed.cluster).unwrap();
    assert_eq!(
        replicas(&store.load().await.unwrap().entries),
        ["coordinator/c9", "issuer/c9"]
    );
    let record: CoordinatorRecord = json(&store.get("coordinator/c9").await.unwrap().unwrap().value);
    assert_eq!(
        (record.address.as_str(), record.enrol.as_str()),
        ("c9.example:7443", "c9.example:7444")
    );
    let issuer: IssuerRecord = json(&store.get("issuer/c9").await.unwrap().unwrap().value);
    assert_eq!(issuer.key, hex(&spki_sha256(&own.intermediate).unwrap()));
    let pod = store.get("obj/pod/default/a").await.unwrap().unwrap();
    assert_eq!(
        pod.rv,
        Rv::new(bed.newest.revision(), 0),
        "the first of the last transaction"
    );
    let fence = store.take_term(&report.incarnation, "test").await.unwrap();
    // An hour at more than any disk can do was free.
    assert!(fence.term > bed.newest.revision() + HOUR * 60, "{}", fence.term);
    store.close().await;
    assert!(bed.refused(bed.options("keys", "new")).await.contains("holds a store"));
}

#[tokio::test]
async fn a_coordinator_that_lost_its_store_gets_it_back_with_its_own_keys() {
    let bed = Bed::new().await;
    bed.lose_store();
    std::fs::write(bed.at("old/served.json"), "{}").unwrap();
    let key = std::fs::read(bed.at("old/cluster.key")).unwrap();
    let options = RestoreOptions {
        passphrase_file: None,
        ..bed.options("plain", "old")
    };
    let report = restore(options, open).await.unwrap();
    assert_eq!(report.admin_file, None);
    assert_eq!(report.addresses, ["127.0.0.1:7443"]);
    let file = ClusterFile::read(&bed.at("old/cluster.json")).unwrap();
    assert_eq!((file.name.as_str(), file.incarnation), ("c1", report.incarnation));
    let store = sqlite(&bed.at("old")).unwrap();
    assert_eq!(
        replicas(&store.load().await.unwrap().entries),
        ["coordinator/c1", "issuer/c1"]
    );
    store.close().await;
    assert_eq!(std::fs::read(bed.at("old/cluster.key")).unwrap(), key);
    // The mark of what was served is out of the way and not gone.
    assert!(!bed.at("old/served.json").exists());
    assert!(bed.at(&format!("old/served.json.before-{NOW}")).exists());
}

#[tokio::test]
async fn a_second_restore_remembers_every_history_before() {
    let bed = Bed::new().await;
    let first = restore(bed.options("keys", "new"), open).await.unwrap();
    let store = sqlite(&bed.at("new")).unwrap();
    let newest = store.newest();
    let taken = take(&*store, None, NOW + HOUR).await.unwrap();
    store.close().await;
    std::fs::write(bed.at("second"), taken.bytes).unwrap();
    for file in ["store.db", "store.db-wal", "store.db-shm"] {
        // What the last one to close leaves behind differs.
        let _ = std::fs::remove_file(bed.at("new").join(file));
    }
    let options = RestoreOptions {
        now_ms: NOW + HOUR,
        ..bed.options("second", "new")
    };
    restore(options, open).await.unwrap();
    let store = sqlite(&bed.at("new")).unwrap();
    let restored: RestoredRecord = json(&store.get(keys::RESTORED).await.unwrap().unwrap().value);
    let from: Vec<_> = restored
        .from
        .iter()
        .map(|f| (f.incarnation.as_str(), f.newest))
        .collect();
    assert_eq!(
        from,
        [
            (bed.incarnation.as_str(), bed.newest),
            (first.incarnation.as_str(), newest)
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_restored_is_refused_and_leaves_nothing() {
    let bed = Bed::new().await;
    let bytes = std::fs::read(bed.at("keys")).unwrap();
    let mut newer = bytes.clone();
    newer[11] = 9;
    let mut damaged = bytes.clone();
    damaged[400] ^= 1;
    for (name, bytes, words) in [
        ("cut", bytes[..bytes.len() / 2].to_vec(), "is cut off"),
        ("newer", newer, "use that release"),
        ("damaged", damaged, "is damaged"),
        ("foreign", b"a text".to_vec(), "no Wharfinger backup"),
        ("empty", Vec::new(), "no Wharfinger backup"),
    ] {
        std::fs::write(bed.at(name), bytes).unwrap();
        let refused = bed.refused(bed.options(name, "new")).await;
        assert!(
            refused.contains(words) && refused.contains(&bed.at(name).display().to_string()),
            "{refused}"
        );
    }
    assert!(bed.refused(bed.options("nowhere", "new")).await.contains("nowhere"));

    std::fs::write(bed.at("wrong"), "another passphrase\n").unwrap();
    for (options, words) in [
        (bed.options("plain", "new"), "holds no keys"),
        (
            RestoreOptions {
                passphrase_file: None,
                ..bed.options("keys", "new")
            },
            "give --passphrase-file",
        ),
        (
            RestoreOptions {
                passphrase_file: Some(bed.at("wrong")),
                ..bed.options("keys", "new")
            },
            "not the one that the backup's keys were sealed under",
        ),
        (
            RestoreOptions {
                advertise: Some("nonsense".into()),
                ..bed.options("keys", "new")
            },
            "HOST:PORT",
        ),
        (
            RestoreOptions {
                name: Some("No Name".into()),
                ..bed.options("keys", "new")
            },
            "DNS subdomain",
        ),
        (bed.options("keys", "old"), "holds a store"),
    ] {
        let refused = bed.refused(options).await;
        assert!(refused.contains(words), "{refused}");
    }
    assert!(!bed.at("new").exists());

    // Into the directory of another cluster, and of this one with another secret.
    let other = Bed::new().await;
    other.lose_store();
    let options = RestoreOptions {
        data_dir: other.at("old"),
        ..bed.options("keys", "old")
    };
    let refused = bed.refused(options).await;
    assert!(
        refused.contains(&other.cluster) && refused.contains(&bed.cluster),
        "{refused}"
    );
    bed.lose_store();
    std::fs::write(bed.at("old/cluster.key"), [7; 32]).unwrap();
    let refused = bed.refused(bed.options("keys", "old")).await;
    assert!(
        refused.contains("is not the secret of the backup's cluster"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_store_in_use_is_not_restored_over() {
    let bed = Bed::new().await;
    bed.lose_store();
    let before = tree(&bed.at("old"));
    let used = Arc::new(MemoryStore::default());
    used.take_term("i", "h").await.unwrap();
    let open = async |_| Ok(used.clone() as Arc<dyn Import>);
    let refused = restore(bed.options("plain", "old"), open).await.expect_err("in use");
    assert!(matches!(refused, RestoreError::StoreInUse { .. }), "{refused}");
    assert_eq!(tree(&bed.at("old")), before);
}

/// A store elsewhere that remembers whether what was imported was taken back.
#[derive(Default)]
struct Elsewhere {
    inner: MemoryStore,
    withdrawn: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl Store for Elsewhere {
    async fn load(&self) -> Result<crate::store::Snapshot, crate::store::ReadError> {
        self.inner.load().await
    }
    async fn get(&self, key: &str) -> Result<Option<Entry>, crate::store::ReadError> {
        self.inner.get(key).await
    }
    async fn scan(&self, span: crate::store::Span) -> Result<Vec<Entry>, crate::store::ReadError> {
        self.inner.scan(span).await
    }
    async fn watch(&self, after: Rv) -> Result<crate::store::Watch, crate::store::ReadError> {
        self.inner.watch(after).await
    }
    async fn commit(
        &self,
        fence: &crate::store::Fence,
        changes: Vec<Change>,
    ) -> Result<crate::store::Committed, crate::store::CommitError> {
        self.inner.commit(fence, changes).await
    }
    async fn take_term(
        &self,
        incarnation: &str,
        holder: &str,
    ) -> Result<crate::store::Fence, crate::store::CommitError> {
        self.inner.take_term(incarnation, holder).await
    }
    fn newest(&self) -> Rv {
        self.inner.newest()
    }
}

#[async_trait::async_trait]
impl Import for Elsewhere {
    async fn import(&self, state: Imported) -> Result<(), ImportError> {
        self.inner.import(state).await
    }
    async fn withdraw(&self) -> Result<(), ImportError> {
        self.withdrawn.store(true, std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn a_restore_elsewhere_that_fails_after_the_import_takes_it_back() {
    let bed = Bed::new().await;
    let elsewhere = |to: &str| RestoreOptions {
        place: Some("etcd there".into()),
        ..bed.options("keys", to)
    };
    // Something of the directory's is in the way by the time that the files get their names.
    let store = Arc::new(Elsewhere::default());
    let open = async |dir: PathBuf| {
        std::fs::create_dir_all(dir.join("admin.yaml/in")).unwrap();
        Ok(store.clone() as Arc<dyn Import>)
    };
    restore(elsewhere("new"), open).await.expect_err("in the way");
    assert!(store.withdrawn.load(std::sync::atomic::Ordering::SeqCst));
    // One that works, beside a file of the former store, which is another one's.
    let store = Arc::new(Elsewhere::default());
    let open = async |_| Ok(store.clone() as Arc<dyn Import>);
    restore(elsewhere("old"), open).await.unwrap();
    assert!(!store.withdrawn.load(std::sync::atomic::Ordering::SeqCst));
    let refused = restore(elsewhere("old"), open).await.expect_err("in use").to_string();
    assert!(refused.starts_with("etcd there is not empty"), "{refused}");
}
