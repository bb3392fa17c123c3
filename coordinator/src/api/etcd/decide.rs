//! Whether the members of etcd may be changed as asked, and how. Called by the service, which does it.
//!
//! Invariant: pure; nothing that is allowed here leaves fewer members answering than are the majority, whether the
//! change goes well or not; every refusal names the member and what to do first.

use std::{collections::BTreeSet, net::IpAddr};

use http::Uri;
use proto::model::{
    labels::{check_dns_label, quoted},
    parse::hint,
};

use super::admin::{Member, NO_MEMBERS, StoreKind, StoreStatus};
use crate::{api::errors::ApiError, etcd_config::files::QUOTA};

/// Most URLs of a member.
const MAX_URLS: usize = 8;
const MAX_URL: usize = 300;

/// How many of a number of members are its majority.
pub fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// Members that have a vote.
pub fn voters(members: &[Member]) -> impl Iterator<Item = &Member> {
    members.iter().filter(|m| !m.learner)
}

/// How many have a vote, and how many of those answer.
pub fn votes(members: &[Member]) -> (usize, usize) {
    let answering = voters(members).filter(|m| m.answers()).count();
    (voters(members).count(), answering)
}

fn refused(member: &str, what: impl std::fmt::Display) -> ApiError {
    ApiError::Precondition(format!("members {}: {what}", quoted(member)))
}

/// The members, where a change of them can be made at all.
fn changeable(status: &StoreStatus) -> Result<&[Member], ApiError> {
    if status.kind != StoreKind::Etcd {
        return Err(ApiError::Precondition(NO_MEMBERS.into()));
    }
    let (all, answering) = votes(&status.members);
    if all == 0 || answering < majority(all) {
        return Err(ApiError::Precondition(format!(
            "members: {answering} of {all} answer, which is no majority, so that nothing can be changed; start etcd on the \
             others' hosts{}",
            silent(&status.members)
        )));
    }
    Ok(&status.members)
}

/// `: "etcd2" (connection refused), "etcd3" (…)`.
fn silent(members: &[Member]) -> String {
    let words = members.iter().filter_map(|m| {
        let why = m.answer.as_ref().err()?;
        Some(format!("{} ({why})", quoted(&m.label())))
    });
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(": {}", words.join(", "))
    }
}

/// The member of an id or name.
pub fn find<'a>(members: &'a [Member], text: &str) -> Result<&'a Member, ApiError> {
    let by_id = members.iter().find(|m| m.hex() == text.to_ascii_lowercase());
    let mut by_name = members.iter().filter(|m| m.started() && m.name == text);
    let first = by_name.next();
    match (by_id, first, by_name.next()) {
        (Some(one), None, _) => Ok(one),
        (Some(one), Some(other), None) if one.id == other.id => Ok(one),
        (None, Some(one), None) => Ok(one),
        (None, None, _) => {
            let known: Vec<String> = members.iter().map(Member::label).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            Err(ApiError::Gone(format!(
                "members {} not found{}; wharf cluster members lists them",
                quoted(text),
                hint(text, &known)
            )))
        }
        _ => Err(ApiError::BadRequest(format!(
            "members {}: more than one is called so; give the id, as wharf cluster members shows it",
            quoted(text)
        ))),
    }
}

/// A checked peer URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PeerUrl {
    scheme: String,
    host: String,
}

fn peer_url(text: &str) -> Result<PeerUrl, String> {
    let bad = || {
        format!(
            "peer-url: {} is not http:// or https:// with a host and a port, as in https://10.0.0.4:2380",
            quoted(text)
        )
    };
    if text.len() > MAX_URL {
        return Err(format!("peer-url: has more than {MAX_URL} characters"));
    }
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    let authority = uri.authority().ok_or_else(bad)?;
    let whole = ["", "/"].contains(&uri.path()) && uri.query().is_none() && !authority.as_str().contains('@');
    let port = authority.port_u16().is_some_and(|p| p > 0);
    if !["http", "https"].contains(&scheme.as_str()) || authority.host().is_empty() || !port || !whole {
        return Err(bad());
    }
    let host = authority.host().to_owned();
    if ip(&host).is_some_and(|ip| ip.is_unspecified()) {
        return Err(format!("peer-url: {} is no address of one host", quoted(text)));
    }
    Ok(PeerUrl { scheme, host })
}

