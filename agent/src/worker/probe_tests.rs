//! Probes and stops in order, by the worker against the engine in memory, with the clock under the test's hand.

use std::time::Duration;

use proto::wire;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::tests::{Rig, pod, rig, stop_of};
use crate::{
    runtime::{
        State,
        fake::{FakeEngine, ImageScript, Op},
    },
    settings::Settings,
};

/// Pod `u1` of container `c0` with these fields too.
fn with(fields: Value) -> wire::Run {
    let mut run = pod("u1", &["app:1"]);
    let mut spec: Value = serde_json::from_slice(&run.spec_json).expect("JSON");
    let container = spec["containers"][0].as_object_mut().expect("an object");
    container.extend(fields.as_object().expect("an object").clone());
    run.spec_json = spec.to_string().into_bytes();
    run.spec_hash = proto::ids::content_hash(&run.spec_json);
    run
}

fn exec(command: &str, more: Value) -> Value {
    let mut probe = json!({"exec": {"command": [command]}});
    probe
        .as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    probe
}

fn ready(rig: &Rig) -> bool {
    rig.status("u1").is_some_and(|s| s.ready())
}

fn restarts(rig: &Rig) -> u32 {
    rig.status("u1").map_or(0, |s| s.container_statuses[0].restart_count)
}

/// When each run of the command began, in milliseconds after the first command of all.
fn runs(engine: &FakeEngine, command: &str) -> Vec<u64> {
    let all = engine.commands();
    let first = all.first().map_or(0, |c| c.0);
    let mine = all.iter().filter(|(_, c)| c == command);
    mine.map(|(at, _)| at - first).collect()
}

fn messages(rig: &Rig, reason: &str) -> Vec<String> {
    let notes = rig.shared.notes.take(usize::MAX);
    let mine = notes.into_iter().filter(|n| n.reason == reason);
    mine.map(|n| n.message).collect()
}

const NEVER: Duration = Duration::ZERO;

