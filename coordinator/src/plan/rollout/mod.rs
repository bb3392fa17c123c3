//! Rolling updates: the pods of one controller give way to those of another, step by step. Planned for both controllers
//! together, which are one group while their update goes on; `replicas` makes and places the pods.
//!
//! | module | decides |
//! |---|---|
//! | this | what of the present step can be done now, and whether the update is over |
//! | [`step`] | what the next step leads to |
//! | `failure` | whether the new pods have come to nothing |
//! | `end` | which controller goes, and what the other one is called |
//! | [`report`] | how an update stands, in words |
//!
//! Each write is one commit: the update's record, the counts of both controllers, and the stops of the pods that go by
//! them. So an update goes on wherever it was when a coordinator ended.
//!
//! Invariant: pure; a pod that serves is stopped only by leave of the ledger, which counts both sides as one; both
//! sides together never have more pods than the surge allows; what a step has reached is not given up by a failure.

mod end;
mod failure;
pub mod report;
pub mod step;

use std::collections::HashSet;

use proto::model::{EventType, Kind, ObjectReference, Time};

use self::step::Counts;
use super::{
    Draft, Group,
    change::Change,
    disruption::{self, How, Refusal},
    drain::moves,
    gc, mix, replicas,
    scheduler::Placed,
};
use crate::{
    events::Note,
    store::MAX_CHANGES,
    world::{
        ControllerState, Key, PodState, World,
        updates::{OnFailure, Paused, UpdateRecord, Updating},
    },
};

/// Pods that one plan stops: with the record and both counts they are one commit. One that has no node yet goes with two
/// changes.
const MAX_STOPS: usize = (MAX_CHANGES - 3) / 2;

type Entry<'w> = (&'w Key, &'w PodState);

/// One controller of the two.
struct Side<'w> {
    key: &'w Key,
    state: &'w ControllerState,
    /// Its count, as this plan leaves it.
    count: u32,
    /// Its pods that live, without those that a drain started beside others.
    live: Vec<Entry<'w>>,
    /// Pods of it that serve, and those that are in the place of one that does not count once.
    available: u32,
    /// Pods on their way out that may run still.
    ending: u32,
}

impl<'w> Side<'w> {
    fn of(world: &'w World, (key, state): (&'w Key, &'w ControllerState), now: Time) -> Self {
        let mut side = Self {
            key,
            state,
            count: u32::try_from(state.rc.spec.replicas).unwrap_or(0),
            live: Vec::new(),
            available: 0,
            ending: 0,
        };
        for (key, pod) in world.pods_of(&state.rc.metadata.uid) {
            if !pod.live() {
                side.ending += u32::from(!gc::removable(world, pod));
                continue;
            }
            // Once the other one has gone it is a pod as any other.
            let lives = |uid: &str| world.pod_by_uid(uid).is_some_and(|(_, old)| old.live());
            let beside = pod.record.replaces.as_ref().filter(|r| lives(&r.uid));
            if beside.is_some_and(|r| world.replacement_of(&r.uid).is_some_and(|(k, _)| k == key)) {
                continue;
            }
            side.available += u32::from(disruption::available(world, pod, now));
            side.live.push((key, pod));
        }
        side
    }

    fn uid(&self) -> &str {
        &self.state.rc.metadata.uid
    }
}

/// Whether pods of the one and of the other must not run side by side.
fn exclusive(update: &Updating<'_>) -> bool {
    moves::one_at_a_time(&update.old.1.rc) || moves::one_at_a_time(&update.new.1.rc)
}

/// The limits in force.
fn in_force(update: &Updating<'_>) -> UpdateRecord {
    let mut record = (*update.record.value).clone();
    if exclusive(update) {
        record.limits.max_surge = proto::model::IntOrPercent::Int(0);
        if record.missed() == 0 {
            record.limits.max_unavailable = proto::model::IntOrPercent::Int(1);
        }
    }
    record
}

