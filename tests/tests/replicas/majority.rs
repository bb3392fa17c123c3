//! Two of three machines are gone for good, and with them the majority of etcd: the procedure of
//! `docs/high-availability.md`, once where the member that is left has everything, once where writes are lost with the
//! other two.

use harness::{
    eventually, program,
    replicas::{Part, Replicas, name},
};
use serde_json::Value;

use crate::{fleet, holds, write};

const FORCE: [(&str, &str); 1] = [("ETCD_FORCE_NEW_CLUSTER", "true")];

/// Waits until the member of this machine answers by itself.
#[track_caller]
fn answers(all: &Replicas, machine: usize) {
    eventually("the member that is left answers", || {
        let out = all.etcdctl(machine, &[machine], &["endpoint", "health"]);
        if out.code == 0 { Ok(()) } else { Err(format!("{out:?}")) }
    });
}

/// The second and third machine are gone; the member of the first one is a cluster of its own from now on.
fn alone(all: &mut Replicas) {
    for machine in [1, 2] {
        all.lose(machine);
    }
    for chain in ["INPUT", "OUTPUT"] {
        all.iptables(0, &["-F", chain]);
    }
    all.spawn_etcd(0, &FORCE);
    answers(all, 0);
    all.stop(0, Part::Etcd);
    all.spawn(0, Part::Etcd);
    answers(all, 0);
}

fn members(all: &Replicas) -> Vec<Value> {
    let out = all.wharf(&["cluster", "members", "-o", "json"]);
    let list: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// An empty machine takes the place of the one that had its name, as "Replacing a machine" says.
fn replace(all: &mut Replicas, machine: usize) {
    let member = format!("etcd{}", machine + 1);
    let url = format!("https://{}:2380", all.address(machine).trim_end_matches(":7443"));
    let printed = eventually("the member is taken in", || {
        let out = all.wharf(&["cluster", "member", "add", &member, "--peer-url", &url]);
        if out.code == 0 {
            Ok(out.stdout)
        } else {
            Err(format!("{out:?}"))
        }
    });
    let is_new = |(key, _): &(&str, &str)| key.starts_with("ETCD_INITIAL_CLUSTER");
    let new: Vec<(&str, &str)> = printed
        .lines()
        .filter_map(|l| l.split_once('='))
        .filter(is_new)
        .collect();
    assert_eq!(new.len(), 2, "the members and the state: {printed}");
    all.spawn_etcd(machine, &new);
    eventually(&format!("{member} has a vote"), || {
        let list = members(all);
        let found = list.iter().find(|m| m["metadata"]["name"] == member.as_str());
        match found {
            Some(m) if m["status"]["isLearner"] == false => Ok(()),
            _ => Err(format!("{list:?}")),
        }
    });
}

fn nodes_are_ready(all: &Replicas) {
    for node in ["n1", "n2"] {
        all.node_ready(node);
    }
}

#[test]
fn the_member_that_is_left_has_everything_and_two_machines_join_anew() {
    let (mut all, ids) = fleet();
    let before = write(&all, "before").expect("acknowledged");
    all.stop(0, Part::Coordinator);
    all.kill(0, Part::Etcd);
    alone(&mut all);
    all.up(0, Part::Coordinator);
    all.leader();
    nodes_are_ready(&all);
    assert_eq!(all.container_ids(), ids, "no container was touched");
    for machine in [1, 2] {
        replace(&mut all, machine);
        all.wharf(&["cluster", "remove-coordinator", &name(machine)]).ok();
        all.join_coordinator(machine);
    }
    all.all_follow();
    assert_eq!(members(&all).len(), 3);
    holds(&mut all, &ids, &[before]);
}

#[test]
fn what_only_the_lost_members_had_is_told_by_the_agents_and_a_restore_goes_on_from_the_rest() {
    let (mut all, ids) = fleet();
    let before = write(&all, "before").expect("acknowledged");
    // The first member falls behind: the two others acknowledge what it does not hear.
    for chain in ["INPUT", "OUTPUT"] {
        for port in ["--dport", "--sport"] {
            for side in ["2379", "2380"] {
                all.iptables(0, &["-A", chain, "-p", "tcp", port, side, "-j", "DROP"]);
            }
        }
    }
    eventually("a coordinator beside the other two members leads", || {
        match all.leads() {
            Some(machine) if machine != 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let late = eventually("a write that the first member does not hear of", || {
        write(&all, "late").ok_or_else(|| "refused".to_owned())
    });
    all.wharf(&["scale", "rc", "web", "--replicas=4"]).ok();
    all.settled(4);
    let four = all.container_ids();
    all.stop(0, Part::Coordinator);
    all.kill(0, Part::Etcd);
    alone(&mut all);
    all.up(0, Part::Coordinator);
    all.leader();
    for node in ["n1", "n2"] {
        eventually("the agents tell that the state is an older one", || {
            let log = all.agent_log(node);
            if log.contains("is not the one accepted under that number") {
                Ok(())
            } else {
                Err(log)
            }
        });
    }
    assert_eq!(all.container_ids(), four, "they keep what runs");

    // What is left becomes an incarnation of its own.
    let file = all.dir().join("left.backup");
    let path = file.to_str().expect("UTF-8");
    all.wharf(&["cluster", "backup", path]).ok();
    all.stop(0, Part::Coordinator);
    all.configure("etcd-prefix = \"/restored/\"");
    let config = all.config(0);
    let mut command = all.on(0, &program::path("wharf-coordinator"));
    command.arg("restore").arg(&file).arg("--data-dir").arg(all.data_dir(0));
    program::run(command.arg("--config").arg(&config)).ok();
    all.up(0, Part::Coordinator);
    all.leader();
    eventually("both nodes are heard", || {
        let page = all.wharf(&["cluster", "accept-restore", "--dry-run"]);
        if page.stdout.matches(" yes ").count() == 2 {
            Ok(())
        } else {
            Err(format!("{page:?}"))
        }
    });
    all.wharf(&["cluster", "accept-restore", "--yes"]).ok();
    nodes_are_ready(&all);
    assert_eq!(all.container_ids(), four, "no container was touched");
    // The pod that only the lost members knew of.
    let orphan = eventually("it is an orphan", || {
        let out = all.wharf(&["cluster", "orphan", "list", "-o", "json"]);
        let list: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        let uid = list["items"][0]["uid"].as_str().map(str::to_owned);
        uid.ok_or_else(|| format!("{out:?}"))
    });
    all.wharf(&["cluster", "orphan", "delete", &orphan]).ok();
    all.settled(3);
    for machine in [1, 2] {
        replace(&mut all, machine);
        all.join_coordinator(machine);
    }
    all.all_follow();
    holds(&mut all, &ids, &[before]);
    let namespaces = all.wharf(&["get", "namespaces"]).ok();
    assert!(!namespaces.contains(&late), "it was lost with them: {namespaces}");
}
