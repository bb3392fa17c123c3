//! What is made, kept and refused, on real directories; that etcd starts on it is shown by `tests/tests/operate`.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

use proptest::prelude::*;

use super::*;
use crate::config::{Cli, Command};

const NOW: u64 = 1_800_000_000_000;

fn args(out: &Path, line: &str) -> EtcdConfigArgs {
    let out = out.display().to_string();
    let words = ["wharf-coordinator", "etcd-config", "--out", &out];
    let words = words.into_iter().chain(line.split_whitespace());
    match <Cli as clap::Parser>::try_parse_from(words)
        .expect("a command line")
        .command
    {
        Command::EtcdConfig(args) => args,
        other => panic!("{other:?}"),
    }
}

fn made(out: &Path, line: &str) -> EtcdConfigReport {
    run(&args(out, line), NOW).unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn refused(out: &Path, line: &str) -> String {
    let before = tree(out);
    let refused = run(&args(out, line), NOW).expect_err(line).to_string();
    assert!(!refused.contains('\n'), "{refused}");
    assert_eq!(tree(out), before, "{line} left something");
    refused
}

/// Every file below a directory.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("below").display().to_string();
                found.insert(name, std::fs::read(&path).expect("read"));
            }
        }
    }
    found
}

fn env(out: &Path, member: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(out.join(member).join("etcd.env")).expect("etcd.env");
    text.lines()
        .filter(|l| !l.starts_with('#'))
        .map(|l| l.split_once('=').expect("NAME=VALUE"))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

const THREE: &str = "--member etcd1=10.0.0.1 --member etcd2=10.0.0.2 --member etcd3=10.0.0.3";

#[test]
fn three_hosts_get_all_that_etcd_needs() {
    let parent = tempfile::tempdir().unwrap();
    let out = parent.path().join("new/etcd");
    let report = made(&out, &format!("{THREE} --token t1"));
    assert_eq!(report.warnings, Vec::<String>::new());
    assert!(
        report.done.last().unwrap().starts_with("next: start etcd on all"),
        "{report:?}"
    );
    let names: Vec<String> = tree(&out).into_keys().collect();
    let mut expected = vec!["ca/ca.crt", "ca/ca.key", "ca/members.json"];
    expected.extend(["coordinator/ca.crt", "coordinator/client.crt", "coordinator/client.key"]);
    expected.push("coordinator/coordinator.toml");
    let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
    for member in ["etcd1", "etcd2", "etcd3"] {
        for file in ["ca.crt", "etcd.env", "peer.crt", "peer.key", "server.crt", "server.key"] {
            expected.push(format!("{member}/{file}"));
        }
    }
    assert_eq!(names, expected);
    for name in &names {
        let mode = std::fs::metadata(out.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o700);
    let cluster = "etcd1=https://10.0.0.1:2380,etcd2=https://10.0.0.2:2380,etcd3=https://10.0.0.3:2380";
    let env = env(&out, "etcd2");
    for (name, value) in [
        ("NAME", "etcd2"),
        ("DATA_DIR", "/var/lib/etcd/etcd2"),
        ("LISTEN_PEER_URLS", "https://10.0.0.2:2380"),
        ("LISTEN_CLIENT_URLS", "https://10.0.0.2:2379"),
        ("INITIAL_ADVERTISE_PEER_URLS", "https://10.0.0.2:2380"),
        ("ADVERTISE_CLIENT_URLS", "https://10.0.0.2:2379"),
        ("INITIAL_CLUSTER", cluster),
        ("INITIAL_CLUSTER_STATE", "new"),
        ("INITIAL_CLUSTER_TOKEN", "t1"),
        ("CERT_FILE", "/etc/wharf/etcd/server.crt"),
        ("CLIENT_CERT_AUTH", "true"),
        ("PEER_CLIENT_CERT_AUTH", "true"),
        ("HEARTBEAT_INTERVAL", "50"),
        ("ELECTION_TIMEOUT", "500"),
        ("PRE_VOTE", "true"),
        ("AUTO_COMPACTION_RETENTION", "0"),
    ] {
        assert_eq!(env[&format!("ETCD_{name}")], value);
    }
    let toml: toml::Table = std::fs::read_to_string(out.join("coordinator/coordinator.toml"))
        .unwrap()
        .parse()
        .expect("TOML");
    assert_eq!(toml["store"].as_str(), Some("etcd"));
    assert_eq!(toml["etcd-endpoints"].as_array().map(Vec::len), Some(3));
    assert_eq!(toml["etcd-key"].as_str(), Some("/etc/wharf/etcd/client.key"));
}

#[test]
fn each_certificate_is_for_its_purpose_and_host() {
    let out = tempfile::tempdir().unwrap();
    made(
        out.path(),
        "--member a=fd00::1 --member b=etcd-b.example --member c=127.0.0.3 --days 10",
    );
    let certificate = |name: &str| {
        let text = std::fs::read(out.path().join(name)).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text).unwrap();
        pem
    };
    for (file, name, server, sans) in [
        ("a/server.crt", "a", true, 1),
        ("a/peer.crt", "wharf-etcd-peer", true, 1),
        ("b/server.crt", "b", true, 1),
        ("c/peer.crt", "wharf-etcd-peer", true, 2),
        ("coordinator/client.crt", "wharf-coordinator", false, 0),
    ] {
        let pem = certificate(file);
        let parsed = pem.parse_x509().unwrap();
        let common = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap();
        assert_eq!(common, name, "{file}");
        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth, "{file}");
        assert_eq!(usage.server_auth, server, "{file}");
        assert!(!parsed.is_ca());
        let names = parsed
            .subject_alternative_name()
            .unwrap()
            .map_or(0, |s| s.value.general_names.len());
        assert_eq!(names, sans, "{file}");
        let life = parsed.validity().not_after.timestamp() - i64::try_from(NOW / 1000).unwrap();
        assert_eq!(life, 10 * 24 * 3600, "{file}");
        let ca = certificate("ca/ca.crt");
        parsed
            .verify_signature(Some(ca.parse_x509().unwrap().public_key()))
            .expect("signed by the authority");
    }
    let b = env(out.path(), "b");
    assert_eq!(b["ETCD_LISTEN_PEER_URLS"], "https://0.0.0.0:2380");
    assert_eq!(b["ETCD_ADVERTISE_CLIENT_URLS"], "https://etcd-b.example:2379");
    assert!(
        b["ETCD_INITIAL_CLUSTER"].starts_with("a=https://[fd00::1]:2380,"),
        "{b:?}"
    );
}

