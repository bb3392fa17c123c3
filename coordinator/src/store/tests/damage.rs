//! Data directories that must not be used, and what the refusal says.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
};

use super::{
    super::{
        OpenError,
        sqlite::{SqliteOptions, SqliteStore},
    },
    rig::{any, lead, value},
};

fn open(dir: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(dir, SqliteOptions::default())
}

/// A closed store with a few hundred pages.
async fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let fence = lead(&store).await;
    for i in 0..20 {
        let changes = (0..50).map(|k| any(&format!("k{i}/{k}"), &"v".repeat(500))).collect();
        super::super::Store::commit(&store, &fence, changes).await.unwrap();
    }
    drop(store);
    assert!(!dir.path().join("store.db-wal").exists(), "all is in the file");
    dir
}

fn refused(dir: &Path) -> OpenError {
    let error = open(dir).map(drop).expect_err("must not open");
    let text = error.to_string();
    assert!(text.starts_with(&dir.display().to_string()), "{text}");
    assert!(!text.contains('\n'), "{text}");
    error
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    type Harm = fn(&fs::File, u64);
    let harms: [(&str, Harm); 5] = [
        ("garbage from the start", |f, n| {
            f.write_all_at(&vec![0x5a; n as usize], 0).unwrap()
        }),
        ("garbage amid", |f, n| {
            f.write_all_at(&[0xff; 64 << 10], (n / 2) & !0xfff).unwrap()
        }),
        ("half of it gone", |f, n| f.set_len(n / 2).unwrap()),
        ("its end cut off amid a page", |f, n| f.set_len(n - 100).unwrap()),
        ("empty", |f, _| f.set_len(0).unwrap()),
    ];
    for (name, harm) in harms {
        let dir = filled().await;
        let path = dir.path().join("store.db");
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        harm(&file, file.metadata().unwrap().len());
        let before = fs::read(&path).unwrap();
        for _ in 0..2 {
            let error = refused(dir.path());
            assert!(matches!(error, OpenError::Damaged { .. }), "{name}: {error}");
            assert!(error.to_string().contains("restore a backup"), "{name}: {error}");
        }
        assert_eq!(fs::read(&path).unwrap(), before, "{name}");
    }
}

#[tokio::test]
async fn a_missing_file_beside_its_log_is_no_new_store() {
    let dir = filled().await;
    fs::remove_file(dir.path().join("store.db")).unwrap();
    fs::write(dir.path().join("store.db-wal"), "x").unwrap();
    let error = refused(dir.path());
    assert!(
        matches!(&error, OpenError::Damaged { what, .. } if what.contains("missing")),
        "{error}"
    );
    assert!(!dir.path().join("store.db").exists());
}

#[tokio::test]
async fn an_emptied_file_keeps_its_log() {
    let dir = filled().await;
    fs::write(dir.path().join("store.db"), "").unwrap();
    fs::write(dir.path().join("store.db-wal"), "what could still help").unwrap();
    let error = refused(dir.path());
    assert!(
        matches!(&error, OpenError::Damaged { what, .. } if what.contains("empty")),
        "{error}"
    );
    assert!(dir.path().join("store.db-wal").exists());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let dir = filled().await;
    let db = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    db.execute_batch("PRAGMA user_version = 7").unwrap();
    drop(db);
    let error = refused(dir.path());
    assert!(
        matches!(error, OpenError::NewerSchema { found: 7, known: 1, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("run that release"), "{error}");
}

#[tokio::test]
async fn another_program_s_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    db.execute_batch("CREATE TABLE t(a)").unwrap();
    drop(db);
    let error = refused(dir.path());
    assert!(error.to_string().contains("no Wharfinger store"), "{error}");
}

#[tokio::test]
async fn counters_behind_the_log_are_damage() {
    let dir = filled().await;
    let db = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    db.execute_batch("UPDATE meta SET revision = 3, newest = 196608")
        .unwrap();
    drop(db);
    assert!(matches!(refused(dir.path()), OpenError::Damaged { .. }));
}

#[tokio::test]
async fn an_unfinished_new_store_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.db.new"), "half").unwrap();
    let store = open(dir.path()).unwrap();
    lead(&store).await;
    assert!(value(&store, "term").await.is_some());
    assert!(!dir.path().join("store.db.new").exists());
}

#[tokio::test]
async fn the_directory_and_its_files_are_the_owner_s() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let store = open(&dir).unwrap();
    lead(&store).await;
    assert_eq!(mode(&dir), 0o700);
    for file in ["store.db", "store.db-wal", "store.db-shm", "lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    // Opened by others meanwhile: closed again.
    fs::set_permissions(dir.join("store.db"), fs::Permissions::from_mode(0o644)).unwrap();
    drop(store);
    drop(open(&dir).unwrap());
    assert_eq!(mode(&dir.join("store.db")), 0o600);
    // Where everybody writes, nothing can be kept.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let error = refused(&dir);
    assert!(error.to_string().contains("chmod 0700"), "{error}");
    assert_eq!(mode(&dir), 0o777, "not ours to change: other files are in it");
}

#[tokio::test]
async fn the_same_process_cannot_open_it_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let error = refused(dir.path());
    assert!(
        matches!(&error, OpenError::InUse { pid, .. } if *pid == std::process::id()),
        "{error}"
    );
    store.close().await;
    drop(open(dir.path()).unwrap());
}
