//! `drain`: what it asks for, what it shows while it waits, and how it ends.

use proto::{
    model::Kind,
    wire::{DrainPod, DrainView},
};
use serde_json::{Value, json};
use tonic::Status;

use crate::fake::{Command, Fake, NOW_MS, draining, ended, wharf, within};

fn filled() -> Fake {
    let fake = Fake::new();
    let hold = |kind: &str, owner: &str| json!({"kind": kind, "owner": owner, "since": "2026-01-31T11:00:00Z"});
    for (name, holds) in [
        ("n1", json!([])),
        ("n2", json!([hold("drain", "user/admin")])),
        ("n3", json!([hold("drain", "user/admin"), hold("cordon", "user/bob")])),
    ] {
        fake.put(
            Kind::Node,
            json!({"metadata": {"name": name}, "status": {"holds": holds,
            "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }
    fake
}

fn pod(name: &str, step: &str, new: &str, why: &str) -> DrainPod {
    let (new_name, new_node) = new.split_once('@').unwrap_or((new, ""));
    DrainPod {
        namespace: "default".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        new_name: new_name.into(),
        new_node: new_node.into(),
        step: step.into(),
        since_ms: NOW_MS,
        why: why.into(),
    }
}

fn with(view: DrainView, left: u32, pods: &[DrainPod]) -> DrainView {
    DrainView {
        left,
        pods: pods.to_vec(),
        ..view
    }
}

#[tokio::test]
async fn every_option_reaches_the_coordinator() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, call) in [
        ("drain n1 --no-wait", "drain n1 0 "),
        ("drain node/n1 --no-wait --reason RAM", "drain n1 0 RAM"),
        (
            "drain n1 --no-wait --deadline 90s --on-deadline force --local-data discard --daemons stop --delete-unmanaged \
             --allow-downtime",
            "drain n1 90000 force discard stop delete-unmanaged allow-downtime",
        ),
        (
            "drain n1 --no-wait --deadline 1ms --on-deadline block --local-data block --daemons keep",
            "drain n1 1 block block keep",
        ),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{line}");
        assert_eq!(fake.state().calls.pop().as_deref(), Some(call), "{line}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_usage() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, says) in [
        ("drain", "NODE"),
        ("drain n1 n2", "n2"),
        ("drain pod/x", "\"pod/x\" is no node"),
        ("drain n1 --deadline soon", "expected a duration such as"),
        ("drain n1 --deadline 0s", "expected more than 0s"),
        ("drain n1 --on-deadline wait", "block, abort, force"),
        ("drain n1 --local-data keep", "block, discard"),
        ("drain n1 --daemons block", "keep, stop"),
        ("drain n1 --cancel --deadline 1h", "--cancel"),
        ("drain n1 --cancel --no-wait", "--cancel"),
        ("drain n1 --cancel --allow-downtime", "--cancel"),
        ("drain n1 --cancel -o json", "--cancel"),
    ] {
        let done = wharf(&server, line).await;
        assert!(
            done.code == 2 && done.err.contains(says) && done.out.is_empty(),
            "{line}: {done:?}"
        );
    }
    assert!(fake.state().calls.is_empty(), "nothing was asked of the coordinator");
    let done = wharf(&server, "drain n9").await;
    assert_eq!((done.code, done.err.as_str()), (1, "error: nodes \"n9\" not found\n"));
    let refusal = "nodes \"n1\": it is being drained by user/bob with --on-deadline block; \
                   watch that one: wharf drain n1, or end it first: wharf drain n1 --cancel";
    fake.state().failures.push_back(Status::failed_precondition(refusal));
    let done = wharf(&server, "drain n1 --on-deadline force").await;
    assert_eq!((done.code, done.err), (1, format!("error: {refusal}\n")));
}

#[tokio::test]
async fn where_nothing_is_to_be_waited_for_one_line_says_so() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, out) in [
        ("drain n1 --no-wait", "node/n1 draining\n"),
        ("drain n1 --no-wait", "node/n1 already draining\n"),
        ("drain n1", "node/n1 drained in 4.1 s\n"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (0, out), "{line}: {done:?}");
    }
    fake.view(ended("Drained", 4100));
    for line in ["drain n1", "drain n1 --no-wait"] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str()),
            (0, "node/n1 already drained\n"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn off_a_terminal_each_change_is_a_line() {
    let fake = filled();
    let server = fake.serve().await;
    let mut first = with(
        draining(0),
        2,
        &[pod("web-1", "Waiting", "", ""), pod("log-1", "Stays", "", "a daemon")],
    );
    first.unmanaged = vec!["db".into()];
    fake.view(first);
    let command = Command::new(&[&server.address]);
    let (out, err) = (command.out.clone(), command.err.clone());
    let running = tokio::spawn(command.run("drain n2"));
    err.until(|t| t.contains("left alone: db")).await;
    let starting = with(
        draining(1000),
        2,
        &[
            pod("web-1", "Starting", "web-9@n3", ""),
            pod("log-1", "Stays", "", "a daemon"),
        ],
    );
    fake.view(starting.clone());
    err.until(|t| t.contains("starting")).await;
    // Nothing that an operator would want to read.
    let mut same = starting;
    same.pods[0].why = "in 3 s".into();
    fake.view(same);
    let budget = "poddisruptionbudget default/web: 2 must be available; scale it up";
    fake.view(with(
        DrainView {
            phase: "Blocked".into(),
            ..draining(2000)
        },
        2,
        &[pod("web-1", "Blocked", "web-9@n3", budget)],
    ));
    err.until(|t| t.contains("blocked")).await;
    fake.view(with(draining(3000), 1, &[pod("web-1", "Stopped", "web-9@n3", "")]));
    err.until(|t| t.contains("stopped")).await;
    assert_eq!(out.text(), "", "only the end is data");
    fake.view(ended("Drained", 4100));
    let done = within(running).await.expect("no panic");
    assert_eq!((done.code, done.out.as_str()), (0, "node/n2 drained in 4.1 s\n"));
    assert_eq!(
        done.err.lines().collect::<Vec<_>>(),
        [
            "n2: draining, 2 of 2 left, since 0 s, deadline in 60m",
            "n2: containers that are not managed here run on the host and are left alone: db",
            "pod/web-1 → web-9 on n3: starting",
            "n2: blocked, 2 of 2 left, since 2 s, deadline in 59m",
            "pod/log-1: stopped",
            &format!("pod/web-1 → web-9 on n3: blocked: {budget}"),
            "n2: draining, 1 of 2 left, since 3 s, deadline in 59m",
            "pod/web-1 → web-9 on n3: stopped",
            "pod/web-1 → web-9 on n3: moved",
        ]
    );
}

#[tokio::test]
async fn on_a_terminal_a_table_stands_and_is_taken_back() {
    let fake = filled();
    let server = fake.serve().await;
    fake.view(with(draining(0), 2, &[pod("web-1", "Waiting", "", "")]));
    let mut command = Command::new(&[&server.address]);
    command.env.stderr_is_terminal = true;
    let err = command.err.clone();
    let running = tokio::spawn(command.run("drain n2"));
    err.until(|t| t.contains("waiting")).await;
    fake.view(with(
        draining(1000),
        2,
        &[pod("web-1", "Blocked", "", "no room\u{1b}[2J")],
    ));
    err.until(|t| t.contains("pod/web-1: blocked: no room")).await;
    fake.view(ended("Drained", 61_000));
    let done = within(running).await.expect("no panic");
    assert_eq!(done.out, "node/n2 drained in 61.0 s\n");
    let (before, after) = done
        .err
        .split_once("pod/web-1: blocked: no room?[2J\n")
        .expect("it stands above");
    assert!(before.starts_with("\u{1b}[?7ln2: draining, 2 of 2 left"), "{before:?}");
    assert!(
        before.ends_with("\u{1b}[2A\r\u{1b}[J"),
        "two lines are taken back: {before:?}"
    );
    assert!(
        after.contains("default/web-1   blocked   1s   no room?[2J\n\u{1b}[?7h"),
        "{after:?}"
    );
    assert!(after.ends_with("A\r\u{1b}[J"), "nothing is left of it: {after:?}");
    assert!(!after.contains("\u{1b}[2J"));
}

#[tokio::test]
async fn ctrl_c_leaves_the_drain_to_the_coordinator() {
    let fake = filled();
    let server = fake.serve().await;
    fake.view(draining(0));
    let mut command = Command::new(&[&server.address]);
    let interrupt = command.interrupt.take().expect("there");
    let running = tokio::spawn(command.run("drain n2"));
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch-drain")))
        .await;
    interrupt.send(()).expect("it waits");
    let done = within(running).await.expect("no panic");
    assert_eq!((done.code, done.out.as_str()), (3, ""));
    let last = done.err.lines().last();
    assert_eq!(
        last,
        Some("the drain of n2 goes on; watch it again: wharf drain n2; stop it: wharf drain n2 --cancel")
    );
    assert!(!fake.state().calls.iter().any(|c| c.starts_with("cancel")));
}

#[tokio::test]
async fn a_restart_of_the_coordinator_ends_no_watch() {
    let fake = filled();
    let server = fake.serve().await;
    fake.view(draining(0));
    let command = Command::new(&[&server.address]);
    let err = command.err.clone();
    let running = tokio::spawn(command.run("drain n2"));
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch-drain")))
        .await;
    fake.break_watches();
    err.until(|t| t.contains("watch: this coordinator is going away; the drain goes on"))
        .await;
    fake.view(with(draining(1000), 2, &[pod("web-1", "Starting", "", "")]));
    err.until(|t| t.contains("pod/web-1: starting")).await;
    // And one that is away altogether, for as long as it takes.
    let address = server.address.clone();
    drop(server);
    fake.break_watches();
    err.until(|t| t.matches("the drain goes on, and so does this watch").count() == 2)
        .await;
    let _server = fake.serve_at(&address).await;
    fake.view(ended("Drained", 9_000));
    let done = within(running).await.expect("no panic");
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "node/n2 drained in 9.0 s\n"),
        "{done:?}"
    );
}

#[tokio::test]
async fn one_that_others_end_is_a_failure() {
    for (phase, why, says) in [
        (
            "Cancelled",
            "",
            "its drain was cancelled; what has moved stays where it is",
        ),
        ("Aborted", "", "its drain was aborted: its deadline passed; what"),
        (
            "Aborted",
            "3 pods were left",
            "its drain was aborted: 3 pods were left; what",
        ),
    ] {
        let fake = filled();
        let server = fake.serve().await;
        fake.view(draining(0));
        let running = tokio::spawn(Command::new(&[&server.address]).run("drain n2"));
        fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch-drain")))
            .await;
        let mut last = ended(phase, 1000);
        last.why = [why].into_iter().filter(|w| !w.is_empty()).map(str::to_owned).collect();
        fake.view(last);
        let done = within(running).await.expect("no panic");
        assert_eq!((done.code, done.out.as_str()), (1, ""), "{phase}");
        let error = done.err.lines().last().unwrap_or_default();
        assert!(error.starts_with(&format!("error: nodes \"n2\": {says}")), "{error}");
        assert!(error.ends_with("begin anew: wharf drain n2"), "{error}");
    }
}

#[tokio::test]
async fn a_drain_is_taken_back() {
    let fake = filled();
    let server = fake.serve().await;
    for (line, out) in [
        ("drain n1 --cancel", "node/n1 not draining\n"),
        ("drain n2 --cancel --dry-run", "node/n2 drain cancelled (dry run)\n"),
        ("drain n2 --cancel --reason done", "node/n2 drain cancelled\n"),
        ("drain n2 --cancel", "node/n2 not draining\n"),
        (
            "drain n3 --cancel",
            "node/n3 drain cancelled (still SchedulingDisabled: cordon by bob)\n",
        ),
        (
            "drain n3 --cancel --dry-run",
            "node/n3 not draining (still SchedulingDisabled: cordon by bob)\n",
        ),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, out, ""),
            "{line}"
        );
    }
    assert_eq!(fake.state().reasons, ["done"]);
}

