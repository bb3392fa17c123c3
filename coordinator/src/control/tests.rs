//! The driver and the event loop over a small store in memory that fails when told to.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use proto::model::{
    ConditionStatus, Container, HoldKind, Kind, Node, NodeCondition, NodeHold, NodeStatus, ObjectMeta, PodSpec,
    PodTemplate, Quantity, RcSpec, ReplicationController, Time,
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{ControlError, Settings, driver::Driver, run};
use crate::{
    events::Recorder,
    plan::{Group, Pass, Plan, check::Violation},
    store::{
        Change, CommitError, Committed, Entry, Expect, Fence, Order, ReadError, Rv, Snapshot, Span, Store, Update,
        Watch,
        keys::{self, TermRecord},
    },
    world::{
        World,
        hub::Hub,
        record::{FactsRecord, HoldsRecord, encode},
    },
};

#[derive(Default)]
struct Inner {
    entries: BTreeMap<String, (Rv, Bytes)>,
    revision: u64,
    term: u64,
    watchers: Vec<mpsc::Sender<Vec<Update>>>,
    /// Errors for the next commits that touch a pod.
    failures: VecDeque<CommitError>,
    /// Commits that were applied, by how many changes.
    applied: Vec<usize>,
    /// Commits with a pod that came under an old fence.
    refused: usize,
    running: usize,
    most_running: usize,
}

#[derive(Default)]
struct Double(Mutex<Inner>);

impl Double {
    fn with<R>(&self, f: impl FnOnce(&mut Inner) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    fn fail(&self, error: &CommitError, times: usize) {
        self.with(|s| s.failures.extend(std::iter::repeat_n(error.clone(), times)));
    }

    fn failures(&self) -> usize {
        self.with(|s| s.failures.len())
    }
}

impl Inner {
    fn commit(&mut self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        if fence.term != self.term {
            self.refused += usize::from(changes.iter().any(|c| c.key.starts_with("obj/pod/")));
            return Err(CommitError::Fenced {
                ours: fence.term,
                current: self.term,
            });
        }
        if changes.iter().any(|c| c.key.starts_with("obj/pod/"))
            && let Some(error) = self.failures.pop_front()
        {
            return Err(error);
        }
        for change in &changes {
            let actual = self.entries.get(&change.key).map(|(rv, _)| *rv);
            let holds = match change.expect {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::At(rv) => actual == Some(rv),
            };
            if !holds {
                return Err(CommitError::Conflict {
                    key: change.key.clone(),
                    expected: change.expect,
                    actual,
                });
            }
        }
        self.applied.push(changes.len());
        self.revision += 1;
        let mut updates = Vec::new();
        for (ordinal, change) in changes.into_iter().enumerate() {
            let rv = Rv::new(self.revision, u16::try_from(ordinal).unwrap());
            match &change.value {
                Some(value) => {
                    self.entries.insert(change.key.clone(), (rv, value.clone()));
                }
                None => {
                    self.entries.remove(&change.key);
                }
            }
            updates.push(Update {
                rv,
                key: change.key,
                value: change.value,
            });
        }
        let rvs = updates.iter().map(|u| u.rv).collect();
        self.watchers.retain(|w| w.try_send(updates.clone()).is_ok());
        Ok(Committed { rvs })
    }
}

#[async_trait]
impl Store for Double {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        Ok(self.with(|s| Snapshot {
            rv: Rv::new(s.revision, u16::MAX),
            entries: s
                .entries
                .iter()
                .map(|(key, (rv, value))| Entry {
                    rv: *rv,
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
        }))
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        Ok(self.with(|s| {
            s.entries.get(key).map(|(rv, value)| Entry {
                rv: *rv,
                key: key.to_owned(),
                value: value.clone(),
            })
        }))
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        assert_eq!(span.order, Order::Ascending, "control reads the oldest first");
        Ok(self.with(|s| span.of(&s.entries)))
    }

    async fn watch(&self, _after: Rv) -> Result<Watch, ReadError> {
        let (tx, rx) = mpsc::channel(100_000);
        self.with(|s| s.watchers.push(tx));
        Ok(rx)
    }

    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        self.with(|s| {
            s.running += 1;
            s.most_running = s.most_running.max(s.running);
        });
        // As a real store: the answer does not come in the same poll.
        tokio::task::yield_now().await;
        self.with(|s| {
            s.running -= 1;
            s.commit(fence, changes)
        })
    }