#[tokio::test(start_paused = true)]
async fn readiness_follows_its_probe_at_its_period_and_thresholds() {
    let (_dir, engine, rig) = rig().await;
    engine.answer("up", 1, NEVER);
    let probe = exec(
        "up",
        json!({"initialDelaySeconds": 3, "periodSeconds": 2, "failureThreshold": 2, "successThreshold": 2}),
    );
    let began = Instant::now();
    rig.assign(vec![with(json!({"readinessProbe": probe}))], vec![], &[])
        .await;
    rig.until("asked thrice", |r| r.engine.calls(Op::Exec) == 3).await;
    assert_eq!(runs(&engine, "up"), [0, 2_000, 4_000]);
    assert!(began.elapsed() >= Duration::from_secs(6), "the first after its delay");
    assert!(!ready(&rig), "although it runs for longer than ready-after");
    assert_eq!(
        messages(&rig, "Unhealthy"),
        ["Container c0: readiness probe failed: the command ended with code 1"; 2],
        "the first, and the one that decides"
    );
    engine.answer("up", 0, NEVER);
    rig.until("ready", ready).await;
    assert_eq!(runs(&engine, "up").len(), 5, "after two successes");
    engine.answer("up", 1, NEVER);
    rig.until("one failure", |r| r.engine.calls(Op::Exec) == 6).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(ready(&rig), "one is not enough");
    rig.until("not ready", |r| !ready(r)).await;
    assert_eq!(runs(&engine, "up").len(), 7);
    assert_eq!((restarts(&rig), rig.running().len()), (0, 1), "readiness stops nothing");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_live_is_restarted_and_startup_goes_before() {
    let (_dir, engine, rig) = rig().await;
    engine.answer("started", 1, NEVER);
    engine.answer("alive", 1, NEVER);
    let run = with(json!({
        "startupProbe": exec("started", json!({"periodSeconds": 1, "failureThreshold": 30})),
        "livenessProbe": exec("alive", json!({"periodSeconds": 5, "failureThreshold": 2})),
        "readinessProbe": exec("ready", json!({"periodSeconds": 1})),
    }));
    rig.assign(vec![run], vec![], &[]).await;
    rig.until("asked for its start", |r| runs(&r.engine, "started").len() == 10)
        .await;
    assert!(!ready(&rig));
    assert_eq!((runs(&engine, "alive").len(), runs(&engine, "ready").len()), (0, 0));
    engine.answer("started", 0, NEVER);
    rig.until("ready", ready).await;
    let starts = runs(&engine, "started").len();
    rig.until("restarted", |r| restarts(r) == 1).await;
    let alive = runs(&engine, "alive");
    assert!(alive[1] - alive[0] == 5_000, "at its period, twice: {alive:?}");
    assert!(alive.len() <= 3, "the third is about the new attempt: {alive:?}");
    let killing = messages(&rig, "Killing");
    assert_eq!(killing, ["Stopping container c0: its liveness probe failed"]);
    // The new attempt begins anew, with its start.
    engine.answer("alive", 0, NEVER);
    rig.until("ready again", ready).await;
    assert!(runs(&engine, "started").len() > starts);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_never_starts_is_restarted_with_backoff() {
    let (_dir, engine, rig) = rig().await;
    engine.answer("started", 1, NEVER);
    let run = with(json!({"startupProbe": exec("started", json!({"periodSeconds": 1, "failureThreshold": 3}))}));
    rig.assign(vec![run], vec![], &[]).await;
    rig.until("restarted twice", |r| restarts(r) == 2).await;
    assert!(!ready(&rig));
    let at = runs(&engine, "started");
    assert!((6..=7).contains(&at.len()), "three for each of two attempts: {at:?}");
    assert!(at[3] - at[2] < 2_000, "the first restart is immediate: {at:?}");
    rig.until("asked again", |r| runs(&r.engine, "started").len() > 6).await;
    let at = runs(&engine, "started");
    assert!(at[6] - at[5] >= 10_000, "the second waits: {at:?}");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_probe_is_bad_and_holds_up_no_other() {
    let (_dir, engine, rig) = rig().await;
    engine.answer("slow", 0, Duration::from_secs(60));
    let run = with(json!({
        "readinessProbe": exec("slow", json!({"periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1})),
        "livenessProbe": exec("quick", json!({"periodSeconds": 1})),
    }));
    rig.assign(vec![run], vec![], &[]).await;
    rig.until("asked", |r| runs(&r.engine, "quick").len() == 5).await;
    assert_eq!(runs(&engine, "slow").len(), 1);
    rig.until("told", |r| runs(&r.engine, "slow").len() == 2).await;
    assert_eq!(
        messages(&rig, "Unhealthy"),
        ["Container c0: readiness probe failed: the command did not end within 5s"]
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn neither_a_restart_of_the_agent_nor_a_silent_engine_takes_readiness_away() {
    let (dir, engine, rig) = rig().await;
    let run = with(json!({
        "readinessProbe": exec("up", json!({"periodSeconds": 2, "failureThreshold": 1})),
        "livenessProbe": exec("up", json!({"periodSeconds": 2, "failureThreshold": 1})),
    }));
    rig.assign(vec![run], vec![], &[]).await;
    rig.until("ready", ready).await;
    engine.set_unavailable(Some("away"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ready(&rig));
    engine.set_unavailable(None);
    let calls = engine.calls(Op::Exec);
    rig.until("asked again", |r| r.engine.calls(Op::Exec) > calls + 2).await;
    let since = |r: &Rig| {
        let status = r.status("u1").expect("told");
        status.condition("Ready").expect("there").last_transition_time
    };
    let before = since(&rig);
    rig.end().await;

    // The probe would say no, but it has not said anything yet.
    engine.answer("up", 1, Duration::from_millis(900));
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.until("told", |r| r.status("u1").is_some()).await;
    assert!(ready(&rig));
    assert_eq!(since(&rig), before);
    rig.until("not ready any more", |r| !ready(r)).await;
    rig.end().await;
}

/// Stops `u1` under a probe-less template with a hook of 2 s and a program that needs 3 s; when what happened, in
/// milliseconds after the entry.
async fn stopped(drain_ms: u32, then: impl AsyncFn(&Rig)) -> (u64, u64) {
    let (_dir, engine, rig) = rig().await;
    let script = ImageScript {
        stop_takes: Duration::from_secs(3),
        ..ImageScript::default()
    };
    engine.script("app:1", script);
    engine.answer("bye", 0, Duration::from_secs(2));
    let run = with(json!({"lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}));
    rig.assign(vec![run], vec![], &[]).await;
    rig.until("ready", ready).await;
    let began = Instant::now();
    let entry = wire::Stop {
        endpoint_drain_ms: drain_ms,
        ..stop_of("u1", 30)
    };
    rig.assign(vec![], vec![entry], &[]).await;
    rig.until("not ready", |r| !ready(r)).await;
    assert!(began.elapsed() < Duration::from_millis(100), "at once");
    then(&rig).await;
    rig.until("signalled", |r| r.engine.calls(Op::Stop) > 0).await;
    let signalled = began.elapsed();
    rig.until("gone", |r| r.engine.containers().is_empty()).await;
    let gone = began.elapsed();
    assert_eq!(runs(&engine, "bye"), [0], "the hook runs once");
    rig.end().await;
    let round = |d: Duration| u64::try_from(d.as_millis()).expect("short") / 100 * 100;
    (round(signalled), round(gone))
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_drain_and_hook_at_once() {
    let nothing = async |_: &Rig| {};
    assert_eq!(stopped(5_000, nothing).await, (5_000, 8_000));
    assert_eq!(stopped(0, nothing).await, (2_000, 5_000));
    // A second entry that hurries is not held up by either.
    let hurry = async |rig: &Rig| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        rig.assign(vec![], vec![stop_of("u1", 0)], &[]).await;
    };
    assert_eq!(stopped(5_000, hurry).await, (500, 500));
}

#[tokio::test(start_paused = true)]
async fn a_drain_outlasts_the_agent() {
    let (dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until("ready", ready).await;
    let entry = wire::Stop {
        endpoint_drain_ms: 3_600_000,
        ..stop_of("u1", 30)
    };
    rig.assign(vec![], vec![entry.clone()], &[]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for task in &rig.tasks {
        task.abort();
    }
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    assert_eq!(engine.calls(Op::Stop), 0);
    let shorter = wire::Stop {
        endpoint_drain_ms: 0,
        ..entry
    };
    rig.assign(vec![], vec![shorter], &[]).await;
    rig.until("gone", |r| r.engine.containers().is_empty()).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_cluster_says_when_a_container_without_a_probe_is_ready() {
    let (dir, engine, rig) = rig().await;
    let told = |ready_after_ms| wire::AgentSettings { ready_after_ms };
    rig.shared.keeper.settings(told(Some(3_600_000))).await.expect("kept");
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until("running", |r| !r.running().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!ready(&rig));
    // Kept over a restart, when no coordinator is there to ask.
    rig.end().await;
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.until("told", |r| r.status("u1").is_some()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!ready(&rig));
    let before = Instant::now();
    rig.shared.keeper.settings(told(Some(0))).await.expect("kept");
    rig.until("ready", ready).await;
    assert!(before.elapsed() < Duration::from_secs(1), "a change holds at once");
    assert!(matches!(engine.containers()[0].state, State::Running { .. }));
    // Nobody says anything: the agent's own holds.
    rig.shared.keeper.settings(told(None)).await.expect("kept");
    let own = Duration::from_millis(Settings::default().ready_after_ms);
    rig.assign(vec![pod("u2", &["app:2"])], vec![], &[]).await;
    let begun = Instant::now();
    rig.until_ready("u2").await;
    assert!(begun.elapsed() >= own);
    rig.end().await;
}
