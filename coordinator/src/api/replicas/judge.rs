//! What of the coordinators and their store is a problem, and what is to be known. Called by the service; `wharf status`,
//! `wharf cluster status` and `wharf cluster health` show it.
//!
//! Invariant: pure; every problem says what it is, what it costs and a command that helps; the worst stands first.

use std::{collections::BTreeSet, time::Duration};

use proto::{
    model::Time,
    wire::{ClusterProblem, Replica, cluster_problem::Area, replica::Role},
};

use super::Standing;
use crate::api::etcd::{
    admin::{Member, StoreKind, StoreStatus},
    decide::{majority, voters, votes},
};

/// Clocks this far apart are a problem: times in records, certificates and schedules are no longer what they say.
const SKEW_MS: i64 = 1000;
/// A certificate that ends within this is a problem; within the longer time it is to be known.
const ENDS_SOON: u64 = 7 * 24 * 3600;
const ENDS: u64 = 30 * 24 * 3600;
/// A store this full is a problem, in percent of its quota.
const NEARLY_FULL: u64 = 80;

pub struct Seen<'a> {
    pub standing: &'a Standing,
    pub replicas: &'a [Replica],
    pub store: &'a StoreStatus,
    pub now: Time,
}

/// Problems, the worst first, and warnings.
pub fn judge(seen: &Seen<'_>) -> (Vec<ClusterProblem>, Vec<String>) {
    let mut problems = Vec::new();
    problems.extend(no_leader(seen));
    members(seen.store, &mut problems);
    for replica in seen.replicas {
        problems.extend(missing(replica));
        problems.extend(skew(seen, replica));
    }
    problems.extend(space(seen.store));
    problems.extend(backup(seen));
    let mut warnings = seen.store.warnings.clone();
    certificates(seen, &mut problems, &mut warnings);
    warnings.extend(to_be_known(seen));
    problems.sort_by(|a, b| (a.area, &a.object).cmp(&(b.area, &b.object)));
    (problems, warnings)
}

