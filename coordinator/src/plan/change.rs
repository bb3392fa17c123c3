//! Every write that planners make. Made by the planners of this folder, checked by `check`, turned into the
//! store's changes by [`to_store`] and committed by `control::driver`.
//!
//! Invariant: a change names the version it was decided on, and alters nothing but what its name says.

use std::sync::Arc;

use proto::{
    ids,
    model::{Kind, ReplicationController, Time},
};

use crate::{
    ca::audit::AuditRecord,
    store::{self, Expect, Rv, keys},
    world::{
        Key,
        daemons::UnplacedRecord,
        drains::DrainRecord,
        record::{
            FailureRecord, HoldsRecord, LossRecord, OwnerKind, OwnerRecord, PodRecord, StopRecord, TemplateRecord,
            encode,
        },
        updates::{RevisionsRecord, UpdateRecord},
    },
};

/// A pod as it was when its change was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    pub key: Key,
    pub rv: Rv,
    pub record: Arc<PodRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a large plan is made of new pods, which are the large ones"
)]
pub enum Change {
    /// Its key is the hash of its content, so writing it again changes nothing.
    PutTemplate {
        hash: String,
        record: Arc<TemplateRecord>,
    },
    /// A new pod: bound when it names a node, else with the reason why it waits.
    CreatePod {
        key: Key,
        record: PodRecord,
    },
    /// Gives an unplaced pod its node, for life.
    Bind {
        pod: Before,
        node: String,
        /// Host ports given to it.
        ports: Vec<u16>,
    },
    /// Says why a pod is not placed, why it is not replaced while its node is lost, or why it does not leave a node that
    /// is being drained; empty: takes that back.
    Explain {
        pod: Before,
        waiting: String,
    },
    /// Notes that what was started in the pod's place came to nothing.
    Fail {
        pod: Before,
        failure: FailureRecord,
    },
    Stop {
        pod: Before,
        at: Time,
        /// Seconds.
        grace: u32,
        reason: String,
        /// Its node is not heard, and its replacement is created in the same commit.
        lost: bool,
        /// Id of the drain that stops it while it serves.
        drain: Option<String>,
    },
    /// Removes the record and the status of a pod of which nothing runs.
    RemovePod {
        pod: Before,
    },
    /// Takes a pod from its owner; it runs on.
    Release {
        pod: Before,
    },
    /// Gives an ownerless pod to a controller.
    Adopt {
        pod: Before,
        owner: OwnerRecord,
    },
    RemoveController {
        kind: OwnerKind,
        key: Key,
        rv: Rv,
    },
    RemoveBudget {
        key: Key,
        rv: Rv,
    },
    RemoveNamespace {
        name: String,
        rv: Rv,
    },
    RemoveTemplate {
        hash: String,
        rv: Rv,
    },
    RemoveEvent {
        key: Key,
        rv: Rv,
    },
    RemoveOp {
        id: String,
        rv: Rv,
    },
    /// A deleted node's tombstone, with its certificates.
    RemoveTombstone {
        node: String,
        rv: Rv,
    },
    /// Holds of a node whose time was over `at`; `left` are the others.
    ReleaseHolds {
        node: String,
        rv: Rv,
        at: Time,
        left: HoldsRecord,
    },
    /// What became of a drain; `holds`: with what it leaves of the node's holds, and their version.
    SetDrain {
        node: String,
        rv: Rv,
        record: DrainRecord,
        holds: Option<(Rv, HoldsRecord)>,
    },
    /// What became of a rolling update.
    SetUpdate {
        key: Key,
        rv: Rv,
        record: UpdateRecord,
    },
    RemoveUpdate {
        key: Key,
        rv: Rv,
    },
    /// The count of a controller under update.
    SetReplicas {
        key: Key,
        rv: Rv,
        /// As it was.
        controller: Arc<ReplicationController>,
        replicas: i32,
    },
    /// A controller takes another one's name, and with it its place.
    Rename {
        from: Key,
        from_rv: Rv,
        to: Key,
        to_rv: Rv,
        /// Under its new name.
        controller: ReplicationController,
    },
    SetRevisions {
        key: Key,
        before: Option<Rv>,
        record: RevisionsRecord,
    },
    RemoveRevisions {
        key: Key,
        rv: Rv,
    },
    /// From now on pods of the lost node may be replaced.
    GiveUp {
        node: String,
        at: Time,
        /// Version of the record of an earlier loss.
        before: Option<Rv>,
    },
    RemoveLoss {
        node: String,
        rv: Rv,
    },
    /// Ends the cluster's freeze.
    Unfreeze {
        rv: Rv,
    },
    /// Says why nodes have no daemon of a set.
    Unplaced {
        key: Key,
        /// Version of what was said before.
        before: Option<Rv>,
        record: UnplacedRecord,
    },
    /// Takes that back.
    RemoveUnplaced {
        key: Key,
        rv: Rv,
    },
    /// Goes with what it records; its key is the hash of its content, so writing it again changes nothing.
    Record(AuditRecord),
    /// A status that no pod has.
    RemoveStatus {
        key: Key,
        rv: Rv,
    },
}

