//! The states that the world is made of, and what is derived from each alone. Made by `World::apply`, read by
//! all.
//!
//! Invariant: a derived amount is a function of the records beside it.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use proto::{
    capability,
    model::{
        ConditionStatus, Hardware, HoldKind, Node, NodeCondition, NodeHold, NodeStatus, PodSpec, Protocol, Quantity,
        ReplicationController, Time, host_port,
        loss::{self, LossPolicy},
    },
};

use super::drains::DrainRecord;
use super::record::{
    Claim, FactsRecord, HolderRecord, HoldsRecord, LossRecord, OffRecord, OwnerKind, PodRecord, Rival, StatusRecord,
    TemplateRecord,
};
use crate::store::{Expect, Rv};

/// A value and the version of the key that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    pub rv: Rv,
    pub value: Arc<T>,
}

/// What a pod asks for, in planners' units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_milli: u64,
    pub memory: u64,
    pub storage: u64,
    pub pods: u64,
}

impl Amounts {
    pub fn add(&mut self, other: Self) {
        self.cpu_milli += other.cpu_milli;
        self.memory += other.memory;
        self.storage += other.storage;
        self.pods += other.pods;
    }

    pub fn sub(&mut self, other: Self) {
        self.cpu_milli = self.cpu_milli.saturating_sub(other.cpu_milli);
        self.memory = self.memory.saturating_sub(other.memory);
        self.storage = self.storage.saturating_sub(other.storage);
        self.pods = self.pods.saturating_sub(other.pods);
    }
}

/// A pod template with what planners derive from it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub rv: Rv,
    pub record: TemplateRecord,
    /// Sum of the containers' requests with the defaults for what is not given; `pods` is 1.
    pub request: Amounts,
    /// Those that the template names.
    pub host_ports: Vec<(u16, Protocol)>,
    /// Of the ports for which placement chooses a host port, in their order.
    pub asking: Vec<Protocol>,
    /// Capabilities that a node's agent must have.
    pub needs: Vec<&'static str>,
}

