//! How the pods that a topology spread constraint selects lie over its domains, as a batch is placed. Made by
//! `scheduler` for each batch; without constraints it is empty and costs nothing.
//!
//! Invariant: a domain is a value of the constraint's node label among the nodes that the pod's nodeSelector and
//! affinity admit; counts only rise within a batch, and so does the least of them.

use std::collections::{BTreeMap, HashMap};

use proto::model::{NodeTaintsPolicy, TopologySpreadConstraint};

use super::{Pods, filter};
use crate::world::{NodeState, World};

type Labels = BTreeMap<String, String>;

/// What a pass has placed that the world does not show yet, as selectors see it.
#[derive(Clone, Debug, Default)]
pub struct Landed {
    /// Namespace → labels → node → pods.
    pods: HashMap<String, HashMap<Labels, HashMap<String, u32>>>,
}

impl Landed {
    pub fn add(&mut self, namespace: &str, labels: &Labels, node: &str) {
        let known = self.pods.get_mut(namespace).and_then(|cohorts| cohorts.get_mut(labels));
        if let Some(n) = known.and_then(|nodes| nodes.get_mut(node)) {
            *n += 1;
            return;
        }
        let cohorts = self.pods.entry(namespace.to_owned()).or_default();
        let nodes = cohorts.entry(labels.clone()).or_default();
        *nodes.entry(node.to_owned()).or_default() += 1;
    }

    pub fn extend(&mut self, other: Self) {
        for (namespace, cohorts) in other.pods {
            let mine = self.pods.entry(namespace).or_default();
            for (labels, nodes) in cohorts {
                let mine = mine.entry(labels).or_default();
                for (node, n) in nodes {
                    *mine.entry(node).or_default() += n;
                }
            }
        }
    }

    /// Node and number of the pods that the constraint counts.
    pub fn counted<'a>(
        &'a self,
        namespace: &str,
        constraint: &'a TopologySpreadConstraint,
    ) -> impl Iterator<Item = (&'a str, u32)> {
        let cohorts = self.pods.get(namespace).into_iter().flatten();
        cohorts
            .filter(|(labels, _)| constraint.selects(labels))
            .flat_map(|(_, nodes)| nodes.iter().map(|(node, n)| (node.as_str(), *n)))
    }
}

/// Domain of a node under each constraint, in their order; none where it is in no domain.
pub type Place = Vec<Option<usize>>;

pub struct Spread<'w, 't> {
    rules: Vec<Rule<'t>>,
    places: HashMap<&'w str, Place>,
}

struct Rule<'t> {
    constraint: &'t TopologySpreadConstraint,
    /// The batch's pods count themselves.
    own: u32,
    max_skew: u32,
    /// Pods of each domain.
    counts: Vec<u32>,
    /// Count → how many domains have it.
    levels: BTreeMap<u32, usize>,
}

impl<'w, 't> Spread<'w, 't> {
    /// `refused`: a node that takes nothing.
    pub fn new(world: &'w World, pods: &Pods<'t>, landed: &Landed, refused: Option<&str>) -> Self {
        let constraints = &pods.template.record.spec.topology_spread_constraints;
        let mut spread = Self {
            rules: constraints.iter().map(|c| Rule::new(c, pods)).collect(),
            places: HashMap::new(),
        };
        if constraints.is_empty() {
            return spread;
        }
        let mut domains: Vec<HashMap<&str, usize>> = vec![HashMap::new(); constraints.len()];
        for (name, node) in world.nodes.iter().filter(|(_, n)| filter::eligible(pods.template, n)) {
            let taking = filter::takes(pods.template, node) && refused != Some(name.as_str());
            let place = domains.iter_mut().zip(constraints).map(|(known, constraint)| {
                let honored = constraint.node_taints_policy == NodeTaintsPolicy::Ignore || taking;
                let value = domain(node, constraint).filter(|_| honored)?;
                let next = known.len();
                Some(*known.entry(value).or_insert(next))
            });
            spread.places.insert(name, place.collect());
        }
        for (i, rule) in spread.rules.iter_mut().enumerate() {
            rule.counts = vec![0; domains[i].len()];
            let mut count = |node: &str, n: u32| {
                let domain = spread.places.get(node).and_then(|place| place[i]);
                if let Some(count) = domain.and_then(|d| rule.counts.get_mut(d)) {
                    *count += n;
                }
            };
            if let Some(selector) = &rule.constraint.label_selector {
                let there = world.selected(pods.namespace, selector);
                for pod in there.filter(|p| p.occupies() && !p.stopping()) {
                    count(&pod.record.node, 1);
                }
            }
            for (node, n) in landed.counted(pods.namespace, rule.constraint) {
                count(node, n);
            }
            for count in &rule.counts {
                *rule.levels.entry(*count).or_default() += 1;
            }
        }
        spread
    }

