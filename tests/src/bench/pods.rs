//! One pod: from the reply to Create until Docker's create is called. Called by [`super::measure`].
//!
//! The call is seen by a proxy on a socket between the agent and the engine, at the moment at which the agent's
//! request arrives. The engine's own event would come after the create, and a number kept by the agent would be
//! the agent's word; the proxy costs the agent two copies of each message and nothing else. It stands before an
//! agent and a coordinator of their own, so that no other measurement goes through it.
//!
//! The coordinator hands the pod on as soon as it is durable, while its reply is on the way: the difference can be
//! negative. So the time from the sending of Create is printed beside it.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use proto::{
    credentials::{ChannelTimes, Credentials},
    wire::{CreateRequest, resources_client::ResourcesClient},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    runtime::Runtime,
};
use tonic::transport::Channel;

use super::{
    engine::{Bed, cluster},
    pause,
    stats::Sample,
    until,
};
use crate::{
    Cluster,
    docker::{Engine, IMAGE},
};

/// Milliseconds, p50 and p99.
pub const GOAL_MS: (f64, f64) = (10.0, 30.0);
/// Between two pods: that of the first is running and told by then.
const BETWEEN: Duration = Duration::from_millis(300);

#[derive(Clone, Debug)]
pub struct Pods {
    /// Milliseconds from the reply to Create to the call of Docker's create.
    pub accepted_to_call: Sample,
    /// Milliseconds from the sending of Create to its reply, and to the call of Docker's create.
    pub sent_to_accepted: Sample,
    pub sent_to_call: Sample,
}

impl Pods {
    pub fn json(&self) -> Value {
        json!({"goalMs": [GOAL_MS.0, GOAL_MS.1], "acceptedToCallMs": self.accepted_to_call.json(),
               "sentToAcceptedMs": self.sent_to_accepted.json(), "sentToCallMs": self.sent_to_call.json()})
    }
}

/// `n` pods, one after the other.
pub fn measure(bed: &Bed, n: u32) -> Pods {
    let socket = bed.engine.dir().join("proxy.sock");
    let calls = Calls::default();
    let upstream = bed.engine.engine.host.trim_start_matches("unix://").to_owned();
    calls.clone().proxy(bed.watched.runtime, &socket, upstream);
    let host = format!("unix://{}", socket.display());
    let cluster = cluster(&Engine { host });
    let mut client = connect(bed.watched.runtime, &cluster);
    let (mut accepted_to_call, mut sent_to_accepted, mut sent_to_call) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..n {
        let name = format!("one-{i}");
        let request = CreateRequest {
            kind: "Pod".into(),
            namespace: "default".into(),
            json: pod(&name).to_string().into_bytes(),
            request_id: name.clone(),
            ..CreateRequest::default()
        };
        let sent = Instant::now();
        bed.watched
            .runtime
            .block_on(client.create(request))
            .expect("a pod created");
        let accepted = Instant::now();
        let part = format!("_{name}_");
        until(&format!("the create of {name}"), || calls.of(&part).is_some());
        let called = calls.of(&part).expect("seen");
        accepted_to_call.push(ms_between(accepted, called));
        sent_to_accepted.push(ms_between(sent, accepted));
        sent_to_call.push(ms_between(sent, called));
        until(&format!("the start of {name}"), || {
            bed.watched.starts.time_of(&part).is_some()
        });
        // Not in step with anybody's timer.
        pause(BETWEEN + Duration::from_millis(u64::from(i) * 37 % 100));
    }
    drop(cluster);
    bed.watched.quiet("single pods");
    let sample = |values| Sample::new(values).expect("at least one pod");
    Pods {
        accepted_to_call: sample(accepted_to_call),
        sent_to_accepted: sample(sent_to_accepted),
        sent_to_call: sample(sent_to_call),
    }
}