    async fn take_term(&self, incarnation: &str, holder: &str) -> Result<Fence, CommitError> {
        Ok(self.with(|s| {
            let fence = Fence {
                incarnation: incarnation.into(),
                term: s.revision + 1,
                nonce: "n".into(),
            };
            s.term = fence.term;
            let record = TermRecord {
                incarnation: incarnation.to_owned(),
                nonce: "n".to_owned(),
                holder: holder.to_owned(),
                ..TermRecord::default()
            };
            let change = Change::put(keys::term_history(fence.term), Expect::Any, encode(&record));
            s.commit(&fence, vec![change]).unwrap();
            fence
        }))
    }

    fn newest(&self) -> Rv {
        self.with(|s| Rv::new(s.revision, u16::MAX))
    }
}

struct Bench {
    store: Arc<Double>,
    hub: Arc<Hub>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Bench {
    /// A store with one term taken, a running hub that does not lead yet, and one node.
    async fn new() -> (Self, Fence) {
        let store = Arc::new(Double::default());
        let fence = store.take_term("i", "test").await.unwrap();
        let hub = Hub::load(store.clone()).await.unwrap();
        let mut tasks = JoinSet::new();
        let running = hub.clone();
        tasks.spawn(async move {
            let _ = running.run().await;
        });
        // The hub's watch has no history here, so it must stand before the first commit.
        while store.with(|s| s.watchers.is_empty()) {
            tokio::task::yield_now().await;
        }
        let bench = Self {
            store,
            hub,
            tasks,
            shutdown: CancellationToken::new(),
        };
        let mut node = Node::default();
        node.metadata.name = "n1".into();
        bench.put(&fence, keys::object(Kind::Node, "", "n1"), &node).await;
        let allocatable = [
            ("cpu", Quantity::from_units(100)),
            ("memory", Quantity::from_bytes(1 << 40)),
            ("pods", Quantity::from_units(1000)),
        ];
        let facts = FactsRecord {
            status: NodeStatus {
                allocatable: allocatable.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
                ..NodeStatus::default()
            },
            ..FactsRecord::default()
        };
        bench.put(&fence, keys::node_facts("n1"), &facts).await;
        let ready = NodeCondition {
            kind: "Ready".into(),
            status: ConditionStatus::True,
            reason: "AgentReady".into(),
            message: String::new(),
            last_transition_time: None,
            last_heartbeat_time: None,
        };
        bench.put(&fence, keys::node_ready("n1"), &ready).await;
        (bench, fence)
    }

    async fn put<T: Serialize>(&self, fence: &Fence, key: String, value: &T) {
        let change = Change::put(key, Expect::Any, encode(value));
        self.hub.commit_under(fence, vec![change]).await.unwrap();
    }

    async fn put_rc(&self, fence: &Fence, name: &str, replicas: i32) {
        let labels = [("app".to_owned(), name.to_owned())].into();
        let template = PodTemplate {
            metadata: ObjectMeta {
                labels,
                ..ObjectMeta::default()
            },
            spec: PodSpec {
                containers: vec![Container::default()],
                ..PodSpec::default()
            },
        };
        let rc = ReplicationController {
            metadata: ObjectMeta {
                name: name.to_owned(),
                namespace: "default".into(),
                uid: format!("uid-{name}"),
                ..ObjectMeta::default()
            },
            spec: RcSpec {
                replicas,
                template,
                ..RcSpec::default()
            },
            status: None,
        };
        let key = keys::object(Kind::ReplicationController, "default", name);
        self.put(fence, key, &rc).await;
    }

    fn start(&mut self, settings: Settings) -> mpsc::Receiver<Result<(), ControlError>> {
        let (recorder, queue) = Recorder::new();
        let (tx, rx) = mpsc::channel(1);
        let (hub, shutdown) = (self.hub.clone(), self.shutdown.clone());
        self.tasks.spawn(async move {
            let _ = tx.send(run(hub, recorder, queue, settings, shutdown).await).await;
        });
        rx
    }

    async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        let mut feed = self.hub.subscribe();
        let waiting = async {
            while !self.hub.read(&holds) {
                let _ = feed.recv().await;
            }
        };
        if timeout(Duration::from_secs(20), waiting).await.is_err() {
            panic!("waited in vain: {what}");
        }
    }
}

fn settings() -> Settings {
    Settings {
        events_flush_ms: 5,
        conflict_retry_ms: 1,
        full_retry_ms: 5,
        park_ms: 5,
        ..Settings::default()
    }
}

fn placed(world: &World, rc: &str) -> usize {
    let uid = format!("uid-{rc}");
    world.pods_of(&uid).filter(|(_, p)| !p.record.node.is_empty()).count()
}

fn conflict() -> CommitError {
    CommitError::Conflict {
        key: "k".into(),
        expected: Expect::Absent,
        actual: None,
    }
}

#[tokio::test]
async fn acts_only_while_it_leads_and_commits_side_by_side() {
    let (mut bench, fence) = Bench::new().await;
    bench.put_rc(&fence, "web", 300).await;
    let before = bench.store.newest();
    let _ended = bench.start(settings());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.store.newest(), before, "it acted without a fence");
    bench.hub.set_fence(Some(fence));
    bench.until("300 pods", |w| placed(w, "web") == 300).await;
    bench
        .until("300 events", |w| {
            w.events.values().filter(|e| e.value.reason == "Scheduled").count() == 300
        })
        .await;
    assert!(bench.store.with(|s| s.applied.iter().all(|n| *n <= 64)));
    assert!(
        bench.store.with(|s| s.most_running >= 3),
        "commits waited for each other"
    );
    bench.shutdown.cancel();
}

