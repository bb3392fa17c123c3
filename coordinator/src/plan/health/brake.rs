//! What holds replacements back: the brake, when too much of the fleet is lost at once to be a loss of hosts, and an
//! operator's freeze. Asked by `health`, by whatever else moves pods, and by the api for `wharf status`.
//!
//! Invariant: pure, from records alone: a coordinator that takes over brakes as its predecessor did.

use std::collections::BTreeMap;

use proto::model::Time;

use super::{candidates, later};
use crate::world::{World, record::FreezeRecord, settings};

/// Label of a node that names its failure domain.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// Names that one sentence shows.
const SHOWN: usize = 5;

/// The freeze that is in force.
pub fn frozen(world: &World, now: Time) -> Option<&FreezeRecord> {
    let freeze = &world.freeze.as_ref()?.value;
    freeze.until.is_none_or(|until| until > now).then_some(freeze)
}

/// Why nothing at all is started elsewhere: so much is lost that it is not the hosts that failed.
pub fn stopped(world: &World) -> Option<String> {
    let (lost, all) = (world.lost_nodes().len(), world.fleet_size());
    let share = world.settings.get(&settings::BRAKE_STOP);
    let remedy = "look for what they share (network, this coordinator's host); bring them back, or, for each whose host is off: wharf node confirm-off NODE";
    if lost == 0 {
        None
    } else if lost == all {
        Some(format!(
            "all nodes that were ever heard ({all}) are lost: nothing is started elsewhere; {remedy}"
        ))
    } else if lost > 2 && lost as u64 * 100 >= share * all as u64 {
        Some(format!(
            "{lost} of {all} nodes are lost (brake-stop {share}%): nothing is started elsewhere; {remedy}"
        ))
    } else {
        None
    }
}

/// The brake while it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake {
    /// Why it is on, with what ends it.
    pub words: String,
    /// When it may let the next node through; none: when nodes come back.
    pub until: Option<Time>,
}

/// Why the brake is on, with what ends it.
pub fn brake(world: &World, now: Time) -> Option<String> {
    braking(world, now).map(|brake| brake.words)
}

pub fn braking(world: &World, now: Time) -> Option<Brake> {
    if world.lost_nodes().len() == 0 {
        return None;
    }
    if let Some(words) = stopped(world) {
        return Some(Brake { words, until: None });
    }
    let mut budget = Budget::new(world, now);
    let mut waiting = Vec::new();
    let mut next: Option<Time> = None;
    for (_, name) in candidates(world).into_iter().filter(|(due, _)| *due <= now) {
        if let Err(at) = budget.take(name) {
            waiting.push(name);
            next = Some(next.map_or(at, |n| n.min(at)));
        }
    }
    let next = next?;
    let shown = waiting.get(..SHOWN).unwrap_or(&waiting).join(", ");
    let more = match waiting.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let words = format!(
        "pods of lost nodes {shown}{more} wait: those of at most {} in {} are started elsewhere (brake-share, brake-period); the next ones at {next}",
        match budget.all.most {
            1 => "1 node".to_owned(),
            n => format!("{n} nodes"),
        },
        settings::BRAKE_PERIOD.show(world.settings.get(&settings::BRAKE_PERIOD)),
    );
    Some(Brake {
        words,
        until: Some(next),
    })
}

/// Why pods are not to be moved by anything but an operator's own command; until when, where a time ends it.
pub type Pause = Brake;

pub fn pause(world: &World, now: Time) -> Option<Pause> {
    match frozen(world, now) {
        Some(freeze) => Some(Pause {
            words: format!("frozen by {}: {}; to lift it: wharf unfreeze", freeze.by, freeze.reason),
            until: freeze.until,
        }),
        None => braking(world, now),
    }
}

/// How many nodes may be given up, and when those were that count.
#[derive(Debug)]
struct Room {
    most: usize,
    /// When each of those that count does no more.
    until: Vec<Time>,
}

impl Room {
    fn new(nodes: usize, share: u64) -> Self {
        let most = usize::try_from(nodes as u64 * share / 100).unwrap_or(usize::MAX);
        Self {
            most: most.max(1),
            until: Vec::new(),
        }
    }

