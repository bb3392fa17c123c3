//! The whole coordinator on a store in memory, from start to its orderly end.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::*;
use crate::{
    config::Options,
    leader::guard::Guard,
    session::testing::{Agent, ByHeader, INCARNATION, hello, helpers, named},
    store::{
        Change, Expect, keys,
        memory::{MemoryOptions, MemoryStore},
    },
};
use proto::{model::Kind, wire::goodbye::Reason};

fn config(dir: &Path) -> Config {
    Config::new(Options {
        data_dir: Some(dir.to_owned()),
        http: Some("127.0.0.1:0".parse().unwrap()),
        served_mark_ms: Some(5),
        ..Options::default()
    })
    .unwrap()
}

async fn initialised() -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let fence = store.take_term(INCARNATION, "init").await.unwrap();
    let meta =
        format!("{{\"cluster\":\"c\",\"incarnation\":\"{INCARNATION}\",\"addresses\":[\"c1:7443\"],\"more\":1}}");
    let node = Bytes::from_static(b"{\"metadata\":{\"name\":\"n1\",\"uid\":\"u\"},\"spec\":{}}");
    let changes = vec![
        Change::put(META_CLUSTER, Expect::Absent, meta),
        Change::put(keys::object(Kind::Node, "", "n1"), Expect::Absent, node),
    ];
    store.commit(&fence, changes).await.unwrap();
    store
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_serves_until_asked_to_end_and_knows_its_store_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = initialised().await;
    let mut coordinator = Coordinator::start(config(dir.path()), store.clone()).await.unwrap();
    assert!(coordinator.take_notes().is_some() && coordinator.take_notes().is_none());
    assert!(
        get(coordinator.http_address(), "/readyz")
            .await
            .starts_with("HTTP/1.1 200")
    );

    let routes = coordinator.routes(helpers(ByHeader::default())).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stopping = coordinator.stopping();
    coordinator.spawn("agents", async move {
        Server::builder()
            .layer(tonic::service::InterceptorLayer::new(named))
            .add_routes(routes)
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopping.cancelled_owned())
            .await
            .map_err(|e| e.to_string())
    });
    let hub = coordinator.hub().clone();
    let (end, ended) = oneshot::channel::<()>();
    let mut tasks = JoinSet::new();
    tasks.spawn(coordinator.run(async {
        let _ = ended.await;
    }));
    let mut agent = Agent::connect(address, "n1", hello()).await;
    assert_eq!(agent.welcome().await.coordinators, ["c1:7443"]);
    agent.assignments().await;
    let mut feed = hub.subscribe();
    while hub.read(|w| !w.nodes["n1"].is_ready()) {
        feed.recv().await.unwrap();
    }
    drop(end);
    assert_eq!(agent.goodbye().await.reason(), Reason::Shutdown);
    drop(agent);
    let orderly = tokio::time::timeout(Duration::from_secs(20), tasks.join_next()).await;
    orderly.expect("no end").unwrap().unwrap().unwrap();
    assert!(
        hub.read(|w| w.nodes["n1"].is_ready()),
        "an orderly end makes no node lost"
    );

    let mark = Guard::open(dir.path()).unwrap();
    assert_eq!(mark.last().unwrap().revision, store.newest().revision());
    let again = Coordinator::start(config(dir.path()), Arc::new(store.reopen()))
        .await
        .unwrap();
    again.run(async {}).await.unwrap();

    // Nothing was lost here; elsewhere an older copy and an emptied store are put in its place.
    let older = initialised().await;
    for (store, word) in [
        (older, "older than"),
        (Arc::new(MemoryStore::new(MemoryOptions::default())), "is empty"),
    ] {
        let before = store.newest();
        let refused = Coordinator::start(config(dir.path()), store.clone())
            .await
            .err()
            .unwrap();
        assert!(refused.to_string().contains(word), "{refused}");
        assert_eq!(store.newest(), before, "a refused store was written to");
    }
}

#[tokio::test]
async fn the_end_of_a_task_is_the_end_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = initialised().await;
    let mut coordinator = Coordinator::start(config(dir.path()), store.clone()).await.unwrap();
    coordinator.spawn("planner", async { Err("it broke".into()) });
    let ended = coordinator.run(std::future::pending()).await.unwrap_err();
    assert_eq!(ended.to_string(), "planner ended: it broke");

    let coordinator = Coordinator::start(config(dir.path()), store.clone()).await.unwrap();
    store.close();
    let ended = tokio::time::timeout(Duration::from_secs(20), coordinator.run(std::future::pending())).await;
    assert!(ended.unwrap().unwrap_err().to_string().contains("watch"));
}

#[tokio::test]
async fn the_mark_follows_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(config(dir.path()), initialised().await)
        .await
        .unwrap();
    let first = Guard::open(dir.path()).unwrap().last().cloned().unwrap();
    assert_eq!(first.term, coordinator.hub().fence().unwrap().term);
    let change = Change::put("audit/1", Expect::Any, Bytes::from_static(b"{}"));
    let rv = coordinator.hub().commit(vec![change]).await.unwrap().last();
    let wait = async {
        while Guard::open(dir.path()).unwrap().last().unwrap().revision < rv.revision() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("the mark stands still");
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let empty = Arc::new(MemoryStore::new(MemoryOptions::default()));
    let refused = Coordinator::start(config(dir.path()), empty).await.err().unwrap();
    assert!(
        refused.to_string().contains("wharf-coordinator init --data-dir"),
        "{refused}"
    );
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(dir.path());
    config.http = taken.local_addr().unwrap();
    let store = initialised().await;
    let before = store.newest();
    let refused = Coordinator::start(config, store.clone()).await.err().unwrap();
    assert!(refused.to_string().contains("cannot listen on 127.0.0.1"), "{refused}");
    assert_eq!(store.newest(), before, "the term was taken all the same");
}
