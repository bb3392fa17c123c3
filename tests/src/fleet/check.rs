//! Whether a fleet is what was asked for, and whether everything on the way there was lawful. Called by tests,
//! also by those of later steps.
//!
//! Invariant: looks only; what it reports names the object.

use std::collections::{BTreeMap, BTreeSet};

use agent::{
    runtime::{ContainerInfo, State},
    step::needs_sandbox,
};
use coordinator::{
    store::{
        Rv, Store as _,
        keys::{self, Parsed},
    },
    world::{
        World,
        record::{HoldsRecord, OwnerKind, PodRecord, StatusRecord},
    },
};
use proto::{
    ids::SANDBOX,
    model::{Kind, Phase},
};

use super::{Fleet, Host};

/// Controllers of the default namespace and their counts, as acknowledged.
pub type Asked = BTreeMap<String, i32>;

impl Fleet {
    /// Whether controllers, pods, nodes and engines are exactly what was asked for.
    pub fn converged(&self, asked: &Asked) -> Result<(), String> {
        self.world(|w| {
            controllers(w, asked)?;
            if let Some((name, _)) = w.nodes.iter().find(|(_, n)| !n.is_ready()) {
                return Err(format!("node {name} is not ready"));
            }
            self.hosts.iter().try_for_each(|host| containers(w, host))
        })
    }

    /// What was never allowed to happen, in words: broken promises that engines noticed, parts that ended by
    /// themselves, and what the store's history says.
    pub async fn crimes(&self) -> Vec<String> {
        let mut all: Vec<_> = self.ended.lock().expect("not poisoned").clone();
        for host in &self.hosts {
            let seen = host.engine.violations();
            all.extend(seen.into_iter().map(|v| format!("{}: {v}", host.name)));
        }
        all.extend(self.history().await);
        all
    }

    /// The fewest pods of a controller that served at once, by all that was ever stored, from when so many first did.
    pub async fn fewest(&self, controller: &str, from: usize) -> usize {
        let mut watch = self.store.watch(Rv(0)).await.expect("the whole history is kept");
        let newest = self.store.newest();
        let prefix = format!("{controller}-");
        // By name: uid and whether it is to stop; by uid: whether it is Ready.
        let (mut pods, mut ready) = (BTreeMap::new(), BTreeMap::new());
        let (mut seen, mut fewest) = (Rv(0), None);
        let least = |pods: &BTreeMap<String, (String, bool)>, ready: &BTreeMap<String, bool>| {
            let serves = |(uid, stopped): &&(String, bool)| !stopped && ready.get(uid).copied().unwrap_or_default();
            pods.values().filter(serves).count()
        };
        while seen < newest {
            let updates = watch.recv().await.expect("the watch goes on to its end");
            for update in updates {
                // What was written together counts together.
                if update.rv.0 >> 16 != seen.0 >> 16 {
                    let now = least(&pods, &ready);
                    fewest = fewest.map_or((now >= from).then_some(now), |fewest: usize| Some(fewest.min(now)));
                }
                seen = seen.max(update.rv);
                match (keys::parse(&update.key), update.value.as_deref()) {
                    (
                        Parsed::Object {
                            kind: Kind::Pod, name, ..
                        },
                        Some(value),
                    ) if name.starts_with(&prefix) => {
                        let pod: PodRecord = serde_json::from_slice(value).expect("a pod's record");
                        pods.insert(name.to_owned(), (pod.uid, pod.stop.is_some()));
                    }
                    (
                        Parsed::Object {
                            kind: Kind::Pod, name, ..
                        },
                        None,
                    ) => {
                        pods.remove(name);
                    }
                    (Parsed::PodStatus { .. }, Some(value)) => {
                        let record: StatusRecord = serde_json::from_slice(value).expect("a status record");
                        ready.insert(record.uid, record.status.ready());
                    }
                    _ => {}
                }
            }
        }
        fewest.unwrap_or_default().min(least(&pods, &ready))
    }

    /// Reads every update since the beginning: phases and restarts never go back, a pod keeps its node, a stop
    /// is never taken back, pods go only after a stop, and none but a daemon comes to a node that is held.
    async fn history(&self) -> Vec<String> {
        let mut watch = self.store.watch(Rv(0)).await.expect("the whole history is kept");
        let newest = self.store.newest();
        let mut law = Law::default();
        let mut seen = Rv(0);
        while seen < newest {
            let Some(updates) = watch.recv().await else {
                law.broken.push("the watch ended before its end".into());
                break;
            };
            for update in updates {
                seen = seen.max(update.rv);
                let value = update.value.as_deref();
                match keys::parse(&update.key) {
                    Parsed::Object { kind: Kind::Pod, .. } => law.pod(&update.key, value),
                    Parsed::PodStatus { .. } => law.status(value),
                    Parsed::Holds(node) => law.holds(node, value),
                    _ => {}
                }
            }
        }
        law.broken
    }
}

