//! Increments against a model ledger, from arbitrary histories of a world.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::{
    model::{Kind, Time},
    wire::{Assignments, assignments::Kind as Which},
};
use serde_json::json;

use super::*;
use crate::{
    session::testing::{Ledger, pod_record, template},
    store::{Rv, Update, keys},
    world::record::{self, PodRecord, StopRecord},
};

/// An agent of an earlier release would refuse a field that it does not know.
#[test]
fn an_agent_does_not_get_what_only_placing_needs() {
    let mut moving = Moving::new();
    let record = json!({"labels": {"app": "x"}, "spec": {"containers": [{"name": "c", "image": "i"}], "nodeSelector": {"a": "b"},
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}],
        "tolerations": [{"operator": "Exists"}]}});
    moving.apply(keys::template("t"), Some(record::encode(&record)));
    let mut pod = pod_record("p", "n1");
    pod.template = "t".into();
    moving.apply(keys::object(Kind::Pod, "default", "p"), Some(record::encode(&pod)));
    let (wanted, missing) = desired(&moving.world, "n1", &Desired::new());
    assert!(!missing);
    let Some(Wanted::Run(run)) = wanted.get(&pod.uid) else {
        panic!("{wanted:?}")
    };
    let spec: serde_json::Value = serde_json::from_slice(&run.spec_json).expect("JSON");
    let fields: Vec<_> = spec.as_object().expect("a map").keys().collect();
    assert_eq!(fields, ["containers", "restartPolicy", "nodeName", "nodeSelector"]);
    assert_eq!(spec["nodeName"], "n1");
}

/// A world that only ever moves on, as the store's updates move it.
struct Moving {
    world: World,
    records: BTreeMap<String, PodRecord>,
}

impl Moving {
    fn new() -> Self {
        let mut moving = Self {
            world: World::default(),
            records: BTreeMap::new(),
        };
        let (hash, value) = template();
        moving.apply(keys::template(&hash), Some(value));
        moving
    }

    fn apply(&mut self, key: String, value: Option<Vec<u8>>) {
        let rv = Rv::new(self.world.rv.revision() + 1, 0);
        let value = value.map(Into::into);
        self.world.apply(&Update { rv, key, value }).unwrap();
    }

