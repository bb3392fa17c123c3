//! What a coordinator concludes from the record about itself, and which releases stand beside each other: tables.

use super::*;
use crate::init::enrol_address;

fn record(address: &str) -> CoordinatorRecord {
    CoordinatorRecord {
        address: address.into(),
        enrol: enrol_address(address),
        joined: Time(0),
        version: proto::VERSION.into(),
    }
}

fn on_record(coordinators: &[(&str, &str)], issuers: &[(&str, &str)]) -> OnRecord {
    let coordinators = coordinators
        .iter()
        .map(|(name, address)| ((*name).to_owned(), (Rv(1), record(address))));
    let issuers = issuers.iter().map(|(name, key)| {
        let issuer = IssuerRecord {
            key: (*key).to_owned(),
            certificate: String::new(),
        };
        ((*name).to_owned(), (Rv(1), issuer))
    });
    OnRecord {
        coordinators: coordinators.collect(),
        issuers: issuers.collect(),
    }
}

#[test]
fn a_removed_or_replaced_coordinator_never_writes_itself_back() {
    type Rows<'a> = &'a [(&'a str, &'a str)];
    let rows: [(Rows<'_>, Rows<'_>, Own); 10] = [
        (&[], &[], Own::Outdated { issuer: true }),
        (&[], &[("c1", "mine")], Own::Outdated { issuer: false }),
        (&[], &[("c1", "theirs")], Own::Outdated { issuer: true }),
        (&[("c1", "h:1")], &[("c1", "mine")], Own::Current),
        (&[("c1", "h:2")], &[("c1", "mine")], Own::Outdated { issuer: false }),
        (&[("c1", "h:1")], &[], Own::Outdated { issuer: true }),
        (&[("c1", "h:1")], &[("c1", "theirs")], Own::Replaced),
        (&[("c2", "h:2")], &[("c2", "theirs")], Own::Removed),
        // Its intermediate alone makes it no coordinator.
        (&[("c2", "h:2")], &[("c1", "mine"), ("c2", "theirs")], Own::Removed),
        (
            &[("c1", "h:1"), ("c2", "h:2")],
            &[("c1", "mine"), ("c2", "theirs")],
            Own::Current,
        ),
    ];
    for (coordinators, issuers, expected) in rows {
        let all = on_record(coordinators, issuers);
        assert_eq!(
            own(&all, "c1", "mine", &record("h:1")),
            expected,
            "{coordinators:?} {issuers:?}"
        );
    }
    // The release and the enrolment address count too; when it joined does not.
    let all = on_record(&[("c1", "h:1")], &[("c1", "mine")]);
    let wanted = |change: fn(&mut CoordinatorRecord)| {
        let mut wanted = record("h:1");
        change(&mut wanted);
        own(&all, "c1", "mine", &wanted)
    };
    assert_eq!(wanted(|w| w.enrol = "h:9".into()), Own::Outdated { issuer: false });
    assert_eq!(wanted(|w| w.version = "0.0.9".into()), Own::Outdated { issuer: false });
    assert_eq!(wanted(|w| w.joined = Time(7)), Own::Current);
}

#[test]
fn releases_beside_each_other() {
    for (ours, theirs, fits) in [
        ("1.4.0", "1.4.9", true),
        ("1.4.0", "1.3.0", true),
        ("1.4.0", "1.5.0", true),
        ("1.4.0", "1.2.0", false),
        ("1.4.0", "1.6.0", false),
        ("1.4.0", "2.4.0", false),
        ("1.4.0", "1.4", false),
        ("1.4.0", "", false),
    ] {
        let checked = check_release(ours, theirs);
        assert_eq!(checked.is_ok(), fits, "{ours} {theirs}");
        if let Err(words) = checked {
            assert!(
                words.contains(ours) && words.contains(&format!("{theirs:?}")),
                "{words}"
            );
        }
    }
}
