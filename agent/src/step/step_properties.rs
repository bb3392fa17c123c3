//! Properties of [`super::step`] over random lives of a pod: engine events, failures, restarts of the agent,
//! time. The engine is the one in memory, which also checks the agent's promises.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use proto::model::{Container, Hook, Probe, RestartPolicy};

use super::{testing::desired, *};
use crate::runtime::{
    CreateContainer, Owner, RuntimeError, State,
    fake::{FakeState, ImageScript, Run},
};

#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Kill(usize),
    Erase(usize),
    EngineRestart,
    AgentRestart,
    /// The next so many actions fail; the flag says whether they take effect all the same, the other whether
    /// the engine refuses or does not answer.
    Fail {
        times: u8,
        takes_effect: bool,
        refused: bool,
    },
    Image(Fault),
    /// A probe of one of the running containers says so.
    Probe(usize, Finding),
    Stop,
}

#[derive(Clone, Copy, Debug)]
enum Finding {
    Started,
    Ready(bool),
    Failed,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Absent,
    RefusesCreate,
    RefusesStart,
    Crashes,
    Completes,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (0u64..700_000).prop_map(Event::Pass),
        3 => (0usize..4).prop_map(Event::Kill),
        3 => (0usize..4).prop_map(Event::Erase),
        1 => Just(Event::EngineRestart),
        2 => Just(Event::AgentRestart),
        4 => (1u8..4, any::<bool>(), any::<bool>())
            .prop_map(|(times, takes_effect, refused)| Event::Fail { times, takes_effect, refused }),
        3 => prop_oneof![
            Just(Fault::None), Just(Fault::Absent), Just(Fault::RefusesCreate),
            Just(Fault::RefusesStart), Just(Fault::Crashes), Just(Fault::Completes),
        ].prop_map(Event::Image),
        6 => (0usize..4, prop_oneof![
            Just(Finding::Started), Just(Finding::Ready(true)), Just(Finding::Ready(false)), Just(Finding::Failed),
        ]).prop_map(|(n, finding)| Event::Probe(n, finding)),
    ]
}

struct Life {
    desired: PodDesired,
    engine: FakeState,
    book: PodBook,
    /// As on disk.
    saved: PodBook,
    now_ms: u64,
    settings: StepSettings,
    fail: Vec<(bool, bool)>,
    /// When each action last failed.
    failed_at: BTreeMap<String, u64>,
    restarts: BTreeMap<String, u32>,
    phase: proto::model::Phase,
    /// Last answer.
    wake_at_ms: Option<u64>,
    view: View,
    targets: Vec<Target>,
    /// What probes say, and what they ever said, by engine id.
    health: BTreeMap<String, Health>,
    said: BTreeMap<String, Health>,
    /// As when the book was saved last.
    said_then: BTreeMap<String, Health>,
    /// Everything is well with every container.
    well: bool,
}

const DRAIN_MS: u64 = 3_000;

impl Life {
    /// With `probes` every container has all three, and a hook.
    fn new(containers: usize, policy: RestartPolicy, probes: bool) -> Self {
        let mut desired = desired(&["a", "b", "c"][..containers]);
        let mut spec = (*desired.spec).clone();
        spec.restart_policy = policy;
        for container in spec.containers.iter_mut().filter(|_| probes) {
            container.startup_probe = Some(Probe::default());
            container.readiness_probe = Some(Probe::default());
            container.liveness_probe = Some(Probe::default());
            container.lifecycle.pre_stop = Some(Hook::default());
        }
        desired.spec = Arc::new(spec);
        Self {
            now_ms: desired.accepted_ms,
            desired,
            engine: FakeState::default(),
            book: PodBook::default(),
            saved: PodBook::default(),
            settings: StepSettings::default(),
            fail: Vec::new(),
            failed_at: BTreeMap::new(),
            restarts: BTreeMap::new(),
            phase: proto::model::Phase::default(),
            wake_at_ms: None,
            view: View::default(),
            targets: Vec::new(),
            health: BTreeMap::new(),
            said: BTreeMap::new(),
            said_then: BTreeMap::new(),
            well: false,
        }
    }

