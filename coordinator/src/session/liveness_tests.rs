//! Liveness on a paused clock: each test says when a condition must change, to the millisecond.

use super::*;
use crate::session::{
    registry::{Mode, Registry},
    testing::{Base, reason_of},
};
use crate::store::Store as _;
use tokio::task::JoinSet;

/// Three heartbeats of 2 s, and 2 s to come back.
fn settings() -> Settings {
    Settings::default()
}

struct Rig {
    base: Base,
    registry: Registry,
    signals: mpsc::UnboundedSender<Signal>,
    notes: mpsc::Receiver<Note>,
    begin: Instant,
    _tasks: JoinSet<()>,
}

impl Rig {
    async fn new() -> Self {
        let base = Base::new().await;
        for node in ["n1", "n2"] {
            base.node(node).await;
        }
        Self::on(base)
    }

    fn on(base: Base) -> Self {
        let (signals, rx) = mpsc::unbounded_channel();
        let (recorder, notes) = Recorder::new();
        let mut tasks = JoinSet::new();
        let task = run(base.hub.clone(), recorder, settings(), |_: &str| None, rx);
        tasks.spawn(async move { task.await.unwrap() });
        Self {
            base,
            registry: Registry::new(10),
            signals,
            notes,
            begin: Instant::now(),
            _tasks: tasks,
        }
    }

    fn tell(&self, signal: Signal) {
        self.signals.send(signal).unwrap();
    }

    async fn open(&self, node: &str) -> Arc<Handle> {
        let (handle, _) = self.registry.open(node, "u", Mode::Full).unwrap();
        self.tell(Signal::Opened(handle.clone(), Ok(())));
        self.base.until_ready(node, "AgentReady").await;
        handle
    }

    /// Waits for `reason`, and says after how many milliseconds of the test it came.
    async fn becomes(&self, node: &str, reason: &str) -> u128 {
        self.base.until_ready(node, reason).await;
        self.begin.elapsed().as_millis()
    }

    fn reason(&self, node: &str) -> String {
        self.base.hub.read(|w| reason_of(w, node))
    }

    fn hear(&self, handle: &Arc<Handle>) {
        if handle.hear(Instant::now()) {
            self.tell(Signal::Heard(handle.clone()));
        }
    }
}

