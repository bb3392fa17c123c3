//! Rolling updates on real Docker that meet a fault: the coordinator killed at every step, a host lost in mid-way, no
//! place for the surge; and the book's own pair of files, over a pipe.

use std::{collections::BTreeSet, time::Duration};

use harness::{
    docker::IMAGE,
    drains::service,
    eventually, eventually_within,
    load::{self, Load},
    updates::{NEXT, endpoints, hosts, images, names, standing, update, watching},
};
use serde_json::{Value, json};

/// Longest an update of a test may take, with what befalls it.
const LONGEST: Duration = Duration::from_secs(150);

/// Waits for the end of the update of `web`.
#[track_caller]
fn ended(hosts: &harness::Hosts) {
    eventually_within(LONGEST, "the update ends", || {
        let view = standing(hosts, "web");
        if view["phase"] == "Updated" {
            Ok(())
        } else {
            Err(view.to_string())
        }
    });
}

#[test]
fn a_coordinator_killed_at_every_step_ends_it_the_same() {
    let mut hosts = hosts("uf1", 2);
    let mut first = service("web", 3, 1);
    first["spec"]["template"]["metadata"]["annotations"]["wharfinger.io/endpoint-drain"] = json!("6s");
    hosts.cluster.create(&first).ok();
    hosts.settled(3);
    let load = Load::start(load::Options::new(endpoints(&hosts, "web")));
    update(&hosts, &[&format!("--image={NEXT}"), "--no-wait"]).ok();
    // As soon as anything has come of it.
    let mut met: Vec<Value> = Vec::new();
    eventually_within(LONGEST, "the update ends", || {
        let view = standing(&hosts, "web");
        if view["phase"] == "Updated" {
            return Ok(());
        }
        let at = json!([
            view["stepsBefore"],
            view["steps"],
            view["newSide"]["available"],
            view["oldSide"]["replicas"]
        ]);
        if !view.is_null() && !met.contains(&at) {
            hosts.cluster.kill_coordinator();
            hosts.cluster.start_coordinator();
            met.push(at);
        }
        Err(view.to_string())
    });
    assert!(met.len() >= 3, "once a step at least: {met:?}");
    hosts.settled(3);
    assert_eq!(images(&hosts), BTreeSet::from([NEXT.to_owned()]));
    let controllers = hosts.cluster.items("rc");
    assert_eq!(controllers.len(), 1, "{controllers:?}");
    assert_eq!(controllers[0]["metadata"]["name"], "web");
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    let history = hosts.cluster.wharf(&["rollout", "history", "rc", "web"]).ok();
    assert_eq!(history.lines().count(), 3, "two revisions: {history}");
}

#[test]
fn it_ends_without_a_host_that_is_lost_in_mid_way() {
    let hosts = hosts("uf2", 3);
    let settings = ["replace-unreachable-after=1s", "brake-share=100%"];
    let set = ["settings", "set"];
    hosts.cluster.wharf(&[&set[..], &settings[..]].concat()).ok();
    hosts.cluster.create(&service("web", 6, 1)).ok();
    hosts.settled(6);
    let command = watching(&hosts, &[&format!("--image={NEXT}")]);
    eventually("the second step", || match command.log_text() {
        said if said.contains("Updating web replicas: 4") => Ok(()),
        said => Err(said),
    });
    let behind = names(&hosts).len() - hosts.running("n2").len() - hosts.running("n3").len();
    assert!(behind > 0, "pods were spread");
    hosts.cut("n1");
    hosts.condition("n1", "Unknown", "Unreachable");
    ended(&hosts);
    eventually("the command ends with it", || match command.log_text() {
        said if said.ends_with("to web\nweb\n") => Ok(()),
        said => Err(said),
    });
    let there = hosts.cluster.ready_pods();
    let at: BTreeSet<&str> = there.iter().filter_map(|p| p["spec"]["nodeName"].as_str()).collect();
    assert_eq!((there.len(), at), (6, BTreeSet::from(["n2", "n3"])));
    // What the host still runs of the first version is stopped once it is back.
    hosts.heal("n1");
    hosts.cluster.node_ready("n1");
    hosts.settled(6);
    assert_eq!(images(&hosts), BTreeSet::from([NEXT.to_owned()]));
}