    fn act(&mut self, act: &Act) {
        let (name, record) = match act {
            Act::Add(n, node) => {
                let name = format!("p{n}");
                if self.records.contains_key(&name) {
                    return;
                }
                let mut record = pod_record(&name, node);
                // A name may come again, a uid never does.
                record.uid = format!("uid-{name}-{}", self.world.rv);
                (name, Some(record))
            }
            Act::Stop(n, grace) => {
                let name = format!("p{n}");
                let Some(mut record) = self.records.get(&name).cloned() else {
                    return;
                };
                let shorter = record.stop.as_ref().map_or(*grace, |s| s.grace.min(*grace));
                record.stop = Some(StopRecord {
                    at: Time(1),
                    grace: shorter,
                    reason: "test".into(),
                    lost: false,
                    drain: None,
                });
                (name, Some(record))
            }
            Act::Label(n, value) => {
                let name = format!("p{n}");
                let Some(mut record) = self.records.get(&name).cloned() else {
                    return;
                };
                record.labels.insert("l".into(), Some(value.to_string()));
                (name, Some(record))
            }
            Act::Annotate(n, value) => {
                let name = format!("p{n}");
                let Some(mut record) = self.records.get(&name).cloned() else {
                    return;
                };
                record.annotations.insert("a".into(), Some(value.to_string()));
                (name, Some(record))
            }
            Act::Remove(n) => {
                let name = format!("p{n}");
                if self.records.remove(&name).is_none() {
                    return;
                }
                (name, None)
            }
        };
        self.apply(
            keys::object(Kind::Pod, "default", &name),
            record.as_ref().map(record::encode),
        );
        if let Some(record) = record {
            self.records.insert(name, record);
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Add(u8, &'static str),
    Stop(u8, u32),
    Label(u8, u8),
    Annotate(u8, u8),
    Remove(u8),
}

fn acts() -> impl Strategy<Value = Vec<(Act, bool)>> {
    let act = prop_oneof![
        (0..6_u8, prop_oneof![4 => Just("n1"), 1 => Just("n2"), 1 => Just("")]).prop_map(|(n, node)| Act::Add(n, node)),
        (0..6_u8, 0..3_u32).prop_map(|(n, grace)| Act::Stop(n, grace)),
        (0..6_u8, 0..2_u8).prop_map(|(n, v)| Act::Label(n, v)),
        (0..6_u8, 0..2_u8).prop_map(|(n, v)| Act::Annotate(n, v)),
        (0..6_u8).prop_map(Act::Remove),
    ];
    proptest::collection::vec((act, any::<bool>()), 0..60)
}

fn message(kind: Which, applies_to: u64, results_in: Rv, delta: Delta) -> Assignments {
    Assignments {
        kind: kind.into(),
        fence: None,
        applies_to,
        results_in: results_in.0,
        run: delta.run,
        stop: delta.stop,
        forget: delta.forget,
    }
}

proptest! {
    #[test]
    fn increments_lead_where_the_complete_set_does(acts in acts()) {
        let mut moving = Moving::new();
        let mut sent = Desired::new();
        let mut ledger = Ledger::default();
        for (act, send) in &acts {
            moving.act(act);
            if !send {
                continue;
            }
            let (wanted, missing) = desired(&moving.world, "n1", &sent);
            prop_assert!(!missing);
            let change = delta(&sent, &wanted);
            for stop in &change.stop {
                let decided = moving.world.pod_by_uid(&stop.uid).and_then(|(_, p)| p.record.stop.as_ref());
                prop_assert_eq!(decided.map(|s| s.grace), Some(stop.grace_seconds));
            }
            for uid in &change.forget {
                prop_assert!(moving.world.pod_by_uid(uid).is_none(), "forgotten while on record");
            }
            if !change.is_empty() {
                ledger.apply(&message(Which::Incremental, ledger.revision, moving.world.rv, change));
            }
            sent = wanted;

            let (anew, _) = desired(&moving.world, "n1", &Desired::new());
            prop_assert_eq!(&anew, &sent, "what is spared is what would be built");
            let mut fresh = Ledger::default();
            fresh.apply(&message(Which::Complete, 0, moving.world.rv, complete(&anew)));
            prop_assert_eq!(fresh.digest(), ledger.digest());
            prop_assert_eq!(ledger.digest(), digest(&sent));
            let on_record: Vec<_> = moving.world.pods_on("n1").map(|(_, p)| p.record.uid.clone()).collect();
            prop_assert_eq!(ledger.pods.len(), on_record.len());
        }
    }

    #[test]
    fn absence_stops_nothing(acts in acts()) {
        let mut moving = Moving::new();
        for (act, _) in &acts {
            moving.act(act);
        }
        let (known, _) = desired(&moving.world, "n1", &Desired::new());
        // The world of an emptied store, a lost node, an old backup: no stop entry comes of it.
        let (none, _) = desired(&World::default(), "n1", &known);
        prop_assert!(delta(&known, &none).stop.is_empty());
        prop_assert!(complete(&none).stop.is_empty());
    }
}

#[test]
fn labels_and_annotations_come_as_a_run_of_the_same_spec() {
    let mut moving = Moving::new();
    moving.act(&Act::Add(1, "n1"));
    moving.act(&Act::Add(2, "n1"));
    let run_of = |delta: &Delta| match &delta.run[..] {
        [run] => run.clone(),
        other => panic!("{} runs", other.len()),
    };
    let (mut sent, _) = desired(&moving.world, "n1", &Desired::new());
    let first = complete(&sent).run[0].clone();
    let mut digests = vec![digest(&sent)];
    for act in [Act::Label(1, 7), Act::Annotate(1, 8)] {
        moving.act(&act);
        let (wanted, _) = desired(&moving.world, "n1", &sent);
        let change = delta(&sent, &wanted);
        assert!(change.stop.is_empty() && change.forget.is_empty(), "{act:?}");
        let run = run_of(&change);
        assert_eq!(
            (&run.uid, &run.spec_hash, &run.spec_json),
            (&first.uid, &first.spec_hash, &first.spec_json)
        );
        // Who was away meanwhile is told when it comes back.
        digests.push(digest(&wanted));
        sent = wanted;
    }
    let last = match sent.values().next() {
        Some(Wanted::Run(run)) => run.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((last.labels["l"].as_str(), last.annotations["a"].as_str()), ("7", "8"));
    digests.dedup();
    assert_eq!(digests.len(), 3);
}

#[test]
fn given_host_ports_are_in_what_the_agent_runs() {
    use proto::model::{ContainerPort, PodSpec, host_port};

    let mut moving = Moving::new();
    let mut template: record::TemplateRecord = serde_json::from_slice(&template().1).unwrap();
    template
        .annotations
        .insert(host_port::HOST_PORT.into(), host_port::AUTO.into());
    template.spec.containers[0].ports = vec![ContainerPort {
        name: "http".into(),
        container_port: 80,
        ..ContainerPort::default()
    }];
    let (hash, value) = template.encode();
    moving.apply(keys::template(&hash), Some(value));
    let pod = PodRecord {
        template: hash,
        ports: vec![23_456],
        ..pod_record("p", "n1")
    };
    moving.apply(keys::object(Kind::Pod, "default", "p"), Some(record::encode(&pod)));
    let (wanted, missing) = desired(&moving.world, "n1", &Desired::new());
    assert!(!missing);
    let Some(Wanted::Run(run)) = wanted.get("uid-p") else {
        panic!("{wanted:?}")
    };
    let spec: PodSpec = serde_json::from_slice(&run.spec_json).unwrap();
    let container = &spec.containers[0];
    assert_eq!(container.ports[0].host_port, 23_456);
    assert_eq!(
        (container.env[0].name.as_str(), container.env[0].value.as_str()),
        ("WHARF_PORT_HTTP", "23456")
    );
}

/// What the entry of a pod being stopped says of its drain: with these ports and annotation, the pod's own grace, and
/// the grace of the stop.
fn drain(ports: &str, annotation: Option<&str>, own_grace: &str, grace: u32, lost: bool, setting: Option<&str>) -> u32 {
    let json = format!(r#"{{"containers":[{{"name":"c","image":"i"{ports}}}]{own_grace}}}"#);
    let template = record::TemplateRecord {
        spec: serde_json::from_str(&json).expect("a spec"),
        ..record::TemplateRecord::default()
    };
    let mut moving = Moving::new();
    moving.apply(keys::template("t"), Some(record::encode(&template)));
    let mut pod = pod_record("p", "n1");
    pod.template = "t".into();
    pod.stop = Some(StopRecord {
        at: Time(1),
        grace,
        reason: "test".into(),
        lost,
        drain: None,
    });
    if let Some(annotation) = annotation {
        pod.annotations
            .insert(lifecycle::ENDPOINT_DRAIN.into(), Some(annotation.into()));
    }
    moving.apply(keys::object(Kind::Pod, "default", "p"), Some(record::encode(&pod)));
    if let Some(setting) = setting {
        moving.set("endpoint-drain", setting);
    }
    match desired(&moving.world, "n1", &Desired::new()).0.values().next() {
        Some(Wanted::Stop(stop)) => stop.endpoint_drain_ms,
        other => panic!("{other:?}"),
    }
}

impl Moving {
    fn set(&mut self, name: &str, value: &str) {
        let record = record::SettingsRecord::from([(name.to_owned(), value.to_owned())]);
        self.apply(keys::SETTINGS.to_owned(), Some(record::encode(&record)));
    }
}

#[test]
fn how_long_a_pod_serves_on() {
    let ports = r#","ports":[{"containerPort":80}]"#;
    let no_grace = r#","terminationGracePeriodSeconds":0"#;
    for (found, expected) in [
        (drain(ports, None, "", 30, false, None), 5_000),
        (drain(ports, None, "", 30, false, Some("750ms")), 750),
        (drain(ports, None, "", 30, false, Some("0s")), 0),
        // Nobody has its address.
        (drain("", None, "", 30, false, Some("9s")), 0),
        // Its own word goes before the setting, and before what it lacks.
        (drain(ports, Some("2s"), "", 30, false, Some("9s")), 2_000),
        (drain(ports, Some("0s"), "", 30, false, None), 0),
        (drain("", Some("2s"), "", 30, false, None), 2_000),
        // One that cannot be read, written by another release, is none.
        (drain(ports, Some("soon"), "", 30, false, None), 5_000),
        // A shorter grace is still in order; none at all is not, unless the pod never has one.
        (drain(ports, None, "", 1, false, None), 5_000),
        (drain(ports, None, "", 0, false, None), 0),
        (drain(ports, Some("2s"), "", 0, false, None), 0),
        (drain(ports, None, no_grace, 0, false, None), 5_000),
        // It serves nobody any more.
        (drain(ports, Some("2s"), "", 30, true, None), 0),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn an_entry_keeps_the_drain_that_it_was_sent_with() {
    let mut moving = Moving::new();
    moving.act(&Act::Add(1, "n1"));
    let mut record = moving.records["p1"].clone();
    record
        .annotations
        .insert(lifecycle::ENDPOINT_DRAIN.into(), Some("4s".into()));
    moving.records.insert("p1".into(), record);
    moving.act(&Act::Stop(1, 30));
    let (sent, _) = desired(&moving.world, "n1", &Desired::new());
    let mut record = moving.records["p1"].clone();
    record
        .annotations
        .insert(lifecycle::ENDPOINT_DRAIN.into(), Some("8s".into()));
    moving.records.insert("p1".into(), record);
    moving.act(&Act::Label(1, 0));
    let (wanted, _) = desired(&moving.world, "n1", &sent);
    assert!(delta(&sent, &wanted).is_empty(), "what was told is not told again");
    let (anew, _) = desired(&moving.world, "n1", &Desired::new());
    assert_ne!(anew, sent);
    assert_eq!(
        digest(&anew),
        digest(&sent),
        "the agent keeps the shorter one either way"
    );
    // A more urgent stop is another entry.
    moving.act(&Act::Stop(1, 3));
    let (wanted, _) = desired(&moving.world, "n1", &sent);
    assert_eq!(delta(&sent, &wanted).stop[0].grace_seconds, 3);
}
