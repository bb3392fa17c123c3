//! Credentials, failover, and which failure has which exit status.

use std::{
    io::{self, Write},
    process::Command as Process,
    time::Duration,
};

use proto::model::Kind;
use tonic::Status;

use crate::fake::{Command, Fake, pod, rc, wharf};

/// An address where nothing listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").to_string()
}

#[tokio::test]
async fn credentials_that_cannot_be_used() {
    let mut none = Command::new(&["h:1"]);
    none.env.vars.clear();
    let none = none.run("get pods").await;
    assert_eq!(
        (none.code, none.err.as_str()),
        (1, "error: no credentials: give --config FILE or set WHARF_CONFIG\n")
    );

    let mut home = Command::new(&["h:1"]);
    home.env.vars.clear();
    home.env.vars.insert("HOME".into(), "/nonexistent".into());
    let home = home.run("get pods").await;
    assert_eq!(home.code, 1);
    assert!(
        home.err
            .starts_with("error: credentials /nonexistent/.config/wharf/config.yaml: No such file"),
        "{}",
        home.err
    );
    assert!(home.err.contains("give --config FILE"), "{}", home.err);

    for (text, expected) in [
        (
            "coordinators: []\ncluster: c\nca: a\ncertificate: c\nkey: SECRET\n",
            ": coordinators: at least one",
        ),
        (
            "coordinators: [h:1]\ncluster: c\nca: a\ncertificate: c\nkee: SECRET\n",
            ":5:1: unknown field `kee`",
        ),
        ("coordinators: [h:1\n", ":1:15: "),
    ] {
        let command = Command::new(&["h:1"]);
        let path = command.file("bad.yaml", text);
        let done = command.run(&format!("get pods --config {}", path.display())).await;
        assert_eq!(done.code, 1, "{}", done.err);
        assert!(done.err.contains(&format!("bad.yaml{expected}")), "{}", done.err);
        assert!(!done.err.contains("SECRET"), "{}", done.err);
    }
}

#[tokio::test]
async fn no_coordinator_names_each_address_and_why() {
    let (a, b) = (nobody(), nobody());
    let done = Command::new(&[&a, &b]).run("get pods").await;
    assert_eq!(done.code, 4);
    assert!(done.err.starts_with("error: no coordinator answers: "), "{}", done.err);
    for address in [&a, &b] {
        assert!(
            done.err.contains(&format!("{address}: Connection refused")),
            "{}",
            done.err
        );
    }
    assert_eq!(done.err.lines().count(), 1);
}

#[tokio::test]
async fn the_next_coordinator_answers_when_the_first_does_not() {
    let fake = Fake::new();
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    let server = fake.serve().await;
    let standby = Fake::new();
    for _ in 0..8 {
        let status = Status::unavailable("this coordinator is not the active one");
        standby.state().failures.push_back(status);
    }
    let second = standby.serve().await;
    let gone = nobody();
    let done = Command::new(&[&gone, &second.address, &server.address])
        .run("get pods -o name")
        .await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "pod/a\n", ""));

    let done = Command::new(&[&second.address]).run("get pods").await;
    assert_eq!(done.code, 4);
    assert!(
        done.err
            .ends_with(&format!("{}: this coordinator is not the active one\n", second.address)),
        "{}",
        done.err
    );
}

#[tokio::test]
async fn a_write_is_repeated_once_with_the_same_request_id() {
    let fake = Fake::new();
    let server = fake.serve().await;
    fake.state().failures.push_back(Status::unavailable("starting"));
    let manifest = rc("web", 1)
        .to_string()
        .replacen('{', "{\"kind\":\"ReplicationController\",", 1);
    let manifest = manifest.replace("\"creationTimestamp\":\"2026-01-31T11:50:00Z\",", "");
    let done = Command::new(&[&server.address])
        .stdin(&manifest)
        .run("create -f -")
        .await;
    assert_eq!(done.code, 0, "{}", done.err);
    let calls = fake.state().calls.clone();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0], calls[1]);
    let id = calls[0].rsplit(' ').next().expect("an id");
    assert_eq!(id.len(), 36, "{id}");

    let done = Command::new(&[&server.address])
        .stdin("kind: Namespace\nmetadata: {name: a}\n---\nkind: Namespace\nmetadata: {name: b}\n")
        .run("create -f -")
        .await;
    assert_eq!(done.code, 0, "{}", done.err);
    let calls = fake.state().calls.clone();
    assert_ne!(
        calls[2].rsplit(' ').next(),
        calls[3].rsplit(' ').next(),
        "one id an object"
    );
}

#[tokio::test]
async fn refusals_are_passed_on_as_they_are() {
    let fake = Fake::new();
    let server = fake.serve().await;
    for (status, expected) in [
        (
            Status::permission_denied("user/x may not list pods"),
            "error: user/x may not list pods\n",
        ),
        (
            Status::invalid_argument("two\nlines\u{1b}[2J"),
            "error: two lines?[2J\n",
        ),
        (
            Status::unimplemented(""),
            "error: the coordinator does not know this call: it is older than this command; see `wharf version`\n",
        ),
        (Status::internal(""), "error: Internal error\n"),
    ] {
        fake.state().failures.push_back(status);
        let done = wharf(&server, "get pods").await;
        assert_eq!((done.code, done.err.as_str()), (1, expected));
    }
}

