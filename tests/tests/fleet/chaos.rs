//! Convergence: controllers come, change and go while everything fails; then the faults end, and the fleet is
//! exactly what was acknowledged.

use std::time::{Duration, Instant};

use agent::runtime::fake::{Failure, ImageScript, Op};
use coordinator::world::World;
use futures::{StreamExt as _, stream};
use harness::fleet::{Admin, Asked, Fleet, Wanted};
use proto::model::PodSpec;
use tonic::Code;

use crate::{PATIENCE, long, random::Random};

const IMAGES: [&str; 3] = ["a:1", "b:1", "c:1"];

const OPS: [Op; 9] = [
    Op::List,
    Op::Inspect,
    Op::Image,
    Op::Pull,
    Op::Create,
    Op::Start,
    Op::Stop,
    Op::Remove,
    Op::Volumes,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_failed_the_fleet_becomes_what_was_asked_for() {
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .init();
    }
    let seeds = match std::env::var("FLEET_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("FLEET_SEED is a number");
            seed..seed + 1
        }
        Err(_) if long() => 1000..1300,
        Err(_) => 1..6,
    };
    let at_once = if long() { 4 } else { 1 };
    let runs = stream::iter(seeds).map(|seed| async move { (seed, tokio::spawn(run(seed)).await) });
    let mut runs = std::pin::pin!(runs.buffer_unordered(at_once));
    while let Some((seed, result)) = runs.next().await {
        match result {
            Ok(took) => println!("seed {seed}: {took:?}"),
            Err(_) => panic!("failed with FLEET_SEED={seed}"),
        }
    }
}

/// One fleet and its schedule; returns how long it took.
async fn run(seed: u64) -> Duration {
    let start = Instant::now();
    let mut random = Random::new(seed);
    let agents = 1 + random.below(if long() { 8 } else { 5 });
    let steps = 20 + random.below(if long() { 160 } else { 40 });
    let mut fleet = Fleet::of(agents).start().await;

    let (admin, choices) = (fleet.admin(), Random::new(seed ^ 0xadd1));
    let nodes = fleet.hosts.iter().map(|host| host.name.clone()).collect();
    let asking = tokio::spawn(ask(admin, choices, nodes, steps / 3 + 3));
    for _ in 0..steps {
        fault(&mut fleet, &mut random).await;
        tokio::time::sleep(random.millis(40)).await;
    }
    for host in &fleet.hosts {
        for image in IMAGES {
            host.engine.script(image, ImageScript::default());
        }
        for op in OPS {
            host.engine.set_latency(op, Duration::ZERO);
        }
    }
    fleet.heal().await;
    let asked = asking.await.expect("every answer is as it should be");
    let admin = fleet.admin();
    end_updates(&fleet, admin, &mut random).await;
    fleet
        .until("the fleet is what was asked for", PATIENCE, |f| f.converged(&asked))
        .await;
    // Nothing more is done now, and so it stays.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fleet.converged(&asked), Ok(()), "the fleet does not stay as it was");
    assert_eq!(fleet.world(of_one_version), Ok(()));
    assert_eq!(fleet.crimes().await, Vec::<String>::new());
    start.elapsed()
}

