//! The one ledger of disruptions: whether a pod that serves may be stopped on purpose now. Asked by every planner that
//! stops pods whose workload is to stay: drain, rolling update, rebalance.
//!
//! Two rules hold at once. A controller's floor: by default as many as are desired stay available without the pod; the
//! two controllers of a rolling update count as one. A
//! budget's floor: as many of the pods that it selects stay available as it says. A loss lowers what is available and
//! so debits both by itself; a pod that is not available costs neither.
//!
//! Invariant: pure; what is taken in one pass is never spent twice, whatever the order.

use std::collections::{HashMap, HashSet};

use proto::model::{IntOrPercent, PdbSpec, Time};

use crate::{
    store::Rv,
    world::{BudgetState, ControllerState, Key, PodState, Tally, World},
};

/// What the plans of one pass take away, so that two groups of a pass never spend one allowance twice. Counts a
/// controller and a budget once, and again only if the world moves during the pass.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The world and the time that the counts are of.
    of: (Rv, Time),
    /// Uids of the pods that go.
    taken: HashSet<String>,
    budgets: HashMap<Key, Tally>,
    /// By the controller's uid; of an update by that of the controller that is replaced.
    floors: HashMap<String, Floor>,
}

/// A controller's pods.
#[derive(Clone, Debug, Default)]
struct Floor {
    desired: i64,
    /// A pod and its replacement count as one while both are available: that one is there for the other.
    available: i64,
    /// The first pod by name that runs and is not available.
    late: Option<String>,
}

/// How a pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Nothing takes its place first.
    Plain,
    /// Its own replacement is available: with it nothing is lost (the default floor never forbids it, explicit budgets
    /// count as ever).
    Swap,
    /// Its owner or an operator accepts its absence (stop-first, --allow-downtime): the default floor is desired − 1.
    Downtime,
    /// Its update goes a step further: so many of what is desired may be missed.
    Update(i64),
}

/// Why it may not go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub rule: String,
    pub remedy: String,
}

impl Ledger {
    /// Takes the pod's availability from its controller's floor and from its budget, or says which rule forbids it. A
    /// pod that is not available costs nothing. `forced`: an operator's recorded override of budgets and floor: always
    /// Ok, debited all the same.
    pub fn take(
        &mut self,
        world: &World,
        now: Time,
        key: &Key,
        pod: &PodState,
        how: How,
        forced: bool,
    ) -> Result<(), Refusal> {
        if self.of != (world.rv, now) {
            self.of = (world.rv, now);
            self.budgets.clear();
            self.floors.clear();
        }
        let uid = &pod.record.uid;
        // It goes already, or nothing is lost with it.
        if !self.counts(world, pod) {
            self.taken.insert(uid.clone());
            return Ok(());
        }
        let budgets = world.budgets_of(&key.0, pod);
        for (at, state) in &budgets {
            if !self.budgets.contains_key(*at) {
                let tally = world.tally(&at.0, &state.budget.spec, now, |p| self.taken.contains(&p.record.uid));
                self.budgets.insert((*at).clone(), tally);
            }
        }
        let controller = owner_of(world, pod);
        let cost = match controller {
            Some((_, state)) => {
                let owner = workload(world, state);
                if !self.floors.contains_key(owner) {
                    self.floors.insert(owner.to_owned(), self.floor(world, state));
                }
                self.cost(world, pod)
            }
            None => 0,
        };
        if !forced {
            self.allowed(world, key, &budgets, controller, cost, how)?;
        }
        self.taken.insert(uid.clone());
        for (at, _) in budgets {
            if let Some(tally) = self.budgets.get_mut(at) {
                tally.available -= 1;
            }
        }
        if let Some((_, state)) = controller
            && let Some(floor) = self.floors.get_mut(workload(world, state))
        {
            floor.available -= cost;
        }
        Ok(())
    }

    /// The pod goes for another reason than a disruption of choice: it counts no more.
    pub fn leaves(&mut self, uid: &str) {
        if self.taken.insert(uid.to_owned()) {
            self.budgets.clear();
            self.floors.clear();
        }
    }

