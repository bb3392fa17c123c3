//! Every `--help` ends in two examples, and each does what it shows: here it runs against a coordinator.

use clap::CommandFactory;
use proto::{model::Kind, wire};
use serde_json::json;
use wharf::args::Cli;

use crate::fake::{Command, Fake, Wrote, pod, rc, three, within};

/// The files that examples name.
const FILES: [(&str, &str); 6] = [
    (
        "web.yaml",
        "kind: ReplicationController\nmetadata: {name: web}\nspec:\n  replicas: 9\n  template:\n    metadata: \
         {labels: {app: web}}\n    spec: {containers: [{name: c, image: 'web:2'}]}\n",
    ),
    (
        "db.yaml",
        "kind: Pod\nmetadata: {name: db}\nspec: {containers: [{name: c, image: 'db:1'}]}\n",
    ),
    (
        "new.yaml",
        "kind: Pod\nmetadata: {name: new}\nspec: {containers: [{name: c, image: 'new:1'}]}\n",
    ),
    (
        "web-v2.yaml",
        "kind: ReplicationController\nmetadata: {name: web-v2}\nspec:\n  template:\n    metadata: {labels: {app: web, version: \
         '2'}}\n    spec: {containers: [{name: c, image: 'web:2'}]}\n",
    ),
    ("n1.yaml", "kind: Node\nmetadata: {name: n1, labels: {zone: north}}\n"),
    ("pass.txt", "correct horse battery\n"),
];

/// The files that examples make.
const MADE: [&str; 1] = ["fleet.backup"];

fn cluster() -> Fake {
    let fake = Fake::new();
    for name in ["n1", "n2", "n7", "n8"] {
        fake.put(
            Kind::Node,
            json!({"metadata": {"name": name, "labels": {"rack": "b7"}}, "spec": {}, "status": {"holds": [
                {"kind": "automation", "owner": "user/robot", "since": "2026-01-31T11:00:00Z"}]}}),
        );
    }
    let mut web = pod("default", "web-x2k4p", "web", "n1");
    web["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    fake.put(Kind::Pod, web);
    fake.put(Kind::ReplicationController, rc("web", 9));
    fake.state().restore = wire::ShowRestoreReply {
        pending: true,
        restored_at_ms: 2,
        taken_at_ms: 1,
        ..wire::ShowRestoreReply::default()
    };
    fake.state().orphans.push(wire::Orphan {
        uid: "u1".into(),
        namespace: "default".into(),
        name: "web-x2k4p".into(),
        ..wire::Orphan::default()
    });
    fake.write("web-x2k4p/c", &[Wrote::Line(1, "hello\n".into()), Wrote::End]);
    fake.state().replicas = Some(three());
    fake.put(
        Kind::Event,
        json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "Started", "message": "m",
            "involvedObject": {"kind": "Pod", "name": "web-x2k4p"}}),
    );
    fake
}

/// The words of a line, as a shell splits it; quotes are all it knows.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, ' ') => words.push(std::mem::take(&mut word)),
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    words
}

/// Runs an example and returns its exit status and what it wrote.
async fn run(example: &str) -> (u8, String) {
    let fake = cluster();
    let server = fake.serve().await;
    let mut command = Command::new(&[&server.address]);
    for (name, text) in FILES {
        command.file(name, text);
    }
    let dir = command.dir.path().to_owned();
    let args: Vec<String> = words(example)
        .into_iter()
        .skip(1)
        .map(|word| {
            match FILES
                .iter()
                .map(|(name, _)| *name)
                .chain(MADE)
                .find(|name| *name == word)
            {
                Some(name) => dir.join(name).display().to_string(),
                None => word,
            }
        })
        .collect();
    let interrupt = command.interrupt.take().expect("there");
    let watches = args.iter().any(|w| w == "-w");
    // What waits for a deletion gets one.
    let deletes = example.contains("--for delete");
    let running = tokio::spawn(command.run_words(args.into_iter()));
    if watches || deletes {
        fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch"))).await;
    }
    if watches {
        interrupt.send(()).expect("it watches");
    }
    if deletes {
        fake.remove(Kind::Pod, "default", "web-x2k4p").expect("there");
    }
    let done = within(running).await.expect("no panic");
    (done.code, done.out + &done.err)
}

fn expected(example: &str) -> u8 {
    match example {
        // There are differences.
        e if e.starts_with("wharf diff") => 1,
        // The nodes here say nothing of themselves.
        e if e.starts_with("wharf status") => 1,
        // Ends by Ctrl-C.
        e if e.ends_with(" -w") => 130,
        // There is no token m3n8q4.
        e if e.ends_with("revoke k7x2p9 m3n8q4") => 1,
        _ => 0,
    }
}

fn examples(command: &mut clap::Command, out: &mut Vec<String>) {
    let help = command.render_help().to_string();
    let (_, found) = help.rsplit_once("Examples:\n").unwrap_or_else(|| panic!("{help}"));
    let found: Vec<&str> = found.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    assert_eq!(found.len(), 2, "{help}");
    out.extend(found.into_iter().map(str::to_owned));
    command.get_subcommands_mut().for_each(|c| examples(c, out));
}

#[tokio::test]
async fn every_help_ends_in_two_examples_that_work() {
    let mut all = Vec::new();
    examples(&mut Cli::command(), &mut all);
    assert!(all.len() >= 40, "{all:?}");
    for example in all {
        let (code, said) = run(&example).await;
        assert_eq!(code, expected(&example), "{example}: {said}");
    }
}