fn controllers(w: &World, asked: &Asked) -> Result<(), String> {
    let there: Asked = w
        .controllers
        .iter()
        .map(|(key, c)| (key.1.clone(), c.rc.spec.replicas))
        .collect();
    if there != *asked {
        return Err(format!("the controllers are {there:?}, not {asked:?}"));
    }
    for (key, controller) in &w.controllers {
        let pods: Vec<_> = w.pods_of(&controller.rc.metadata.uid).collect();
        let desired = asked.get(&key.1).copied().unwrap_or_default();
        if pods.len() as i64 != i64::from(desired) {
            return Err(format!("{} has {} pods, not {desired}", key.1, pods.len()));
        }
        if let Some((key, pod)) = pods.iter().find(|(_, p)| !p.live() || !p.ready()) {
            let (phase, node) = (pod.phase(), &pod.record.node);
            return Err(format!(
                "pod {} on {node:?} is {phase:?}, stopping: {}, ready: {}",
                key.1,
                pod.stopping(),
                pod.ready()
            ));
        }
    }
    let all: i64 = asked.values().map(|n| i64::from(*n)).sum();
    if w.pods.len() as i64 != all {
        return Err(format!("there are {} pods, not {all}", w.pods.len()));
    }
    Ok(())
}

/// Pod uid and container.
type Part = (String, String);

fn containers(w: &World, host: &Host) -> Result<(), String> {
    let mut assigned: BTreeSet<Part> = BTreeSet::new();
    let mut uids = BTreeSet::new();
    for (key, pod) in w.pods_on(&host.name) {
        let template = pod
            .template
            .as_ref()
            .ok_or_else(|| format!("pod {} has no template", key.1))?;
        let spec = &template.record.spec;
        let uid = &pod.record.uid;
        uids.insert(uid.as_str());
        assigned.extend(spec.containers.iter().map(|c| (uid.clone(), c.name.clone())));
        if needs_sandbox(spec) {
            assigned.insert((uid.clone(), SANDBOX.to_owned()));
        }
    }
    let there = host.engine.containers();
    let part = |c: &ContainerInfo| (c.owner.uid.clone(), c.owner.container.clone());
    let mut running = BTreeSet::new();
    for container in &there {
        if matches!(container.state, State::Running { .. }) && !running.insert(part(container)) {
            return Err(format!("{}: {:?} runs twice", host.name, part(container)));
        }
    }
    if running != assigned {
        let missing: Vec<_> = assigned.difference(&running).collect();
        let more: Vec<_> = running.difference(&assigned).collect();
        return Err(format!("{}: {missing:?} do not run, {more:?} should not", host.name));
    }
    match there.iter().find(|c| !uids.contains(c.owner.uid.as_str())) {
        Some(left) => Err(format!("{}: {:?} is left of a pod that is gone", host.name, part(left))),
        None => Ok(()),
    }
}

/// What a history must obey.
#[derive(Default)]
struct Law {
    /// By uid: node, and whether a stop is on record.
    pods: BTreeMap<String, (String, bool)>,
    /// Uid by key.
    keys: BTreeMap<String, String>,
    /// Nodes that have a hold.
    held: BTreeSet<String>,
    /// By uid: phase, and restarts by container.
    statuses: BTreeMap<String, (Phase, BTreeMap<String, u32>)>,
    broken: Vec<String>,
}

impl Law {
    fn pod(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(value) = value else {
            let uid = self.keys.remove(key).unwrap_or_default();
            if !self
                .pods
                .get(&uid)
                .is_some_and(|(node, stopped)| *stopped || node.is_empty())
            {
                self.broken.push(format!("{key} ({uid}) was removed without a stop"));
            }
            return;
        };
        let pod: PodRecord = serde_json::from_slice(value).expect("a pod's record");
        self.keys.insert(key.to_owned(), pod.uid.clone());
        let (node, stopped) = self.pods.entry(pod.uid.clone()).or_default();
        if !node.is_empty() && *node != pod.node {
            self.broken
                .push(format!("pod {} went from {node} to {}", pod.uid, pod.node));
        }
        if *stopped && pod.stop.is_none() {
            self.broken.push(format!("the stop of pod {} was taken back", pod.uid));
        }
        // A daemon is of its node, held or not.
        let daemon = pod.owner.as_ref().is_some_and(|o| o.kind == OwnerKind::DaemonSet);
        if node.is_empty() && !daemon && self.held.contains(&pod.node) {
            self.broken
                .push(format!("pod {} came to {} while that was held", pod.uid, pod.node));
        }
        node.clone_from(&pod.node);
        *stopped |= pod.stop.is_some();
    }

    fn holds(&mut self, node: &str, value: Option<&[u8]>) {
        let holds = value.map(|v| serde_json::from_slice::<HoldsRecord>(v).expect("a node's holds"));
        if holds.is_some_and(|holds| !holds.is_empty()) {
            self.held.insert(node.to_owned());
        } else {
            self.held.remove(node);
        }
    }

    fn status(&mut self, value: Option<&[u8]>) {
        let Some(value) = value else { return };
        let record: StatusRecord = serde_json::from_slice(value).expect("a status record");
        let (phase, restarts) = self.statuses.entry(record.uid.clone()).or_default();
        if record.status.phase < *phase {
            let now = record.status.phase;
            self.broken
                .push(format!("pod {} went from {phase:?} back to {now:?}", record.uid));
        }
        *phase = record.status.phase;
        for container in &record.status.container_statuses {
            let before = restarts.entry(container.name.clone()).or_default();
            if container.restart_count < *before {
                self.broken.push(format!(
                    "{} of pod {} went from {before} restarts back to {}",
                    container.name, record.uid, container.restart_count
                ));
            }
            *before = container.restart_count;
        }
    }
}
