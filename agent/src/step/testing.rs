//! What the table tests of [`super::step`] share: pods, containers, and a pod that is stepped by hand.

use proto::model::{Container, ContainerState, PullPolicy, RestartPolicy, Time};

use super::*;
use crate::runtime::{Exit, Owner, State};

/// A moment of whole seconds, so that engine times and the clock agree.
pub(super) const NOW: u64 = 1_700_000_000_000;

pub(super) fn desired(containers: &[&str]) -> PodDesired {
    let spec = PodSpec {
        containers: containers
            .iter()
            .map(|name| Container {
                name: (*name).into(),
                image: "app:1".into(),
                ..Container::default()
            })
            .collect(),
        ..PodSpec::default()
    };
    PodDesired {
        uid: "u1".into(),
        namespace: "default".into(),
        name: "web".into(),
        spec: Arc::new(spec),
        invalid: None,
        mode: Mode::Run,
        accepted_ms: NOW,
    }
}

pub(super) fn with(policy: RestartPolicy, pull: Option<PullPolicy>) -> PodDesired {
    let mut d = desired(&["c"]);
    let mut spec = (*d.spec).clone();
    spec.restart_policy = policy;
    spec.containers[0].image_pull_policy = pull;
    d.spec = Arc::new(spec);
    d
}

pub(super) fn info(container: &str, attempt: u32, state: State) -> ContainerInfo {
    ContainerInfo {
        id: format!("{container}{attempt}"),
        owner: Owner {
            uid: "u1".into(),
            container: container.into(),
            attempt,
            ..Owner::default()
        },
        state,
        image: "app:1".into(),
        image_id: "sha256:1".into(),
        ip: "172.17.0.2".into(),
    }
}

pub(super) fn running(at_ms: u64) -> State {
    State::Running {
        started_at: Some(Time::from_millis(at_ms)),
    }
}

pub(super) fn exited(code: i32, ran_s: i64) -> State {
    let end = Time::from_millis(NOW);
    State::Exited(Exit {
        code,
        started_at: Some(Time(end.0 - ran_s)),
        finished_at: Some(end),
        ..Exit::default()
    })
}

pub(super) struct Pod {
    pub desired: PodDesired,
    pub book: PodBook,
    pub settings: StepSettings,
    pub notes: Vec<Note>,
    /// What probes say.
    pub health: BTreeMap<String, Health>,
}

impl Pod {
    pub(super) fn new(desired: PodDesired) -> Self {
        Self {
            desired,
            book: PodBook::default(),
            settings: StepSettings::default(),
            notes: Vec::new(),
            health: BTreeMap::new(),
        }
    }

    pub(super) fn step(&mut self, containers: &[ContainerInfo], now_ms: u64) -> Step {
        let look = |book: &PodBook| {
            let observed = PodObserved {
                book,
                containers,
                host_ip: "10.0.0.1",
                pulling: &BTreeMap::new(),
                health: &self.health,
                in_flight: false,
            };
            step(&self.desired, observed, now_ms, &self.settings)
        };
        let first = look(&self.book);
        let again = look(&first.book);
        assert_eq!(
            (
                &again.actions,
                &again.view,
                &again.book,
                &again.targets,
                again.wake_at_ms
            ),
            (
                &first.actions,
                &first.view,
                &first.book,
                &first.targets,
                first.wake_at_ms
            ),
            "a second step changes nothing"
        );
        assert_eq!(again.notes, [], "nothing is told twice");
        self.book = first.book.clone();
        self.notes.extend(first.notes.clone());
        first
    }

    pub(super) fn record(&mut self, action: &Action, outcome: Outcome, now_ms: u64) {
        let (book, notes) = record(
            self.book.clone(),
            &self.desired,
            action,
            &outcome,
            now_ms,
            &self.settings,
        );
        self.book = book;
        self.notes.extend(notes);
    }

    pub(super) fn reasons(&self) -> Vec<&'static str> {
        self.notes.iter().map(|n| n.reason).collect()
    }

    /// Steps with nothing there until a create is due, the image being present.
    pub(super) fn until_create(&mut self, now_ms: u64) -> Action {
        let check = only(&self.step(&[], now_ms));
        assert!(matches!(check, Action::CheckImage { .. }), "{check:?}");
        self.record(&check, Outcome::Image(Some("sha256:1".into())), now_ms);
        only(&self.step(&[], now_ms))
    }

    /// Runs attempt 0 of container `c` from `now_ms` on.
    pub(super) fn until_running(&mut self, now_ms: u64) -> ContainerInfo {
        let create = self.until_create(now_ms);
        self.record(&create, Outcome::Created("c0".into()), now_ms);
        let start = only(&self.step(&[info("c", 0, State::Created)], now_ms));
        self.record(&start, Outcome::Done, now_ms);
        let up = info("c", 0, running(now_ms));
        assert_eq!(self.step(std::slice::from_ref(&up), now_ms).actions, []);
        up
    }
}

pub(super) fn only(step: &Step) -> Action {
    assert_eq!(step.actions.len(), 1, "{:?}", step.actions);
    step.actions[0].clone()
}

pub(super) fn state_of(step: &Step) -> String {
    describe(&step.view.status.container_statuses[0].state)
}

pub(super) fn describe(state: &ContainerState) -> String {
    match state {
        ContainerState::Waiting(w) => format!("Waiting {}", w.reason),
        ContainerState::Running(_) => "Running".into(),
        ContainerState::Terminated(t) => format!("Terminated {} {}", t.reason, t.exit_code),
    }
}

pub(super) fn message_of(step: &Step) -> String {
    match &step.view.status.container_statuses[0].state {
        ContainerState::Waiting(w) => w.message.clone(),
        ContainerState::Running(_) => String::new(),
        ContainerState::Terminated(t) => t.message.clone(),
    }
}
