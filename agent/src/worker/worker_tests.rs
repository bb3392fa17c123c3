//! The worker against the engine in memory, with the clock under the test's hand.

use std::time::Duration;

use proto::{
    ids,
    model::{ContainerState, Phase, PodStatus},
    wire::assignments::Kind,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    ledger::{DataDir, Keeper, load},
    runtime::{
        CreateContainer, Owner, State,
        fake::{Failure, FakeEngine, ImageScript, Op},
    },
};

/// An agent without its session.
pub(crate) struct Rig {
    pub(crate) engine: Arc<FakeEngine>,
    pub(crate) shared: Arc<Shared>,
    stop: CancellationToken,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

pub(crate) fn fence() -> wire::Fence {
    wire::Fence {
        incarnation: "i".into(),
        term: 1,
        nonce: "n".into(),
    }
}

/// A pod of one container per image.
pub(crate) fn pod(uid: &str, images: &[&str]) -> wire::Run {
    let containers: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(n, image)| serde_json::json!({"name": format!("c{n}"), "image": image}))
        .collect();
    let spec = serde_json::json!({ "containers": containers }).to_string();
    wire::Run {
        uid: uid.into(),
        namespace: "default".into(),
        name: format!("pod-{uid}"),
        spec_hash: ids::content_hash(spec.as_bytes()),
        spec_json: spec.into_bytes(),
        ..wire::Run::default()
    }
}

pub(crate) fn stop_of(uid: &str, grace_seconds: u32) -> wire::Stop {
    wire::Stop {
        uid: uid.into(),
        reason: "test".into(),
        grace_seconds,
        namespace: "default".into(),
        name: format!("pod-{uid}"),
        endpoint_drain_ms: 0,
    }
}

impl Rig {
    pub(crate) async fn start(dir: &TempDir, engine: &Arc<FakeEngine>, settings: Settings) -> Self {
        Self::start_in("boot-1", dir, engine, settings).await
    }

    /// In that boot of the host.
    pub(crate) async fn start_in(boot: &str, dir: &TempDir, engine: &Arc<FakeEngine>, settings: Settings) -> Self {
        let clock = Clock::new();
        let ledger = load(dir.path()).expect("a ledger");
        let disk = DataDir {
            path: dir.path().into(),
            sync: false,
        };
        let opened = Keeper::open(Arc::new(disk), ledger, ms(settings.lazy_write_ms), clock).await;
        let (keeper, handle) = opened.expect("opened");
        let epoch = handle.current().epoch;
        let shared = Shared::new(Parts {
            runtime: engine.clone(),
            keeper: handle,
            reporter: Arc::new(Reporter::new(epoch)),
            notes: Arc::default(),
            metrics: Arc::default(),
            settings,
            clock,
            node: "n1".into(),
            boot: boot.into(),
            host_ip: watch::channel("10.0.0.1".to_owned()).1,
            files: PodFiles::new(dir.path()).expect("absolute"),
        });
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(keeper.run(stop.clone())),
            tokio::spawn(run(shared.clone(), stop.clone())),
        ];
        Self {
            engine: engine.clone(),
            shared,
            stop,
            tasks,
        }
    }

    pub(crate) async fn assign(&self, run: Vec<wire::Run>, stop: Vec<wire::Stop>, forget: &[&str]) {
        let at = self.shared.keeper.current().revision;
        let message = wire::Assignments {
            kind: Kind::Incremental.into(),
            fence: Some(fence()),
            applies_to: at,
            results_in: at + 1,
            run,
            stop,
            forget: forget.iter().map(|&s| s.into()).collect(),
        };
        self.shared.keeper.assignments(message).await.expect("accepted");
        self.shared.accepted.send_replace(true);
    }

    pub(crate) fn status(&self, uid: &str) -> Option<PodStatus> {
        let name = format!("pod-{uid}");
        self.shared
            .reporter
            .all()
            .into_iter()
            .find(|(_, n, _)| *n == name)
            .map(|s| s.2)
    }

    /// Waits until the condition holds; time passes meanwhile. Fails after ten minutes of the test's clock.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..60_000 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{what}: {:#?}\n{:#?}",
            self.engine.containers(),
            self.shared.reporter.all()
        );
    }

    pub(crate) async fn until_ready(&self, uid: &str) {
        self.until("ready", |r| r.status(uid).is_some_and(|s| s.ready())).await;
    }

    pub(crate) fn running(&self) -> Vec<String> {
        let all = self.engine.containers();
        all.into_iter()
            .filter(|c| matches!(c.state, State::Running { .. }))
            .map(|c| c.id)
            .collect()
    }

    fn reasons(&self) -> Vec<String> {
        self.shared
            .notes
            .take(usize::MAX)
            .into_iter()
            .map(|e| e.reason)
            .collect()
    }

    /// As SIGKILL, but the disk is that of a clean end.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("ended well");
        }
        assert_eq!(self.engine.violations(), Vec::<String>::new());
    }
}