fn ip(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

fn trimmed(url: &str) -> String {
    url.trim_end_matches('/').to_ascii_lowercase()
}

fn set(urls: &[String]) -> BTreeSet<String> {
    urls.iter().map(|u| trimmed(u)).collect()
}

/// Checks URLs that a member is to have, beside those of the others.
fn check_urls(others: &[&Member], urls: &[String]) -> Result<(), ApiError> {
    let bad = |what: String| ApiError::BadRequest(format!("members: {what}"));
    if urls.is_empty() || urls.len() > MAX_URLS {
        return Err(bad(format!("peer-url: give 1 to {MAX_URLS}")));
    }
    let checked: Vec<PeerUrl> = urls
        .iter()
        .map(|u| peer_url(u))
        .collect::<Result<_, _>>()
        .map_err(bad)?;
    if set(urls).len() < urls.len() {
        return Err(bad("peer-url: one is given twice; leave one".into()));
    }
    let theirs = others.iter().flat_map(|m| &m.peer_urls).find_map(|u| peer_url(u).ok());
    if let Some(theirs) = theirs
        && let Some(ours) = checked.iter().find(|u| u.scheme != theirs.scheme)
    {
        return Err(bad(format!(
            "peer-url: is {}://, but the other members speak {}:// with each other",
            ours.scheme, theirs.scheme
        )));
    }
    for member in others {
        if let Some(taken) = set(&member.peer_urls).intersection(&set(urls)).next() {
            return Err(ApiError::Precondition(format!(
                "members {}: has {taken} already; give the newcomer's own",
                quoted(&member.label())
            )));
        }
    }
    Ok(())
}

/// What is to be done for a newcomer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adding {
    New {
        learner: bool,
        warnings: Vec<String>,
    },
    /// It was added before and has not started: its id.
    Again(u64),
}

pub fn may_add(status: &StoreStatus, name: &str, urls: &[String]) -> Result<Adding, ApiError> {
    let members = changeable(status)?;
    check_dns_label(name).map_err(|e| ApiError::BadRequest(format!("members {}: name: {e}", quoted(name))))?;
    let waiting = members.iter().find(|m| !m.started());
    let again = waiting.filter(|m| set(&m.peer_urls) == set(urls));
    let others: Vec<&Member> = members.iter().filter(|m| again.is_none_or(|a| a.id != m.id)).collect();
    check_urls(&others, urls)?;
    if let Some(taken) = others.iter().find(|m| m.name == name) {
        return Err(refused(
            name,
            format!(
                "is there already, at {}; choose another name",
                taken.peer_urls.join(",")
            ),
        ));
    }
    if let Some(again) = again {
        return Ok(Adding::Again(again.id));
    }
    if let Some(waiting) = waiting {
        return Err(refused(
            &waiting.hex(),
            format!(
                "was added at {} and has not started yet; start it, or remove it, before another one is added",
                waiting.peer_urls.join(",")
            ),
        ));
    }
    if let Some(learner) = members.iter().find(|m| m.learner) {
        return Err(refused(
            &learner.label(),
            "has not caught up yet; wait until it has a vote before another one is added",
        ));
    }
    if let Some(silent) = members.iter().find(|m| !m.answers()) {
        return Err(refused(
            &silent.label(),
            format!(
                "does not answer ({}), and beside it a newcomer that fails could cost the majority; start it, or take it \
                 out first: wharf cluster member remove {}",
                silent.answer.as_ref().err().map_or("", String::as_str),
                silent.label()
            ),
        ));
    }
    let learner = members.iter().all(knows_learners);
    let (all, answering) = votes(members);
    if !learner && answering < majority(all + 1) {
        return Err(refused(
            name,
            format!(
                "with {} members a newcomer is needed for the majority before it has started, and these releases of etcd \
                 know no learners; update etcd to 3.4 or later first",
                all + 1
            ),
        ));
    }
    let mut warnings = Vec::new();
    if (all + 1) % 2 == 0 {
        warnings.push(format!(
            "{} members bear the loss of no more of them than {all} do: add one more",
            all + 1
        ));
    }
    Ok(Adding::New { learner, warnings })
}

