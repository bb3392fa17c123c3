//! What tests and the demo of drains share: a service that takes its time until it is Ready, `wharf drain` in the
//! background, and how a drain stands.
//!
//! Invariant: looks by the command alone, as an operator does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    Cluster,
    cluster::controller,
    program::Background,
    wait::{eventually, eventually_within},
};

/// Longest a drain of a test may take.
const LONGEST: Duration = Duration::from_secs(120);

/// A controller of servers at ports that placement chooses; each is Ready once it answers, and not before so many
/// seconds: that long a surge can be met in its middle.
pub fn service(name: &str, replicas: i32, ready_after: u32) -> Value {
    let mut service = controller(name, replicas, &["serve"]);
    let template = &mut service["spec"]["template"];
    template["metadata"]["annotations"] =
        json!({"wharfinger.io/host-port": "auto", "wharfinger.io/endpoint-drain": "3s"});
    let container = &mut template["spec"]["containers"][0];
    container["ports"] = json!([{"name": "http", "containerPort": 8080}]);
    container["env"] = json!([{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/healthz", "port": "http"}, "initialDelaySeconds": ready_after, "periodSeconds": 1});
    service
}

/// `wharf drain NODE` as it runs in a terminal of its own; killed when dropped, which the drain does not notice.
pub struct Watching {
    node: String,
    process: Background,
}

impl Watching {
    pub fn start(cluster: &Cluster, node: &str, more: &[&str]) -> Self {
        let mut args = vec!["drain", node];
        args.extend(more);
        let config = cluster.data_dir().join("admin.yaml").display().to_string();
        let env = [("WHARF_CONFIG".to_owned(), config)];
        let log = cluster.dir().join(format!("drain-{node}.log"));
        Self {
            node: node.to_owned(),
            process: Background::with_env("wharf", &args, &env, log),
        }
    }

    /// All that it printed until now.
    pub fn said(&self) -> String {
        self.process.log_text()
    }

    /// Waits for its end, which must be `node/NODE drained in …`; returns how long that was. `each` is called again and
    /// again meanwhile, with what was printed.
    #[track_caller]
    pub fn drained(mut self, mut each: impl FnMut(&str)) -> String {
        let what = format!("wharf drain {} ends", self.node);
        let status = eventually_within(LONGEST, &what, || {
            let ended = self.process.ended();
            each(&self.said());
            ended.ok_or_else(|| self.said())
        });
        let said = self.said();
        assert!(status.success(), "{status}: {said}");
        let last = said.lines().last().unwrap_or_default();
        let took = last.strip_prefix(&format!("node/{} drained in ", self.node));
        took.unwrap_or_else(|| panic!("{said}")).to_owned()
    }
}

/// The drain of a node as it stands; null while the coordinator does not answer.
pub fn standing(cluster: &Cluster, node: &str) -> Value {
    let out = cluster.wharf(&["drain", node, "--dry-run", "-o", "json"]);
    serde_json::from_str(&out.stdout).unwrap_or_default()
}

/// Waits until its drain is in this state and `holds` has no objection; returns the view.
#[track_caller]
pub fn stands(cluster: &Cluster, node: &str, phase: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("the drain of {node} is {phase}"), || {
        let view = standing(cluster, node);
        if view["status"]["phase"] == phase && holds(&view) {
            Ok(view)
        } else {
            Err(view.to_string())
        }
    })
}

/// Waits until the one pod of a service has another one beside it that is not Ready, and is not being stopped; returns
/// the name of that other one and its node.
#[track_caller]
pub fn in_mid_surge(cluster: &Cluster, node: &str) -> (String, String) {
    eventually("a replacement is under way", || {
        let pods = cluster.items("pods");
        let live = pods.iter().all(|p| p["metadata"]["deletionTimestamp"].is_null());
        let spare = pods.iter().find(|p| p["spec"]["nodeName"] != node);
        match spare {
            Some(spare) if live && pods.len() == 2 && cluster.ready_pods().len() == 1 => {
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                Ok((text(&spare["metadata"]["name"]), text(&spare["spec"]["nodeName"])))
            }
            _ => Err(cluster.wharf(&["get", "pods", "-o", "wide"]).stdout),
        }
    })
}
