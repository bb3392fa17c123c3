//! The systemd units of `deploy/systemd`: each path, flag and variable in them is one that the programs know, systemd
//! takes them as they are, and the agent works with the rights that its unit leaves it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{Cluster, cluster::controller, program};

const UNITS: [&str; 2] = ["wharf-agent", "wharf-coordinator"];

fn file(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    root.join("deploy/systemd").join(name)
}

/// Settings by name, in order, of all sections together: no name is in two of them.
fn unit(name: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(file(&format!("{name}.service"))).expect("a unit");
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|l| !l.starts_with(['#', '[']) && !l.is_empty()) {
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
        settings.entry(key.to_owned()).or_default().push(value.to_owned());
    }
    settings
}

fn one<'a>(unit: &'a BTreeMap<String, Vec<String>>, key: &str) -> &'a str {
    match unit.get(key).map(Vec::as_slice) {
        Some([value]) => value,
        other => panic!("{key}: {other:?}"),
    }
}

#[test]
fn each_command_line_is_one_that_its_program_knows() {
    for name in UNITS {
        let unit = unit(name);
        let line: Vec<&str> = one(&unit, "ExecStart").split(' ').collect();
        assert_eq!((line[0], line[1]), (&*format!("/usr/local/bin/{name}"), "run"));
        let help = program::run(Command::new(program::path(name)).args(["run", "--help"])).ok();
        for pair in line[2..].chunks(2) {
            let [flag, value] = pair else {
                panic!("{name}: {pair:?} is no flag with its value")
            };
            let known = help
                .lines()
                .any(|l| l.trim_start().split([' ', ',', '=']).any(|w| w == *flag));
            assert!(flag.starts_with("--") && known, "{name}: {flag} is not in its help");
            assert!(!value.starts_with("--"), "{name}: {flag} {value}");
        }
        let state = format!("/var/lib/{}", one(&unit, "StateDirectory"));
        let at = line.iter().position(|w| *w == "--data-dir").expect("a data directory");
        assert_eq!(line[at + 1], state, "{name}: the data directory is the unit's own");
    }
}

#[test]
fn what_keeps_hosts_safe_and_alive_is_set() {
    for name in UNITS {
        let unit = unit(name);
        for (key, value) in [
            ("Restart", "always"),
            ("LimitCORE", "0"),
            ("StateDirectoryMode", "0700"),
            ("UMask", "0077"),
            ("NoNewPrivileges", "yes"),
            ("StartLimitIntervalSec", "0"),
            ("RestartPreventExitStatus", "2"),
        ] {
            assert_eq!(one(&unit, key), value, "{name}: {key}");
        }
    }
    let agent = unit("wharf-agent");
    assert_eq!(one(&agent, "KillMode"), "process");
    // Each of these would hide or freeze a path that a pod may mount, or what the agent reads of its host.
    for hides in [
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "ProcSubset",
        "User",
    ] {
        assert!(!agent.contains_key(hides), "{hides}");
    }
}

#[test]
fn systemd_takes_the_units() {
    let Ok(found) = Command::new("systemd-analyze").arg("--version").output() else {
        println!("systemd-analyze is not on this machine: the units are only parsed");
        return;
    };
    assert!(found.status.success());
    let dir = tempfile::tempdir().expect("a directory");
    for name in UNITS {
        let text = fs::read_to_string(file(&format!("{name}.service"))).expect("a unit");
        // The programs are not installed here.
        let here = program::path(name);
        let text = text.replace(&format!("/usr/local/bin/{name}"), here.to_str().expect("UTF-8"));
        let copy = dir.path().join(format!("{name}.service"));
        fs::write(&copy, text).expect("written");
        let out = program::run(Command::new("systemd-analyze").arg("verify").arg(&copy));
        let told: Vec<&str> = out.stderr.lines().filter(|l| l.contains(name)).collect();
        assert!(out.code == 0 && told.is_empty(), "{name}: {told:?}");
    }
}

#[test]
fn the_agent_works_with_the_rights_that_its_unit_leaves_it() {
    if Command::new("setpriv").arg("--version").output().is_err() || !nix::unistd::geteuid().is_root() {
        println!("needs setpriv and root: not shown here");
        return;
    }
    let unit = unit("wharf-agent");
    let kept = one(&unit, "CapabilityBoundingSet").split(' ');
    let kept: String = kept.map(|c| c.replace("CAP_", ",+").to_lowercase()).collect();
    let cluster = Cluster::start();
    let token = cluster.token(&[]);
    let args = cluster.agent_args("n1", Some(&token));
    let log = cluster.dir().join("n1.log");
    let output = fs::File::create(&log).expect("a log");
    let mut agent = Command::new("setpriv")
        .args(["--no-new-privs", "--inh-caps=-all"])
        .arg(format!("--bounding-set=-all{kept}"))
        .arg("--")
        .arg(program::path("wharf-agent"))
        .args(args)
        .stdout(output.try_clone().expect("a log"))
        .stderr(output)
        .spawn()
        .expect("starts");
    let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        cluster.node_ready("n1");
        let made = cluster.dir().join("made-by-the-agent");
        let mut web = controller("web", 1, &["serve"]);
        let spec = &mut web["spec"]["template"]["spec"];
        spec["volumes"] = serde_json::json!([
            {"name": "host", "hostPath": {"path": made, "type": "DirectoryOrCreate"}},
            {"name": "own", "emptyDir": {}},
        ]);
        spec["containers"][0]["volumeMounts"] = serde_json::json!([
            {"name": "host", "mountPath": "/host"},
            {"name": "own", "mountPath": "/own"},
        ]);
        cluster.create(&web).ok();
        cluster.settled(1);
        assert!(made.is_dir());
        cluster.wharf(&["delete", "rc", "web"]).ok();
        cluster.settled(0);
    }));
    // Our own child, not waited for yet: its pid is still its own.
    agent.kill().expect("killed");
    agent.wait().expect("ended");
    if let Err(failed) = shown {
        println!("{}", fs::read_to_string(&log).unwrap_or_default());
        std::panic::resume_unwind(failed);
    }
}