impl Template {
    pub fn new(rv: Rv, record: TemplateRecord) -> Self {
        Self {
            rv,
            request: request_of(&record),
            host_ports: record.spec.host_ports().collect(),
            asking: host_port::asking(&record.annotations, &record.spec),
            needs: needs_of(&record),
            record,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Version of the record; what a compare-and-swap on it expects.
    pub rv: Rv,
    pub record: Arc<PodRecord>,
    /// Present once the store's snapshot or an update brought it; its commit is the pod's own or an earlier one.
    pub template: Option<Arc<Template>>,
    /// Status of this uid, with its version.
    pub status: Option<Versioned<StatusRecord>>,
}

impl PodState {
    /// Newest version of record and status.
    pub fn latest(&self) -> Rv {
        self.status.as_ref().map_or(self.rv, |s| s.rv.max(self.rv))
    }

    pub fn phase(&self) -> proto::model::Phase {
        self.status.as_ref().map(|s| s.value.status.phase).unwrap_or_default()
    }

    /// The agent says Ready; whether its node is heard is the caller's question.
    pub fn ready(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.value.status.ready())
    }

    /// Whether it has been Ready this long, by its agent's clock.
    pub fn ready_for(&self, seconds: i32, now: Time) -> bool {
        let Some(ready) = self.status.as_ref().and_then(|s| s.value.status.condition("Ready")) else {
            return false;
        };
        let needed = u64::try_from(seconds).unwrap_or(0);
        let long_enough = ready
            .last_transition_time
            .is_some_and(|since| now.since(since) >= needed);
        ready.status == ConditionStatus::True && (needed == 0 || long_enough)
    }

    /// From when on it has been Ready this long, if it stays so; none while it is not Ready.
    pub fn ready_at(&self, seconds: i32) -> Option<Time> {
        let ready = self.status.as_ref()?.value.status.condition("Ready")?;
        let since = ready.last_transition_time.filter(|_| self.ready())?;
        Some(Time(since.0.saturating_add(i64::from(seconds))))
    }

    pub fn stopping(&self) -> bool {
        self.record.stop.is_some()
    }

    /// Runs, or will: not being stopped, not known to have ended.
    pub fn live(&self) -> bool {
        !self.stopping() && !self.ended()
    }

    /// Its containers are known to have ended for good.
    pub fn ended(&self) -> bool {
        self.status
            .as_ref()
            .is_some_and(|s| s.value.stopped || s.value.vanished || s.value.status.phase.is_final())
    }

    /// It has ended by itself. One that was stopped is there as long as its record: what follows it comes with the end of
    /// that.
    pub fn is_over(&self) -> bool {
        self.ended() && !self.stopping()
    }

    /// Its host joined again and has nothing of it.
    pub fn vanished(&self) -> bool {
        self.status.as_ref().is_some_and(|s| s.value.vanished)
    }

    /// What it is made from; empty while its template has not come.
    pub fn template_record(&self) -> &TemplateRecord {
        static NONE: LazyLock<TemplateRecord> = LazyLock::new(TemplateRecord::default);
        self.template.as_ref().map_or(&NONE, |t| &t.record)
    }

    /// One label: the record's difference, else the template's.
    pub fn label(&self, key: &str) -> Option<&str> {
        match self.record.labels.get(key) {
            Some(value) => value.as_deref(),
            None => self.template.as_ref()?.record.labels.get(key).map(String::as_str),
        }
    }

    /// Every host port of it: those of its template, and those given to it.
    pub fn host_ports(&self) -> impl Iterator<Item = (u16, Protocol)> {
        let template = self.template.as_deref();
        let named = template.map_or(&[][..], |t| &t.host_ports);
        let asking = template.map_or(&[][..], |t| &t.asking);
        let given = self.record.ports.iter().copied().zip(asking.iter().copied());
        named.iter().copied().chain(given)
    }

    /// What it runs: its template's spec with its node and the host ports given to it.
    pub fn spec(&self) -> PodSpec {
        let mut spec = self.template_record().spec.clone();
        spec.node_name.clone_from(&self.record.node);
        if !self.record.ports.is_empty() {
            host_port::give(&mut spec, &self.record.ports);
        }
        spec
    }

    /// One annotation: the record's difference, else the template's.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        match self.record.annotations.get(key) {
            Some(value) => value.as_deref(),
            None => {
                let template = self.template.as_ref()?;
                template.record.annotations.get(key).map(String::as_str)
            }
        }
    }

    /// What it asks for when its node is lost.
    pub fn loss_policy(&self) -> LossPolicy {
        LossPolicy::of(|key| self.annotation(key))
    }

    /// Name of the volume for whose data it stays with its host, whatever becomes of that.
    pub fn bound_by_data(&self) -> Option<&str> {
        let volume = loss::local_data(&self.template.as_ref()?.record.spec)?;
        (!self.loss_policy().discards_data).then_some(volume)
    }

    /// Of its node, and not to be moved: a pod of a DaemonSet.
    pub fn is_daemon(&self) -> bool {
        let owner = self.record.owner.as_ref();
        owner.is_some_and(|o| o.kind == OwnerKind::DaemonSet)
    }

    /// It was replaced when its node was lost, and nobody has seen its end.
    pub fn lost(&self) -> bool {
        self.record.stop.as_ref().is_some_and(|s| s.lost) && !self.ended()
    }

    /// Takes its node's resources: placed, and not known to have ended.
    pub fn occupies(&self) -> bool {
        !self.record.node.is_empty() && !self.ended()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    pub rv: Rv,
    pub node: Arc<Node>,
    pub facts: Option<Versioned<FactsRecord>>,
    pub hardware: Option<Versioned<Hardware>>,
    /// What liveness last said; a quarantine goes before it.
    pub ready: Option<Versioned<NodeCondition>>,
    /// Which agent process holds its identity.
    pub holder: Option<Versioned<HolderRecord>>,
    /// Why it takes no new pods.
    pub holds: Option<Versioned<HoldsRecord>>,
    /// An operator said that its host is off.
    pub off: Option<Versioned<OffRecord>>,
    /// Its pods may be replaced: of this loss if it is not older than that.
    pub loss: Option<Versioned<LossRecord>>,
    /// Its present or last drain.
    pub drain: Option<Versioned<DrainRecord>>,
    /// What its pods may take, from its facts.
    pub allocatable: Amounts,
    /// What its pods take.
    pub used: Amounts,
    /// Host ports its pods take, with how many take each (more than one only by a fault).
    pub ports: BTreeMap<(u16, Protocol), u32>,
    /// Pods of it that were replaced while it was lost and whose end was not seen.
    pub replaced: u32,
}