#[test]
fn a_later_run_adds_one_member_and_touches_no_other() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path();
    made(out, THREE);
    let before = tree(out);
    let report = made(out, "--member etcd4=10.0.0.4");
    let after = tree(out);
    for (name, text) in &before {
        let derived = ["ca/members.json", "coordinator/coordinator.toml"].contains(&name.as_str());
        assert_eq!(after[name] == *text, !derived, "{name}");
    }
    let fourth = env(out, "etcd4");
    assert_eq!(fourth["ETCD_INITIAL_CLUSTER_STATE"], "existing");
    assert_eq!(fourth["ETCD_INITIAL_CLUSTER"].matches("https://").count(), 4);
    assert_eq!(
        fourth["ETCD_INITIAL_CLUSTER_TOKEN"],
        env(out, "etcd1")["ETCD_INITIAL_CLUSTER_TOKEN"]
    );
    assert!(
        report.warnings[0].starts_with("4 members bear the loss of 1, as 3 do"),
        "{report:?}"
    );
    assert!(
        report
            .done
            .iter()
            .any(|l| l.contains("etcd4=https://10.0.0.4:2380 (member add)"))
    );
    // The same again changes nothing at all.
    made(out, "--member etcd4=10.0.0.4");
    assert_eq!(tree(out), after);
    // One that is gone is named no more; its files stay for whoever looks.
    made(out, "--member etcd5=10.0.0.5 --gone etcd2");
    let fifth = env(out, "etcd5")["ETCD_INITIAL_CLUSTER"].clone();
    assert!(
        !fifth.contains("etcd2") && fifth.matches("https://").count() == 4,
        "{fifth}"
    );
    assert!(out.join("etcd2").exists());
}

#[test]
fn force_makes_files_anew_and_keeps_the_authority() {
    let out = tempfile::tempdir().unwrap();
    let out = out.path();
    made(out, THREE);
    let before = tree(out);
    made(out, "--member etcd2=10.0.0.9 --force");
    let after = tree(out);
    assert_eq!(env(out, "etcd2")["ETCD_INITIAL_CLUSTER_STATE"], "existing");
    assert_eq!(env(out, "etcd2")["ETCD_NAME"], "etcd2");
    assert_eq!(after["ca/ca.key"], before["ca/ca.key"]);
    assert_eq!(after["etcd1/peer.key"], before["etcd1/peer.key"]);
    assert_ne!(after["etcd2/peer.key"], before["etcd2/peer.key"]);
    // All of them: the set-up from its beginning, other ports and token too.
    made(out, &format!("{THREE} --force --token t2 --peer-port 3380"));
    assert_eq!(env(out, "etcd3")["ETCD_INITIAL_CLUSTER_STATE"], "new");
    assert_eq!(env(out, "etcd3")["ETCD_INITIAL_CLUSTER_TOKEN"], "t2");
    assert_eq!(env(out, "etcd2")["ETCD_LISTEN_PEER_URLS"], "https://10.0.0.2:3380");
    assert_eq!(tree(out)["ca/ca.key"], before["ca/ca.key"]);
}

