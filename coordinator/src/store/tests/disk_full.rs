//! A full disk: a small file system of its own, filled up. Needs root, as it mounts one.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use super::{
    super::{
        Change, CommitError, Expect, OpenError, Rv, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
    rig::{any, lead, until, value, within},
};

/// A mounted tmpfs of four MiB; unmounted at its end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "this test mounts a small tmpfs: run it as root"
        );
        run(
            "mount",
            &["-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs"],
            dir.path(),
        );
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Takes all the room there is; given back by removing the file.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [64 << 10, 4 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().unwrap();
    assert!(status.success(), "{program} {arguments:?} {}: {status}", path.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_recovers_when_there_is_room() {
    let disk = SmallDisk::new();
    let options = SqliteOptions {
        history: 50,
        ..SqliteOptions::default()
    };
    let store = Arc::new(SqliteStore::open(&disk.path(), options.clone()).unwrap());
    let fence = lead(&*store).await;
    let mut watch = store.watch(Rv(0)).await.unwrap();
    let mut acknowledged: Vec<(String, Rv)> = Vec::new();

    // So that trimming goes on, too.
    for i in 0..100 {
        let key = format!("before/{i}");
        let done = store.commit(&fence, vec![any(&key, "1")]).await.unwrap();
        acknowledged.push((key, done.last()));
    }

    for round in 0..3 {
        let filler = disk.fill();
        // The log's room on disk is used again for a while; then nothing goes.
        let mut n = 0;
        let full = loop {
            let key = format!("r{round}/{n}");
            match store.commit(&fence, vec![any(&key, &"x".repeat(3_000))]).await {
                Ok(done) => acknowledged.push((key, done.last())),
                Err(e) => break e,
            }
            n += 1;
        };
        let CommitError::Full(why) = &full else {
            panic!("{full:?}")
        };
        assert!(why.contains(&disk.path().display().to_string()), "{why}");
        let newest = store.newest();

        // Many at once, each of several changes: every one is told, none is applied in part.
        let mut writers = tokio::task::JoinSet::new();
        for w in 0..20 {
            let (store, fence) = (Arc::clone(&store), fence.clone());
            writers.spawn(async move {
                let changes = (0..8)
                    .map(|k| any(&format!("full{round}/{w}/{k}"), &"y".repeat(4_000)))
                    .chain([Change::delete("term", Expect::At(Rv(3)))]);
                // With and without a refusal of its own.
                let changes = changes.take(8 + w % 2).collect();
                store.commit(&fence, changes).await
            });
        }
        for answer in within(writers.join_all()).await {
            assert!(
                matches!(answer, Err(CommitError::Full(_) | CommitError::Conflict { .. })),
                "{answer:?}"
            );
        }
        assert_eq!(store.newest(), newest);
        // Reads go on.
        for (key, rv) in acknowledged.iter().rev().take(20) {
            assert_eq!(store.get(key).await.unwrap().map(|e| e.rv), Some(*rv));
        }

        std::fs::remove_file(filler).unwrap();
        let key = format!("room{round}");
        let done = store.commit(&fence, vec![any(&key, "1")]).await.unwrap();
        assert!(done.last() > newest);
        acknowledged.push((key, done.last()));
    }

    // The watch saw what was acknowledged and nothing else, each once.
    let seen = until(&mut watch, store.newest()).await;
    let seen: Vec<(String, Rv)> = seen.into_iter().skip(2).map(|u| (u.key, u.rv)).collect();
    assert_eq!(seen, acknowledged);

    let before = store.load().await.unwrap();
    store.close().await;
    let store = SqliteStore::open(&disk.path(), options).unwrap();
    assert_eq!(store.load().await.unwrap(), before);
    assert_eq!(before.entries.len(), 2 + acknowledged.len());
    for (key, _) in acknowledged {
        assert!(value(&store, &key).await.is_some(), "{key}");
    }
}

#[tokio::test]
async fn no_room_at_the_start_is_said_and_leaves_no_half_store() {
    let disk = SmallDisk::new();
    std::fs::create_dir(disk.path()).unwrap();
    let filler = disk.fill();
    let error = SqliteStore::open(&disk.path(), SqliteOptions::default())
        .map(drop)
        .expect_err("there is no room");
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("full") || text.contains("No space left"), "{text}");
    std::fs::remove_file(filler).unwrap();
    let store = SqliteStore::open(&disk.path(), SqliteOptions::default()).unwrap();
    lead(&store).await;
}
