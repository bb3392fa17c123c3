//! The watch of a drain, and what a view says.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use proto::wire::{DrainRequest, WatchDrainRequest, drains_server::Drains};
use tonic::{Code, Request, Status};

use super::*;
use crate::{
    api::{Settings, drains::DrainService, testing::*, view_watch},
    store::{Change, Expect, keys},
    world::{
        drains::{DrainEnd, DrainOutcome, DrainRecord},
        record::{ReplacesRecord, encode},
    },
};

async fn drained(bench: &Bench) {
    let request = DrainRequest {
        name: "n1".into(),
        ..DrainRequest::default()
    };
    let service = DrainService(Arc::clone(&bench.api));
    service.drain(Request::new(request)).await.expect("began");
}

async fn bench() -> Bench {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.node("n2", true).await;
    bench.pod("web-1", "n1", None).await;
    drained(&bench).await;
    bench
}

async fn change(bench: &Bench, change: impl FnOnce(&mut DrainRecord)) {
    let mut drain = bench
        .hub
        .read(|w| (*w.nodes["n1"].drain.as_ref().expect("there").value).clone());
    change(&mut drain);
    let change = Change::put(keys::drain("n1"), Expect::Any, encode(&drain));
    bench.put(vec![change]).await;
}

async fn end(bench: &Bench, how: DrainOutcome) {
    change(bench, |drain| drain.ended = Some(DrainEnd { at: Time::now(), how })).await;
}

async fn next(watch: &mut ViewStream<DrainView>) -> DrainView {
    let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    next.expect("in time").expect("not over").expect("a view")
}

async fn over(watch: &mut ViewStream<DrainView>) -> Option<Status> {
    let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    next.expect("in time").map(|last| last.expect_err("no view"))
}

