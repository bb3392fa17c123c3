//! The layer between two coordinators over one store: the other end is a server that writes down what it is sent and
//! says what a test wants it to say.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use proto::{identity::Identity, model::Time};
use tokio::{io::AsyncReadExt as _, net::TcpListener};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, service::Routes, transport::Endpoint};

use super::*;
use crate::{
    leader::{
        self,
        testing::{Bench, ms},
    },
    store::{Change, Expect, keys, line::Cut},
    world::{record::encode, replicas::CoordinatorRecord},
};

const WRITE: &str = "/wharfinger.v1.Resources/Create";
const READ: &str = "/wharfinger.v1.Resources/Get";

/// What the other end answers.
#[derive(Clone, Copy)]
enum Says {
    Yes,
    /// As of this version.
    At(Rv),
    NotActive,
}

struct Heard {
    path: String,
    headers: HeaderMap,
    message: Bytes,
}

/// The coordinator at the other end.
#[derive(Clone, Default)]
struct Far {
    says: Arc<Mutex<VecDeque<Says>>>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Far {
    async fn serve(says: impl IntoIterator<Item = Says>) -> (Self, SocketAddr) {
        let far = Self {
            says: Arc::new(Mutex::new(says.into_iter().collect())),
            ..Self::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = far.clone();
        let answer = move |request: http::Request<axum::body::Body>| {
            let far = answers.clone();
            async move { far.answer(request).await }
        };
        let routes = Routes::from(axum::Router::new().fallback(answer));
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_routes(routes)
                .serve_with_incoming(incoming),
        );
        (far, address)
    }

    async fn answer(&self, request: http::Request<axum::body::Body>) -> http::Response<axum::body::Body> {
        let (parts, body) = request.into_parts();
        let message = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        self.heard.lock().unwrap().push(Heard {
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            message,
        });
        let says = self.says.lock().unwrap().pop_front().unwrap_or(Says::Yes);
        let mut reply = http::Response::new(axum::body::Body::empty());
        match says {
            Says::Yes => {}
            Says::At(rv) => {
                reply.headers_mut().insert(REVISION, HeaderValue::from(rv.0));
            }
            Says::NotActive => {
                reply.headers_mut().insert(NOT_ACTIVE, HeaderValue::from_static("true"));
            }
        }
        reply.headers_mut().insert("far", HeaderValue::from_static("yes"));
        reply
    }

    fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

/// Where the other end listens; none: its host refuses.
#[derive(Default)]
struct To(Mutex<Option<SocketAddr>>);

#[async_trait]
impl super::super::Dial for To {
    async fn dial(&self, _: &str) -> Result<Channel, DialError> {
        let at = *self.0.lock().unwrap();
        let at = at.ok_or(DialError::Refused)?;
        let endpoint = Endpoint::from_shared(format!("http://{at}")).unwrap();
        endpoint.connect().await.map_err(|e| DialError::Other(e.to_string()))
    }
}

/// What the layer hands a call to on this side.
#[derive(Clone, Default)]
struct Here(Arc<AtomicUsize>);

impl Service<http::Request<Body>> for Here {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut reply = http::Response::new(Body::empty());
        reply.headers_mut().insert("here", HeaderValue::from_static("yes"));
        std::future::ready(Ok(reply))
    }
}

/// Two that lead and follow for the whole of a test, however busy the machine is: these run by its clock.
async fn bench() -> Bench {
    let patient = leader::settings::Settings {
        demote: ms(20_000),
        silent: ms(30_000),
        stale: ms(40_000),
        ..leader::settings::Settings::default()
    };
    Bench::with(2, patient).await
}

/// Two coordinators of one store, and the layer of one of them.
struct Pair {
    bench: Bench,
    /// Which one's layer it is.
    own: usize,
    to: Arc<To>,
    here: Here,
    layer: ForwardService<Here>,
}

impl Pair {
    async fn standby(to: Option<SocketAddr>) -> Self {
        let bench = bench().await;
        let own = 1 - bench.leader().await;
        Self::of(bench, own, to)
    }

    fn of(bench: Bench, own: usize, at: Option<SocketAddr>) -> Self {
        let to = Arc::new(To(Mutex::new(at)));
        let replica = &bench.replicas[own];
        let settings = Settings {
            wait: ms(1_000),
            wait_blind: ms(100),
            catch_up: ms(300),
        };
        let leadership = Arc::new(replica.leadership.clone());
        let forwarder = Forwarder::new(
            replica.hub.clone(),
            replica.name.clone(),
            to.clone(),
            leadership,
            settings,
        );
        let here = Here::default();
        Self {
            layer: ForwardLayer(forwarder).layer(here.clone()),
            own,
            bench,
            to,
            here,
        }
    }

