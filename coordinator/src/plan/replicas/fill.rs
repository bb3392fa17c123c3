//! The new pods of a controller: for those that it lacks, for those that are lost, for those that a drain moves. Called by
//! `replicas` with all that one plan wants.
//!
//! Invariant: what ends with the birth of another pod ends in the same commit; what has no place to go stays, unless
//! nothing of it serves.

use std::sync::Arc;

use proto::{
    ids::IdGen,
    model::{EventType, ReplicationController},
};

use super::{Entry, MAX_CREATED, ReplicaGroup, template_of};
use crate::{
    plan::{
        Draft,
        change::Change,
        drain::moves::{self, Next},
        gc, health, pod_note,
        scheduler::{self, Batch, Counts, Place, Placed, Pods},
    },
    store::{MAX_CHANGES, Rv},
    world::{
        Key, NodeState, PodState, Template, World,
        record::{PodRecord, ReplacesRecord},
    },
};

/// A new pod, or what becomes of an old one if there is a place for a new one.
pub(super) enum Wanted<'w> {
    /// One that the controller lacks; of a pod that a drain stopped first, with that.
    New(Option<ReplacesRecord>),
    /// One for a pod whose node is lost. `ended`: whether there is room for the new one or not, for the host is off.
    Lost {
        key: &'w Key,
        pod: &'w PodState,
        ended: bool,
    },
    /// One beside a pod that a drain is to move.
    Beside(Entry<'w>),
    /// One for a pod that a drain moves and that serves nobody.
    InPlaceOf(Entry<'w>),
    /// None yet: the old one is stopped first.
    Later(Entry<'w>),
}

impl<'w> Wanted<'w> {
    pub fn moved(next: Next, key: &'w Key, pod: &'w PodState) -> Option<Self> {
        match next {
            Next::Nothing => None,
            Next::Surge => Some(Self::Beside((key, pod))),
            Next::Replace => Some(Self::InPlaceOf((key, pod))),
            Next::StopFirst => Some(Self::Later((key, pod))),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::New(_) | Self::Beside(_) | Self::Later(_) => 1,
            Self::Lost { .. } | Self::InPlaceOf(_) => 2,
        }
    }

    /// Whose place the new pod takes.
    fn replaces(&self, world: &World, now: proto::model::Time) -> Option<ReplacesRecord> {
        match self {
            Self::New(replaces) => replaces.clone(),
            Self::Lost { pod, .. } => pod.record.replaces.clone().filter(|r| world.drains(&r.node, &r.drain)),
            Self::Beside((key, pod)) => moves::replaces(world, key, pod, now),
            // It was not Ready before: nobody waits for the new one to be.
            Self::InPlaceOf(_) | Self::Later(_) => None,
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "one caller; what a batch needs")]
pub(super) fn fill(
    world: &World,
    rc: &ReplicationController,
    group: &ReplicaGroup<'_>,
    wanted: &[Wanted<'_>],
    counts: &Counts<'_>,
    seed: u64,
    placed: &mut Placed,
    out: &mut Draft,
) {
    let (hash, _) = template_of(rc).encode();
    let known = world.templates.get(&hash);
    let fresh;
    let (template, mut room) = if let Some(template) = known {
        (&**template, MAX_CREATED)
    } else {
        // One commit brings the template; the others follow once the world has it, so that no pod is ever
        // without.
        fresh = Template::new(Rv::default(), template_of(rc));
        out.cut();
        out.push(Change::PutTemplate {
            hash: hash.clone(),
            record: Arc::new(fresh.record.clone()),
        });
        (&fresh, MAX_CHANGES - 1)
    };
    let mut ids = IdGen::new(seed);
    let pods = Pods::new(group.namespace, template);
    let mut batch = Batch::new(world, pods, counts, placed, seed);
    let mut why = None;
    for want in wanted {
        if room < want.weight() {
            break;
        }
        let place = if why.is_none() { batch.place(placed) } else { None };
        if place.is_none() {
            why.get_or_insert_with(|| batch.explain());
        }
        // What runs there, perhaps, is better than what waits here for sure.
        match (want, &why) {
            (Wanted::Lost { key, pod, ended: false }, Some(why)) => {
                health::explain(key, pod, format!("it is not replaced: {why}"), out);
                continue;
            }
            (Wanted::Beside((key, pod)), Some(why)) => {
                moves::no_room(world, key, pod, why, out);
                continue;
            }
            (Wanted::Later((key, pod)), why) => {
                moves::stop_first(world, key, pod, why.as_deref(), out);
                continue;
            }
            _ => {}
        }
        room -= want.weight();
        let key = out.fresh_name(world, group.namespace, &group.owner.name, &mut ids);
        let (node, ports) = place.map_or((None, Vec::new()), |Place { node, ports }| (Some(node), ports));
        let record = PodRecord {
            uid: ids.uid(),
            template: hash.clone(),
            created: out.now,
            owner: Some(group.owner.clone()),
            node: node.unwrap_or_default().to_owned(),
            ports,
            replaces: want.replaces(world, out.now),
            waiting: why.clone().unwrap_or_default(),
            ..PodRecord::default()
        };
        let uid = record.uid.clone();
        let create = Change::CreatePod {
            key: key.clone(),
            record,
        };
        match want {
            Wanted::New(_) | Wanted::Beside(_) | Wanted::Later(_) => out.push(create),
            Wanted::Lost { key: old, pod, ended } => give_up(world, old, pod, *ended, &key, Some(create), out),
            Wanted::InPlaceOf((old, pod)) => moves::give_way(world, old, pod, create, out),
        }
        if let Wanted::Beside(old) = want {
            moves::beside(*old, &key, &uid, out);
        }
        match (node, &why) {
            (Some(node), _) => scheduler::scheduled(&key, &uid, node, out),
            (None, why) => scheduler::failed(&key, &uid, why.as_deref().unwrap_or_default(), out),
        }
    }
}

/// The end of a pod whose node is lost, with the birth of the one that takes its place, unless that lives already.
pub(super) fn give_up(
    world: &World,
    key: &Key,
    pod: &PodState,
    off: bool,
    follower: &Key,
    create: Option<Change>,
    out: &mut Draft,
) {
    let node = &pod.record.node;
    let reason = match world.nodes.get(node).and_then(NodeState::lost) {
        Some(lost) if !off => format!(
            "node {node} is {} since {}: it was replaced",
            lost.why.as_str(),
            lost.since
        ),
        _ => gc::off_words(node),
    };
    let message = format!("{reason} by {}", follower.1);
    let stop = gc::stop_of(key, pod, &reason, true, out.now);
    out.push_together(std::iter::once(stop).chain(create).collect());
    let note = pod_note(key, &pod.record.uid, "Replaced", message, EventType::Warning, out.now);
    out.note(note);
}