/// Lets updates that failed go on, or turns them back, until none is left.
async fn end_updates(fleet: &Fleet, mut admin: Admin, random: &mut Random) {
    let start = Instant::now();
    loop {
        let going: Vec<(String, bool)> = fleet.world(|w| {
            let going = w.updates.iter().filter(|(_, u)| u.value.ended.is_none());
            going
                .map(|(key, u)| (key.1.clone(), u.value.paused.is_some()))
                .collect()
        });
        if going.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "updates that do not end: {going:?}");
        for (name, _) in going.iter().filter(|(_, paused)| *paused) {
            let action = if random.once_in(2) { "resume" } else { "rollback" };
            if let Err(status) = admin.steer(name, action).await {
                assert_eq!(status.code(), Code::NotFound, "{status}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether every pod has the images of its controller's template.
fn of_one_version(w: &World) -> Result<(), String> {
    let images = |spec: &PodSpec| spec.containers.iter().map(|c| c.image.clone()).collect::<Vec<_>>();
    for (key, controller) in &w.controllers {
        let wanted = images(&controller.rc.spec.template.spec);
        let mut pods = w.pods_of(&controller.rc.metadata.uid);
        if let Some((pod, state)) = pods.find(|(_, p)| images(&p.spec()) != wanted) {
            return Err(format!(
                "{key:?} is {wanted:?}, its pod {pod:?} {:?}",
                images(&state.spec())
            ));
        }
    }
    Ok(())
}

/// Asks for this and that; returns what was acknowledged. In the end no node is held.
async fn ask(mut admin: Admin, mut random: Random, nodes: Vec<String>, times: usize) -> Asked {
    let mut asked = Asked::new();
    for _ in 0..times {
        if random.once_in(3) {
            hold(&mut admin, &mut random, &nodes).await;
        }
        let name = format!("rc{}", random.below(4));
        let replicas = i32::try_from(random.below(7)).expect("small");
        match asked.get(&name).copied() {
            None => {
                let images = (0..=random.below(2)).filter_map(|_| random.pick(&IMAGES).map(|i| (*i).to_owned()));
                let wanted = Wanted {
                    images: images.collect(),
                    name: name.clone(),
                    replicas,
                    ..Wanted::default()
                };
                admin.create(&wanted).await.expect("a name that is free");
                asked.insert(name, replicas);
            }
            Some(_) if random.once_in(6) => match admin.delete(&name).await {
                Ok(_) => {
                    asked.remove(&name);
                }
                // Its update goes on.
                Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
            },
            Some(_) if random.once_in(4) => update(&mut admin, &mut random, &name).await,
            Some(_) if random.once_in(6) => {
                let pods = admin.pods().await.expect("a list");
                if let Some(pod) = random.pick(&pods)
                    && let Err(status) = admin.delete_pod(pod).await
                {
                    assert_eq!(status.code(), Code::NotFound, "{status}");
                }
            }
            Some(before) => {
                let reply = admin.scale(&name, replicas).await.expect("a controller that is there");
                assert_eq!(
                    (reply.previous_replicas, reply.replicas),
                    (before, replicas),
                    "of {name}"
                );
                asked.insert(name, replicas);
            }
        }
        tokio::time::sleep(random.millis(60)).await;
    }
    for node in &nodes {
        admin.uncordon(node).await.expect("a node that is there");
    }
    asked
}

/// Updates a controller, or steers the update that goes on.
async fn update(admin: &mut Admin, random: &mut Random, name: &str) {
    let refused = match random.below(4) {
        0 => admin.steer(name, "rollback").await.err(),
        1 => admin.steer(name, "resume").await.err(),
        _ => admin.update(name, IMAGES[random.below(IMAGES.len())]).await.err(),
    };
    // No update goes on, another one does, or it has that image already.
    if let Some(status) = refused {
        let known = [Code::NotFound, Code::FailedPrecondition, Code::InvalidArgument];
        assert!(known.contains(&status.code()), "{status}");
    }
}

/// Cordons a node, for good or for a second, or lets it go; both may be so already.
async fn hold(admin: &mut Admin, random: &mut Random, nodes: &[String]) {
    let Some(node) = random.pick(nodes) else { return };
    let reply = match random.below(3) {
        0 => admin.cordon(node, Duration::ZERO).await,
        1 => admin.cordon(node, Duration::from_secs(1)).await,
        _ => admin.uncordon(node).await,
    };
    reply.expect("a node that is there");
}

/// One thing goes wrong, or is put right.
async fn fault(fleet: &mut Fleet, random: &mut Random) {
    let kind = random.below(18);
    if kind == 16 {
        return fleet.set_full(random.once_in(3));
    }
    if kind == 17 {
        return if random.once_in(2) {
            fleet.depose_coordinator().await;
        } else {
            fleet.kill_deposed().await;
        };
    }
    if kind == 0 {
        if fleet.coordinated() {
            fleet.kill_coordinator().await;
        } else {
            fleet.start_coordinator().await;
        }
        return;
    }
    if !fleet.coordinated() && random.once_in(3) {
        fleet.start_coordinator().await;
    }
    let n = random.below(fleet.hosts.len());
    let host = &mut fleet.hosts[n];
    let containers = host.engine.containers();
    match kind {
        1 | 2 if host.runs() => host.kill().await,
        1..=3 => host.start(),
        4 => host.link.cut(),
        5 => host.link.silence(),
        6 => host.link.restore(),
        7 => host.link.blip(),
        8 => host.engine.set_unavailable(Some("it is away")),
        9 => host.engine.set_unavailable(None),
        10 => {
            if let Some(container) = random.pick(&containers) {
                host.engine.kill_behind_back(&container.id);
            }
        }
        11 => {
            if let Some(container) = random.pick(&containers) {
                host.engine.remove_behind_back(&container.id);
            }
        }
        12 if random.once_in(3) => host.engine.restart(),
        12 | 13 => {
            for _ in 0..=random.below(4) {
                let failure = match random.below(3) {
                    0 => Failure::lost(),
                    1 => Failure::lost_reply(),
                    _ => Failure::refused("it does not want to"),
                };
                host.engine.fail_next(OPS[random.below(OPS.len())], failure);
            }
        }
        14 => {
            let op = OPS[random.below(OPS.len())];
            let latency = if random.once_in(2) {
                random.millis(80)
            } else {
                Duration::ZERO
            };
            host.engine.set_latency(op, latency);
        }
        _ => {
            let script = match random.below(7) {
                0 => ImageScript::absent("no such image"),
                1 => ImageScript::slow_pull(random.millis(60)),
                2 => ImageScript::exits(i32::from(random.once_in(2)), random.millis(60)),
                3 => ImageScript::refuses_create("it cannot be made"),
                4 => ImageScript::refuses_start("it cannot be started"),
                5 => ImageScript {
                    stop_takes: random.millis(100),
                    ..ImageScript::default()
                },
                _ => ImageScript::default(),
            };
            host.engine.script(IMAGES[random.below(IMAGES.len())], script);
        }
    }
}
