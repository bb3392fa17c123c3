//! The coordinators and the members of etcd as text and as objects. Called by [`super::run`].
//!
//! Invariant: pure; what a coordinator sent cannot steer a terminal.

use proto::{
    model::Time,
    wire::{ClusterProblem, Member, Replica, ReplicasStatusReply, StoreStatus, cluster_problem::Area, replica::Role},
};
use serde_json::{Value, json};

use crate::{
    age,
    output::{bytes, clean, or_none},
    table::table,
};

pub fn time(seconds: u64) -> Time {
    Time(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn since(seconds: u64, now: Time) -> String {
    if seconds == 0 {
        or_none("")
    } else {
        age::duration(now.since(time(seconds)))
    }
}

/// As people write it.
pub fn store_name(kind: &str) -> String {
    match kind {
        "sqlite" => "SQLite".to_owned(),
        other => clean(other),
    }
}

fn role(replica: &Replica) -> &'static str {
    match replica.role() {
        Role::Active => "active",
        Role::Standby => "standby",
        Role::Missing => "missing",
        Role::Unknown | Role::Unspecified => "unknown",
    }
}

/// Its name, or its id until it has one.
pub fn label(member: &Member) -> String {
    clean(if member.name.is_empty() {
        &member.id
    } else {
        &member.name
    })
}

fn member_status(member: &Member) -> &'static str {
    match member {
        m if m.name.is_empty() => "unstarted",
        m if !m.reachable => "unreachable",
        m if m.learner => "learner",
        m if m.leader => "leader",
        _ => "follower",
    }
}

/// Transactions that a replica lies behind: none where that is not known.
fn lag(reply: &ReplicasStatusReply, replica: &Replica) -> Option<u64> {
    let known = matches!(replica.role(), Role::Active | Role::Standby) && replica.resource_version > 0;
    // The low bits count within a transaction.
    known.then(|| (reply.resource_version >> 16).saturating_sub(replica.resource_version >> 16))
}

fn skew(replica: &Replica) -> String {
    match replica.skew_ms {
        0 => "0ms".to_owned(),
        ms => format!("{ms:+}ms"),
    }
}

/// `wharf cluster status`.
pub fn status(reply: &ReplicasStatusReply, now: Time) -> String {
    let store = reply.store.clone().unwrap_or_default();
    let mut text = headline(reply, &store, now);
    let alone = reply.replicas.len() == 1 && store.kind == "sqlite";
    if !alone {
        text.push_str(&format!("\n{}", replica_table(reply, now)));
        if !store.members.is_empty() {
            text.push_str(&format!("\n{}", member_table(&store.members)));
        }
        text.push('\n');
    }
    for line in facts(&store, now) {
        text.push_str(&format!("{line}\n"));
    }
    if alone {
        text.push_str("nobody takes over when it fails: see docs/high-availability.md\n");
    }
    if !reply.problems.is_empty() {
        let rows: Vec<Vec<String>> = reply
            .problems
            .iter()
            .map(|p| vec![p.object.clone(), p.remedy.clone(), p.what.clone()])
            .collect();
        let count = match rows.len() {
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        text.push_str(&format!("\n{count}:\n{}", table(&["OBJECT", "REMEDY", "WHAT"], &rows)));
    }
    if !reply.warnings.is_empty() {
        text.push('\n');
        for warning in &reply.warnings {
            text.push_str(&format!("warning: {}\n", clean(warning)));
        }
    }
    text
}

fn headline(reply: &ReplicasStatusReply, store: &StoreStatus, now: Time) -> String {
    let leader = reply.replicas.iter().find(|r| r.role() == Role::Active);
    let since = match reply.leads_since {
        0 => String::new(),
        at => format!(" since {}", age::duration(now.since(time(at)))),
    };
    match leader {
        Some(one) if reply.replicas.len() == 1 && store.kind == "sqlite" => format!(
            "one coordinator on SQLite: {} ({}), release {}, leads{since} (term {}), hears {}\n",
            clean(&one.name),
            clean(&one.address),
            clean(&one.version),
            reply.term,
            match one.nodes_heard {
                1 => "1 node".to_owned(),
                n => format!("{n} nodes"),
            }
        ),
        _ if reply.leader.is_empty() => format!(
            "no coordinator leads; {} answers, a standby, from its own view\n",
            clean(&reply.answered_by)
        ),
        _ => {
            let why = match reply.took_over_because.as_str() {
                "" => String::new(),
                why => format!("; it took over in {} ms: {}", reply.took_over_ms, clean(why)),
            };
            format!("{} leads{since} (term {}){why}\n", clean(&reply.leader), reply.term)
        }
    }
}

fn replica_table(reply: &ReplicasStatusReply, now: Time) -> String {
    let rows: Vec<Vec<String>> = reply
        .replicas
        .iter()
        .map(|r| {
            let seen = lag(reply, r).is_some();
            vec![
                r.name.clone(),
                or_none(r.address.clone()),
                role(r).to_owned(),
                or_none(r.version.clone()),
                or_none(lag(reply, r).map(|n| n.to_string()).unwrap_or_default()),
                or_none(if seen { skew(r) } else { String::new() }),
                since(r.since, now),
            ]
        })
        .collect();
    table(&["NAME", "ADDRESS", "ROLE", "VERSION", "LAG", "SKEW", "SINCE"], &rows)
}

fn size(member: &Member) -> String {
    or_none(if member.size == 0 {
        String::new()
    } else {
        bytes(member.size)
    })
}

fn member_table(members: &[Member]) -> String {
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|m| {
            vec![
                or_none(m.name.clone()),
                m.id.clone(),
                or_none(m.client_urls.join(",")),
                member_status(m).to_owned(),
                or_none(m.version.clone()),
                size(m),
                or_none(m.alarms.join(",")),
            ]
        })
        .collect();
    table(
        &["NAME", "ID", "ENDPOINT", "STATUS", "VERSION", "SIZE", "ALARMS"],
        &rows,
    )
}