#[tokio::test]
async fn uncordon_says_how_a_drain_ends() {
    let fake = filled();
    let server = fake.serve().await;
    let done = wharf(&server, "uncordon n2").await;
    assert_eq!(
        done.out,
        "node/n2 already uncordoned (still SchedulingDisabled: drain by admin; end the drain: wharf drain n2 --cancel)\n"
    );
}

fn planned() -> DrainView {
    let mut view = with(
        draining(0),
        4,
        &[
            pod("web-1", "Waiting", "@n3", ""),
            pod("log-1", "Stays", "", "a daemon"),
            pod(
                "db-0",
                "Blocked",
                "",
                "its data in volume data would be left behind; --local-data discard",
            ),
            pod("one", "Waiting", "", "it has no controller; stopped"),
        ],
    );
    view.phase = "Planned".into();
    view.why = vec!["frozen by user/bob: audit".into()];
    view.unmanaged = (0..12).map(|n| format!("c{n}")).collect();
    view
}

#[tokio::test]
async fn a_dry_run_says_what_would_go_where_and_what_cannot() {
    let fake = filled();
    let server = fake.serve().await;
    fake.state().drain_plan = Some(planned());
    let done = wharf(&server, "drain n2 --dry-run").await;
    assert_eq!((done.code, done.err.as_str()), (1, ""), "something stays");
    assert_eq!(
        done.out,
        "POD             WHAT           TO   WHY\n\
         default/db-0    cannot leave   -    its data in volume data would be left behind; --local-data discard\n\
         default/web-1   moves          n3\n\
         default/one     stops          -    it has no controller; stopped\n\
         default/log-1   stays          -    a daemon\n\
         \n\
         n2: 1 would move, 1 would be stopped for good, 1 cannot leave, 1 staying (dry run)\n\
         n2: frozen by user/bob: audit\n\
         n2: containers that are not managed here run on the host and are left alone: c0, c1, c2, c3, c4, c5, c6, c7, \
         c8, c9 and 2 more\n"
    );
    let mut good = planned();
    good.pods.retain(|p| p.step != "Blocked");
    fake.state().drain_plan = Some(good);
    assert_eq!(wharf(&server, "drain n2 --dry-run").await.code, 0, "a freeze passes");
    fake.state().drain_plan = Some(DrainView {
        phase: "Planned".into(),
        ..draining(0)
    });
    let done = wharf(&server, "drain n2 --dry-run").await;
    assert_eq!((done.code, done.out.as_str()), (0, "n2: no pods are on it (dry run)\n"));
    // Of a drain that goes on already: how it stands.
    fake.state().drain_plan = Some(draining(5000));
    let done = wharf(&server, "drain n2 --dry-run").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "n2: draining, 2 of 2 left, since 5 s, deadline in 59m\n")
    );
}