pub(super) fn plan(world: &World, key: &Key, seed: u64, placed: &mut Placed, out: &mut Draft) {
    let Some(update) = world
        .update_at(key)
        .filter(|_| Group::of_controller(world, key) == Group::Update(key.clone()))
    else {
        return;
    };
    let mut work = Work::new(world, &update, out.now);
    work.decide(out);
    if work.over {
        end::finish(&work, out);
        return;
    }
    let going = work.write(out);
    // Both go on as they would alone, with the counts that were just decided.
    for side in [&work.comes, &work.goes] {
        let under = replicas::Under {
            desired: usize::try_from(side.count).unwrap_or(usize::MAX),
            going: &going,
        };
        out.of_controller(side.key, side.uid());
        replicas::plan_under(world, side.key, &under, mix(seed, &side.key.1), placed, out);
    }
    out.of_controller(update.old.0, &update.old.1.rc.metadata.uid);
}

/// One look at an update.
struct Work<'w> {
    world: &'w World,
    update: Updating<'w>,
    record: UpdateRecord,
    comes: Side<'w>,
    goes: Side<'w>,
    stops: Vec<Entry<'w>>,
    /// Why the ledger lets no more of them go.
    refused: Option<Refusal>,
    /// For people, with the commit.
    said: Vec<(EventType, &'static str, String)>,
    over: bool,
}

impl<'w> Work<'w> {
    fn new(world: &'w World, update: &Updating<'w>, now: Time) -> Self {
        let record = in_force(update);
        let (comes, goes) = if record.back {
            (update.old, update.new)
        } else {
            (update.new, update.old)
        };
        Self {
            world,
            update: *update,
            comes: Side::of(world, comes, now),
            goes: Side::of(world, goes, now),
            record,
            stops: Vec::new(),
            refused: None,
            said: Vec::new(),
            over: false,
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            comes: self.comes.count,
            goes: self.goes.count,
        }
    }

    fn decide(&mut self, out: &mut Draft) {
        if self.record.paused.is_some() {
            return;
        }
        if moves::paused(self.world, out) {
            if self.record.step().is_some() {
                self.record.held.get_or_insert(out.now);
            }
            return;
        }
        if let Some(since) = self.record.held.take() {
            let held = out.now.0.saturating_sub(since.0);
            self.record.progressed = Time(self.record.progressed.0.saturating_add(held));
        }
        if let Some(why) = self.exits(out) {
            self.fails(out.now, why);
            return;
        }
        let before = (self.record.begun(), self.counts());
        self.advance(out);
        // Only what cannot get further has failed by its time.
        if self.record.step().is_some()
            && before == (self.record.begun(), self.counts())
            && let Some(why) = self.stuck(out)
        {
            self.fails(out.now, why);
        }
    }

    /// As far as it gets in this look.
    fn advance(&mut self, out: &mut Draft) {
        // One look may end a step and begin the next one, as long as something comes of it.
        loop {
            let Some(target) = self.target(out) else { return };
            let begun = self.counts();
            // What goes makes room for what comes.
            loop {
                let before = self.counts();
                self.grow(target);
                self.shrink(target, out);
                if self.counts() == before {
                    break;
                }
            }
            if self.counts() != begun {
                self.record.progressed = out.now;
            }
            if !self.reached(target) {
                return;
            }
            if let Some(step) = self.record.steps.last_mut() {
                step.done = Some(out.now);
            }
            if self.tried() {
                self.pause(out.now, "as many new pods as --pause-after says are Ready".to_owned());
                return;
            }
        }
    }

    /// What the present step leads to; begins the next one when it is time. None: not yet, or all is done.
    fn target(&mut self, out: &mut Draft) -> Option<Counts> {
        if let Some(step) = self.record.step() {
            return Some(Counts::of(step));
        }
        let Some(next) = step::next(&self.record, self.counts()) else {
            self.over = self.written() && self.ended();
            return None;
        };
        let done = self.record.steps.last().and_then(|s| s.done);
        if let Some(done) = done.filter(|_| self.record.limits.period > 0) {
            let at = Time(done.0.saturating_add(i64::from(self.record.limits.period)));
            if out.now < at {
                out.wake_at(at);
                return None;
            }
        }
        self.record.begin(next.step(self.record.back));
        self.record.progressed = out.now;
        Some(next)
    }

