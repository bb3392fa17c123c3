//! `wait`, and the wait of `delete`, through restarts of the coordinator.

use std::time::Duration;

use proto::model::Kind;
use serde_json::{Value, json};

use crate::{
    fake::{Command, Fake, pod, wharf, within},
    watch::Watching,
};

fn ready(name: &str, status: &str) -> Value {
    let mut value = pod("default", name, "web", "n1");
    value["status"]["conditions"] = json!([{"type": "Ready", "status": status, "reason": "ContainersNotReady",
        "message": "c is starting"}]);
    value
}

async fn watches(fake: &Fake, count: usize) {
    fake.until(|s| s.calls.iter().filter(|c| c.starts_with("watch")).count() >= count)
        .await;
}

#[tokio::test]
async fn a_condition_that_comes() {
    let fake = Fake::new();
    fake.put(Kind::Pod, ready("a", "False"));
    fake.put(Kind::Pod, ready("b", "True"));
    fake.put(Kind::Pod, ready("c", "False"));
    let server = fake.serve().await;
    let waiting = Watching::start(&server, "wait --for condition=ready pod/a pod/b pod/c");
    waiting.lines(1).await;
    watches(&fake, 1).await;
    fake.put(Kind::Pod, ready("c", "True"));
    waiting.lines(2).await;
    // A restart in between, with a change that the watch cannot see.
    fake.state().oldest = 100;
    fake.break_watches();
    fake.put(Kind::Pod, ready("a", "True"));
    fake.state().oldest = 0;
    let done = within(waiting.task).await.expect("no panic");
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "pod/b condition met\npod/c condition met\npod/a condition met\n"),
        "{}",
        done.err
    );
}

#[tokio::test]
async fn the_coordinator_is_away_for_a_while() {
    for line in ["wait pod a --for delete", "delete pod a"] {
        let fake = Fake::new();
        fake.put(Kind::Pod, ready("a", "True"));
        fake.state().slow_delete = true;
        let server = fake.serve().await;
        let mut command = Command::new(&[&server.address]);
        // However short a watch without a limit of its own may be: this one has one.
        command.env.times.give_up = Duration::ZERO;
        let waiting = Watching::of(command, line);
        watches(&fake, 1).await;
        let address = server.address.clone();
        drop(server);
        fake.break_watches();
        waiting.err.until(|t| t.contains("; going on\n")).await;
        // What happens meanwhile is seen at the return, though no watch tells of it: a successor is another pod.
        fake.succeed(Kind::Pod, "default", "a");
        fake.state().oldest = 100;
        let _again = fake.serve_at(&address).await;
        let done = within(waiting.task).await.expect("no panic");
        assert_eq!(done.code, 0, "{line}: {}", done.err);
    }
}

#[tokio::test]
async fn a_coordinator_that_goes_right_after_the_deletion_was_asked_for() {
    let fake = Fake::new();
    fake.put(Kind::Pod, ready("a", "True"));
    fake.state().lost_lists = 4;
    let done = wharf(&fake.serve().await, "delete pod a").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "pod \"a\" deleted\n"),
        "{}",
        done.err
    );
    assert!(done.err.ends_with("starting; going on\n"), "{}", done.err);
}

