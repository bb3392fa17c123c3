//! Each problem and warning, alone and in its order.

use std::time::Duration;

use proto::{
    model::Time,
    wire::{Replica, cluster_problem::Area, replica::Role},
};

use super::{Standing, judge::*};
use crate::api::etcd::{
    admin::{Member, StoreKind, StoreStatus},
    decide_tests::{down, etcd, member},
};

const NOW: Time = Time(1_769_860_800);

fn standing() -> Standing {
    Standing {
        name: "c1".into(),
        leader: "c1".into(),
        leads: true,
        since: Some(Time(NOW.0 - 90 * 24 * 3600)),
        ..Standing::default()
    }
}

fn replica(n: u32, role: Role) -> Replica {
    let mut replica = Replica {
        name: format!("c{n}"),
        address: format!("10.0.0.{n}:7443"),
        version: "1.2.3".into(),
        ..Replica::default()
    };
    replica.set_role(role);
    replica
}

fn replicas() -> Vec<Replica> {
    vec![
        replica(1, Role::Active),
        replica(2, Role::Standby),
        replica(3, Role::Standby),
    ]
}

fn three() -> StoreStatus {
    etcd(vec![member(1), member(2), member(3)])
}

/// Area, object, words and remedy of each; then the warnings.
fn judged(standing: &Standing, replicas: &[Replica], store: &StoreStatus) -> (Vec<String>, Vec<String>) {
    let (problems, warnings) = judge(&Seen {
        standing,
        replicas,
        store,
        now: NOW,
    });
    let line = |p: &proto::wire::ClusterProblem| format!("{:?} {}: {} | {}", p.area(), p.object, p.what, p.remedy);
    (problems.iter().map(line).collect(), warnings)
}

#[test]
fn nothing_is_said_where_all_is_well() {
    assert_eq!(judged(&standing(), &replicas(), &three()), (vec![], vec![]));
    // One coordinator on SQLite.
    let sole = [replica(1, Role::Active)];
    assert_eq!(judged(&standing(), &sole, &StoreStatus::default()), (vec![], vec![]));
}

#[test]
fn each_problem_has_its_words_and_its_remedy() {
    let with = |change: fn(&mut Vec<Replica>, &mut StoreStatus, &mut Standing)| {
        let (mut replicas, mut store, mut standing) = (replicas(), three(), standing());
        change(&mut replicas, &mut store, &mut standing);
        let (problems, _) = judged(&standing, &replicas, &store);
        problems.join("\n")
    };
    let day = Duration::from_secs(24 * 3600);
    for (said, expected) in [
        (
            with(|_, _, s| s.leader.clear()),
            "Leader coordinator: none leads, as c1 sees it: containers run on, nothing can be changed | journalctl -u \
             wharf-coordinator, on each coordinator's host",
        ),
        (
            with(|r, _, _| r[2] = replica(3, Role::Missing)),
            "Replica coordinator/c3: missing: it does not follow (10.0.0.3:7443) | systemctl status wharf-coordinator, on \
             10.0.0.3",
        ),
        (with(|r, _, _| r[2] = replica(3, Role::Unknown)), ""),
        (
            with(|_, s, _| s.members[1] = down(2)),
            "Member member/etcd2: unreachable: connection refused; 2 of 3 answer: none of them may fail | systemctl \
             status wharf-etcd, on 10.0.0.2",
        ),
        (
            with(|_, s, _| s.members = (1..=4).map(member).chain([down(5)]).collect()),
            "Member member/etcd5: unreachable: connection refused; 4 of 5 answer: 1 more may fail | systemctl status \
             wharf-etcd, on 10.0.0.5",
        ),
        (
            with(|_, s, _| {
                s.members[1] = Member {
                    name: String::new(),
                    learner: true,
                    ..down(2)
                }
            }),
            "Member member/ce2a822cea30bfc2: was added and has not started yet: connection refused | systemctl start \
             wharf-etcd, on 10.0.0.2",
        ),
        (
            with(|_, s, _| {
                for m in &mut s.members {
                    if let Ok(answer) = &mut m.answer {
                        answer.leader = false;
                    }
                }
            }),
            "Member etcd: no member of etcd leads: nothing can be changed until they have chosen one | wharf cluster \
             health",
        ),
        (
            with(|_, s, _| s.members[0].alarms.push("NOSPACE".into())),
            "Alarm member/etcd1: its quota is used up: etcd takes no more writes; reads and containers go on | wharf \
             cluster defrag",
        ),
        (
            with(|_, s, _| s.members[0].alarms.push("CORRUPT".into())),
            "Alarm member/etcd1: its data differ from the other members' | wharf cluster member remove etcd1, and add it \
             again empty",
        ),
        (
            with(|_, s, _| {
                s.quota = Some(125);
                s.members[1].answer = Err("x".into());
                s.members[0].alarms.push("NOSPACE".into());
            })
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned(),
            "Space member/etcd3: 80 % of its quota is used; at 100 % it takes no more writes | wharf cluster defrag etcd3",
        ),
        (with(|_, s, _| s.quota = Some(126)), ""),
        (
            with(|r, _, _| r[1].skew_ms = -3_250),
            "Clock coordinator/c2: its clock is 3.2 s behind c1's | timedatectl timesync-status, on both hosts",
        ),
        (
            with(|r, _, _| r[1].skew_ms = 1000),
            "Clock coordinator/c2: its clock is 1.0 s ahead of c1's | timedatectl timesync-status, on both hosts",
        ),
        (with(|r, _, _| r[1].skew_ms = 999), ""),
        (
            with(|_, s, _| s.certificates = vec![("etcd client".into(), Time(NOW.0 + 7 * 24 * 3600 - 1))]),
            "Certificate certificate: that of etcd client ends in 6 d | wharf-coordinator etcd-config --member \
             NAME=ADDRESS --force --out DIR, as the first time; copy, then restart the coordinators",
        ),
        (
            with(|_, s, _| s.certificates = vec![("etcd client".into(), Time(NOW.0 - 1))]),
            "Certificate certificate: that of etcd client is over | wharf-coordinator etcd-config --member \
             NAME=ADDRESS --force --out DIR, as the first time; copy, then restart the coordinators",
        ),
    ] {
        assert_eq!(said, expected);
    }
    let backup = |every: Duration, last: Option<i64>, led: i64| {
        let store = StoreStatus {
            backup_every: Some(every),
            last_backup: last.map(|ago| Time(NOW.0 - ago)),
            ..StoreStatus::default()
        };
        let standing = Standing {
            since: Some(Time(NOW.0 - led)),
            ..standing()
        };
        judged(&standing, &replicas(), &store).0.join("\n")
    };
    let two_days = 2 * 24 * 3600;
    assert_eq!(
        backup(day, Some(two_days + 1), 1),
        "Backup backup: the last one is 2days 1s old, though one is made every 1day | wharf get events -A; meanwhile wharf \
         cluster backup FILE"
    );
    assert_eq!(
        backup(day, None, two_days + 1),
        "Backup backup: none was made, though one is made every 1day | wharf get events -A; meanwhile wharf cluster backup \
         FILE"
    );
    for quiet in [
        backup(day, Some(two_days), 1),
        backup(day, None, two_days),
        backup(Duration::ZERO, None, i64::from(u32::MAX)),
    ] {
        assert_eq!(quiet, "");
    }
}