    /// As many new pods as the surge has room for.
    fn grow(&mut self, target: Counts) {
        if self.comes.count > target.comes {
            // Fewer are wanted than there are by now: it was scaled.
            self.comes.count = target.comes;
            return;
        }
        let mut others = i64::from(self.goes.count);
        if exclusive(&self.update) {
            // They may run still.
            others += i64::from(self.goes.ending) + i64::try_from(self.stops.len()).unwrap_or(i64::MAX);
        }
        let room = (self.record.ceiling() - others - i64::from(self.comes.count)).max(0);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        self.comes.count = self.comes.count.saturating_add(room).min(target.comes);
    }

    /// As many of those that go as the ledger lets go.
    fn shrink(&mut self, target: Counts, out: &mut Draft) {
        let mut candidates: Vec<Entry<'w>> = std::mem::take(&mut self.goes.live);
        // What a drain moves just now is not touched: its pair counts as one.
        candidates.retain(|(_, pod)| self.world.replacement_of(&pod.record.uid).is_none());
        candidates.retain(|(key, _)| !self.stops.iter().any(|(k, _)| k == key));
        replicas::retire_order(self.world, &mut candidates);
        // Fewer pods than its count: those that are missing cost nothing.
        let mut spare = self
            .goes
            .count
            .saturating_sub(u32::try_from(self.total_going()).unwrap_or(u32::MAX));
        let mut rest = candidates.into_iter();
        while self.goes.count > target.goes && self.stops.len() < MAX_STOPS {
            if spare > 0 {
                spare -= 1;
                self.goes.count -= 1;
                continue;
            }
            let Some((key, pod)) = rest.next() else { break };
            let how = How::Update(self.record.missed());
            let leave = out.moves.ledger.take(self.world, out.now, key, pod, how, false);
            if let Err(refusal) = leave {
                self.refused = Some(refusal);
                break;
            }
            self.stops.push((key, pod));
            self.goes.count -= 1;
        }
        self.goes.live = rest.collect();
    }

    /// Live pods of the side that goes, as the world has them, a pair of a drain as one, without those that go already.
    fn total_going(&self) -> usize {
        let side = Side::of(self.world, (self.goes.key, self.goes.state), Time::default());
        side.live.len().saturating_sub(self.stops.len())
    }

    fn reached(&self, target: Counts) -> bool {
        self.counts() == target && self.comes.available >= target.comes
    }

    /// Whether the pause that was asked for is due.
    fn tried(&self) -> bool {
        step::trial(&self.record).is_some_and(|trial| self.comes.available >= trial)
    }

    fn pause(&mut self, now: Time, why: String) {
        self.record.tried = true;
        self.said
            .push((EventType::Normal, "UpdatePaused", format!("paused: {why}")));
        self.record.paused = Some(Paused {
            at: now,
            by: String::new(),
            failed: false,
            why,
        });
    }