    pub fn place(&self, node: &str) -> Place {
        self.places
            .get(node)
            .cloned()
            .unwrap_or_else(|| vec![None; self.rules.len()])
    }

    /// How many constraints there are.
    pub fn constraints(&self) -> usize {
        self.rules.len()
    }

    /// The first hard constraint that one more pod there would break, and what the least must be for it to hold.
    pub fn broken(&self, place: &Place) -> Option<(usize, u32)> {
        let mut rules = self.rules.iter().zip(place).enumerate();
        rules.find_map(|(i, (rule, domain))| {
            let then = rule.counts.get((*domain)?)? + rule.own;
            let needed = then.saturating_sub(rule.max_skew);
            (rule.constraint.is_hard() && rule.least() < needed).then_some((i, needed))
        })
    }

    /// How full the domains are by the soft constraints; what differs by less than the skew is equal. A node in no
    /// domain comes last.
    pub fn fullness(&self, place: &Place) -> u32 {
        let soft = self.rules.iter().zip(place).filter(|(r, _)| !r.constraint.is_hard());
        let each = soft.map(|(rule, domain)| match domain.and_then(|d| rule.counts.get(d)) {
            Some(count) => count / rule.max_skew.max(1),
            None => u32::MAX,
        });
        each.fold(0, u32::saturating_add)
    }

    /// One of the batch's pods is placed there; the constraints whose least rose by it, each with the new least.
    pub fn land(&mut self, place: &Place) -> Vec<(usize, u32)> {
        let mut rose = Vec::new();
        for (i, (rule, domain)) in self.rules.iter_mut().zip(place).enumerate() {
            let Some(count) = domain.and_then(|d| rule.counts.get_mut(d)).filter(|_| rule.own > 0) else {
                continue;
            };
            *count += rule.own;
            let (now, before) = (*count, *count - rule.own);
            let least = rule.least();
            if let Some(n) = rule.levels.get_mut(&before) {
                *n -= 1;
                if *n == 0 {
                    rule.levels.remove(&before);
                }
            }
            *rule.levels.entry(now).or_default() += 1;
            if rule.least() > least {
                rose.push((i, rule.least()));
            }
        }
        rose
    }
}

impl<'t> Rule<'t> {
    fn new(constraint: &'t TopologySpreadConstraint, pods: &Pods<'_>) -> Self {
        Self {
            constraint,
            own: u32::from(constraint.selects(&pods.labels)),
            max_skew: u32::try_from(constraint.max_skew).unwrap_or(0),
            counts: Vec::new(),
            levels: BTreeMap::new(),
        }
    }

    /// Pods of the domain that has the least; 0 where there are fewer domains than there should be.
    fn least(&self) -> u32 {
        let wanted = usize::try_from(self.constraint.min_domains.unwrap_or(0)).unwrap_or(0);
        if self.counts.len() < wanted {
            return 0;
        }
        self.levels.first_key_value().map_or(0, |(count, _)| *count)
    }
}

fn domain<'w>(node: &'w NodeState, constraint: &TopologySpreadConstraint) -> Option<&'w str> {
    let labels = &node.node.metadata.labels;
    labels.get(&constraint.topology_key).map(String::as_str)
}
