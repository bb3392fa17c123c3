//! Merging statuses, and writing them against a store in memory.

use std::sync::atomic::Ordering;

use proptest::prelude::*;
use proto::model::{ContainerStatus, Kind, Phase};

use super::*;
use crate::session::testing::{self, Base, Gate, report, status};

const START: Start = Start {
    generation: 0,
    epoch: 1,
};

fn record_of(seq: u64, phase: Phase, restarts: u32, stopped: bool) -> StatusRecord {
    let mut status = status(phase);
    status.container_statuses = vec![ContainerStatus {
        name: "app".into(),
        restart_count: restarts,
        ..ContainerStatus::default()
    }];
    StatusRecord {
        uid: "u".into(),
        epoch: 1,
        seq,
        status,
        stopped,
        ..StatusRecord::default()
    }
}

fn any_record() -> impl Strategy<Value = StatusRecord> {
    let phase = prop_oneof![
        Just(Phase::Pending),
        Just(Phase::Running),
        Just(Phase::Succeeded),
        Just(Phase::Failed)
    ];
    (0..20_u64, phase, 0..4_u32, any::<bool>()).prop_map(|(seq, phase, n, stopped)| record_of(seq, phase, n, stopped))
}

proptest! {
    #[test]
    fn nothing_goes_back_and_an_end_is_never_lost(records in proptest::collection::vec(any_record(), 1..40)) {
        let mut stored = records[0].clone();
        let mut newest = stored.stamp();
        for new in &records[1..] {
            let later = new.stamp() > stored.stamp();
            if let Some(next) = merge(&stored, new) {
                prop_assert!(later);
                prop_assert!(next.stamp() > stored.stamp());
                prop_assert!(next.status.phase >= stored.status.phase);
                let restarts = |r: &StatusRecord| r.status.container_statuses[0].restart_count;
                prop_assert!(restarts(&next) >= restarts(&stored));
                prop_assert!(next.status != stored.status || next.stopped != stored.stopped);
                prop_assert!(next.stopped || !stored.stopped);
                stored = next;
            }
            if later && new.stopped {
                prop_assert!(stored.stopped);
            }
            newest = newest.max(stored.stamp());
            prop_assert_eq!(newest, stored.stamp());
        }
    }
}

fn pending(world: &World, reports: Vec<wire::PodStatus>) -> Pending {
    let (seq, reports) = read(wire::Statuses { seq: 9, pods: reports }, START).unwrap();
    let mut pending = Pending::default();
    assert!(pending.accept(world, "n1", seq, reports).is_empty());
    pending
}

#[tokio::test]
async fn a_full_nodes_statuses_go_in_batches() {
    let base = Base::new().await;
    base.node("n1").await;
    let names: Vec<String> = (0..150).map(|n| format!("p{n}")).collect();
    for name in &names {
        base.pod(name, "n1").await;
    }
    let reports = names.iter().map(|n| report(n, 1, Phase::Running, false)).collect();
    let pending = base.hub.read(|w| pending(w, reports));
    let metrics = Metrics::new();
    let flushed = flush(&base.hub, &metrics, "n1", pending).await.unwrap();
    assert_eq!((flushed.seq, flushed.docker), (Some(9), None));
    assert_eq!(metrics.statuses_written.get(), 150);
    assert_eq!(base.store.commits.load(Ordering::SeqCst), 3);
    assert!(base.hub.read(|w| w.pods.values().all(|p| p.phase() == Phase::Running)));
}

#[tokio::test]
async fn big_statuses_stay_within_a_commits_bytes() {
    let base = Base::new().await;
    base.node("n1").await;
    let mut reports = Vec::new();
    for n in 0..30 {
        let name = format!("p{n}");
        base.pod(&name, "n1").await;
        let mut big = report(&name, 1, Phase::Running, false);
        let mut status = status(Phase::Running);
        status.message = "m".repeat(60_000);
        big.status_json = record::encode(&status);
        reports.push(big);
    }
    let pending = base.hub.read(|w| pending(w, reports));
    flush(&base.hub, &Metrics::new(), "n1", pending).await.unwrap();
    assert!(base.hub.read(|w| w.pods.values().all(|p| p.status.is_some())));
}

