//! The takeover protocol, model-checked: one active coordinator and two standbys, with every order of steps in which
//! messages are lost, late or repeated, processes sleep between any two steps, end, and start again, and one clock is
//! slower than the others.
//!
//! Invariant: each fault that is put in on purpose is caught, so that what holds does not hold for want of trying.

mod protocol;
mod state;
mod steps;

use std::collections::BTreeSet;

use stateright::{Checker, Expectation, HasDiscoveries, Model as _};

use state::{Bounds, Fault, Protocol};

/// One takeover, with beats: small enough for every run of the tests, and far enough for each fault of a lease.
const ONCE: Bounds = Bounds {
    time: 3,
    terms: 2,
    beats: 2,
    writes: 2,
    late: 0,
    lost: 0,
    crashes: 0,
    hand_overs: 0,
    phases: 1,
    steps: 13,
};

/// A takeover over a takeover, and the end of a lease that nobody renews.
const TWICE: Bounds = Bounds {
    time: 4,
    terms: 3,
    beats: 1,
    steps: 17,
    ..ONCE
};

/// As long as the first lease lasts: far enough for who begins a term over one that it began itself.
const TWICE_SOON: Bounds = Bounds { time: 3, ..TWICE };

const HANDED_OVER: Bounds = Bounds {
    hand_overs: 1,
    steps: 10,
    ..TWICE_SOON
};

/// `WHARF_TEST_LONG=1` goes further, from each way in which the slow clock may stand.
/// `WHARF_MODEL=time,terms,beats,writes,late,lost,crashes,hand-overs,phases,steps` sets all bounds.
fn bounds(given: Bounds) -> Bounds {
    let text = std::env::var("WHARF_MODEL").unwrap_or_default();
    let numbers: Vec<u8> = text.split(',').filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [
            time,
            terms,
            beats,
            writes,
            late,
            lost,
            crashes,
            hand_overs,
            phases,
            steps,
        ] => Bounds {
            time,
            terms,
            beats,
            writes,
            late,
            lost,
            crashes,
            hand_overs,
            phases,
            steps: steps.into(),
        },
        _ if std::env::var_os("WHARF_TEST_LONG").is_some() => Bounds {
            time: given.time + 1,
            phases: 4,
            steps: given.steps + 2,
            ..given
        },
        _ => given,
    }
}

/// All that is reached within the bounds; says how much that was.
fn check(fault: Option<Fault>, given: Bounds, settles: bool) -> impl Checker<Protocol> {
    let bounds = bounds(given);
    let model = Protocol { fault, bounds, settles };
    // By one thread: no state is then first reached by a longer way than need be, so none within the bounds is missed.
    // The checker counts states, not steps, and does not look at those of the last depth.
    let builder = model.checker().threads(1).target_max_depth(bounds.steps + 2);
    let builder = match fault {
        None => builder,
        Some(_) => builder.finish_when(HasDiscoveries::AllOf(BTreeSet::from([READS]))),
    };
    let checker = builder.spawn_bfs().join();
    println!(
        "{fault:?}, {bounds:?}: {} states, {} of them apart",
        checker.state_count(),
        checker.unique_state_count(),
    );
    checker
}

/// Nothing goes wrong, and what could go wrong was tried: these were seen.
fn holds(given: Bounds, seen: &[&'static str]) {
    hold_true(&check(None, given, false), seen);
}

fn hold_true(checker: &impl Checker<Protocol>, seen: &[&'static str]) {
    for property in checker.model().properties() {
        let (name, found) = (property.name, checker.discovery(property.name));
        match property.expectation {
            Expectation::Always | Expectation::Eventually => {
                let found = found.map(|path| path.to_string());
                assert_eq!(found, None, "not true: {name}");
            }
            Expectation::Sometimes => assert!(found.is_some() || !seen.contains(&name), "never seen: {name}"),
        }
    }
}

const READS: &str = "no read misses an acknowledged write";
const OVERLAP: &str = "one reads under its lease while another has begun a term";
const TWO_LATER: &str = "two terms later somebody acts";
const TAKEN: &str = "a hand-over is taken";

#[test]
fn the_protocol_holds_over_a_takeover() {
    holds(ONCE, &[OVERLAP]);
}

#[test]
fn it_holds_over_a_takeover_of_a_takeover() {
    holds(TWICE, &[OVERLAP, TWO_LATER]);
}

#[test]
fn it_holds_where_messages_are_late_or_come_twice() {
    let given = Bounds {
        late: 1,
        steps: 10,
        ..ONCE
    };
    holds(given, &[OVERLAP]);
}

#[test]
fn it_holds_where_messages_are_lost() {
    let given = Bounds {
        lost: 1,
        steps: 12,
        ..TWICE_SOON
    };
    holds(given, &[OVERLAP]);
}

#[test]
fn it_holds_where_a_process_ends_and_starts_again() {
    let given = Bounds {
        crashes: 1,
        steps: 11,
        ..TWICE_SOON
    };
    holds(given, &[OVERLAP]);
}

#[test]
fn it_holds_where_the_leadership_is_handed_over() {
    holds(HANDED_OVER, &[OVERLAP, TAKEN]);
}

#[test]
fn somebody_leads_once_nothing_is_in_the_way() {
    let given = Bounds {
        time: 2,
        writes: 1,
        lost: 1,
        crashes: 1,
        steps: 7,
        ..HANDED_OVER
    };
    hold_true(&check(None, given, true), &[OVERLAP, TAKEN]);
}

/// The model sees it, within bounds in which the protocol without it holds.
fn caught(fault: Fault, given: Bounds) {
    let path = check(Some(fault), given, false).discovery(READS);
    let Some(path) = path else {
        panic!("{fault:?} goes unnoticed");
    };
    println!("{fault:?}: caught within {} steps", path.into_actions().len());
}

#[test]
fn a_term_without_a_comparison_is_caught() {
    caught(Fault::NoCompare, TWICE);
}

#[test]
fn a_lease_without_a_margin_is_caught() {
    caught(Fault::NoMargin, ONCE);
}

#[test]
fn a_term_that_waits_for_no_lease_is_caught() {
    caught(Fault::NoWait, ONCE);
}

#[test]
fn a_beat_that_slips_in_before_the_takeover_is_caught() {
    caught(Fault::NoLookAfter, ONCE);
}

#[test]
fn a_fence_before_the_world_includes_the_term_is_caught() {
    caught(Fault::EarlyFence, ONCE);
}

#[test]
fn reads_after_a_hand_over_are_caught() {
    caught(Fault::ReadsOn, HANDED_OVER);
}

#[test]
fn going_on_under_a_term_that_was_handed_over_is_caught() {
    caught(Fault::SameTermAgain, HANDED_OVER);
}

#[test]
fn a_lease_from_the_acknowledgement_of_a_beat_is_caught() {
    caught(Fault::CountsFromAnswer, ONCE);
}
