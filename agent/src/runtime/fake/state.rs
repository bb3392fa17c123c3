//! The state of the engine in memory, and the rules that it checks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use proto::model::Time;
use tokio::sync::mpsc;

use super::{
    Answer, ContainerInfo, CreateContainer, Exit, Failure, Hint, ImageScript, Op, Run, RuntimeError, Source, State,
    Unmanaged, logs::Logs,
};

#[derive(Default)]
pub struct Inner {
    pub containers: BTreeMap<String, Fake>,
    pub images: BTreeMap<String, ImageScript>,
    pub unavailable: Option<String>,
    pub failures: BTreeMap<Op, VecDeque<Failure>>,
    pub latency: BTreeMap<Op, Duration>,
    pub calls: BTreeMap<Op, u64>,
    pub at_once: BTreeMap<Op, u64>,
    pub most_at_once: BTreeMap<Op, u64>,
    pub listeners: Vec<mpsc::Sender<Hint>>,
    pub violations: Vec<String>,
    /// Volumes in memory and the uids of their pods.
    pub volumes: BTreeMap<String, String>,
    pub leave_to_stop: Option<Leave>,
    pub logs: Logs,
    /// Containers of others.
    pub unmanaged: Vec<Unmanaged>,
    /// By command.
    pub answers: BTreeMap<String, Answer>,
    pub commands: Vec<(u64, String)>,
    /// Attempts whose end was not shown to the agent yet: exited or erased, with their id.
    unseen_ends: BTreeMap<Key, String>,
    next_id: u64,
}

/// Whether the pod of this uid may be stopped.
type Leave = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Pod uid, container, attempt.
type Key = (String, String, u32);

pub struct Fake {
    pub spec: CreateContainer,
    pub state: State,
    /// When its main process ends by itself, with what code, and whether for memory.
    ends: Option<(u64, i32, bool)>,
}

impl Fake {
    fn key(&self) -> Key {
        let owner = &self.spec.owner;
        (owner.uid.clone(), owner.container.clone(), owner.attempt)
    }

    fn running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

impl Inner {
    pub fn hint(&mut self, hint: Hint) {
        self.listeners.retain(|l| !l.is_closed());
        for listener in &self.listeners {
            // A full queue loses hints, as an event ring does.
            let _ = listener.try_send(hint.clone());
        }
    }

    /// Lets time pass: ends what has ended by now.
    pub fn settle(&mut self, now_ms: u64) {
        let due: Vec<_> = self
            .containers
            .iter()
            .filter(|(_, c)| c.running())
            .filter_map(|(id, c)| c.ends.filter(|e| e.0 <= now_ms).map(|e| (id.clone(), e)))
            .collect();
        for (id, (at_ms, code, oom)) in due {
            self.end(&id, code, oom, at_ms);
        }
    }

    pub fn image(&self, reference: &str) -> ImageScript {
        self.images.get(reference).cloned().unwrap_or_default()
    }

    pub fn running(&self) -> impl Iterator<Item = &str> {
        self.containers
            .iter()
            .filter(|(_, c)| c.running())
            .map(|(id, _)| id.as_str())
    }

    pub fn insert(&mut self, spec: &CreateContainer) -> String {
        self.next_id += 1;
        let id = format!("{:012x}", self.next_id);
        let fake = Fake {
            spec: spec.clone(),
            state: State::Created,
            ends: None,
        };
        self.containers.insert(id.clone(), fake);
        self.hint(Hint::Pod(spec.owner.uid.clone()));
        id
    }

    pub fn create(&mut self, spec: &CreateContainer) -> Result<String, RuntimeError> {
        if let Some((id, taken)) = self.containers.iter().find(|(_, c)| c.spec.name == spec.name) {
            return if taken.key() == (spec.owner.uid.clone(), spec.owner.container.clone(), spec.owner.attempt) {
                Ok(id.clone())
            } else {
                Err(RuntimeError::NameTaken(format!(
                    "the name {:?} is in use by container {id}",
                    spec.name
                )))
            };
        }
        let script = self.image(&spec.image);
        if !script.present && spec.owner.container != proto::ids::SANDBOX {
            return Err(RuntimeError::NoSuchImage(spec.image.clone()));
        }
        if let Some(words) = script.create_error {
            return Err(RuntimeError::Refused(words));
        }
        if let Some(network) = &spec.join_network_of
            && !self.containers.get(network).is_some_and(Fake::running)
        {
            return Err(RuntimeError::Refused(format!(
                "cannot join the network of {network}: it does not run"
            )));
        }
        for mount in &spec.mounts {
            if let Source::Memory { name, .. } = &mount.source {
                self.volumes.insert(name.clone(), spec.owner.uid.clone());
            }
        }
        Ok(self.insert(spec))
    }

    pub fn start(&mut self, id: &str, now_ms: u64) -> Result<(), RuntimeError> {
        let Some(fake) = self.containers.get(id) else {
            return Err(RuntimeError::NoSuchContainer(id.to_owned()));
        };
        if fake.running() {
            return Ok(());
        }
        if let Some(words) = self.image(&fake.spec.image).start_error {
            return Err(RuntimeError::Refused(words));
        }
        if let Some(network) = &fake.spec.join_network_of
            && !self.containers.get(network).is_some_and(Fake::running)
        {
            return Err(RuntimeError::Refused(format!(
                "cannot join the network of {network}: it does not run"
            )));
        }
        self.check_start(id);
        self.run(id, now_ms);
        Ok(())
    }

