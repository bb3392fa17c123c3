//! What may be done to members, in tables; and that nothing allowed costs the majority, for every small cluster.

use proptest::prelude::*;

use super::{
    admin::{Answer, Member, StoreKind, StoreStatus},
    decide::*,
};

pub fn member(n: u64) -> Member {
    Member {
        id: 0xce2a_822c_ea30_bfc0 + n,
        name: format!("etcd{n}"),
        peer_urls: vec![format!("https://10.0.0.{n}:2380")],
        client_urls: vec![format!("https://10.0.0.{n}:2379")],
        learner: false,
        alarms: Vec::new(),
        answer: Ok(Answer {
            version: "3.4.23".into(),
            leader: n == 1,
            size: 100,
            in_use: 60,
        }),
    }
}

pub fn down(n: u64) -> Member {
    Member {
        answer: Err("connection refused".into()),
        ..member(n)
    }
}

fn learner(n: u64) -> Member {
    Member {
        learner: true,
        ..member(n)
    }
}

fn unstarted(n: u64) -> Member {
    Member {
        name: String::new(),
        client_urls: Vec::new(),
        learner: true,
        ..down(n)
    }
}

fn old(n: u64) -> Member {
    Member {
        answer: Ok(Answer {
            version: "3.3.27".into(),
            ..Answer::default()
        }),
        ..member(n)
    }
}

pub fn etcd(members: Vec<Member>) -> StoreStatus {
    StoreStatus {
        kind: StoreKind::Etcd,
        members,
        ..StoreStatus::default()
    }
}

fn three() -> Vec<Member> {
    vec![member(1), member(2), member(3)]
}

fn words<T>(result: Result<T, crate::api::errors::ApiError>) -> String {
    result.map_or_else(|e| e.to_string(), |_| "ok".into())
}

#[track_caller]
fn says(result: &str, expected: &str) {
    assert!(result.contains(expected), "{result:?} does not say {expected:?}");
}

fn url(n: u64) -> Vec<String> {
    vec![format!("https://10.0.0.{n}:2380")]
}

#[test]
fn who_may_come() {
    for (members, expected) in [
        (three(), "ok"),
        (vec![member(1)], "ok"),
        (vec![member(1), member(2)], "ok"),
        (vec![old(1), old(2), old(3)], "ok"),
        (vec![old(1)], "know no learners"),
        (vec![member(1), member(2), down(3)], "wharf cluster member remove etcd3"),
        (vec![member(1), down(2), down(3)], "1 of 3 answer, which is no majority"),
        (vec![member(1), member(2), learner(3)], "has not caught up yet"),
        (vec![member(1), member(2), unstarted(5)], "has not started yet"),
        (Vec::new(), "no majority"),
    ] {
        says(&words(may_add(&etcd(members), "etcd4", &url(4))), expected);
    }
    let sqlite = words(may_add(&StoreStatus::default(), "etcd4", &url(4)));
    says(&sqlite, "SQLite");
}

#[test]
fn a_newcomer_is_a_learner_where_there_are_some_and_a_repeat_is_the_same() {
    let added = |members| may_add(&etcd(members), "etcd4", &url(4)).expect("may");
    assert!(matches!(added(three()), Adding::New { learner: true, warnings } if warnings[0].starts_with("4 members")));
    let old = vec![old(1), old(2)];
    assert_eq!(
        added(old),
        Adding::New {
            learner: false,
            warnings: vec![]
        }
    );
    let waiting = vec![member(1), member(2), member(3), unstarted(4)];
    assert_eq!(added(waiting), Adding::Again(unstarted(4).id));
}

#[test]
fn names_and_urls_of_newcomers() {
    for (name, urls, expected) in [
        ("etcd4", vec!["https://10.0.0.4:2380/"], "ok"),
        (
            "etcd4",
            vec!["https://[fd00::4]:2380", "https://etcd4.example:2380"],
            "ok",
        ),
        ("etcd2", vec!["https://10.0.0.4:2380"], "is there already"),
        ("a=b", vec!["https://10.0.0.4:2380"], "name: "),
        ("", vec!["https://10.0.0.4:2380"], "name: "),
        (
            "etcd4",
            vec!["https://10.0.0.2:2380/"],
            "\"etcd2\": has https://10.0.0.2:2380 already",
        ),
        ("etcd4", vec!["http://10.0.0.4:2380"], "speak https://"),
        (
            "etcd4",
            vec!["https://10.0.0.4:2380", "https://10.0.0.4:2380/"],
            "given twice",
        ),
        ("etcd4", vec![], "give 1 to 8"),
        ("etcd4", vec!["https://0.0.0.0:2380"], "no address of one host"),
        ("etcd4", vec!["10.0.0.4:2380"], "is not http"),
        ("etcd4", vec!["https://10.0.0.4"], "is not http"),
        ("etcd4", vec!["https://10.0.0.4:0"], "is not http"),
        ("etcd4", vec!["https://u@10.0.0.4:2380"], "is not http"),
        ("etcd4", vec!["https://10.0.0.4:2380/v2"], "is not http"),
        ("etcd4", vec!["unix:///tmp/x"], "is not http"),
    ] {
        let urls: Vec<String> = urls.into_iter().map(str::to_owned).collect();
        says(&words(may_add(&etcd(three()), name, &urls)), expected);
    }
}