/// A node that is not heard, so that nobody knows what runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub since: Time,
    pub why: Silence,
}

/// How it fell silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Host or network may be gone.
    Unreachable,
    /// Its agent's connection closed: the agent ended, and what it ran goes on without it.
    AgentDown,
}

pub const UNREACHABLE: &str = "Unreachable";
pub const AGENT_DOWN: &str = "AgentDown";
/// A coordinator that stands by hears it, and the active one does not: it is not lost.
pub const HEARD_ELSEWHERE: &str = "HeardElsewhere";

impl Silence {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => UNREACHABLE,
            Self::AgentDown => AGENT_DOWN,
        }
    }
}

impl NodeState {
    pub fn latest(&self) -> Rv {
        [
            Some(self.rv),
            self.facts.as_ref().map(|f| f.rv),
            self.hardware.as_ref().map(|h| h.rv),
            self.ready.as_ref().map(|r| r.rv),
            self.holder.as_ref().map(|h| h.rv),
            self.holds.as_ref().map(|h| h.rv),
            self.off.as_ref().map(|o| o.rv),
            self.drain.as_ref().map(|d| d.rv),
        ]
        .into_iter()
        .flatten()
        .max()
        .unwrap_or_default()
    }

    /// Heard, not in quarantine, not confirmed off, and Docker answers; whether it takes new pods is the scheduler's
    /// question.
    pub fn is_ready(&self) -> bool {
        self.rival().is_none()
            && self.off.is_none()
            && self
                .ready
                .as_ref()
                .is_some_and(|r| r.value.status == ConditionStatus::True)
    }

    /// Whether it is not heard, and since when. Where Docker does not answer or two agents claim the node, agents
    /// are heard; of a host that is confirmed off all is known.
    pub fn lost(&self) -> Option<Lost> {
        let ready = &self
            .ready
            .as_ref()
            .filter(|_| self.rival().is_none() && self.off.is_none())?
            .value;
        let why = match (ready.status, ready.reason.as_str()) {
            (ConditionStatus::Unknown, UNREACHABLE) => Silence::Unreachable,
            (ConditionStatus::Unknown, AGENT_DOWN) => Silence::AgentDown,
            _ => return None,
        };
        let since = ready.last_transition_time.unwrap_or_default();
        Some(Lost { since, why })
    }

    /// Its agent can do this.
    pub fn can(&self, capability: &str) -> bool {
        let facts = self.facts.as_ref();
        facts.is_some_and(|f| f.value.capabilities.iter().any(|c| c == capability))
    }

    /// Its pods may be replaced, for this loss.
    pub fn given_up(&self) -> bool {
        let since = self.lost().map(|l| l.since);
        self.loss
            .as_ref()
            .is_some_and(|l| since.is_some_and(|s| l.value.at >= s))
    }

    /// The first of its holds. A hold counts until it is released, even when its time is over: control releases it then.
    pub fn held(&self) -> Option<&NodeHold> {
        self.holds().next()
    }

    /// Whether someone has cordoned it: `spec.unschedulable`.
    pub fn cordoned(&self) -> bool {
        self.holds().any(|h| h.kind == HoldKind::Cordon)
    }

    /// By id.
    pub fn holds(&self) -> impl Iterator<Item = &NodeHold> {
        self.holds.iter().flat_map(|h| h.value.values())
    }

    /// What a write of its holds expects of their key. A hold that an earlier release left in the node's own record
    /// has that record's version and no key.
    pub fn holds_expected(&self) -> Expect {
        match &self.holds {
            Some(holds) if holds.rv != self.rv => Expect::At(holds.rv),
            _ => Expect::Absent,
        }
    }

    /// The second holder of its identity: the node is in quarantine.
    pub fn rival(&self) -> Option<&Rival> {
        self.holder.as_ref()?.value.rival.as_ref()
    }

