//! Clients write and read while coordinators and etcd members are killed, stopped, cut off and brought back at random;
//! then their history is checked. `HISTORY_SEED=n` repeats a run's faults; `WHARF_TEST_LONG=1` takes three minutes.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{
    history::{Call, Op, Outcome, Seen, check},
    replicas::{Part, Replicas, name},
};
use proto::{
    credentials::{ChannelTimes, Credentials},
    wire::{GetRequest, Object, PatchRequest, resources_client::ResourcesClient},
};
use serde_json::{Value, json};
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};

use crate::{fleet, holds};

const CLIENTS: usize = 20;
const KEYS: usize = 5;
const ATTEMPT: Duration = Duration::from_millis(700);
/// The registers' field.
const FIELD: &str = "history";

#[test]
fn what_clients_saw_while_everything_broke_is_linearizable() {
    let long = std::env::var_os("WHARF_TEST_LONG").is_some();
    let time = Duration::from_secs(if long { 180 } else { 25 });
    let seed = std::env::var("HISTORY_SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    println!("HISTORY_SEED={seed}");

    let (mut all, ids) = fleet();
    for key in 0..KEYS {
        all.wharf(&["create", "namespace", &register(key)]).ok();
    }
    let text = fs::read_to_string(all.admin()).expect("credentials");
    let credentials: Credentials = serde_saphyr::from_str(&text).expect("credentials");
    let shared = Arc::new(Shared {
        credentials,
        start: Instant::now(),
        stop: AtomicBool::new(false),
        values: AtomicU64::new(1),
        calls: Mutex::default(),
    });
    let clients = {
        let shared = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for client in 0..CLIENTS {
                    tasks.spawn(run(shared.clone(), client, Random(seed ^ (client as u64 + 1) << 32)));
                }
                while let Some(done) = tasks.join_next().await {
                    done.expect("a client");
                }
            });
        })
    };

    let mut random = Random(seed);
    let mut told = Vec::new();
    while shared.start.elapsed() < time {
        told.push(format!("{:.1?} {}", shared.start.elapsed(), one(&mut all, &mut random)));
    }
    shared.stop.store(true, Ordering::Relaxed);
    clients.join().expect("the clients");
    let calls = std::mem::take(&mut *shared.calls.lock().unwrap_or_else(PoisonError::into_inner));
    let done = |c: &&Call| {
        matches!(
            c.op,
            Op::Read { .. }
                | Op::Write {
                    outcome: Outcome::Done { .. },
                    ..
                }
        )
    };
    let answered = calls.iter().filter(done).count();
    println!(
        "{} faults, {} calls, {answered} of them answered",
        told.len(),
        calls.len()
    );
    // How many there are is for the disk and the faults to say; a check of a handful would show nothing.
    assert!(answered > 100, "hardly anything was answered: {answered}\n{told:#?}");
    let wrong = check(&calls);
    assert!(wrong.is_empty(), "HISTORY_SEED={seed}\n{}\n{told:#?}", wrong.join("\n"));
    all.leader();
    all.all_follow();
    holds(&mut all, &ids, &[]);
}

/// One fault of at most one machine, and its end.
fn one(all: &mut Replicas, random: &mut Random) -> String {
    let machine = random.below(3);
    // The one that leads is the more interesting one.
    let machine = if random.below(2) == 0 {
        all.leads().unwrap_or(machine)
    } else {
        machine
    };
    let (short, long) = (Duration::from_millis(300), Duration::from_millis(3000));
    let last = short + (long - short) * u32::try_from(random.below(100)).unwrap_or(0) / 100;
    let what = random.below(7);
    match what {
        0 => {
            all.kill(machine, Part::Coordinator);
            thread::sleep(last);
            all.up(machine, Part::Coordinator);
        }
        1 => {
            all.freeze(machine, Part::Coordinator);
            thread::sleep(last);
            all.thaw(machine, Part::Coordinator);
        }
        2 => {
            all.cut(machine);
            thread::sleep(last);
            all.heal(machine);
        }
        3 => {
            all.kill(machine, Part::Etcd);
            thread::sleep(last);
            all.up(machine, Part::Etcd);
        }
        4 => {
            all.freeze(machine, Part::Etcd);
            thread::sleep(last);
            all.thaw(machine, Part::Etcd);
        }
        5 => {
            all.kill(machine, Part::Etcd);
            all.kill(machine, Part::Coordinator);
            thread::sleep(last);
            all.up(machine, Part::Etcd);
            all.up(machine, Part::Coordinator);
        }
        _ => {
            // It may be refused, e.g. while nobody leads.
            all.wharf(&["cluster", "transfer", "--request-timeout", "3s"]);
        }
    }
    let verbs = [
        "killed",
        "stopped",
        "cut off",
        "lost its etcd",
        "had its etcd stopped",
        "lost both",
        "handed over",
    ];
    thread::sleep(Duration::from_millis(200 + random.below(600) as u64));
    format!("{} {} for {last:.1?}", name(machine), verbs[what])
}

struct Shared {
    credentials: Credentials,
    start: Instant,
    stop: AtomicBool,
    values: AtomicU64,
    calls: Mutex<Vec<Call>>,
}

