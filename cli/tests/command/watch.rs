//! `get -w`, through breaks, restarts and lost revisions.

use std::time::Duration;

use proto::model::Kind;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fake::{Command, Done, Fake, Server, Sink, pod, wharf, within};

/// A command that goes on until it is stopped.
pub struct Watching {
    pub out: Sink,
    pub err: Sink,
    interrupt: tokio::sync::oneshot::Sender<()>,
    pub task: JoinHandle<Done>,
}

impl Watching {
    pub fn start(server: &Server, line: &'static str) -> Self {
        Self::of(Command::new(&[&server.address]), line)
    }

    pub fn of(mut command: Command, line: &'static str) -> Self {
        Self {
            out: command.out.clone(),
            err: command.err.clone(),
            interrupt: command.interrupt.take().expect("there"),
            task: tokio::spawn(command.run(line)),
        }
    }

    pub async fn lines(&self, count: usize) {
        self.out.until(|t| t.lines().count() >= count).await;
    }

    pub async fn stop(self) -> Done {
        self.interrupt.send(()).expect("it watches");
        within(self.task).await.expect("no panic")
    }
}

fn phase(name: &str, phase: &str) -> Value {
    let mut value = pod("default", name, "web", "n1");
    value["status"] = json!({"phase": phase});
    value
}

#[tokio::test]
async fn shows_what_is_there_and_every_change() {
    let fake = Fake::new();
    fake.put(Kind::Pod, phase("a", "Pending"));
    let server = fake.serve().await;
    let watching = Watching::start(&server, "get pods -w -l app=web");
    watching.lines(2).await;
    fake.put(Kind::Pod, phase("a", "Running"));
    fake.put(Kind::Pod, pod("default", "other", "db", "n1"));
    fake.put(Kind::Pod, phase("b-with-a-longer-name", "Pending"));
    fake.remove(Kind::Pod, "default", "a");
    watching.lines(5).await;
    let done = watching.stop().await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            130,
            "NAME   READY   STATUS    RESTARTS   AGE\n\
             a      0/1     Pending   0          10m\n\
             a      0/1     Running   0          10m\n\
             b-with-a-longer-name   0/1     Pending   0          10m\n\
             a                      0/1     Running   0          10m\n",
            ""
        )
    );
}

#[tokio::test]
async fn goes_on_where_a_break_was() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let watching = Watching::start(&server, "get pods -w -o name");
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch"))).await;
    fake.put(Kind::Pod, phase("a", "Running"));
    watching.lines(1).await;
    fake.break_watches();
    watching.err.until(|t| t.contains("going away; going on")).await;
    fake.put(Kind::Pod, phase("b", "Running"));
    watching.lines(2).await;
    let done = watching.stop().await;
    assert_eq!(done.out, "pod/a\npod/b\n");
    let watches: Vec<String> = fake
        .state()
        .calls
        .iter()
        .filter(|c| c.starts_with("watch"))
        .cloned()
        .collect();
    assert_eq!(
        &watches[..2],
        ["watch Pod 0", "watch Pod 1"],
        "taken up at the last revision seen"
    );
}

#[tokio::test]
async fn lists_again_when_changes_were_missed_and_shows_only_what_is_new() {
    let fake = Fake::new();
    fake.put(Kind::Pod, phase("a", "Running"));
    fake.put(Kind::Pod, phase("b", "Running"));
    let server = fake.serve().await;
    let watching = Watching::start(&server, "get pods -w -o name");
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch"))).await;
    {
        // What follows is compacted away before the watch can see it.
        fake.state().oldest = 4;
    }
    fake.break_watches();
    fake.put(Kind::Pod, phase("b", "Failed"));
    fake.put(Kind::Pod, phase("c", "Running"));
    watching.lines(4).await;
    fake.put(Kind::Pod, phase("d", "Running"));
    watching.lines(5).await;
    let done = watching.stop().await;
    assert_eq!(done.out, "pod/a\npod/b\npod/b\npod/c\npod/d\n");
}