    /// When there is room for one more, if not now.
    fn full(&self) -> Option<Time> {
        let mut until = self.until.clone();
        until.sort_unstable();
        // With n too many, the (n+1)th to end makes room.
        until
            .len()
            .checked_sub(self.most)
            .and_then(|over| until.get(over).copied())
    }
}

/// What the brake still lets through in its present period.
#[derive(Debug)]
pub(super) struct Budget<'w> {
    world: &'w World,
    now: Time,
    all: Room,
    zones: BTreeMap<&'w str, Room>,
}

impl<'w> Budget<'w> {
    pub fn new(world: &'w World, now: Time) -> Self {
        let share = world.settings.get(&settings::BRAKE_SHARE);
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, node) in &world.nodes {
            if world.in_fleet(name)
                && let Some(zone) = node.node.metadata.labels.get(ZONE)
            {
                *sizes.entry(zone).or_default() += 1;
            }
        }
        let mut budget = Self {
            world,
            now,
            all: Room::new(world.fleet_size(), share),
            zones: sizes.into_iter().map(|(z, n)| (z, Room::new(n, share))).collect(),
        };
        let period = world.settings.time(&settings::BRAKE_PERIOD);
        for (name, loss) in world.losses() {
            let until = later(loss.value.at, period);
            if until > now {
                budget.count(name, until);
            }
        }
        budget
    }

    fn zone(&mut self, name: &str) -> Option<&mut Room> {
        let node = self.world.nodes.get(name)?;
        self.zones.get_mut(node.node.metadata.labels.get(ZONE)?.as_str())
    }

    fn count(&mut self, name: &str, until: Time) {
        self.all.until.push(until);
        if let Some(zone) = self.zone(name) {
            zone.until.push(until);
        }
    }

    /// Takes room for one more node. The error says when there may be some.
    pub fn take(&mut self, name: &str) -> Result<(), Time> {
        let period = self.world.settings.time(&settings::BRAKE_PERIOD);
        let counted = self.world.nodes.get(name).and_then(|n| n.loss.as_ref());
        if counted.is_some_and(|l| later(l.value.at, period) > self.now) {
            // It was lost before within this period, and is one node all the same.
            return Ok(());
        }
        let full = [self.all.full(), self.zone(name).and_then(|z| z.full())];
        match full.into_iter().flatten().max() {
            Some(at) => Err(at),
            None => {
                self.count(name, later(self.now, period));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{plan::sim::Sim, store::keys, world::record::LossRecord};

    proptest! {
        /// Of any nodes given up at any times, those that count never exceed the share, and what is refused is told a
        /// time at which it gets through.
        #[test]
        fn the_budget_keeps_its_word(nodes in 1..60_usize, share in 1..100_u64, ages in prop::collection::vec(0..90_i64, 0..12)) {
            let mut sim = Sim::new();
            for n in 0..nodes {
                sim.add_node(&format!("n{n}"), &[]);
            }
            sim.set(&[("brake-share", &share.to_string())]);
            for (n, age) in ages.iter().enumerate() {
                let at = Time(sim.now.0 - age);
                sim.put(keys::loss(&format!("old{n}")), &LossRecord { at });
            }
            let most = usize::try_from((nodes as u64 * share / 100).max(1)).unwrap();
            let counted = ages.iter().filter(|a| **a < 60).count();
            let mut budget = Budget::new(&sim.world, sim.now);
            let mut taken = 0;
            let refused = (0..nodes).find_map(|n| match budget.take(&format!("n{n}")) {
                Ok(()) => { taken += 1; None }
                Err(at) => Some(at),
            });
            prop_assert!(taken == 0 || counted + taken <= most, "{counted} + {taken} of {most}");
            if let Some(at) = refused {
                prop_assert!(at > sim.now);
                let mut later = Budget::new(&sim.world, at);
                for n in 0..taken {
                    later.count(&format!("n{n}"), Time(sim.now.0 + 60));
                }
                // Those just taken count until then as well.
                let still = later.all.until.iter().filter(|u| **u > at).count();
                prop_assert!(still < most, "{still} of {most} at {at}");
            }
        }
    }
}