#[tokio::test]
async fn programs_get_one_object() {
    let fake = filled();
    let server = fake.serve().await;
    fake.state().drain_plan = Some(planned());
    let done = wharf(&server, "drain n2 --dry-run -o json").await;
    let plan: Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!(
        (done.code, &plan["kind"], &plan["status"]["phase"]),
        (1, &json!("Drain"), &json!("Planned"))
    );
    let first = &plan["status"]["pods"][0];
    assert_eq!(
        (&first["newNode"], &first["step"], first.get("why")),
        (&json!("n3"), &json!("Waiting"), None)
    );
    assert_eq!(plan["spec"]["deadline"], "2026-01-31T13:00:00Z");
    let done = wharf(&server, "drain n1 -o yaml").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""), "no progress");
    assert!(
        done.out.contains("phase: Drained") && done.out.contains("ended: "),
        "{}",
        done.out
    );
    fake.view(draining(0));
    fake.view(ended("Aborted", 10));
    let done = wharf(&server, "drain n2 -o json").await;
    assert_eq!(done.code, 1);
    let (object, error) = (done.out, done.err);
    assert_eq!(
        serde_json::from_str::<Value>(&object).expect("JSON")["status"]["phase"],
        "Aborted"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&error).expect("a Status")["kind"],
        "Status"
    );
}

#[tokio::test]
async fn status_and_describe_show_drains() {
    let fake = filled();
    let server = fake.serve().await;
    let done = wharf(&server, "describe node n1").await;
    assert!(done.code == 0 && !done.out.contains("Drain:"), "{done:?}");
    fake.view(with(
        DrainView {
            phase: "Blocked".into(),
            ..draining(60_000)
        },
        1,
        &[pod("web-1", "Blocked", "", "no room elsewhere")],
    ));
    let done = wharf(&server, "describe node n2").await;
    assert!(
        done.out
            .contains("Drain:\n  State:     blocked, 1 of 2 left, since 60 s"),
        "{}",
        done.out
    );
    let done = wharf(&server, "status").await;
    let line = done.out.lines().find(|l| l.starts_with("node/n2")).unwrap_or_default();
    assert!(
        line.contains("wharf drain n2 ")
            && line.ends_with(
                "drain blocked, 1 of 2 left, since 60 s, deadline in 59m; pod default/web-1: no room elsewhere"
            ),
        "{}",
        done.out
    );
    let n3: Vec<&str> = done.out.lines().filter(|l| l.starts_with("node/n3")).collect();
    assert!(n3.len() == 2 && n3[1].contains("held: cordon by bob"), "{}", done.out);
}
