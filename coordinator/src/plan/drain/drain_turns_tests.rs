//! Whose turn it is in a drain, and what one drain leaves to the next.

use super::*;

#[test]
fn so_many_move_at_a_time() {
    let mut sim = fleet(
        30,
        template(
            "web",
            Ask {
                cpu_milli: 100,
                ..Ask::default()
            },
        ),
    );
    sim.set(&[("drain-parallel", "3")]);
    sim.settle();
    let count = |sim: &Sim| sim.world.pods_on("n0").count();
    assert!(count(&sim) >= 9, "{}", count(&sim));
    sim.drain("n0", |_| {});
    let mut most = 0;
    for _ in 0..100 {
        passes(&mut sim);
        let beside = fresh(&sim).len();
        let stopping = sim.world.pods_on("n0").filter(|(_, p)| p.stopping()).count();
        most = most.max(beside.max(stopping));
        assert!(
            beside + stopping <= 3 && ready(&sim.world) >= 30,
            "{beside} and {stopping}"
        );
        if outcome(&sim, "n0").is_some() {
            assert_eq!(most, 3, "and as many as may");
            return;
        }
        sim.agents();
    }
    panic!("{:?}", steps(&sim, "n0"));
}

#[test]
fn so_many_that_nothing_replaces_stop_at_a_time() {
    let mut sim = fleet(0, plain());
    sim.set(&[("drain-parallel", "2")]);
    let ask = Ask {
        node: "n1",
        ..Ask::default()
    };
    for n in 0..5 {
        sim.put_bare("default", &format!("job-{n}"), &template("job", ask));
    }
    sim.settle();
    sim.drain("n1", |d| d.options.delete_unmanaged = true);
    for left in [5, 3, 1] {
        passes(&mut sim);
        let stopping = sim.world.pods_on("n1").filter(|(_, p)| p.stopping()).count();
        assert_eq!((sim.world.pods_on("n1").count(), stopping), (left, left.min(2)));
        sim.agents();
    }
    sim.settle();
    assert_eq!(outcome(&sim, "n1"), Some(DrainOutcome::Drained));
}

#[test]
fn a_daemon_that_is_being_stopped_takes_no_ones_turn() {
    let mut sim = fleet(1, plain());
    sim.set(&[("drain-parallel", "1")]);
    sim.put_ds(&ds("default", "agent", "u-agent", template("agent", Ask::default())));
    sim.settle();
    let node = home(&sim);
    let daemon = |sim: &Sim| {
        let mut daemons = sim.world.pods_of("u-agent");
        daemons
            .find(|(_, p)| p.record.node == node)
            .expect("a daemon")
            .0
            .clone()
    };
    let daemon = daemon(&sim);
    sim.stop(&daemon);
    sim.drain(&node, |_| {});
    passes(&mut sim);
    assert_eq!(sim.live(&web()).len(), 2, "another one is started beside it");
}

#[test]
fn what_failed_for_an_earlier_drain_is_tried_anew_by_the_next() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.drain(&node, |d| d.id = "d1".into());
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    crashes(&mut sim, &new, 3, "boom");
    passes(&mut sim);
    assert_eq!((fresh(&sim).len(), steps(&sim, &node)[0].0), (0, Step::Blocked));
    sim.cancel_drain(&node);
    sim.drain(&node, |d| d.id = "d2".into());
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    crashes(&mut sim, &new, 3, "boom");
    passes(&mut sim);
    let old = sim.live(&web())[0].1.record.failure.clone().expect("a failure");
    assert_eq!((old.drain.as_str(), old.count), ("d2", 1), "and counted anew");
}

#[test]
fn what_an_earlier_drain_stopped_is_none_of_the_next_ones() {
    let mut template = plain();
    template.metadata.annotations = map(&[("wharfinger.io/stop-first", "true")]);
    let mut sim = fleet(1, template);
    let node = home(&sim);
    let old = sim.live(&web())[0].0.clone();
    sim.drain(&node, |d| d.id = "d1".into());
    passes(&mut sim);
    assert!(sim.world.pods[&old].stopping());
    sim.cancel_drain(&node);
    sim.drain(&node, |d| d.id = "d2".into());
    sim.report(&old, Phase::Running, false, true);
    passes(&mut sim);
    assert!(sim.live(&web())[0].1.record.replaces.is_none(), "d2 moved nothing");
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
    // Nor is what it started waited for.
    sim.settle();
    let node = home(&sim);
    let old = sim.live(&web())[0].0.clone();
    sim.drain(&node, |d| d.id = "d3".into());
    passes(&mut sim);
    sim.report(&old, Phase::Running, false, true);
    passes(&mut sim);
    assert_eq!(steps(&sim, &node)[0].0, Step::Stopped);
    sim.cancel_drain(&node);
    sim.drain(&node, |d| d.id = "d4".into());
    passes(&mut sim);
    assert_eq!(outcome(&sim, &node), Some(DrainOutcome::Drained));
}

#[test]
fn once_forced_a_pod_whose_replacement_failed_goes_without_one() {
    let mut sim = fleet(1, plain());
    let node = home(&sim);
    sim.drain(&node, |d| d.options.on_deadline = OnDeadline::Force);
    let deadline = sim.world.nodes[&node].draining().expect("a drain").options.deadline;
    sim.now = Time(deadline.0 - 2);
    passes(&mut sim);
    let [new] = fresh(&sim).try_into().expect("one more");
    crashes(&mut sim, &new, 3, "boom");
    passes(&mut sim);
    let old = sim.live(&web())[0].0.clone();
    assert!(!sim.world.pods[&old].stopping());
    sim.now = deadline;
    sim.wait_until(deadline);
    passes(&mut sim);
    assert!(sim.world.pods[&old].stopping(), "before the next attempt is due");
}

#[test]
fn an_aborted_drain_lets_go_of_its_own_hold_and_no_other() {
    let ask = Ask {
        cpu_milli: 3000,
        ..Ask::default()
    };
    let mut sim = fleet(3, template("web", ask));
    sim.cordon("n1", "ann", "new fan", None);
    sim.drain("n1", |d| d.options.on_deadline = OnDeadline::Abort);
    sim.settle_for(3610);
    assert_eq!(outcome(&sim, "n1"), Some(DrainOutcome::Aborted));
    let kinds: Vec<_> = sim.world.nodes["n1"].holds().map(|h| h.kind).collect();
    assert_eq!(kinds, [HoldKind::Cordon]);
}