/// A line for each thing that is known.
fn facts(store: &StoreStatus, now: Time) -> Vec<String> {
    let ms = |us: u64| format!("{}.{} ms", us / 1000, us % 1000 / 100);
    let mut lines = Vec::new();
    let fullest = store.members.iter().map(|m| m.size).max().unwrap_or(0);
    if let Some(percent) = fullest.saturating_mul(100).checked_div(store.quota) {
        lines.push(format!(
            "a member takes {}; the fullest has {percent} % of it",
            bytes(store.quota)
        ));
    }
    if store.write_p99_us > 0 {
        lines.push(format!(
            "a durable write took {}, at most {} of 99 in 100, when this coordinator started",
            ms(store.write_p50_us),
            ms(store.write_p99_us)
        ));
    }
    let every = match store.backup_every_ms {
        0 => "; none is scheduled".to_owned(),
        every => format!("; one every {}", age::duration(every / 1000)),
    };
    lines.push(match store.last_backup {
        0 => format!("last backup: none{every}"),
        at => format!("last backup: {} ago{every}", since(at, now)),
    });
    for certificate in &store.certificates {
        let ends = time(certificate.expires);
        let of = clean(&certificate.of);
        lines.push(if ends > now {
            format!("certificate of {of}: ends in {}", age::duration(ends.since(now)))
        } else {
            format!("certificate of {of}: ended {} ago", age::duration(now.since(ends)))
        });
    }
    lines
}

/// How an area is called in objects; as `status_page` does.
fn area(problem: &ClusterProblem) -> &'static str {
    match problem.area() {
        Area::Leader => "leader",
        Area::Alarm => "storeAlarm",
        Area::Member => "memberUnreachable",
        Area::Replica => "coordinatorMissing",
        Area::Space => "storeNearlyFull",
        Area::Clock => "clocksApart",
        Area::Certificate => "certificateEnds",
        Area::Backup => "backupLate",
        Area::Unspecified => "other",
    }
}

/// See docs/cluster.md.
pub fn object(reply: &ReplicasStatusReply) -> Value {
    let store = reply.store.clone().unwrap_or_default();
    let at = |seconds: u64| (seconds > 0).then(|| time(seconds));
    let replicas = reply.replicas.iter().map(|r| {
        json!({"name": r.name, "address": r.address, "enrolAddress": r.enrol_address, "role": role(r),
            "version": r.version, "lag": lag(reply, r), "skewMs": r.skew_ms, "since": at(r.since),
            "nodesHeard": r.nodes_heard, "resourceVersion": r.resource_version.to_string()})
    });
    let problems = reply
        .problems
        .iter()
        .map(|p| json!({"area": area(p), "object": p.object, "what": p.what, "remedy": p.remedy}));
    let certificates = store
        .certificates
        .iter()
        .map(|c| json!({"of": c.of, "expires": time(c.expires)}));
    json!({
        "apiVersion": "wharfinger.io/v1",
        "kind": "ReplicasStatus",
        "well": reply.problems.is_empty() && !reply.leader.is_empty(),
        "cluster": reply.cluster_id,
        "answeredBy": reply.answered_by,
        "leader": {"name": reply.leader, "term": reply.term, "since": at(reply.leads_since),
            "because": reply.took_over_because, "tookMs": reply.took_over_ms},
        "coordinators": replicas.collect::<Vec<_>>(),
        "store": {"kind": store.kind, "members": store.members.iter().map(member).collect::<Vec<_>>(),
            "quota": store.quota, "writeP50Us": store.write_p50_us, "writeP99Us": store.write_p99_us,
            "lastBackup": at(store.last_backup), "backupEveryMs": store.backup_every_ms,
            "certificates": certificates.collect::<Vec<_>>()},
        "problems": problems.collect::<Vec<_>>(),
        "warnings": reply.warnings,
    })
}