#[tokio::test]
async fn the_time_ends_with_what_was_seen_last() {
    let fake = Fake::new();
    fake.put(Kind::Pod, ready("a", "False"));
    fake.put(Kind::Pod, pod("default", "b", "web", "n1"));
    let server = fake.serve().await;
    let expected = "error: pod \"a\": no longer waiting for condition Ready after 50ms; last seen: Ready is False, \
                    ContainersNotReady: c is starting; see `wharf describe pod a`\n\
                    error: pod \"b\": no longer waiting for condition Ready after 50ms; last seen: it has no condition \
                    Ready (it has: none); see `wharf describe pod b`\n";
    let done = wharf(&server, "wait pods -l app=web --for condition=Ready --timeout 50ms").await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (3, "", expected));
    let once = wharf(&server, "wait pods --all --for condition=Ready --timeout 0").await;
    assert_eq!((once.code, once.err), (3, expected.replace("50ms", "0s")));
    assert_eq!(
        fake.state().calls.iter().filter(|c| c.starts_with("watch")).count(),
        1,
        "looking once opens no watch"
    );
    for (line, seen) in [
        (
            "wait pod a --for delete --timeout 0",
            "waiting for it to go after 0s; last seen: it is there",
        ),
        (
            "wait pod x --for create --timeout 0",
            "waiting for it to be there after 0s; last seen: it is not there",
        ),
        (
            "wait pod a --for condition=Ready=Unknown --timeout 0",
            "waiting for condition Ready=Unknown after 0s",
        ),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(done.code, 3, "{line}");
        assert!(done.err.contains(seen), "{line}: {}", done.err);
    }
    let done = wharf(&server, "wait pod a --for delete --timeout 0").await;
    assert_eq!(done.code, 3);
    let mut deleted = ready("a", "False");
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:30Z");
    fake.put(Kind::Pod, deleted);
    let done = wharf(&server, "wait pod a --for delete --timeout 0").await;
    assert!(done.err.contains("last seen: it is being deleted"), "{}", done.err);
}

#[tokio::test]
async fn what_is_so_already_ends_at_once() {
    let fake = Fake::new();
    fake.put(Kind::Pod, ready("a", "False"));
    let server = fake.serve().await;
    for (line, out) in [
        ("wait pod x --for delete", "pod/x condition met\n"),
        ("wait pod a --for create", "pod/a condition met\n"),
        ("wait pod/a --for condition=Ready=False", "pod/a condition met\n"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, out, ""),
            "{line}"
        );
    }
    let none = wharf(&server, "wait pods -l app=db --for condition=Ready").await;
    assert_eq!(
        (none.code, none.err.as_str()),
        (0, "No resources found in default namespace.\n")
    );
}

#[tokio::test]
async fn an_object_that_cannot_become_so_is_a_refusal() {
    let fake = Fake::new();
    fake.put(Kind::Pod, ready("a", "False"));
    fake.put(Kind::Pod, ready("b", "False"));
    let server = fake.serve().await;
    let waiting = Watching::start(&server, "wait pod/x pod/a pod/b --for condition=Ready");
    watches(&fake, 1).await;
    fake.remove(Kind::Pod, "default", "a");
    // A successor of the same name is another pod.
    fake.succeed(Kind::Pod, "default", "b");
    let done = within(waiting.task).await.expect("no panic");
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            1,
            "",
            "error: pods \"x\" not found\nerror: pod \"a\": it was deleted during the wait for condition Ready\nerror: \
             pod \"b\": it was deleted during the wait for condition Ready\n"
        )
    );
}

#[tokio::test]
async fn created_later_and_several_kinds() {
    let fake = Fake::new();
    fake.put(Kind::Node, json!({"metadata": {"name": "n1"}, "spec": {}}));
    let server = fake.serve().await;
    let waiting = Watching::start(&server, "wait pod/late node/n1 --for create");
    watches(&fake, 1).await;
    fake.put(Kind::Pod, ready("late", "False"));
    let done = within(waiting.task).await.expect("no panic");
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "pod/late condition met\nnode/n1 condition met\n")
    );
}

#[tokio::test]
async fn ctrl_c_and_nobody_there() {
    let fake = Fake::new();
    fake.put(Kind::Pod, ready("a", "False"));
    let server = fake.serve().await;
    let waiting = Watching::start(&server, "wait pod/a --for condition=Ready --timeout 1h");
    watches(&fake, 1).await;
    let done = waiting.stop().await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (130, "error: no longer waiting for pod/a; nothing is undone by that\n")
    );
    let gone = server.address.clone();
    drop(server);
    let done = Command::new(&[&gone]).run("wait pod/a --for condition=Ready").await;
    assert_eq!(done.code, 4, "{}", done.err);
    for line in [
        "wait pod/a",
        "wait pod/a --for Ready",
        "wait pods --for delete",
        "wait --for delete",
    ] {
        assert_eq!(Command::new(&[&gone]).run(line).await.code, 2, "{line}");
    }
}
