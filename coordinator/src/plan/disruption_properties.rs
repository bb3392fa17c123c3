//! The ledger against a naive count, over random worlds and orders.
//!
//! What is compared is counted from all pods each time, without an index or a cache.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proto::model::{ConditionStatus, Kind, Phase, PodCondition, PodStatus};
use serde_json::{Value, json};

use super::*;
use crate::{
    plan::sim::{Ask, Sim, map, rc, template},
    store::keys,
    world::record::{OwnerRecord, PodRecord, ReplacesRecord, StatusRecord, StopRecord, TemplateRecord},
};

#[derive(Clone, Debug)]
struct APod {
    /// 0 to 2: of a controller; else none.
    owner: usize,
    app: usize,
    /// Of another app by a label of its own.
    moved: bool,
    node: usize,
    ready: bool,
    /// Seconds since.
    since: i64,
    stopping: bool,
    ended: bool,
    /// The pod whose place it takes.
    replaces: Option<usize>,
}

#[derive(Clone, Debug)]
struct Case {
    desired: [i32; 3],
    min_ready: [i32; 3],
    pods: Vec<APod>,
    budgets: Vec<(usize, usize, usize)>,
    /// Pod, how, forced.
    takes: Vec<(prop::sample::Index, usize, bool)>,
    /// Nodes of which one is not heard.
    deaf: bool,
}

fn pod() -> impl Strategy<Value = APod> {
    let flag = |weight: u32| prop::bool::weighted(f64::from(weight) / 10.0);
    (
        (0..4_usize, 0..3_usize, flag(1), 0..3_usize),
        (
            flag(8),
            0..40_i64,
            flag(1),
            flag(1),
            prop::option::weighted(0.3, 0..12_usize),
        ),
    )
        .prop_map(
            |((owner, app, moved, node), (ready, since, stopping, ended, replaces))| APod {
                owner,
                app,
                moved,
                node,
                ready,
                since,
                stopping,
                ended,
                replaces,
            },
        )
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::array::uniform3(0..5_i32),
        prop::array::uniform3(prop::sample::select(vec![0, 0, 20])),
        prop::collection::vec(pod(), 1..12),
        prop::collection::vec((0..5_usize, 0..7_usize, 0..4_usize), 0..3),
        prop::collection::vec(
            (any::<prop::sample::Index>(), 0..3_usize, prop::bool::weighted(0.1)),
            1..20,
        ),
        any::<bool>(),
    )
        .prop_map(|(desired, min_ready, pods, budgets, takes, deaf)| Case {
            desired,
            min_ready,
            pods,
            budgets,
            takes,
            deaf,
        })
}

fn selector(i: usize) -> Value {
    match i {
        0..3 => json!({"matchLabels": {"app": format!("a{i}")}}),
        3 => json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a0", "a1"]}]}),
        _ => json!({}),
    }
}

fn amount(i: usize) -> Value {
    [
        json!(0),
        json!(1),
        json!(2),
        json!(4),
        json!("30%"),
        json!("50%"),
        json!("100%"),
    ][i]
        .clone()
}

/// Whether the drain that started others in the place of this pod goes on.
fn goes_on(pod: usize) -> bool {
    !pod.is_multiple_of(3)
}

