//! A cluster of real processes in a directory of its own: one coordinator, any number of agents on one engine.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
};

use serde_json::Value;

use crate::{
    docker::{Container, Engine},
    program::{self, Background, Output},
    wait::{eventually, interrupted},
};

/// What differs from a plain test cluster.
#[derive(Clone, Debug)]
pub struct Options {
    pub engine: Engine,
    /// More lines of the coordinator's configuration file.
    pub coordinator: String,
    /// More lines of each agent's configuration file.
    pub agent: String,
    /// `--capacity` of each agent.
    pub capacity: String,
    /// Timings that tests would otherwise wait for; without, everything is as shipped.
    pub quick: bool,
    /// Variables of coordinator and agents.
    pub env: Vec<(String, String)>,
    /// Address that the coordinator serves agents and the command on.
    pub listen: String,
    /// What the names of hosts of their own begin with.
    pub host: &'static str,
}

/// Where an agent runs, if not simply on this machine and its engine.
#[derive(Clone, Debug)]
pub struct Home {
    pub engine: Engine,
    /// Command that becomes the program given as its last arguments.
    pub enter: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            engine: Engine::shared(),
            coordinator: String::new(),
            agent: String::new(),
            capacity: "cpu=8,memory=8Gi".to_owned(),
            quick: true,
            env: Vec::new(),
            listen: "127.0.0.1".to_owned(),
            host: "n",
        }
    }
}

pub struct Cluster {
    dir: tempfile::TempDir,
    /// Session port; enrolment and HTTP follow.
    pub port: u16,
    pub options: Options,
    /// UUID.
    pub id: String,
    coordinator: Option<Background>,
    agents: BTreeMap<String, Background>,
    homes: BTreeMap<String, Home>,
}

/// Three free ports in a row, below the ephemeral range; tests of one machine run as many processes, so each
/// begins at a place of its own.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = u16::try_from(std::process::id() % 1000).expect("below 1000") * 12;
    for _ in 0..4000 {
        let port = 13_000 + (base + NEXT.fetch_add(3, Ordering::Relaxed)) % 12_000;
        if (port..port + 3).all(|p| TcpListener::bind(("127.0.0.1", p)).is_ok()) {
            return port;
        }
    }
    panic!("no free ports");
}

