//! What a plan may do for a rolling update: each rule refuses what breaks it, and only that.

use crate::{
    plan::{
        Commit, Group, Plan,
        change::Change,
        check::Checker,
        gc,
        sim::{Ask, Sim, key, rc, template},
    },
    store::Rv,
    world::{
        Key,
        record::OwnerKind,
        updates::{UpdateEnd, UpdateOutcome, UpdateRecord},
    },
};

fn web() -> Key {
    key("default", "web")
}

fn next() -> Key {
    key("default", "web-2")
}

/// Three pods that serve, and the first of the other controller, which serves too.
fn sim() -> Sim {
    let mut sim = Sim::new();
    for name in ["n1", "n2", "n3"] {
        sim.add_node(name, &[]);
    }
    sim.put_rc(&rc("default", "web", "u", 3, template("web", Ask::default())));
    sim.settle();
    sim.update("web", "web-2", template("web", Ask::default()), |_| {});
    sim.pass(&std::collections::HashSet::new());
    sim.pass(&std::collections::HashSet::new());
    sim.agents();
    sim
}

fn admit(sim: &Sim, changes: Vec<Change>) -> Result<(), String> {
    let group = Group::Update(web());
    let plan = Plan {
        commits: vec![Commit {
            group: group.clone(),
            changes,
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    let admitted = Checker::new(sim.now).admit(&sim.world, &group, &plan);
    admitted.map_err(|v| v.what)
}

fn refused(sim: &Sim, changes: Vec<Change>, why: &str) {
    let what = admit(sim, changes).expect_err(why);
    assert!(what.contains(why), "{what}");
}

fn count(sim: &Sim, at: &Key, replicas: i32) -> Change {
    let state = &sim.world.controllers[at];
    Change::SetReplicas {
        key: at.clone(),
        rv: state.rv,
        controller: state.rc.clone(),
        replicas,
    }
}

fn record(sim: &Sim, f: impl FnOnce(&mut UpdateRecord)) -> Change {
    let before = &sim.world.updates[&web()];
    let mut record = (*before.value).clone();
    f(&mut record);
    Change::SetUpdate {
        key: web(),
        rv: before.rv,
        record,
    }
}

/// Stops so many pods of the old controller.
fn stops(sim: &Sim, most: usize) -> Vec<Change> {
    let pods = sim.world.pods_of("u").take(most);
    pods.map(|(k, p)| gc::stop_of(k, p, "r", false, sim.now)).collect()
}

#[test]
fn never_more_than_the_surge() {
    let sim = sim();
    admit(&sim, vec![count(&sim, &web(), 2), count(&sim, &next(), 2)]).unwrap();
    refused(&sim, vec![count(&sim, &next(), 2)], "would have 5 pods, more than 4");
    refused(&sim, vec![count(&sim, &next(), 1)], "has 1 already");
    let mut stale = count(&sim, &web(), 2);
    if let Change::SetReplicas { rv, .. } = &mut stale {
        *rv = Rv(1);
    }
    refused(&sim, vec![stale], "it was decided on version");
    refused(&sim, vec![count(&sim, &web(), -1)], "has -1 already");
}

#[test]
fn never_fewer_that_serve_than_wanted() {
    let mut sim = sim();
    let step = |sim: &Sim, most: i32| {
        let mut changes = vec![count(sim, &web(), 3 - most)];
        changes.extend(stops(sim, usize::try_from(most).unwrap()));
        changes
    };
    admit(&sim, step(&sim, 1)).unwrap();
    refused(
        &sim,
        step(&sim, 2),
        "the update stops 2 that serve, and 2 would be left where 3 must",
    );
    sim.steer("web", |u| u.limits.max_unavailable = proto::model::IntOrPercent::Int(1));
    admit(&sim, step(&sim, 2)).unwrap();
    refused(&sim, step(&sim, 3), "1 would be left where 2 must");
    // What does not serve costs nothing.
    let pods: Vec<Key> = sim.world.pods_of("u").map(|(k, _)| k.clone()).collect();
    for at in &pods {
        sim.report(at, proto::model::Phase::Running, false, false);
    }
    admit(&sim, step(&sim, 3)).unwrap();
}

#[test]
fn the_record_only_goes_forward() {
    let mut sim = sim();
    admit(&sim, vec![record(&sim, |u| u.back = true)]).unwrap();
    refused(&sim, vec![record(&sim, |u| u.by = "user/x".into())], "is made another");
    refused(&sim, vec![record(&sim, |u| u.target = 9)], "is made another");
    refused(&sim, vec![record(&sim, |u| u.steps.clear())], "are forgotten");
    sim.steer("web", |u| u.back = true);
    refused(&sim, vec![record(&sim, |u| u.back = false)], "turned back, for good");
}

#[test]
fn it_ends_when_the_pods_of_one_are_gone_and_takes_that_with_it() {
    let mut sim = sim();
    let end = |how| {
        move |u: &mut UpdateRecord| {
            u.ended = Some(UpdateEnd { at: u.since, how });
        }
    };
    let remove = |sim: &Sim, at: &Key| Change::RemoveController {
        kind: OwnerKind::ReplicationController,
        key: at.clone(),
        rv: sim.world.controllers[at].rv,
    };
    let updated = end(UpdateOutcome::Updated);
    refused(
        &sim,
        vec![record(&sim, updated), remove(&sim, &web())],
        "has pods still",
    );
    refused(
        &sim,
        vec![record(&sim, end(UpdateOutcome::Abandoned))],
        "only an operator",
    );
    refused(
        &sim,
        vec![record(&sim, end(UpdateOutcome::RolledBack))],
        "ends the wrong way",
    );
    refused(&sim, vec![remove(&sim, &web())], "is not being deleted");
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 0);
    for at in sim.world.pods_of("u").map(|(k, _)| k.clone()).collect::<Vec<_>>() {
        sim.stop(&at);
    }
    admit(&sim, vec![record(&sim, updated), remove(&sim, &web())]).unwrap();
    refused(&sim, vec![record(&sim, updated)], "stays after its update");
    refused(
        &sim,
        vec![record(&sim, updated), remove(&sim, &next())],
        "stays after its update",
    );
}

#[test]
fn a_name_is_taken_by_the_one_that_replaces_and_nothing_else_of_it_changes() {
    let mut sim = sim();
    sim.edit_rc(&web(), |rc| rc.spec.replicas = 0);
    for at in sim.world.pods_of("u").map(|(k, _)| k.clone()).collect::<Vec<_>>() {
        sim.stop(&at);
    }
    let take = |sim: &Sim, f: fn(&mut proto::model::ReplicationController)| {
        let new = &sim.world.controllers[&next()];
        let mut controller = proto::model::ReplicationController::clone(&new.rc);
        controller.metadata.name = "web".into();
        f(&mut controller);
        let rename = Change::Rename {
            from: next(),
            from_rv: new.rv,
            to: web(),
            to_rv: sim.world.controllers[&web()].rv,
            controller,
        };
        let ended = record(sim, |u| {
            u.ended = Some(UpdateEnd {
                at: u.since,
                how: UpdateOutcome::Updated,
            });
        });
        vec![ended, rename]
    };
    refused(&sim, take(&sim, |_| {}), "keeps its name");
    sim.steer("web", |u| u.renames = true);
    admit(&sim, take(&sim, |_| {})).unwrap();
    refused(&sim, take(&sim, |rc| rc.spec.replicas = 7), "becomes another");
    refused(&sim, take(&sim, |rc| rc.metadata.uid = "x".into()), "becomes another");
    refused(&sim, vec![take(&sim, |_| {}).remove(1)], "keeps its name");
}

#[test]
fn counts_are_those_of_a_controller_under_update_only() {
    let mut sim = sim();
    sim.put_rc(&rc("default", "other", "o", 1, template("other", Ask::default())));
    let other = key("default", "other");
    refused(&sim, vec![count(&sim, &other, 5)], "is no side of the update");
    let group = Group::Controller(other.clone());
    let plan = Plan {
        commits: vec![Commit {
            group: group.clone(),
            changes: vec![count(&sim, &other, 5)],
            notes: Vec::new(),
        }],
        wake_at: None,
    };
    let what = Checker::new(sim.now).admit(&sim.world, &group, &plan).unwrap_err().what;
    assert!(what.contains("its owner's"), "{what}");
}
