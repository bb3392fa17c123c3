//! What a plan may do about lost nodes and their pods.

use super::*;

/// [`sim`], with `n1` lost and given up.
fn lost() -> Sim {
    let mut sim = sim();
    for name in ["n3", "n4", "n5"] {
        sim.add_node(name, &[("zone", "north")]);
    }
    sim.put_ready("n1", false);
    let record = crate::world::record::LossRecord { at: sim.now };
    sim.put(crate::store::keys::loss("n1"), &record);
    sim
}

fn give_up(sim: &Sim, node: &str) -> Change {
    let before = sim.world.nodes.get(node).and_then(|n| n.loss.as_ref()).map(|l| l.rv);
    Change::GiveUp {
        node: node.to_owned(),
        at: sim.now,
        before,
    }
}

fn lost_stop(sim: &Sim) -> Change {
    let at = key("default", "web-1");
    crate::plan::gc::stop_of(&at, &sim.world.pods[&at], "r", true, sim.now)
}

#[test]
fn a_pod_that_nobody_hears_is_given_up_by_the_rules_alone() {
    let both = |sim: &Sim| vec![lost_stop(sim), create("web-2", "n3")];
    let sim = lost();
    admit(&sim, &web(), both(&sim)).unwrap();
    refused(
        &sim,
        &web(),
        vec![lost_stop(&sim)],
        "is not replaced in the same commit",
    );
    type Spoil = fn(&mut Sim);
    let cases: [(Spoil, &str); 7] = [
        (|s| s.put_ready("n1", true), "is heard"),
        (|s| s.put_condition("n1", "DockerUnavailable"), "is heard"),
        (|s| s.delete(crate::store::keys::loss("n1")), "is not given up"),
        // Lost again: what was decided of the last loss does not count.
        (
            |s| {
                s.put_ready("n1", true);
                s.now = Time(s.now.0 + 1);
                s.put_ready("n1", false);
            },
            "is not given up",
        ),
        (|s| s.freeze(None), "frozen"),
        (
            |s| ["n2", "n4"].into_iter().for_each(|n| s.put_ready(n, false)),
            "3 of 5 nodes are lost",
        ),
        (
            |s| {
                s.edit_pod(&key("default", "web-1"), |r| {
                    r.annotations
                        .insert(proto::model::loss::SINGLETON.into(), Some("true".into()));
                });
            },
            "a singleton and may still run",
        ),
    ];
    for (change, why) in cases {
        let mut sim = lost();
        change(&mut sim);
        refused(&sim, &web(), both(&sim), why);
    }
    // Of a host that is off none of that counts.
    let mut off = lost();
    off.freeze(None);
    off.confirm_off("n1");
    admit(&off, &web(), both(&off)).unwrap();
    let at = key("default", "web-1");
    off.stop(&at);
    let remove = Change::RemovePod {
        pod: before(&at, &off.world.pods[&at]),
    };
    admit(&off, &web(), vec![remove]).unwrap();
}

#[test]
fn nodes_are_given_up_within_the_brake() {
    let mut sim = lost();
    sim.put_ready("n2", false);
    refused(&sim, &Group::Losses, vec![give_up(&sim, "n1")], "given up already");
    refused(&sim, &Group::Losses, vec![give_up(&sim, "n3")], "not lost");
    refused(
        &sim,
        &Group::Losses,
        vec![give_up(&sim, "n2")],
        "2 of 5 nodes would be given up at once",
    );
    let dropped = Change::RemoveLoss {
        node: "n1".into(),
        rv: sim.world.nodes["n1"].loss.as_ref().unwrap().rv,
    };
    refused(&sim, &Group::Losses, vec![dropped.clone()], "still counts");
    sim.now = Time(sim.now.0 + 60);
    let plan = |changes: Vec<Change>| Plan {
        commits: vec![Commit {
            group: Group::Losses,
            changes,
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    let now = sim.now;
    let admitted = |sim: &Sim, changes| Checker::new(now).admit(&sim.world, &Group::Losses, &plan(changes));
    admitted(&sim, vec![give_up(&sim, "n2")]).unwrap();
    assert!(admitted(&sim, vec![dropped.clone()]).is_err(), "it is lost");
    sim.put_ready("n1", true);
    admitted(&sim, vec![dropped]).unwrap();
}

#[test]
fn no_pod_lands_beside_one_that_was_replaced() {
    let mut sim = sim();
    let at = key("default", "web-1");
    sim.edit_pod(&at, |r| {
        r.stop = Some(crate::world::record::StopRecord {
            at: Time(1),
            grace: 1,
            reason: String::new(),
            lost: true,
            drain: None,
        });
    });
    let mut record = pod("web-2", "u", "n1");
    record.template = TemplateRecord::new(&template("web", Ask { host_port: 0, ..ASK }))
        .encode()
        .0;
    sim.put(
        crate::store::keys::template(&record.template),
        &TemplateRecord::new(&template("web", Ask { host_port: 0, ..ASK })),
    );
    let land = Change::CreatePod {
        key: key("default", "web-2"),
        record,
    };
    refused(&sim, &web(), vec![land.clone()], "may still run on n1");
    sim.report(&at, proto::model::Phase::Failed, false, true);
    admit(&sim, &web(), vec![land]).unwrap();
}
