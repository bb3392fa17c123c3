//! Three coordinators on etcd: how long nothing can be written when the active one is killed, hangs, is cut off, dies
//! together with etcd's leader, or hands over. Called by [`super::measure`].
//!
//! A writer ([`super::writer`]) changes one object without a pause, through whichever coordinator answers, each attempt
//! on an open connection. A round's figure is the time from the fault to the answer of the first write that was begun
//! after it; [`super::managers`] has the same of Swarm.
//!
//! Settings are as shipped. Agents take no part; a fleet that is served again after a kill is measured in the
//! simulated fleet (`tests/tests/fleet`).

use std::{
    fs,
    time::{Duration, Instant},
};

use proto::{
    credentials::{ChannelTimes, Credentials},
    wire::{PatchRequest, resources_client::ResourcesClient},
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use super::{
    pause, say,
    stats::Sample,
    until,
    writer::{ATTEMPT, Place, Writer},
};
use crate::replicas::{Options, Part, Replicas, name};

/// Lets what a fault left settle before the next one.
const BETWEEN: Duration = Duration::from_millis(700);

/// What befalls the active coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Hang,
    Cut,
    /// With etcd's leader.
    Both,
    HandOver,
}

impl Fault {
    /// For people, with the bounds: of the median and of the 99th percentile, milliseconds.
    pub fn about(self) -> (&'static str, Option<f64>, f64) {
        match self {
            Self::Kill => ("SIGKILL", Some(300.0), 500.0),
            Self::Hang => ("SIGSTOP", None, 3000.0),
            Self::Cut => ("network cut", None, 3000.0),
            Self::Both => ("SIGKILL, and of etcd's leader", None, 3000.0),
            Self::HandOver => ("planned hand-over", None, 150.0),
        }
    }
}

/// Milliseconds without an accepted write.
#[derive(Clone, Debug)]
pub struct Ha {
    pub faults: Vec<(Fault, Sample)>,
    /// Of Swarm, whose leader was killed.
    pub swarm: Option<Sample>,
}

impl Ha {
    pub fn json(&self) -> Value {
        let all = self.faults.iter().map(|(fault, sample)| {
            let (about, p50, p99) = fault.about();
            json!({"fault": about, "boundP50Ms": p50, "boundP99Ms": p99, "unwritableMs": sample.json()})
        });
        let swarm = self.swarm.as_ref().map(Sample::json);
        json!({"faults": all.collect::<Vec<_>>(), "swarmLeaderKilled": swarm})
    }
}

/// `kills` of the first kind, `others` of each other.
pub fn measure(kills: u32, others: u32) -> Vec<(Fault, Sample)> {
    let mut all = Replicas::start(Options {
        coordinator: String::new(),
        ..Options::default()
    });
    let writer = Writer::start(coordinators(&all));
    until("a write is accepted", || writer.last().is_some());
    let plan = [
        (Fault::HandOver, others),
        (Fault::Kill, kills),
        (Fault::Hang, others),
        (Fault::Cut, others),
        (Fault::Both, others),
    ];
    let mut out = Vec::new();
    for (fault, rounds) in plan.into_iter().filter(|(_, rounds)| *rounds > 0) {
        let mut values = Vec::new();
        for round in 0..rounds {
            if round % 10 == 0 {
                say(&format!("{}, {} of {rounds}", fault.about().0, round + 1));
            }
            values.push(one(&mut all, &writer, fault));
            settle(&all);
        }
        out.push((fault, Sample::new(values).expect("at least one round")));
    }
    out
}

/// One fault, and all as it was; milliseconds until the first write that began after it was accepted.
fn one(all: &mut Replicas, writer: &Writer, fault: Fault) -> f64 {
    let mut active = all.leader();
    if fault == Fault::Both {
        // The member that leads is on the machine of the coordinator that leads.
        let machine = etcd_leader(all);
        if machine != active {
            all.wharf(&["cluster", "transfer", "--to", &name(machine)]).ok();
            until("it leads", || all.leads() == Some(machine));
            active = machine;
            settle(all);
        }
    }
    let start = Instant::now();
    match fault {
        Fault::Kill => all.kill(active, Part::Coordinator),
        Fault::Hang => all.freeze(active, Part::Coordinator),
        Fault::Cut => all.cut(active),
        Fault::Both => {
            all.kill(active, Part::Etcd);
            all.kill(active, Part::Coordinator);
        }
        Fault::HandOver => {
            let to = name((active + 1) % 3);
            all.wharf(&["cluster", "transfer", "--to", &to]).ok();
        }
    }
    let took = if fault == Fault::HandOver {
        // It takes place somewhere within the command: the longest pause between two accepted writes.
        pause(Duration::from_millis(300));
        writer.longest_pause_since(start)
    } else {
        until("a write is accepted", || writer.first_begun_after(start).is_some());
        writer
            .first_begun_after(start)
            .expect("just seen")
            .duration_since(start)
    };
    match fault {
        Fault::Kill => all.up(active, Part::Coordinator),
        Fault::Hang => all.thaw(active, Part::Coordinator),
        Fault::Cut => all.heal(active),
        Fault::Both => {
            all.up(active, Part::Etcd);
            all.up(active, Part::Coordinator);
        }
        Fault::HandOver => {}
    }
    took.as_secs_f64() * 1000.0
}

fn settle(all: &Replicas) {
    all.leader();
    all.all_follow();
    pause(BETWEEN);
}

fn etcd_leader(all: &Replicas) -> usize {
    let mut found = None;
    until("an etcd member leads", || {
        let out = all.wharf(&["cluster", "status", "-o", "json"]);
        let json: Value = serde_json::from_str(&out.stdout).unwrap_or_default();
        let members = json["store"]["members"].as_array().cloned().unwrap_or_default();
        let leader = members.iter().find(|m| m["isLeader"] == true);
        let number = leader.and_then(|m| m["name"].as_str()?.strip_prefix("etcd")?.parse::<usize>().ok());
        found = number.map(|n| n - 1);
        found.is_some()
    });
    found.expect("just seen")
}

/// A coordinator, and the connection to it while there is one.
struct Coordinator {
    credentials: Credentials,
    address: String,
    channel: Option<Channel>,
}

impl Place for Coordinator {
    async fn write(&mut self, number: u64) -> Result<(), ()> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let opened = self.credentials.connect(&self.address, times()).await;
                self.channel.insert(opened.map_err(|_| ())?).clone()
            }
        };
        let change = json!({"metadata": {"annotations": {"bench": number.to_string()}}});
        let request = PatchRequest {
            kind: "Namespace".into(),
            name: "default".into(),
            patch: change.to_string().into_bytes(),
            request_id: format!("bench-{}-{number}", std::process::id()),
            ..PatchRequest::default()
        };
        let answer = ResourcesClient::new(channel).patch(request).await;
        answer.map(drop).map_err(|_| ())
    }

    fn failed(&mut self) {
        self.channel = None;
    }
}

fn coordinators(all: &Replicas) -> Vec<Coordinator> {
    let text = fs::read_to_string(all.admin()).expect("credentials");
    let credentials: Credentials = serde_saphyr::from_str(&text).expect("credentials");
    let places = credentials.coordinators.iter().map(|address| Coordinator {
        credentials: credentials.clone(),
        address: address.clone(),
        channel: None,
    });
    places.collect()
}

fn times() -> ChannelTimes {
    ChannelTimes {
        connect: ATTEMPT,
        ..ChannelTimes::default()
    }
}