    /// Two promises of the agent.
    fn check_start(&mut self, id: &str) {
        let Some(fake) = self.containers.get(id) else { return };
        let (uid, container, attempt) = fake.key();
        let live: Vec<_> = self
            .containers
            .iter()
            .filter(|(other, c)| *other != id && c.running())
            .map(|(_, c)| c.key())
            .filter(|k| k.0 == uid && k.1 == container)
            .collect();
        for (.., other) in live {
            self.violations.push(format!(
                "attempt {attempt} of {container} of pod {uid} started while attempt {other} runs"
            ));
        }
        let unseen: BTreeSet<_> = self
            .unseen_ends
            .keys()
            .filter(|k| k.0 == uid && k.1 == container && k.2 < attempt)
            .map(|k| k.2)
            .collect();
        for other in unseen {
            self.violations.push(format!(
                "attempt {attempt} of {container} of pod {uid} started before the exit of attempt {other} was observed"
            ));
        }
    }

    pub fn run(&mut self, id: &str, now_ms: u64) {
        let Some(fake) = self.containers.get(id) else { return };
        let script = self.image(&fake.spec.image);
        self.logs.begin(id, now_ms, &script.log);
        let ends = match script.run {
            Run::Forever => None,
            Run::Exit { code, after } => Some((now_ms.saturating_add(millis(after)), code, false)),
            Run::OutOfMemory { after } => Some((now_ms.saturating_add(millis(after)), 137, true)),
        };
        if let Some(fake) = self.containers.get_mut(id) {
            fake.ends = ends;
            fake.state = State::Running {
                started_at: Some(Time::from_millis(now_ms)),
            };
            let uid = fake.spec.owner.uid.clone();
            self.hint(Hint::Pod(uid));
        }
    }

    /// The third promise: nothing is stopped without leave, but what has lost its network.
    pub fn check_stop(&mut self, id: &str) {
        let Some(fake) = self.containers.get(id).filter(|c| c.running()) else {
            return;
        };
        let network = fake.spec.join_network_of.as_ref();
        if network.is_some_and(|n| !self.containers.get(n).is_some_and(Fake::running)) {
            return;
        }
        let (uid, container, attempt) = fake.key();
        if self.leave_to_stop.as_ref().is_some_and(|leave| !leave(&uid)) {
            self.violations.push(format!(
                "attempt {attempt} of {container} of pod {uid} was stopped without leave"
            ));
        }
    }

    /// Refused while a container has it.
    pub fn remove_volume(&mut self, name: &str) -> Result<(), RuntimeError> {
        let has = |c: &Fake| {
            let mut mounts = c.spec.mounts.iter();
            mounts.any(|m| matches!(&m.source, Source::Memory { name: other, .. } if other == name))
        };
        if self.containers.values().any(has) {
            return Err(RuntimeError::Refused(format!("volume {name} is in use")));
        }
        self.volumes.remove(name);
        Ok(())
    }

    /// How long a stop takes and the exit code it ends with; `None` when it does not run.
    pub fn stop_plan(&self, id: &str, grace: Duration) -> Option<(Duration, i32)> {
        let fake = self.containers.get(id).filter(|c| c.running())?;
        let takes = self.image(&fake.spec.image).stop_takes;
        Some(if takes > grace { (grace, 137) } else { (takes, 143) })
    }

    pub fn exit(&mut self, id: &str, code: i32, now_ms: u64) -> bool {
        self.end(id, code, false, now_ms)
    }

    fn end(&mut self, id: &str, code: i32, oom: bool, at_ms: u64) -> bool {
        let Some(fake) = self.containers.get_mut(id) else {
            return false;
        };
        let State::Running { started_at } = fake.state else {
            return false;
        };
        fake.state = State::Exited(Exit {
            code,
            oom,
            started_at,
            finished_at: Some(Time::from_millis(at_ms)),
            ..Exit::default()
        });
        let (key, uid) = (fake.key(), fake.spec.owner.uid.clone());
        self.unseen_ends.insert(key, id.to_owned());
        self.logs.end(id);
        self.hint(Hint::Pod(uid));
        true
    }

    pub fn erase(&mut self, id: &str) -> bool {
        let Some(fake) = self.containers.remove(id) else {
            return false;
        };
        if fake.running() {
            self.unseen_ends.insert(fake.key(), id.to_owned());
        }
        self.logs.end(id);
        self.hint(Hint::Pod(fake.spec.owner.uid.clone()));
        true
    }

    pub fn remove(&mut self, id: &str) -> Result<(), RuntimeError> {
        match self.containers.get(id) {
            None => Ok(()),
            Some(fake) if fake.running() => Err(RuntimeError::Refused(format!(
                "cannot remove container {id}: it is running"
            ))),
            Some(_) => {
                self.erase(id);
                Ok(())
            }
        }
    }

    fn info(id: &str, fake: &Fake) -> ContainerInfo {
        ContainerInfo {
            id: id.to_owned(),
            owner: fake.spec.owner.clone(),
            state: fake.state.clone(),
            image: fake.spec.image.clone(),
            image_id: format!("sha256:{}", fake.spec.image),
            ip: if fake.running() && fake.spec.join_network_of.is_none() {
                "172.17.0.2".into()
            } else {
                String::new()
            },
        }
    }

    pub fn infos(&self) -> Vec<ContainerInfo> {
        self.containers.iter().map(|(id, c)| Self::info(id, c)).collect()
    }

    /// A full list: shows the agent every end.
    pub fn show_all(&mut self) -> Vec<ContainerInfo> {
        self.unseen_ends.clear();
        self.infos()
    }

    pub fn show(&mut self, id: &str) -> Option<ContainerInfo> {
        self.exit_was_shown(id);
        self.containers.get(id).map(|c| Self::info(id, c))
    }

    pub fn exit_was_shown(&mut self, id: &str) {
        self.unseen_ends.retain(|_, ended| ended != id);
    }
}
