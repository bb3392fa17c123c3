//! Canaries: tokens, keys and the cluster's secret are in no log at the finest level, on no command line, and not
//! in the store; and no core would hold them.

use std::{fs, path::Path, process::Command};

use harness::{Cluster, Options, eventually, program};

fn pem_lines(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.replace("\\n", "\n").lines() {
        let line = line.trim();
        if line.contains("PRIVATE KEY") {
            inside = line.contains("BEGIN");
        } else if inside && line.len() > 20 {
            lines.push(line.to_owned());
        }
    }
    assert!(!lines.is_empty(), "no key in {text:.40}");
    lines
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn secrets_are_nowhere_but_in_their_files() {
    let mut cluster = Cluster::with(Options {
        env: vec![("WHARF_LOG".into(), "trace".into())],
        ..Options::default()
    });
    let made = program::run(
        Command::new(program::path("wharf"))
            .args(["token", "create", "-q"])
            .env("WHARF_LOG", "trace")
            .env("WHARF_CONFIG", cluster.data_dir().join("admin.yaml")),
    );
    let token = made.stdout.trim().to_owned();
    assert!(token.starts_with("wharf1.agent."), "{made:?}");
    cluster.spawn_agent("n1", Some(&token));
    cluster.node_ready("n1");

    // Each secret as its file has it.
    let data = cluster.data_dir();
    let secret = token.split('.').nth(3).expect("a secret").to_owned();
    let cluster_key = fs::read(data.join("cluster.key")).expect("cluster.key");
    let mut canaries = vec![secret, token.clone(), hex(&cluster_key)];
    canaries.extend(pem_lines(&read(&data.join("ca/intermediate.key"))));
    canaries.extend(pem_lines(&read(&data.join("admin.yaml"))));
    canaries.extend(pem_lines(&read(
        &cluster.agent_dir("n1").join("identity/identity.json"),
    )));

    // A passphrase goes to the coordinator; what it seals is not in the backup otherwise.
    let words = "correct-horse-battery-staple";
    let (file, pass) = (cluster.dir().join("fleet.backup"), cluster.dir().join("pass.txt"));
    fs::write(&pass, words).expect("written");
    let backup = program::run(
        Command::new(program::path("wharf"))
            .args(["cluster", "backup", "--with-keys"])
            .arg(&file)
            .arg("--passphrase-file")
            .arg(&pass)
            .env("WHARF_LOG", "trace")
            .env("WHARF_CONFIG", data.join("admin.yaml")),
    );
    assert_eq!(backup.code, 0, "{}", backup.stderr);
    canaries.push(words.to_owned());

    let pids = [cluster.coordinator().pid(), cluster.agent("n1").pid()];
    let places = [
        ("the coordinator's log", cluster.coordinator_log().into_bytes()),
        ("the agent's log", cluster.agent_log("n1").into_bytes()),
        ("the command's log", [made.stderr, backup.stderr].concat().into_bytes()),
        (
            "the coordinator's arguments",
            fs::read(format!("/proc/{}/cmdline", pids[0])).expect("cmdline"),
        ),
        (
            "the agent's arguments",
            fs::read(format!("/proc/{}/cmdline", pids[1])).expect("cmdline"),
        ),
        ("the store", fs::read(data.join("store.db")).expect("store")),
        ("the store's log", fs::read(data.join("store.db-wal")).expect("log")),
        ("the backup", fs::read(&file).expect("backup")),
    ];
    assert!(
        places[0].1.len() > 10_000 && places[1].1.len() > 10_000,
        "the logs are at their finest"
    );
    assert!(contains(&places[6].1, b"\"mac\""), "the token's record is in the store");
    for (place, bytes) in &places {
        for canary in &canaries {
            assert!(!contains(bytes, canary.as_bytes()), "{place} holds {canary:.12}…");
        }
        assert!(!contains(bytes, &cluster_key), "{place} holds the cluster's secret");
    }
    for pid in pids {
        let limits = read(Path::new(&format!("/proc/{pid}/limits")));
        let core = limits
            .lines()
            .find(|l| l.starts_with("Max core file size"))
            .expect("a line");
        let words: Vec<&str> = core.split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{core}");
    }
}

#[test]
fn a_token_on_the_command_line_is_taken_with_a_warning_and_not_echoed() {
    let mut cluster = Cluster::start();
    let token = cluster.token(&[]);
    cluster.spawn_agent_with("n1", &["--token", &token]);
    cluster.node_ready("n1");
    eventually("it warns", || {
        let log = cluster.agent_log("n1");
        if log.contains("--token-file") && log.contains("can be seen by others") {
            Ok(())
        } else {
            Err(log)
        }
    });
    assert!(
        !cluster
            .agent_log("n1")
            .contains(token.split('.').nth(3).expect("a secret"))
    );
    // It has no children to pass it on to, and does not need it again.
    let pid = cluster.agent("n1").pid();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    assert_eq!(children.trim(), "");
}
