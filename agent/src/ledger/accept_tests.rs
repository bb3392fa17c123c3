//! Tables: which coordinator is believed, and what its assignments change.

use proptest::prelude::*;
use proto::wire::{self, assignments::Kind};

use super::*;

fn fence(incarnation: &str, term: u64, nonce: &str) -> Fence {
    Fence {
        incarnation: incarnation.into(),
        term,
        nonce: nonce.into(),
    }
}

/// Accepted term 5 of incarnation `a` up to revision 50; runs pods p1, p2 and stops p3.
fn ledger() -> Ledger {
    let mut ledger = Ledger {
        fence: Some(fence("a", 5, "x")),
        revision: 50,
        ..Ledger::default()
    };
    for uid in ["p1", "p2", "p3"] {
        ledger.pods.insert(uid.into(), Arc::new(pod(uid)));
    }
    let stopping = PodEntry {
        stop: Some(StopIntent {
            reason: "deleted".into(),
            grace_seconds: 30,
            accepted_ms: 1,
            drain_ms: 0,
        }),
        ..pod("p3")
    };
    ledger.pods.insert("p3".into(), Arc::new(stopping));
    ledger
}

fn pod(uid: &str) -> PodEntry {
    PodEntry {
        uid: uid.into(),
        namespace: "default".into(),
        name: format!("{uid}-name"),
        spec_json: "{}".into(),
        spec_hash: "h1".into(),
        accepted_ms: 1,
        ..PodEntry::default()
    }
}

fn run(uid: &str) -> wire::Run {
    wire::Run {
        uid: uid.into(),
        namespace: "default".into(),
        name: format!("{uid}-name"),
        spec_json: b"{}".to_vec(),
        spec_hash: "h1".into(),
        ..wire::Run::default()
    }
}

fn stop(uid: &str, grace_seconds: u32) -> wire::Stop {
    wire::Stop {
        uid: uid.into(),
        reason: "scaled down".into(),
        grace_seconds,
        namespace: "default".into(),
        name: format!("{uid}-name"),
        endpoint_drain_ms: 0,
    }
}

fn message(kind: Kind, applies_to: u64, results_in: u64) -> wire::Assignments {
    wire::Assignments {
        kind: kind.into(),
        fence: Some((&fence("a", 5, "x")).into()),
        applies_to,
        results_in,
        ..wire::Assignments::default()
    }
}

fn welcome(fence: &Fence, known: bool, ended_at: u64) -> wire::Welcome {
    wire::Welcome {
        fence: Some(fence.into()),
        your_term_known: known,
        your_term_ended_at: ended_at,
        coordinators: vec!["c1:7443".into()],
        ..wire::Welcome::default()
    }
}

#[test]
fn whose_welcome_is_believed() {
    use Refusal as R;
    let (a, b): (String, String) = ("a".into(), "b".into());
    for (theirs, known, ended_at, expected) in [
        (fence("a", 5, "x"), true, 0, None),
        (fence("a", 6, "y"), true, 51, None),
        (fence("a", 6, "y"), true, 0, None),
        (fence("a", 4, "w"), true, 0, Some(R::OldTerm { ours: 5, theirs: 4 })),
        (fence("a", 5, "z"), true, 0, Some(R::OtherTerm { term: 5 })),
        (
            fence("b", 9, "y"),
            true,
            60,
            Some(R::OtherIncarnation { ours: a, theirs: b }),
        ),
        (fence("a", 6, "y"), false, 0, Some(R::UnknownTerm { ours: 5 })),
        (fence("a", 5, "x"), false, 0, Some(R::UnknownTerm { ours: 5 })),
        (
            fence("a", 6, "y"),
            true,
            50,
            Some(R::LaterThanHistory {
                term: 5,
                ended_at: 50,
                ours: 50,
            }),
        ),
        (
            fence("a", 6, "y"),
            true,
            30,
            Some(R::LaterThanHistory {
                term: 5,
                ended_at: 30,
                ours: 50,
            }),
        ),
        (
            fence("", 6, "y"),
            true,
            0,
            Some(R::Protocol("a message without its fence".into())),
        ),
    ] {
        let got = accept_welcome(&ledger(), &welcome(&theirs, known, ended_at));
        match expected {
            Some(refusal) => assert_eq!(got, Err(refusal), "{theirs:?} {known} {ended_at}"),
            None => {
                let change = got.expect("accepted");
                assert_eq!(change.next.fence, Some(theirs));
                assert_eq!(change.next.coordinators, ["c1:7443"]);
                assert_eq!(change.next.pods, ledger().pods);
                assert_eq!(change.next.revision, 50);
            }
        }
    }
}

