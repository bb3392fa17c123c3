//! Whether a plan's placements keep hard topology spread constraints. Part of `check`, which calls it for each pod
//! that comes to a node.
//!
//! Invariant: counts anew from the world, the plans admitted before and the plan's own placements so far, in their
//! order; knows nothing of how the scheduler counts.

use std::collections::{BTreeMap, HashMap};

use proto::model::{NodeTaintsPolicy, Taint, TaintEffect, TopologySpreadConstraint};

use super::scheduler::spread::Landed;
use crate::world::{NodeState, Template, World, record::TemplateRecord};

type Labels = BTreeMap<String, String>;

/// The constraints that a plan's placements have met so far, each with how its pods lie.
#[derive(Default)]
pub struct Spreads<'w> {
    seen: Vec<Seen<'w>>,
    /// What the plan has placed.
    pub landed: Landed,
}

struct Seen<'w> {
    namespace: String,
    template: TemplateRecord,
    constraint: TopologySpreadConstraint,
    /// Domain of each node that is in one.
    domains: HashMap<&'w str, &'w str>,
    counts: HashMap<&'w str, u32>,
    /// The least count, and how many domains have it.
    least: (u32, usize),
}

/// Whether the pod tolerates, for good, all taints that keep new pods away.
pub fn tolerated<'n>(template: &TemplateRecord, node: &'n NodeState) -> Result<(), &'n Taint> {
    let mut borne = node.node.spec.taints.iter().map(|taint| {
        let first = template.spec.tolerations.iter().find(|t| t.tolerates(taint));
        let holds = match taint.effect {
            TaintEffect::PreferNoSchedule => true,
            TaintEffect::NoSchedule => first.is_some(),
            TaintEffect::NoExecute => first.is_some_and(|t| t.toleration_seconds.is_none()),
        };
        if holds { Ok(()) } else { Err(taint) }
    });
    borne.find(Result::is_err).unwrap_or(Ok(()))
}

impl<'w> Spreads<'w> {
    /// A pod of the template, with these labels, comes to the node.
    pub fn land(
        &mut self,
        world: &'w World,
        admitted: &Landed,
        (namespace, labels): (&str, &Labels),
        template: &Template,
        node: &str,
    ) -> Result<(), String> {
        let record = &template.record;
        let hard = record.spec.topology_spread_constraints.iter();
        for constraint in hard.filter(|c| c.is_hard()) {
            let known = self
                .seen
                .iter()
                .position(|s| s.namespace == namespace && s.constraint == *constraint && s.template == *record);
            let index = known.unwrap_or_else(|| {
                let seen = Seen::new(world, [admitted, &self.landed], namespace, record, constraint);
                self.seen.push(seen);
                self.seen.len() - 1
            });
            if let Some(seen) = self.seen.get(index) {
                seen.holds(constraint.selects(labels), node)?;
            }
        }
        for seen in self.seen.iter_mut().filter(|s| s.namespace == namespace) {
            if seen.constraint.selects(labels) {
                seen.count(node);
            }
        }
        self.landed.add(namespace, labels, node);
        Ok(())
    }
}

impl<'w> Seen<'w> {
    fn new(
        world: &'w World,
        landed: [&Landed; 2],
        namespace: &str,
        template: &TemplateRecord,
        constraint: &TopologySpreadConstraint,
    ) -> Self {
        let spec = &template.spec;
        let part_of = |name: &str, node: &NodeState| {
            let labels = &node.node.metadata.labels;
            let mut constraints = spec.topology_spread_constraints.iter().filter(|c| c.is_hard());
            let takes = || node.is_ready() && node.held().is_none() && tolerated(template, node).is_ok();
            spec.node_selector.iter().all(|(k, v)| labels.get(k) == Some(v))
                && spec.affinity.node_affinity.admits(name, labels)
                && constraints.all(|c| labels.contains_key(&c.topology_key))
                && (constraint.node_taints_policy == NodeTaintsPolicy::Ignore || takes())
        };
        let mut domains = HashMap::new();
        for (name, node) in world.nodes.iter().filter(|(name, node)| part_of(name, node)) {
            if let Some(value) = node.node.metadata.labels.get(&constraint.topology_key) {
                domains.insert(name.as_str(), value.as_str());
            }
        }
        let mut seen = Self {
            namespace: namespace.to_owned(),
            template: template.clone(),
            constraint: constraint.clone(),
            counts: domains.values().map(|d| (*d, 0)).collect(),
            domains,
            least: (0, 0),
        };
        if let Some(selector) = &constraint.label_selector {
            for pod in world.selected(namespace, selector) {
                if !pod.record.node.is_empty() && pod.live() {
                    seen.raise(&pod.record.node, 1);
                }
            }
        }
        for (node, n) in landed.into_iter().flat_map(|l| l.counted(namespace, constraint)) {
            seen.raise(node, n);
        }
        seen.find_least();
        seen
    }

    /// The count of the node's domain before.
    fn raise(&mut self, node: &str, n: u32) -> Option<u32> {
        let count = self.counts.get_mut(self.domains.get(node)?)?;
        let before = *count;
        *count += n;
        Some(before)
    }

    fn find_least(&mut self) {
        let least = self.counts.values().min().copied().unwrap_or(0);
        self.least = (least, self.counts.values().filter(|c| **c == least).count());
    }

    /// One more pod. All domains are looked at only when the last that had the least has more.
    fn count(&mut self, node: &str) {
        if self.raise(node, 1) == Some(self.least.0) {
            self.least.1 -= 1;
            if self.least.1 == 0 {
                self.find_least();
            }
        }
    }

    fn holds(&self, counts_itself: bool, node: &str) -> Result<(), String> {
        let TopologySpreadConstraint {
            max_skew, topology_key, ..
        } = &self.constraint;
        let Some(domain) = self.domains.get(node) else {
            return Err(format!("node {node} is in no domain of {topology_key}"));
        };
        let few =
            i64::try_from(self.counts.len()).unwrap_or(i64::MAX) < i64::from(self.constraint.min_domains.unwrap_or(0));
        let least = if few { 0 } else { self.least.0 };
        let then = self.counts.get(domain).copied().unwrap_or(0) + u32::from(counts_itself);
        let skew = i64::from(then) - i64::from(least);
        if skew > i64::from(*max_skew) {
            return Err(format!(
                "{topology_key} {domain} would have {skew} more than the least, of {max_skew}"
            ));
        }
        Ok(())
    }
}
