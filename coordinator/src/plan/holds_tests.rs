//! Holds end at their time, and only those.

use std::collections::HashSet;

use proptest::prelude::*;
use proto::model::HoldKind;

use super::*;
use crate::{
    plan::sim::{Ask, Sim, key, template},
    store::keys,
};

fn fleet() -> Sim {
    let mut sim = Sim::new();
    sim.put_namespace("default", false);
    sim.add_node("n1", &[]);
    sim
}

#[test]
fn a_waiting_pod_goes_to_the_node_when_its_last_hold_ends() {
    let mut sim = fleet();
    let start = sim.now;
    sim.cordon("n1", "admin", "RAM swap", Some(Time(start.0 + 60)));
    sim.cordon("n1", "bob", "", Some(Time(start.0 + 90)));
    let at = key("default", "p");
    let named = Ask {
        node: "n1",
        ..Ask::default()
    };
    sim.put_bare("default", "p", &template("p", named));
    sim.pass(&HashSet::new());
    let waiting = |sim: &Sim| sim.world.pods[&at].record.waiting.clone();
    assert_eq!(
        waiting(&sim),
        "0/1 nodes: 1 held (cordon by admin: RAM swap; cordon by bob)"
    );
    sim.pass_time(59);
    let group = Group::Holds("n1".into());
    assert!(!sim.dirty.groups.contains(&group), "it is looked at before its time");
    sim.pass_time(1);
    let plans = sim.pass(&HashSet::new());
    let notes: Vec<_> = plans.iter().flat_map(|p| &p.commits).flat_map(|c| &c.notes).collect();
    assert_eq!(notes.len(), 1);
    assert_eq!(
        (
            notes[0].reason.as_str(),
            notes[0].involved.kind.as_str(),
            notes[0].message.as_str()
        ),
        (
            "HoldExpired",
            "Node",
            "cordon by admin: RAM swap: its time is over; still held: cordon by bob"
        )
    );
    sim.pass(&HashSet::new());
    assert_eq!(waiting(&sim), "0/1 nodes: 1 held (cordon by bob)");
    assert!(sim.wake());
    assert_eq!(sim.now, Time(start.0 + 90));
    sim.settle();
    assert_eq!(sim.world.pods[&at].record.node, "n1");
    let audit: Vec<serde_json::Value> = sim
        .entries
        .iter()
        .filter(|(k, _)| k.starts_with("audit/"))
        .map(|(_, (_, v))| serde_json::from_slice(v).expect("JSON"))
        .collect();
    let told: Vec<_> = audit
        .iter()
        .map(|a| (&a["caller"], &a["object"], &a["detail"]))
        .collect();
    assert_eq!(told.len(), 2);
    assert_eq!(
        told[0],
        (
            &"coordinator".into(),
            &"nodes/n1".into(),
            &"cordon by admin: RAM swap".into()
        )
    );
    // The record stays, so that the node's version does not go back.
    assert_eq!(sim.entries[&keys::holds("n1")].1, "{}");
}

#[test]
fn a_restart_and_a_longer_end_are_seen() {
    let mut sim = fleet();
    let start = sim.now;
    sim.cordon("n1", "admin", "", Some(Time(start.0 + 10)));
    sim.pass(&HashSet::new());
    sim.cordon("n1", "admin", "", Some(Time(start.0 + 50)));
    sim.pass(&HashSet::new());
    sim.pass_time(30);
    sim.pass(&HashSet::new());
    assert!(sim.world.nodes["n1"].cordoned(), "the later end counts");
    let marked = crate::plan::dirty::Dirty::all(&sim.reloaded()).groups;
    assert!(marked.contains(&Group::Holds("n1".into())));
    sim.settle_for(20);
    assert!(!sim.world.nodes["n1"].cordoned());
    assert_eq!(sim.now, Time(start.0 + 50));
    // A node that is gone, and one without an end, cost nothing.
    sim.cordon("n1", "admin", "", None);
    sim.pass(&HashSet::new());
    assert!(!sim.wake());
    sim.cordon("n1", "admin", "", Some(Time(sim.now.0 + 10)));
    sim.pass(&HashSet::new());
    sim.delete_node("n1");
    sim.settle();
    assert!(!sim.entries.contains_key(&keys::holds("n1")));
}

proptest! {
    /// What is left is exactly what has not ended, word for word.
    #[test]
    fn only_what_is_over_goes(ends in prop::collection::vec(prop::option::of(0..20_i64), 0..6), now in 0..20_i64) {
        let holds: HoldsRecord = (0..).zip(&ends).map(|(i, end)| {
            let hold = NodeHold {
                kind: if i % 2 == 0 { HoldKind::Cordon } else { HoldKind::Maintenance },
                owner: format!("o{i}"),
                reason: String::new(),
                since: Time(0),
                expires: end.map(Time),
            };
            (hold.id(), hold)
        }).collect();
        let kept = left(&holds, Time(now));
        for (id, hold) in &holds {
            let stays = hold.expires.is_none_or(|at| at.0 > now);
            prop_assert_eq!(kept.get(id), stays.then_some(hold));
        }
        prop_assert!(kept.len() <= holds.len());
    }
}
