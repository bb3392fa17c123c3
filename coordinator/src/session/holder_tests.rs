//! Who is believed to hold an identity.

use super::*;

fn claim(epoch: u64, instance: &str) -> Claim {
    Claim {
        generation: 0,
        epoch,
        instance: instance.into(),
        host: format!("host-{instance}"),
        address: "192.0.2.1".into(),
    }
}

fn known(epoch: u64, instance: &str) -> HolderRecord {
    HolderRecord {
        holder: claim(epoch, instance),
        ..HolderRecord::default()
    }
}

#[test]
fn a_later_start_follows_and_anything_else_is_a_second_holder() {
    let now = Time(7);
    let next = |epoch, instance| Judged::Next(known(epoch, instance));
    let rival = |epoch, instance| {
        Judged::Rival(HolderRecord {
            holder: claim(5, "a"),
            rival: Some(Rival {
                claim: claim(epoch, instance),
                since: now,
            }),
            ..HolderRecord::default()
        })
    };
    let of_five = known(5, "a");
    let rows = [
        ("the first agent ever", None, claim(1, "a"), next(1, "a")),
        ("an older agent, without instance", None, claim(1, ""), next(1, "")),
        (
            "a new connection of the same process",
            Some(&of_five),
            claim(5, "a"),
            Judged::Holder,
        ),
        ("a restart", Some(&of_five), claim(6, "b"), next(6, "b")),
        (
            "starts that never reached us",
            Some(&of_five),
            claim(9, "c"),
            next(9, "c"),
        ),
        (
            "a restart as an older release",
            Some(&of_five),
            claim(6, ""),
            next(6, ""),
        ),
        (
            "a copy that started as often",
            Some(&of_five),
            claim(5, "b"),
            rival(5, "b"),
        ),
        (
            "the same from an older release",
            Some(&of_five),
            claim(5, ""),
            rival(5, ""),
        ),
        (
            "one that the holder has passed",
            Some(&of_five),
            claim(4, "a"),
            rival(4, "a"),
        ),
        (
            "a directory from a backup",
            Some(&of_five),
            claim(1, "z"),
            rival(1, "z"),
        ),
    ];
    for (what, known, claim, expected) in rows {
        assert_eq!(judge(known, &claim, now), expected, "{what}");
    }
    let two = HolderRecord {
        rival: Some(Rival {
            claim: claim(6, "b"),
            since: now,
        }),
        ..of_five
    };
    // Neither of them, nor a restart of either, gets out of it.
    for claim in [claim(5, "a"), claim(6, "b"), claim(7, "c"), claim(1, "")] {
        assert_eq!(judge(Some(&two), &claim, now), Judged::Quarantined, "{claim}");
    }
}

#[test]
fn a_host_that_joined_again_counts_from_one_and_its_former_self_is_nobody() {
    let now = Time(7);
    let of = |generation, claim: Claim| Claim { generation, ..claim };
    let vacant = HolderRecord::vacant(2, true);
    let mut taken = HolderRecord {
        holder: of(2, claim(1, "new")),
        ..vacant.clone()
    };
    assert!(vacant.is_vacant() && !taken.is_vacant());
    assert_eq!(
        judge(Some(&vacant), &of(2, claim(1, "new")), now),
        Judged::Next(taken.clone()),
        "what is not settled stays so until it is"
    );
    for former in [claim(5, "a"), claim(6, "b"), claim(u64::MAX, "c")] {
        for generation in [0, 1] {
            let former = of(generation, former.clone());
            assert_eq!(judge(Some(&vacant), &former, now), Judged::Outdated, "{former}");
            assert_eq!(judge(Some(&taken), &former, now), Judged::Outdated, "{former}");
        }
    }
    // Its own copies are found as ever.
    assert!(matches!(judge(Some(&taken), &of(2, claim(1, "copy")), now), Judged::Rival(r) if r.unsettled));
    // A quarantine of the former identity does not hold the new one.
    taken.rival = Some(Rival {
        claim: of(2, claim(1, "copy")),
        since: now,
    });
    assert!(
        matches!(judge(Some(&taken), &of(3, claim(1, "x")), now), Judged::Next(r) if r.unsettled && r.rival.is_none())
    );
}

#[test]
fn another_host_with_the_same_start_is_the_same_process_elsewhere() {
    let moved = Claim {
        address: "192.0.2.99".into(),
        host: "renamed".into(),
        ..claim(5, "a")
    };
    assert_eq!(judge(Some(&known(5, "a")), &moved, Time(7)), Judged::Holder);
}

#[test]
fn instances_are_short_words() {
    for good in ["", "a", "3f2a0c1e-0000-4000-8000-000000000001"] {
        assert_eq!(check_instance(good), Ok(()), "{good}");
    }
    for bad in ["a b", "a\nb", "\u{e4}", &"a".repeat(65)] {
        assert!(check_instance(bad).is_err(), "{bad}");
    }
}