/// Since 3.4.
fn knows_learners(member: &Member) -> bool {
    let Ok(answer) = &member.answer else { return false };
    let mut numbers = answer.version.split('.').map(|n| n.parse::<u32>().ok());
    let major = numbers.next().flatten();
    let minor = numbers.next().flatten();
    matches!((major, minor), (Some(major), Some(minor)) if (major, minor) >= (3, 4))
}

/// Whether the URLs are other ones than the member has; to be set where they are.
pub fn may_update(status: &StoreStatus, member: &Member, urls: &[String]) -> Result<bool, ApiError> {
    let members = changeable(status)?;
    let others: Vec<&Member> = members.iter().filter(|m| m.id != member.id).collect();
    check_urls(&others, urls)?;
    if set(&member.peer_urls) == set(urls) {
        return Ok(false);
    }
    let (all, _) = votes(members);
    let answering = others.iter().filter(|m| !m.learner && m.answers()).count();
    if !member.learner && all > 1 && answering < majority(all) {
        return Err(refused(
            &member.label(),
            format!(
                "until it is reached there, {answering} of {all} would answer, which is no majority; start the others \
                 first{}",
                silent_but(members, member)
            ),
        ));
    }
    Ok(true)
}

fn silent_but(members: &[Member], but: &Member) -> String {
    let others: Vec<Member> = members.iter().filter(|m| m.id != but.id).cloned().collect();
    silent(&others)
}

/// What is to be known of a removal that may be.
pub fn may_remove(status: &StoreStatus, member: &Member) -> Result<Vec<String>, ApiError> {
    let members = changeable(status)?;
    if member.learner {
        return Ok(Vec::new());
    }
    let rest: Vec<Member> = members.iter().filter(|m| m.id != member.id).cloned().collect();
    let (all, answering) = votes(&rest);
    if all == 0 {
        return Err(refused(
            &member.label(),
            "is the only one that has a vote, and all that is stored is there; add another one first",
        ));
    }
    if answering < majority(all) {
        return Err(refused(
            &member.label(),
            format!(
                "of the {all} that would be left {answering} would answer, which is no majority; start the others, or \
                 remove those first{}",
                silent(&rest)
            ),
        ));
    }
    let warning = match answering - majority(all) {
        _ if all == 1 => {
            "1 member is left: with its disk all that is stored would be lost; add one: wharf cluster member add"
                .to_owned()
        }
        0 => format!(
            "{all} members are left, and none of them may fail: nothing could be changed; add one: wharf cluster member \
             add"
        ),
        _ => return Ok(Vec::new()),
    };
    Ok(vec![warning])
}

/// One member that is to be, or cannot be, defragmented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defrag {
    pub id: u64,
    pub name: String,
    pub before: u64,
    /// Why it is left out.
    pub problem: Option<String>,
}

/// The order: the leader last, so that it changes no more than it must; before it by name.
pub fn defrag_order(status: &StoreStatus, named: &[String]) -> Result<Vec<Defrag>, ApiError> {
    if status.kind != StoreKind::Etcd {
        return Err(ApiError::Precondition(NO_MEMBERS.into()));
    }
    let members = &status.members;
    let mut chosen: Vec<&Member> = if named.is_empty() {
        members.iter().collect()
    } else {
        named.iter().map(|n| find(members, n)).collect::<Result<_, _>>()?
    };
    chosen.sort_by_key(|m| (m.leads(), m.label(), m.id));
    chosen.dedup_by_key(|m| m.id);
    if chosen.is_empty() {
        return Err(ApiError::Precondition(
            "members: none answers who they are; look at etcd on its hosts".into(),
        ));
    }
    let (all, answering) = votes(members);
    // A member answers nothing meanwhile. Where writes are refused for want of room, none is held up.
    let full = members.iter().any(|m| m.alarms.iter().any(|a| a == "NOSPACE"));
    let spare = all <= 2 || full || answering > majority(all);
    if !spare && chosen.iter().any(|m| m.answers() && !m.learner) {
        return Err(ApiError::Precondition(format!(
            "members: {answering} of {all} answer, and while one is defragmented it answers nothing, which would leave no \
             majority; start the others first{}",
            silent(members)
        )));
    }
    Ok(chosen
        .into_iter()
        .map(|m| Defrag {
            id: m.id,
            name: m.label(),
            before: m.answer.as_ref().map_or(0, |a| a.size),
            problem: m.answer.as_ref().err().map(|why| format!("does not answer: {why}")),
        })
        .collect())
}

