//! `wharf node`.

use proto::model::Kind;
use serde_json::json;

use crate::{
    fake::{Fake, wharf},
    running::Command,
};

#[tokio::test]
async fn readmit_and_forget_say_what_they_did() {
    let fake = Fake::new();
    let server = fake.serve().await;
    for (verb, done, already) in [
        ("readmit", "readmitted", "is not in quarantine"),
        ("forget", "forgotten", "is forgotten already"),
    ] {
        fake.put(Kind::Node, json!({"metadata": {"name": "n1"}, "marked": true}));
        fake.put(Kind::Node, json!({"metadata": {"name": "n2"}}));
        let dry = wharf(&server, &format!("node {verb} n1 --dry-run")).await;
        assert_eq!((dry.code, dry.out), (0, format!("node/n1 {done} (dry run)\n")));
        let told = wharf(&server, &format!("node {verb} n1 n9 n2")).await;
        assert_eq!(told.out, format!("node/n1 {done}\nnode/n2 {already}\n"));
        assert_eq!((told.code, told.err.as_str()), (1, "error: nodes \"n9\" not found\n"));
    }
    let unnamed = wharf(&server, "node readmit").await;
    assert_eq!(unnamed.code, 2);
    // Each request has an id of its own, so that a repeat after a lost answer is safe.
    let calls = fake.state().calls.clone();
    let ids: std::collections::BTreeSet<_> = calls.iter().filter_map(|c| c.split(' ').nth(2)).collect();
    assert_eq!((ids.len(), ids.contains("")), (calls.len(), false));
}

#[tokio::test]
async fn confirm_off_has_the_name_said_twice() {
    let fake = Fake::new();
    let server = fake.serve().await;
    fake.put(Kind::Node, json!({"metadata": {"name": "n1"}, "marked": true}));
    let told = |code, out: &str, err: &str| (code, out.to_owned(), err.to_owned());
    let asked = "What runs on n1 will run twice unless its host is off. Its name again, to confirm: ";
    for (line, typed, expected) in [
        (
            "node confirm-off n1 --dry-run",
            None,
            told(0, "node/n1 confirmed off (dry run)\n", ""),
        ),
        (
            "node confirm-off n1",
            None,
            told(
                2,
                "",
                "error: nobody to ask: say it again, if the host of n1 is off: --yes n1\n",
            ),
        ),
        (
            "node confirm-off n1 --yes n2",
            None,
            told(
                1,
                "",
                "error: node \"n1\": --yes is \"n2\", not its own; nothing was confirmed\n",
            ),
        ),
        (
            "node confirm-off n1",
            Some("y\n"),
            told(
                1,
                "",
                &format!("{asked}error: node \"n1\": the name typed is \"y\", not its own; nothing was confirmed\n"),
            ),
        ),
        (
            "node confirm-off n1",
            Some("n1\nmore"),
            told(0, "node/n1 confirmed off\n", asked),
        ),
        (
            "node confirm-off n1 --yes n1",
            None,
            told(0, "node/n1 is confirmed off already\n", ""),
        ),
        (
            "node confirm-off n9 --yes n9",
            None,
            told(1, "", "error: nodes \"n9\" not found\n"),
        ),
    ] {
        let mut command = Command::new(&[&server.address]);
        if let Some(typed) = typed {
            command = command.stdin(typed);
            command.env.stdin_is_terminal = true;
        }
        let done = command.run(line).await;
        assert_eq!((done.code, done.out, done.err), expected, "{line}, {typed:?}");
    }
    let calls = fake.state().calls.clone();
    assert_eq!(
        calls.iter().filter(|c| c.starts_with("confirm-off n1")).count(),
        3,
        "{calls:?}"
    );
}
