//! Many readers of logs at once: a stalled one holds back nobody, and whatever ends ends for all.

use std::time::{Duration, Instant};

use harness::fleet::{Asked, Fleet, Wanted};
use tonic::Code;

use crate::{PATIENCE, long};

/// Enough to fill every buffer on the way of several readers many times over.
const LOG: usize = 24 << 20;

/// A fleet of one host with one pod; its name, and the id of its container.
async fn one_pod() -> (Fleet, String, String) {
    let fleet = Fleet::of(1).start().await;
    let wanted = Wanted {
        name: "web".into(),
        replicas: 1,
        images: vec!["web:1".into()],
        annotations: Vec::new(),
    };
    fleet.admin().create(&wanted).await.expect("created");
    let asked = Asked::from([("web".into(), 1)]);
    fleet.until("it runs", PATIENCE, |f| f.converged(&asked)).await;
    let pod = fleet.admin().pods().await.expect("listed").remove(0);
    let key = ("default".to_owned(), pod.clone());
    let told = move |f: &Fleet| {
        let told = f.world(|w| {
            let status = w.pods[&key].status.as_ref();
            status.is_some_and(|s| {
                s.value
                    .status
                    .container_statuses
                    .iter()
                    .any(|c| !c.container_id.is_empty())
            })
        });
        if told {
            Ok(())
        } else {
            Err("no container is known".into())
        }
    };
    fleet.until("its container is known", PATIENCE, told).await;
    let id = fleet.hosts[0].engine.containers()[0].id.clone();
    (fleet, pod, id)
}

fn write(fleet: &Fleet, id: &str, bytes: usize) {
    let line = [vec![b'x'; (4 << 10) - 1], b"\n".to_vec()].concat();
    fleet.hosts[0].engine.write(id, false, &line.repeat(bytes / line.len()));
}

async fn readers(fleet: &Fleet, n: usize) {
    let engine = fleet.hosts[0].engine.clone();
    let counted = move |_: &Fleet| match engine.log_readers() {
        now if now == n => Ok(()),
        now => Err(format!("{now} logs are read, not {n}")),
    };
    fleet.until("the agent reads so many logs", PATIENCE, counted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_hold_back_nobody() {
    let (fleet, pod, id) = one_pod().await;
    write(&fleet, &id, LOG);
    let sessions = |f: &Fleet| f.metric("wharf_sessions_opened_total");
    let before = sessions(&fleet);
    let stalled = 8;
    let mut slow = Vec::new();
    for _ in 0..stalled {
        slow.push(fleet.logs(&pod, true).await.expect("a log"));
    }
    readers(&fleet, stalled).await;
    // Three times as long as a node may be silent, each heartbeat being due 60 times; a minute when asked for.
    let while_stalled = Duration::from_secs(if long() { 60 } else { 3 });
    let start = Instant::now();
    let mut others = 0;
    while start.elapsed() < while_stalled {
        let mut reader = fleet.logs(&pod, false).await.expect("another log");
        let read = reader.read(usize::MAX).await.expect("to its end").len();
        assert_eq!(read, LOG, "another reader got another log");
        others += 1;
        let ready = fleet.world(|w| w.nodes["n0"].is_ready());
        assert!(
            ready,
            "the node was lost after {:?} and {others} other readers",
            start.elapsed()
        );
    }
    assert_eq!(sessions(&fleet), before, "the session was lost meanwhile");
    // What waits on the way of a stalled reader is bounded, and not by its log.
    readers(&fleet, stalled).await;
    let ahead = fleet.hosts[0].engine.log_taken() - others * LOG as u64;
    assert!(
        ahead < (stalled * LOG) as u64 / 4,
        "{ahead} bytes were read ahead for {stalled}"
    );
    // It has lost nothing, and goes on.
    let mut one = slow.pop().expect("a stalled one");
    assert_eq!(one.read(LOG).await.expect("all").len(), LOG);
    drop(one);
    drop(slow);
    readers(&fleet, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_readers_of_a_node_and_no_more() {
    let (fleet, pod, id) = one_pod().await;
    let mut all = Vec::new();
    let refused = loop {
        match fleet.logs(&pod, true).await {
            Ok(reader) => all.push(reader),
            Err(status) => break status,
        }
    };
    assert_eq!(
        (all.len(), refused.code()),
        (32, Code::ResourceExhausted),
        "{refused:?}"
    );
    write(&fleet, &id, 1 << 20);
    for reader in &mut all {
        assert_eq!(reader.read(1 << 20).await.expect("all").len(), 1 << 20);
    }
    all.pop();
    readers(&fleet, 31).await;
    all.push(fleet.logs(&pod, true).await.expect("there is room again"));
    // The container's end is that of every log.
    assert!(fleet.hosts[0].engine.kill_behind_back(&id));
    for reader in &mut all {
        reader.end().await.expect("a good end");
    }
    readers(&fleet, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_learns_that_agent_or_coordinator_went() {
    let (mut fleet, pod, _) = one_pod().await;
    let mut reader = fleet.logs(&pod, true).await.expect("a log");
    fleet.hosts[0].kill().await;
    let ended = reader.end().await.expect_err("it broke");
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Unavailable, lost(&pod).as_str())
    );
    let away = fleet.logs(&pod, true).await.err().expect("refused");
    assert_eq!(away.code(), Code::Unavailable, "{away:?}");
    fleet.hosts[0].start();
    let mut reader = loop {
        match fleet.logs(&pod, true).await {
            Ok(reader) => break reader,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    readers(&fleet, 1).await;
    fleet.kill_coordinator().await;
    reader.end().await.expect_err("it broke");
    readers(&fleet, 0).await;
}

fn lost(pod: &str) -> String {
    format!("pods \"{pod}\": the agent of node n0 was lost; try again")
}