#[test]
fn without_a_place_for_the_surge_it_says_so_at_once_with_the_remedy() {
    let hosts = hosts("uf3", 2);
    let mut first = service("web", 2, 0);
    let template = &mut first["spec"]["template"];
    template["metadata"]["annotations"] = json!({"wharfinger.io/endpoint-drain": "0s"});
    // One on each host: of a fixed port there is no second one.
    template["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 8080, "hostPort": 18080}]);
    hosts.cluster.create(&first).ok();
    hosts.settled(2);
    let old = names(&hosts);
    let command = watching(&hosts, &[&format!("--image={NEXT}")]);
    eventually_within(Duration::from_secs(5), "why it waits", || match command.log_text() {
        said if said.contains("has no place") && said.contains("--max-unavailable 1") => Ok(()),
        said => Err(said),
    });
    assert_eq!(names(&hosts), old, "none was stopped for it");
    let status = hosts.cluster.wharf(&["status"]);
    assert!(
        status.stdout.contains("rc/web") && status.stdout.contains("wharf rollout status rc web"),
        "{status:?}"
    );
    let said = update(&hosts, &[&format!("--image={NEXT}"), "--max-unavailable", "1"]).ok();
    assert!(said.ends_with("to web\nweb\n"), "{said}");
    hosts.settled(2);
    assert_eq!(images(&hosts), BTreeSet::from([NEXT.to_owned()]));
    assert_eq!(
        hosts.cluster.wharf(&["status"]).ok(),
        "all is well: 2 nodes, 1 controller, 2 pods\n"
    );
}

#[test]
fn the_pair_of_the_book_is_updated_from_a_pipe() {
    let hosts = hosts("uf4", 1);
    for tag in ["1.0", "2.0"] {
        let image = format!("kubeguide/redis-master:{tag}");
        hosts.engine("n1").engine.docker(&["tag", IMAGE, &image]).ok();
    }
    let wharf = |args: &[&str]| hosts.cluster.wharf(args);
    wharf(&["label", "node", "n1", "zone=north"]).ok();
    // Without a tag it would be looked for in a registry.
    let first = include_str!("../../../cli/tests/fixtures/redis-master-controller.yaml")
        .replace("kubeguide/redis-master", "kubeguide/redis-master:1.0");
    let second = include_str!("../../../cli/tests/fixtures/redis-master-controller-v2.yaml");
    hosts.cluster.wharf_fed(&["create", "-f", "-"], &first).ok();
    wharf(&["scale", "rc", "redis-master", "--replicas=3"]).ok();
    hosts.settled(3);
    let update = ["rolling-update", "redis-master", "-f", "-"];
    let twice = hosts.cluster.wharf_fed(&update, &format!("{second}\n---\n{first}"));
    assert!(twice.code == 1 && twice.stderr.contains("2 objects"), "{twice:?}");
    let dry = hosts
        .cluster
        .wharf_fed(&[&update[..], &["--dry-run"]].concat(), second)
        .ok();
    assert_eq!(dry.matches("kind: ReplicationController").count(), 2, "{dry}");
    let said = hosts.cluster.wharf_fed(&update, second);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (
            0,
            "Creating redis-master-v2\n\
             At beginning of loop: redis-master replicas: 2, redis-master-v2 replicas: 1\n\
             Updating redis-master replicas: 2, redis-master-v2 replicas: 1\n\
             At end of loop: redis-master replicas: 2, redis-master-v2 replicas: 1\n\
             At beginning of loop: redis-master replicas: 1, redis-master-v2 replicas: 2\n\
             Updating redis-master replicas: 1, redis-master-v2 replicas: 2\n\
             At end of loop: redis-master replicas: 1, redis-master-v2 replicas: 2\n\
             At beginning of loop: redis-master replicas: 0, redis-master-v2 replicas: 3\n\
             Updating redis-master replicas: 0, redis-master-v2 replicas: 3\n\
             At end of loop: redis-master replicas: 0, redis-master-v2 replicas: 3\n\
             Update succeeded. Deleting redis-master\n\
             redis-master-v2\n"
        ),
        "{said:?}"
    );
    assert!(said.stderr.contains("--use-file-replicas"), "{said:?}");
    hosts.settled(3);
    assert_eq!(
        images(&hosts),
        BTreeSet::from(["kubeguide/redis-master:2.0".to_owned()])
    );
    let again = hosts.cluster.wharf_fed(&update, second);
    assert!(
        again.code == 1 && again.stderr.contains("\"redis-master\" not found"),
        "{again:?}"
    );
}