    async fn call(&mut self, path: &str, headers: &[(HeaderName, &str)], caller: Option<Caller>) -> HeaderMap {
        let mut request = http::Request::new(Body::new(Full::new(Bytes::from_static(b"message"))));
        *request.uri_mut() = Uri::try_from(format!("http://own{path}")).unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        let reply = self.layer.call(request).await.unwrap();
        reply.into_parts().0.headers
    }

    fn answered_here(&self) -> usize {
        self.here.0.load(Ordering::SeqCst)
    }
}

fn caller(role: Role) -> Caller {
    Caller {
        identity: Identity {
            cluster: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
            role,
            id: "ann".into(),
        },
        serial: "1f".into(),
        not_after: 7,
        deleted: false,
        generation: 0,
        key: "a".repeat(64),
        issuer: String::new(),
    }
}

fn status(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).expect("a status")
}

#[tokio::test]
async fn a_write_is_passed_on_whole_with_its_caller() {
    let (far, at) = Far::serve([]).await;
    let mut pair = Pair::standby(Some(at)).await;
    let ann = caller(Role::User);
    let reply = pair
        .call(WRITE, &[(CONSISTENCY, "linearizable")], Some(ann.clone()))
        .await;
    assert!(reply.contains_key("far") && !reply.contains_key(STANDBY));
    assert_eq!(pair.answered_here(), 0);
    let heard = far.heard.lock().unwrap();
    let call = &heard[0];
    assert_eq!((call.path.as_str(), &call.message[..]), (WRITE, &b"message"[..]));
    let by = Caller::from_headers(&call.headers).unwrap().expect("its caller");
    assert_eq!(by.identity, ann.identity);
    assert!(!call.headers.contains_key(CONSISTENCY), "that was for this one");
}

#[tokio::test]
async fn reads_are_answered_here_and_marked_unless_they_must_be_new() {
    let (far, at) = Far::serve([]).await;
    let mut pair = Pair::standby(Some(at)).await;
    let reply = pair.call(READ, &[], None).await;
    assert!(reply.contains_key("here") && reply.contains_key(REVISION));
    let name = pair.bench.replicas[pair.own].name.clone();
    assert_eq!(reply[&STANDBY], name.as_str());
    assert_eq!(far.count(), 0);
    let reply = pair.call(READ, &[(CONSISTENCY, "linearizable")], None).await;
    assert!(reply.contains_key("far") && far.count() == 1);
    // Health, sessions and what every coordinator knows of itself.
    for path in ["/grpc.health.v1.Health/Check", "/wharfinger.v1.Agent/Session"] {
        assert!(pair.call(path, &[], None).await.contains_key("here"));
    }
    assert_eq!((far.count(), pair.answered_here()), (1, 3));
}

#[tokio::test]
async fn what_was_passed_on_is_passed_on_no_further() {
    let (far, at) = Far::serve([]).await;
    let mut pair = Pair::standby(Some(at)).await;
    for (headers, by) in [
        (vec![], Role::Coordinator),
        (
            vec![(HeaderName::from_static(forwarded::HEADER), "whoever")],
            Role::User,
        ),
    ] {
        let reply = pair.call(WRITE, &headers, Some(caller(by))).await;
        assert!(reply.contains_key(NOT_ACTIVE));
        assert_eq!(status(&reply).code(), Code::Unavailable);
    }
    assert_eq!((far.count(), pair.answered_here()), (0, 0));
}

#[tokio::test]
async fn who_leads_no_more_is_asked_again_until_somebody_does() {
    let (far, at) = Far::serve([Says::NotActive, Says::NotActive]).await;
    let mut pair = Pair::standby(Some(at)).await;
    let reply = pair.call(WRITE, &[], None).await;
    assert!(reply.contains_key("far") && !reply.contains_key(NOT_ACTIVE));
    assert_eq!(far.count(), 3);
    // Nobody does: by name, and not for ever.
    far.says.lock().unwrap().extend([Says::NotActive; 100]);
    let told = status(&pair.call(WRITE, &[], None).await);
    assert_eq!(told.code(), Code::Unavailable);
    assert!(
        told.message().contains("does not lead any more") && told.message().contains("try again"),
        "{told}"
    );
}

#[tokio::test]
async fn a_connection_that_is_refused_is_tried_again_and_the_call_done_once() {
    let (far, at) = Far::serve([]).await;
    let mut pair = Pair::standby(None).await;
    let to = pair.to.clone();
    let (reply, ()) = tokio::join!(pair.call(WRITE, &[], None), async {
        tokio::time::sleep(ms(200)).await;
        *to.0.lock().unwrap() = Some(at);
    });
    assert!(reply.contains_key("far"));
    assert_eq!(far.count(), 1);
}

