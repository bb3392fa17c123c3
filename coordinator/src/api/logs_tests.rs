//! Logs.Read: what is refused, and what the agent is asked for.

use std::sync::atomic::{AtomicUsize, Ordering};

use proto::wire::{Chunk, PipeData, PipeEnd, chunk, logs_server::Logs as _, pipe_end};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::{
    api::{
        Settings,
        testing::{Bench, DenyAll, refused},
    },
    events::Recorder,
    http::metrics::Metrics,
    session::{
        self,
        registry::{Handle, Mode},
    },
    store::{Change, Expect, keys},
    world::record::{FactsRecord, StatusRecord, TemplateRecord, encode},
};

struct Rig {
    bench: Bench,
    service: LogsService,
}

impl Rig {
    async fn new() -> Self {
        Self::on(Bench::new().await)
    }

    fn on(bench: Bench) -> Self {
        let settings = session::Settings {
            max_node_pipes: 1,
            ..session::Settings::default()
        };
        let (recorder, _) = Recorder::new();
        let (sessions, _) = Sessions::new(bench.hub.clone(), recorder, Arc::new(Metrics::new()), settings);
        let service = LogsService {
            api: Arc::clone(&bench.api),
            sessions,
        };
        Self { bench, service }
    }

    async fn read(&self, request: LogsRequest) -> Result<BoxStream<'static, Result<LogsChunk, Status>>, Status> {
        Ok(self.service.read(Request::new(request)).await?.into_inner())
    }

    async fn refused(&self, request: LogsRequest) -> (Code, String) {
        refused(self.read(request).await.map(|_| ()))
    }

    fn resolve(&self, request: &LogsRequest) -> Result<ReadLog, Status> {
        let wanted = self.bench.hub.read(|w| resolve(w, "default", request))?;
        Ok(wanted.log)
    }

    async fn statuses(&self, statuses: &Value) {
        let record = StatusRecord {
            uid: "uid-web".into(),
            status: serde_json::from_value(json!({"phase": "Running", "containerStatuses": statuses}))
                .expect("a status"),
            ..StatusRecord::default()
        };
        let change = Change::put(keys::pod_status("default", "web"), Expect::Any, encode(&record));
        self.bench.put(vec![change]).await;
    }

    /// The node's agent says what it can do.
    async fn facts(&self, capabilities: &[&str]) {
        let facts = FactsRecord {
            capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(),
            ..FactsRecord::default()
        };
        let change = Change::put(keys::node_facts("n1"), Expect::Any, encode(&facts));
        self.bench.put(vec![change]).await;
    }

    /// The node's agent is connected.
    /// The name of pod web's first container.
    fn container(&self) -> String {
        self.bench.hub.read(|w| {
            let pod = &w.pods[&("default".to_owned(), "web".to_owned())];
            pod.template_record().spec.containers[0].name.clone()
        })
    }

    fn session(&self) -> Arc<Handle> {
        self.service
            .sessions
            .registry()
            .open("n1", "u", Mode::Full)
            .expect("room")
            .0
    }
}

fn of(pod: &str) -> LogsRequest {
    LogsRequest {
        pod: pod.into(),
        ..LogsRequest::default()
    }
}

fn running(name: &str, id: &str) -> Value {
    json!({"name": name, "state": {"running": {}}, "containerID": format!("docker://{id}"), "restartCount": 1,
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "containerID": format!("docker://{id}old")}}})
}

/// Pod `web` on n1, which is not connected.
async fn placed() -> Rig {
    let rig = Rig::new().await;
    rig.bench.node("n1", true).await;
    rig.bench.pod("web", "n1", None).await;
    rig.bench.change_pod("web", |pod| pod.uid = "uid-web".into()).await;
    rig.facts(&[capability::LOGS]).await;
    rig
}

#[tokio::test]
async fn who_may_not_read_learns_nothing() {
    let rig = Rig::on(Bench::with(Arc::new(DenyAll), Settings::default()).await);
    let (code, words) = rig.refused(of("none")).await;
    assert_eq!(
        (code, words.as_str()),
        (Code::PermissionDenied, "get pods/log default/none")
    );
}

