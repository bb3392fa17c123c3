//! Precedence, defaults and refusals.

use super::*;
use crate::store::etcd::{EtcdOptions, TlsFiles};

fn args(line: &str) -> RunArgs {
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let Command::Run(args) = cli.command else {
        panic!("not run: {line}")
    };
    *args
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn refused(line: &str) -> String {
    let refused = args(line).load().unwrap_err().to_string();
    assert!(!refused.contains('\n'), "{refused}");
    refused
}

#[test]
fn defaults_are_the_designs() {
    let config = args("wharf-coordinator run --data-dir D").load().unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:7443");
    assert_eq!(config.enrol.to_string(), "0.0.0.0:7444");
    assert_eq!(config.http.to_string(), "127.0.0.1:7445");
    assert_eq!(config.sessions.heartbeat, Duration::from_secs(2));
    assert_eq!(
        (config.sessions.missed, config.sessions.agent_down),
        (3, Duration::from_secs(2))
    );
    assert_eq!(config.advertise, None);
}

#[test]
fn a_flag_beats_the_file_and_the_file_the_default() {
    let file = file("data-dir = 'D'\nlisten = '127.0.0.1:9000'\nheartbeat-ms = 100\nadvertise = 'c1:9000'\n");
    let config = args(&format!(
        "wharf-coordinator run --config {} --heartbeat-ms 50",
        file.path().display()
    ))
    .load()
    .unwrap();
    assert_eq!(config.sessions.heartbeat, Duration::from_millis(50));
    assert_eq!(config.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.enrol.to_string(), "127.0.0.1:9001");
    assert_eq!(config.sessions.coordinators, ["c1:9000"]);
    assert_eq!(config.data_dir, PathBuf::from("D"));
}

#[test]
fn every_setting_has_its_variable_and_its_key() {
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    for arg in run.get_arguments() {
        let long = arg.get_long().unwrap();
        if ["help", "check-config"].contains(&long) {
            continue;
        }
        let variable = arg.get_env().unwrap_or_else(|| panic!("--{long} has no variable"));
        let expected = if long == "config" {
            "WHARF_COORDINATOR_CONFIG".to_owned()
        } else {
            format!("WHARF_{}", long.to_uppercase().replace('-', "_"))
        };
        assert_eq!(variable.to_str(), Some(expected.as_str()));
    }
    let all = "data-dir='d'\nlisten='1.1.1.1:1'\nenrol='1.1.1.1:2'\nhttp='1.1.1.1:3'\nadvertise='a:1'\nstore='etcd'\netcd-endpoints=['https://e:1']\netcd-ca='c'\netcd-cert='c'\netcd-key='k'\netcd-prefix='/p/'\n";
    let mut text = all.to_owned();
    for key in known() {
        if key.starts_with("lead-") {
            // Those must fit each other; any one alone is read.
            assert!(parse(&format!("{key}=1000\n")).is_ok(), "{key}");
        } else if !all.contains(&format!("{key}=")) {
            // Of pipes a node has few.
            let value = if key == "max-node-pipes" { 50 } else { 1000 };
            text += &format!("{key}={value}\n");
        }
    }
    let options = parse(&text).unwrap();
    assert!(Config::new(options).is_ok());
}

#[test]
fn what_is_wrong_is_named() {
    for (text, words) in [
        ("hartbeat-ms = 5", vec!["\"hartbeat-ms\"", "did you mean heartbeat-ms?"]),
        ("qqq = 5", vec!["\"qqq\"", "known are", "data-dir"]),
        ("\nheartbeat-ms = 'x'", vec!["line 2"]),
        ("heartbeat-ms = ", vec!["line 1"]),
        ("listen = 'nowhere'", vec!["line 1"]),
    ] {
        let file = file(text);
        let said = refused(&format!(
            "wharf-coordinator run --data-dir D --config {}",
            file.path().display()
        ));
        assert!(said.contains(&file.path().display().to_string()), "{said}");
        for word in words {
            assert!(said.contains(word), "{said}");
        }
    }
    for (flags, word) in [
        ("", "data-dir is not set"),
        ("--data-dir D --config /nonexistent/f", "/nonexistent/f"),
        ("--data-dir D --heartbeat-ms 0", "heartbeat-ms is 0"),
        ("--data-dir D --missed-heartbeats 0", "missed-heartbeats is 0"),
        ("--data-dir D --max-sessions 0", "max-sessions is 0"),
        ("--data-dir D --advertise nohost", "advertise is \"nohost\""),
        ("--data-dir D --advertise h:0", "advertise"),
        (
            "--data-dir D --listen 127.0.0.1:7445",
            "http and listen are both 127.0.0.1:7445",
        ),
        ("--data-dir D --listen 127.0.0.1:65535", "set enrol"),
    ] {
        let said = refused(&format!("wharf-coordinator run {flags}"));
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn help_ends_in_examples() {
    let mut cli = Cli::command();
    for help in [
        cli.render_long_help().to_string(),
        cli.find_subcommand_mut("run").unwrap().render_long_help().to_string(),
        cli.find_subcommand_mut("join").unwrap().render_long_help().to_string(),
        cli.find_subcommand_mut("restore")
            .unwrap()
            .render_long_help()
            .to_string(),
        cli.find_subcommand_mut("migrate")
            .unwrap()
            .render_long_help()
            .to_string(),
    ] {
        let (_, examples) = help.split_once("Examples:\n").expect("no examples");
        assert_eq!(examples.trim_end().lines().count(), 2, "{help}");
        for line in examples.trim_end().lines() {
            let words = line.split_whitespace().skip_while(|w| w.contains('='));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}

#[test]
fn times_of_the_contest_that_cannot_work_are_refused_by_name() {
    let with = |options: Options| {
        let data_dir = Some("/d".into());
        Config::new(Options { data_dir, ..options })
    };
    let config = with(Options {
        lead_gone_ms: Some(400),
        ..Options::default()
    });
    assert_eq!(config.unwrap().leader.gone, Duration::from_millis(400));
    let refused = with(Options {
        lead_gone_ms: Some(100),
        ..Options::default()
    });
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("lead-gone (100 ms) must be more than beat (100 ms)"),
        "{refused}"
    );
}

fn etcd(line: &str) -> EtcdOptions {
    let config = args(&format!("wharf-coordinator run --data-dir D --store etcd {line}")).load();
    match config.unwrap().store {
        StoreConfig::Etcd(etcd) => *etcd,
        StoreConfig::Sqlite => panic!("sqlite"),
    }
}

#[test]
fn etcd_is_named_by_its_members() {
    let plain = etcd("--etcd-endpoints http://a:2379/,http://b:2379 --etcd-compact-ms 1000");
    assert_eq!(plain.endpoints, ["http://a:2379", "http://b:2379"]);
    assert_eq!((plain.tls, plain.prefix.as_str()), (None, "/wharfinger/"));
    assert_eq!(plain.compact_every, Duration::from_secs(1));
    let secure =
        etcd("--etcd-endpoints https://a:2379 --etcd-ca ca.pem --etcd-cert c.pem --etcd-key c.key --etcd-prefix /blue");
    let tls = TlsFiles {
        ca: "ca.pem".into(),
        identity: Some(("c.pem".into(), "c.key".into())),
    };
    assert_eq!((secure.tls, secure.prefix.as_str()), (Some(tls), "/blue/"));
    for (urls, expected) in [
        ("'http://a:2379'", vec!["http://a:2379"]),
        (
            "['http://a:2379', 'http://b:2379']",
            vec!["http://a:2379", "http://b:2379"],
        ),
    ] {
        let file = file(&format!("data-dir = 'D'\nstore = 'etcd'\netcd-endpoints = {urls}\n"));
        let config = args(&format!("wharf-coordinator run --config {}", file.path().display())).load();
        let StoreConfig::Etcd(etcd) = config.unwrap().store else {
            panic!("sqlite")
        };
        assert_eq!(etcd.endpoints, expected);
        // What init takes from the same file.
        let init = Cli::try_parse_from(
            ["wharf-coordinator", "init", "--data-dir", "D", "--config"]
                .into_iter()
                .chain(file.path().to_str()),
        );
        let Command::Init(init) = init.unwrap().command else {
            panic!("init")
        };
        let StoreConfig::Etcd(etcd) = init.with_file().unwrap().store.load().unwrap() else {
            panic!("sqlite")
        };
        assert_eq!(etcd.endpoints, expected);
    }
}

#[test]
fn etcd_settings_that_do_not_fit_are_refused_by_name() {
    for (line, words) in [
        ("--store etcd", "etcd-endpoints is not set"),
        ("--store etcd --etcd-endpoints ,", "etcd-endpoints is not set"),
        (
            "--etcd-endpoints http://a:2379",
            "etcd-endpoints is set and the store is sqlite",
        ),
        ("--store etcd --etcd-endpoints a:2379", "etcd-endpoints has \"a:2379\""),
        (
            "--store etcd --etcd-endpoints http://a",
            "etcd-endpoints has \"http://a\"",
        ),
        (
            "--store etcd --etcd-endpoints http://a:2379/x",
            "etcd-endpoints has \"http://a:2379/x\"",
        ),
        (
            "--store etcd --etcd-endpoints http://a:1,http://a:1",
            "names http://a:1 twice",
        ),
        (
            "--store etcd --etcd-endpoints http://a:1,https://b:1",
            "has http and https",
        ),
        ("--store etcd --etcd-endpoints https://a:1", "etcd-ca is not set"),
        (
            "--store etcd --etcd-endpoints https://a:1 --etcd-ca f --etcd-cert g",
            "etcd-key is not set",
        ),
        (
            "--store etcd --etcd-endpoints https://a:1 --etcd-ca f --etcd-key g",
            "etcd-cert is not set",
        ),
        (
            "--store etcd --etcd-endpoints http://a:1 --etcd-ca f",
            "etcd-endpoints has http, and certificates are set",
        ),
        (
            "--store etcd --etcd-endpoints http://a:1 --etcd-prefix w/",
            "etcd-prefix is \"w/\"",
        ),
        (
            "--store etcd --etcd-endpoints http://a:1 --etcd-compact-ms 0",
            "etcd-compact-ms is 0",
        ),
    ] {
        let refused = refused(&format!("wharf-coordinator run --data-dir D {line}"));
        assert!(refused.contains(words), "{line}: {refused}");
    }
}