#[tokio::test]
async fn what_may_have_been_received_is_never_sent_again() {
    // It takes what comes and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut came = Vec::new();
            while !came.windows(7).any(|w| w == b"message") {
                if stream.read_buf(&mut came).await.unwrap() == 0 {
                    break;
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut pair = Pair::standby(Some(at)).await;
    let told = status(&pair.call(WRITE, &[], None).await);
    assert_eq!(told.code(), Code::Unavailable);
    assert!(told.message().contains("whether it was done is not known"), "{told}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // The broken connection is not used for the next call.
    let (far, at) = Far::serve([]).await;
    *pair.to.0.lock().unwrap() = Some(at);
    let reply = pair.call(WRITE, &[], None).await;
    assert!(reply.contains_key("far") && far.count() == 1);
}

#[tokio::test]
async fn who_writes_here_reads_it_here() {
    let (far, at) = Far::serve([]).await;
    let mut pair = Pair::standby(Some(at)).await;
    let leader = 1 - pair.own;
    let own = pair.bench.replicas[pair.own].hub.clone();
    // This replica lies behind what the other one has written.
    pair.bench.replicas[pair.own].deaf.send_replace(true);
    let written = pair.bench.write(leader, "k").await.unwrap().last();
    far.says.lock().unwrap().push_back(Says::At(written));
    let deaf = pair.bench.replicas[pair.own].deaf.clone();
    let (reply, ()) = tokio::join!(pair.call(WRITE, &[], None), async {
        tokio::time::sleep(ms(100)).await;
        deaf.send_replace(false);
    });
    assert!(reply.contains_key("far"));
    assert!(own.rv() >= written, "the answer came before the write was seen");
    // One that stays behind holds back no answer that is there.
    let never = Rv(written.0 + (1 << 40));
    far.says.lock().unwrap().push_back(Says::At(never));
    assert!(pair.call(WRITE, &[], None).await.contains_key("far"));
}

#[tokio::test]
async fn the_one_that_leads_confirms_what_it_read() {
    let bench = bench().await;
    let leader = bench.leader().await;
    let mut pair = Pair::of(bench, leader, None);
    let reply = pair.call(READ, &[(CONSISTENCY, "linearizable")], None).await;
    assert!(reply.contains_key("here") && reply.contains_key(REVISION) && !reply.contains_key(STANDBY));
    // Its beats get through no more: it may have been deposed without knowing it.
    pair.bench.replicas[leader].line.set(Cut::Refuses);
    tokio::time::sleep(ms(350)).await;
    assert!(pair.bench.replicas[leader].acts());
    let reply = pair.call(READ, &[], None).await;
    assert!(
        reply.contains_key("here") && reply.contains_key(STANDBY),
        "it may be old"
    );
    let reply = pair.call(READ, &[(CONSISTENCY, "linearizable")], None).await;
    assert!(reply.contains_key(NOT_ACTIVE) && !reply.contains_key("here"));
}

#[tokio::test]
async fn without_the_store_a_call_is_given_back_soon() {
    let mut pair = Pair::standby(None).await;
    let began = tokio::time::Instant::now();
    let told = status(&pair.call(WRITE, &[], None).await);
    assert!(told.message().contains("refuses connections"), "{told}");
    assert!(
        began.elapsed() >= ms(1_000),
        "somebody may come to lead: {:?}",
        began.elapsed()
    );
    // What every coordinator can say of the others is said here, too.
    assert!(pair.call(EITHER, &[], None).await.contains_key("here"));
    pair.bench.replicas[pair.own].line.set(Cut::Refuses);
    let mut standings = pair.bench.replicas[pair.own].leadership.standings();
    standings.wait_for(|s| s.store_away).await.unwrap();
    let began = tokio::time::Instant::now();
    pair.call(WRITE, &[], None).await;
    assert!(began.elapsed() < ms(1_000), "{:?}", began.elapsed());
}

#[tokio::test]
async fn users_are_told_of_all_coordinators_the_one_that_leads_first() {
    let (_far, at) = Far::serve([]).await;
    let mut pair = Pair::standby(Some(at)).await;
    let leader = 1 - pair.own;
    let record = |name: &str| {
        let record = CoordinatorRecord {
            address: format!("{name}:7443"),
            enrol: format!("{name}:7444"),
            joined: Time::default(),
            version: String::new(),
        };
        Change::put(keys::coordinator(name), Expect::Any, encode(&record))
    };
    let (own, other) = (
        pair.bench.replicas[pair.own].name.clone(),
        pair.bench.replicas[leader].name.clone(),
    );
    let hub = pair.bench.replicas[leader].hub.clone();
    let written = hub.commit(vec![record(&own), record(&other)]).await.unwrap().last();
    let seen = pair.bench.replicas[pair.own].hub.clone();
    seen.wait_for(written).await;
    for path in [READ, WRITE] {
        let reply = pair.call(path, &[], Some(caller(Role::User))).await;
        let told = reply[&COORDINATORS].to_str().unwrap();
        assert_eq!(told, format!("{other}:7443,{own}:7443"));
        let agent = pair.call(path, &[], Some(caller(Role::Agent))).await;
        assert!(
            !agent.contains_key(COORDINATORS),
            "agents hear of them in their sessions"
        );
    }
}