    fn script(&mut self, fault: Fault) {
        let script = match fault {
            Fault::None => ImageScript::default(),
            Fault::Absent => ImageScript::absent("no registry"),
            Fault::RefusesCreate => ImageScript::refuses_create("limit too small"),
            Fault::RefusesStart => ImageScript::refuses_start("port is taken"),
            Fault::Crashes => ImageScript::exits(1, Duration::from_millis(1500)),
            Fault::Completes => ImageScript {
                run: Run::Exit {
                    code: 0,
                    after: Duration::from_secs(2),
                },
                ..ImageScript::default()
            },
        };
        self.engine.images.insert("app:1".into(), script);
    }

    fn apply(&mut self, event: &Event) {
        match event {
            Event::Pass(ms) => self.pass(*ms),
            Event::Kill(n) => {
                if let Some(id) = self.running(*n) {
                    self.engine.exit(&id, 137, self.now_ms);
                }
            }
            Event::Erase(n) => {
                let id = self.engine.containers.keys().nth(*n).cloned();
                if let Some(id) = id {
                    self.engine.erase(&id);
                }
            }
            Event::EngineRestart => {
                while let Some(id) = self.running(0) {
                    self.engine.exit(&id, 137, self.now_ms);
                }
            }
            Event::AgentRestart => {
                let text = serde_json::to_string(&self.saved).expect("the book is JSON");
                self.book = serde_json::from_str(&text).expect("reads back");
                self.health.clear();
                self.said = self.said_then.clone();
                // A fresh agent may repeat what the one before it just did.
                self.failed_at.clear();
            }
            Event::Fail {
                times,
                takes_effect,
                refused,
            } => {
                self.fail.extend(vec![(*takes_effect, *refused); usize::from(*times)]);
            }
            Event::Image(fault) => self.script(*fault),
            Event::Probe(n, finding) => self.probe(*n, *finding),
            Event::Stop => {
                self.desired.mode = Mode::Stop {
                    grace_ms: 1_000,
                    drain_until_ms: self.now_ms + DRAIN_MS,
                    reason: "test".into(),
                };
            }
        }
        self.settle();
    }

    fn probe(&mut self, n: usize, finding: Finding) {
        if self.targets.is_empty() {
            return;
        }
        let target = self.targets[n % self.targets.len()].clone();
        let known = self
            .health
            .get(&target.container)
            .filter(|h| h.id == target.id)
            .cloned();
        let mut health = known.or(target.known).unwrap_or_else(|| Health {
            id: target.id.clone(),
            ..Health::default()
        });
        match finding {
            Finding::Started => health.started = true,
            Finding::Ready(ready) => health.ready = ready,
            Finding::Failed => health.failed = Some(Failed::default()),
        }
        self.tell(target.container, health);
    }

    fn tell(&mut self, container: String, health: Health) {
        self.said.insert(health.id.clone(), health.clone());
        self.health.insert(container, health);
    }

    /// True when something new was said.
    fn all_well(&mut self) -> bool {
        let mut news = false;
        let targets = if self.well { self.targets.clone() } else { Vec::new() };
        for target in targets {
            let failed = target.known.as_ref().is_some_and(|h| h.failed.is_some());
            let health = Health {
                id: target.id,
                started: true,
                ready: true,
                failed: None,
            };
            // A failure is the last word on an attempt.
            if !failed && self.health.get(&target.container) != Some(&health) {
                self.tell(target.container, health);
                news = true;
            }
        }
        news
    }

    fn running(&self, n: usize) -> Option<String> {
        let running: Vec<_> = self.engine.running().map(str::to_owned).collect();
        (!running.is_empty()).then(|| running[n % running.len()].clone())
    }

