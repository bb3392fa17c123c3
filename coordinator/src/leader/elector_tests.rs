//! Electors on one store, in simulated time: who leads after what, and how soon.

use std::sync::atomic::Ordering;

use tokio::time::sleep;

use super::*;
use crate::{
    leader::{
        leadership::{Deposed, Transferred},
        testing::{Bench, ms},
    },
    store::{Change, CommitError, Expect, Rv, line::Cut},
};

#[tokio::test(start_paused = true)]
async fn of_three_one_leads_and_all_know_who() {
    let bench = Bench::new(3).await;
    let leader = bench.leader().await;
    let term = bench.term().await;
    bench.stays(leader, ms(5_000)).await;
    for (i, replica) in bench.replicas.iter().enumerate() {
        let standing = replica.leadership.standing();
        let role = if i == leader { Role::Active } else { Role::Standby };
        assert_eq!((standing.role, standing.term), (role, term));
        assert_eq!(standing.leader, bench.replicas[leader].name);
        assert!(!standing.store_away && standing.since.is_some());
        assert_eq!(standing.takeovers, u64::from(i == leader));
        assert_eq!(
            standing.last.map(|t| (t.term, t.reason)),
            (i == leader).then_some((term, Reason::First))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_within_300_ms() {
    // At any moment between two beats.
    for offset in (0..100).step_by(20) {
        let mut bench = Bench::new(3).await;
        let (leader, term) = (bench.leader().await, bench.term().await);
        bench.links(leader, term, Link::Up);
        sleep(ms(offset)).await;
        bench.replicas[leader].kill().await;
        bench.links(leader, term, Link::Reset);
        let (next, took) = bench.leader_after(term).await;
        assert!(next != leader && took <= ms(300), "{offset}: {took:?}");
        assert!(bench.replicas[next].hub.read(|w| w.leader().unwrap().0) > term);
        let takeover = bench.replicas[next].leadership.standing().last.unwrap();
        assert_eq!(takeover.reason, Reason::Gone);
        assert!(
            takeover.unled.unwrap() >= ms(200) && takeover.took < ms(50),
            "{takeover:?}"
        );
        bench.write(next, "k").await.unwrap();
        // And the third follows the new one.
        bench.stays(next, ms(3_000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_leader_is_replaced_and_wakes_up_deposed() {
    for (link, why, within) in [(Link::Silent, Reason::Silent, 1_200), (Link::Up, Reason::Stale, 1_700)] {
        let bench = Bench::new(3).await;
        let (leader, term) = (bench.leader().await, bench.term().await);
        let old = bench.replicas[leader].hub.fence().unwrap();
        bench.replicas[leader].stop();
        bench.links(leader, term, link);
        let (next, took) = bench.leader_after(term).await;
        assert!(took >= ms(900) && took <= ms(within), "{link:?}: {took:?}");
        assert_eq!(bench.replicas[next].leadership.standing().last.unwrap().reason, why);
        let written = bench.write(next, "k").await.unwrap().last();

        // It still believes that it leads, and nothing that it does counts.
        let hung = &bench.replicas[leader];
        assert_eq!(hung.hub.fence().as_ref(), Some(&old));
        assert!(hung.hub.rv() < written);
        let deposed = Deposed::NotLeading {
            leader: bench.replicas[next].name.clone(),
        };
        assert_eq!(hung.leadership.confirm().await, Err(deposed));
        let change = vec![Change::put("k", Expect::Any, "late")];
        let late = hung.hub.commit_under(&old, change).await;
        assert!(matches!(late, Err(CommitError::Fenced { .. })), "{late:?}");
        hung.go_on();
        bench.role(leader, Role::Standby).await;
        assert!(!hung.acts());
        bench.stays(next, ms(3_000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_term_acts_only_once_the_view_includes_it() {
    let mut bench = Bench::new(2).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    let other = 1 - leader;
    bench.replicas[other].deaf.send_replace(true);
    bench.replicas[leader].kill().await;
    bench.links(leader, term, Link::Reset);
    while bench.term().await == term {
        sleep(ms(1)).await;
    }
    // It has the term, and knows nothing yet of what was written before it.
    sleep(ms(500)).await;
    assert!(!bench.replicas[other].acts());
    bench.replicas[other].deaf.send_replace(false);
    let (next, _) = bench.leader_after(term).await;
    assert!(next == other && bench.replicas[other].hub.read(|w| w.leader().unwrap().0) > term);
}

#[tokio::test(start_paused = true)]
async fn a_leader_stops_with_the_first_beat_that_is_refused() {
    let bench = Bench::new(1).await;
    let term = bench.term().await;
    let claim = Claim {
        incarnation: "inc".into(),
        holder: "x:1".into(),
        coordinator: "x".into(),
        address: "x:7443".into(),
    };
    bench.store.take_over(Some(term), &claim).await.unwrap();
    let began = Instant::now();
    while bench.replicas[0].acts() {
        sleep(ms(1)).await;
    }
    // Long before its lease is over.
    assert!(began.elapsed() <= ms(150), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_deposes_nobody() {
    for cut in [Cut::Refuses, Cut::Hangs] {
        for link in [Link::Up, Link::Reset] {
            let bench = Bench::new(3).await;
            let (leader, term) = (bench.leader().await, bench.term().await);
            bench.links(leader, term, link);
            // Shorter than the leader bears: it does not even notice.
            bench.cut_all(cut);
            sleep(ms(800)).await;
            bench.cut_all(Cut::Whole);
            bench.stays(leader, ms(2_000)).await;

            bench.cut_all(cut);
            sleep(ms(800)).await;
            assert!(bench.replicas[leader].acts());
            sleep(ms(400)).await;
            assert!(!bench.replicas[leader].acts(), "it stops by itself after a second");
            sleep(ms(3_800)).await;
            assert_eq!(bench.term().await, term, "{cut:?}, {link:?}: nobody takes over");
            assert!(bench.replicas.iter().all(|r| r.leadership.standing().store_away));
            bench.cut_all(Cut::Whole);
            let (next, took) = bench.leader_after(term).await;
            assert!(next == leader && took <= ms(300), "{cut:?}, {link:?}: {next}, {took:?}");
            let standing = bench.replicas[leader].leadership.standing();
            assert_eq!(standing.last.unwrap().reason, Reason::Again);
            bench.stays(leader, ms(2_000)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_from_the_store_stops_before_another_one_acts() {
    let bench = Bench::new(3).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    bench.links(leader, term, Link::Up);
    bench.replicas[leader].line.set(Cut::Hangs);
    let began = Instant::now();
    while bench.replicas[leader].acts() {
        assert_eq!(bench.term().await, term);
        sleep(ms(1)).await;
    }
    assert!(began.elapsed() <= ms(1_000), "{:?}", began.elapsed());
    let (next, _) = bench.leader_after(term).await;
    assert!(next != leader && began.elapsed() <= ms(1_700), "{:?}", began.elapsed());
    bench.replicas[leader].line.set(Cut::Whole);
    bench.stays(next, ms(3_000)).await;
    let standing = bench.replicas[leader].leadership.standing();
    assert_eq!(
        (standing.role, standing.leader),
        (Role::Standby, bench.replicas[next].name.clone())
    );
}

#[tokio::test(start_paused = true)]
async fn broken_streams_alone_depose_nobody() {
    let bench = Bench::new(3).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    for link in [Link::Refused, Link::Silent, Link::Reset, Link::Unknown] {
        bench.links(leader, term, link);
        bench.stays(leader, ms(5_000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_restarts_before_it_is_missed_begins_a_new_term() {
    let mut bench = Bench::new(3).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    bench.replicas[leader].kill().await;
    sleep(ms(20)).await;
    let again = bench.restart(leader).await;
    let (next, took) = bench.leader_after(term).await;
    // Not sooner than the old process's reads are over.
    assert!(next == again && took >= ms(150) && took <= ms(250), "{took:?}");
    let last = bench.replicas[again].leadership.standing().last.unwrap();
    assert_eq!(last.reason, Reason::OwnName);
    bench.stays(again, ms(3_000)).await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_of_one_name_end_the_older_one() {
    let mut bench = Bench::new(1).await;
    let term = bench.term().await;
    let twin = bench.start("a").await;
    let (next, _) = bench.leader_after(term).await;
    assert_eq!(next, twin);
    let ended = bench.replicas[0].ended().await.unwrap_err().to_string();
    assert!(
        ended.contains("another process (a:1) of coordinator a") && ended.contains("stop one of the two"),
        "{ended}"
    );
    assert!(!bench.replicas[0].acts());
    bench.stays(twin, ms(3_000)).await;
}

#[tokio::test(start_paused = true)]
async fn a_term_whose_begin_was_not_answered_is_not_resumed() {
    let mut bench = Bench::new(2).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    let other = 1 - leader;
    bench.replicas[other]
        .contest
        .forget_attempt
        .store(true, Ordering::SeqCst);
    bench.replicas[leader].kill().await;
    bench.links(leader, term, Link::Reset);
    let (next, took) = bench.leader_after(term).await;
    assert!(next == other && took <= ms(500), "{took:?}");
    assert_eq!(
        bench.replicas[other].leadership.standing().last.unwrap().reason,
        Reason::OwnName
    );
    // The lost one, and the one that it acts under.
    let terms: Vec<u64> = bench.replicas[other].hub.read(|w| w.terms.keys().copied().collect());
    assert_eq!(terms.iter().filter(|t| **t > term).count(), 2, "{terms:?}");
}

#[tokio::test(start_paused = true)]
async fn a_planned_hand_over_is_quick_and_loses_no_write() {
    let bench = Bench::new(3).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    let to = bench.replicas[(leader + 1) % 3].name.clone();
    // A write is under way.
    let active = &bench.replicas[leader];
    let write = bench.write(leader, "k");
    let transfer = async {
        sleep(ms(1)).await;
        let began = Instant::now();
        (active.leadership.transfer(Some(to.clone())).await, began.elapsed())
    };
    let (written, (transferred, took)) = tokio::join!(write, transfer);
    let written = written.unwrap().last();
    let Transferred {
        to: taken, term: new, ..
    } = transferred.unwrap();
    assert_eq!((&taken, new > term), (&to, true));
    assert!(took <= ms(150), "{took:?}");
    let told = active.streams.told.lock().unwrap()[0].clone();
    assert_eq!((told.term, told.to), (term, to));
    assert!(told.last >= written && told.last < Rv::new(new, 0));
    let (next, more) = bench.leader_after(term).await;
    assert!(bench.replicas[next].name == taken && took + more <= ms(150), "{more:?}");
    let last = bench.replicas[next].leadership.standing().last.unwrap();
    assert_eq!(last.reason, Reason::HandedOver);
    assert!(bench.replicas[next].hub.rv() >= written);
    bench.role(leader, Role::Standby).await;
    bench.stays(next, ms(3_000)).await;
    // And back, to whoever there is.
    let back = bench.replicas[next].leadership.transfer(None).await.unwrap();
    assert!(back.term > new && back.to != taken);
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_that_nobody_takes_is_taken_back() {
    let bench = Bench::new(2).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    let active = &bench.replicas[leader];
    let nobody = active.leadership.transfer(Some("z".into())).await.unwrap_err();
    assert_eq!(nobody.to_string(), "coordinator z does not follow");
    assert_eq!(bench.acting().await, Some(leader), "it never stopped");
    assert_eq!(bench.term().await, term);

    active.streams.deaf.store(true, Ordering::SeqCst);
    // Its streams break: only its beats hold the other one off.
    bench.links(leader, term, Link::Reset);
    let began = Instant::now();
    let lost = active.leadership.transfer(None).await.unwrap_err();
    assert!(lost.to_string().contains("did not take over within 1000 ms"), "{lost}");
    assert!(!active.acts());
    // A new term: the successor may still take the old one for released.
    let (next, _) = bench.leader_after(term).await;
    assert!(next == leader && began.elapsed() <= ms(1_100), "{:?}", began.elapsed());
    let other = 1 - leader;
    let refused = bench.replicas[other].leadership.transfer(None).await.unwrap_err();
    let leads = format!("this coordinator does not lead ({} does)", active.name);
    assert!(refused.to_string().starts_with(&leads), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn reads_within_the_lease_ask_nobody_and_later_ones_ask_once() {
    let bench = Bench::new(2).await;
    let leader = bench.leader().await;
    let active = &bench.replicas[leader];
    let looks = || active.contest.looks.load(Ordering::SeqCst);
    let before = looks();
    for _ in 0..300 {
        assert_eq!(active.leadership.confirm().await, Ok(()));
        sleep(ms(7)).await;
    }
    assert_eq!(looks(), before, "beats are enough");
    // Its beats no longer get through; reads ask, and get no answer.
    active.line.set(Cut::Refuses);
    sleep(ms(250)).await;
    assert!(active.acts());
    let unsure = active.leadership.confirm().await.unwrap_err();
    assert!(matches!(unsure, Deposed::Unsure(_)), "{unsure:?}");
    assert!(unsure.to_string().ends_with("ask again"), "{unsure}");
    // Nothing but the line is in the way.
    active.line.set(Cut::Whole);
    let before = looks();
    let all = (0..20).map(|_| active.leadership.confirm());
    let all = futures::future::join_all(all).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert!(looks() - before <= 2, "{} questions for 20 readers", looks() - before);
    let standby = bench.replicas[1 - leader].leadership.confirm().await;
    let leader = active.name.clone();
    assert_eq!(standby, Err(Deposed::NotLeading { leader }));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_write_its_mark_lets_others_lead() {
    let mut bench = Bench::new(3).await;
    let (leader, term) = (bench.leader().await, bench.term().await);
    let broken = (leader + 1) % 3;
    bench.replicas[broken].lose_disk();
    bench.replicas[leader].kill().await;
    bench.links(leader, term, Link::Reset);
    let (next, took) = bench.leader_after(term).await;
    assert!(next == (leader + 2) % 3 && took <= ms(2_000), "{next}: {took:?}");
    assert!(!bench.replicas[broken].acts());
    bench.stays(next, ms(3_000)).await;
}

#[tokio::test(start_paused = true)]
async fn an_asked_end_leaves_no_fence_and_an_emptied_store_is_refused() {
    let mut bench = Bench::new(1).await;
    bench.replicas[0].stopping.cancel();
    bench.replicas[0].ended().await.unwrap();
    assert!(!bench.replicas[0].acts());
    let gone = bench.replicas[0].leadership.transfer(None).await.unwrap_err();
    assert_eq!(gone, TransferError::Ending);
    bench.store = Default::default();
    let again = bench.restart(0).await;
    let refused = bench.replicas[again].ended().await.unwrap_err().to_string();
    assert!(
        refused.contains("is empty and this coordinator has already served"),
        "{refused}"
    );
    assert_eq!(bench.term().await, 0, "it began no term");
}
