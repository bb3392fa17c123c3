//! What may happen to three machines, and what must hold after it. Times are bounds that a busy machine keeps too;
//! `make bench` measures.

use std::time::Duration;

use harness::{eventually, replicas::Part};

use crate::{CRASH, HANG, etcd_leader, fleet, holds, status, writable, write};

#[test]
fn the_active_coordinator_is_killed() {
    let (mut all, ids) = fleet();
    let before = write(&all, "before").expect("acknowledged");
    let first = all.leader();
    all.kill(first, Part::Coordinator);
    let (second, _) = all.taken_over(first, CRASH);
    let after = writable(&all, "after");
    holds(&mut all, &ids, &[before.clone(), after.clone()]);
    // It comes back as a standby, and leads again when its turn comes.
    all.up(first, Part::Coordinator);
    all.all_follow();
    assert_eq!(all.leader(), second, "who comes back takes nothing over");
    all.kill(second, Part::Coordinator);
    all.taken_over(second, CRASH);
    holds(&mut all, &ids, &[before, after]);
}

#[test]
fn the_active_coordinator_hangs_and_wakes_up() {
    let (mut all, ids) = fleet();
    let first = all.leader();
    all.freeze(first, Part::Coordinator);
    all.taken_over(first, HANG);
    let after = writable(&all, "after");
    all.thaw(first, Part::Coordinator);
    // It finds out by itself, and follows.
    all.all_follow();
    let leading = status(&all)["leader"]["name"].clone();
    assert_ne!(leading, harness::replicas::name(first), "the one that woke up leads");
    holds(&mut all, &ids, &[after]);
}

#[test]
fn the_active_coordinator_and_etcds_leader_are_killed_together() {
    let (mut all, ids) = fleet();
    let before = write(&all, "before").expect("acknowledged");
    let machine = etcd_leader(&all);
    if all.leader() != machine {
        let name = harness::replicas::name(machine);
        all.wharf(&["cluster", "transfer", "--to", &name]).ok();
    }
    all.kill(machine, Part::Etcd);
    all.kill(machine, Part::Coordinator);
    all.taken_over(machine, HANG);
    let after = writable(&all, "after");
    holds(&mut all, &ids, &[before, after]);
    all.up(machine, Part::Etcd);
    all.up(machine, Part::Coordinator);
    all.all_follow();
}

#[test]
fn the_machine_of_both_leaders_is_cut_from_the_network() {
    let (mut all, ids) = fleet();
    let machine = etcd_leader(&all);
    if all.leader() != machine {
        let name = harness::replicas::name(machine);
        all.wharf(&["cluster", "transfer", "--to", &name]).ok();
    }
    all.cut(machine);
    all.taken_over(machine, HANG);
    let after = writable(&all, "after");
    all.heal(machine);
    all.all_follow();
    holds(&mut all, &ids, &[after]);
}

#[test]
fn coordinators_that_cannot_reach_each_other_do_not_take_over_while_etcd_answers() {
    let (mut all, ids) = fleet();
    let first = all.leader();
    let term = status(&all)["leader"]["term"].clone();
    all.iptables(
        first,
        &[
            "-A",
            "INPUT",
            "-p",
            "tcp",
            "--dport",
            "7443",
            "-j",
            "REJECT",
            "--reject-with",
            "tcp-reset",
        ],
    );
    // Longer than any rule of the detector waits.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(all.leads(), Some(first), "nobody took over");
    all.iptables(first, &["-F", "INPUT"]);
    all.all_follow();
    assert_eq!(status(&all)["leader"]["term"], term, "no term began");
    holds(&mut all, &ids, &[]);
}

#[test]
fn the_active_coordinator_is_cut_from_etcd_only() {
    let (mut all, ids) = fleet();
    let first = all.leader();
    for chain in ["INPUT", "OUTPUT"] {
        for port in ["--dport", "--sport"] {
            all.iptables(first, &["-A", chain, "-p", "tcp", port, "2379", "-j", "DROP"]);
        }
    }
    all.taken_over(first, HANG);
    let after = writable(&all, "after");
    all.iptables(first, &["-F", "INPUT"]);
    all.iptables(first, &["-F", "OUTPUT"]);
    all.all_follow();
    holds(&mut all, &ids, &[after]);
}

#[test]
fn a_coordinator_is_restarted_faster_than_it_is_missed() {
    let (mut all, ids) = fleet();
    let before = write(&all, "before").expect("acknowledged");
    let first = all.leader();
    let term = status(&all)["leader"]["term"].as_u64().expect("a term");
    all.kill(first, Part::Coordinator);
    all.spawn(first, Part::Coordinator);
    let after = writable(&all, "after");
    all.all_follow();
    // It never resumes the term of its former process.
    let now = status(&all)["leader"]["term"].as_u64().expect("a term");
    assert!(now > term, "term {now} after {term}");
    holds(&mut all, &ids, &[before, after]);
}

#[test]
fn etcd_loses_its_majority_and_finds_it_again() {
    let (mut all, ids) = fleet();
    let before = write(&all, "before").expect("acknowledged");
    for machine in [1, 2] {
        all.kill(machine, Part::Etcd);
    }
    let said = eventually("a write is refused", || {
        let out = all.wharf(&["create", "namespace", "meanwhile", "--request-timeout", "3s"]);
        if out.code == 4 {
            Ok(out.stderr)
        } else {
            Err(format!("{out:?}"))
        }
    });
    assert!(!said.trim().is_empty());
    // Containers run, and what was written can be read.
    assert_eq!(all.container_ids(), ids);
    for machine in [1, 2] {
        all.up(machine, Part::Etcd);
    }
    all.leader();
    let after = writable(&all, "after");
    all.all_follow();
    holds(&mut all, &ids, &[before, after]);
}

#[test]
fn a_standby_and_then_etcds_leader_alone_are_killed_and_nobody_notices() {
    let (mut all, ids) = fleet();
    let first = all.leader();
    let standby = (first + 1) % 3;
    all.kill(standby, Part::Coordinator);
    let after = write(&all, "after").expect("acknowledged at once");
    let shown = all.wharf(&["cluster", "status"]);
    assert_eq!(shown.code, 1, "a replica is missing: {shown:?}");
    all.up(standby, Part::Coordinator);
    all.all_follow();

    let machine = etcd_leader(&all);
    all.kill(machine, Part::Etcd);
    let elected = writable(&all, "elected");
    let leader = harness::replicas::name(first);
    assert_eq!(
        status(&all)["leader"]["name"],
        leader.as_str(),
        "no coordinator was changed for it"
    );
    all.up(machine, Part::Etcd);
    holds(&mut all, &ids, &[after, elected]);
}

#[test]
fn everything_is_killed_and_started_again() {
    let (mut all, ids) = fleet();
    let before = write(&all, "before").expect("acknowledged");
    for machine in 0..3 {
        all.kill(machine, Part::Coordinator);
        all.kill(machine, Part::Etcd);
    }
    assert_eq!(all.container_ids(), ids);
    for machine in 0..3 {
        all.spawn(machine, Part::Etcd);
        all.spawn(machine, Part::Coordinator);
    }
    all.leader();
    all.all_follow();
    holds(&mut all, &ids, &[before]);
}