#[tokio::test]
async fn the_status_of_an_earlier_pod_of_the_same_name_gives_way() {
    let base = Base::new().await;
    base.node("n1").await;
    base.pod("a", "n1").await;
    let old = StatusRecord {
        uid: "another".into(),
        ..record_of(99, Phase::Failed, 0, true)
    };
    base.put(keys::pod_status("default", "a"), record::encode(&old)).await;
    let pending = base
        .hub
        .read(|w| pending(w, vec![report("a", 1, Phase::Running, false)]));
    flush(&base.hub, &Metrics::new(), "n1", pending).await.unwrap();
    let key = ("default".to_owned(), "a".to_owned());
    assert_eq!(base.hub.read(|w| w.pods[&key].phase()), Phase::Running);
}

#[tokio::test]
async fn a_pod_deleted_meanwhile_leaves_no_status() {
    let base = Base::new().await;
    base.node("n1").await;
    for name in ["fresh", "seen", "stays"] {
        base.pod(name, "n1").await;
    }
    let metrics = Metrics::new();
    let first = base
        .hub
        .read(|w| pending(w, vec![report("seen", 1, Phase::Running, false)]));
    flush(&base.hub, &metrics, "n1", first).await.unwrap();

    // Past the gate: what the api does while the reports wait for the store. One status is there already, so
    // that its write fails; the other one is not, so that it succeeds.
    let store: &dyn crate::store::Store = &base.store.inner;
    let fence = base.hub.fence().unwrap();
    for name in ["seen", "fresh"] {
        base.store.gate.send_replace(Gate::Closed);
        let before = *base.store.arrived.borrow();
        let reports = [name, "stays"].map(|n| report(n, 2, Phase::Failed, false));
        let second = base.hub.read(|w| pending(w, reports.to_vec()));
        let (hub, mut arrived) = (base.hub.clone(), base.store.arrived.subscribe());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { flush(&hub, &Metrics::new(), "n1", second).await.map(|f| f.seq) });
        arrived.wait_for(|n| *n > before).await.unwrap();
        let gone = vec![
            Change::delete(keys::object(Kind::Pod, "default", name), Expect::Any),
            Change::delete(keys::pod_status("default", name), Expect::Any),
        ];
        store.commit(&fence, gone).await.unwrap();
        base.store.gate.send_replace(Gate::Open);
        assert_eq!(tasks.join_next().await.unwrap().unwrap().unwrap(), Some(9));
    }
    let left: Vec<String> = store.load().await.unwrap().entries.into_iter().map(|e| e.key).collect();
    let left: Vec<_> = left.iter().filter(|k| k.starts_with("status/")).collect();
    assert_eq!(left, ["status/pod/default/stays"]);
}

#[tokio::test]
async fn facts_are_written_when_they_change() {
    let base = Base::new().await;
    base.node("n1").await;
    let metrics = Metrics::new();
    let mut last = base.hub.rv();
    for (hostname, written) in [("a", true), ("a", false), ("b", true)] {
        let mut facts = testing::facts();
        facts.hostname = hostname.into();
        let mut pending = Pending::default();
        pending.set_facts(facts::record(&facts, &[]).unwrap(), None);
        assert_eq!(
            flush(&base.hub, &metrics, "n1", pending).await.unwrap().docker,
            Some(Ok(()))
        );
        assert_eq!(base.hub.rv() > last, written, "{hostname}");
        last = base.hub.rv();
    }
}

#[tokio::test]
async fn the_inventory_of_a_deleted_node_is_not_written() {
    let base = Base::new().await;
    base.node("n1").await;
    let metrics = Metrics::new();
    let mut last = base.hub.rv();
    for (node, written) in [("n1", true), ("n1", false), ("gone", false)] {
        let hardware = hardware::record(Some(&testing::inventory())).unwrap();
        let pending = Pending {
            hardware,
            ..Pending::default()
        };
        assert!(
            flush(&base.hub, &metrics, node, pending)
                .await
                .unwrap()
                .hardware
                .is_empty()
        );
        assert_eq!(base.hub.rv() > last, written, "{node}");
        last = base.hub.rv();
    }
}

#[test]
fn what_is_too_much_is_refused() {
    let mut big = report("a", 1, Phase::Running, false);
    big.status_json = vec![b' '; MAX_STATUS + 1];
    let many = vec![report("a", 1, Phase::Running, false); MAX_PODS + 1];
    for pods in [vec![big], many] {
        assert!(
            read(wire::Statuses { seq: 1, pods }, START)
                .unwrap_err()
                .contains("at most")
        );
    }
}
