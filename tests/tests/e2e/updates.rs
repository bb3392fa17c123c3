//! Rolling updates on real Docker: under load, with new pods that come to nothing, turned back in mid-way, and by a
//! coordinator that is killed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use harness::{
    docker::IMAGE,
    drains::service,
    eventually,
    load::{self, Load},
    updates::{NEXT, endpoints, hosts, images, names, second, standing, update, watching, write},
};
use serde_json::json;

/// Counts the ready addresses of `web` until told to stop; the fewest.
fn sampler(http: String, stop: Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let mut least = usize::MAX;
        while !stop.load(Ordering::Relaxed) {
            if let Ok(ready) = load::ready(&http, "default", "web") {
                least = least.min(ready.len());
            }
            thread::sleep(Duration::from_millis(20));
        }
        least
    })
}

#[test]
fn six_replicas_under_load_are_updated_and_nobody_notices() {
    let hosts = hosts("ru1", 3);
    hosts.cluster.create(&service("web", 6, 1)).ok();
    hosts.settled(6);
    let load = Load::start(load::Options::new(endpoints(&hosts, "web")));
    let stop = Arc::new(AtomicBool::new(false));
    let sampled = sampler(hosts.cluster.http(), Arc::clone(&stop));
    let said = update(&hosts, &[&format!("--image={NEXT}")]).ok();
    hosts.settled(6);
    stop.store(true, Ordering::Relaxed);
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    assert!(sampled.join().expect("no panic") >= 6, "fewer than six were Ready");
    assert_eq!(images(&hosts), BTreeSet::from([NEXT.to_owned()]));
    // As in the book, by the names that it gave.
    let lines: Vec<&str> = said.lines().collect();
    let new = lines[0].strip_prefix("Creating ").expect("the first line");
    let mut expected = vec![format!("Creating {new}")];
    for i in 1..=6 {
        let counts = format!("web replicas: {}, {new} replicas: {i}", 6 - i);
        expected.push(format!("At beginning of loop: {counts}"));
        expected.push(format!("Updating {counts}"));
        expected.push(format!("At end of loop: {counts}"));
    }
    expected.push("Update succeeded. Deleting old controller: web".into());
    expected.push(format!("Renaming {new} to web"));
    expected.push("web".into());
    assert_eq!(lines, expected);
    let history = hosts.cluster.wharf(&["rollout", "history", "rc", "web"]).ok();
    assert!(
        history.contains(&format!("rolling-update web --image={NEXT}")),
        "{history}"
    );
    // And back again, by its history.
    let load = Load::start(load::Options::new(endpoints(&hosts, "web")));
    hosts
        .cluster
        .wharf(&["rollout", "undo", "rc", "web", "--max-surge", "2"])
        .ok();
    hosts.settled(6);
    assert_eq!(images(&hosts), BTreeSet::from([IMAGE.to_owned()]));
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    let status = hosts.cluster.wharf(&["rollout", "status", "rc", "web"]).ok();
    assert!(status.starts_with("web was updated in"), "{status}");
}

