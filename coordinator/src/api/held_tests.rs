//! Who changes which holds, for any of them.

use proptest::prelude::*;
use tonic::Status;

use super::*;
use crate::{
    store::{Rv, Update},
    world::World,
};

const KINDS: [HoldKind; 4] = [
    HoldKind::Cordon,
    HoldKind::Drain,
    HoldKind::Maintenance,
    HoldKind::Automation,
];
const OWNERS: [&str; 3] = ["user/ann", "user/bob", "m-17"];

fn hold(kind: HoldKind, owner: &str, reason: &str) -> NodeHold {
    NodeHold {
        kind,
        owner: owner.into(),
        reason: reason.into(),
        since: Time(10),
        expires: None,
    }
}

fn record(holds: impl IntoIterator<Item = NodeHold>) -> HoldsRecord {
    holds.into_iter().map(|h| (h.id(), h)).collect()
}

/// A node with these holds; `marked` as an earlier release did it.
fn node(holds: Option<&HoldsRecord>, marked: bool) -> World {
    let mut node = Node::default();
    node.metadata.name = "n1".into();
    node.spec.unschedulable = marked;
    let mut entries = vec![(keys::object(Kind::Node, "", "n1"), encode(&node))];
    entries.extend(holds.map(|h| (keys::holds("n1"), encode(h))));
    let mut world = World::default();
    for (i, (key, value)) in (1..).zip(entries) {
        let value = Some(value.into());
        world
            .apply(&Update {
                rv: Rv::new(i, 0),
                key,
                value,
            })
            .expect("reads");
    }
    world
}

fn after(holds: &HoldsRecord, asked: &Asked, caller: &str) -> Result<HoldsRecord, Status> {
    let world = node(Some(holds), false);
    Ok(asked.decide(&world.nodes["n1"], caller, Time(50))?)
}

fn any_holds() -> impl Strategy<Value = HoldsRecord> {
    let one = (0..4_usize, 0..3_usize, "[a-z]{0,3}").prop_map(|(k, o, r)| hold(KINDS[k], OWNERS[o], &r));
    prop::collection::vec(one, 0..8).prop_map(record)
}

fn any_asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        (any::<bool>(), "[a-z]{0,3}", prop::option::of(60..90_i64)).prop_map(|(cordon, reason, at)| Asked::Hold {
            kind: if cordon { HoldKind::Cordon } else { HoldKind::Automation },
            reason,
            expires: at.map(Time),
        }),
        Just(Asked::Cordoned),
        any::<bool>().prop_map(|all_owners| Asked::Uncordoned { all_owners }),
        (0..4_usize, 0..3_usize, any::<bool>(), any::<bool>()).prop_map(|(k, o, own, any_owner)| Asked::Released {
            id: if own {
                String::new()
            } else {
                hold(KINDS[k], OWNERS[o], "").id()
            },
            any_owner,
        }),
    ]
}

proptest! {
    /// Another owner's hold is as it was, unless the caller said that he means others'; a maintenance's and a
    /// drain's always are. To ask once more changes nothing.
    #[test]
    fn nobody_changes_another_s_hold(holds in any_holds(), asked in any_asked(), caller in 0..2_usize) {
        let caller = OWNERS[caller];
        let means_others = matches!(asked, Asked::Uncordoned { all_owners: true } | Asked::Released { any_owner: true, .. });
        let releases = matches!(asked, Asked::Released { .. });
        let Ok(next) = after(&holds, &asked, caller) else {
            prop_assert!(releases, "{asked:?} is never refused");
            return Ok(());
        };
        for (id, hold) in &holds {
            let workflow = matches!(hold.kind, HoldKind::Drain | HoldKind::Maintenance);
            if workflow || (hold.owner != caller && !means_others) {
                prop_assert_eq!(next.get(id), Some(hold));
            }
        }
        let added: Vec<_> = next.values().filter(|h| !holds.contains_key(&h.id())).collect();
        prop_assert!(added.iter().all(|h| h.owner == caller && h.since == Time(50)));
        prop_assert!(next.iter().all(|(id, h)| *id == h.id()), "found by its id");
        if matches!(asked, Asked::Uncordoned { all_owners: true }) {
            prop_assert!(next.values().all(|h| h.kind != HoldKind::Cordon));
        }
        match after(&next, &asked, caller) {
            Ok(again) => prop_assert_eq!(again, next),
            // Another's hold that is gone is not found.
            Err(_) => prop_assert!(releases && means_others),
        }
    }
}

#[test]
fn a_hold_made_again_keeps_when_it_began_and_its_reason() {
    let ask = |reason: &str, expires| Asked::Hold {
        kind: HoldKind::Cordon,
        reason: reason.into(),
        expires,
    };
    let start = record([NodeHold {
        expires: Some(Time(99)),
        ..hold(HoldKind::Cordon, "user/ann", "RAM swap")
    }]);
    let of =
        |asked: &Asked, from: &HoldsRecord| after(from, asked, "user/ann").expect("allowed")["cordon/user/ann"].clone();
    let told = |h: &NodeHold| (h.since.0, h.reason.clone(), h.expires);
    assert_eq!(
        told(&of(&ask("disk", Some(Time(70))), &start)),
        (10, "disk".into(), Some(Time(70)))
    );
    // Without a reason the old one stays; without an end it has none.
    assert_eq!(told(&of(&ask("", None), &start)), (10, "RAM swap".into(), None));
    assert_eq!(
        told(&of(&Asked::Cordoned, &start)),
        (10, "RAM swap".into(), Some(Time(99)))
    );
    assert_eq!(
        told(&of(&ask("", None), &HoldsRecord::new())),
        (50, String::new(), None)
    );
}