    fn allowed(
        &self,
        world: &World,
        key: &Key,
        budgets: &[(&Key, &BudgetState)],
        controller: Option<(&Key, &ControllerState)>,
        cost: i64,
        how: How,
    ) -> Result<(), Refusal> {
        match budgets {
            [] => {}
            [(at, state)] => {
                if let Some(tally) = self.budgets.get(*at)
                    && tally.available <= tally.floor
                {
                    return Err(undercut(at, state, tally, controller));
                }
            }
            [a, b, ..] => return Err(two_budgets(a.0, b.0, key)),
        }
        let Some((at, state)) = controller else {
            return Ok(());
        };
        let Some(floor) = self.floors.get(workload(world, state)) else {
            return Ok(());
        };
        let least = match how {
            How::Plain => floor.desired,
            How::Downtime => floor.desired - 1,
            How::Update(missed) => floor.desired - missed,
            How::Swap => return Ok(()),
        };
        let left = floor.available - cost;
        if left >= least {
            return Ok(());
        }
        let both = world
            .updating(&state.rc.metadata.uid)
            .map(|u| format!(" and {}", u.new.0.1));
        let rule = format!(
            "replicationcontroller {}/{}{}: {} desired, {} available besides it",
            at.0,
            world.updating(&state.rc.metadata.uid).map_or(&at.1, |u| &u.old.0.1),
            both.unwrap_or_default(),
            are(floor.desired),
            are(left)
        );
        let remedy = match (&floor.late, how) {
            (Some(late), _) => format!("wait until {late} is Ready"),
            (None, How::Downtime) => "wait until the pods that were stopped are replaced".to_owned(),
            (None, _) => "wait until its replacement is Ready, or accept that it is missed for a while".to_owned(),
        };
        Err(Refusal { rule, remedy })
    }

    /// Whether the pod is available and stays so, as far as this pass goes.
    fn counts(&self, world: &World, pod: &PodState) -> bool {
        !self.taken.contains(&pod.record.uid) && available(world, pod, self.of.1)
    }

    /// Whether the pod was started in the place of one that counts still: the two count as one, while the drain that
    /// started it goes on. After that it is a pod as any other.
    fn covered(&self, world: &World, pod: &PodState) -> bool {
        let replaces = pod.record.replaces.as_ref().filter(|r| world.drains(&r.node, &r.drain));
        let old = replaces.and_then(|r| world.pod_by_uid(&r.uid));
        old.is_some_and(|(_, old)| same_owner(old, pod) && self.counts(world, old))
    }

    fn floor(&self, world: &World, state: &ControllerState) -> Floor {
        let uid = &state.rc.metadata.uid;
        let update = world.updating(uid);
        let mut floor = Floor {
            desired: update.map_or(i64::from(state.rc.spec.replicas.max(0)), |u| u.record.value.floor()),
            ..Floor::default()
        };
        for (key, pod) in world.pods_of_both(uid) {
            if self.counts(world, pod) {
                floor.available += i64::from(!self.covered(world, pod));
            } else if pod.live() && floor.late.is_none() && !self.taken.contains(&pod.record.uid) {
                floor.late = Some(key.1.clone());
            }
        }
        floor
    }

    /// How many fewer of its controller's pods are available without it.
    fn cost(&self, world: &World, pod: &PodState) -> i64 {
        let of_it = world.replacements_of(&pod.record.uid).filter(|(_, p)| {
            let replaces = p.record.replaces.as_ref();
            replaces.is_some_and(|r| world.drains(&r.node, &r.drain))
        });
        let step_in = of_it
            .filter(|(_, p)| same_owner(p, pod) && self.counts(world, p))
            .count();
        i64::from(!self.covered(world, pod)) - i64::try_from(step_in).unwrap_or(i64::MAX)
    }
}

/// Ready for its controller's minReadySeconds, live, on a node that is ready (heard).
pub fn available(world: &World, pod: &PodState, now: Time) -> bool {
    world.available(pod, now)
}