#[test]
fn what_cannot_be_is_refused_in_one_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let fresh = dir.path().join("fresh");
    for (line, words) in [
        ("--member etcd1", "is not NAME=ADDRESS"),
        ("--member =10.0.0.1", "must be a DNS label"),
        ("--member Etcd_1=10.0.0.1", "must be a DNS label"),
        ("--member ca=10.0.0.1", "another directory of --out"),
        ("--member a=10.0.0.300", "neither an IP address nor a host name"),
        ("--member a=", "neither an IP address nor a host name"),
        ("--member a=http://10.0.0.1", "is a URL"),
        ("--member a=10.0.0.1:2380", "has a port"),
        ("--member a=0.0.0.0", "no address of one host"),
        ("--member a=fe80::1%eth0", "has a zone"),
        ("--member a=10.0.0.1 --member a=10.0.0.2", "member a is named twice"),
        ("--member a=fd00::1 --member b=[fd00:0:0::1]", "have one address"),
        ("--member a=10.0.0.1 --client-port 2380", "are both 2380"),
        ("--member a=10.0.0.1 --token a/b", "--token"),
        ("--member a=10.0.0.1 --install-dir etcd", "absolute path"),
        ("--member a=10.0.0.1 --etcd-data-dir /a$b", "absolute path"),
        ("--member a=10.0.0.1 --gone b", "no earlier run is on record"),
    ] {
        let error = refused(&fresh, line);
        assert!(error.contains(words), "{line}: {error}");
        assert!(!fresh.exists(), "{line}");
    }
    let out = dir.path().join("out");
    made(&out, THREE);
    for (line, words) in [
        ("--member etcd2=10.0.0.9", "is on record as 10.0.0.2"),
        ("--member etcd4=10.0.0.2", "have one address"),
        ("--member e4=10.0.0.4 --member e5=10.0.0.5", "one new member at a time"),
        ("--member e4=10.0.0.4 --gone e9", "no member of that name"),
        ("--member e4=10.0.0.4 --gone e4", "no member of that name"),
        ("--member etcd2=10.0.0.2 --gone etcd2", "leave out one of them"),
        ("--member e4=10.0.0.4 --token other", "--token is other and was wharf-"),
        (
            "--member e4=10.0.0.4 --peer-port 2390",
            "--peer-port is 2390 and was 2380",
        ),
    ] {
        let error = refused(&out, line);
        assert!(error.contains(words), "{line}: {error}");
    }
    // A directory of somebody else's.
    let other = dir.path().join("other");
    std::fs::create_dir_all(other.join("etcd1")).unwrap();
    std::fs::write(other.join("etcd1/mine"), "x").unwrap();
    assert!(refused(&other, THREE).contains("etcd1 already exists"));
    // Its authority lost or swapped, an interrupted run, a path that is a file.
    let key = out.join("ca/ca.key");
    let text = std::fs::read(&key).unwrap();
    std::fs::write(&key, EtcdCa::generate("x", NOW).unwrap().key_pem()).unwrap();
    assert!(refused(&out, "--member e4=10.0.0.4").contains("do not belong together"));
    std::fs::write(&key, "x").unwrap();
    assert!(refused(&out, "--member e4=10.0.0.4").contains("ca.key"));
    std::fs::write(&key, text).unwrap();
    std::fs::write(out.join("ca/members.json"), "{").unwrap();
    assert!(refused(&out, "--member e4=10.0.0.4").contains("members.json: damaged"));
    std::fs::create_dir(other.join(STAGING)).unwrap();
    assert!(refused(&other, THREE).contains("one was interrupted"));
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(refused(&file, THREE).contains("file"));
}

#[test]
fn few_even_and_loopback_members_are_warned_of() {
    let parse = |text: &str| text.split(' ').map(|m| m.parse().unwrap()).collect::<Vec<Member>>();
    for (members, words) in [
        ("a=10.0.0.1", "one member"),
        ("a=10.0.0.1 b=10.0.0.2", "two members"),
        ("a=::1 b=10.0.0.2 c=10.0.0.3", "a on a loopback address"),
    ] {
        let said = member::warnings(&parse(members));
        assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
    }
    assert!(member::warnings(&parse("a=10.0.0.1 b=10.0.0.2 c=c.example")).is_empty());
}

#[test]
fn a_run_that_fails_half_way_puts_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    made(out, THREE);
    let before = tree(out);
    let mut staging = Staging::begin(out).unwrap();
    staging.write("etcd1", "x", "new").unwrap();
    staging.write("etcd9", "x", "new").unwrap();
    let failed = staging.place(|| Err(io::Error::other("no"))).unwrap_err();
    assert_eq!(failed.to_string(), "no");
    assert_eq!(tree(out), before);
    assert!(!out.join(STAGING).exists() && !out.join("etcd9").exists());
}

proptest! {
    #[test]
    fn any_text_is_a_member_or_a_line(text in "\\PC{0,40}") {
        match text.parse::<Member>() {
            Ok(member) => prop_assert_eq!(member.to_string().parse::<Member>(), Ok(member)),
            Err(what) => prop_assert!(!what.contains('\n') && what.len() < 400),
        }
    }

    #[test]
    fn addresses_of_hosts_are_members(ip: std::net::IpAddr) {
        let text = format!("a={ip}");
        let parsed = text.parse::<Member>();
        prop_assert_eq!(parsed.is_ok(), !ip.is_unspecified() && !ip.is_multicast());
    }
}
