//! The ledger's file and its keeper, on a real directory.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use proto::wire;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{clock::Clock, step::PodBook};

fn sample() -> Ledger {
    let mut ledger = Ledger {
        fence: Some(Fence {
            incarnation: "i".into(),
            term: 7,
            nonce: "n".into(),
        }),
        revision: 12,
        epoch: 3,
        coordinators: vec!["c:7443".into()],
        ..Ledger::default()
    };
    let entry = PodEntry {
        uid: "u".into(),
        spec_json: r#"{"containers":[]}"#.into(),
        ..PodEntry::default()
    };
    ledger.pods.insert("u".into(), Arc::new(entry));
    ledger
}

#[test]
fn reads_back_what_was_written_privately() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(load(dir.path()).expect("never written"), Ledger::default());
    save(dir.path(), &sample(), true).expect("saved");
    assert_eq!(load(dir.path()).expect("read"), sample());
    let mode = fs::metadata(dir.path().join("ledger.json"))
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // A leftover of a killed writer is in nobody's way.
    fs::write(dir.path().join("ledger.tmp"), b"half").expect("written");
    save(dir.path(), &Ledger::default(), true).expect("saved");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

#[test]
fn damage_is_refused_and_never_reset() {
    let dir = tempfile::tempdir().expect("a directory");
    save(dir.path(), &sample(), true).expect("saved");
    let path = dir.path().join("ledger.json");
    let whole = fs::read(&path).expect("read");
    for cut in [0, 1, 20, whole.len() / 2, whole.len() - 3] {
        fs::write(&path, &whole[..cut]).expect("written");
        let error = load(dir.path()).expect_err("damaged").to_string();
        assert!(
            error.contains("ledger.json is damaged") && error.contains("containers keep running"),
            "{error}"
        );
        assert!(!error.contains('\n'));
        assert_eq!(fs::read(&path).expect("read"), &whole[..cut], "left as it was");
    }
    // A changed digit: JSON all the same, but not what was written.
    let changed = String::from_utf8(whole.clone())
        .expect("text")
        .replace("\"revision\":12", "\"revision\":11");
    fs::write(&path, changed).expect("written");
    assert!(load(dir.path()).expect_err("damaged").to_string().contains("checksum"));
    let newer = String::from_utf8(whole)
        .expect("text")
        .replace("\"format\":1", "\"format\":2");
    fs::write(&path, newer).expect("written");
    assert!(load(dir.path()).expect_err("newer").to_string().contains("format 2"));
}

fn assignments(applies_to: u64, uid: &str) -> wire::Assignments {
    wire::Assignments {
        kind: wire::assignments::Kind::Incremental.into(),
        fence: sample().fence.as_ref().map(Into::into),
        applies_to,
        results_in: applies_to + 1,
        run: vec![wire::Run {
            uid: uid.into(),
            namespace: "default".into(),
            name: uid.into(),
            spec_json: b"{}".to_vec(),
            ..wire::Run::default()
        }],
        ..wire::Assignments::default()
    }
}

fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(DataDir {
        path: path.to_owned(),
        sync: true,
    })
}

#[tokio::test(start_paused = true)]
async fn the_keeper_answers_after_the_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let lazy = Duration::from_secs(1);
    let (keeper, handle) = Keeper::open(disk(dir.path()), sample(), lazy, Clock::new())
        .await
        .expect("opened");
    assert_eq!(
        load(dir.path()).expect("read").epoch,
        4,
        "this start is counted before anything else"
    );
    let stop = CancellationToken::new();
    let task = tokio::spawn(keeper.run(stop.clone()));

    handle.assignments(assignments(12, "v")).await.expect("accepted");
    assert_eq!(load(dir.path()).expect("read"), *handle.current());
    assert!(handle.current().pods.contains_key("v"));

    let gap = handle.assignments(assignments(12, "w")).await;
    assert_eq!(gap, Err(Saved::Refused(Refusal::Gap { ours: 13, theirs: 12 })));
    assert!(!handle.current().pods.contains_key("w"));

    // A note waits for the next write or a second.
    let book = PodBook {
        ready: true,
        ..PodBook::default()
    };
    handle.note_book("v", book.clone()).await;
    let mut watch = handle.watch();
    watch.wait_for(|l| l.pods["v"].book.ready).await.expect("noted");
    assert!(!load(dir.path()).expect("read").pods["v"].book.ready);
    tokio::time::sleep(lazy * 2).await;
    assert!(load(dir.path()).expect("read").pods["v"].book.ready);

    // What is still assigned cannot be dropped.
    handle.drop_pod("v").await.expect("answered");
    assert!(handle.current().pods.contains_key("v"));

    // What was noted last is on disk after the end.
    handle.note_book("u", book).await;
    stop.cancel();
    task.await.expect("ended");
    assert!(load(dir.path()).expect("read").pods["u"].book.ready);
    assert_eq!(handle.save_book("u", PodBook::default()).await, Err(Saved::Stopping));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_no_write_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    fs::create_dir(&data).expect("made");
    let lazy = Duration::from_secs(1);
    let (keeper, handle) = Keeper::open(disk(&data), sample(), lazy, Clock::new())
        .await
        .expect("opened");
    let stop = CancellationToken::new();
    let task = tokio::spawn(keeper.run(stop.clone()));
    fs::rename(&data, dir.path().join("away")).expect("moved");
    let answer = handle.assignments(assignments(12, "v")).await;
    assert!(
        matches!(&answer, Err(Saved::NotDurable(why)) if why.contains("cannot write the ledger")),
        "{answer:?}"
    );
    assert!(!handle.current().pods.contains_key("v"));
    // It goes on when the disk does.
    fs::rename(dir.path().join("away"), &data).expect("moved back");
    handle.assignments(assignments(12, "v")).await.expect("accepted");
    stop.cancel();
    task.await.expect("ended");
}

#[test]
fn a_stop_entry_of_an_older_agent_has_no_drain() {
    let entry: StopIntent =
        serde_json::from_str(r#"{"reason":"deleted","grace_seconds":30,"accepted_ms":5}"#).expect("reads");
    assert_eq!((entry.grace_seconds, entry.accepted_ms, entry.drain_ms), (30, 5, 0));
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_lengthen_a_drain() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Clock::new();
    let now_ms = clock.now_ms();
    let mut ledger = sample();
    for (uid, accepted_ms) in [("ahead", now_ms + 3_600_000), ("before", now_ms - 1_000)] {
        let entry = PodEntry {
            stop: Some(StopIntent {
                accepted_ms,
                drain_ms: 5_000,
                ..StopIntent::default()
            }),
            ..PodEntry::default()
        };
        ledger.pods.insert(uid.into(), Arc::new(entry));
    }
    let lazy = Duration::from_secs(1);
    let (_keeper, handle) = Keeper::open(disk(dir.path()), ledger, lazy, clock)
        .await
        .expect("opened");
    let accepted = |uid: &str| handle.current().pods[uid].stop.as_ref().map(|s| s.accepted_ms);
    assert!(accepted("ahead").is_some_and(|at| (now_ms..now_ms + 1_000).contains(&at)));
    assert_eq!(accepted("before"), Some(now_ms - 1_000));
}