pub(crate) async fn rig() -> (TempDir, Arc<FakeEngine>, Rig) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = FakeEngine::new();
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    (dir, engine, rig)
}

fn waiting_reason(status: &PodStatus) -> String {
    match &status.container_statuses[0].state {
        ContainerState::Waiting(w) => w.reason.clone(),
        ContainerState::Running(_) => "Running".into(),
        ContainerState::Terminated(t) => t.reason.clone(),
    }
}

#[tokio::test(start_paused = true)]
async fn runs_stops_and_forgets_a_pod() {
    let (dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    assert_eq!(rig.reasons(), ["Pulled", "Created", "Started"]);
    let spec = engine.spec(&rig.running()[0]).expect("there");
    assert_eq!(spec.name, "wharf_c0_pod-u1_default_u1_0");
    assert_eq!(spec.labels["io.wharfinger.incarnation"], "i");

    rig.assign(vec![], vec![stop_of("u1", 3)], &[]).await;
    rig.until("gone from the engine", |r| r.engine.containers().is_empty())
        .await;
    let told = rig.shared.reporter.batch(10).expect("told");
    assert!(told.pods[0].stopped);
    assert!(
        rig.shared.keeper.current().pods.contains_key("u1"),
        "kept until the end is on record"
    );
    rig.assign(vec![], vec![], &["u1"]).await;
    rig.until("forgotten", |r| r.shared.keeper.current().pods.is_empty())
        .await;
    rig.until("not reported", |r| r.status("u1").is_none()).await;
    rig.end().await;
    assert!(load(dir.path()).expect("read").pods.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_two_shares_a_sandbox() {
    let (_dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1", "side:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    assert_eq!(rig.running().len(), 3);
    // The sandbox dies: everything comes back in a new one.
    let sandbox = engine
        .containers()
        .into_iter()
        .find(|c| c.owner.container == ids::SANDBOX)
        .expect("there");
    assert!(engine.kill_behind_back(&sandbox.id));
    rig.until("all anew", |r| {
        let all = r.engine.containers();
        all.iter()
            .filter(|c| c.owner.attempt == 1 && matches!(c.state, State::Running { .. }))
            .count()
            == 3
    })
    .await;
    rig.assign(vec![], vec![stop_of("u1", 0)], &[]).await;
    rig.until("gone", |r| r.engine.containers().is_empty()).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_killed_or_removed_behind_its_back_comes_back() {
    let (_dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    rig.reasons();
    let before = tokio::time::Instant::now();
    assert!(engine.kill_behind_back(&rig.running()[0]));
    rig.until("running again", |r| !r.running().is_empty()).await;
    assert!(before.elapsed() < Duration::from_secs(1), "the hint made it quick");
    assert_eq!(rig.reasons()[0], "Killed");
    // The second one in a row waits ten seconds.
    let before = tokio::time::Instant::now();
    assert!(engine.remove_behind_back(&rig.running()[0]));
    rig.until("in backoff", |r| {
        r.status("u1").is_some_and(|s| waiting_reason(&s) == "CrashLoopBackOff")
    })
    .await;
    rig.until("running again", |r| !r.running().is_empty()).await;
    assert!(before.elapsed() >= Duration::from_secs(10));
    assert!(rig.reasons().contains(&"Removed".to_owned()));
    rig.until("both counted", |r| {
        r.status("u1")
            .is_some_and(|s| s.container_statuses[0].restart_count == 2)
    })
    .await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_and_counts_no_restart() {
    let (dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1"]), pod("u2", &["app:1", "app:2"])], vec![], &[])
        .await;
    rig.until_ready("u1").await;
    rig.until_ready("u2").await;
    let before = rig.running();
    let creates = engine.calls(Op::Create);
    rig.end().await;
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.until_ready("u1").await;
    rig.until_ready("u2").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.running(), before);
    assert_eq!(engine.calls(Op::Create), creates);
    assert_eq!(rig.status("u1").expect("told").container_statuses[0].restart_count, 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn restart_counts_never_go_back_even_if_the_engine_forgets() {
    let (dir, engine, rig) = rig().await;
    engine.script("app:1", ImageScript::exits(1, Duration::from_secs(1)));
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until("crashed thrice", |r| {
        r.status("u1")
            .is_some_and(|s| s.container_statuses[0].restart_count >= 3)
    })
    .await;
    let count = rig.status("u1").expect("told").container_statuses[0].restart_count;
    // SIGKILL: nothing is written at the end.
    for task in &rig.tasks {
        task.abort();
    }
    for c in engine.containers() {
        engine.remove_behind_back(&c.id);
    }
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.until("told", |r| r.status("u1").is_some()).await;
    assert!(rig.status("u1").expect("told").container_statuses[0].restart_count >= count);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_survives_the_agent() {
    let (dir, engine, rig) = rig().await;
    let stubborn = ImageScript {
        stop_takes: Duration::from_secs(100),
        ..ImageScript::default()
    };
    engine.script("app:1", stubborn);
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    rig.assign(vec![], vec![stop_of("u1", 30)], &[]).await;
    rig.until("stopping", |r| r.engine.calls(Op::Stop) == 1).await;
    for task in &rig.tasks {
        task.abort();
    }
    assert_eq!(engine.containers().len(), 1);
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    rig.until("gone", |r| r.engine.containers().is_empty()).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shorter_grace_hurries_a_stop() {
    let (_dir, engine, rig) = rig().await;
    let stubborn = ImageScript {
        stop_takes: Duration::from_secs(1000),
        ..ImageScript::default()
    };
    engine.script("app:1", stubborn);
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    rig.assign(vec![], vec![stop_of("u1", 900)], &[]).await;
    rig.until("stopping", |r| r.engine.calls(Op::Stop) == 1).await;
    let before = tokio::time::Instant::now();
    rig.assign(vec![], vec![stop_of("u1", 1)], &[]).await;
    rig.until("gone", |r| r.engine.containers().is_empty()).await;
    assert!(before.elapsed() < Duration::from_secs(5));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_docker_is_away_nothing_is_done_and_nothing_counted() {
    let (_dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    let id = rig.running()[0].clone();
    engine.set_unavailable(Some("connection refused"));
    let away = "Docker does not answer: connection refused";
    rig.until("down", |r| *r.shared.engine.borrow() == Engine::Down(away.into()))
        .await;
    rig.assign(vec![pod("u2", &["app:1"])], vec![], &[]).await;
    let before = engine.all_calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let after = engine.all_calls();
    for op in [Op::Create, Op::Start, Op::Stop, Op::Remove, Op::Pull] {
        assert_eq!(before.get(&op), after.get(&op), "{op:?}");
    }
    let status = rig.status("u1").expect("told");
    assert_eq!(
        (status.phase, status.container_statuses[0].restart_count),
        (Phase::Running, 0)
    );
    engine.set_unavailable(None);
    rig.until_ready("u2").await;
    assert!(rig.running().contains(&id), "the same container");
    assert!(matches!(*rig.shared.engine.borrow(), Engine::Up(_)));
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_docker_doubles_nothing() {
    let (_dir, engine, rig) = rig().await;
    rig.assign((0..5).map(|n| pod(&format!("u{n}"), &["app:1"])).collect(), vec![], &[])
        .await;
    for n in 0..5 {
        rig.until_ready(&format!("u{n}")).await;
    }
    engine.set_unavailable(Some("down"));
    engine.restart();
    tokio::time::sleep(Duration::from_secs(30)).await;
    engine.set_unavailable(None);
    rig.until("all run again", |r| r.running().len() == 5).await;
    for n in 0..5 {
        assert_eq!(
            rig.status(&format!("u{n}")).expect("told").container_statuses[0].restart_count,
            1
        );
    }
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn lost_replies_make_no_second_container() {
    let (_dir, engine, rig) = rig().await;
    for op in [Op::Create, Op::Start] {
        engine.fail_next(op, Failure::lost_reply());
        engine.fail_next(op, Failure::lost());
    }
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    assert_eq!(engine.containers().len(), 1);
    assert_eq!(rig.status("u1").expect("told").container_statuses[0].restart_count, 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_absent_image_hurts_only_its_pod_and_heals() {
    let (_dir, engine, rig) = rig().await;
    engine.script("gone:1", ImageScript::absent("manifest unknown"));
    rig.assign(vec![pod("u1", &["gone:1"]), pod("u2", &["app:1"])], vec![], &[])
        .await;
    rig.until("ErrImagePull", |r| {
        r.status("u1").is_some_and(|s| waiting_reason(&s) == "ErrImagePull")
    })
    .await;
    rig.until("ImagePullBackOff", |r| {
        r.status("u1").is_some_and(|s| waiting_reason(&s) == "ImagePullBackOff")
    })
    .await;
    rig.until_ready("u2").await;
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert!(
        (3..10).contains(&engine.calls(Op::Pull)),
        "{} pulls",
        engine.calls(Op::Pull)
    );
    engine.script("gone:1", ImageScript::default());
    let before = tokio::time::Instant::now();
    rig.until_ready("u1").await;
    assert!(
        before.elapsed() < Duration::from_secs(20),
        "it is looked for between pulls"
    );
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_slow_pull() {
    let (_dir, engine, rig) = rig().await;
    engine.script("slow:1", ImageScript::slow_pull(Duration::from_secs(3600)));
    rig.assign(vec![pod("u1", &["slow:1"])], vec![], &[]).await;
    rig.until("pulling", |r| r.engine.calls(Op::Pull) == 1).await;
    let before = tokio::time::Instant::now();
    rig.assign(vec![], vec![stop_of("u1", 1)], &["u1"]).await;
    rig.until("forgotten", |r| r.shared.keeper.current().pods.is_empty())
        .await;
    assert!(before.elapsed() < Duration::from_secs(5));
    assert_eq!(engine.calls(Op::Create), 0);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn starts_are_bounded_and_stops_do_not_starve_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = FakeEngine::new();
    for op in [Op::Create, Op::Start] {
        engine.set_latency(op, Duration::from_millis(200));
    }
    let stubborn = ImageScript {
        stop_takes: Duration::from_secs(1000),
        ..ImageScript::default()
    };
    engine.script("stubborn:1", stubborn);
    let settings = Settings {
        max_starts: 3,
        max_stops: 2,
        ..Settings::default()
    };
    let rig = Rig::start(&dir, &engine, settings).await;
    rig.assign(
        (0..10).map(|n| pod(&format!("u{n}"), &["stubborn:1"])).collect(),
        vec![],
        &[],
    )
    .await;
    rig.until("all run", |r| r.running().len() == 10).await;
    assert_eq!(engine.most_at_once(Op::Create).max(engine.most_at_once(Op::Start)), 3);
    // All stop slots are taken for long; new pods start all the same.
    rig.assign(vec![], (0..10).map(|n| stop_of(&format!("u{n}"), 500)).collect(), &[])
        .await;
    rig.until("stopping", |r| r.engine.calls(Op::Stop) == 2).await;
    let before = tokio::time::Instant::now();
    rig.assign(vec![pod("v", &["app:1"])], vec![], &[]).await;
    rig.until("runs", |r| r.running().len() == 11).await;
    assert!(before.elapsed() < Duration::from_secs(2));
    assert_eq!(engine.most_at_once(Op::Stop), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_knows_is_reported_while_it_runs_and_removed_when_dead() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = FakeEngine::new();
    let plant = |uid: &str, running: bool| {
        let spec = CreateContainer {
            name: uid.into(),
            owner: Owner {
                uid: uid.into(),
                namespace: "default".into(),
                pod: format!("pod-{uid}"),
                container: "c".into(),
                ..Owner::default()
            },
            image: "app:1".into(),
            ..CreateContainer::default()
        };
        engine.plant(&spec, running)
    };
    let alive = plant("alive", true);
    plant("created", false);
    let dead = plant("dead", true);
    engine.kill_behind_back(&dead);
    let rig = Rig::start(&dir, &engine, Settings::default()).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(engine.containers().len(), 3, "nothing before assignments were accepted");
    let observed: Vec<_> = rig.shared.observed().into_iter().map(|o| (o.uid, o.running)).collect();
    assert_eq!(observed, [("alive".to_owned(), true)]);
    rig.assign(vec![], vec![], &[]).await;
    rig.until("cleaned", |r| r.engine.containers().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(rig.running(), [alive], "what runs is not touched");
    // Only a stop entry ends it.
    rig.assign(vec![], vec![stop_of("alive", 1)], &[]).await;
    rig.until("stopped", |r| r.engine.containers().is_empty()).await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_a_complete_set_does_not_name_keeps_running() {
    let (_dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    let empty = wire::Assignments {
        kind: Kind::Complete.into(),
        fence: Some(fence()),
        results_in: 10,
        ..wire::Assignments::default()
    };
    rig.shared.keeper.assignments(empty).await.expect("accepted");
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.running().len(), 1);
    assert_eq!(engine.calls(Op::Stop), 0);
    // It is still looked after, and reported.
    engine.kill_behind_back(&rig.running()[0]);
    rig.until("again", |r| r.running().len() == 1).await;
    assert!(rig.shared.observed()[0].running);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_pod_that_still_runs_is_kept() {
    let (_dir, engine, rig) = rig().await;
    rig.assign(vec![pod("u1", &["app:1"])], vec![], &[]).await;
    rig.until_ready("u1").await;
    rig.assign(vec![], vec![], &["u1"]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((rig.running().len(), engine.calls(Op::Stop)), (1, 0));
    assert_eq!(rig.shared.observed().len(), 1);
    engine.kill_behind_back(&rig.running()[0]);
    rig.until("gone for good", |r| {
        r.engine.containers().is_empty() && r.shared.keeper.current().pods.is_empty()
    })
    .await;
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_node_is_quiet() {
    let (_dir, engine, rig) = rig().await;
    rig.assign(
        (0..20).map(|n| pod(&format!("u{n}"), &["app:1"])).collect(),
        vec![],
        &[],
    )
    .await;
    for n in 0..20 {
        rig.until_ready(&format!("u{n}")).await;
    }
    // The one look for leftovers is over.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let before = engine.all_calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let after = engine.all_calls();
    let lists = after[&Op::List] - before[&Op::List];
    assert!((59..=61).contains(&lists), "{lists}");
    let rest = |calls: &BTreeMap<Op, u64>| {
        calls
            .iter()
            .filter(|(op, _)| **op != Op::List)
            .map(|c| *c.1)
            .sum::<u64>()
    };
    assert_eq!(rest(&before), rest(&after));
    rig.end().await;
}