#[test]
fn a_fresh_agent_believes_the_first_one() {
    let first = fence("b", 3, "q");
    let change = accept_welcome(&Ledger::default(), &welcome(&first, false, 0)).expect("accepted");
    assert_eq!(change.next.fence, Some(first));
    assert!(accept_welcome(&Ledger::default(), &wire::Welcome::default()).is_err());
}

#[test]
fn whose_assignments_are_believed() {
    use Refusal as R;
    let with = |f: Fence| wire::Assignments {
        fence: Some((&f).into()),
        ..message(Kind::Complete, 0, 60)
    };
    let protocol = |why: &str| R::Protocol(why.into());
    for (message, expected) in [
        (with(fence("a", 5, "x")), None),
        (with(fence("a", 7, "n")), None),
        (with(fence("a", 4, "x")), Some(R::OldTerm { ours: 5, theirs: 4 })),
        (with(fence("a", 5, "y")), Some(R::OtherTerm { term: 5 })),
        (
            with(fence("b", 7, "x")),
            Some(R::OtherIncarnation {
                ours: "a".into(),
                theirs: "b".into(),
            }),
        ),
        (
            wire::Assignments {
                fence: None,
                ..message(Kind::Complete, 0, 60)
            },
            Some(protocol("a message without its fence")),
        ),
        (
            message(Kind::Complete, 0, 49),
            Some(R::Backward { ours: 50, theirs: 49 }),
        ),
        (message(Kind::Unchanged, 50, 50), None),
        (message(Kind::Unchanged, 0, 50), Some(R::Gap { ours: 50, theirs: 0 })),
        (message(Kind::Incremental, 50, 51), None),
        (
            message(Kind::Incremental, 49, 51),
            Some(R::Gap { ours: 50, theirs: 49 }),
        ),
        (
            message(Kind::Incremental, 51, 52),
            Some(R::Gap { ours: 50, theirs: 51 }),
        ),
        (
            message(Kind::Incremental, 50, 49),
            Some(R::Backward { ours: 50, theirs: 49 }),
        ),
        (
            message(Kind::Unspecified, 0, 60),
            Some(protocol("assignments of no kind")),
        ),
        (
            wire::Assignments {
                stop: vec![stop("p1", 1)],
                ..message(Kind::Unchanged, 0, 60)
            },
            Some(protocol("UNCHANGED assignments with content")),
        ),
        (
            wire::Assignments {
                run: vec![wire::Run::default()],
                ..message(Kind::Complete, 0, 60)
            },
            Some(protocol("a pod without uid, namespace or name")),
        ),
        (
            wire::Assignments {
                stop: vec![wire::Stop::default()],
                ..message(Kind::Complete, 0, 60)
            },
            Some(protocol("a stop entry without uid")),
        ),
    ] {
        match (accept_assignments(&ledger(), &message, 9), expected) {
            (Err(got), Some(refusal)) => assert_eq!(got, refusal),
            (Ok(change), None) => assert_eq!(change.next.revision, message.results_in),
            (got, expected) => panic!("{message:?}: {got:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn absence_from_a_complete_set_stops_nothing() {
    let all = wire::Assignments {
        run: vec![run("p1"), run("p4")],
        ..message(Kind::Complete, 0, 60)
    };
    let change = accept_assignments(&ledger(), &all, 9).expect("accepted");
    let pods = &change.next.pods;
    assert_eq!(pods.keys().collect::<Vec<_>>(), ["p1", "p2", "p3", "p4"]);
    assert!(pods["p2"].unexpected && pods["p2"].stop.is_none() && pods["p2"].desired().mode == Mode::Run);
    assert!(!pods["p1"].unexpected && !pods["p4"].unexpected);
    assert_eq!(pods["p4"].accepted_ms, 9);
    assert!(pods["p3"].stop.is_some(), "a stop stays");
    assert_eq!(change.touched.iter().collect::<Vec<_>>(), ["p2", "p3", "p4"]);
    // An empty store answers with an empty set: everything stays.
    let none = accept_assignments(&change.next, &message(Kind::Complete, 0, 61), 10).expect("accepted");
    assert_eq!(none.next.pods.len(), 4);
    assert!(none.next.pods.values().all(|p| p.unexpected));
    // Named again, it is expected again.
    let again = wire::Assignments {
        run: vec![run("p2")],
        ..message(Kind::Incremental, 61, 62)
    };
    let change = accept_assignments(&none.next, &again, 11).expect("accepted");
    assert!(!change.next.pods["p2"].unexpected);
}

#[test]
fn increments_change_only_what_they_name() {
    let delta = wire::Assignments {
        run: vec![run("p4")],
        stop: vec![stop("p1", 7)],
        forget: vec!["p3".into(), "nobody".into()],
        ..message(Kind::Incremental, 50, 51)
    };
    let change = accept_assignments(&ledger(), &delta, 9).expect("accepted");
    let pods = &change.next.pods;
    assert_eq!(
        pods["p1"].stop.as_ref().map(|s| (s.grace_seconds, s.accepted_ms)),
        Some((7, 9))
    );
    assert_eq!(
        pods["p1"].desired().mode,
        Mode::Stop {
            grace_ms: 7000,
            drain_until_ms: 9,
            reason: "scaled down".into()
        }
    );
    assert_eq!(pods["p2"], ledger().pods["p2"]);
    assert!(pods["p3"].forgotten && pods["p3"].leaves_when_gone());
    assert_eq!(change.touched.iter().collect::<Vec<_>>(), ["p1", "p3", "p4"]);
}

#[test]
fn a_stop_is_final_and_its_grace_follows_the_coordinator() {
    let first = accept_assignments(
        &ledger(),
        &wire::Assignments {
            stop: vec![stop("p1", 30)],
            ..message(Kind::Incremental, 50, 51)
        },
        9,
    )
    .expect("accepted");
    let second = accept_assignments(
        &first.next,
        &wire::Assignments {
            run: vec![run("p1")],
            stop: vec![stop("p1", 2)],
            ..message(Kind::Incremental, 51, 52)
        },
        10,
    )
    .expect("accepted");
    let intent = second.next.pods["p1"].stop.clone().expect("still stopping");
    assert_eq!((intent.grace_seconds, intent.accepted_ms), (2, 9));
    let third = accept_assignments(
        &second.next,
        &wire::Assignments {
            run: vec![run("p1")],
            ..message(Kind::Complete, 0, 53)
        },
        11,
    )
    .expect("accepted");
    assert!(third.next.pods["p1"].stop.is_some());
}

#[test]
fn a_drain_counts_from_the_first_entry_and_only_gets_shorter() {
    let stopped = |ledger: &Ledger, drain_ms, now_ms| {
        let entry = wire::Stop {
            endpoint_drain_ms: drain_ms,
            ..stop("p1", 30)
        };
        let message = wire::Assignments {
            stop: vec![entry],
            ..message(Kind::Incremental, ledger.revision, ledger.revision + 1)
        };
        accept_assignments(ledger, &message, now_ms).expect("accepted").next
    };
    let until = |ledger: &Ledger| match ledger.pods["p1"].desired().mode {
        Mode::Stop { drain_until_ms, .. } => drain_until_ms,
        other => panic!("{other:?}"),
    };
    let first = stopped(&ledger(), 5_000, 100);
    assert_eq!(until(&first), 5_100);
    let longer = stopped(&first, 9_000, 200);
    assert_eq!(until(&longer), 5_100);
    let shorter = stopped(&longer, 1_000, 300);
    assert_eq!(until(&shorter), 1_100);
    assert!(!shorter.pods["p1"].hurries(&longer.pods["p1"]), "the grace is the same");

    let with_grace = |grace| {
        let message = wire::Assignments {
            stop: vec![stop("p1", grace)],
            ..message(Kind::Incremental, 51, 52)
        };
        accept_assignments(&first, &message, 400).expect("accepted").next
    };
    for (grace, hurries) in [(29, true), (0, true), (30, false), (31, false)] {
        assert_eq!(
            with_grace(grace).pods["p1"].hurries(&first.pods["p1"]),
            hurries,
            "{grace}"
        );
    }
    let running = &ledger().pods["p1"];
    assert!(!first.pods["p1"].hurries(running));
    assert!(with_grace(0).pods["p1"].hurries(running));
}

#[test]
fn a_welcome_brings_the_settings_or_their_absence() {
    let welcome = |settings| wire::Welcome {
        fence: Some((&fence("a", 5, "x")).into()),
        your_term_known: true,
        settings,
        ..wire::Welcome::default()
    };
    let told = |ready_after_ms| Some(wire::AgentSettings { ready_after_ms });
    let first = accept_welcome(&ledger(), &welcome(told(Some(0))))
        .expect("accepted")
        .next;
    assert_eq!(first.ready_after_ms, Some(0));
    for settings in [told(None), None] {
        let next = accept_welcome(&first, &welcome(settings)).expect("accepted").next;
        assert_eq!(next.ready_after_ms, None);
    }
}

#[test]
fn a_stop_of_an_unknown_pod_is_kept() {
    let message = wire::Assignments {
        stop: vec![stop("p9", 5)],
        ..message(Kind::Incremental, 50, 51)
    };
    let change = accept_assignments(&ledger(), &message, 9).expect("accepted");
    let entry = &change.next.pods["p9"];
    assert_eq!((entry.name.as_str(), entry.spec_json.as_str()), ("p9-name", ""));
    assert!(matches!(entry.desired().mode, Mode::Stop { grace_ms: 5000, .. }));
}

#[test]
fn another_spec_for_the_same_uid_is_refused_and_nothing_changes() {
    let other = wire::Run {
        spec_hash: "h2".into(),
        ..run("p1")
    };
    let message = wire::Assignments {
        run: vec![run("p4"), other],
        ..message(Kind::Incremental, 50, 51)
    };
    assert_eq!(
        accept_assignments(&ledger(), &message, 9),
        Err(Refusal::SpecChanged {
            uid: "p1".into(),
            namespace: "default".into(),
            name: "p1-name".into()
        })
    );
}

#[test]
fn the_digest_is_over_what_is_assigned() {
    let item = |uid, stop| {
        let entry = pod(uid);
        digest::Item {
            uid,
            spec_hash: "h1",
            marks: digest::marks(&entry.labels, &entry.annotations),
            stop,
        }
    };
    let all = digest::assignments([item("p1", None), item("p2", None), item("p3", Some(30))]);
    let mut ledger = ledger();
    assert_eq!(ledger.digest(), all);
    let mut marked = ledger.clone();
    let mut entry = pod("p1");
    entry.annotations.insert("note".into(), "x".into());
    marked.pods.insert("p1".into(), Arc::new(entry));
    assert_ne!(marked.digest(), all);
    let unexpected = PodEntry {
        unexpected: true,
        ..pod("p2")
    };
    ledger.pods.insert("p2".into(), Arc::new(unexpected));
    assert_eq!(
        ledger.digest(),
        digest::assignments([item("p1", None), item("p3", Some(30))])
    );
}

#[test]
fn a_spec_that_this_agent_cannot_read_is_not_run() {
    let entry = PodEntry {
        spec_json: r#"{"containers":[],"initContainers":[]}"#.into(),
        ..pod("p1")
    };
    let why = entry.desired().invalid.expect("says why");
    assert!(why.contains("initContainers"), "{why}");
}

/// Messages of a confused or malicious coordinator.
fn any_message() -> impl Strategy<Value = wire::Assignments> {
    let uid = || prop::sample::select(vec!["p1", "p2", "p3", "p4", "p5"]);
    (
        0i32..4,
        prop::sample::select(vec!["a", "b"]),
        4u64..8,
        prop::sample::select(vec!["x", "y"]),
        48u64..54,
        48u64..60,
        prop::collection::vec(uid(), 0..4),
        prop::collection::vec(uid(), 0..3),
        prop::collection::vec(uid(), 0..3),
    )
        .prop_map(
            |(kind, incarnation, term, nonce, applies_to, results_in, runs, stops, forget)| wire::Assignments {
                kind,
                fence: Some((&fence(incarnation, term, nonce)).into()),
                applies_to,
                results_in,
                run: runs.into_iter().map(run).collect(),
                stop: stops.into_iter().map(|u| stop(u, 3)).collect(),
                forget: forget.into_iter().map(str::to_owned).collect(),
            },
        )
}

proptest! {
    #[test]
    fn only_a_stop_entry_stops_and_nothing_goes_back(messages in prop::collection::vec(any_message(), 0..20)) {
        let mut now = ledger();
        for m in messages {
            let Ok(LedgerChange { next, .. }) = accept_assignments(&now, &m, 9) else { continue };
            let (old, new) = (now.fence.clone().expect("set"), next.fence.clone().expect("set"));
            prop_assert_eq!(&old.incarnation, &new.incarnation);
            prop_assert!(new.term > old.term || (new.term == old.term && new.nonce == old.nonce));
            prop_assert!(next.revision >= now.revision);
            for (uid, before) in &now.pods {
                let after = next.pods.get(uid).expect("no message drops a pod");
                prop_assert!(before.stop.is_none() || after.stop.is_some(), "a stop was taken back");
                let named = m.stop.iter().any(|s| s.uid == *uid);
                prop_assert!(before.stop.is_some() || after.stop.is_none() || named, "stopped without a stop entry");
                // Of a pod known only by its stop entry, the spec may still come.
                prop_assert!(before.spec_json.is_empty() || before.spec_hash == after.spec_hash);
            }
            now = next;
        }
    }
}

#[test]
fn another_incarnation_is_taken_only_where_it_goes_on_from_the_accepted_one() {
    let welcome = |incarnation: &str, replaces: &[&str]| wire::Welcome {
        fence: Some((&fence(incarnation, 3, "z")).into()),
        replaces: replaces.iter().map(|r| (*r).to_owned()).collect(),
        // Of a history that ended nothing can be said.
        your_term_known: false,
        your_term_ended_at: 1,
        ..wire::Welcome::default()
    };
    let before = ledger();
    for refused in [welcome("b", &[]), welcome("b", &["c"]), welcome("b", &["b"])] {
        let refusal = accept_welcome(&before, &refused).unwrap_err();
        assert!(matches!(refusal, Refusal::OtherIncarnation { .. }), "{refusal}");
    }
    let taken = accept_welcome(&before, &welcome("b", &["0", "a"])).unwrap();
    assert_eq!(taken.next.fence, Some(fence("b", 3, "z")));
    assert_eq!(taken.next.revision, 0);
    assert_eq!(taken.next.pods, before.pods, "nothing that runs is touched");
    // From then on the one before is another one, whatever it says.
    let back = accept_welcome(&taken.next, &welcome("a", &["0"])).unwrap_err();
    assert!(matches!(back, Refusal::OtherIncarnation { .. }), "{back}");
    // Of one's own incarnation nothing is made up for by it.
    let own = accept_welcome(&before, &welcome("a", &["a"])).unwrap_err();
    assert!(matches!(own, Refusal::OldTerm { .. }), "{own}");

    // The complete set of a restored state names only some: the others run on, and are told of.
    let complete = wire::Assignments {
        kind: Kind::Complete.into(),
        fence: Some((&fence("b", 3, "z")).into()),
        results_in: 1 << 40,
        run: vec![run("p1")],
        ..wire::Assignments::default()
    };
    let after = accept_assignments(&taken.next, &complete, 9).unwrap().next;
    let told: Vec<_> = after.unexpected().into_iter().map(|r| r.uid).collect();
    assert_eq!(told, ["p2"], "not what is known, nor what is being stopped");
    assert!(after.pods["p2"].stop.is_none());
    assert_eq!(after.unexpected()[0].spec_hash, "h1");
}