#[test]
fn a_lost_majority_is_told_once_and_the_worst_stands_first() {
    let (mut replicas, mut store, mut standing) = (replicas(), three(), standing());
    standing.leader.clear();
    standing.leads = false;
    store.members = vec![member(1), down(2), down(3)];
    store.members[0].alarms.push("CORRUPT".into());
    store.backup_every = Some(Duration::from_secs(60));
    store.last_backup = Some(Time(0));
    replicas[2] = replica(3, Role::Missing);
    replicas[1].skew_ms = 5000;
    let (problems, _) = judged(&standing, &replicas, &store);
    let areas: Vec<&str> = problems.iter().filter_map(|p| p.split(' ').next()).collect();
    assert_eq!(
        areas,
        [
            "Leader", "Alarm", "Member", "Member", "Member", "Replica", "Clock", "Backup"
        ],
        "{problems:?}"
    );
    assert!(
        problems[3].starts_with("Member member/etcd2: unreachable: connection refused |"),
        "{problems:?}"
    );
    assert!(
        problems[2].starts_with("Member etcd: 1 of 3 members answer, which is no majority"),
        "{problems:?}"
    );
    assert!(Area::Leader < Area::Alarm && Area::Alarm < Area::Member);
}

#[test]
fn what_is_to_be_known() {
    let mut behind = replicas();
    behind[2].version = "1.2.2".into();
    let mut differing = three();
    if let Ok(answer) = &mut differing.members[2].answer {
        answer.version = "3.5.1".into();
    }
    let mut late = three();
    late.certificates = vec![("etcd client".into(), Time(NOW.0 + 29 * 24 * 3600))];
    late.warnings = vec!["etcd3 runs 3.5.1, known bad".into()];
    let mut learning = three();
    learning.members.push(Member {
        learner: true,
        ..member(4)
    });
    for (replicas, store, expected) in [
        (
            behind,
            three(),
            vec!["coordinators: their releases differ (c1 1.2.3, c2 1.2.3, c3 1.2.2)"],
        ),
        (
            vec![replica(1, Role::Active)],
            three(),
            vec!["coordinators: there is one only"],
        ),
        (replicas(), etcd(vec![member(1)]), vec!["members: etcd has one only"]),
        (
            replicas(),
            etcd(vec![member(1), member(2)]),
            vec!["members: 2 bear the loss of no more of them than 1"],
        ),
        (
            replicas(),
            differing,
            vec!["members: releases of etcd differ: 3.4.23, 3.5.1"],
        ),
        (
            replicas(),
            late,
            vec!["etcd3 runs 3.5.1", "certificates: that of etcd client ends in 29 d"],
        ),
        (replicas(), learning, vec!["members: etcd4 is a learner"]),
    ] {
        assert_eq!(store.kind, StoreKind::Etcd);
        let (problems, warnings) = judged(&standing(), &replicas, &store);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(expected), "{warning:?}");
        }
    }
}
