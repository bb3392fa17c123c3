//! Where pods can be reached: host ports given at placement, what follows the endpoints, and that nothing is lost while
//! a controller is scaled under load, straight and through HAProxy.

use std::{collections::BTreeSet, fs, net::TcpListener, path::Path};

use harness::{
    Cluster,
    cluster::controller,
    eventually,
    load::{Load, Options, To, get},
    program::Background,
};
use serde_json::{Value, json};

/// A server whose port placement chooses.
fn web(replicas: i32) -> Value {
    let mut web = controller("web", replicas, &["serve"]);
    let template = &mut web["spec"]["template"];
    template["metadata"]["annotations"] =
        json!({"wharfinger.io/host-port": "auto", "wharfinger.io/endpoint-drain": "3s"});
    let container = &mut template["spec"]["containers"][0];
    container["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    container["env"] = json!([{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    web
}

fn read(cluster: &Cluster, path: &str) -> Value {
    let body = get(&cluster.http(), path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_slice(&body).expect("JSON")
}

/// (ip:port, pod) of what is ready.
fn ready(endpoints: &Value) -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    for subset in endpoints["subsets"].as_array().expect("subsets") {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            let ip = address["ip"].as_str().expect("an address");
            let pod = address["targetRef"]["name"].as_str().expect("a pod");
            all.insert((format!("{ip}:{}", subset["ports"][0]["port"]), pod.to_owned()));
        }
    }
    all
}

const WEB: &str = "/v1/endpoints/default/web";

#[test]
fn pods_answer_at_the_ports_that_they_were_given() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2"]);
    cluster.create(&web(3)).ok();
    cluster.settled(3);
    let endpoints = read(&cluster, WEB);
    assert_eq!(endpoints, cluster.json(&["get", "endpoints", "web"]));
    let all = ready(&endpoints);
    assert_eq!(all.len(), 3, "{endpoints}");
    for (address, pod) in &all {
        let body = get(address, "/").unwrap_or_else(|e| panic!("{address}: {e}"));
        let about: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(about["pod"], pod.as_str(), "{address}");
        let id = cluster
            .running()
            .into_iter()
            .find(|c| c.pod == *pod)
            .expect("a container")
            .id;
        let env = cluster
            .options
            .engine
            .docker(&["inspect", "-f", "{{json .Config.Env}}", &id])
            .ok();
        let port = address.rsplit(':').next().expect("a port");
        assert!(env.contains(&format!("\"WHARF_PORT_HTTP={port}\"")), "{env}");
    }
    let table = cluster.wharf(&["get", "ep"]).ok();
    let addresses: Vec<&str> = all.iter().map(|(address, _)| address.as_str()).collect();
    assert!(addresses.iter().all(|a| table.contains(a)), "{table}");
    let found = read(&cluster, "/v1/sd?rc=web");
    assert_eq!(found.as_array().map(Vec::len), Some(3), "{found}");

    // The command returns when the stop is decided; whoever asks then no longer finds the pod.
    let (_, gone) = all.first().expect("a pod").clone();
    cluster.wharf(&["delete", "pod", &gone, "--wait=false"]).ok();
    let left = ready(&read(&cluster, WEB));
    assert!(left.iter().all(|(_, pod)| *pod != gone), "{left:?}");

    // A killed coordinator forgets no port.
    cluster.settled(3);
    let before = ready(&read(&cluster, WEB));
    cluster.kill_coordinator();
    cluster.start_coordinator();
    eventually("the same endpoints", || match ready(&read(&cluster, WEB)) {
        now if now == before => Ok(()),
        now => Err(format!("{now:?} after {before:?}")),
    });
    assert_eq!(
        cluster.wharf(&["delete", "endpoints", "web"]).refused(1),
        "error: endpoints \"web\": derived from the pods of the replicationcontroller of this name and not written; \
         change that one"
    );
}

/// HAProxy with the example's configuration, and what fills its slots.
struct Balancer {
    _haproxy: Background,
    _follower: Background,
    port: u16,
}

impl Balancer {
    fn start(cluster: &Cluster) -> Self {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/haproxy");
        let at = |name: &str| cluster.dir().join(name);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let socket = at("haproxy.sock").display().to_string();
        let mut config = fs::read_to_string(example.join("haproxy.cfg")).expect("the example");
        let bind = format!("bind 127.0.0.1:{port}\n");
        for (from, to) in [
            ("/run/haproxy/wharf.sock", socket.as_str()),
            ("bind :80\n", bind.as_str()),
            // What HAProxy mends by itself would hide what is wrong.
            ("retries 3\n", "retries 0\n"),
        ] {
            assert!(config.contains(from), "{from} is not in the example");
            config = config.replace(from, to);
        }
        fs::write(at("haproxy.cfg"), config).expect("configuration");
        drop(listener);
        let config = at("haproxy.cfg").display().to_string();
        let haproxy = Background::of_system("haproxy", &["-db", "-f", &config], at("haproxy.log"));
        let url = format!("http://{}{WEB}", cluster.http());
        let script = example.join("follow.py").display().to_string();
        let words = [
            script.as_str(),
            "--endpoints",
            &url,
            "--backend",
            "web",
            "--socket",
            &socket,
        ];
        let follower = Background::of_system("python3", &words, at("follow.log"));
        let balancer = Self {
            _haproxy: haproxy,
            _follower: follower,
            port,
        };
        eventually("HAProxy has a server", || {
            get(&format!("127.0.0.1:{port}"), "/").map_err(|e| {
                let logs = ["haproxy.log", "follow.log"].map(|l| fs::read_to_string(at(l)).unwrap_or_default());
                format!("{e}\n{}", logs.concat())
            })
        });
        balancer
    }
}

#[test]
fn scaling_under_load_fails_no_request() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2"]);
    cluster.create(&web(3)).ok();
    cluster.settled(3);
    let balancer = Balancer::start(&cluster);
    let straight = Load::start(Options::new(To::Endpoints {
        http: cluster.http(),
        namespace: "default".into(),
        name: "web".into(),
    }));
    let balanced = Load::start(Options::new(To::Fixed(([127, 0, 0, 1], balancer.port).into())));
    for n in [6, 2, 5] {
        cluster.wharf(&["scale", "rc", "web", &format!("--replicas={n}")]).ok();
        cluster.settled(n);
        eventually("every pod has its share", || {
            let ready = harness::load::ready(&cluster.http(), "default", "web")?;
            let asked = straight.so_far().by_address;
            if ready.len() == n && ready.iter().all(|a| asked.contains_key(a)) {
                Ok(())
            } else {
                Err(format!("{ready:?} {asked:?}"))
            }
        });
    }
    // Without a coordinator everyone goes on with what was last known.
    cluster.kill_coordinator();
    let (before, unread) = (balanced.so_far().ok, straight.so_far().unread);
    eventually("requests without a coordinator", || {
        let (ok, misses) = (balanced.so_far().ok, straight.so_far().unread);
        if ok > before + 50 && misses > unread {
            Ok(())
        } else {
            Err(format!("{ok} after {before}, {misses} after {unread}"))
        }
    });
    cluster.start_coordinator();
    cluster.node_ready("n1");
    cluster.node_ready("n2");
    cluster.wharf(&["scale", "rc", "web", "--replicas=1"]).ok();
    cluster.settled(1);
    for (way, report) in [("straight", straight.stop()), ("through HAProxy", balanced.stop())] {
        println!("{way}: {report}");
        assert_eq!(report.failures(), 0, "{way}: {report}");
        assert!(report.sent > 200, "{way}: {report}");
    }
}