pub(super) fn connect(runtime: &Runtime, cluster: &Cluster) -> ResourcesClient<Channel> {
    let text = std::fs::read_to_string(cluster.data_dir().join("admin.yaml")).expect("admin.yaml");
    let credentials: Credentials = serde_saphyr::from_str(&text).expect("credentials");
    let channel = runtime
        .block_on(credentials.connect(&cluster.address(), ChannelTimes::default()))
        .expect("a coordinator");
    ResourcesClient::new(channel)
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1,
                 "containers": [{"name": "app", "image": IMAGE, "args": ["sleep"], "imagePullPolicy": "IfNotPresent"}]}
    })
}

/// Milliseconds; negative when the second came first.
fn ms_between(first: Instant, second: Instant) -> f64 {
    let after = second.saturating_duration_since(first).as_secs_f64();
    let before = first.saturating_duration_since(second).as_secs_f64();
    (after - before) * 1000.0
}

/// Creates that went through the proxy: container name → when its request arrived.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<HashMap<String, Instant>>>);

impl Calls {
    /// The call whose container's name contains this.
    fn of(&self, part: &str) -> Option<Instant> {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().find(|(name, _)| name.contains(part)).map(|(_, at)| *at)
    }

    /// Notes a create; the first one of a name counts.
    fn note(&self, bytes: &[u8]) {
        let now = Instant::now();
        if let Some(name) = created_name(bytes) {
            let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            calls.entry(name).or_insert(now);
        }
    }

    /// Serves `socket` for as long as the runtime lives.
    fn proxy(self, runtime: &Runtime, socket: &Path, upstream: String) {
        let _guard = runtime.enter();
        let listener = UnixListener::bind(socket).expect("the proxy's socket");
        runtime.spawn(async move {
            while let Ok((agent, _)) = listener.accept().await {
                let (calls, upstream) = (self.clone(), upstream.clone());
                tokio::spawn(async move {
                    let Ok(engine) = UnixStream::connect(upstream).await else {
                        return;
                    };
                    let (mut from_agent, mut to_agent) = agent.into_split();
                    let (mut from_engine, mut to_engine) = engine.into_split();
                    let answers = tokio::spawn(async move { tokio::io::copy(&mut from_engine, &mut to_agent).await });
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(n @ 1..) = from_agent.read(&mut buffer).await {
                        calls.note(&buffer[..n]);
                        if to_engine.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                    // The agent is gone, and nobody reads what would still come.
                    answers.abort();
                });
            }
        });
    }
}

/// The name in the head of a request to create a container, which a client sends in one piece.
fn created_name(bytes: &[u8]) -> Option<String> {
    let head = bytes.split(|b| *b == b'\r').next()?;
    let target = std::str::from_utf8(head).ok()?.strip_prefix("POST ")?;
    let (path, query) = target.split(' ').next()?.split_once('?')?;
    let name = path
        .ends_with("/containers/create")
        .then(|| query.split('&').find_map(|pair| pair.strip_prefix("name=")));
    name?.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_is_known_by_its_head() {
        let named = |text: &str| created_name(text.as_bytes());
        assert_eq!(
            named("POST /v1.41/containers/create?platform=&name=wharf_app_one-1_default_u_0 HTTP/1.1\r\nhost: x\r\n")
                .as_deref(),
            Some("wharf_app_one-1_default_u_0")
        );
        assert_eq!(named("POST /containers/abc/start?name=x HTTP/1.1\r\n"), None);
        assert_eq!(named("GET /containers/create?name=x HTTP/1.1\r\n"), None);
        assert_eq!(named("{\"name\": \"POST /containers/create?name=x\"}"), None);
        assert_eq!(named(""), None);
    }

    #[test]
    fn a_call_before_the_reply_is_negative() {
        let first = Instant::now();
        let second = first + Duration::from_millis(5);
        assert!((ms_between(first, second) - 5.0).abs() < 0.001);
        assert!((ms_between(second, first) + 5.0).abs() < 0.001);
    }
}