#[test]
fn who_may_go() {
    for (members, gone, expected) in [
        (three(), 2, "2 members are left, and none of them may fail"),
        (vec![member(1), member(2), down(3)], 3, "none of them may fail"),
        (
            vec![member(1), member(2), down(3)],
            2,
            "of the 2 that would be left 1 would answer",
        ),
        (
            vec![member(1), down(2), down(3)],
            3,
            "no majority, so that nothing can be changed",
        ),
        (vec![member(1)], 1, "is the only one that has a vote"),
        (vec![member(1), learner(2)], 1, "is the only one that has a vote"),
        (vec![member(1), member(2)], 2, "1 member is left"),
        (vec![member(1), member(2), member(3), learner(4)], 4, ""),
        (vec![member(1), member(2), member(3), member(4)], 4, ""),
    ] {
        let at = members
            .iter()
            .find(|m| m.name == format!("etcd{gone}"))
            .expect("there")
            .clone();
        let said = match may_remove(&etcd(members), &at) {
            Ok(warnings) => warnings.join("; "),
            Err(e) => e.to_string(),
        };
        says(&said, expected);
        assert!(!expected.is_empty() || said.is_empty(), "{said}");
    }
    let one = may_remove(&etcd(vec![member(1), member(2), down(3)]), &member(2)).expect_err("refused");
    says(&one.to_string(), "remove those first: \"etcd3\" (connection refused)");
}

#[test]
fn whose_urls_may_change() {
    for (members, at, urls, expected) in [
        (three(), 2, url(9), Some(true)),
        (three(), 2, url(2), Some(false)),
        (vec![member(1), member(2), down(3)], 3, url(9), Some(true)),
        (vec![member(1), member(2), down(3)], 2, url(9), None),
        (vec![member(1)], 1, url(9), Some(true)),
        (three(), 2, url(3), None),
        (vec![member(1), down(2), down(3)], 2, url(9), None),
    ] {
        let member = members
            .iter()
            .find(|m| m.name == format!("etcd{at}"))
            .expect("there")
            .clone();
        assert_eq!(
            may_update(&etcd(members.clone()), &member, &urls).ok(),
            expected,
            "{members:?} {urls:?}"
        );
    }
}

#[test]
fn members_are_found_by_id_or_name() {
    let mut members = three();
    members.push(unstarted(4));
    let found = |text: &str| words(find(&members, text).map(|m| m.id));
    assert_eq!(find(&members, "etcd2").map(|m| m.id).ok(), Some(member(2).id));
    assert_eq!(
        find(&members, "CE2A822CEA30BFC4").map(|m| m.id).ok(),
        Some(unstarted(4).id)
    );
    says(&found("etcd7"), "members \"etcd7\" not found; did you mean `etcd");
    says(&found(""), "not found");
    members[2].name = "etcd1".into();
    says(
        &words(find(&members, "etcd1").map(|m| m.id)),
        "more than one is called so",
    );
    members[2].name = members[0].hex();
    says(&words(find(&members, &members[0].hex()).map(|m| m.id)), "more than one");
}

#[test]
fn the_leader_is_defragmented_last_and_the_majority_is_kept() {
    let order = |status: &StoreStatus, named: &[&str]| {
        let named: Vec<String> = named.iter().map(|n| (*n).to_owned()).collect();
        defrag_order(status, &named).map(|o| o.into_iter().map(|d| d.name).collect::<Vec<_>>().join(" "))
    };
    assert_eq!(order(&etcd(three()), &[]).expect("may"), "etcd2 etcd3 etcd1");
    assert_eq!(
        order(&etcd(three()), &["etcd1", "etcd3", "etcd1"]).expect("may"),
        "etcd3 etcd1"
    );
    says(&words(order(&etcd(three()), &["x"])), "\"x\" not found");
    let mut one_down = etcd(vec![member(1), member(2), down(3)]);
    says(
        &words(order(&one_down, &[])),
        "would leave no majority; start the others first: \"etcd3\"",
    );
    one_down.members[0].alarms.push("NOSPACE".into());
    assert_eq!(
        order(&one_down, &[]).expect("nothing is written anyway"),
        "etcd2 etcd3 etcd1"
    );
    let left_out = defrag_order(&one_down, &[]).expect("may");
    assert_eq!(
        left_out[1].problem.as_deref(),
        Some("does not answer: connection refused")
    );
    assert_eq!(
        order(&etcd(vec![member(1), member(2)]), &[]).expect("cannot be helped"),
        "etcd2 etcd1"
    );
    says(&words(order(&etcd(Vec::new()), &[])), "none answers");
    says(&words(order(&StoreStatus::default(), &[])), "SQLite");
}