fn member(member: &Member) -> Value {
    let mut object = json!({"id": member.id, "name": member.name, "state": member_status(member),
        "peerURLs": member.peer_urls, "clientURLs": member.client_urls, "isLeader": member.leader,
        "isLearner": member.learner, "reachable": member.reachable, "version": member.version, "size": member.size,
        "inUse": member.in_use, "alarms": member.alarms});
    if !member.problem.is_empty() {
        object["problem"] = json!(member.problem);
    }
    object
}

/// `wharf cluster members -o json`.
pub fn list(members: &[Member]) -> Value {
    let items = members.iter().map(|m| {
        let mut item = json!({"apiVersion": "wharfinger.io/v1", "kind": "EtcdMember",
            "metadata": {"name": label(m)}});
        item["status"] = member(m);
        item
    });
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""},
        "items": items.collect::<Vec<_>>()})
}

/// A line each.
pub fn members(members: &[Member]) -> String {
    let line = |m: &Member| {
        let peers = m.peer_urls.join(",");
        let line = if m.name.is_empty() {
            format!("{}[unstarted]: peerURLs={peers} isLearner={}", m.id, m.learner)
        } else {
            format!(
                "{}: name={} peerURLs={peers} clientURLs={} isLeader={} isLearner={}",
                m.id,
                m.name,
                m.client_urls.join(","),
                m.leader,
                m.learner
            )
        };
        format!("{}\n", clean(&line))
    };
    members.iter().map(line).collect()
}

pub fn members_wide(members: &[Member]) -> String {
    let in_use = |m: &Member| or_none(if m.in_use == 0 { String::new() } else { bytes(m.in_use) });
    let rows: Vec<Vec<String>> = members
        .iter()
        .map(|m| {
            vec![
                or_none(m.name.clone()),
                m.id.clone(),
                or_none(m.peer_urls.join(",")),
                or_none(m.client_urls.join(",")),
                member_status(m).to_owned(),
                or_none(m.version.clone()),
                size(m),
                in_use(m),
                or_none(m.alarms.join(",")),
                or_none(m.problem.clone()),
            ]
        })
        .collect();
    table(
        &[
            "NAME",
            "ID",
            "PEER-URLS",
            "CLIENT-URLS",
            "STATUS",
            "VERSION",
            "SIZE",
            "IN-USE",
            "ALARMS",
            "PROBLEM",
        ],
        &rows,
    )
}

/// `wharf cluster health`, and whether all is healthy.
pub fn health(reply: &ReplicasStatusReply) -> (String, bool) {
    let store = reply.store.clone().unwrap_or_default();
    let mut lines = Vec::new();
    let mut ill = false;
    for m in &store.members {
        let state = match m {
            m if !m.reachable => format!("unreachable: {}", m.problem),
            m if !m.alarms.is_empty() => format!("unhealthy: alarm {}", m.alarms.join(",")),
            _ => "healthy".to_owned(),
        };
        ill |= state != "healthy";
        lines.push(format!("member {} is {state}", m.id));
    }
    for r in &reply.replicas {
        let state = match r.role() {
            Role::Active | Role::Standby => "healthy",
            Role::Missing => "missing: it does not follow",
            Role::Unknown | Role::Unspecified => "unknown: a standby answers",
        };
        ill |= state != "healthy";
        lines.push(format!("coordinator {} is {state}", r.name));
    }
    let votes: Vec<&Member> = store.members.iter().filter(|m| !m.learner).collect();
    let answering = votes.iter().filter(|m| m.reachable).count();
    let etcd = store.kind == "etcd";
    let stopped = reply.leader.is_empty()
        || (etcd && 2 * answering <= votes.len())
        || (etcd && !votes.iter().any(|m| m.leader))
        || store.members.iter().any(|m| !m.alarms.is_empty());
    let cluster = match (stopped, ill) {
        (true, _) => "unhealthy",
        (false, true) => "degraded",
        (false, false) => "healthy",
    };
    let text: String = std::iter::once(format!("cluster is {cluster}"))
        .chain(lines)
        .map(|l| format!("{}\n", clean(&l)))
        .collect();
    (text, cluster == "healthy")
}