async fn pass(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Whether `ms` is just after `due` (the clock's grain is a millisecond).
fn at(ms: u128, due: u128) {
    assert!((due..=due + 5).contains(&ms), "at {ms} ms instead of {due}");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_cost_nothing_and_three_missed_ones_make_it_unreachable() {
    let mut rig = Rig::new().await;
    let handle = rig.open("n1").await;
    let rv = rig.base.hub.rv();
    for _ in 0..10 {
        pass(2000).await;
        rig.hear(&handle);
    }
    assert_eq!(rig.base.hub.rv(), rv, "a heartbeat was written");
    at(rig.becomes("n1", "Unreachable").await, 26_000);
    let condition = rig.base.hub.read(|w| w.nodes["n1"].ready.clone().unwrap().value);
    assert_eq!(condition.status, ConditionStatus::Unknown);
    assert_eq!(condition.message, "no heartbeat for 6s");
    assert_eq!(condition.last_heartbeat_time, None);
    // The same session is heard again, then closes for good.
    pass(1000).await;
    rig.hear(&handle);
    at(rig.becomes("n1", "AgentReady").await, 27_000);
    rig.tell(Signal::Closed(handle));
    at(rig.becomes("n1", "AgentDown").await, 29_000);
    let mut said = Vec::new();
    while let Ok(note) = rig.notes.try_recv() {
        assert_eq!(note.involved.uid, "uid-n1");
        said.push(format!("{}: {}", note.reason, note.message));
    }
    let well = "NodeReady: the agent is connected and Docker answers";
    assert_eq!(
        said,
        [
            well.to_owned(),
            "NodeNotReady: Unreachable: no heartbeat for 6s".to_owned(),
            format!("{well} (was Unreachable)"),
            "NodeNotReady: AgentDown: the agent's connection closed and it did not come back within 2s".to_owned(),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_in_time_was_never_gone() {
    let rig = Rig::new().await;
    let first = rig.open("n1").await;
    let rv = rig.base.hub.rv();
    rig.tell(Signal::Closed(first.clone()));
    pass(1999).await;
    let (second, _) = rig.registry.open("n1", "u", Mode::Full).unwrap();
    rig.tell(Signal::Opened(second.clone(), Ok(())));
    // The end of the old session, told late, is not the new one's.
    rig.tell(Signal::Closed(first));
    pass(5999).await;
    assert_eq!(rig.base.hub.rv(), rv);
    assert_eq!(rig.reason("n1"), "AgentReady");
    at(rig.becomes("n1", "Unreachable").await, 7999);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_died_is_no_agent_that_ended() {
    let rig = Rig::new().await;
    let handle = rig.open("n1").await;
    // Silent for longer than half the time when the transport gives up.
    pass(4000).await;
    rig.tell(Signal::Closed(handle));
    pass(1990).await;
    assert_eq!(rig.reason("n1"), "AgentReady");
    at(rig.becomes("n1", "Unreachable").await, 6000);
    // Given up after it was called unreachable: nothing changes.
    let other = rig.open("n2").await;
    rig.becomes("n2", "Unreachable").await;
    let rv = rig.base.hub.rv();
    rig.tell(Signal::Closed(other));
    pass(60_000).await;
    assert_eq!(rig.base.hub.rv(), rv);
}

#[tokio::test(start_paused = true)]
async fn a_new_leadership_gives_every_node_one_period() {
    let rig = Rig::new().await;
    rig.open("n1").await;
    let down = rig.open("n2").await;
    rig.tell(Signal::Closed(down));
    rig.becomes("n2", "AgentDown").await;
    rig.base.node("never").await;
    rig.base.node("back").await;
    rig.open("back").await;
    let Rig { base, _tasks, .. } = rig;
    drop(_tasks);

    let rig = Rig::on(base);
    let rv = rig.base.hub.rv();
    pass(5000).await;
    rig.open("back").await;
    pass(990).await;
    assert_eq!(rig.base.hub.rv(), rv, "somebody was called lost too early");
    at(rig.becomes("n1", "Unreachable").await, 6000);
    at(rig.becomes("back", "Unreachable").await, 11_000);
    pass(60_000).await;
    // Who was gone before stays as it was called then, and who never came is not lost.
    assert_eq!(
        (rig.reason("n2").as_str(), rig.reason("never").as_str()),
        ("AgentDown", "")
    );
}

#[tokio::test(start_paused = true)]
async fn docker_is_the_second_condition_of_ready() {
    let rig = Rig::new().await;
    let handle = rig.open("n1").await;
    let since = |rig: &Rig| {
        let ready = rig.base.hub.read(|w| w.nodes["n1"].ready.clone().unwrap());
        (ready.rv, ready.value.message.clone())
    };
    rig.tell(Signal::Docker(handle.clone(), Err("no daemon".into())));
    rig.becomes("n1", "DockerUnavailable").await;
    assert_eq!(since(&rig).1, "no daemon");
    let before = since(&rig);
    rig.tell(Signal::Docker(handle.clone(), Err("no daemon".into())));
    pass(100).await;
    assert_eq!(since(&rig), before, "the same words were written again");
    // Silent, then heard: Docker's state is as it was, until told otherwise.
    rig.becomes("n1", "Unreachable").await;
    rig.tell(Signal::Docker(handle.clone(), Ok(())));
    pass(100).await;
    assert_eq!(rig.reason("n1"), "Unreachable");
    rig.hear(&handle);
    rig.becomes("n1", "AgentReady").await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_is_no_concern() {
    let rig = Rig::new().await;
    let handle = rig.open("n1").await;
    rig.tell(Signal::Deleted("n1".into()));
    rig.tell(Signal::Closed(handle));
    let rv = rig.base.hub.rv();
    pass(60_000).await;
    assert_eq!(rig.base.hub.rv(), rv);
}

#[tokio::test(start_paused = true)]
async fn many_transitions_are_written_together() {
    let base = Base::new().await;
    let names: Vec<String> = (0..100).map(|n| format!("n{n:03}")).collect();
    for name in &names {
        base.node(name).await;
    }
    let rig = Rig::on(base);
    let before = rig.base.hub.rv().revision();
    let registry = Registry::new(1000);
    let handles: Vec<_> = names
        .iter()
        .map(|n| registry.open(n, "u", Mode::Full).unwrap().0)
        .collect();
    for handle in &handles {
        rig.tell(Signal::Opened(handle.clone(), Ok(())));
    }
    rig.base
        .until("all ready", |w| w.nodes.values().all(|n| n.is_ready()))
        .await;
    let commits = rig.base.hub.rv().revision() - before;
    assert!(commits <= 3, "{commits} commits");
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_stops_writing() {
    let base = Base::new().await;
    base.node("n1").await;
    let (signals, rx) = mpsc::unbounded_channel();
    let (handle, _) = Registry::new(1).open("n1", "u", Mode::Full).unwrap();
    signals.send(Signal::Opened(handle, Ok(()))).unwrap();
    // Another one has begun a term, and this one has not heard of it yet.
    base.store
        .inner
        .take_term(crate::session::testing::INCARNATION, "another")
        .await
        .unwrap();
    let ended = run(base.hub.clone(), Recorder::new().0, settings(), |_: &str| None, rx).await;
    assert!(matches!(ended, Err(CommitError::Fenced { .. })));
}

impl Rig {
    async fn set(&self, settings: &[(&str, &str)]) {
        let record: record::SettingsRecord = settings.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let change = Change::put(keys::SETTINGS, Expect::Any, record::encode(&record));
        self.base.hub.commit(vec![change]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_clusters_settings_hold_from_the_next_look_on() {
    let rig = Rig::new().await;
    let handle = rig.open("n1").await;
    rig.set(&[("heartbeat", "500ms"), ("agent-down-after", "300ms")]).await;
    pass(1).await;
    rig.hear(&handle);
    // What is under way keeps its deadline: the agent has time to hear of the new period.
    at(rig.becomes("n1", "Unreachable").await, 6000);
    rig.hear(&handle);
    rig.becomes("n1", "AgentReady").await;
    at(rig.becomes("n1", "Unreachable").await, 7500);
    let other = rig.open("n2").await;
    rig.tell(Signal::Closed(other));
    at(rig.becomes("n2", "AgentDown").await, 7800);
    let message = rig
        .base
        .hub
        .read(|w| w.nodes["n2"].ready.clone().unwrap().value.message.clone());
    assert!(message.ends_with("within 300ms"), "{message}");
    // Longer: nobody is called lost too early.
    rig.set(&[("heartbeat", "4s")]).await;
    rig.hear(&handle);
    rig.becomes("n1", "AgentReady").await;
    at(rig.becomes("n1", "Unreachable").await, 19_800);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_that_it_restarts_has_longer() {
    let mut rig = Rig::new().await;
    let first = rig.open("n1").await;
    while rig.notes.try_recv().is_ok() {}
    let rv = rig.base.hub.rv();
    first.set_leaving();
    rig.tell(Signal::Closed(first));
    pass(29_999).await;
    // Back in time, nothing shows.
    let (second, _) = rig.registry.open("n1", "u", Mode::Full).unwrap();
    rig.tell(Signal::Opened(second.clone(), Ok(())));
    pass(100).await;
    assert_eq!(rig.base.hub.rv(), rv);
    assert!(rig.notes.try_recv().is_err());
    second.set_leaving();
    rig.set(&[("agent-restart", "4s")]).await;
    rig.tell(Signal::Closed(second));
    at(rig.becomes("n1", "AgentDown").await, 34_099);
    let message = rig
        .base
        .hub
        .read(|w| w.nodes["n1"].ready.clone().unwrap().value.message.clone());
    assert!(message.ends_with("within 4s"), "{message}");
}

fn elsewhere(peer: &str, nodes: &[&str]) -> Signal {
    let names = nodes.iter().map(|&n| n.to_owned()).collect();
    Signal::Elsewhere(peer.to_owned(), Some(names))
}

#[tokio::test(start_paused = true)]
async fn a_node_that_another_coordinator_hears_is_not_lost_but_takes_nothing_new() {
    let rig = Rig::new().await;
    let _silent = rig.open("n1").await;
    let closed = rig.open("n2").await;
    rig.tell(elsewhere("c2", &["n1", "n2"]));
    rig.tell(elsewhere("c3", &["n1"]));
    rig.tell(Signal::Closed(closed));
    at(rig.becomes("n2", "HeardElsewhere").await, 2_000);
    at(rig.becomes("n1", "HeardElsewhere").await, 6_000);
    rig.base.hub.read(|w| {
        assert!(!w.nodes["n1"].is_ready() && w.nodes["n1"].lost().is_none());
        let condition = w.nodes["n1"].ready.clone().unwrap().value;
        assert_eq!(condition.status, ConditionStatus::False);
        assert!(condition.message.contains("c2 and c3 does"), "{}", condition.message);
    });
    pass(60_000).await;
    assert_eq!(rig.reason("n1"), "HeardElsewhere");
    // One of two that hear it goes: the other is enough.
    rig.tell(Signal::Elsewhere("c2".into(), None));
    pass(20_000).await;
    assert_eq!(rig.reason("n1"), "HeardElsewhere");
    // For n2 it was the only one: the usual time, and then what was known of it before.
    assert_eq!(rig.reason("n2"), "AgentDown");
    let gone = rig.begin.elapsed().as_millis();
    rig.tell(elsewhere("c3", &[]));
    at(rig.becomes("n1", "Unreachable").await, gone + 6_000);
    // Lost nodes that are heard again, here or there, are not lost.
    rig.tell(elsewhere("c3", &["n1"]));
    rig.becomes("n1", "HeardElsewhere").await;
    rig.open("n1").await;
    rig.tell(elsewhere("c3", &[]));
    pass(5_000).await;
    assert_eq!(rig.reason("n1"), "AgentReady", "it is heard here");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_given_up_while_others_hear_its_node_is_remembered_as_such() {
    let rig = Rig::new().await;
    let silent = rig.open("n1").await;
    rig.tell(elsewhere("c2", &["n1"]));
    rig.becomes("n1", "HeardElsewhere").await;
    rig.tell(Signal::Closed(silent));
    pass(60_000).await;
    assert_eq!(rig.reason("n1"), "HeardElsewhere");
    let gone = rig.begin.elapsed().as_millis();
    rig.tell(Signal::Elsewhere("c2".into(), None));
    at(rig.becomes("n1", "Unreachable").await, gone + 6_000);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_spares_what_others_hear_and_what_it_hears_itself() {
    let rig = Rig::new().await;
    for node in ["n1", "n2"] {
        rig.open(node).await;
    }
    rig.base.node("n3").await;
    rig.open("n3").await;
    // Nobody leads for a while; what is said of others meanwhile is kept.
    rig.base.hub.set_fence(None);
    pass(60_000).await;
    rig.tell(elsewhere("c2", &["n2"]));
    pass(10).await;
    assert_eq!(rig.reason("n1"), "AgentReady", "who does not lead writes nothing");
    let taken = rig.begin.elapsed().as_millis();
    rig.base.lead("test").await;
    at(rig.becomes("n2", "HeardElsewhere").await, taken + 6_000);
    at(rig.becomes("n3", "Unreachable").await, taken + 6_000);
    // The next one finds n3 lost on record, and hears of it.
    rig.base.hub.set_fence(None);
    pass(10).await;
    rig.tell(elsewhere("c2", &["n2", "n3"]));
    pass(10).await;
    rig.base.lead("test").await;
    rig.becomes("n3", "HeardElsewhere").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stands_by_here_after_a_take_over_is_given_its_time() {
    let base = Base::new().await;
    base.node("n1").await;
    let rig = Rig::on(base);
    rig.open("n1").await;
    rig.base.hub.set_fence(None);
    pass(10).await;
    // As `Sessions` hands it in: n1 was heard just now, and n2 never.
    let heard = Instant::now() + Duration::from_secs(3);
    let (_signals, rx) = mpsc::unbounded_channel();
    let (hub, recorder) = (rig.base.hub.clone(), Recorder::new().0);
    let mut tasks = JoinSet::new();
    tasks.spawn(run(
        hub,
        recorder,
        settings(),
        move |node: &str| (node == "n1").then_some(heard),
        rx,
    ));
    // The rig's own watch is not to write beside it.
    drop(rig._tasks);
    rig.base.lead("test").await;
    rig.base.until_ready("n1", "Unreachable").await;
    let late = Instant::now().duration_since(heard).as_millis();
    at(late, 6_000);
}
