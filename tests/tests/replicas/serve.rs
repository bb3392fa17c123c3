//! Any coordinator serves: what a standby answers by itself, and what it passes on.

use std::{fs, path::Path, thread, time::Duration};

use harness::{
    cluster::controller,
    eventually, load,
    program::Background,
    replicas::{Part, Replicas, name},
};

use crate::{CRASH, fleet, holds, status};

#[test]
fn every_coordinator_serves_everybody() {
    let (mut all, ids) = fleet();
    let leader = all.leader();
    for machine in 0..3 {
        let at = |args: &[&str]| all.wharf_at(Some(machine), args);
        let pods = at(&["get", "pods"]).ok();
        assert_eq!(pods.lines().count(), 4, "{pods}");
        let own = format!("ns{machine}");
        assert_eq!(
            at(&["create", "namespace", &own]).ok(),
            format!("namespace/{own} created\n")
        );
        // Who writes here reads it here.
        assert!(at(&["get", "ns", &own]).ok().contains(&own));
        let pod = pods
            .lines()
            .nth(1)
            .and_then(|l| l.split_whitespace().next())
            .expect("a pod")
            .to_owned();
        at(&["logs", &pod]).ok();
        let refused = at(&["create", "namespace", &own]).refused(1);
        assert_eq!(refused, format!("error: namespaces {own:?} already exists"));
        let audit = at(&["audit", "--object", &format!("namespaces/{own}")]).ok();
        assert!(
            audit.contains("admin"),
            "the caller is on record, not who passed it on: {audit}"
        );
        let leads = load::get(&all.http(machine), "/leader").is_ok();
        assert_eq!(leads, machine == leader);
        load::get(&all.http(machine), "/v1/endpoints/default/web").expect("endpoints");
    }
    holds(&mut all, &ids, &[]);
}

#[test]
fn the_command_finds_the_others_by_itself() {
    let (mut all, _) = fleet();
    let leader = all.leader();
    let only = Some(leader);
    // It learns of all from one.
    all.wharf_at(only, &["get", "nodes"]).ok();
    all.kill(leader, Part::Coordinator);
    all.wharf_at(only, &["create", "namespace", "after"]).ok();
}

#[test]
fn a_planned_hand_over_refuses_nobody() {
    let (mut all, ids) = fleet();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (all_ref, done_ref) = (&all, &done);
    let written = thread::scope(|scope| {
        let writer = scope.spawn(move || {
            let mut names = Vec::new();
            while !done_ref.load(std::sync::atomic::Ordering::Relaxed) {
                let ns = format!("w{}", names.len());
                all_ref.wharf(&["create", "namespace", &ns]).ok();
                names.push(ns);
            }
            names
        });
        for _ in 0..4 {
            let from = all_ref.leader();
            let to = name((from + 1) % 3);
            let said = all_ref.wharf(&["cluster", "transfer", "--to", &to]).ok();
            assert!(said.contains(&to), "{said}");
            eventually("it leads", || match status(all_ref)["leader"]["name"].as_str() {
                Some(leader) if leader == to => Ok(()),
                other => Err(format!("{other:?}")),
            });
            thread::sleep(Duration::from_millis(300));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().expect("every write was acknowledged")
    });
    assert!(written.len() > 10, "{written:?}");
    holds(&mut all, &ids, &written);
    // An orderly end hands over too.
    let from = all.leader();
    all.stop(from, Part::Coordinator);
    all.taken_over(from, Duration::from_secs(2));
    all.up(from, Part::Coordinator);
    let refused = all.wharf(&["cluster", "transfer", "--to", "nobody"]).refused(1);
    assert!(refused.starts_with("error: "), "{refused}");
}

#[test]
fn a_followed_log_goes_on_when_who_leads_changes() {
    let mut all = Replicas::start(harness::replicas::Options::default());
    all.join(&["n1"]);
    all.create(&controller("count", 1, &["count"])).ok();
    all.settled(1);
    let config = all.admin().display().to_string();
    let log = all.dir().join("followed");
    let env = [("WHARF_CONFIG".to_owned(), config)];
    let reader = Background::with_env("wharf", &["logs", "rc/count", "-f"], &env, log);
    let numbers = || -> Vec<u64> { reader.log_text().lines().filter_map(|l| l.parse().ok()).collect() };
    let past = |n: u64| {
        eventually(&format!("it shows {n}"), || match numbers().last() {
            Some(last) if *last >= n => Ok(*last),
            other => Err(format!("{other:?}: {}", reader.log_text())),
        })
    };
    let mut shown = past(10);
    // Handed over, and taken over, whichever of the three the reader has.
    for _ in 0..3 {
        all.wharf(&["cluster", "transfer"]).ok();
        shown = past(shown + 20);
    }
    let leader = all.leader();
    all.kill(leader, Part::Coordinator);
    all.taken_over(leader, CRASH);
    let shown = past(shown + 20);
    let expected: Vec<u64> = (0..=shown).collect();
    let all = numbers();
    assert_eq!(all[..expected.len().min(all.len())], expected[..], "lost or doubled");
}

/// keepalived on a machine, with `deploy/ha/keepalived.conf` and the addresses of this test in it.
fn keepalived(all: &Replicas, machine: usize, shared: &str) -> Background {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ha/keepalived.conf");
    let mut text = fs::read_to_string(example).expect("the example");
    let host = |m: usize| all.http(m).split(':').next().expect("an address").to_owned();
    let others: Vec<usize> = (0..3).filter(|m| *m != machine).collect();
    for (from, to) in [
        ("10.0.0.10/24", format!("{shared}/24")),
        ("10.0.0.1", host(machine)),
        ("10.0.0.2", host(others[0])),
        ("10.0.0.3", host(others[1])),
        ("127.0.0.1:7445", all.http(machine)),
    ] {
        assert!(text.contains(from), "{from} is not in the example any more");
        text = text.replace(from, &to);
    }
    let at = |what: &str| all.dir().join(format!("keepalived{machine}.{what}"));
    fs::write(at("conf"), text).expect("a configuration");
    let mut command = all.on(machine, Path::new("keepalived"));
    command
        .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
        .arg(at("conf"));
    command
        .arg("--pid")
        .arg(at("pid"))
        .arg("--vrrp_pid")
        .arg(at("vrrp.pid"));
    Background::of(&mut command, at("log"))
}

#[test]
fn a_virtual_address_follows_the_active_coordinator() {
    let (mut all, _) = fleet();
    let first = all.address(0);
    let subnet = first.rsplit_once('.').expect("an address").0;
    let shared = format!("{subnet}.50");
    let running: Vec<Background> = (0..3).map(|m| keepalived(&all, m, &shared)).collect();
    let leads_there = |all: &Replicas, machine: usize| {
        eventually(&format!("{shared} is at {}", name(machine)), || {
            let term = load::get(&format!("{shared}:7445"), "/leader");
            let own = load::get(&all.http(machine), "/leader");
            match (&term, &own) {
                (Ok(there), Ok(here)) if there == here => Ok(()),
                _ => Err(format!("{term:?} {own:?}\n{}", running[machine].log_text())),
            }
        });
    };
    let leader = all.leader();
    leads_there(&all, leader);
    all.kill(leader, Part::Coordinator);
    let (next, _) = all.taken_over(leader, Duration::from_secs(4));
    leads_there(&all, next);
}
