//! When a backup is due, and which files go.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::{
    backup::tests as bed,
    store::{Change, Expect, Store, keys},
    world::record::encode,
};

#[test]
fn due_is_a_period_after_the_last_one() {
    let hour = Duration::from_secs(3600);
    for (last, every, now, expected) in [
        (None, hour, 5, Some(5)),
        (Some(1_000), hour, 2_000, Some(3_601_000)),
        (Some(1_000), Duration::ZERO, 2_000, None),
        // Made under a clock that was ahead: it says nothing of when.
        (Some(9_000), hour, 2_000, Some(2_000)),
    ] {
        assert_eq!(due(last, every, now), expected, "{last:?} {every:?} {now}");
    }
}

#[test]
fn only_its_own_files_are_counted_and_removed() {
    for (name, at) in [
        ("wharf-1800000000000.backup", Some(1_800_000_000_000)),
        ("wharf-1800000000000.backup.tmp", None),
        ("wharf-18.backup", None),
        ("wharf-+800000000000.backup", None),
        ("fleet.backup", None),
    ] {
        assert_eq!(taken_at(name), at, "{name}");
    }
    assert_eq!(taken_at(&file_name(7)), Some(7));

    let dir = tempfile::tempdir().unwrap();
    let backups = dir.path().join("backups");
    files::create_private_dir(&backups).unwrap();
    std::fs::write(backups.join("mine.backup"), "x").unwrap();
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(&backups)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    for at in [10, 20, 30] {
        write(&backups, at, b"b", 2).unwrap();
    }
    assert_eq!(names(), ["mine.backup".to_owned(), file_name(20), file_name(30)]);
    // The clock was set back: the newest by name is not the one just written, which stays.
    write(&backups, 5, b"b", 1).unwrap();
    assert_eq!(names(), ["mine.backup".to_owned(), file_name(5)]);
    let mode = std::fs::metadata(backups.join(file_name(5)))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_tick_makes_one_when_it_is_due_and_puts_it_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(bed::store().await);
    let hub = Hub::load(store.clone()).await.unwrap();
    let feeding = tokio::spawn(hub.clone().run());
    let fence = store.take_term(bed::INCARNATION, "test").await.unwrap();
    hub.set_fence(Some(fence));
    let now = 1_800_000_000_000;
    let path = tick(&hub, dir.path(), now)
        .await
        .unwrap()
        .expect("none was made before");
    let read = proto::backup::decode(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(read.header.taken_at_ms, now);
    let record = BackupRecord::last(&*store).await.unwrap().expect("on record");
    assert_eq!((record.at_ms, record.by.as_str()), (now, COORDINATOR));
    assert_eq!(record.file, path.display().to_string());
    let hour = 3_600_000;
    assert_eq!(tick(&hub, dir.path(), now + 23 * hour).await.unwrap(), None);
    assert!(tick(&hub, dir.path(), now + 24 * hour).await.unwrap().is_some());

    // Switched off.
    let off = encode(&std::collections::BTreeMap::from([("backup-every", "0s")]));
    hub.commit(vec![Change::put(keys::SETTINGS, Expect::Any, off)])
        .await
        .unwrap();
    assert_eq!(tick(&hub, dir.path(), now + 240 * hour).await.unwrap(), None);
    feeding.abort();
}

#[tokio::test]
async fn a_directory_that_takes_nothing_is_said_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("backups");
    std::fs::write(&file, "in the way").unwrap();
    let store = Arc::new(bed::store().await);
    let hub = Hub::load(store.clone()).await.unwrap();
    let problem = tick(&hub, &file, 1).await.unwrap_err();
    assert!(!problem.is_empty());
    assert_eq!(BackupRecord::last(&*store).await.unwrap(), None);
}