/// Where `wharf-coordinator etcd-config` puts a host's files, unless told otherwise.
const FILES: &str = "/etc/wharf/etcd";
const DATA: &str = "/var/lib/etcd";
/// Port for clients where no member's URL tells.
const CLIENT_PORT: u16 = 2379;

/// What the newcomer's environment holds: etcd starts on it alone.
pub fn environment(members: &[Member], name: &str, urls: &[String]) -> String {
    let others: Vec<&Member> = members.iter().filter(|m| m.started() && m.name != name).collect();
    let mut cluster: Vec<String> = others
        .iter()
        .flat_map(|m| m.peer_urls.iter().map(|u| format!("{}={u}", m.name)))
        .collect();
    cluster.extend(urls.iter().map(|u| format!("{name}={u}")));
    let sample = others.iter().flat_map(|m| &m.client_urls).next();
    let sample: Option<Uri> = sample.and_then(|u| u.parse().ok());
    let client_scheme = sample.as_ref().and_then(Uri::scheme_str).unwrap_or("https").to_owned();
    let client_port = sample.as_ref().and_then(Uri::port_u16).unwrap_or(CLIENT_PORT);
    let hosts: Vec<String> = {
        let mut seen = BTreeSet::new();
        let hosts = urls.iter().filter_map(|u| peer_url(u).ok()).map(|u| u.host);
        hosts.filter(|h| seen.insert(h.clone())).collect()
    };
    let client = |host: &String| format!("{client_scheme}://{host}:{client_port}");
    let joined = |urls: Vec<String>| urls.join(",");
    let lines = [
        ("NAME", name.to_owned()),
        ("DATA_DIR", format!("{DATA}/{name}")),
        ("LISTEN_PEER_URLS", joined(unique(urls.iter().map(|u| listen(u))))),
        (
            "LISTEN_CLIENT_URLS",
            joined(unique(hosts.iter().map(|h| listen(&client(h))))),
        ),
        ("INITIAL_ADVERTISE_PEER_URLS", urls.join(",")),
        ("ADVERTISE_CLIENT_URLS", joined(hosts.iter().map(client).collect())),
        ("INITIAL_CLUSTER", cluster.join(",")),
        ("INITIAL_CLUSTER_STATE", "existing".to_owned()),
        ("STRICT_RECONFIG_CHECK", "true".to_owned()),
        ("HEARTBEAT_INTERVAL", "50".to_owned()),
        ("ELECTION_TIMEOUT", "500".to_owned()),
        ("PRE_VOTE", "true".to_owned()),
        // A member that takes less than the others ends all writes when it is full.
        ("QUOTA_BACKEND_BYTES", QUOTA.to_string()),
        // The coordinator compacts: it alone knows what its watches still need.
        ("AUTO_COMPACTION_RETENTION", "0".to_owned()),
    ];
    let tls = |prefix: &str, file: &str| {
        [
            (format!("{prefix}CERT_FILE"), format!("{FILES}/{file}.crt")),
            (format!("{prefix}KEY_FILE"), format!("{FILES}/{file}.key")),
            (format!("{prefix}TRUSTED_CA_FILE"), format!("{FILES}/ca.crt")),
            (format!("{prefix}CLIENT_CERT_AUTH"), "true".to_owned()),
        ]
    };
    let mut pairs: Vec<(String, String)> = lines.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    if client_scheme == "https" {
        pairs.extend(tls("", "server"));
    }
    if urls.iter().any(|u| u.starts_with("https:")) {
        pairs.extend(tls("PEER_", "peer"));
    }
    pairs.into_iter().map(|(n, v)| format!("ETCD_{n}={v}\n")).collect()
}

/// Where etcd listens for a URL; it takes no host names there.
fn listen(url: &str) -> String {
    let Ok(uri) = url.parse::<Uri>() else {
        return url.to_owned();
    };
    match (uri.scheme_str(), uri.host(), uri.port_u16()) {
        (Some(scheme), Some(host), Some(port)) if ip(host).is_none() => format!("{scheme}://0.0.0.0:{port}"),
        _ => url.to_owned(),
    }
}

fn unique(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    all.filter(|one| seen.insert(one.clone())).collect()
}
