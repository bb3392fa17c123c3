//! Joining: tokens that are wrong, expired, spent, revoked or tampered with; a wrong CA; many at once.

use std::time::Duration;

use harness::{Cluster, Options, cluster::controller, eventually, eventually_within};

fn node_names(cluster: &Cluster) -> Vec<String> {
    cluster
        .items("nodes")
        .iter()
        .filter_map(|n| n["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

/// Changes one character of the secret and mends the checksum, as someone who guesses would.
fn forged(token: &str) -> String {
    let (body, _) = token.rsplit_once('.').expect("a checksum");
    let mut parts: Vec<String> = body.split('.').map(str::to_owned).collect();
    let first = if parts[3].starts_with('A') { "B" } else { "A" };
    parts[3].replace_range(0..1, first);
    let body = parts.join(".");
    let crc = crc32(body.as_bytes());
    format!("{body}.{crc:08x}")
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| {
            if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 }
        })
    })
}

#[test]
fn bad_tokens_get_one_clear_line_and_change_nothing() {
    let mut cluster = Cluster::start();
    let good = cluster.token(&[]);
    let refused = "the join token was refused";
    let untouched = cluster.json(&["token", "list"]);

    let mut tampered = good.clone();
    tampered.replace_range(20..21, if &good[20..21] == "x" { "y" } else { "x" });
    for (token, words) in [
        ("hello", "not a join token"),
        (tampered.as_str(), "damaged"),
        (&forged(&good), refused),
    ] {
        let line = cluster.run_agent("bad", token).refused(1);
        assert!(line.contains(words), "{words}: {line}");
        assert!(!line.contains(&good[60..80]), "the token is not echoed: {line}");
    }
    assert_eq!(cluster.json(&["token", "list"]), untouched, "no use was counted");

    let expired = cluster.token(&["--ttl", "1s"]);
    let made = std::time::Instant::now();
    eventually("the token expires", || {
        if made.elapsed() > Duration::from_millis(2100) {
            Ok(())
        } else {
            Err(String::new())
        }
    });
    assert!(cluster.run_agent("expired", &expired).refused(1).contains(refused));

    let revoked = cluster.token(&[]);
    let id = revoked.split('.').nth(2).expect("an id");
    cluster.wharf(&["token", "revoke", id]).ok();
    assert!(cluster.run_agent("revoked", &revoked).refused(1).contains(refused));

    let spent = cluster.token(&["--uses", "1"]);
    cluster.spawn_agent("first", Some(&spent));
    cluster.node_ready("first");
    assert!(cluster.run_agent("second", &spent).refused(1).contains(refused));
    assert_eq!(node_names(&cluster), ["first"]);

    // A token of another cluster pins another root: nothing is sent, nothing changes here.
    let other = Cluster::start();
    let foreign = other.token(&[]);
    let line = cluster.run_agent("foreign", &foreign).refused(1);
    assert!(
        line.contains("not a coordinator of the token's cluster") && line.contains("nothing was sent"),
        "{line}"
    );
    assert_eq!(node_names(&cluster), ["first"]);

    // What was only guessed at is as good as new.
    cluster.spawn_agent("last", Some(&good));
    cluster.node_ready("last");
}

#[test]
fn an_agent_waits_for_a_coordinator_that_is_not_there() {
    let mut cluster = Cluster::start();
    let token = cluster.token(&[]);
    cluster.kill_coordinator();
    let begun = std::time::Instant::now();
    cluster.spawn_agent("early", Some(&token));
    let pauses = eventually("it says three times for how long it waits", || {
        let log = cluster.agent_log("early");
        let pauses: Vec<u64> = log
            .lines()
            .filter(|l| l.contains("cannot join yet") && l.contains("127.0.0.1"))
            .filter_map(|l| l.split_once("next attempt in ")?.1.split(' ').next()?.parse().ok())
            .collect();
        if pauses.len() >= 3 { Ok(pauses) } else { Err(log) }
    });
    // 500 ms, doubling, each ±50 %.
    assert!(pauses[0] >= 250 && pauses[1] >= 500 && pauses[2] >= 1000, "{pauses:?}");
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_millis(pauses[0] + pauses[1]),
        "{waited:?} {pauses:?}"
    );
    cluster.start_coordinator();
    cluster.node_ready("early");
}

#[test]
fn fifty_agents_join_at_once_with_one_token_and_no_more() {
    let mut cluster = Cluster::start();
    let token = cluster.token(&["--uses", "50"]);
    let names: Vec<String> = (1..=50).map(|i| format!("n{i}")).collect();
    for name in &names {
        cluster.spawn_agent(name, Some(&token));
    }
    eventually_within(Duration::from_secs(120), "50 nodes Ready", || {
        let ready = cluster
            .items("nodes")
            .iter()
            .filter(|n| n.to_string().contains("AgentReady"))
            .count();
        if ready == 50 {
            Ok(())
        } else {
            Err(format!("{ready} Ready"))
        }
    });
    let line = cluster.run_agent("n51", &token).refused(1);
    assert!(line.contains("the join token was refused"), "{line}");
    assert_eq!(node_names(&cluster).len(), 50);
}

#[test]
fn certificates_are_renewed_under_running_pods() {
    // Renewed at a third of its life: every two seconds here.
    let mut cluster = Cluster::with(Options {
        coordinator: "agent-certificate-ms = 6000\n".to_owned(),
        ..Options::default()
    });
    cluster.join(&["n1"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let before = cluster.running();
    let since = cluster.items("nodes")[0]["status"]["conditions"][0]["lastTransitionTime"].clone();
    let mut seen = std::collections::BTreeSet::new();
    eventually("three renewals", || {
        let identity = cluster.agent_dir("n1").join("identity/identity.json");
        let text = std::fs::read_to_string(identity).map_err(|e| e.to_string())?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        seen.insert(json["certificate"].to_string());
        if seen.len() > 3 {
            Ok(())
        } else {
            Err(format!("{} certificates", seen.len()))
        }
    });
    cluster.node_ready("n1");
    // Longer than any of the first certificates lived, the agent is still believed.
    assert_eq!(
        cluster.wharf(&["scale", "rc", "web", "--replicas=3"]).ok().trim(),
        "replicationcontroller/web scaled"
    );
    cluster.settled(3);
    let after = cluster.running();
    for old in &before {
        assert!(after.contains(old), "{old:?} was restarted");
    }
    let node = &cluster.items("nodes")[0];
    assert_eq!(
        node["status"]["conditions"][0]["lastTransitionTime"], since,
        "the node was Ready all the time"
    );
}
