//! What starts after the host has booted, and when.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{
    runtime::fake::{FakeEngine, Op},
    settings::Settings,
    worker::tests::{Rig, pod, stop_of},
};

/// Two pods that ran in `boot-1`; their agent is gone, and the host has booted: nothing runs.
async fn booted() -> (TempDir, Arc<FakeEngine>) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = FakeEngine::new();
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    let pods = vec![pod("u1", &["app:1"]), pod("u2", &["app:1"])];
    rig.assign(pods, vec![], &[]).await;
    for uid in ["u1", "u2"] {
        rig.until_ready(uid).await;
    }
    rig.end().await;
    engine.restart();
    (dir, engine)
}

async fn again(boot: &str, (dir, engine): &(TempDir, Arc<FakeEngine>)) -> Rig {
    Rig::start_in(boot, dir, engine, Settings::default()).await
}

/// How long until so many containers run.
async fn until_running(rig: &Rig, n: usize) -> Duration {
    let begun = Instant::now();
    rig.until("containers run", |r| r.running().len() == n).await;
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn what_was_replaced_meanwhile_is_not_started() {
    let host = booted().await;
    let rig = again("boot-2", &host).await;
    sleep(Duration::from_secs(59)).await;
    assert_eq!(rig.running().len(), 0, "nothing starts before somebody spoke");
    // Both of the agent's pods are told as they are: it looks and reports meanwhile.
    for uid in ["u1", "u2"] {
        assert!(!rig.status(uid).expect("reported").ready());
    }
    rig.assign(vec![], vec![stop_of("u1", 1)], &[]).await;
    assert!(until_running(&rig, 1).await < Duration::from_secs(1));
    rig.until_ready("u2").await;
    assert_eq!(host.1.calls(Op::Start), 3, "two before the boot, one after it");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_coordinator_the_ledger_is_started_from_after_a_minute() {
    let host = booted().await;
    let rig = again("boot-2", &host).await;
    let waited = until_running(&rig, 2).await;
    assert!((60..62).contains(&waited.as_secs()), "{waited:?}");
    rig.end().await;
    // The boot is on record now: the agent's next start in it waits for nothing.
    host.1.restart();
    let rig = again("boot-2", &host).await;
    assert!(until_running(&rig, 2).await < Duration::from_secs(15));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_within_the_wait_waits_too() {
    let host = booted().await;
    for _ in 0..2 {
        let rig = again("boot-2", &host).await;
        sleep(Duration::from_secs(40)).await;
        assert_eq!(rig.running().len(), 0);
        rig.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_boot_and_an_unknown_one_wait_for_nothing() {
    for boot in ["boot-1", ""] {
        let host = booted().await;
        let rig = again(boot, &host).await;
        let waited = until_running(&rig, 2).await;
        assert!(waited < Duration::from_secs(1), "{boot:?}: {waited:?}");
        rig.end().await;
    }
    let host = booted().await;
    let settings = Settings {
        boot_wait_ms: 0,
        ..Settings::default()
    };
    let rig = Rig::start_in("boot-2", &host.0, &host.1, settings).await;
    assert!(until_running(&rig, 2).await < Duration::from_secs(1));
    rig.end().await;
}
