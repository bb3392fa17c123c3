//! What keeps a daemon where it is: a budget that needs it, data on a host that is off.

use super::*;
use crate::plan::sim::set_field;

#[test]
fn an_update_takes_no_daemon_that_a_budget_needs() {
    let mut sim = settled(Ask::default());
    let set = || json!({"matchLabels": {"app": "logs"}});
    sim.put_budget("default", "b", json!({"minAvailable": 3, "selector": set()}));
    update(&mut sim, "i:2");
    sim.settle();
    assert_eq!((on(&sim).len(), updated(&sim).len()), (3, 0));
    let unplaced = sim.world.daemon_sets[&at()].unplaced.as_ref().expect("words");
    let words = "n1: a former daemon stays there: poddisruptionbudget default/b: 3 of 3 must be available, 3 are; change \
                 minAvailable of the budget; n2: ";
    assert!(unplaced.value.words.starts_with(words), "{}", unplaced.value.words);
    // It goes on as far as the budget lets it, though the set allows more at once.
    sim.edit_ds(&at(), |set| {
        let all = json!({"rollingUpdate": {"maxUnavailable": "100%"}});
        set.spec.update_strategy = serde_json::from_value(all).unwrap();
    });
    sim.put_budget("default", "b", json!({"minAvailable": 1, "selector": set()}));
    sim.pass(&HashSet::new());
    assert_eq!(on(&sim).len(), 1);
    sim.settle();
    assert_eq!(updated(&sim).len(), 3);
    assert!(sim.world.daemon_sets[&at()].unplaced.is_none());
}

#[test]
fn an_update_that_a_budget_holds_back_goes_on_with_another_pod_that_serves() {
    let mut sim = settled(Ask::default());
    sim.put_budget("default", "b", json!({"minAvailable": 3, "selector": {}}));
    sim.put_rc(&rc("default", "web", "u-web", 1, template("web", Ask::default())));
    update(&mut sim, "i:2");
    // Agents say nothing.
    let rest = |sim: &mut Sim| {
        while !sim.dirty.groups.is_empty() {
            sim.pass(&HashSet::new());
        }
    };
    rest(&mut sim);
    assert_eq!((on(&sim).len(), updated(&sim).len()), (3, 0));
    sim.agents();
    rest(&mut sim);
    assert_eq!(on(&sim).len(), 2, "the other one serves");
    sim.settle();
    assert_eq!(updated(&sim).len(), 3);
}

#[test]
fn a_daemon_with_data_waits_for_its_host_to_be_back() {
    let mut template = template("logs", Ask::default());
    set_field(
        &mut template.spec,
        "volumes",
        json!([{"name": "data", "hostPath": {"path": "/srv"}}]),
    );
    template.spec.containers[0].volume_mounts =
        serde_json::from_value(json!([{"name": "data", "mountPath": "/d"}])).unwrap();
    let mut sim = sim(Ask::default());
    sim.put_capabilities("n2", &proto::capability::ALL);
    sim.put_ds(&ds("default", "logs", "u-logs", template));
    sim.settle();
    let there = daemon(&sim, "n2");
    sim.put_ready("n2", false);
    sim.confirm_off("n2");
    sim.settle();
    assert!(!sim.world.pods[&there].stopping());
}
