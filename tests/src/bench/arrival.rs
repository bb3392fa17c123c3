//! A host joins: from the start of its agent, which has a token and nothing else, until its node is Ready and until the
//! first pod's container has started there. Called by [`super::measure`].
//!
//! The pod waits for that very node before the agent is started, so that the time has everything in it: the join, the
//! first look at the engine, the session, the placement, and Docker's own create and start. The cluster is one of its
//! own, as shipped; each agent is another node of the same engine.

use std::time::{Duration, Instant};

use proto::wire::{CreateRequest, GetRequest, resources_client::ResourcesClient};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    engine::{Bed, cluster, now_ns},
    pause,
    pods::connect,
    stats::Sample,
    until,
};
use crate::docker::IMAGE;

/// Milliseconds, each time.
pub const TARGET_MS: f64 = 2000.0;
/// Between two hosts.
const BETWEEN: Duration = Duration::from_millis(500);

/// Milliseconds from the start of the agent.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub to_ready: Sample,
    pub to_running: Sample,
}

impl Arrival {
    pub fn json(&self) -> Value {
        json!({"targetMs": TARGET_MS, "toReadyMs": self.to_ready.json(), "toRunningMs": self.to_running.json()})
    }
}

/// `n` hosts, one after the other.
pub fn measure(bed: &Bed, n: u32) -> Arrival {
    let mut cluster = cluster(&bed.engine.engine);
    let mut client = connect(bed.watched.runtime, &cluster);
    let (mut to_ready, mut to_running) = (Vec::new(), Vec::new());
    for i in 0..n {
        let (node, name) = (format!("late-{i}"), format!("first-{i}"));
        let token = cluster.token(&[]);
        let request = CreateRequest {
            kind: "Pod".into(),
            namespace: "default".into(),
            json: pod(&name, &node).to_string().into_bytes(),
            ..CreateRequest::default()
        };
        bed.watched
            .runtime
            .block_on(client.create(request))
            .expect("a pod that waits");
        let (begun, from) = (Instant::now(), now_ns());
        cluster.spawn_agent(&node, Some(&token));
        let mut ready = None;
        let part = format!("_{name}_");
        until(&format!("{name} on {node}"), || {
            if ready.is_none() && bed.watched.runtime.block_on(is_ready(&mut client, &node)) {
                ready = Some(begun.elapsed());
            }
            ready.is_some() && bed.watched.starts.time_of(&part).is_some()
        });
        to_ready.push(ready.unwrap_or_default().as_secs_f64() * 1000.0);
        let started = bed.watched.starts.time_of(&part).unwrap_or(from);
        to_running.push((started - from) as f64 / 1e6);
        pause(BETWEEN);
    }
    drop(cluster);
    bed.watched.quiet("joining hosts");
    let sample = |values| Sample::new(values).expect("at least one host");
    Arrival {
        to_ready: sample(to_ready),
        to_running: sample(to_running),
    }
}

async fn is_ready(client: &mut ResourcesClient<Channel>, node: &str) -> bool {
    let request = GetRequest {
        kind: "Node".into(),
        name: node.into(),
        ..GetRequest::default()
    };
    let Ok(reply) = client.get(request).await else {
        return false;
    };
    let node: Value = serde_json::from_slice(&reply.into_inner().json).unwrap_or_default();
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "nodeSelector": {"kubernetes.io/hostname": node},
                 "containers": [{"name": "app", "image": IMAGE, "args": ["sleep"], "imagePullPolicy": "IfNotPresent"}]}
    })
}