#[tokio::test]
async fn converges_through_conflicts_and_a_full_disk() {
    let (mut bench, fence) = Bench::new().await;
    bench.store.fail(&conflict(), 3);
    bench.store.fail(&CommitError::Full("no space".into()), 3);
    let _ended = bench.start(settings());
    bench.hub.set_fence(Some(fence.clone()));
    bench.put_rc(&fence, "web", 100).await;
    bench.until("100 pods", |w| placed(w, "web") == 100).await;
    assert_eq!(bench.store.failures(), 0);
    assert_eq!(bench.hub.read(|w| w.pods.len()), 100, "no pod twice");
}

#[tokio::test]
async fn stops_when_deposed_and_starts_again_with_the_next_term() {
    let (mut bench, fence) = Bench::new().await;
    let mut ended = bench.start(settings());
    bench.hub.set_fence(Some(fence.clone()));
    bench.put_rc(&fence, "web", 2).await;
    bench.until("2 pods", |w| placed(w, "web") == 2).await;
    let next = bench.store.take_term("i", "other").await.unwrap();
    // The other leader's write; this process still believes it leads.
    let refused = || bench.store.with(|s| s.refused);
    bench.put_rc(&next, "web", 4).await;
    let learned = async {
        while refused() == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), learned)
        .await
        .expect("it planned under the old fence");
    bench.put_rc(&next, "web", 5).await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(refused(), 1, "it went on after it was deposed");
    assert_eq!(bench.hub.read(|w| placed(w, "web")), 2, "a deposed leader wrote");
    assert!(ended.try_recv().is_err(), "being deposed ended the process");
    bench.hub.set_fence(Some(next));
    bench.until("5 pods", |w| placed(w, "web") == 5).await;
}