fn problem(
    area: Area,
    object: impl Into<String>,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> ClusterProblem {
    ClusterProblem {
        area: area.into(),
        object: object.into(),
        what: what.into(),
        remedy: remedy.into(),
    }
}

fn no_leader(seen: &Seen<'_>) -> Option<ClusterProblem> {
    let standing = seen.standing;
    standing.leader.is_empty().then(|| {
        problem(
            Area::Leader,
            "coordinator",
            format!(
                "none leads, as {} sees it: containers run on, nothing can be changed",
                standing.name
            ),
            "journalctl -u wharf-coordinator, on each coordinator's host",
        )
    })
}

/// The host of a member, for a remedy.
fn host(member: &Member) -> String {
    let url = member.client_urls.iter().chain(&member.peer_urls).next();
    let uri = url.and_then(|u| u.parse::<http::Uri>().ok());
    let host = uri.as_ref().and_then(|u| u.host());
    host.map_or_else(|| "its host".to_owned(), str::to_owned)
}

fn members(store: &StoreStatus, problems: &mut Vec<ClusterProblem>) {
    if store.kind != StoreKind::Etcd {
        return;
    }
    let (all, answering) = votes(&store.members);
    if all == 0 || answering < majority(all) {
        problems.push(problem(
            Area::Member,
            "etcd",
            format!("{answering} of {all} members answer, which is no majority: nothing can be changed"),
            "systemctl start wharf-etcd, on the hosts of those that do not answer",
        ));
    } else if !store.members.iter().any(Member::leads) {
        problems.push(problem(
            Area::Member,
            "etcd",
            "no member of etcd leads: nothing can be changed until they have chosen one",
            "wharf cluster health",
        ));
    }
    for member in &store.members {
        let object = format!("member/{}", member.label());
        problems.extend(member.alarms.iter().map(|alarm| alarmed(&object, member, alarm)));
        let Err(why) = &member.answer else { continue };
        if !member.started() {
            problems.push(problem(
                Area::Member,
                object,
                format!("was added and has not started yet: {why}"),
                format!("systemctl start wharf-etcd, on {}", host(member)),
            ));
            continue;
        }
        let spare = answering.saturating_sub(majority(all));
        let cost = if member.learner || answering < majority(all) {
            String::new()
        } else if spare == 0 {
            format!("; {answering} of {all} answer: none of them may fail")
        } else {
            format!("; {answering} of {all} answer: {spare} more may fail")
        };
        problems.push(problem(
            Area::Member,
            object,
            format!("unreachable: {why}{cost}"),
            format!("systemctl status wharf-etcd, on {}", host(member)),
        ));
    }
}

fn alarmed(object: &str, member: &Member, alarm: &str) -> ClusterProblem {
    match alarm {
        "NOSPACE" => problem(
            Area::Alarm,
            object,
            "its quota is used up: etcd takes no more writes; reads and containers go on",
            "wharf cluster defrag",
        ),
        "CORRUPT" => problem(
            Area::Alarm,
            object,
            "its data differ from the other members'",
            format!("wharf cluster member remove {}, and add it again empty", member.label()),
        ),
        other => problem(
            Area::Alarm,
            object,
            format!("alarm {other}"),
            "wharf cluster members -o wide",
        ),
    }
}

fn missing(replica: &Replica) -> Option<ClusterProblem> {
    let host = replica.address.rsplit_once(':').map_or("its host", |(host, _)| host);
    (replica.role() == Role::Missing).then(|| {
        problem(
            Area::Replica,
            format!("coordinator/{}", replica.name),
            format!("missing: it does not follow ({})", replica.address),
            format!("systemctl status wharf-coordinator, on {host}"),
        )
    })
}

fn skew(seen: &Seen<'_>, replica: &Replica) -> Option<ClusterProblem> {
    if replica.skew_ms.saturating_abs() < SKEW_MS {
        return None;
    }
    let (direction, ms) = if replica.skew_ms > 0 {
        ("ahead of", replica.skew_ms)
    } else {
        ("behind", replica.skew_ms.saturating_neg())
    };
    Some(problem(
        Area::Clock,
        format!("coordinator/{}", replica.name),
        format!(
            "its clock is {}.{} s {direction} {}'s",
            ms / 1000,
            ms % 1000 / 100,
            seen.standing.name
        ),
        "timedatectl timesync-status, on both hosts",
    ))
}

fn space(store: &StoreStatus) -> Vec<ClusterProblem> {
    let Some(quota) = store.quota.filter(|q| *q > 0) else {
        return Vec::new();
    };
    let full = |member: &Member| {
        let size = member.answer.as_ref().ok()?.size;
        let percent = u128::from(size) * 100 / u128::from(quota);
        // One with an alarm is told already.
        (percent >= u128::from(NEARLY_FULL) && member.alarms.is_empty()).then(|| {
            problem(
                Area::Space,
                format!("member/{}", member.label()),
                format!("{percent} % of its quota is used; at 100 % it takes no more writes"),
                format!("wharf cluster defrag {}", member.label()),
            )
        })
    };
    store.members.iter().filter_map(full).collect()
}

fn backup(seen: &Seen<'_>) -> Option<ClusterProblem> {
    let every = seen.store.backup_every.filter(|e| !e.is_zero())?;
    let late = (every * 2).max(Duration::from_secs(60)).as_secs();
    let age = match (seen.store.last_backup, seen.standing.since) {
        (Some(last), _) => seen.now.since(last),
        // None ever; who leads for the first time had no time to make one.
        (None, Some(since)) if seen.standing.leads => seen.now.since(since),
        (None, _) => return None,
    };
    let every = humantime::format_duration(Duration::from_secs(every.as_secs()));
    let what = match seen.store.last_backup {
        Some(_) => format!(
            "the last one is {} old, though one is made every {every}",
            humantime::format_duration(Duration::from_secs(age))
        ),
        None => format!("none was made, though one is made every {every}"),
    };
    (age > late).then(|| {
        problem(
            Area::Backup,
            "backup",
            what,
            "wharf get events -A; meanwhile wharf cluster backup FILE",
        )
    })
}

fn certificates(seen: &Seen<'_>, problems: &mut Vec<ClusterProblem>, warnings: &mut Vec<String>) {
    for (of, ends) in &seen.store.certificates {
        let left = ends.since(seen.now);
        let days = left / (24 * 3600);
        let what = if left == 0 {
            format!("that of {of} is over")
        } else {
            format!("that of {of} ends in {days} d")
        };
        if left < ENDS_SOON {
            problems.push(problem(
                Area::Certificate,
                "certificate",
                what,
                "wharf-coordinator etcd-config --member NAME=ADDRESS --force --out DIR, as the first time; copy, then restart the coordinators",
            ));
        } else if left < ENDS {
            warnings.push(format!("certificates: {what}; make it anew in time"));
        }
    }
}

fn to_be_known(seen: &Seen<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let releases: BTreeSet<&str> = seen
        .replicas
        .iter()
        .map(|r| r.version.as_str())
        .filter(|v| !v.is_empty())
        .collect();
    if releases.len() > 1 {
        let words: Vec<String> = seen
            .replicas
            .iter()
            .map(|r| format!("{} {}", r.name, r.version))
            .collect();
        warnings.push(format!(
            "coordinators: their releases differ ({}); bring all to one",
            words.join(", ")
        ));
    }
    if seen.store.kind != StoreKind::Etcd {
        return warnings;
    }
    if seen.replicas.len() == 1 {
        warnings.push(
            "coordinators: there is one only, and nobody takes over when it fails; join another one: wharf token create \
             --role coordinator"
                .into(),
        );
    }
    let (all, _) = votes(&seen.store.members);
    match all {
        1 => warnings.push("members: etcd has one only, whose disk is all there is; add others".into()),
        all if all > 0 && all % 2 == 0 => warnings.push(format!(
            "members: {all} bear the loss of no more of them than {} do; add one",
            all - 1
        )),
        _ => {}
    }
    let releases: BTreeSet<&str> = voters(&seen.store.members)
        .filter_map(|m| m.answer.as_ref().ok())
        .map(|a| a.version.as_str())
        .collect();
    if releases.len() > 1 {
        let releases: Vec<&str> = releases.into_iter().collect();
        warnings.push(format!("members: releases of etcd differ: {}", releases.join(", ")));
    }
    let learners = seen.store.members.iter().filter(|m| m.learner && m.answers());
    warnings.extend(learners.map(|m| {
        format!(
            "members: {} is a learner and has no vote until it has caught up",
            m.label()
        )
    }));
    warnings
}