#[test]
fn the_newcomers_environment_is_complete() {
    let text = environment(&three(), "etcd4", &url(4));
    let expected = "ETCD_NAME=etcd4
ETCD_DATA_DIR=/var/lib/etcd/etcd4
ETCD_LISTEN_PEER_URLS=https://10.0.0.4:2380
ETCD_LISTEN_CLIENT_URLS=https://10.0.0.4:2379
ETCD_INITIAL_ADVERTISE_PEER_URLS=https://10.0.0.4:2380
ETCD_ADVERTISE_CLIENT_URLS=https://10.0.0.4:2379
ETCD_INITIAL_CLUSTER=etcd1=https://10.0.0.1:2380,etcd2=https://10.0.0.2:2380,etcd3=https://10.0.0.3:2380,etcd4=https://10.0.0.4:2380
ETCD_INITIAL_CLUSTER_STATE=existing
ETCD_STRICT_RECONFIG_CHECK=true
ETCD_HEARTBEAT_INTERVAL=50
ETCD_ELECTION_TIMEOUT=500
ETCD_PRE_VOTE=true
ETCD_QUOTA_BACKEND_BYTES=2147483648
ETCD_AUTO_COMPACTION_RETENTION=0
ETCD_CERT_FILE=/etc/wharf/etcd/server.crt
ETCD_KEY_FILE=/etc/wharf/etcd/server.key
ETCD_TRUSTED_CA_FILE=/etc/wharf/etcd/ca.crt
ETCD_CLIENT_CERT_AUTH=true
ETCD_PEER_CERT_FILE=/etc/wharf/etcd/peer.crt
ETCD_PEER_KEY_FILE=/etc/wharf/etcd/peer.key
ETCD_PEER_TRUSTED_CA_FILE=/etc/wharf/etcd/ca.crt
ETCD_PEER_CLIENT_CERT_AUTH=true
";
    assert_eq!(text, expected);
    // A repeat does not name the newcomer twice, names listen on every address, and plain members need no certificate.
    let mut plain = vec![member(1), unstarted(4)];
    plain[0].peer_urls = vec!["http://a.example:2380".into()];
    plain[0].client_urls = vec!["http://a.example:12379".into()];
    let text = environment(&plain, "b", &["http://b.example:2380".to_owned()]);
    for line in [
        "ETCD_LISTEN_PEER_URLS=http://0.0.0.0:2380\n",
        "ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:12379\n",
        "ETCD_ADVERTISE_CLIENT_URLS=http://b.example:12379\n",
        "ETCD_INITIAL_CLUSTER=etcd1=http://a.example:2380,b=http://b.example:2380\n",
    ] {
        says(&text, line);
    }
    assert!(!text.contains("CERT"), "{text}");
}

prop_compose! {
    fn any_member()(n in 1..9_u64, up in any::<bool>(), learner in prop::bool::weighted(0.2)) -> Member {
        let base = if up { member(n) } else { down(n) };
        Member { learner, ..base }
    }
}

fn any_cluster() -> impl Strategy<Value = Vec<Member>> {
    prop::collection::vec(any_member(), 0..8).prop_map(|mut members| {
        members.sort_by_key(|m| m.id);
        members.dedup_by_key(|m| m.id);
        members
    })
}

proptest! {
    /// The oracle counts by itself: votes after the change, and those of them that surely answer.
    #[test]
    fn nothing_allowed_costs_the_majority(members in any_cluster(), at in 0..8_usize) {
        let status = etcd(members.clone());
        let up = |m: &&Member| !m.learner && m.answer.is_ok();
        let answering = members.iter().filter(up).count();
        let all = members.iter().filter(|m| !m.learner).count();
        if let Some(member) = members.get(at) {
            if may_remove(&status, member).is_ok() {
                let rest: Vec<&Member> = members.iter().filter(|m| m.id != member.id).collect();
                let left = rest.iter().filter(|m| !m.learner).count();
                let ready = rest.iter().filter(|m| !m.learner && m.answer.is_ok()).count();
                prop_assert!(left > 0 && 2 * ready > left, "{members:?} without {member:?}");
                prop_assert!(2 * answering > all);
            }
            if matches!(may_update(&status, member, &["https://10.9.9.9:2380".to_owned()]), Ok(true)) && all > 1 {
                let away = usize::from(!member.learner && member.answer.is_ok());
                prop_assert!(2 * (answering - away) > all, "{members:?} {member:?}");
            }
        }
        if may_add(&status, "new", &["https://10.9.9.9:2380".to_owned()]).is_ok() {
            // Even if the newcomer never starts and somebody gives it a vote.
            prop_assert_eq!(answering, all);
            prop_assert!(all > 0 && (2 * answering > all + 1 || all == 1));
        }
    }
}
