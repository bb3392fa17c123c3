//! Drains whose nodes, or those of replacements, are lost, off or drained themselves.

use super::*;

#[test]
fn a_node_that_is_cut_off_in_the_midst_keeps_its_drain() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    let old = sim.live(&web())[0].0.clone();
    sim.drain(&node, |_| {});
    passes(&mut sim);
    sim.put_ready(&node, false);
    sim.settle();
    let spare = sim.live(&web()).iter().filter(|(k, _)| **k != old).count();
    assert_eq!(spare, 1, "what was started goes on");
    assert!(!sim.world.pods[&old].stopping(), "nobody would see it end");
    assert_eq!(state(&sim, &node), State::Blocked);
    let why = report(&sim.world, &node, sim.now).expect("a drain").why;
    assert!(why[0].contains("wharf node confirm-off"), "{why:?}");
    // Given up as any lost node is: the one that was started follows it, and no third one.
    sim.settle_for(100);
    assert!(sim.world.pods[&old].lost());
    assert_eq!((sim.live(&web()).len(), ready(&sim.world)), (1, 1));
    assert_eq!(outcome(&sim, &node), None, "its end was not seen");
    sim.put_ready(&node, true);
    sim.settle();
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    assert_eq!(sim.live(&web()).len(), 1);
}

#[test]
fn a_replacement_whose_own_node_is_lost_is_replaced() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    let other = sim.world.pods[&new].record.node.clone();
    sim.put_ready(&other, false);
    sim.settle_for(100);
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    assert_eq!((sim.live(&web()).len(), ready(&sim.world)), (1, 1));
}

#[test]
fn a_replacement_whose_host_is_off_is_replaced_however_late() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    let other = sim.world.pods[&new].record.node.clone();
    sim.put_ready(&other, false);
    // Its time to become Ready is over, too.
    sim.now.0 += 700;
    sim.confirm_off(&other);
    sim.settle_for(100);
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    assert_eq!((sim.live(&web()).len(), ready(&sim.world)), (1, 1));
}

#[test]
fn the_node_of_a_replacement_can_be_drained_too() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    let other = sim.world.pods[&new].record.node.clone();
    sim.drain(&other, |_| {});
    sim.settle();
    for drained in [&node, &other] {
        assert_eq!(outcome(&sim, drained), Some(DrainOutcome::Drained), "{drained}");
    }
    assert_eq!((sim.live(&web()).len(), ready(&sim.world)), (1, 1));
}

#[test]
fn while_all_is_frozen_no_replacement_moves_on() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    let other = sim.world.pods[&new].record.node.clone();
    sim.freeze(None);
    sim.drain(&other, |_| {});
    passes(&mut sim);
    assert!(!sim.world.pods[&new].stopping());
    sim.delete(keys::FREEZE.to_owned());
    passes(&mut sim);
    assert!(sim.world.pods[&new].stopping());
}

#[test]
fn a_node_confirmed_off_is_empty() {
    let mut sim = fleet(2, plain());
    let node = home(&sim);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    sim.put_ready(&node, false);
    sim.confirm_off(&node);
    sim.settle();
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    assert_eq!(sim.live(&web()).len(), 2);
}