/// Why no state of the workload's own could ever let the pod go, even after its replacement is available: its budget
/// asks for more pods than there are to be, or it has two. A pod that nothing replaces (without a controller, or one
/// that stops first) cannot go if all that are to be there must be available.
pub fn never(world: &World, key: &Key, pod: &PodState) -> Option<Refusal> {
    let budgets = world.budgets_of(&key.0, pod);
    let (at, state) = match budgets.as_slice() {
        [] => return None,
        [one] => *one,
        [a, b, ..] => return Some(two_budgets(a.0, b.0, key)),
    };
    let controller = owner_of(world, pod).filter(|_| !super::drain::moves::stops_first(world, pod));
    let spec = &state.budget.spec;
    let tally = world.tally(&at.0, spec, Time::default(), |_| true);
    let most = tally.expected - i64::from(controller.is_none());
    if tally.floor <= most {
        return None;
    }
    let rule = format!("{}: {} must be available", named(at), share(&tally));
    let more = match (spec.min_available, controller) {
        (Some(IntOrPercent::Int(_)), Some((of, _))) => format!("scale {} up by {}, or ", of.1, tally.floor - most),
        (_, Some(_)) => String::new(),
        (_, None) if grows(spec, &tally) => "start another pod that it selects, or ".to_owned(),
        (_, None) => String::new(),
    };
    let remedy = format!("{more}change {} of the budget", field(spec));
    Some(Refusal { rule, remedy })
}

/// Whether one more pod would leave room for one to go.
fn grows(spec: &PdbSpec, tally: &Tally) -> bool {
    spec.floor(tally.expected + 1) <= tally.expected
}

fn undercut(at: &Key, state: &BudgetState, tally: &Tally, controller: Option<(&Key, &ControllerState)>) -> Refusal {
    let rule = format!(
        "{}: {} must be available, {}",
        named(at),
        share(tally),
        are(tally.available)
    );
    let wait = match &tally.late {
        Some(late) => format!("wait until {late} is Ready, "),
        None if tally.available < tally.expected => "wait until the pods that were stopped are replaced, ".to_owned(),
        None => String::new(),
    };
    let scale = match controller {
        Some((of, _)) if grows(&state.budget.spec, tally) => format!("scale {} up, ", of.1),
        _ => String::new(),
    };
    let change = format!("change {} of the budget", field(&state.budget.spec));
    let or = if wait.is_empty() && scale.is_empty() { "" } else { "or " };
    Refusal {
        rule,
        remedy: format!("{wait}{scale}{or}{change}"),
    }
}

fn two_budgets(a: &Key, b: &Key, pod: &Key) -> Refusal {
    Refusal {
        rule: format!(
            "poddisruptionbudgets {}/{} and {}/{} both select pod {}/{}",
            a.0, a.1, b.0, b.1, pod.0, pod.1
        ),
        remedy: format!("change the selector of {} or {}: a pod has one budget", a.1, b.1),
    }
}

fn named(at: &Key) -> String {
    format!("poddisruptionbudget {}/{}", at.0, at.1)
}

fn share(tally: &Tally) -> String {
    format!("{} of {}", tally.floor, tally.expected)
}

fn are(n: i64) -> String {
    let n = n.max(0);
    format!("{n} {}", if n == 1 { "is" } else { "are" })
}

/// The amount that the budget is made of.
fn field(spec: &PdbSpec) -> &'static str {
    if spec.min_available.is_some() {
        "minAvailable"
    } else {
        "maxUnavailable"
    }
}

/// The controller that replaces the pod when it is gone.
fn owner_of<'w>(world: &'w World, pod: &PodState) -> Option<(&'w Key, &'w ControllerState)> {
    world.controller_by_uid(&pod.record.owner.as_ref()?.uid)
}

/// Uid under which the floor of a controller is kept.
fn workload<'w>(world: &'w World, state: &'w ControllerState) -> &'w str {
    let uid = &state.rc.metadata.uid;
    world.updating(uid).map_or(uid, |update| &update.record.value.old)
}

fn same_owner(a: &PodState, b: &PodState) -> bool {
    let owner = |p: &PodState| p.record.owner.as_ref().map(|o| o.uid.clone());
    owner(a) == owner(b)
}

#[cfg(test)]
#[path = "disruption_properties.rs"]
mod properties;
#[cfg(test)]
#[path = "disruption_tests.rs"]
mod tests;