#[tokio::test]
async fn what_cannot_be_read_says_why() {
    let rig = placed().await;
    let container = rig.bench.hub.read(|w| {
        let pod = &w.pods[&("default".to_owned(), "web".to_owned())];
        pod.template_record().spec.containers[0].name.clone()
    });
    rig.bench.pod("waits", "", None).await;
    for (request, code, words) in [
        (of("none"), Code::NotFound, "pods \"none\" not found".to_owned()),
        (
            LogsRequest {
                container: "x".into(),
                ..of("web")
            },
            Code::InvalidArgument,
            format!("pods \"web\": container \"x\" is none of its containers: {container}"),
        ),
        (
            of("waits"),
            Code::FailedPrecondition,
            "pods \"waits\": it has written nothing yet: it waits for a node".to_owned(),
        ),
        (
            of("web"),
            Code::FailedPrecondition,
            format!("pods \"web\": container \"{container}\" waits to start"),
        ),
        (
            LogsRequest {
                container_id: "../x".into(),
                ..of("web")
            },
            Code::InvalidArgument,
            "container_id: \"../x\" is no container's id".to_owned(),
        ),
    ] {
        assert_eq!(rig.refused(request).await, (code, words));
    }
    rig.statuses(&json!([running(&container, "c1")])).await;
    let (code, words) = rig.refused(of("web")).await;
    assert_eq!(code, Code::Unavailable);
    assert!(
        words.starts_with("pods \"web\": node \"n1\" is not connected"),
        "{words}"
    );
    rig.facts(&["sandbox"]).await;
    let (code, words) = rig.refused(of("web")).await;
    assert_eq!(
        (code, words.as_str()),
        (
            Code::FailedPrecondition,
            "pods \"web\": the agent of node \"n1\" is too old to send logs; update it"
        )
    );
}

#[tokio::test]
async fn a_pod_with_two_containers_asks_which() {
    let rig = placed().await;
    let spec = json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]});
    let template = TemplateRecord {
        spec: serde_json::from_value(spec).expect("a spec"),
        ..TemplateRecord::default()
    };
    let (hash, value) = template.encode();
    let put = Change::put(keys::template(&hash), Expect::Any, value);
    rig.bench.put(vec![put]).await;
    rig.bench.change_pod("web", |pod| pod.template = hash.clone()).await;
    let (code, words) = rig.refused(of("web")).await;
    assert_eq!(
        (code, words.as_str()),
        (
            Code::InvalidArgument,
            "pods \"web\": it has several containers; name one of a, b"
        )
    );
    rig.statuses(&json!([running("a", "ca"), running("b", "cb")])).await;
    let log = rig
        .resolve(&LogsRequest {
            container: "b".into(),
            ..of("web")
        })
        .expect("found");
    assert_eq!((log.container.as_str(), log.container_id.as_str()), ("b", "cb"));
}

#[tokio::test]
async fn the_attempt_is_the_one_that_wrote_last_or_the_one_before() {
    let rig = placed().await;
    let name = rig.container();
    let ended =
        |id: &str| json!({"terminated": {"exitCode": 1, "reason": "Error", "containerID": format!("docker://{id}")}});
    let waits = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    for (state, last, id, present, previous) in [
        (
            json!({"running": {}}),
            Value::Null,
            "c1",
            Ok("c1"),
            Err("has not ended before"),
        ),
        (json!({"running": {}}), ended("c1"), "c2", Ok("c2"), Ok("c1")),
        // Between two attempts the one that ended last is both.
        (waits.clone(), ended("c1"), "c1", Ok("c1"), Ok("c1")),
        (
            waits,
            Value::Null,
            "c1",
            Err("waits to start: CrashLoopBackOff"),
            Err("has not ended before"),
        ),
        (ended("c2"), ended("c1"), "c2", Ok("c2"), Ok("c1")),
        (ended("c1"), Value::Null, "c1", Ok("c1"), Err("has not ended before")),
        (
            json!({"terminated": {"exitCode": 128, "reason": "StartError"}}),
            Value::Null,
            "",
            Err("never started"),
            Err("has not ended before"),
        ),
    ] {
        let mut status =
            json!({"name": name, "state": state, "containerID": format!("docker://{id}"), "restartCount": 1});
        if !last.is_null() {
            status["lastState"] = last;
        }
        rig.statuses(&json!([status])).await;
        for (asked, expected) in [(false, present), (true, previous)] {
            let found = rig.resolve(&LogsRequest {
                previous: asked,
                ..of("web")
            });
            match expected {
                Ok(id) => assert_eq!(found.expect("found").container_id, id, "{status} {asked}"),
                Err(words) => {
                    let (code, said) = refused(found);
                    assert_eq!(code, Code::FailedPrecondition);
                    assert!(said.contains(words), "{status} {asked}: {said}");
                }
            }
        }
    }
}