#[tokio::test]
async fn a_broken_store_ends_control() {
    let (mut bench, fence) = Bench::new().await;
    bench.store.fail(&CommitError::Io("bad sector".into()), 1);
    let mut ended = bench.start(settings());
    bench.hub.set_fence(Some(fence.clone()));
    bench.put_rc(&fence, "web", 1).await;
    let result = timeout(Duration::from_secs(20), ended.recv()).await.unwrap();
    assert!(
        matches!(result, Some(Err(ControlError::Store(CommitError::Io(_))))),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_panic_parks_its_group_alone_until_it_plans_again() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    fn planner(pass: &mut Pass, world: &World, group: &Group) -> Result<Plan, Violation> {
        if matches!(group, Group::Controller((_, name)) if name == "bad") && PANICS.fetch_add(1, Ordering::SeqCst) < 3 {
            panic!("a fault of this test");
        }
        pass.plan(world, group)
    }
    let (mut bench, fence) = Bench::new().await;
    let (recorder, mut queue) = Recorder::new();
    let driver = Driver::new(bench.hub.clone(), recorder, settings()).with_planner(planner);
    bench.tasks.spawn(async move {
        let _ = driver.run().await;
    });
    bench.put_rc(&fence, "bad", 1).await;
    bench.put_rc(&fence, "good", 1).await;
    let start = Instant::now();
    bench.hub.set_fence(Some(fence));
    bench.until("the good one", |w| placed(w, "good") == 1).await;
    bench.until("the bad one", |w| placed(w, "bad") == 1).await;
    assert_eq!(PANICS.load(Ordering::SeqCst).min(4), 4);
    assert!(
        start.elapsed() >= Duration::from_millis(5 + 10 + 20),
        "it did not pause"
    );
    let mut notes = Vec::new();
    while let Ok(note) = queue.try_recv() {
        notes.push(note);
    }
    let panicked: Vec<_> = notes.iter().filter(|n| n.reason == "PlannerPanicked").collect();
    assert_eq!(panicked.len(), 3);
    assert!(
        panicked
            .iter()
            .all(|n| n.involved.name == "bad" && n.message.contains("a fault of this test"))
    );
}

#[tokio::test]
async fn what_has_expired_goes_and_what_is_used_stays() {
    let (mut bench, fence) = Bench::new().await;
    bench.put_rc(&fence, "web", 1).await;
    let unused = crate::world::record::TemplateRecord::default();
    bench.put(&fence, keys::template(&unused.encode().0), &unused).await;
    let settings = Settings {
        expiry_ms: 5,
        ..settings()
    };
    let _ended = bench.start(settings);
    bench.hub.set_fence(Some(fence));
    bench
        .until("one template", |w| placed(w, "web") == 1 && w.templates.len() == 1)
        .await;
    assert!(
        bench
            .hub
            .read(|w| w.pods.values().all(|p| w.templates.contains_key(&p.record.template)))
    );
}

/// `n1` with one cordon.
fn cordoned(expires: Option<Time>) -> HoldsRecord {
    let hold = NodeHold {
        kind: HoldKind::Cordon,
        owner: "user/admin".into(),
        reason: String::new(),
        since: Time::now(),
        expires,
    };
    [(hold.id(), hold)].into()
}

#[tokio::test]
async fn a_hold_ends_on_time_and_those_who_waited_are_placed() {
    let (mut bench, fence) = Bench::new().await;
    let soon = Time(Time::now().0 + 2);
    bench.put(&fence, keys::holds("n1"), &cordoned(Some(soon))).await;
    bench.put_rc(&fence, "web", 2).await;
    // Nothing else wakes the driver within this test.
    let _ended = bench.start(settings());
    bench.hub.set_fence(Some(fence));
    bench.until("two that wait", |w| w.pods.len() == 2).await;
    assert_eq!(bench.hub.read(|w| placed(w, "web")), 0);
    bench.until("two pods", |w| placed(w, "web") == 2).await;
    assert!(Time::now() >= soon);
    let told = |w: &World| {
        w.events
            .values()
            .any(|e| e.value.reason == "HoldExpired" && e.value.involved_object.name == "n1")
    };
    bench.until("the event", told).await;
}

#[tokio::test]
async fn placements_wait_for_a_hold_that_is_being_made() {
    let (mut bench, fence) = Bench::new().await;
    let _ended = bench.start(settings());
    bench.hub.set_fence(Some(fence.clone()));
    bench.put_rc(&fence, "web", 1).await;
    bench.until("one pod", |w| placed(w, "web") == 1).await;
    let hub = bench.hub.clone();
    let alone = hub.hold_placements().await;
    bench.put_rc(&fence, "db", 1).await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert_eq!(hub.read(|w| w.pods.len()), 1, "it decides on the world before the hold");
    bench.put(&fence, keys::holds("n1"), &cordoned(None)).await;
    drop(alone);
    bench.until("one that waits", |w| w.pods.len() == 2).await;
    assert_eq!(hub.read(|w| placed(w, "db")), 0);
}

#[tokio::test]
async fn a_setting_of_the_cluster_acts_at_once() {
    let (mut bench, fence) = Bench::new().await;
    let event = proto::model::Event {
        last_timestamp: Some(proto::model::Time(proto::model::Time::now().0 - 600)),
        ..proto::model::Event::default()
    };
    bench.put(&fence, keys::event("default", "e"), &event).await;
    let settings = Settings {
        // Only the setting can be what makes it look.
        expiry_ms: 3_600_000,
        ..settings()
    };
    let _ended = bench.start(settings);
    bench.hub.set_fence(Some(fence.clone()));
    bench.put_rc(&fence, "web", 1).await;
    bench.until("it plans", |w| placed(w, "web") == 1).await;
    // Beside those of the pod, which are new.
    let kept = |w: &World| w.events.contains_key(&("default".to_owned(), "e".to_owned()));
    assert!(bench.hub.read(kept), "kept for its own 72 hours");
    let set = serde_json::json!({"event-keep": "5m"});
    bench.put(&fence, keys::SETTINGS.to_owned(), &set).await;
    bench.until("the event is old now", |w| !kept(w)).await;
}