#[tokio::test]
async fn a_watch_begins_with_what_is_and_ends_with_the_drain() {
    let bench = bench().await;
    let mut watch = bench.api.watch_drain("n1").expect("watching");
    let first = next(&mut watch).await;
    assert_eq!(
        (first.node.as_str(), first.by.as_str(), first.total),
        ("n1", "user/admin", 1)
    );
    assert!(first.ended_ms == 0 && first.now_ms > 0 && first.deadline_ms == first.since_ms + 3_600_000);
    change(&bench, |drain| drain.forced = Some(Time(77))).await;
    let second = next(&mut watch).await;
    assert_eq!(second.forced_ms, 77_000);
    end(&bench, DrainOutcome::Aborted).await;
    let last = next(&mut watch).await;
    assert!(last.ended_ms > 0);
    assert_eq!(last.phase, "Aborted");
    assert!(over(&mut watch).await.is_none(), "it ends as it should");
    // Who comes later sees the end.
    let mut late = bench.api.watch_drain("n1").expect("watching");
    assert_eq!(next(&mut late).await.phase, "Aborted");
    assert!(over(&mut late).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn what_happens_at_once_is_one_view_and_nothing_new_is_none() {
    let bench = bench().await;
    let mut watch = bench.api.watch_drain("n1").expect("watching");
    next(&mut watch).await;
    for at in 1..=40 {
        change(&bench, |drain| drain.forced = Some(Time(at))).await;
    }
    let mut views = vec![next(&mut watch).await];
    while views.last().is_some_and(|v| v.forced_ms < 40_000) {
        views.push(next(&mut watch).await);
    }
    assert!(views.len() <= 2, "{}", views.len());
    // The clock alone is no news, nor what others do.
    bench.node("n9", true).await;
    let quiet = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn pods_of_the_node_and_their_replacements_are_looked_at() {
    let bench = bench().await;
    let hub = &bench.hub;
    bench.pod("other", "n2", None).await;
    bench.pod("new", "n2", None).await;
    bench
        .change_pod("new", |record| {
            record.replaces = Some(ReplacesRecord {
                name: "web-1".into(),
                uid: "u".into(),
                node: "n1".into(),
                drain: "d".into(),
            });
        })
        .await;
    let watch = Watched {
        node: "n1".into(),
        id: String::new(),
        seen: Seen {
            pods: [("default".to_owned(), "gone".to_owned())].into(),
            nodes: ["n1".to_owned(), "n3".to_owned()].into(),
        },
    };
    let pod = |name: &str| Touched::Pod(("default".into(), name.into()));
    for (touched, concerns) in [
        (pod("web-1"), true),
        (pod("new"), true),
        (pod("gone"), true),
        (pod("other"), false),
        (pod("unknown"), false),
        (Touched::Drain("n1".into()), true),
        (Touched::Node("n3".into()), true),
        (Touched::Node("n2".into()), false),
        (Touched::Event(("default".into(), "web-1".into())), false),
    ] {
        let batch = Batch {
            rv: hub.rv(),
            touched: vec![pod("other"), touched.clone()],
        };
        assert_eq!(watch.concerns(hub, &batch), concerns, "{touched:?}");
    }
}

#[tokio::test]
async fn without_a_drain_there_is_nothing_to_watch() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let watch = |name: &str| {
        let service = DrainService(Arc::clone(&bench.api));
        let name = name.to_owned();
        async move {
            let reply = service.watch(Request::new(WatchDrainRequest { name })).await;
            reply.map(|_| ()).expect_err("refused")
        }
    };
    let none = watch("n1").await;
    assert_eq!(
        (none.code(), none.message()),
        (
            Code::NotFound,
            "nodes \"n1\": it has no drain; begin one: wharf drain n1"
        )
    );
    assert_eq!(watch("n9").await.message(), "nodes \"n9\" not found");
}

#[tokio::test]
async fn it_ends_with_its_node_its_drain_and_the_coordinator() {
    let bench = bench().await;
    let mut other = bench.api.watch_drain("n1").expect("watching");
    next(&mut other).await;
    change(&bench, |drain| drain.id = "another".into()).await;
    let status = over(&mut other).await.expect("refused");
    assert!(
        status.code() == Code::NotFound && status.message().contains("another has begun"),
        "{status:?}"
    );
    let mut gone = bench.api.watch_drain("n1").expect("watching");
    next(&mut gone).await;
    bench.put(vec![Change::delete(keys::drain("n1"), Expect::Any)]).await;
    assert_eq!(over(&mut gone).await.expect("refused").code(), Code::NotFound);
    drained(&bench).await;
    let mut watch = bench.api.watch_drain("n1").expect("watching");
    next(&mut watch).await;
    bench.api.close().await;
    let status = over(&mut watch).await.expect("refused");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn there_are_seats_for_so_many_and_a_sleeper_loses_his() {
    let settings = Settings {
        view_watches: 2,
        watch_stall: Duration::from_secs(3),
        ..Settings::default()
    };
    let bench = Bench::with(Arc::new(AllowAll), settings).await;
    bench.node("n1", true).await;
    drained(&bench).await;
    let mut asleep = bench.api.watch_drain("n1").expect("a seat");
    let left = bench.api.watch_drain("n1").expect("a seat");
    let full = Status::from(bench.api.watch_drain("n1").map(|_| ()).expect_err("full"));
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    assert!(
        full.message().starts_with("2 watches of drains and updates are open"),
        "{full:?}"
    );
    drop(left);
    drop(bench.api.watch_drain("n1").expect("his seat is free"));
    // More views than wait for a reader.
    for at in 0..20 {
        change(&bench, |drain| drain.forced = Some(Time(at))).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut views = 0;
    let last = loop {
        match asleep.next().await.expect("a last word") {
            Ok(_) => views += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(last.code(), Code::Unavailable, "{last:?}");
    assert!(views <= view_watch::BUFFER + 1, "{views}");
}

#[test]
fn the_time_left_follows_the_pace() {
    let at = |since_ms, now_ms, total, left| {
        eta(&DrainView {
            since_ms,
            now_ms,
            total,
            left,
            ..DrainView::default()
        })
    };
    assert_eq!(at(0, 20_000, 10, 10), 0, "none has left yet");
    assert_eq!(at(0, 20_000, 10, 5), 40_000);
    assert_eq!(at(0, 20_000, 10, 0), 20_000);
    // More there than when it began, a clock that went back.
    assert_eq!(at(5, 0, 1, 3), 0);
    assert_eq!(at(9_000, 5_000, 4, 2), 5_000);
}
