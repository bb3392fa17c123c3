//! What a plan may do about nodes that are lost, and about pods that have to leave theirs. Part of `check`.
//!
//! Invariant: counts anew from the world; knows nothing of how `health` and `evict` decide.

use std::collections::BTreeSet;

use proto::model::{Stay, TaintEffect, Time, Toleration};

use super::{Change, Checked, Group, Plan, Staged, at, ensure};
use crate::{
    plan::change::Before,
    store::Rv,
    world::{NodeState, PodState, Silence, settings},
};

impl Staged<'_> {
    /// Nodes are given up within the brake and the freeze, and nothing is replaced where those forbid it.
    pub(super) fn losses(&self, plan: &Plan) -> Checked {
        let gives_up = |change: &Change| match change {
            Change::GiveUp { .. } => true,
            Change::Stop { pod, lost: true, .. } => {
                let node = self.world.nodes.get(&pod.record.node);
                node.is_none_or(|n| n.off.is_none())
            }
            _ => false,
        };
        if plan.changes().any(gives_up) {
            self.released()?;
        }
        self.brake(plan)
    }

    /// A taint of its node asks it to leave, and nothing is frozen.
    pub(super) fn driven_out(&self, pod: &PodState, at: Time) -> bool {
        let spec = &pod.template_record().spec;
        let started = pod.status.as_ref().and_then(|s| s.value.status.start_time);
        let node = self.node_of(pod);
        !self.frozen(at)
            && node.iter().flat_map(|n| &n.node.spec.taints).any(|taint| {
                taint.effect == TaintEffect::NoExecute
                    && match (Toleration::stay(&spec.tolerations, taint), started) {
                        (None, _) => true,
                        (Some(Stay::Seconds(seconds)), Some(started)) => {
                            at.since(started.max(taint.time_added.unwrap_or_default())) >= seconds
                        }
                        _ => false,
                    }
            })
    }

    pub(super) fn frozen(&self, at: Time) -> bool {
        let freeze = self.world.freeze.as_ref();
        freeze.is_some_and(|f| f.value.until.is_none_or(|until| at < until))
    }

    /// Nodes that the brake counts.
    fn fleet(&self) -> impl Iterator<Item = (&String, &NodeState)> {
        let nodes = self.world.nodes.iter();
        nodes.filter(|(_, n)| n.ready.is_some() && n.off.is_none())
    }

    /// Whether a node that was given up then is within the brake's period.
    fn counts(&self, given_up: Time) -> bool {
        let period = self.world.settings.get(&settings::BRAKE_PERIOD).div_ceil(1000);
        self.admitted.now.since(given_up) < period
    }

    /// Neither the freeze nor the loss of most of the fleet forbids that pods are started elsewhere.
    fn released(&self) -> Checked {
        ensure(!self.frozen(self.admitted.now), || "the cluster is frozen".into())?;
        let (lost, all) = (
            self.fleet().filter(|(_, n)| n.lost().is_some()).count(),
            self.fleet().count(),
        );
        let share = self.world.settings.get(&settings::BRAKE_STOP);
        ensure(
            lost < all && (lost <= 2 || (lost as u64 * 100) < share * all as u64),
            || format!("{lost} of {all} nodes are lost: the brake is on"),
        )
    }

    /// A pod's end without a word of its agent.
    pub(super) fn lost(&self, pod: &Before, commit: &[Change]) -> Checked {
        let state = self.current(pod)?;
        let key = &pod.key;
        ensure(!state.stopping(), || format!("{key:?} is being stopped already"))?;
        let volume = state.bound_by_data();
        ensure(volume.is_none(), || {
            format!("{key:?} has its data in volume {volume:?} there")
        })?;
        let node = self.node_of(state).ok_or_else(|| format!("{key:?} has no node"))?;
        if !matches!(self.group, Group::Pod(_)) {
            let followed = |pod: &Before| self.world.replacement_of(&pod.record.uid).is_some();
            let stops = commit
                .iter()
                .filter(|c| matches!(c, Change::Stop { pod, lost: true, .. } if !followed(pod)))
                .count();
            let created = commit.iter().filter(|c| matches!(c, Change::CreatePod { .. })).count();
            ensure(followed(pod) || created >= stops, || {
                format!("{key:?} is not replaced in the same commit")
            })?;
        }
        if node.off.is_some() {
            return Ok(());
        }
        ensure(matches!(self.group, Group::Controller(_) | Group::Update(_)), || {
            format!("{key:?} has no controller that replaces it")
        })?;
        let lost = node.lost().ok_or_else(|| format!("the node of {key:?} is heard"))?;
        ensure(node.given_up(), || format!("the node of {key:?} is not given up"))?;
        let policy = state.loss_policy();
        let limit = policy.stop_after_disconnect.map(|d| d.as_secs() + 10);
        let guarded = lost.why == Silence::Unreachable && node.can("stop-after-disconnect");
        let over = guarded && limit.is_some_and(|l| self.admitted.now.since(lost.since) > l);
        ensure(!policy.singleton || over, || {
            format!("{key:?} is a singleton and may still run")
        })
    }

    /// No more nodes are given up in a period than the brake lets through, of all and of each failure domain.
    fn brake(&self, plan: &Plan) -> Checked {
        let counted: BTreeSet<&str> = self
            .world
            .losses()
            .filter(|(_, l)| self.counts(l.value.at))
            .map(|(name, _)| name.as_str())
            .collect();
        let new: BTreeSet<&str> = plan
            .changes()
            .filter_map(|c| match c {
                Change::GiveUp { node, .. } if !counted.contains(node.as_str()) => Some(node.as_str()),
                _ => None,
            })
            .collect();
        let zone = |name: &str| {
            let node = self.world.nodes.get(name)?;
            node.node.metadata.labels.get("topology.kubernetes.io/zone").cloned()
        };
        let share = self.world.settings.get(&settings::BRAKE_SHARE);
        let zones: BTreeSet<Option<String>> = new.iter().map(|n| zone(n)).filter(Option::is_some).collect();
        for domain in std::iter::once(None).chain(zones) {
            let within = |name: &str| domain.is_none() || zone(name) == domain;
            let size = self.fleet().filter(|(name, _)| within(name)).count() as u64;
            let up = counted.iter().chain(&new).filter(|n| within(n)).count() as u64;
            ensure(new.is_empty() || up <= (size * share / 100).max(1), || {
                format!("{up} of {size} nodes would be given up at once")
            })?;
        }
        Ok(())
    }

    pub(super) fn give_up(&self, name: &str) -> Checked {
        let node = self.world.nodes.get(name);
        ensure(node.is_some_and(|n| n.lost().is_some() && !n.given_up()), || {
            format!("node {name} is not lost, or is given up already")
        })
    }

    pub(super) fn remove_loss(&self, node: &str, rv: Rv) -> Checked {
        let found = self.world.losses().find(|(name, _)| *name == node);
        let (_, loss) = found.ok_or("the record is gone")?;
        at(loss.rv, rv)?;
        let lost = self.world.nodes.get(node).is_some_and(|n| n.lost().is_some());
        ensure(!lost && !self.counts(loss.value.at), || {
            format!("the loss of node {node} still counts")
        })
    }
}
