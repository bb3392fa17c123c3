//! When a pod is due, by what is known of the coordinator; and that a restart of the agent prolongs nothing.

use std::collections::BTreeMap;

use super::*;

fn pod(uid: &str, limit: &str) -> Arc<PodEntry> {
    let key = proto::model::loss::STOP_AFTER_DISCONNECT.to_owned();
    Arc::new(PodEntry {
        uid: uid.into(),
        annotations: BTreeMap::from([(key, limit.to_owned())]),
        ..PodEntry::default()
    })
}

fn ledger(pods: Vec<Arc<PodEntry>>) -> Ledger {
    Ledger {
        pods: pods.into_iter().map(|p| (p.uid.clone(), p)).collect(),
        ..Ledger::default()
    }
}

fn uids(over: &[(Arc<PodEntry>, u64)]) -> Vec<&str> {
    over.iter().map(|(p, _)| p.uid.as_str()).collect()
}

#[test]
fn a_pod_is_due_by_its_own_limit_and_once() {
    let stopped = Arc::new(PodEntry {
        stop: Some(crate::ledger::StopIntent::default()),
        ..PodEntry::clone(&pod("stopped", "1s"))
    });
    let ended = Arc::new(PodEntry {
        disconnected: Some(crate::ledger::StopIntent::default()),
        ..PodEntry::clone(&pod("ended", "1s"))
    });
    let plain = Arc::new(PodEntry {
        uid: "plain".into(),
        ..PodEntry::default()
    });
    let ledger = ledger(vec![
        pod("a", "10s"),
        pod("b", "30s"),
        pod("odd", "soon"),
        stopped,
        ended,
        plain,
    ]);
    assert_eq!(due(&ledger, 5_000, 14_999), (vec![], Some(15_000)));
    let (over, next) = due(&ledger, 5_000, 15_000);
    assert_eq!((uids(&over), over[0].1, next), (vec!["a"], 10_000, Some(35_000)));
    let (over, next) = due(&ledger, 5_000, 35_000);
    assert_eq!((uids(&over), next), (vec!["a", "b"], None));
}

#[test]
fn a_heartbeat_counts_from_when_it_was_sent() {
    let mut beats = Beats::default();
    for (seq, at) in [(3, 10), (5, 20), (9, 30)] {
        beats.sent(seq, at);
    }
    assert_eq!(beats.heard(2), None);
    assert_eq!(beats.heard(6), Some(20));
    assert_eq!(beats.heard(6), None, "it was counted");
    for n in 0..1000 {
        beats.sent(10 + n, n);
    }
    assert_eq!(beats.0.len(), REMEMBERED);
    assert_eq!(beats.heard(u64::MAX), Some(999));
}

use std::time::Duration;

use proto::model::Phase;
use tokio::task::JoinHandle;

use crate::worker::tests::{Rig, pod as run_of, rig, stop_of};

/// A pod that stops itself after `limit`, with an ordinary one beside it.
async fn assign(rig: &Rig, limit: &str) {
    let mut bound = run_of("u1", &["app:1"]);
    let key = proto::model::loss::STOP_AFTER_DISCONNECT.to_owned();
    bound.annotations.insert(key, limit.to_owned());
    rig.assign(vec![bound, run_of("u2", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    rig.until_ready("u2").await;
}

struct Guard {
    heard: watch::Sender<Contact>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn guard(rig: &Rig, dir: &Path) -> Guard {
    let (heard, contact) = watch::channel(Contact::default());
    let watchman = Watchman::begin(rig.shared.clone(), dir.to_owned(), contact).await;
    let stop = CancellationToken::new();
    let task = tokio::spawn(watchman.run(stop.clone()));
    Guard { heard, stop, task }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_ends_when_its_coordinator_has_not_heard_its_agent_and_stays_ended() {
    let (dir, _engine, rig) = rig().await;
    assign(&rig, "30s").await;
    let guard = guard(&rig, dir.path()).await;
    pass(25).await;
    let now = rig.shared.clock.now_ms();
    guard.heard.send_modify(|c| c.heard_ms = now);
    pass(29).await;
    assert_eq!(load(dir.path()), Some(now));
    assert_eq!(rig.running().len(), 2, "it was heard 29 seconds ago");
    rig.until("the pod has ended", |r| {
        r.status("u1").is_some_and(|s| s.phase == Phase::Failed)
    })
    .await;
    let late = rig.shared.clock.now_ms() - now;
    assert!((30_000..35_000).contains(&late), "after {late} ms");
    let status = rig.status("u1").expect("there");
    assert_eq!(status.reason, "Disconnected");
    assert_eq!(
        status.message,
        "no coordinator has heard this agent for 30s (stop-after-disconnect)"
    );
    assert_eq!(rig.running().len(), 1, "the other one runs on");
    // Heard again, nothing comes back; without a stop entry its end is no stop.
    let now = rig.shared.clock.now_ms();
    guard.heard.send_modify(|c| c.heard_ms = now);
    pass(120).await;
    assert_eq!(rig.running().len(), 1);
    let stopped = |r: &Rig| {
        r.shared.reporter.all().into_iter().any(|(_, n, _)| n == "pod-u1") && {
            r.shared.reporter.resend_all();
            let told = r.shared.reporter.batch(100).expect("told");
            told.pods.iter().any(|p| p.uid == "u1" && p.stopped)
        }
    };
    assert!(!stopped(&rig));
    rig.assign(vec![], vec![stop_of("u1", 0)], &[]).await;
    rig.until("told that it has stopped", stopped).await;
    guard.stop.cancel();
    guard.task.await.expect("ended well");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_agent_prolongs_nothing() {
    let (dir, engine, rig) = rig().await;
    assign(&rig, "30s").await;
    let begun = guard(&rig, dir.path()).await;
    pass(1).await;
    begun.stop.cancel();
    begun.task.await.expect("ended well");
    rig.end().await;
    assert!(
        load(dir.path()).is_some(),
        "an agent that was never heard counts from its start"
    );

    // It was away for as long as the pod may run on; its container has died meanwhile, too.
    let long_ago = crate::clock::wall_ms() - 31_000;
    std::fs::write(dir.path().join(FILE), long_ago.to_string()).expect("written");
    let rig = Rig::start(&dir, &engine, crate::settings::Settings::default()).await;
    let guard = guard(&rig, dir.path()).await;
    assert!(
        rig.shared.keeper.current().pods["u1"].disconnected.is_some(),
        "before anything else"
    );
    rig.until("ended", |r| r.status("u1").is_some_and(|s| s.phase == Phase::Failed))
        .await;
    rig.until_ready("u2").await;
    guard.stop.cancel();
    guard.task.await.expect("ended well");
    rig.end().await;
}