fn world_of(case: &Case) -> Sim {
    let mut sim = Sim::new();
    for i in 0..3 {
        sim.add_node(&format!("n{i}"), &[]);
        let mut controller = rc(
            "default",
            &format!("c{i}"),
            &format!("u{i}"),
            case.desired[i],
            template("x", Ask::default()),
        );
        controller.spec.min_ready_seconds = case.min_ready[i];
        sim.put_rc(&controller);
    }
    if case.deaf {
        sim.put_ready("n2", false);
    }
    sim.drain("n0", |drain| drain.id = "d".into());
    for (i, pod) in case.pods.iter().enumerate() {
        let (hash, bytes) = TemplateRecord::new(&template(&format!("a{}", pod.app), Ask::default())).encode();
        let record = PodRecord {
            uid: format!("p{i}"),
            template: hash.clone(),
            node: format!("n{}", pod.node),
            owner: (pod.owner < 3).then(|| OwnerRecord {
                name: format!("c{}", pod.owner),
                uid: format!("u{}", pod.owner),
                ..OwnerRecord::default()
            }),
            labels: if pod.moved {
                [("app".to_owned(), Some("a1".to_owned()))].into()
            } else {
                Default::default()
            },
            replaces: pod.replaces.filter(|of| *of < i).map(|of| ReplacesRecord {
                name: String::new(),
                uid: format!("p{of}"),
                node: "n0".into(),
                drain: if goes_on(of) { "d" } else { "over" }.into(),
            }),
            stop: pod.stopping.then(|| StopRecord {
                at: Time(1),
                grace: 1,
                reason: String::new(),
                lost: false,
                drain: None,
            }),
            ..PodRecord::default()
        };
        let status = StatusRecord {
            uid: format!("p{i}"),
            status: PodStatus {
                phase: if pod.ended { Phase::Failed } else { Phase::Running },
                conditions: vec![PodCondition {
                    kind: "Ready".into(),
                    status: if pod.ready {
                        ConditionStatus::True
                    } else {
                        ConditionStatus::False
                    },
                    reason: String::new(),
                    message: String::new(),
                    last_transition_time: Some(Time(sim.now.0 - pod.since)),
                }],
                ..PodStatus::default()
            },
            ..StatusRecord::default()
        };
        let changes = [
            crate::store::Change::put(keys::template(&hash), crate::store::Expect::Any, bytes),
            crate::store::Change::put(
                keys::object(Kind::Pod, "default", &format!("p{i:02}")),
                crate::store::Expect::Any,
                crate::world::record::encode(&record),
            ),
        ];
        assert!(sim.commit(&changes));
        sim.put(keys::pod_status("default", &format!("p{i:02}")), &status);
    }
    for (i, (of, size, kind)) in case.budgets.iter().enumerate() {
        let field = if kind % 2 == 0 {
            "minAvailable"
        } else {
            "maxUnavailable"
        };
        let namespace = if *kind < 3 { "default" } else { "other" };
        let spec = json!({"selector": selector(*of), field: amount(*size)});
        sim.put_budget(namespace, &format!("b{i}"), spec);
    }
    sim
}

/// The rules again, from all pods.
struct Naive<'a> {
    case: &'a Case,
    taken: BTreeSet<usize>,
}

impl Naive<'_> {
    fn serves(&self, i: usize) -> bool {
        let pod = &self.case.pods[i];
        let wait = self.case.min_ready.get(pod.owner).copied().unwrap_or(0);
        let heard = pod.node != 2 || !self.case.deaf;
        let live = !pod.stopping && !pod.ended;
        !self.taken.contains(&i) && live && pod.ready && heard && pod.since >= i64::from(wait)
    }

    fn app(&self, i: usize) -> usize {
        let pod = &self.case.pods[i];
        if pod.moved { 1 } else { pod.app }
    }

    fn selected(&self, budget: usize, i: usize) -> bool {
        let (of, _, kind) = self.case.budgets[budget];
        kind < 3
            && match of {
                0..3 => self.app(i) == of,
                3 => self.app(i) < 2,
                _ => true,
            }
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..self.case.pods.len()
    }

    /// Available, expected, and how many must be.
    fn budget(&self, b: usize) -> (i64, i64, i64) {
        let (_, size, kind) = self.case.budgets[b];
        let of: Vec<usize> = self.all().filter(|i| self.selected(b, *i)).collect();
        let available = of.iter().filter(|i| self.serves(**i)).count();
        let owners: BTreeSet<usize> = of.iter().map(|i| self.case.pods[*i].owner).filter(|o| *o < 3).collect();
        let lone = of
            .iter()
            .filter(|i| self.case.pods[**i].owner == 3 && !self.case.pods[**i].ended)
            .count();
        let expected =
            owners.iter().map(|o| i64::from(self.case.desired[*o])).sum::<i64>() + i64::try_from(lone).unwrap();
        let part = |percent: i64| (expected * percent + 99) / 100;
        let amount = [0, 1, 2, 4, part(30), part(50), part(100)][size];
        let floor = if kind % 2 == 0 {
            amount
        } else {
            (expected - amount).max(0)
        };
        (i64::try_from(available).unwrap(), expected, floor)
    }

    /// A controller's pods that serve, those that stand in for one that serves left out.
    fn stand(&self, owner: usize) -> i64 {
        let of = |i: &usize| self.case.pods[*i].owner == owner;
        let stands = |i: &usize| {
            let old = self.case.pods[*i]
                .replaces
                .filter(|old| old < i && of(old) && goes_on(*old));
            self.serves(*i) && !old.is_some_and(|old| self.serves(old))
        };
        i64::try_from(self.all().filter(|i| of(i) && stands(i)).count()).unwrap()
    }

    /// Whether the pod may go; if so it does.
    fn take(&mut self, i: usize, how: How, forced: bool) -> bool {
        if !self.serves(i) {
            self.taken.insert(i);
            return true;
        }
        let budgets: Vec<usize> = (0..self.case.budgets.len()).filter(|b| self.selected(*b, i)).collect();
        let room = budgets.iter().all(|b| {
            let (available, _, floor) = self.budget(*b);
            available > floor
        });
        self.taken.insert(i);
        let owner = self.case.pods[i].owner;
        let stands = owner == 3 || {
            let desired = i64::from(self.case.desired[owner]);
            match how {
                How::Plain => self.stand(owner) >= desired,
                How::Downtime => self.stand(owner) >= desired - 1,
                How::Swap => true,
                How::Update(missed) => self.stand(owner) >= desired - missed,
            }
        };
        let goes = forced || (budgets.len() < 2 && room && stands);
        if !goes {
            self.taken.remove(&i);
        }
        goes
    }

    /// Whether a pod that was started in its place serves.
    fn replaced(&self, i: usize) -> bool {
        let owner = self.case.pods[i].owner;
        goes_on(i)
            && self.all().any(|j| {
                j > i && self.case.pods[j].replaces == Some(i) && self.case.pods[j].owner == owner && self.serves(j)
            })
    }
}

