//! Precedence and refusals of the options.

use super::*;

fn args(line: &str) -> RunArgs {
    match Cli::try_parse_from(line.split_whitespace()).expect("parses").command {
        Command::Run(args) => *args,
        Command::Status(_) | Command::Leave(_) => panic!("not a run"),
    }
}

fn no_env(_: &str) -> Option<String> {
    None
}

fn refused(result: Result<Options, AgentError>) -> String {
    match result {
        Err(AgentError::Usage(words)) => {
            assert!(!words.contains('\n'), "{words}");
            words
        }
        Err(other) => panic!("not a usage error: {other}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn flag_then_variable_then_file_then_default() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("agent.toml");
    fs::write(
        &file,
        "name = \"file\"\ncoordinators = [\"f:1\"]\ncapacity = \"cpu=1\"\n[settings]\nrelist_ms = 7\nready_after_ms = 8\n",
    )
    .expect("written");
    let run = format!("wharf-agent run --config {}", file.display());
    let env = |name: &str| match name {
        "WHARF_NAME" => Some("variable".to_owned()),
        "WHARF_COORDINATORS" => Some("v:1, w:2".to_owned()),
        "WHARF_RELIST_MS" => Some("9".to_owned()),
        "WHARF_SYNC_WRITES" => Some("false".to_owned()),
        _ => None,
    };
    let all = Options::load(args(&format!("{run} --name flag")), env).expect("accepted");
    assert_eq!(all.name.as_deref(), Some("flag"));
    assert_eq!(all.coordinators, ["v:1", "w:2"]);
    assert_eq!(all.capacity.as_deref(), Some("cpu=1"));
    assert_eq!((all.settings.relist_ms, all.settings.ready_after_ms), (9, 8));
    assert!(!all.settings.sync_writes);
    assert_eq!(all.data_dir, Path::new(DATA_DIR));
    assert_eq!(all.metrics_listen, Some(METRICS.into()));
    let file_only = Options::load(args(&run), no_env).expect("accepted");
    assert_eq!(file_only.name.as_deref(), Some("file"));
    assert_eq!(file_only.settings.gc_grace_ms, Settings::default().gc_grace_ms);
}

#[test]
fn of_an_option_given_twice_the_last_one_counts() {
    let line = "wharf-agent run --data-dir /a --coordinators h:1 --data-dir /b --name x --name y";
    let options = Options::load(args(line), no_env).expect("accepted");
    assert_eq!(options.data_dir, Path::new("/b"));
    assert_eq!(options.name.as_deref(), Some("y"));
}

#[test]
fn docker_s_configuration_is_where_docker_has_it() {
    let at = |flags: &str, env: fn(&str) -> Option<String>| {
        let options = Options::load(args(&format!("wharf-agent run {flags}")), env).expect("accepted");
        options.docker_config
    };
    assert_eq!(at("", no_env), Path::new("/root/.docker/config.json"));
    let theirs = |name: &str| (name == "DOCKER_CONFIG").then(|| "/etc/docker-auth".to_owned());
    assert_eq!(at("", theirs), Path::new("/etc/docker-auth/config.json"));
    assert_eq!(at("--docker-config /x.json", theirs), Path::new("/x.json"));
    let ours = |name: &str| (name == "WHARF_DOCKER_CONFIG").then(|| "/y.json".to_owned());
    assert_eq!(at("", ours), Path::new("/y.json"));
}

#[test]
fn a_token_file_is_read_only_when_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    let with_file = format!("wharf-agent run --token-file {}", path.display());
    let token_env = |name: &str| (name == "WHARF_TOKEN").then(|| "from-variable".to_owned());
    let options = Options::load(args(&with_file), token_env).expect("the file need not exist yet");
    assert!(options.read_token().is_err());
    fs::write(&path, "wharf1.x\n").expect("written");
    assert_eq!(
        options.read_token().expect("read").as_deref(),
        Some("wharf1.x"),
        "the flag wins"
    );
    let options = Options::load(args("wharf-agent run"), token_env).expect("accepted");
    assert_eq!(options.read_token().expect("given").as_deref(), Some("from-variable"));
    let options = Options::load(args("wharf-agent run"), no_env).expect("accepted");
    assert_eq!(options.read_token().expect("none"), None);
}

#[test]
fn what_is_refused_is_named() {
    let env = |name: &'static str, value: &'static str| move |asked: &str| (asked == name).then(|| value.to_owned());
    let load = |line: &str| Options::load(args(line), no_env);
    for (got, expected) in [
        (load("wharf-agent run --coordinators c1"), "--coordinators: \"c1\""),
        (load("wharf-agent run --coordinators c1:0"), "--coordinators: \"c1:0\""),
        (load("wharf-agent run --enrol :7444"), "--enrol"),
        (load("wharf-agent run --shared-host"), "--shared-host needs --capacity"),
        (
            load("wharf-agent run --metrics-listen 7447"),
            "--metrics-listen: \"7447\"",
        ),
        (load("wharf-agent run --config /nowhere"), "--config /nowhere"),
        (
            Options::load(args("wharf-agent run"), env("WHARF_RELIST_MS", "soon")),
            "WHARF_RELIST_MS: \"soon\"",
        ),
        (
            Options::load(args("wharf-agent run"), env("WHARF_RELIST_MS", "0")),
            "relist_ms: must be at least 1",
        ),
        (
            Options::load(args("wharf-agent run"), env("WHARF_SHARED_HOST", "maybe")),
            "WHARF_SHARED_HOST",
        ),
    ] {
        let words = refused(got);
        assert!(words.contains(expected), "{words}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("agent.toml");
    fs::write(&file, "name = \"n\"\n[settings]\nrelist = 7\n").expect("written");
    let words = refused(load(&format!("wharf-agent run --config {}", file.display())));
    assert!(words.contains("agent.toml:3") && words.contains("relist"), "{words}");
}

#[test]
fn metrics_are_off_on_a_shared_host_unless_asked_for() {
    let shared = "wharf-agent run --shared-host --capacity cpu=1";
    let listen = |line: &str| Options::load(args(line), no_env).expect("accepted").metrics_listen;
    assert_eq!(listen(shared), None);
    assert_eq!(
        listen(&format!("{shared} --metrics-listen 127.0.0.1:9")),
        Some(([127, 0, 0, 1], 9).into())
    );
    assert_eq!(listen("wharf-agent run --metrics-listen none"), None);
}

#[test]
fn the_examples_of_each_help_parse() {
    use clap::CommandFactory as _;
    let mut top = Cli::command();
    let mut helps = vec![top.render_long_help().to_string()];
    helps.extend(
        top.get_subcommands_mut()
            .filter(|c| c.get_name() != "help")
            .map(|c| c.render_long_help().to_string()),
    );
    for help in helps {
        let (_, examples) = help.split_once("Examples:").expect("has examples");
        let lines: Vec<_> = examples.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        assert_eq!(lines.len(), 2, "{help}");
        for line in lines {
            Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