impl Cluster {
    /// `init`, then `run`; ready when it returns.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("wharf-test-")
            .tempdir()
            .expect("a directory");
        let mut cluster = Self {
            dir,
            port: free_ports(),
            options,
            id: String::new(),
            coordinator: None,
            agents: BTreeMap::new(),
            homes: BTreeMap::new(),
        };
        cluster.init().ok();
        cluster.id = cluster.read_cluster_id();
        cluster.start_coordinator();
        cluster
    }

    fn init(&self) -> Output {
        let data = self.data_dir();
        program::run(
            Command::new(program::path("wharf-coordinator"))
                .args(["init", "--data-dir"])
                .arg(&data)
                .args(["--advertise", &self.address()]),
        )
    }

    fn read_cluster_id(&self) -> String {
        let text = fs::read_to_string(self.data_dir().join("cluster.json")).expect("cluster.json");
        let json: Value = serde_json::from_str(&text).expect("JSON");
        json["cluster"].as_str().expect("cluster id").to_owned()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("coordinator")
    }

    pub fn agent_dir(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Session address.
    pub fn address(&self) -> String {
        format!("{}:{}", self.options.listen, self.port)
    }

    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.port + 2)
    }

    pub fn coordinator_args(&self) -> Vec<String> {
        let config = self.dir().join("coordinator.toml");
        fs::write(
            &config,
            format!("{}{}\n", self.quick(COORDINATOR_SETTINGS), self.options.coordinator),
        )
        .expect("coordinator.toml");
        [
            "run",
            "--data-dir",
            &text(&self.data_dir()),
            "--listen",
            &self.address(),
            "--http",
            &self.http(),
            "--config",
            &text(&config),
        ]
        .map(str::to_owned)
        .into()
    }

    fn quick(&self, lines: &'static str) -> &'static str {
        if self.options.quick { lines } else { "" }
    }

    /// Starts the coordinator and waits until it answers.
    pub fn start_coordinator(&mut self) {
        self.spawn_coordinator();
        eventually("the coordinator answers", || {
            if let Some(status) = self.coordinator.as_mut().and_then(Background::ended) {
                panic!("the coordinator ended ({status}):\n{}", self.coordinator_log());
            }
            let out = self.wharf(&["version"]);
            if out.code == 0 {
                Ok(())
            } else {
                Err(format!("{}{}", out.stderr, self.coordinator_log()))
            }
        });
    }

    /// Starts the coordinator and waits for nothing.
    pub fn spawn_coordinator(&mut self) {
        let log = self.dir().join("coordinator.log");
        let args = self.coordinator_args();
        self.coordinator = Some(Background::with_env("wharf-coordinator", &args, &self.options.env, log));
    }

    pub fn coordinator(&mut self) -> &mut Background {
        self.coordinator.as_mut().expect("a running coordinator")
    }

    pub fn coordinator_log(&self) -> String {
        fs::read_to_string(self.dir().join("coordinator.log")).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill_coordinator(&mut self) {
        self.coordinator.take().expect("a running coordinator").kill();
    }

    /// SIGTERM.
    pub fn stop_coordinator(&mut self) {
        self.coordinator.take().expect("a running coordinator").terminate();
    }

    /// `wharf …` with this cluster's credentials.
    pub fn wharf(&self, args: &[&str]) -> Output {
        program::run(&mut self.command(args))
    }

    /// The same with this text as its standard input.
    pub fn wharf_fed(&self, args: &[&str], input: &str) -> Output {
        let file = self.dir().join("stdin");
        fs::write(&file, input).expect("a file");
        let file = fs::File::open(&file).expect("that file");
        program::run_on(&mut self.command(args), file.into())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program::path("wharf"));
        command
            .args(args)
            .env("WHARF_CONFIG", self.data_dir().join("admin.yaml"));
        command
    }

    /// `wharf … -o json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        let out = self.wharf(&args).ok();
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"))
    }

    /// Items of `wharf get KIND`, of all namespaces; empty when the coordinator does not answer.
    pub fn items(&self, kind: &str) -> Vec<Value> {
        let out = self.wharf(&["get", kind, "-A", "-o", "json"]);
        let json: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        json["items"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until an event has these words: events are written a moment after what they are about.
    #[track_caller]
    pub fn says(&self, words: &str) {
        eventually(&format!("an event that says {words:?}"), || {
            let events = self.wharf(&["events", "-A"]);
            if events.stdout.contains(words) {
                Ok(())
            } else {
                Err(format!("{events:?}"))
            }
        });
    }

    /// A new join token.
    pub fn token(&self, args: &[&str]) -> String {
        let mut all = vec!["token", "create", "-q"];
        all.extend(args);
        self.wharf(&all).ok().trim().to_owned()
    }

    pub fn agent_args(&self, name: &str, token: Option<&str>) -> Vec<String> {
        let config = self.dir().join(format!("{name}.toml"));
        fs::write(
            &config,
            format!("[settings]\n{}{}\n", self.quick(AGENT_SETTINGS), self.options.agent),
        )
        .expect("agent configuration");
        let mut args: Vec<String> = [
            "run",
            "--data-dir",
            &text(&self.agent_dir(name)),
            "--coordinators",
            &self.address(),
            "--name",
            name,
            "--shared-host",
            "--capacity",
            &self.options.capacity,
            "--docker-host",
            &self.homes.get(name).map_or(&self.options.engine, |h| &h.engine).host,
            "--config",
            &text(&config),
        ]
        .map(str::to_owned)
        .into();
        if let Some(token) = token {
            let file = self.dir().join(format!("{name}.token"));
            fs::write(&file, token).expect("token file");
            args.extend(["--token-file".to_owned(), text(&file)]);
        }
        args
    }

    /// Starts an agent and waits for nothing.
    pub fn spawn_agent(&mut self, name: &str, token: Option<&str>) {
        let args = self.agent_args(name, token);
        self.run_in_background(name, &args);
    }

    /// Its agent runs there from now on.
    pub fn house(&mut self, name: &str, home: Home) {
        self.homes.insert(name.to_owned(), home);
    }

    fn run_in_background(&mut self, name: &str, args: &[String]) {
        let mut words = self.homes.get(name).map(|h| h.enter.clone()).unwrap_or_default();
        words.push(text(&program::path("wharf-agent")));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args);
        command.envs(self.options.env.iter().map(|(k, v)| (k, v)));
        let agent = Background::of(&mut command, self.dir().join(format!("{name}.log")));
        self.agents.insert(name.to_owned(), agent);
    }

    /// Starts an agent with more arguments and waits for nothing.
    pub fn spawn_agent_with(&mut self, name: &str, more: &[&str]) {
        let mut args = self.agent_args(name, None);
        args.extend(more.iter().map(|a| (*a).to_owned()));
        self.run_in_background(name, &args);
    }

    /// Joins nodes with one token and waits until all are Ready.
    pub fn join(&mut self, names: &[&str]) {
        let token = self.token(&["--uses", &names.len().to_string()]);
        for name in names {
            self.spawn_agent(name, Some(&token));
        }
        for name in names {
            self.node_ready(name);
        }
    }

    /// A running agent.
    pub fn agent(&mut self, name: &str) -> &mut Background {
        self.agents.get_mut(name).expect("a running agent")
    }

    /// Of a running agent.
    pub fn agent_pid(&self, name: &str) -> i32 {
        self.agents[name].pid()
    }

    pub fn kill_agent(&mut self, name: &str) {
        self.agents.remove(name).expect("a running agent").kill();
    }

    /// Runs it to its end, which must come.
    pub fn run_agent(&self, name: &str, token: &str) -> Output {
        program::run(Command::new(program::path("wharf-agent")).args(self.agent_args(name, Some(token))))
    }

    pub fn agent_log(&self, name: &str) -> String {
        fs::read_to_string(self.dir().join(format!("{name}.log"))).unwrap_or_default()
    }

    #[track_caller]
    pub fn node_ready(&self, name: &str) {
        eventually(&format!("node {name} Ready"), || match self.node_condition(name) {
            (status, _) if status == "True" => Ok(()),
            other => Err(format!("{other:?}\n{}", tail(&self.agent_log(name)))),
        });
    }

    /// Status and reason of a node's Ready condition.
    pub fn node_condition(&self, name: &str) -> (String, String) {
        let node = self
            .items("nodes")
            .into_iter()
            .find(|n| n["metadata"]["name"] == name)
            .unwrap_or_default();
        let ready = node["status"]["conditions"]
            .as_array()
            .and_then(|c| c.iter().find(|c| c["type"] == "Ready"))
            .cloned();
        let ready = ready.unwrap_or_default();
        let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    /// Writes a file and runs `wharf create -f` on it.
    pub fn create(&self, manifest: &Value) -> Output {
        let file = self.dir().join("manifest.json");
        fs::write(&file, manifest.to_string()).expect("manifest");
        self.wharf(&["create", "-f", &text(&file)])
    }

    pub fn containers(&self) -> Vec<Container> {
        self.options.engine.containers(&self.id)
    }

    pub fn running(&self) -> Vec<Container> {
        self.options.engine.running(&self.id)
    }

    /// Pods that are Running and Ready and not being deleted.
    pub fn ready_pods(&self) -> Vec<Value> {
        self.items("pods")
            .into_iter()
            .filter(|p| {
                let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
                p["metadata"]["deletionTimestamp"].is_null()
                    && p["status"]["phase"] == "Running"
                    && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
            })
            .collect()
    }

    /// Waits until exactly `n` pods and `n` containers run, no more and no fewer.
    #[track_caller]
    pub fn settled(&self, n: usize) {
        eventually(&format!("{n} pods and containers"), || {
            let (pods, ready, all, running) = (
                self.items("pods").len(),
                self.ready_pods().len(),
                self.containers().len(),
                self.running().len(),
            );
            if (pods, ready, all, running) == (n, n, n, n) {
                Ok(())
            } else {
                Err(format!(
                    "{pods} pods, {ready} ready; {all} containers, {running} running"
                ))
            }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && !interrupted() {
            eprintln!("--- coordinator\n{}", tail(&self.coordinator_log()));
            for name in self.agents.keys() {
                eprintln!("--- {name}\n{}", tail(&self.agent_log(name)));
            }
        }
        // Agents first: an agent would put back what is removed.
        self.agents.clear();
        self.coordinator = None;
        self.options.engine.clean(&self.id);
    }
}

/// See [`Options::quick`].
const COORDINATOR_SETTINGS: &str = "heartbeat-ms = 300\n";
/// An agent tries again sooner than its silence shows, as it does with the settings as shipped.
const AGENT_SETTINGS: &str = "ready_after_ms = 0\nreconnect_initial_ms = 50\nreconnect_max_ms = 300\n";

fn text(path: &Path) -> String {
    path.to_str().expect("a UTF-8 path").to_owned()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A controller of one container of the test image.
pub fn controller(name: &str, replicas: i32, command: &[&str]) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"app": name},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "app", "image": crate::docker::IMAGE, "args": command,
                        "imagePullPolicy": "IfNotPresent",
                        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}}}]
                }
            }
        }
    })
}