    /// The Ready condition as it is shown.
    pub fn condition(&self) -> NodeCondition {
        let ready = |status, reason: &str, message, since| NodeCondition {
            kind: "Ready".into(),
            status,
            reason: reason.into(),
            message,
            last_transition_time: since,
            last_heartbeat_time: None,
        };
        let name = &self.node.metadata.name;
        match (&self.holder, self.rival(), &self.off, &self.ready) {
            (Some(known), Some(rival), ..) => ready(
                ConditionStatus::False,
                "Quarantined",
                clone_words(name, &known.value.holder, rival),
                Some(rival.since),
            ),
            (_, _, Some(off), _) => ready(
                ConditionStatus::False,
                "ConfirmedOff",
                format!(
                    "{} confirmed at {} that its host is off; it takes pods again once its agent is back and has stopped what it ran",
                    off.value.by, off.value.at
                ),
                Some(off.value.at),
            ),
            (.., Some(ready)) => (*ready.value).clone(),
            _ => ready(
                ConditionStatus::Unknown,
                "NeverConnected",
                "the agent has enrolled and not connected yet".into(),
                self.node.metadata.creation_timestamp,
            ),
        }
    }

    /// Where it can be reached: the first address that its agent reports; empty while it reports none.
    pub fn address(&self) -> &str {
        let addresses = self.facts.iter().flat_map(|f| &f.value.status.addresses);
        let mut ips = addresses.filter(|a| a.kind != "Hostname");
        ips.next().map_or("", |a| &a.address)
    }

    pub fn machine_id(&self) -> &str {
        self.facts
            .as_ref()
            .and_then(|f| f.value.status.node_info.as_ref())
            .map(|i| i.machine_id.as_str())
            .unwrap_or_default()
    }
}

/// The cordon of a node that an earlier release marked in the node's own record, when cordons had no owners. The
/// first write of the node's holds takes the mark away.
pub fn cordoned_before(node: &NodeState) -> Option<Versioned<HoldsRecord>> {
    if !node.node.spec.unschedulable {
        return None;
    }
    let hold = NodeHold {
        kind: HoldKind::Cordon,
        owner: "unknown".to_owned(),
        reason: "made when cordons had no owners".to_owned(),
        since: node.node.metadata.creation_timestamp.unwrap_or_default(),
        expires: None,
    };
    Some(Versioned {
        rv: node.rv,
        value: Arc::new(HoldsRecord::from([(hold.id(), hold)])),
    })
}

/// What is said of a node whose identity two agents hold.
pub fn clone_words(node: &str, holder: &Claim, rival: &Rival) -> String {
    format!(
        "two agents hold the identity of node {node}: {holder}, and {}; stop the copy, then: wharf node readmit {node}",
        rival.claim
    )
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerState {
    pub rv: Rv,
    pub rc: Arc<ReplicationController>,
    /// Newest version of it, of any pod of it, or of a node by which these can be reached otherwise: its derived
    /// status or its endpoints may have changed then.
    pub touched: Rv,
}

/// Counted for a pod whose containers request no CPU or no memory (design, Defaults).
pub const DEFAULT_CPU_MILLI: u64 = 50;
pub const DEFAULT_MEMORY: u64 = 64 << 20;

/// Pods of a node whose agent does not say (design, Defaults).
pub const DEFAULT_PODS: u64 = 110;

/// What a node's pods may take together.
pub fn allocatable_of(status: &NodeStatus) -> Amounts {
    let amount = |name: &str| status.allocatable.get(name);
    Amounts {
        cpu_milli: amount("cpu").map_or(0, Quantity::milli),
        memory: amount("memory").map_or(0, Quantity::units),
        storage: amount("ephemeral-storage").map_or(0, Quantity::units),
        pods: amount("pods").map_or(DEFAULT_PODS, Quantity::units),
    }
}

/// What an agent must be able to do for a pod of this template.
fn needs_of(template: &TemplateRecord) -> Vec<&'static str> {
    let mut needs = capability::needed(&template.spec);
    if template.annotations.contains_key(loss::STOP_AFTER_DISCONNECT) {
        needs.push(capability::STOP_AFTER_DISCONNECT);
    }
    needs
}

/// What a pod of this template takes of a node.
pub fn request_of(template: &TemplateRecord) -> Amounts {
    let sum = |name: &str, milli: bool| -> u64 {
        let amounts = template
            .spec
            .containers
            .iter()
            .filter_map(|c| c.resources.requests.get(name));
        amounts.fold(0_u64, |sum, q| {
            sum.saturating_add(if milli { q.milli() } else { q.units() })
        })
    };
    let or = |given: u64, default: u64| if given == 0 { default } else { given };
    Amounts {
        cpu_milli: or(sum("cpu", true), DEFAULT_CPU_MILLI),
        memory: or(sum("memory", false), DEFAULT_MEMORY),
        storage: sum("ephemeral-storage", false),
        pods: 1,
    }
}