#[test]
fn what_cannot_be_released_says_why() {
    let holds = record([
        hold(HoldKind::Cordon, "user/bob", ""),
        hold(HoldKind::Maintenance, "m-17", "DIMM"),
        hold(HoldKind::Drain, "user/bob", ""),
    ]);
    let release = |id: &str, any_owner| {
        let asked = Asked::Released {
            id: id.into(),
            any_owner,
        };
        let status = after(&holds, &asked, "user/ann").expect_err("refused");
        format!("{:?}: {}", status.code(), status.message())
    };
    for (id, any_owner, expected) in [
        (
            "cordon/user/bob",
            false,
            "PermissionDenied: nodes \"n1\": its hold cordon/user/bob is user/bob's; give --any-owner to release it all the same",
        ),
        (
            "maintenance/m-17",
            true,
            "FailedPrecondition: nodes \"n1\": its hold maintenance/m-17 goes with what made it: wharf maintenance cancel m-17",
        ),
        (
            "drain/user/bob",
            true,
            "FailedPrecondition: nodes \"n1\": its hold drain/user/bob goes with what made it: wharf drain n1 --cancel",
        ),
        (
            "cordon/user/eve",
            true,
            "NotFound: nodes \"n1\": no hold \"cordon/user/eve\"; it has cordon/user/bob, drain/user/bob, maintenance/m-17",
        ),
    ] {
        assert_eq!(release(id, any_owner), expected);
    }
}

#[test]
fn what_comes_from_outside_is_checked() {
    let asked = |kind, reason: &str, for_ms| match Asked::hold(kind, reason, for_ms, Time(1000)) {
        Ok(Asked::Hold { reason, expires, .. }) => Ok((reason, expires)),
        Ok(other) => panic!("{other:?}"),
        Err(e) => Err(e.to_string()),
    };
    let cordon = HoldKind::Cordon;
    assert_eq!(asked(cordon, " RAM swap ", 0), Ok(("RAM swap".into(), None)));
    assert_eq!(
        asked(cordon, "", 1500),
        Ok((String::new(), Some(Time(1002)))),
        "never too early"
    );
    assert!(asked(cordon, &"ä".repeat(256), MAX_LIFE_MS).is_ok());
    for (kind, reason, for_ms, expected) in [
        (HoldKind::Automation, " ", 0, "reason: required"),
        (cordon, "a\nb", 0, "reason: one line of at most 256 characters"),
        (
            cordon,
            &*"ä".repeat(257),
            0,
            "reason: one line of at most 256 characters, e.g. \"RAM swap\"; it has 257",
        ),
        (cordon, "", MAX_LIFE_MS + 1, "for_ms: a hold ends within ten years"),
        (cordon, "", u64::MAX, "for_ms: a hold ends within ten years"),
    ] {
        let error = asked(kind, reason, for_ms).expect_err("refused");
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn the_first_hold_rewrites_the_node_and_takes_an_old_mark_away() {
    let mine = record([hold(HoldKind::Cordon, "user/ann", "")]);
    for (stored, marked, keys_changed) in [
        (None, false, vec!["obj/node/-/n1", "holds/n1"]),
        (None, true, vec!["obj/node/-/n1", "holds/n1"]),
        (Some(HoldsRecord::new()), false, vec!["holds/n1"]),
    ] {
        let mut world = node(stored.as_ref(), marked);
        let state = world.nodes["n1"].clone();
        assert_eq!(state.cordoned(), marked, "a mark counts as somebody's cordon");
        let own = (*state.node).clone();
        assert_eq!(changes(&state, own.clone(), &present(&state)), []);
        let made = changes(&state, own, &mine);
        let at: Vec<_> = made.iter().map(|c| c.key.as_str()).collect();
        assert_eq!(at, keys_changed);
        // Whoever was faster, a hold or the node's deletion, makes it conflict.
        assert!(made.iter().all(|c| c.expect != Expect::Any));
        for (i, change) in (0..).zip(made) {
            let rv = Rv::new(9, i);
            world
                .apply(&Update {
                    rv,
                    key: change.key,
                    value: change.value,
                })
                .expect("reads");
        }
        let state = &world.nodes["n1"];
        assert_eq!((present(state), state.node.spec.unschedulable), (mine.clone(), false));
    }
    // A label of a marked node changes and its cordon stays.
    let world = node(None, true);
    let state = &world.nodes["n1"];
    let mut relabelled = (*state.node).clone();
    relabelled.metadata.labels.insert("a".into(), "b".into());
    relabelled.spec.unschedulable = false;
    let made = changes(state, relabelled, &present(state));
    assert_eq!(made.len(), 1);
    let stored: Node = serde_json::from_slice(made[0].value.as_ref().expect("a put")).expect("a node");
    assert!(stored.spec.unschedulable);
}

#[test]
fn the_audit_record_says_what_changed() {
    let before = record([
        hold(HoldKind::Cordon, "user/ann", "x"),
        hold(HoldKind::Cordon, "user/bob", "y"),
    ]);
    let after = record([
        NodeHold {
            expires: Some(Time(0)),
            ..hold(HoldKind::Cordon, "user/bob", "z")
        },
        hold(HoldKind::Automation, "user/eve", "disk"),
    ]);
    assert_eq!(
        detail(&before, &after),
        "made: automation by eve: disk; released: cordon by ann: x; changed: cordon by bob: z (until 1970-01-01T00:00:00Z)"
    );
    assert_eq!(detail(&before, &before), "");
}
