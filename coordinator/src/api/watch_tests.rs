//! Watches: the table of the module's head case by case.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt};
use proto::model::Phase;
use serde_json::json;
use tonic::Code;

use super::*;
use crate::{
    api::testing::*,
    store::{Change, Expect, keys},
    world::record::OwnerRecord,
};

const LONG: Duration = Duration::from_secs(20);

async fn next(stream: &mut WatchStream) -> (Type, String, wire::Object, u64) {
    let event = timeout(LONG, stream.next()).await.expect("in time");
    let event = event.expect("goes on").expect("an event");
    let object = event.object.clone().unwrap_or_default();
    (event.r#type(), object.name.clone(), object, event.resource_version)
}

/// Type and name of the next `n` events.
async fn take(stream: &mut WatchStream, n: usize) -> Vec<(Type, String)> {
    let mut out = Vec::new();
    for _ in 0..n {
        let (kind, name, ..) = next(stream).await;
        out.push((kind, name));
    }
    out
}

fn pods(names: &[(Type, &str)]) -> Vec<(Type, String)> {
    names.iter().map(|(t, n)| (*t, (*n).to_owned())).collect()
}

pub(super) async fn remove(bench: &Bench, name: &str) {
    let at = keys::object(Kind::Pod, "default", name);
    let status = keys::pod_status("default", name);
    bench
        .put(vec![
            Change::delete(status, Expect::Any),
            Change::delete(at, Expect::Any),
        ])
        .await;
}

async fn resume(bench: &Bench, after: u64) -> WatchStream {
    let request = proto::wire::ListRequest {
        resource_version: after,
        ..listing("pods", "", "")
    };
    bench.watch(request).await.expect("watching")
}

#[tokio::test]
async fn from_nothing_it_lists_marks_and_goes_on() {
    let bench = Bench::new().await;
    for name in ["b", "a"] {
        bench.pod(name, "", None).await;
    }
    let mut watch = bench.watch(listing("pods", "", "")).await.expect("watching");
    assert_eq!(
        take(&mut watch, 2).await,
        pods(&[(Type::Added, "a"), (Type::Added, "b")])
    );
    let (kind, _, object, version) = next(&mut watch).await;
    assert_eq!((kind, object), (Type::Bookmark, wire::Object::default()));
    assert_eq!(version, bench.hub.rv().0);
    bench.pod("c", "", None).await;
    assert_eq!(take(&mut watch, 1).await, pods(&[(Type::Added, "c")]));
    bench.status("c", Phase::Running, true).await;
    let (kind, _, changed, _) = next(&mut watch).await;
    assert_eq!(
        (kind, &value(&changed)["status"]["phase"]),
        (Type::Modified, &json!("Running"))
    );
    remove(&bench, "c").await;
    let (kind, _, last, version) = next(&mut watch).await;
    assert_eq!((kind, last), (Type::Deleted, changed));
    assert_eq!(version, bench.hub.rv().0);
    assert!(watch.next().now_or_never().is_none(), "nothing more");
}

#[tokio::test]
async fn from_a_version_it_tells_what_was_missed() {
    let bench = Bench::new().await;
    for name in ["stays", "changes", "goes", "renewed"] {
        bench.pod(name, "", None).await;
    }
    let after = bench.hub.rv().0;
    remove(&bench, "goes").await;
    bench.status("changes", Phase::Running, true).await;
    remove(&bench, "renewed").await;
    bench.pod("new", "", None).await;
    bench.pod("renewed", "", None).await;
    let mut watch = resume(&bench, after).await;
    let expected = pods(&[
        (Type::Deleted, "goes"),
        (Type::Modified, "changes"),
        (Type::Deleted, "renewed"),
        (Type::Modified, "new"),
        (Type::Added, "renewed"),
    ]);
    assert_eq!(take(&mut watch, 5).await, expected);
    // What did not change is known to the client: its end is told.
    remove(&bench, "stays").await;
    assert_eq!(take(&mut watch, 1).await, pods(&[(Type::Deleted, "stays")]));
}

#[tokio::test]
async fn a_break_between_two_events_of_a_batch_loses_nothing() {
    let bench = Bench::new().await;
    let after = bench.hub.rv().0;
    for name in ["a", "b", "c"] {
        bench.pod(name, "", None).await;
    }
    let mut watch = resume(&bench, after).await;
    let (.., first) = next(&mut watch).await;
    let (.., second) = next(&mut watch).await;
    let (.., last) = next(&mut watch).await;
    assert_eq!((first, second, last), (after, after, bench.hub.rv().0));
}

#[tokio::test]
async fn versions_that_cannot_be_watched_from() {
    let bench = Bench::new().await;
    let old = bench.hub.rv().0 - 1;
    let message = format!("version {old} is no longer kept; list again");
    let request = |after| proto::wire::ListRequest {
        resource_version: after,
        ..listing("pods", "", "")
    };
    let refusal = bench.watch(request(old)).await.map(|_| ());
    assert_eq!(refused(refusal), (Code::OutOfRange, message));
    let newest = bench.hub.rv().0;
    let message = format!(
        "version {} is beyond this coordinator's newest ({newest}); list again",
        newest + 1
    );
    let refusal = bench.watch(request(newest + 1)).await.map(|_| ());
    assert_eq!(refused(refusal), (Code::OutOfRange, message));
    for (kind, labels, fields) in [
        ("x", "", ""),
        ("pods", "a in", ""),
        ("pods", "", "spec.x=1"),
        ("rc", "", "status.phase=a"),
    ] {
        let refusal = bench.watch(listing(kind, labels, fields)).await.map(|_| ());
        assert_eq!(refused(refusal).0, Code::InvalidArgument, "{kind} {labels} {fields}");
        assert_eq!(
            refused(bench.list(listing(kind, labels, fields)).await).0,
            Code::InvalidArgument
        );
    }
}

#[tokio::test]
async fn coming_into_and_going_out_of_a_selection() {
    let bench = Bench::new().await;
    bench.pod("p", "n1", None).await;
    let mut green = bench
        .watch(listing("pods", "colour=green", ""))
        .await
        .expect("watching");
    let mut running = bench
        .watch(listing("pods", "", "status.phase=Running"))
        .await
        .expect("watching");
    assert_eq!(next(&mut green).await.0, Type::Bookmark);
    assert_eq!(next(&mut running).await.0, Type::Bookmark);
    let paint = |colour: &str| {
        let colour = colour.to_owned();
        bench.change_pod("p", |r| {
            r.labels.insert("colour".into(), Some(colour));
        })
    };
    paint("green").await;
    let (kind, _, sent, _) = next(&mut green).await;
    assert_eq!(kind, Type::Added);
    paint("red").await;
    let (kind, _, gone, _) = next(&mut green).await;
    assert_eq!((kind, gone), (Type::Deleted, sent));
    bench.status("p", Phase::Running, true).await;
    assert_eq!(take(&mut running, 1).await, pods(&[(Type::Added, "p")]));
    bench.status("p", Phase::Succeeded, false).await;
    assert_eq!(take(&mut running, 1).await, pods(&[(Type::Deleted, "p")]));
    assert!(green.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_resumed_selection_is_told_of_what_left_it_unseen() {
    let bench = Bench::new().await;
    for name in ["left", "never"] {
        bench.pod(name, "n1", None).await;
    }
    bench.status("left", Phase::Running, true).await;
    let after = bench.hub.rv().0;
    bench.status("left", Phase::Failed, false).await;
    bench.status("never", Phase::Failed, false).await;
    let request = |fields: &str| proto::wire::ListRequest {
        resource_version: after,
        ..listing("pods", "", fields)
    };
    let mut watch = bench
        .watch(request("status.phase=Running,metadata.name=left"))
        .await
        .expect("watching");
    assert_eq!(take(&mut watch, 1).await, pods(&[(Type::Deleted, "left")]));
    assert!(watch.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_controller_is_shown_anew_when_its_pods_or_their_node_change() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    let made = bench.make("rc", &rc("web")).await;
    let owner = OwnerRecord {
        name: "web".into(),
        uid: made.uid.clone(),
        ..OwnerRecord::default()
    };
    let mut watch = bench.watch(listing("rc", "", "")).await.expect("watching");
    take(&mut watch, 2).await;
    bench.pod("web-1", "n1", Some(owner)).await;
    let counts = |object: &wire::Object| {
        let status = &value(object)["status"];
        (status["replicas"].clone(), status["readyReplicas"].clone())
    };
    assert_eq!(counts(&next(&mut watch).await.2), (json!(1), json!(0)));
    bench.status("web-1", Phase::Running, true).await;
    assert_eq!(counts(&next(&mut watch).await.2), (json!(1), json!(1)));
    let mut live = bench.watch(listing("pods", "", "")).await.expect("watching");
    take(&mut live, 2).await;
    let after = bench.hub.rv().0;
    bench.node("n1", false).await;
    assert_eq!(counts(&next(&mut watch).await.2), (json!(1), json!(0)));
    // The same for pods, and for those who come back.
    let mut resumed = resume(&bench, after).await;
    for pods in [&mut live, &mut resumed] {
        let (kind, _, shown, _) = next(pods).await;
        assert_eq!(kind, Type::Modified);
        let shown = value(&shown);
        assert!(
            shown["status"]["conditions"].to_string().contains("NodeLost"),
            "{shown}"
        );
    }
    remove(&bench, "web-1").await;
    assert_eq!(counts(&next(&mut watch).await.2), (json!(0), json!(0)));
}

#[tokio::test]
async fn a_name_given_anew_is_another_object() {
    let bench = Bench::new().await;
    bench.pod("p", "", None).await;
    let mut watch = bench.watch(listing("pods", "", "")).await.expect("watching");
    take(&mut watch, 2).await;
    // One commit after the other without letting the watch look in between.
    let at = keys::object(Kind::Pod, "default", "p");
    let record = bench
        .hub
        .read(|w| (*w.pods[&("default".to_owned(), "p".to_owned())].record).clone());
    let other = crate::world::record::PodRecord {
        uid: "another".into(),
        ..record
    };
    let put = crate::world::record::encode(&other);
    let store = bench.hub.store();
    store
        .commit(&fence(), vec![Change::delete(at.clone(), Expect::Any)])
        .await
        .expect("committed");
    store
        .commit(&fence(), vec![Change::put(at, Expect::Absent, put)])
        .await
        .expect("committed");
    assert_eq!(
        take(&mut watch, 2).await,
        pods(&[(Type::Deleted, "p"), (Type::Added, "p")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_told_to_list_again() {
    let settings = Settings {
        watch_buffer: 4,
        watch_stall: Duration::from_millis(50),
        ..Settings::default()
    };
    let bench = Bench::with(Arc::new(AllowAll), settings).await;
    let mut watch = bench.watch(listing("pods", "", "")).await.expect("watching");
    for i in 0..9 {
        bench.pod(&format!("p{i}"), "", None).await;
    }
    bench.api.watches.close();
    bench.api.watches.wait().await;
    let mut seen = 0;
    let status = loop {
        match watch.next().await.expect("a last word") {
            Ok(_) => seen += 1,
            Err(status) => break status,
        }
    };
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "watch fell behind; list again")
    );
    assert_eq!(seen, 4);
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn it_ends_when_the_client_goes_and_when_the_coordinator_stops() {
    let bench = Bench::new().await;
    let mut watch = bench.watch(listing("pods", "", "")).await.expect("watching");
    take(&mut watch, 1).await;
    assert_eq!(bench.api.watches.len(), 1);
    drop(watch);
    let gone = async {
        while !bench.api.watches.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, gone).await.expect("ends with its client");
    let mut watch = bench.watch(listing("pods", "", "")).await.expect("watching");
    take(&mut watch, 1).await;
    bench.api.close().await;
    let status = watch.next().await.expect("a last word").expect_err("the end");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "this coordinator is shutting down; watch again")
    );
}

#[tokio::test]
async fn a_watch_that_lost_batches_still_sees_each_deletion() {
    let settings = Settings {
        watch_buffer: 1,
        ..Settings::default()
    };
    let bench = Bench::with(Arc::new(AllowAll), settings).await;
    for name in ["p", "q", "r"] {
        bench.pod(name, "", None).await;
    }
    let mut watch = bench.watch(listing("pods", "", "")).await.expect("watching");
    assert_eq!(take(&mut watch, 1).await, pods(&[(Type::Added, "p")]));
    // The buffer is full: the watch waits for its reader, and its feed overflows.
    remove(&bench, "q").await;
    for _ in 0..1100 {
        bench.put(vec![Change::put("meta/x", Expect::Any, "1")]).await;
    }
    let expected = [
        (Type::Added, "q"),
        (Type::Added, "r"),
        (Type::Bookmark, ""),
        (Type::Deleted, "q"),
    ];
    assert_eq!(take(&mut watch, 4).await, pods(&expected));
}

#[tokio::test]
async fn labels_that_change_bring_objects_of_each_kind_in_and_out() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.make("ns", &json!({"metadata": {"name": "a"}})).await;
    bench.make("rc", &rc("web")).await;
    bench.pod("p", "n1", None).await;
    let label = |value: &str| json!({"metadata": {"labels": {"colour": value}}});
    for (kind, name) in [("node", "n1"), ("ns", "a"), ("rc", "web"), ("pod", "p")] {
        let mut green = bench.watch(listing(kind, "colour=green", "")).await.expect("watching");
        assert_eq!(next(&mut green).await.0, Type::Bookmark, "{kind}");
        let painted = bench
            .patch(patching(kind, name, &label("green")))
            .await
            .expect("patched");
        let (event, _, object, _) = next(&mut green).await;
        assert_eq!((event, &object), (Type::Added, &painted), "{kind}");
        let since = bench.hub.rv().0;
        bench.patch(patching(kind, name, &label("red"))).await.expect("patched");
        let (event, _, object, _) = next(&mut green).await;
        assert_eq!((event, object), (Type::Deleted, painted), "{kind}");
        // And for those who were away meanwhile.
        let request = proto::wire::ListRequest {
            resource_version: since,
            ..listing(kind, "colour=green", "")
        };
        let mut resumed = bench.watch(request).await.expect("watching");
        let (event, gone, ..) = next(&mut resumed).await;
        assert_eq!((event, gone.as_str()), (Type::Deleted, name), "{kind}");
        let again = json!({"metadata": {"labels": {"colour": "green"}, "annotations": {"n": "1"}}});
        bench.patch(patching(kind, name, &again)).await.expect("patched");
        for watch in [&mut green, &mut resumed] {
            assert_eq!(take(watch, 1).await, pods(&[(Type::Added, name)]), "{kind}");
        }
        assert!(green.next().now_or_never().is_none() && resumed.next().now_or_never().is_none());
    }
}

#[tokio::test]
async fn endpoints_follow_pods_nodes_and_their_controller() {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.address("n1", "192.0.2.1").await;
    let made = bench.make("rc", &rc("web")).await;
    let owner = OwnerRecord {
        name: "web".into(),
        uid: made.uid,
        ..OwnerRecord::default()
    };
    let mut watch = bench.watch(listing("ep", "", "")).await.expect("watching");
    let (event, name, first, _) = next(&mut watch).await;
    assert_eq!((event, name.as_str()), (Type::Added, "web"));
    assert_eq!(value(&first)["subsets"], json!([]));
    assert_eq!(next(&mut watch).await.0, Type::Bookmark);
    let since = bench.hub.rv().0;

    bench.pod("p", "n1", Some(owner)).await;
    let address = |object: &wire::Object, list: &str| value(object)["subsets"][0][list][0]["ip"].clone();
    let (event, _, object, _) = next(&mut watch).await;
    assert_eq!(
        (event, address(&object, "notReadyAddresses")),
        (Type::Modified, json!("192.0.2.1"))
    );
    bench.status("p", Phase::Running, true).await;
    let (_, _, ready, version) = next(&mut watch).await;
    assert_eq!(
        (address(&ready, "addresses"), version),
        (json!("192.0.2.1"), bench.hub.rv().0)
    );
    bench.node("n1", false).await;
    let (_, _, lost, _) = next(&mut watch).await;
    assert_eq!(
        address(&lost, "notReadyAddresses"),
        json!("192.0.2.1"),
        "its node is lost"
    );
    bench.node("n1", true).await;
    assert_eq!(value(&next(&mut watch).await.2)["subsets"], value(&ready)["subsets"]);
    bench.address("n1", "192.0.2.2").await;
    assert_eq!(address(&next(&mut watch).await.2, "addresses"), json!("192.0.2.2"));

    // Who was away since before the pod came hears of it, and of the end.
    let away = |since| proto::wire::ListRequest {
        resource_version: since,
        ..listing("ep", "", "")
    };
    let mut resumed = bench.watch(away(since)).await.expect("watching");
    let (event, _, object, _) = next(&mut resumed).await;
    assert_eq!(
        (event, address(&object, "addresses")),
        (Type::Modified, json!("192.0.2.2"))
    );
    bench.delete(deleting("pod", "p")).await.expect("deleted");
    for watch in [&mut watch, &mut resumed] {
        assert_eq!(value(&next(watch).await.2)["subsets"], json!([]), "a stop takes it out");
    }
    let since = bench.hub.rv().0;
    bench.delete(deleting("rc", "web")).await.expect("deleted");
    bench.make("rc", &rc("web")).await;
    let mut resumed = bench.watch(away(since)).await.expect("watching");
    let again = [(Type::Deleted, "web"), (Type::Added, "web")];
    for watch in [&mut watch, &mut resumed] {
        assert_eq!(take(watch, 2).await, pods(&again));
    }
}

#[tokio::test]
async fn endpoints_are_not_written() {
    let bench = Bench::new().await;
    bench.make("rc", &rc("web")).await;
    let manifest = json!({"metadata": {"name": "web"}, "subsets": []});
    let expected = (
        Code::Unimplemented,
        "endpoints \"web\": derived from the pods of the replicationcontroller of this name and not written; change that one"
            .to_owned(),
    );
    assert_eq!(refused(bench.create(creating("endpoints", &manifest)).await), expected);
    assert_eq!(refused(bench.replace(replacing("ep", &manifest)).await), expected);
    assert_eq!(refused(bench.patch(patching("ep", "web", &json!({}))).await), expected);
    assert_eq!(refused(bench.delete(deleting("ep", "web")).await), expected);
    assert_eq!(
        value(&bench.get("ep", "", "web").await.expect("there"))["subsets"],
        json!([])
    );
    assert_eq!(
        refused(bench.get("ep", "", "nope").await),
        (Code::NotFound, "endpoints \"nope\" not found".to_owned())
    );
}