    /// Those of the side that comes that do not serve.
    fn missing(&self, out: &mut Draft) -> Vec<Entry<'w>> {
        let mut missing = self.comes.live.clone();
        missing.retain(|(_, pod)| !disruption::available(self.world, pod, out.now));
        for (_, pod) in &missing {
            if let Some(at) = moves::available_from(self.world, pod).filter(|at| *at > out.now) {
                out.wake_at(at);
            }
        }
        missing
    }

    /// Why a pod that the present step brings will not serve.
    fn exits(&self, out: &mut Draft) -> Option<String> {
        self.record.step()?;
        let missing = self.missing(out);
        missing
            .iter()
            .find_map(|(key, pod)| failure::failed(&self.record, key, pod))
    }

    /// Why the present step has failed, which cannot get further now: its time is over.
    fn stuck(&self, out: &mut Draft) -> Option<String> {
        let until = failure::given_until(self.world, &self.record, &self.comes.live);
        // A coordinator that has just come to lead gives it its time anew.
        let led = out
            .no_loss_before
            .0
            .saturating_add(i64::from(self.record.limits.timeout));
        let until = until.max(Time(led));
        if out.now < until {
            out.wake_at(until);
            return None;
        }
        let missing = self.missing(out);
        Some(failure::stuck(&self.record, &missing, self.refused.as_ref()))
    }

    /// What comes has come to nothing: the update pauses, or is turned back, and nothing else is done.
    fn fails(&mut self, now: Time, why: String) {
        let pauses = self.record.back || self.record.limits.on_failure == OnFailure::Pause;
        let how = if pauses { "paused" } else { "turned back" };
        self.said
            .push((EventType::Warning, "UpdateFailed", format!("{how}: {why}")));
        if pauses {
            self.record.paused = Some(Paused {
                at: now,
                by: String::new(),
                failed: true,
                why,
            });
        } else {
            turn_back(&mut self.record, now, why);
        }
    }

    /// Whether the counts are on record: the end is for a look at what was written.
    fn written(&self) -> bool {
        let is = |side: &Side<'_>| i64::from(side.state.rc.spec.replicas) == i64::from(side.count);
        is(&self.comes) && is(&self.goes)
    }

    /// Whether nothing of the side that goes is left, but where nobody could see its end.
    fn ended(&self) -> bool {
        let mut pods = self.world.pods_of(self.goes.uid());
        pods.all(|(_, pod)| {
            let node = self.world.nodes.get(&pod.record.node);
            pod.stopping() && node.is_some_and(|n| n.lost().is_some())
        })
    }

    /// The record as this look leaves it; limits that only the look has are not written.
    fn to_write(&self) -> UpdateRecord {
        UpdateRecord {
            limits: self.update.record.value.limits.clone(),
            ..self.record.clone()
        }
    }

    /// The record, counts and stops that were decided, as one commit, if there is anything; the pods that go by it.
    fn write(&mut self, out: &mut Draft) -> HashSet<Key> {
        let before = &self.update.record;
        let record = self.to_write();
        let mut changes = Vec::new();
        if record != *before.value {
            changes.push(Change::SetUpdate {
                key: self.update.key.clone(),
                rv: before.rv,
                record,
            });
        }
        for side in [&self.comes, &self.goes] {
            if i64::from(side.state.rc.spec.replicas) != i64::from(side.count) {
                changes.push(Change::SetReplicas {
                    key: side.key.clone(),
                    rv: side.state.rv,
                    controller: side.state.rc.clone(),
                    replicas: i32::try_from(side.count).unwrap_or(i32::MAX),
                });
            }
        }
        let reason = format!("{} is replaced by {}", self.goes.key.1, self.comes.key.1);
        for (key, pod) in &self.stops {
            changes.push(if pod.record.node.is_empty() {
                Change::RemovePod {
                    pod: super::before(key, pod),
                }
            } else {
                gc::stop_of(key, pod, &reason, false, out.now)
            });
        }
        if !changes.is_empty() {
            out.of_controller(self.goes.key, self.goes.uid());
            out.push_together(changes);
            self.say(out);
            out.cut();
        }
        self.stops.iter().map(|(key, _)| (*key).clone()).collect()
    }

    fn say(&mut self, out: &mut Draft) {
        for (kind, reason, message) in self.said.drain(..) {
            out.note(note(self.update.old, kind, reason, message, out.now));
        }
    }
}

/// The new pods go and the old ones come, from now on. The step under way is over: what it had reached counts. `why`: of
/// who did not ask for it; else empty.
pub fn turn_back(record: &mut UpdateRecord, now: Time, why: String) {
    record.back = true;
    record.back_why = why;
    record.paused = None;
    record.progressed = now;
    if let Some(step) = record.steps.last_mut().filter(|s| s.done.is_none()) {
        step.done = Some(now);
    }
}

fn note((key, state): (&Key, &ControllerState), kind: EventType, reason: &str, message: String, at: Time) -> Note {
    Note {
        involved: ObjectReference {
            kind: Kind::ReplicationController.name().to_owned(),
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: state.rc.metadata.uid.clone(),
        },
        reason: reason.to_owned(),
        message,
        kind,
        component: "rolling-update",
        host: String::new(),
        at,
    }
}

#[cfg(test)]
#[path = "rollout_properties.rs"]
mod properties;
#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
