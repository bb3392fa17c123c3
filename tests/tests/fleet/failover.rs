//! Several coordinators over one store: what a fail-over costs, and what it must not touch. The clock is paused, so that
//! times are simulated.

use std::{collections::BTreeMap, time::Duration};

use harness::fleet::{Replicas, address};
use proto::model::loss::STOP_AFTER_DISCONNECT;
use tokio::time::{Instant, sleep};

use crate::{long, random::Random};

/// Coordinators `c1` … `c3`, the first one leading, hosts, and a pod on each.
async fn fleet(agents: usize) -> Replicas {
    let fleet = Replicas::started(3, agents).await;
    for n in 0..agents {
        fleet
            .run_pod(1, &format!("p{n}"), &format!("n{n}"), BTreeMap::new())
            .await;
    }
    fleet.until("all pods are ready", |f| f.pods_ready(1)).await;
    // Events, and the last statuses.
    sleep(Duration::from_secs(5)).await;
    fleet
}

/// Waits until a coordinator has answered so many Hellos; says how long that took.
async fn served(fleet: &Replicas, by: usize, agents: usize) -> Duration {
    let begun = Instant::now();
    fleet
        .until("all agents are served", |f| {
            let n = f.sent(by, "UNCHANGED") + f.sent(by, "COMPLETE");
            if n >= agents as u64 {
                Ok(())
            } else {
                Err(format!("{n} are"))
            }
        })
        .await;
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_fail_over_changes_nothing_where_nothing_changed() {
    let agents = 6;
    let mut fleet = fleet(agents).await;
    let (before, newest) = (fleet.containers(), fleet.newest());
    fleet.kill(1).await;
    sleep(Duration::from_secs(1)).await;
    fleet.lead(2).await;
    let took = served(&fleet, 2, agents).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    sleep(Duration::from_secs(60)).await;
    assert_eq!((fleet.sent(2, "UNCHANGED"), fleet.sent(2, "COMPLETE")), (6, 0));
    assert_eq!(fleet.sent(2, "INCREMENTAL"), 0);
    assert_eq!(fleet.containers(), before);
    // Not a condition, not a holder, not a status: only the term.
    let written = fleet.written_since(newest, |key| !key.starts_with("term")).await;
    assert_eq!(written, Vec::<String>::new());
    // The next assignment goes on from there.
    fleet.run_pod(2, "more", "n0", BTreeMap::new()).await;
    fleet.until("it is ready", |f| f.pods_ready(2)).await;
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_ends_no_session_and_the_one_that_led_stands_by() {
    let agents = 4;
    let mut fleet = fleet(agents).await;
    let before = fleet.containers();
    let ended = |f: &Replicas| [1, 2, 3].map(|n| f.sessions_ended(n));
    let before_all = ended(&fleet);
    for leader in [3, 1, 2, 1] {
        let answered = fleet.sent(leader, "UNCHANGED") + fleet.sent(leader, "COMPLETE");
        fleet.lead(leader).await;
        let sent = usize::try_from(answered).expect("small");
        served(&fleet, leader, sent + agents).await;
        fleet.until("all are heard", |f| f.all_heard(leader)).await;
    }
    assert_eq!(ended(&fleet), before_all, "a session ended");
    // And where one does end it is counted.
    fleet.agents[0].stop().await;
    fleet
        .until("its sessions have ended", |f| {
            let now = ended(f);
            let more = now.iter().zip(before_all).all(|(now, before)| *now == before + 1);
            if more { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    assert_eq!(fleet.containers(), before);
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_nobody_leads_is_told_to_who_leads_next() {
    let mut fleet = fleet(2).await;
    fleet.kill(1).await;
    let first = fleet.agents[0].containers();
    assert!(fleet.agents[0].engine.kill_behind_back(&first[0]));
    fleet
        .until("it is started again by its agent alone", |f| {
            let now = f.agents[0].containers();
            if now.len() == 1 && now != first {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        })
        .await;
    sleep(Duration::from_secs(30)).await;
    let restarts = |s: coordinator::world::record::StatusRecord| s.status.container_statuses[0].restart_count;
    assert_eq!(
        fleet.status("p0").await.map(restarts),
        Some(0),
        "nobody was there to write it"
    );
    fleet.lead(3).await;
    let begun = Instant::now();
    while fleet.status("p0").await.map(restarts) != Some(1) {
        assert!(begun.elapsed() < Duration::from_secs(5), "it is not told");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn of_two_that_both_lead_the_earlier_one_is_not_believed() {
    let agents = 3;
    let mut fleet = fleet(agents).await;
    let before = fleet.containers();
    fleet.freeze(1);
    fleet.lead(2).await;
    served(&fleet, 2, agents).await;
    // It is spoken to anew, and answers as the leader that it takes itself for.
    for agent in &fleet.agents {
        agent.link.cut_from(&address(1));
    }
    sleep(Duration::from_millis(50)).await;
    for agent in &fleet.agents {
        agent.link.restore();
    }
    let refused = format!("{}  none: the coordinator's term", address(1));
    fleet
        .until("every agent is welcomed by it and refuses it", |f| {
            match f.agents.iter().find(|a| !a.status_text().contains(&refused)) {
                Some(agent) => Err(agent.status_text()),
                None => Ok(()),
            }
        })
        .await;
    sleep(Duration::from_secs(5)).await;
    // Whatever it said, the later one leads on.
    fleet.run_pod(2, "more", "n0", BTreeMap::new()).await;
    fleet.until("it is ready", |f| f.pods_ready(2)).await;
    for (name, ids) in fleet.containers() {
        assert!(before[&name].iter().all(|id| ids.contains(id)), "{name}: {ids:?}");
        let text = fleet
            .agents
            .iter()
            .find(|a| a.name == name)
            .expect("there")
            .status_text();
        assert!(text.contains(&format!("{}  active", address(2))), "{text}");
    }
    assert_eq!(fleet.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_told_one_address_finds_the_others_after_a_restart() {
    let mut fleet = fleet(1).await;
    let before = fleet.containers();
    fleet.agents[0].stop().await;
    fleet.kill(1).await;
    fleet.lead(3).await;
    fleet.agents[0].start();
    fleet
        .until("it is ready", |f| {
            f.world(3, |w| {
                if w.nodes["n0"].is_ready() {
                    Ok(())
                } else {
                    Err("not".into())
                }
            })
        })
        .await;
    served(&fleet, 3, 1).await;
    assert_eq!(fleet.containers(), before);
    // One that comes back at its address is spoken to again.
    fleet.start(1).await;
    fleet.until("all hear it", |f| f.all_heard(3)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_cut_from_the_leader_alone_is_not_lost_while_another_one_hears_it() {
    let fleet = fleet(2).await;
    let condition = |f: &Replicas| f.world(1, |w| w.nodes["n0"].condition().reason);
    let becomes = async |reason: &str, apart: &[usize]| {
        let begun = Instant::now();
        while condition(&fleet) != reason {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{reason}: {}",
                condition(&fleet)
            );
            fleet.exchange(1, apart);
            sleep(Duration::from_millis(500)).await;
        }
    };
    fleet.exchange(1, &[]);
    fleet.agents[0].link.cut_from(&address(1));
    becomes("HeardElsewhere", &[]).await;
    assert!(fleet.world(1, |w| w.nodes["n0"].lost().is_none() && !w.nodes["n0"].is_ready()));
    // The others are cut from the leader, too: then nobody tells it of the node.
    becomes("AgentDown", &[2, 3]).await;
    becomes("HeardElsewhere", &[2]).await;
    fleet.agents[0].link.restore();
    becomes("AgentReady", &[]).await;
    fleet.pods_ready(1).expect("as before");
}

/// The order in which a pod that must not run twice ends and is replaced, whoever its agent still talks to.
#[tokio::test(start_paused = true)]
async fn a_pod_that_stops_when_unheard_has_ended_before_any_leader_may_replace_it() {
    let limit = Duration::from_secs(20);
    for (deposed, others) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut fleet = Replicas::started(3, 2).await;
        let marks = BTreeMap::from([(STOP_AFTER_DISCONNECT.to_owned(), "20s".to_owned())]);
        fleet.run_pod(1, "single", "n0", marks).await;
        fleet.until("it is ready", |f| f.pods_ready(1)).await;
        sleep(Duration::from_secs(30)).await;
        assert_eq!(fleet.agents[0].containers().len(), 1, "it is heard");
        // The agent hears on of the one that led, and of another one that stands by.
        if deposed {
            fleet.freeze(1);
        } else {
            fleet.kill(1).await;
        }
        fleet.agents[0].link.cut_from(&address(2));
        if !others {
            fleet.agents[0].link.cut_from(&address(3));
        }
        let begun = Instant::now();
        fleet.lead(2).await;
        // Without a word of c3 to c2 the node is lost there.
        let lost = async {
            while fleet.world(2, |w| w.nodes["n0"].lost().is_none()) {
                assert!(begun.elapsed() < Duration::from_secs(30));
                sleep(Duration::from_millis(100)).await;
            }
        };
        lost.await;
        // By the contract it may be replaced this long after the node was last heard, which is at the earliest now.
        let may = begun + limit + Duration::from_secs(10);
        while !fleet.agents[0].containers().is_empty() {
            assert!(Instant::now() < may, "deposed {deposed}, others {others}: it runs on");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn many_agents_are_served_again_within_two_seconds() {
    let agents = if long() { 1_000 } else { 60 };
    let mut fleet = Replicas::started(3, agents).await;
    sleep(Duration::from_secs(5)).await;
    let newest = fleet.newest();
    fleet.kill(1).await;
    let begun = Instant::now();
    fleet.lead(2).await;
    let took = served(&fleet, 2, agents).await;
    println!("{agents} agents served after {took:?} of the clock");
    assert!(begun.elapsed() < Duration::from_secs(2), "{took:?}");
    assert_eq!(fleet.sent(2, "UNCHANGED"), agents as u64);
    sleep(Duration::from_secs(20)).await;
    let conditions = fleet.written_since(newest, |key| key.starts_with("ready/")).await;
    assert_eq!(conditions, Vec::<String>::new(), "a node was called lost");
}

#[tokio::test(start_paused = true)]
async fn whatever_leads_comes_and_goes_no_container_is_touched() {
    let seeds: Vec<u64> = match std::env::var("FLEET_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..if long() { 200 } else { 8 }).collect(),
    };
    for seed in seeds {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let mut fleet = fleet(3).await;
        let before = fleet.containers();
        for _ in 0..30 {
            let (n, host) = (1 + random.below(3), random.below(3));
            match random.below(9) {
                0 => fleet.kill(n).await,
                1 | 2 => fleet.start(n).await,
                3 | 4 => {
                    fleet.start(n).await;
                    fleet.lead(n).await;
                }
                5 => fleet.agents[host].link.cut_from(&address(n)),
                6 => fleet.agents[host].link.blip(),
                7 => fleet.agents[host].stop().await,
                _ => {
                    fleet.agents[host].link.restore();
                    fleet.agents[host].start();
                }
            }
            sleep(random.millis(3_000)).await;
        }
        for n in 1..=3 {
            fleet.start(n).await;
        }
        for agent in &mut fleet.agents {
            agent.link.restore();
            agent.start();
        }
        fleet.lead(2).await;
        fleet.until("all are heard", |f| f.all_heard(2)).await;
        fleet.until("all pods are ready", |f| f.pods_ready(2)).await;
        assert_eq!(fleet.containers(), before, "seed {seed}");
        assert_eq!(fleet.violations(), Vec::<String>::new(), "seed {seed}");
        for agent in &mut fleet.agents {
            agent.stop().await;
        }
    }
}