#[test]
fn a_second_version_that_comes_to_nothing_stops_with_its_first_pod() {
    let hosts = hosts("ru2", 2);
    hosts.cluster.create(&service("web", 3, 1)).ok();
    hosts.settled(3);
    let before = names(&hosts);
    let load = Load::start(load::Options::new(endpoints(&hosts, "web")));
    // It ends after two seconds, again and again.
    let mut exits = second(service("web", 3, 1));
    exits["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["exit", "1", "2"]);
    let file = write(&hosts, &exits);
    let failed = update(&hosts, &["-f", &file]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.stderr.contains("exited 1") && failed.stderr.contains("wharf rolling-update web --rollback"),
        "{failed:?}"
    );
    assert!(before.is_subset(&names(&hosts)), "the old ones run on");
    let status = standing(&hosts, "web");
    assert_eq!(
        (&status["failed"], &status["newSide"]["replicas"]),
        (&json!(true), &json!(1)),
        "{status}"
    );
    let said = update(&hosts, &["--rollback"]).ok();
    assert!(
        said.starts_with("Found existing update in progress (web-v2), resuming.\n"),
        "{said}"
    );
    assert!(said.ends_with("Update succeeded. Deleting web-v2\nweb\n"), "{said}");
    hosts.settled(3);
    assert_eq!(names(&hosts), before);
    // It never becomes Ready, and the update comes back by itself.
    let mut unready = second(service("web", 3, 1));
    let container = &mut unready["spec"]["template"]["spec"]["containers"][0];
    container["readinessProbe"]["httpGet"]["path"] = json!("/nowhere");
    let file = write(&hosts, &unready);
    let back = update(&hosts, &["-f", &file, "--timeout", "8s", "--on-failure", "rollback"]);
    assert!(
        back.stdout.ends_with("Update succeeded. Deleting web-v2\nweb\n"),
        "{back:?}"
    );
    // It came back by itself; what was asked for has failed, and why is said.
    assert!(
        back.code == 1 && back.stderr.contains("was rolled back: the step got no further for 8 s"),
        "{back:?}"
    );
    hosts.settled(3);
    assert_eq!(names(&hosts), before, "none of the old ones went");
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
}

#[test]
fn it_goes_on_without_its_terminal_and_over_a_killed_coordinator_and_ends_the_same() {
    let mut hosts = hosts("ru3", 2);
    hosts.cluster.create(&service("web", 3, 1)).ok();
    hosts.settled(3);
    let file = write(&hosts, &second(service("web", 3, 1)));
    let load = Load::start(load::Options::new(endpoints(&hosts, "web-v2")));
    let command = watching(&hosts, &["-f", &file]);
    eventually("the first step", || match command.log_text() {
        said if said.contains("Updating web replicas: 2") => Ok(()),
        said => Err(said),
    });
    command.kill();
    hosts.cluster.kill_coordinator();
    hosts.cluster.start_coordinator();
    // Called again it is attached to.
    let said = update(&hosts, &["-f", &file]);
    assert!(
        said.code == 0 && said.stdout.ends_with("Update succeeded. Deleting web\nweb-v2\n")
            || said.stderr.contains("\"web\" not found"),
        "{said:?}"
    );
    hosts.settled(3);
    assert_eq!(images(&hosts), BTreeSet::from([NEXT.to_owned()]));
    assert!(names(&hosts).iter().all(|pod| pod.starts_with("web-v2-")));
    let failures = load.stop();
    assert_eq!(
        failures.failures(),
        failures.failed.get("no address").copied().unwrap_or(0),
        "{failures}"
    );
    // Undone, it has its former name.
    let undone = hosts.cluster.wharf(&["rollout", "undo", "rc", "web-v2"]).ok();
    assert!(undone.ends_with("Update succeeded. Deleting web-v2\nweb\n"), "{undone}");
    hosts.settled(3);
    assert_eq!(images(&hosts), BTreeSet::from([IMAGE.to_owned()]));
}

#[test]
fn turned_back_in_mid_way_it_ends_with_exactly_the_old_version() {
    let hosts = hosts("ru4", 2);
    hosts.cluster.create(&service("web", 4, 1)).ok();
    hosts.settled(4);
    let load = Load::start(load::Options::new(endpoints(&hosts, "web")));
    let command = watching(&hosts, &[&format!("--image={NEXT}")]);
    eventually("the second step", || match command.log_text() {
        said if said.contains("Updating web replicas: 2") => Ok(()),
        said => Err(said),
    });
    // From another terminal; the first one sees it.
    let said = update(&hosts, &["--rollback"]).ok();
    assert!(
        said.contains("Continuing update with existing controller web.") && said.ends_with("\nweb\n"),
        "{said}"
    );
    hosts.settled(4);
    assert_eq!(images(&hosts), BTreeSet::from([IMAGE.to_owned()]));
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    let none = update(&hosts, &["--rollback"]);
    assert_eq!(none.stderr, "error: no update of web in progress\n");
    drop(command);
}
