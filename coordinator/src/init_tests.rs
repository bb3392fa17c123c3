//! `init` and `admin-credentials` on real directories.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::ca::test_store::TestStore;

const NOW: u64 = 1_800_000_000_000;

fn options(dir: &Path) -> InitOptions {
    InitOptions {
        data_dir: dir.to_owned(),
        advertise: Some("127.0.0.1:7443".into()),
        name: None,
        now_ms: NOW,
    }
}

async fn run(dir: &Path, store: &Arc<TestStore>) -> Result<InitReport, InitError> {
    let store: Arc<dyn Store> = store.clone();
    init(options(dir), Vec::new(), async |_| Ok(store)).await
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = listing(dir)
        .expect("list")
        .iter()
        .filter_map(|p| Some(p.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn makes_private_files_and_the_clusters_facts() {
    let parent = tempfile::tempdir().expect("directory");
    let dir = parent.path().join("new/data");
    let store = TestStore::new();
    let report = run(&dir, &store).await.expect("init");
    assert_eq!(names(&dir), ["admin.yaml", "ca", "cluster.json", "cluster.key"]);
    assert_eq!(names(&dir.join("ca")), ["intermediate.crt", "intermediate.key"]);
    for file in [
        "admin.yaml",
        "cluster.json",
        "cluster.key",
        "ca/intermediate.key",
        "ca/intermediate.crt",
    ] {
        let mode = std::fs::metadata(dir.join(file))
            .expect("metadata")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(
        std::fs::metadata(&dir).expect("metadata").permissions().mode() & 0o777,
        0o700
    );

    let text = std::fs::read_to_string(dir.join("admin.yaml")).expect("admin.yaml");
    let admin: Credentials = serde_saphyr::from_str(&text).expect("YAML");
    assert_eq!(admin.coordinators, ["127.0.0.1:7443"]);
    assert_eq!(admin.cluster, report.cluster);
    assert!(admin.key.contains("PRIVATE KEY") && admin.certificate.matches("BEGIN CERTIFICATE").count() == 2);
    assert!(admin.endpoint("127.0.0.1:7443", Default::default()).is_ok());

    let meta = store.get(META_CLUSTER).await.expect("get").expect("meta/cluster");
    let text = String::from_utf8(meta.value.to_vec()).expect("JSON");
    assert!(!text.contains("PRIVATE KEY"));
    let meta: ClusterMeta = serde_json::from_str(&text).expect("meta");
    assert_eq!(
        (&meta.cluster, &meta.incarnation),
        (&report.cluster, &report.incarnation)
    );
    let key = ClusterKey::from_bytes(&std::fs::read(dir.join("cluster.key")).expect("key")).expect("key");
    let root = key.open(&meta.cluster, &meta.sealed_root_key).expect("opens");
    let root = KeyPair::try_from(root.as_slice()).expect("a key");
    let (_, pem) = x509_parser::pem::parse_x509_pem(meta.root_pem.as_bytes()).expect("PEM");
    let certificate = pem.parse_x509().expect("certificate");
    assert_eq!(
        certificate.public_key().raw,
        rcgen::PublicKeyData::subject_public_key_info(&root)
    );
    let binding = store.get("binding/admin").await.expect("get").expect("binding");
    assert!(String::from_utf8_lossy(&binding.value).contains("\"admin\""));
}

#[tokio::test]
async fn refuses_to_overwrite_and_names_the_file() {
    let dir = tempfile::tempdir().expect("directory");
    run(dir.path(), &TestStore::new()).await.expect("init");
    let before = std::fs::read(dir.path().join("cluster.key")).expect("key");
    for removed in ["", "cluster.json", "admin.yaml", "cluster.key"] {
        if !removed.is_empty() {
            std::fs::remove_file(dir.path().join(removed)).expect("remove");
        }
        let error = run(dir.path(), &TestStore::new())
            .await
            .expect_err("exists")
            .to_string();
        assert!(error.starts_with(&dir.path().display().to_string()), "{error}");
        assert!(error.contains("already exists"), "{error}");
        if removed.is_empty() {
            assert_eq!(std::fs::read(dir.path().join("cluster.key")).expect("key"), before);
        }
    }
    let interrupted = tempfile::tempdir().expect("directory");
    std::fs::create_dir(interrupted.path().join(".init")).expect("directory");
    let error = run(interrupted.path(), &TestStore::new())
        .await
        .expect_err("interrupted");
    assert!(matches!(error, InitError::Interrupted { .. }), "{error}");
}

#[tokio::test]
async fn a_failure_leaves_nothing_behind() {
    let parent = tempfile::tempdir().expect("directory");
    let dir = parent.path().join("data");
    let fails = |dir: PathBuf| async move {
        std::fs::write(dir.join("wharf.db"), b"half").expect("write");
        Err(OpenError::Io {
            path: "x".into(),
            what: "no".into(),
        })
    };
    init(options(&dir), Vec::new(), fails).await.expect_err("no store");
    assert!(!dir.exists());
    std::fs::create_dir(&dir).expect("directory");
    std::fs::write(dir.join("config.toml"), b"").expect("write");
    let store = TestStore::new();
    store.full.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = run(&dir, &store).await.expect_err("full");
    assert!(matches!(error, InitError::Commit(CommitError::Full(_))), "{error}");
    assert_eq!(names(&dir), ["config.toml"]);
    run(&dir, &store).await.expect("and then it works");
    let other = parent.path().join("other");
    let error = run(&other, &store).await.expect_err("the store is taken");
    assert!(matches!(error, InitError::StoreInUse(_)), "{error}");
    assert!(!other.exists());
}

#[tokio::test]
async fn addresses_and_names_are_checked() {
    let dir = tempfile::tempdir().expect("directory");
    for bad in [
        "",
        "host",
        "host:",
        ":7443",
        "host:0",
        "host:70000",
        "a b:1",
        "u@h:1",
        "h/x:1",
    ] {
        let options = InitOptions {
            advertise: Some(bad.into()),
            ..options(dir.path())
        };
        let error = init(options, Vec::new(), async |_| Ok(TestStore::new() as Arc<dyn Store>))
            .await
            .expect_err("refused");
        assert!(matches!(error, InitError::Advertise(_)), "{bad}: {error}");
    }
    for good in ["h:1", "10.0.0.1:7443", "[::1]:7443"] {
        assert!(check_address(good).is_ok(), "{good}");
    }
    assert!(check_address(&format!("{}:7443", own_address())).is_ok());
    assert!(check_dns_subdomain(&host_name()).is_ok());
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn admin_credentials_are_on_record_and_named_when_missing() {
    let dir = tempfile::tempdir().expect("directory");
    let error = admin_credentials(dir.path(), NOW).expect_err("no cluster").to_string();
    assert!(
        error.contains("cluster.json: no cluster in this data directory"),
        "{error}"
    );
    run(dir.path(), &TestStore::new()).await.expect("init");
    let one = admin_credentials(dir.path(), NOW).expect("credentials");
    let two = admin_credentials(dir.path(), NOW).expect("credentials");
    assert_ne!(one.certificate, two.certificate);
    assert_eq!(names(&dir.path().join("ca/audit")).len(), 2);
}