#[tokio::test]
async fn the_reader_gets_what_the_agent_sends_and_its_end() {
    let rig = placed().await;
    let name = rig.container();
    rig.statuses(&json!([running(&name, "c1")])).await;
    let session = rig.session();
    let pipes = rig.service.sessions.pipes();
    let agent = async {
        session.asked.notified().await;
        let ask = session.next_ask().expect("asked");
        let (up, chunks) = mpsc::channel(8);
        let down = pipes
            .claim(&ask.id, "n1", ReceiverStream::new(chunks).boxed())
            .expect("taken");
        (ask.kind, up, down)
    };
    let request = LogsRequest {
        follow: true,
        tail_lines: Some(3),
        since_ms: 7,
        timestamps: true,
        ..of("web")
    };
    let (stream, (kind, up, _down)) = tokio::join!(rig.read(request), agent);
    let asked = ReadLog {
        pod_uid: "uid-web".into(),
        container: name,
        container_id: "c1".into(),
        follow: true,
        tail_lines: Some(3),
        since_ms: 7,
        timestamps: true,
    };
    assert_eq!(kind, Some(open_pipe::Kind::Log(asked)));
    let mut stream = stream.expect("open");
    // No more than one of this node.
    assert_eq!(rig.refused(of("web")).await.0, Code::ResourceExhausted);
    let data = chunk::Message::Data(PipeData {
        data: b"x".to_vec(),
        stderr: true,
    });
    let end = chunk::Message::End(PipeEnd {
        reason: pipe_end::Reason::Refused.into(),
        message: "it is\ngone".into(),
    });
    for message in [data, end] {
        up.send(Ok(Chunk { message: Some(message) })).await.expect("it reads");
    }
    let mut next = async || stream.next().await;
    let first = next().await.expect("the first").expect("no error");
    assert_eq!((first.container_id.as_str(), first.data.len()), ("c1", 0));
    let second = next().await.expect("the second").expect("no error");
    assert_eq!((second.data.as_slice(), second.stderr), (&b"x"[..], true));
    assert_eq!(
        refused(next().await.expect("the end")),
        (Code::FailedPrecondition, "pods \"web\": it is gone".to_owned())
    );
    assert!(next().await.is_none());
}

#[tokio::test]
async fn no_more_is_taken_of_the_agent_than_the_reader_reads() {
    let rig = placed().await;
    rig.statuses(&json!([running(&rig.container(), "c1")])).await;
    let session = rig.session();
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let chunks = stream::iter((0..1000).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let message = Some(chunk::Message::Data(PipeData::default()));
        Ok(Chunk { message })
    }));
    let agent = async {
        session.asked.notified().await;
        let ask = session.next_ask().expect("asked");
        let down = rig.service.sessions.pipes().claim(&ask.id, "n1", chunks.boxed());
        down.expect("taken")
    };
    let (log, _down) = tokio::join!(rig.read(of("web")), agent);
    let mut log = log.expect("open");
    // The first message is the coordinator's own.
    for expected in [0, 0, 1, 2] {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(taken.load(Ordering::Relaxed), expected);
        log.next().await.expect("more").expect("no error");
    }
}