impl Shared {
    fn push(&self, call: Call) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

fn register(key: usize) -> String {
    format!("register{key}")
}

/// One client: one call after the other, each at whichever coordinator, a write tried again under its id.
async fn run(shared: Arc<Shared>, client: usize, mut random: Random) {
    let mut channels: Vec<Option<Channel>> = vec![None; shared.credentials.coordinators.len()];
    while !shared.stop.load(Ordering::Relaxed) {
        let key = random.below(KEYS);
        let begun = shared.start.elapsed();
        let op = if random.below(3) == 0 {
            let value = shared.values.fetch_add(1, Ordering::Relaxed);
            let (outcome, seen) = write(&shared, &mut channels, &mut random, key, value).await;
            if let Some(seen) = seen {
                let answered = shared.start.elapsed();
                let op = Op::Read { seen, answered };
                shared.push(Call { client, key, begun, op });
            }
            Some(Op::Write { value, outcome })
        } else {
            let at = random.below(channels.len());
            let read = read(&shared, &mut channels[at], at, key).await;
            read.ok().map(|seen| Op::Read {
                seen,
                answered: shared.start.elapsed(),
            })
        };
        if let Some(op) = op {
            shared.push(Call { client, key, begun, op });
        }
        tokio::time::sleep(Duration::from_millis(20 + random.below(60) as u64)).await;
    }
}

async fn open(shared: &Shared, channel: &mut Option<Channel>, at: usize) -> Result<Channel, Status> {
    if let Some(channel) = channel {
        return Ok(channel.clone());
    }
    let times = ChannelTimes {
        connect: ATTEMPT,
        ..ChannelTimes::default()
    };
    let connecting = shared.credentials.connect(&shared.credentials.coordinators[at], times);
    let opened = tokio::time::timeout(ATTEMPT, connecting).await;
    let opened = opened.map_err(|_| Status::unavailable("slow"))?;
    let opened = opened.map_err(|e| Status::unavailable(e.to_string()))?;
    Ok(channel.insert(opened).clone())
}

async fn write(
    shared: &Shared,
    channels: &mut [Option<Channel>],
    random: &mut Random,
    key: usize,
    value: u64,
) -> (Outcome, Option<Seen>) {
    let change = json!({"metadata": {"annotations": {FIELD: value.to_string()}}});
    let request = PatchRequest {
        kind: "Namespace".into(),
        name: register(key),
        patch: change.to_string().into_bytes(),
        request_id: format!("history-{}-{value}", std::process::id()),
        ..PatchRequest::default()
    };
    let mut doubt = false;
    for _ in 0..4 {
        let at = random.below(channels.len());
        let Ok(channel) = open(shared, &mut channels[at], at).await else {
            continue;
        };
        let sending = ResourcesClient::new(channel);
        let sent = tokio::time::timeout(ATTEMPT, async { { sending }.patch(request.clone()).await }).await;
        match sent {
            Ok(Ok(reply)) => {
                // The answer shows the object as it is by then: with a later write in it, what it says is what a read
                // would have said, and at which version ours took effect is not known.
                let seen = seen(reply.get_ref());
                let answered = shared.start.elapsed();
                return if seen.value == Some(value) {
                    (
                        Outcome::Done {
                            version: seen.version,
                            answered,
                        },
                        None,
                    )
                } else {
                    (Outcome::Unknown, Some(seen))
                };
            }
            // Everything else may have been done.
            Ok(Err(status)) if matches!(status.code(), Code::InvalidArgument | Code::PermissionDenied) => {
                panic!("{status}");
            }
            Ok(Err(_)) | Err(_) => {
                doubt = true;
                channels[at] = None;
            }
        }
    }
    (if doubt { Outcome::Unknown } else { Outcome::Refused }, None)
}

async fn read(shared: &Shared, channel: &mut Option<Channel>, at: usize, key: usize) -> Result<Seen, Status> {
    let opened = open(shared, channel, at).await?;
    let mut request = Request::new(GetRequest {
        kind: "Namespace".into(),
        name: register(key),
        ..GetRequest::default()
    });
    request
        .metadata_mut()
        .insert("wharf-consistency", MetadataValue::from_static("linearizable"));
    let mut client = ResourcesClient::new(opened);
    let reply = tokio::time::timeout(ATTEMPT, client.get(request)).await;
    let reply = match reply {
        Ok(Ok(reply)) => reply,
        Ok(Err(status)) => {
            *channel = None;
            return Err(status);
        }
        Err(_) => {
            *channel = None;
            return Err(Status::unavailable("slow"));
        }
    };
    Ok(seen(&reply.into_inner()))
}

fn seen(object: &Object) -> Seen {
    let body: Value = serde_json::from_slice(&object.json).expect("JSON");
    let value = body["metadata"]["annotations"][FIELD].as_str();
    Seen {
        version: if value.is_some() { version(object) } else { 0 },
        value: value.map(|v| v.parse().expect("a value")),
    }
}

fn version(object: &Object) -> u64 {
    object.resource_version.parse().expect("a version")
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        usize::try_from(z % u64::try_from(n).unwrap_or(1)).unwrap_or(0)
    }
}