    /// Lets time pass, waking the agent when it asked for it and at every relist.
    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            let relist = self.now_ms + 10_000;
            self.now_ms = end
                .min(relist)
                .min(self.wake_at_ms.filter(|w| *w > self.now_ms).unwrap_or(end));
            self.settle();
        }
    }

    /// Steps until there is nothing to do now.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.engine.settle(self.now_ms);
            if !self.round() {
                return;
            }
        }
        panic!("a busy loop: {:#?}", self.book);
    }

    fn round(&mut self) -> bool {
        let containers = self.engine.show_all();
        let look = |book: &PodBook| {
            let observed = PodObserved {
                book,
                containers: &containers,
                host_ip: "",
                pulling: &BTreeMap::new(),
                health: &self.health,
                in_flight: false,
            };
            step(&self.desired, observed, self.now_ms, &self.settings)
        };
        let now = look(&self.book);
        let again = look(&now.book);
        assert_eq!(
            (&again.actions, &again.view, again.wake_at_ms),
            (&now.actions, &now.view, now.wake_at_ms)
        );
        assert!(again.notes.is_empty(), "told twice: {:?}", again.notes);
        self.book = now.book;
        self.wake_at_ms = now.wake_at_ms;
        self.check(&now.view);
        self.view = now.view;
        self.targets = now.targets;
        if self.book.must_persist_after(&self.saved) {
            self.saved = self.book.clone();
            self.said_then = self.said.clone();
        }
        let mut busy = std::collections::BTreeSet::new();
        let mut acted = self.all_well();
        for action in now.actions {
            if busy.insert(action.container().to_owned()) {
                acted = true;
                self.act(&action);
            }
        }
        acted
    }

    fn check(&mut self, view: &View) {
        assert!(view.status.phase >= self.phase, "the phase went back");
        self.phase = view.status.phase;
        for c in &view.status.container_statuses {
            let known = self.restarts.entry(c.name.clone()).or_default();
            assert!(c.restart_count >= *known, "restart count of {} went back", c.name);
            *known = c.restart_count;
            let spec = self.desired.spec.containers.iter().find(|s| s.name == c.name);
            if c.ready && spec.is_some_and(Container::has_probes) {
                let id = c.container_id.trim_start_matches("docker://");
                let said = self.said.get(id);
                assert!(
                    said.is_some_and(|h| h.started && h.ready && h.failed.is_none()),
                    "{} is ready, and its probes said {said:?}",
                    c.name
                );
            }
        }
    }

    fn act(&mut self, action: &Action) {
        if matches!(self.desired.mode, Mode::Stop { .. }) {
            assert!(
                matches!(
                    action,
                    Action::PreStop { .. } | Action::Stop { .. } | Action::Remove { .. }
                ),
                "{action:?} after a stop entry"
            );
        }
        match (&self.desired.mode, action) {
            (Mode::Stop { drain_until_ms, .. }, Action::Stop { container, .. }) if container != proto::ids::SANDBOX => {
                assert!(self.now_ms >= *drain_until_ms, "a signal before the drain is over");
            }
            (Mode::Run, Action::Stop { why: Why::Asked(_), .. }) => panic!("a stop that nobody asked for"),
            (
                Mode::Run,
                Action::Stop {
                    why: Why::Unhealthy(_),
                    id,
                    ..
                },
            ) => {
                assert!(self.said[id].failed.is_some(), "a stop of what is well");
            }
            _ => {}
        }
        let key = format!("{:?}", action.hold_key());
        if let Some(at) = self.failed_at.get(&key) {
            assert!(
                self.now_ms >= at + self.settings.retry.initial_ms,
                "{action:?} repeated too soon"
            );
        }
        let mut in_vain = true;
        let outcome = match self.fail.pop() {
            Some((takes_effect, refused)) => {
                in_vain = !takes_effect;
                if takes_effect {
                    self.perform(action);
                }
                let words = "injected".to_owned();
                Outcome::Failed(if refused {
                    RuntimeError::Refused(words)
                } else {
                    RuntimeError::Unavailable(words)
                })
            }
            None => self.perform(action),
        };
        // A failure whose effect is seen is no reason to wait: if somebody undoes the effect, it is put back.
        if in_vain && matches!(outcome, Outcome::Failed(_)) {
            self.failed_at.insert(key, self.now_ms);
        } else {
            self.failed_at.remove(&key);
        }
        let (book, _) = record(
            self.book.clone(),
            &self.desired,
            action,
            &outcome,
            self.now_ms,
            &self.settings,
        );
        self.book = book;
    }

    fn perform(&mut self, action: &Action) -> Outcome {
        let done = |result: Result<(), RuntimeError>| result.map_or_else(Outcome::Failed, |()| Outcome::Done);
        match action {
            Action::CheckImage { image, .. } => Outcome::Image(self.engine.image(image).present.then(|| "id".into())),
            Action::Pull { image, .. } => match self.engine.image(image).pull_error {
                Some(words) => Outcome::Failed(RuntimeError::Refused(words)),
                None => Outcome::Pulled { took_ms: 0 },
            },
            Action::Create {
                container,
                attempt,
                join,
                ..
            } => {
                let spec = CreateContainer {
                    name: format!("{container}-{attempt}"),
                    image: "app:1".into(),
                    owner: Owner {
                        uid: self.desired.uid.clone(),
                        container: container.clone(),
                        attempt: *attempt,
                        ..Owner::default()
                    },
                    join_network_of: join.clone(),
                    ..CreateContainer::default()
                };
                // The sandbox has an image of its own.
                let image = if container == proto::ids::SANDBOX {
                    "sandbox"
                } else {
                    "app:1"
                };
                let spec = CreateContainer {
                    image: image.into(),
                    ..spec
                };
                self.engine.create(&spec).map_or_else(Outcome::Failed, Outcome::Created)
            }
            Action::Start { id, .. } => done(self.engine.start(id, self.now_ms)),
            Action::Stop { id, .. } => {
                self.engine.exit(id, 143, self.now_ms);
                Outcome::Done
            }
            Action::PreStop { .. } => Outcome::Done,
            Action::Remove { id, .. } => done(self.engine.remove(id)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn converges_whatever_happened(
        containers in 1usize..4,
        policy in prop_oneof![Just(RestartPolicy::Always), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Never)],
        events in prop::collection::vec(event(), 0..40),
        stop in any::<bool>(),
        probes in any::<bool>(),
    ) {
        let mut life = Life::new(containers, policy, probes);
        life.settle();
        for e in &events {
            life.apply(e);
        }
        if stop {
            life.apply(&Event::Stop);
        }
        // All is well again: nothing fails, and there is time.
        life.fail.clear();
        life.well = true;
        life.apply(&Event::Image(Fault::None));
        life.pass(1_000_000);
        prop_assert_eq!(&life.engine.violations, &Vec::<String>::new());
        if stop {
            prop_assert!(life.view.stopped && life.view.gone, "{:#?}", life.book);
            prop_assert_eq!(life.engine.containers.len(), 0);
        } else if life.phase.is_final() {
            prop_assert!(policy != RestartPolicy::Always);
            prop_assert_eq!(life.engine.running().count(), 0);
        } else {
            let up = life.engine.containers.values().filter(|c| matches!(c.state, State::Running { .. })).count();
            let ended = life.book.containers.values().filter(|c| c.ended().is_some()).count();
            let sandbox = usize::from(needs_sandbox(&life.desired.spec));
            prop_assert_eq!(up + ended, containers + sandbox, "{:#?}", life.book);
            prop_assert!(ended == 0 || policy != RestartPolicy::Always);
            prop_assert!(life.view.status.ready() || ended > 0);
        }
    }

    #[test]
    fn after_the_end_nothing_happens(events in prop::collection::vec(event(), 0..30)) {
        let mut life = Life::new(1, RestartPolicy::Always, true);
        life.settle();
        life.apply(&Event::Stop);
        for e in &events {
            life.apply(e);
        }
        life.fail.clear();
        life.pass(100_000);
        prop_assert!(life.view.gone);
        prop_assert_eq!(&life.engine.violations, &Vec::<String>::new());
    }
}