impl Change {
    /// How many of the store's changes it is.
    pub fn weight(&self) -> usize {
        match self {
            Self::RemovePod { .. }
            | Self::RemoveTombstone { .. }
            | Self::SetDrain { holds: Some(_), .. }
            | Self::Rename { .. } => 2,
            Self::RemoveController { kind, .. } => 1 + usize::from(*kind == OwnerKind::DaemonSet),
            _ => 1,
        }
    }

    /// The pod that it creates or changes.
    pub fn pod(&self) -> Option<&Key> {
        match self {
            Self::CreatePod { key, .. } => Some(key),
            Self::Bind { pod, .. }
            | Self::Explain { pod, .. }
            | Self::Fail { pod, .. }
            | Self::Stop { pod, .. }
            | Self::RemovePod { pod }
            | Self::Release { pod }
            | Self::Adopt { pod, .. } => Some(&pod.key),
            _ => None,
        }
    }

    fn append(&self, out: &mut Vec<store::Change>) {
        match self {
            Self::PutTemplate { hash, record } => {
                out.push(store::Change::put(keys::template(hash), Expect::Any, encode(&**record)));
            }
            Self::CreatePod { key, record } => {
                out.push(store::Change::put(pod_key(key), Expect::Absent, encode(record)));
            }
            Self::Bind { pod, node, ports } => out.push(edit(pod, |r| {
                r.node.clone_from(node);
                r.ports.clone_from(ports);
                r.waiting.clear();
            })),
            Self::Explain { pod, waiting } => out.push(edit(pod, |r| r.waiting.clone_from(waiting))),
            Self::Fail { pod, failure } => out.push(edit(pod, |r| r.failure = Some(failure.clone()))),
            Self::Stop {
                pod,
                at,
                grace,
                reason,
                lost,
                drain,
            } => out.push(edit(pod, |r| {
                r.stop = Some(StopRecord {
                    at: *at,
                    grace: *grace,
                    reason: reason.clone(),
                    lost: *lost,
                    drain: drain.clone(),
                });
            })),
            Self::RemovePod { pod } => {
                out.push(store::Change::delete(pod_key(&pod.key), Expect::At(pod.rv)));
                out.push(store::Change::delete(
                    keys::pod_status(&pod.key.0, &pod.key.1),
                    Expect::Any,
                ));
            }
            Self::Release { pod } => out.push(edit(pod, |r| r.owner = None)),
            Self::Adopt { pod, owner } => out.push(edit(pod, |r| r.owner = Some(owner.clone()))),
            Self::RemoveController { kind, key, rv } => {
                let at = keys::object(kind.kind(), &key.0, &key.1);
                out.push(store::Change::delete(at, Expect::At(*rv)));
                if *kind == OwnerKind::DaemonSet {
                    out.push(store::Change::delete(keys::unplaced(&key.0, &key.1), Expect::Any));
                }
            }
            Self::Unplaced { key, before, record } => {
                let expect = before.map_or(Expect::Absent, Expect::At);
                out.push(store::Change::put(
                    keys::unplaced(&key.0, &key.1),
                    expect,
                    encode(record),
                ));
            }
            Self::RemoveUnplaced { key, rv } => {
                out.push(store::Change::delete(keys::unplaced(&key.0, &key.1), Expect::At(*rv)));
            }
            Self::RemoveBudget { key, rv } => {
                let key = keys::object(Kind::PodDisruptionBudget, &key.0, &key.1);
                out.push(store::Change::delete(key, Expect::At(*rv)));
            }
            Self::RemoveNamespace { name, rv } => {
                let key = keys::object(Kind::Namespace, "", name);
                out.push(store::Change::delete(key, Expect::At(*rv)));
            }
            Self::RemoveTemplate { hash, rv } => {
                out.push(store::Change::delete(keys::template(hash), Expect::At(*rv)));
            }
            Self::RemoveEvent { key, rv } => {
                out.push(store::Change::delete(keys::event(&key.0, &key.1), Expect::At(*rv)));
            }
            Self::RemoveOp { id, rv } => out.push(store::Change::delete(keys::op(id), Expect::At(*rv))),
            Self::RemoveTombstone { node, rv } => {
                out.push(store::Change::delete(keys::tombstone(node), Expect::At(*rv)));
                out.push(store::Change::delete(keys::cert(node), Expect::Any));
            }
            Self::ReleaseHolds { node, rv, left, .. } => {
                out.push(store::Change::put(keys::holds(node), Expect::At(*rv), encode(left)));
            }
            Self::SetDrain {
                node,
                rv,
                record,
                holds,
            } => {
                out.push(store::Change::put(keys::drain(node), Expect::At(*rv), encode(record)));
                if let Some((rv, left)) = holds {
                    out.push(store::Change::put(keys::holds(node), Expect::At(*rv), encode(left)));
                }
            }
            Self::SetUpdate { key, rv, record } => {
                let at = keys::update(&key.0, &key.1);
                out.push(store::Change::put(at, Expect::At(*rv), encode(record)));
            }
            Self::RemoveUpdate { key, rv } => {
                out.push(store::Change::delete(keys::update(&key.0, &key.1), Expect::At(*rv)));
            }
            Self::SetReplicas {
                key,
                rv,
                controller,
                replicas,
            } => {
                let mut controller = (**controller).clone();
                controller.spec.replicas = *replicas;
                controller.metadata.generation = Some(controller.metadata.generation.unwrap_or(1) + 1);
                out.push(store::Change::put(
                    controller_key(key),
                    Expect::At(*rv),
                    encode(&controller),
                ));
            }
            Self::Rename {
                from,
                from_rv,
                to,
                to_rv,
                controller,
            } => {
                // In this order: the other way round the first would take the second's uid away again.
                out.push(store::Change::delete(controller_key(from), Expect::At(*from_rv)));
                out.push(store::Change::put(
                    controller_key(to),
                    Expect::At(*to_rv),
                    encode(controller),
                ));
            }
            Self::SetRevisions { key, before, record } => {
                let expect = before.map_or(Expect::Absent, Expect::At);
                out.push(store::Change::put(
                    keys::revisions(&key.0, &key.1),
                    expect,
                    encode(record),
                ));
            }
            Self::RemoveRevisions { key, rv } => {
                out.push(store::Change::delete(keys::revisions(&key.0, &key.1), Expect::At(*rv)));
            }
            Self::GiveUp { node, at, before } => {
                let expect = before.map_or(Expect::Absent, Expect::At);
                let record = LossRecord { at: *at };
                out.push(store::Change::put(keys::loss(node), expect, encode(&record)));
            }
            Self::RemoveLoss { node, rv } => {
                out.push(store::Change::delete(keys::loss(node), Expect::At(*rv)));
            }
            Self::Unfreeze { rv } => out.push(store::Change::delete(keys::FREEZE, Expect::At(*rv))),
            Self::Record(record) => out.push(record.change_with_id(&ids::content_hash(&encode(record)))),
            Self::RemoveStatus { key, rv } => {
                out.push(store::Change::delete(keys::pod_status(&key.0, &key.1), Expect::At(*rv)));
            }
        }
    }
}

/// The store's changes of one commit, in order.
pub fn to_store(changes: &[Change]) -> Vec<store::Change> {
    let mut out = Vec::with_capacity(changes.len());
    for change in changes {
        change.append(&mut out);
    }
    out
}

fn pod_key(key: &Key) -> String {
    keys::object(Kind::Pod, &key.0, &key.1)
}

fn controller_key(key: &Key) -> String {
    keys::object(Kind::ReplicationController, &key.0, &key.1)
}

fn edit(pod: &Before, f: impl FnOnce(&mut PodRecord)) -> store::Change {
    let mut record = (*pod.record).clone();
    f(&mut record);
    store::Change::put(pod_key(&pod.key), Expect::At(pod.rv), encode(&record))
}
