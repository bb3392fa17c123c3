//! What operators ask for, as the api would write it: holds, drains, budgets, settings, the freeze. For the tests of this
//! folder.
//!
//! Invariant: as in the module above: the world is fed by updates alone.

use proto::model::{HoldKind, NodeHold};

use super::*;
use crate::world::{
    drains::{DrainEnd, DrainOptions, DrainOutcome, DrainRecord, OnDeadline},
    record::{FreezeRecord, OffRecord},
    updates::{UpdateLimits, UpdateRecord},
};

impl Sim {
    /// A person's cordon of a node, as the api would write it.
    pub fn cordon(&mut self, name: &str, by: &str, reason: &str, expires: Option<Time>) {
        let hold = NodeHold {
            kind: HoldKind::Cordon,
            owner: format!("user/{by}"),
            reason: reason.to_owned(),
            since: self.now,
            expires,
        };
        self.edit_holds(name, |holds| drop(holds.insert(hold.id(), hold)));
    }

    pub fn edit_holds(&mut self, name: &str, f: impl FnOnce(&mut HoldsRecord)) {
        let present = self.world.nodes[name].holds.as_ref();
        let mut holds = present.map(|h| HoldsRecord::clone(&h.value)).unwrap_or_default();
        f(&mut holds);
        self.put(keys::holds(name), &holds);
    }

    /// An operator says that the host of a node is off.
    pub fn confirm_off(&mut self, name: &str) {
        let off = OffRecord {
            by: "user/admin".into(),
            at: self.now,
        };
        self.put(keys::off(name), &off);
    }

    /// What the api writes when an operator begins a drain.
    pub fn drain(&mut self, name: &str, f: impl FnOnce(&mut DrainRecord)) {
        self.made += 1;
        let mut record = DrainRecord {
            id: format!("d{}", self.made),
            by: "user/admin".into(),
            reason: "new RAM".into(),
            since: self.now,
            options: DrainOptions {
                deadline: Time(self.now.0 + 3600),
                on_deadline: OnDeadline::Block,
                discard_local_data: false,
                stop_daemons: false,
                delete_unmanaged: false,
                allow_downtime: false,
            },
            total: 0,
            forced: None,
            ended: None,
        };
        f(&mut record);
        let hold = NodeHold {
            kind: HoldKind::Drain,
            owner: record.by.clone(),
            reason: record.reason.clone(),
            since: self.now,
            expires: None,
        };
        self.put_drain(name, &record, |holds| drop(holds.insert(hold.id(), hold)));
    }

    /// What the api writes when an operator takes it back.
    pub fn cancel_drain(&mut self, name: &str) {
        let mut record = (*self.world.nodes[name].drain.as_ref().expect("a drain").value).clone();
        record.ended = Some(DrainEnd {
            at: self.now,
            how: DrainOutcome::Cancelled,
        });
        self.put_drain(name, &record, |holds| holds.retain(|_, h| h.kind != HoldKind::Drain));
    }

    pub(super) fn put_drain(&mut self, name: &str, record: &DrainRecord, f: impl FnOnce(&mut HoldsRecord)) {
        let present = self.world.nodes[name].holds.as_ref();
        let mut holds = present.map(|h| HoldsRecord::clone(&h.value)).unwrap_or_default();
        f(&mut holds);
        let changes = [
            Change::put(keys::drain(name), Expect::Any, encode(record)),
            Change::put(keys::holds(name), Expect::Any, encode(&holds)),
        ];
        assert!(self.commit(&changes));
    }

    pub fn set(&mut self, settings: &[(&str, &str)]) {
        self.put(keys::SETTINGS.to_owned(), &map(settings));
    }

    pub fn freeze(&mut self, until: Option<Time>) {
        let freeze = FreezeRecord {
            by: "user/admin".into(),
            reason: "moving racks".into(),
            since: self.now,
            until,
        };
        self.put(keys::FREEZE.to_owned(), &freeze);
    }

    /// A budget with this spec, written as in a manifest.
    pub fn put_budget(&mut self, namespace: &str, name: &str, spec: serde_json::Value) {
        let budget = json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("budget-{name}"),
            "generation": 1}, "spec": spec});
        self.put(keys::object(Kind::PodDisruptionBudget, namespace, name), &budget);
    }
}

impl Sim {
    /// What the api writes when an operator begins the update of `default/old` to another template under `new`.
    pub fn update(&mut self, old: &str, new: &str, template: PodTemplate, f: impl FnOnce(&mut UpdateRecord)) {
        self.made += 1;
        let from = self.world.controllers[&key("default", old)].rc.clone();
        let uid = format!("u-{new}-{}", self.made);
        let mut rc = rc("default", new, &uid, 0, template);
        rc.spec.min_ready_seconds = from.spec.min_ready_seconds;
        let count = u32::try_from(from.spec.replicas).expect("a count");
        let mut record = UpdateRecord {
            id: format!("up{}", self.made),
            by: "user/admin".into(),
            cause: "image i2".into(),
            since: self.now,
            old: from.metadata.uid.clone(),
            new: uid,
            new_name: new.to_owned(),
            renames: false,
            from: count,
            target: count,
            limits: UpdateLimits::default(),
            back: false,
            back_why: String::new(),
            paused: None,
            tried: false,
            steps: Vec::new(),
            before: 0,
            progressed: self.now,
            held: None,
            ended: None,
        };
        f(&mut record);
        let changes = [
            Change::put(
                keys::object(Kind::ReplicationController, "default", new),
                Expect::Any,
                encode(&rc),
            ),
            Change::put(keys::update("default", old), Expect::Any, encode(&record)),
        ];
        assert!(self.commit(&changes));
    }

    /// What the api writes when an operator steers it.
    pub fn steer(&mut self, old: &str, f: impl FnOnce(&mut UpdateRecord)) {
        let mut record = (*self.world.updates[&key("default", old)].value).clone();
        f(&mut record);
        self.put(keys::update("default", old), &record);
    }
}
