//! The invariant of watches as a property: from every version, through every selection, under random changes and
//! forced lag, a client that applies the events has what a List gives.

use std::sync::Arc;

use proptest::prelude::*;
use proto::model::{Phase, Time};

use super::{tests::remove, *};
use crate::{
    api::testing::*,
    world::record::{OwnerRecord, StopRecord},
};

#[derive(Clone, Debug)]
enum Step {
    Pod(u8, bool),
    Remove(u8),
    Label(u8, u8),
    Status(u8, u8),
    Stop(u8),
    Node(bool),
    Address(u8),
    DeleteController,
    /// Look at what waits; or lose it and look everywhere.
    Look(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pod = 0..4_u8;
    let step = prop_oneof![
        3 => (pod.clone(), any::<bool>()).prop_map(|(p, owned)| Step::Pod(p, owned)),
        2 => pod.clone().prop_map(Step::Remove),
        2 => (pod.clone(), 0..3_u8).prop_map(|(p, l)| Step::Label(p, l)),
        2 => (pod.clone(), 0..3_u8).prop_map(|(p, s)| Step::Status(p, s)),
        1 => pod.prop_map(Step::Stop),
        2 => any::<bool>().prop_map(Step::Node),
        1 => (1..4_u8).prop_map(Step::Address),
        1 => Just(Step::DeleteController),
        3 => any::<bool>().prop_map(Step::Look),
    ];
    prop::collection::vec(step, 5..60)
}

/// What a client has after the events, by name.
#[derive(Clone, Debug, Default)]
struct Client {
    has: BTreeMap<String, wire::Object>,
    version: u64,
}

impl Client {
    fn apply(&mut self, events: Vec<WatchEvent>) {
        for event in events {
            assert!(
                event.resource_version >= self.version,
                "{event:?} after {}",
                self.version
            );
            self.version = event.resource_version;
            let kind = event.r#type();
            let Some(object) = event.object else { continue };
            match kind {
                Type::Added => assert!(
                    self.has.insert(object.name.clone(), object).is_none(),
                    "ADDED what it had"
                ),
                Type::Modified => {
                    self.has.insert(object.name.clone(), object);
                }
                Type::Deleted => {
                    self.has.remove(&object.name);
                }
                Type::Bookmark | Type::Unspecified => panic!("an object in a {kind:?}"),
            }
        }
    }
}

async fn apply_step(bench: &Bench, step: &Step, owner: &OwnerRecord) {
    let (p, name) = match step {
        Step::Pod(p, _) | Step::Remove(p) | Step::Label(p, _) | Step::Status(p, _) | Step::Stop(p) => {
            (*p, format!("p{p}"))
        }
        Step::Node(_) | Step::Address(_) | Step::DeleteController | Step::Look(_) => (0, String::new()),
    };
    let there = bench
        .hub
        .read(|w| w.pods.contains_key(&("default".to_owned(), name.clone())));
    match step {
        Step::Pod(_, owned) if !there => {
            let node = if p % 2 == 0 { "n1" } else { "" };
            bench.pod(&name, node, owned.then(|| owner.clone())).await;
        }
        Step::Remove(_) if there => remove(bench, &name).await,
        Step::Label(_, 0) if there => {
            bench
                .change_pod(&name, |r| {
                    r.labels.insert("app".into(), None);
                })
                .await;
        }
        Step::Label(_, l) if there => {
            bench
                .change_pod(&name, |r| {
                    r.labels
                        .insert("app".into(), Some(if *l == 1 { "web" } else { "api" }.into()));
                })
                .await;
        }
        Step::Status(_, s) if there => {
            let phase = [Phase::Pending, Phase::Running, Phase::Failed][usize::from(*s)];
            bench.status(&name, phase, *s == 1).await;
        }
        Step::Stop(_) if there => {
            let stop = StopRecord {
                at: Time(3000),
                grace: 1,
                reason: "test".into(),
                lost: false,
                drain: None,
            };
            bench.change_pod(&name, |r| r.stop = Some(stop)).await;
        }
        Step::Node(ready) => bench.node("n1", *ready).await,
        Step::Address(a) => bench.address("n1", &format!("192.0.2.{a}")).await,
        // And another one of its name, which has none of its pods.
        Step::DeleteController if bench.delete(deleting("rc", "web")).await.is_ok() => {
            bench.make("rc", &rc("web")).await;
        }
        _ => {}
    }
}

/// A watcher of one selection, begun at some step.
struct Watcher {
    tracker: Tracker,
    feed: broadcast::Receiver<Arc<Batch>>,
    client: Client,
}

const SELECTIONS: [(&str, &str, &str); 8] = [
    ("pods", "", ""),
    ("pods", "app=web", ""),
    ("pods", "app!=api", "status.phase!=Failed"),
    ("pods", "", "spec.nodeName=n1,metadata.name!=p2"),
    ("rc", "", ""),
    ("endpoints", "", ""),
    ("endpoints", "app=web", "metadata.name=web"),
    ("nodes", "", ""),
];

async fn listed(bench: &Bench, selection: (&str, &str, &str)) -> Client {
    let (kind, labels, fields) = selection;
    let reply = bench.list(listing(kind, labels, fields)).await.expect("listed");
    Client {
        has: reply.items.into_iter().map(|o| (o.name.clone(), o)).collect(),
        version: reply.resource_version,
    }
}

fn watcher(bench: &Bench, selection: (&str, &str, &str), client: Client) -> Watcher {
    let (kind, labels, fields) = selection;
    let kind = convert::kind(kind).expect("a kind");
    let filter = Filter::parse(kind, "", labels, fields).expect("a selector");
    let feed = bench.hub.subscribe();
    let after = Rv(client.version);
    let (tracker, events) = Tracker::begin(Arc::clone(&bench.hub), filter, after).expect("begins");
    let mut watcher = Watcher { tracker, feed, client };
    watcher.client.apply(events);
    watcher
}

fn look(watcher: &mut Watcher, lose: bool) {
    let mut touched = BTreeSet::new();
    while let Ok(batch) = watcher.feed.try_recv() {
        touched.extend(batch.touched.iter().cloned());
    }
    let look = if lose { Look::All } else { Look::At(touched) };
    let events = watcher.tracker.look(&look);
    watcher.client.apply(events);
}

async fn converges(steps: &[Step], resume_at: usize) {
    let bench = Bench::new().await;
    bench.node("n1", true).await;
    bench.address("n1", "192.0.2.1").await;
    let made = bench.make("rc", &rc("web")).await;
    let owner = OwnerRecord {
        name: "web".into(),
        uid: made.uid,
        ..OwnerRecord::default()
    };
    // Clients that listed at each step and come back at `resume_at`, and one that watches from nothing.
    let mut waiting: Vec<(usize, Client)> = Vec::new();
    let mut watchers: Vec<(usize, Watcher)> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        for (s, selection) in SELECTIONS.iter().enumerate() {
            let client = listed(&bench, *selection).await;
            if i == resume_at {
                watchers.push((s, watcher(&bench, *selection, Client::default())));
            } else if i < resume_at {
                waiting.push((s, client));
            }
        }
        if i == resume_at {
            for (s, client) in std::mem::take(&mut waiting) {
                watchers.push((s, watcher(&bench, SELECTIONS[s], client)));
            }
        }
        if let Step::Look(lose) = step {
            for (_, w) in &mut watchers {
                look(w, *lose);
            }
        }
        apply_step(&bench, step, &owner).await;
    }
    for (s, client) in waiting {
        watchers.push((s, watcher(&bench, SELECTIONS[s], client)));
    }
    for (s, w) in &mut watchers {
        look(w, false);
        let expected = listed(&bench, SELECTIONS[*s]).await;
        assert_eq!(w.client.has, expected.has, "{:?}", SELECTIONS[*s]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_client_that_applies_the_events_has_what_a_list_gives(steps in steps(), resume_at in 0..30_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(converges(&steps, resume_at));
    }
}