const HOWS: [How; 3] = [How::Plain, How::Swap, How::Downtime];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn it_decides_as_a_naive_count_does(case in case()) {
        let sim = world_of(&case);
        let (mut ledger, mut naive) = (Ledger::default(), Naive { case: &case, taken: BTreeSet::new() });
        for (index, how, forced) in &case.takes {
            let i = index.index(case.pods.len());
            let at = ("default".to_owned(), format!("p{i:02}"));
            let pod = &sim.world.pods[&at];
            let taken = ledger.take(&sim.world, sim.now, &at, pod, HOWS[*how], *forced);
            let free = !naive.serves(i);
            prop_assert_eq!(available(&sim.world, pod, sim.now), !free || naive.taken.contains(&i) && {
                let fresh = Naive { case: &case, taken: BTreeSet::new() };
                fresh.serves(i)
            });
            let expected = naive.take(i, HOWS[*how], *forced);
            prop_assert_eq!(taken.is_ok(), expected, "{} {:?}: {:?}", i, HOWS[*how], taken);
            prop_assert!(!free || taken.is_ok(), "a pod that does not serve costs nothing");
            if let Err(refusal) = taken {
                prop_assert!(refusal.rule.contains("default/") && !refusal.remedy.is_empty(), "{:?}", refusal);
            }
        }
    }

    /// Where nothing is forced and who says that a replacement serves is right, no order of takes brings a workload
    /// below its floor, or further below it than it was.
    #[test]
    fn no_order_of_a_pass_undercuts_a_floor(case in case(), reverse in any::<bool>()) {
        let sim = world_of(&case);
        let mut ledger = Ledger::default();
        let mut naive = Naive { case: &case, taken: BTreeSet::new() };
        let stood: Vec<i64> = (0..3).map(|o| naive.stand(o)).collect();
        let budgets: Vec<i64> = (0..case.budgets.len()).map(|b| naive.budget(b).0).collect();
        let mut takes = case.takes.clone();
        if reverse {
            takes.reverse();
        }
        for (index, how, _) in &takes {
            let i = index.index(case.pods.len());
            let how = if *how == 1 && naive.replaced(i) { How::Swap } else { How::Plain };
            let at = ("default".to_owned(), format!("p{i:02}"));
            if ledger.take(&sim.world, sim.now, &at, &sim.world.pods[&at], how, false).is_ok() {
                naive.taken.insert(i);
            }
        }
        for (owner, before) in stood.into_iter().enumerate() {
            let after = naive.stand(owner);
            prop_assert!(after >= i64::from(case.desired[owner]).min(before), "controller {}: {} of {}", owner, after, before);
        }
        for (b, before) in budgets.into_iter().enumerate() {
            let (after, _, floor) = naive.budget(b);
            prop_assert!(after >= floor.min(before), "budget {}: {} of {}", b, after, before);
        }
    }
}

#[test]
fn a_controller_and_a_budget_are_counted_once_a_pass() {
    let mut sim = Sim::new();
    sim.put_node("n1", &[], false);
    sim.put_facts("n1", 1 << 20, 1 << 40, 5000, "");
    sim.put_ready("n1", true);
    let mut web = template("web", Ask::default());
    web.metadata.labels = map(&[("app", "web")]);
    sim.put_rc(&rc("default", "web", "u", 2000, web));
    sim.put_budget(
        "default",
        "web",
        json!({"minAvailable": "50%", "selector": selector(4)}),
    );
    sim.settle();
    let mut ledger = Ledger::default();
    let gone = sim.world.pods.iter().filter(|(at, pod)| {
        let taken = ledger.take(&sim.world, sim.now, at, pod, How::Swap, false);
        taken.is_ok()
    });
    assert_eq!(gone.count(), 1000);
    assert_eq!((ledger.budgets.len(), ledger.floors.len()), (1, 1));
}