#[tokio::test]
async fn a_coordinator_that_never_answers() {
    let fake = Fake::new();
    fake.state().silent = true;
    let server = fake.serve().await;
    let expected = format!(
        "error: {}: no answer within 400ms; whether it was done is not known; see --request-timeout\n",
        server.address
    );
    let done = wharf(&server, "scale rc web --replicas 1 --request-timeout 400ms").await;
    assert_eq!((done.code, done.err.as_str()), (4, expected.as_str()));
    let mut command = Command::new(&[&server.address]);
    command.env.vars.insert("WHARF_REQUEST_TIMEOUT".into(), "400ms".into());
    let done = command.run("get pods").await;
    assert_eq!(
        (done.code, done.err),
        (4, expected.replace("; whether it was done is not known", ""))
    );

    // One that accepts connections and says nothing at all.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let mut command = Command::new(&[&address]);
    command.env.times.channel.connect = Duration::from_millis(20);
    let done = command.run("get pods --request-timeout 50ms").await;
    assert_eq!(done.code, 4, "{}", done.err);
}

#[tokio::test]
async fn a_token_is_not_made_twice() {
    let fake = Fake::new();
    fake.state().silent = true;
    let server = fake.serve().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let (upstream, counted) = (server.address.clone(), fake.clone());
    // The first connection is cut once the request has arrived; later ones are relayed whole.
    let relay = tokio::spawn(async move {
        for first in [true, false, false, false] {
            let (mut near, _) = listener.accept().await.expect("accept");
            let mut far = tokio::net::TcpStream::connect(&upstream).await.expect("connect");
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = counted.until(|s| !s.calls.is_empty()), if first => counted.state().silent = false,
            }
        }
    });
    let done = Command::new(&[&address]).run("token create").await;
    assert_eq!((done.code, done.out.as_str()), (4, ""), "{}", done.err);
    assert!(done.err.contains("whether it was done is not known"), "{}", done.err);
    assert_eq!(fake.state().calls.len(), 1);

    // What is safe to repeat is repeated.
    fake.state().calls.clear();
    let done = Command::new(&[&address]).run("token list").await;
    assert_eq!(done.code, 0, "{}", done.err);
    relay.abort();
}

/// A reader that has gone away, as `head` does.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_closed_pipe_is_no_failure() {
    let fake = Fake::new();
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    let server = fake.serve().await;
    let mut command = Command::new(&[&server.address]);
    command.env.stdout = Box::new(Closed);
    let done = command.run("get pods").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
}

#[tokio::test]
async fn colours_are_for_terminals() {
    let (coloured, plain) = ("\u{1b}[1;31merror:", "error: unknown kind");
    for (line, terminal, no_color, expected) in [
        ("get x", false, false, plain),
        ("get x", true, false, coloured),
        ("get x", true, true, plain),
        ("--color never get x", true, false, plain),
        ("get x --color=always", false, true, coloured),
    ] {
        let mut command = Command::new(&["h:1"]);
        command.env.stderr_is_terminal = terminal;
        if no_color {
            command.env.vars.insert("NO_COLOR".into(), "1".into());
        }
        let done = command.run(line).await;
        assert!(done.err.starts_with(expected), "{line}: {:?}", done.err);
    }
}

#[test]
fn the_program_itself() {
    let run = |args: &[&str]| {
        let output = Process::new(env!("CARGO_BIN_EXE_wharf"))
            .args(args)
            .env_clear()
            .env("HOME", "/nonexistent")
            .output()
            .expect("runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, out, err) = run(&["version", "--client"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, format!("Client Version: {}\n", proto::VERSION));
    let (code, out, _) = run(&["get", "--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("Examples:\n  wharf get rc,pods -o wide\n"), "{out}");
    let (code, _, err) = run(&["get", "pods"]);
    assert_eq!(code, Some(1));
    assert!(err.starts_with("error: credentials /nonexistent"), "{err}");
    assert_eq!(run(&["get"]).0, Some(2));

    // The real way to connect: what is wrong with the credentials is no coordinator's fault.
    let command = Command::new(&["127.0.0.1:1"]);
    let config = command.dir.path().join("admin.yaml");
    let (code, _, err) = run(&["get", "pods", "--config", &config.display().to_string()]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.starts_with("error: the credentials cannot be used: "), "{err}");
    assert_eq!(err.lines().count(), 1);
    let command = Command::new(&["nonsense"]);
    let config = command.dir.path().join("admin.yaml");
    let (code, _, err) = run(&["get", "pods", "--config", &config.display().to_string()]);
    assert_eq!(
        (code, err.as_str()),
        (
            Some(1),
            "error: credentials: coordinators: coordinator address \"nonsense\" is not HOST:PORT\n"
        )
    );
}