#[tokio::test]
async fn gives_up_when_nobody_comes_back() {
    let fake = Fake::new();
    fake.put(Kind::Pod, phase("a", "Running"));
    let server = fake.serve().await;
    let mut command = Command::new(&[&server.address]);
    command.env.times.give_up = Duration::from_millis(100);
    let out = command.out.clone();
    let running = tokio::spawn(command.run("get pods -w -o name"));
    out.until(|t| t == "pod/a\n").await;
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch"))).await;
    drop(server);
    fake.break_watches();
    let done = within(running).await.expect("no panic");
    assert_eq!(done.code, 4);
    assert!(
        done.err
            .contains("error: the watch broke and cannot be taken up again: "),
        "{}",
        done.err
    );
}

#[tokio::test]
async fn one_object_its_json_and_refusals() {
    let fake = Fake::new();
    fake.put(Kind::Pod, phase("a", "Running"));
    fake.put(Kind::Pod, phase("b", "Running"));
    let server = fake.serve().await;
    let missing = wharf(&server, "get pod x -w").await;
    assert_eq!(
        (missing.code, missing.err.as_str()),
        (1, "error: pods \"x\" not found\n")
    );

    let watching = Watching::start(&server, "get pod a -w -o json");
    watching.out.until(|t| t.ends_with("}\n")).await;
    let value: Value = serde_json::from_str(&watching.out.text()).expect("JSON");
    assert_eq!(value["metadata"]["name"], "a");
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch"))).await;
    fake.state()
        .failures
        .push_back(tonic::Status::permission_denied("user/x may not watch pods"));
    fake.break_watches();
    let done = within(watching.task).await.expect("no panic");
    assert_eq!(done.code, 1);
    let last = done.err.lines().last().expect("an error");
    let status: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("Forbidden"), &json!("user/x may not watch pods"))
    );
}

#[tokio::test]
async fn wide_nodes_go_on_while_the_coordinator_is_away() {
    let fake = Fake::new();
    let node = |label: &str| json!({"metadata": {"name": "n1", "labels": {"l": label}}, "spec": {}});
    fake.put(Kind::Node, node("1"));
    let server = fake.serve().await;
    let watching = Watching::start(&server, "get nodes -o wide -w -L l");
    watching.lines(2).await;
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch"))).await;
    // The node's change arrives; the pods, for the count, cannot be asked for any more.
    let away = || tonic::Status::unavailable("going away");
    fake.state().failures.extend([away(), away()]);
    fake.put(Kind::Node, node("2"));
    watching.lines(3).await;
    let address = server.address.clone();
    drop(server);
    fake.break_watches();
    watching.err.until(|t| t.contains("; going on\n")).await;
    let _again = fake.serve_at(&address).await;
    fake.put(Kind::Node, node("3"));
    watching.lines(4).await;
    let done = watching.stop().await;
    assert!(
        done.out.lines().nth(2).is_some_and(|l| l.contains("?/?")),
        "{}",
        done.out
    );
    assert!(
        done.out.lines().nth(3).is_some_and(|l| l.contains("0/?")),
        "{}",
        done.out
    );
}

#[tokio::test]
async fn a_watch_that_fell_behind_lists_again() {
    let fake = Fake::new();
    fake.put(Kind::Pod, phase("a", "Running"));
    let server = fake.serve().await;
    let watching = Watching::start(&server, "get pods -w -o name --sort-by .metadata.name");
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch"))).await;
    fake.state()
        .failures
        .push_back(tonic::Status::resource_exhausted("watch fell behind; list again"));
    fake.break_watches();
    fake.put(Kind::Pod, phase("b", "Running"));
    watching.lines(2).await;
    let done = watching.stop().await;
    assert_eq!((done.code, done.out.as_str()), (130, "pod/a\npod/b\n"));
}
