//! `wharf logs`.

use std::io;

use proto::model::Kind;
use serde_json::json;

use crate::fake::{Command, Fake, Wrote, pod, rc, wharf, within};

fn line(second: u32, text: &str) -> Wrote {
    Wrote::Line(second, format!("{text}\n"))
}

/// Pods web-1 and web-2 of controller web, and db with two containers.
fn cluster() -> Fake {
    let fake = Fake::new();
    fake.put(Kind::ReplicationController, rc("web", 2));
    let owner = fake
        .object(Kind::ReplicationController, "default", "web")
        .expect("there")["metadata"]["uid"]
        .clone();
    for name in ["web-2", "web-1"] {
        let mut one = pod("default", name, "web", "n1");
        one["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": owner}]);
        fake.put(Kind::Pod, one);
        fake.write(
            &format!("{name}/c"),
            &[line(1, &format!("{name} one")), line(2, &format!("{name} two"))],
        );
    }
    let mut db = pod("default", "db", "db", "n1");
    db["spec"]["containers"] = json!([{"name": "main", "image": "i"}, {"name": "side", "image": "i"}]);
    fake.put(Kind::Pod, db);
    fake.write("db/main", &[line(1, "m")]);
    fake.write("db/side", &[line(1, "s")]);
    fake
}

#[tokio::test]
async fn which_logs_are_shown_and_how() {
    let fake = cluster();
    let server = fake.serve().await;
    let defaulted = "pod/db: container main of main, side; choose with -c, or take --all-containers\n";
    for (args, out, err) in [
        ("web-1", "web-1 one\nweb-1 two\n", ""),
        ("pod/web-1", "web-1 one\nweb-1 two\n", ""),
        ("db", "m\n", defaulted),
        ("db -c side", "s\n", ""),
        ("db --all-containers --prefix", "[pod/db/main] m\n[pod/db/side] s\n", ""),
        ("db -c side --timestamps", "2026-01-31T12:00:01.000000000Z s\n", ""),
        // One after the other, by name.
        ("-l app=web", "web-1 one\nweb-1 two\nweb-2 one\nweb-2 two\n", ""),
        ("rc/web", "web-1 one\nweb-1 two\nweb-2 one\nweb-2 two\n", ""),
        ("-l app=none", "", "No resources found in default namespace.\n"),
    ] {
        let done = wharf(&server, &format!("logs {args}")).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, out, err),
            "{args}"
        );
    }
}

#[tokio::test]
async fn what_is_asked_for() {
    let fake = cluster();
    let server = fake.serve().await;
    let now_ms = crate::fake::NOW as u64 * 1000;
    for (args, asked) in [
        ("web-1", "tail=None since=0 previous=false".to_owned()),
        (
            "web-1 --tail 3 --since 90s -p",
            format!("tail=Some(3) since={} previous=true", now_ms - 90_000),
        ),
        ("web-1 --tail -1", "tail=None since=0 previous=false".to_owned()),
        (
            "-l app=db --all-containers",
            "tail=Some(10) since=0 previous=false".to_owned(),
        ),
        (
            "-l app=db --all-containers --tail=-1",
            "tail=None since=0 previous=false".to_owned(),
        ),
    ] {
        assert_eq!(wharf(&server, &format!("logs {args}")).await.code, 0, "{args}");
        let last = fake.state().calls.last().cloned().expect("asked");
        assert!(last.starts_with("log ") && last.ends_with(&asked), "{args}: {last}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let fake = cluster();
    let server = fake.serve().await;
    for (args, code, words) in [
        ("", 2, "POD"),
        ("web-1 -l app=web", 2, "cannot be used with"),
        ("db -c main --all-containers", 2, "cannot be used with"),
        ("node/n1", 2, "nodes write no logs"),
        ("web-1 --tail -2", 2, "--tail -2"),
        ("-l app=web -f --max-log-requests 1", 2, "--max-log-requests allows 1"),
        ("none", 1, "pods \"none\" not found"),
        ("rc/none", 1, "replicationcontrollers \"none\" not found"),
    ] {
        let done = wharf(&server, &format!("logs {args}")).await;
        assert_eq!(done.code, code, "{args}: {done:?}");
        assert!(done.err.contains(words) && done.out.is_empty(), "{args}: {done:?}");
    }
    fake.put(Kind::ReplicationController, rc("empty", 0));
    let done = wharf(&server, "logs rc/empty").await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            1,
            "error: replicationcontrollers \"empty\" has no pods; see: wharf describe replicationcontroller/empty\n"
        )
    );
}

#[tokio::test]
async fn a_followed_log_goes_on_over_breaks_and_ends_with_the_container() {
    let fake = cluster();
    let server = fake.serve().await;
    // After web-1's first line; then again in the middle of what was seen, then at once.
    fake.state().log_breaks.extend([1, 1, 0]);
    let command = Command::new(&[&server.address]);
    let (out, err) = (command.out.clone(), command.err.clone());
    let running = tokio::spawn(command.run("logs web-1 -f --tail 5"));
    out.until(|t| t == "web-1 one\nweb-1 two\n").await;
    // Of the same second as the last one.
    fake.write("web-1/c", &[line(2, "three"), Wrote::End]);
    let done = within(running).await.expect("no panic");
    assert_eq!((done.code, done.out.as_str()), (0, "web-1 one\nweb-1 two\nthree\n"));
    let notes = err.text();
    assert_eq!(
        notes.lines().next(),
        Some("pod/web-1: the agent was lost; going on where it broke")
    );
    let since = (crate::fake::NOW as u64 + 1) * 1000;
    let again = format!("log web-1/c id=\"c1\" tail=None since={since} previous=false");
    assert!(fake.state().calls.contains(&again), "{:?}", fake.state().calls);
}

#[tokio::test]
async fn several_are_followed_at_once_in_whole_lines_until_ctrl_c() {
    let fake = cluster();
    let server = fake.serve().await;
    let mut command = Command::new(&[&server.address]);
    let (out, interrupt) = (command.out.clone(), command.interrupt.take().expect("there"));
    let running = tokio::spawn(command.run("logs rc/web -f --prefix"));
    out.until(|t| t.lines().count() == 4).await;
    fake.write("web-2/c", &[Wrote::Line(3, "half ".into())]);
    fake.write("web-1/c", &[line(3, "whole")]);
    out.until(|t| t.ends_with("[pod/web-1/c] whole\n")).await;
    interrupt.send(()).expect("it follows");
    let done = within(running).await.expect("no panic");
    assert_eq!((done.code, done.err.as_str()), (130, ""));
    assert!(!done.out.contains("half"), "{}", done.out);
}

/// As `head` leaves it.
struct ClosedPipe;

impl io::Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let fake = cluster();
    let server = fake.serve().await;
    let mut command = Command::new(&[&server.address]);
    command.env.stdout = Box::new(ClosedPipe);
    let done = command.run("logs web-1 -f").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
}
