//! ShowRestore, AcceptRestore, and what becomes of orphans: the decisions. Called by `cluster`.
//!
//! Invariant: pure; a restored state is acted on, and an orphan stopped or taken in, only by an operator's word.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proto::{
    ids,
    model::{Kind, PodSpec, labels::quoted},
    wire::{self, Observed, PodName, RestoredNode, ShowRestoreReply},
};
use serde_json::json;

use super::{
    errors::ApiError,
    write::{Decision, Outcome, Subject},
};
use crate::{
    store::{Change, Expect, keys},
    world::{
        Versioned, World,
        record::{PodRecord, TemplateRecord, encode},
        restored::{Accepted, OrphanRecord, RestoredRecord},
    },
};

/// What agents said that they run, by node.
pub type FoundSource = Arc<dyn Fn() -> BTreeMap<String, Vec<Observed>> + Send + Sync>;

/// What an operator's word about an orphan changes.
pub type Decide = fn(&World, &str) -> Result<Decision<Word>, ApiError>;

/// What a word is about.
#[derive(Clone, Debug)]
pub enum Word {
    Restore,
    Orphan {
        namespace: String,
        name: String,
        uid: String,
    },
}

impl Subject for Word {
    fn names(&self) -> [&str; 4] {
        match self {
            Self::Restore => ["restore", "", "", ""],
            Self::Orphan { namespace, name, uid } => ["orphan", namespace, name, uid],
        }
    }

    fn path(&self) -> String {
        match self {
            Self::Restore => "restore".to_owned(),
            Self::Orphan { namespace, name, .. } => format!("pods/{namespace}/{name}"),
        }
    }
}

pub fn changed(outcome: Outcome<Word>) -> bool {
    match outcome {
        Outcome::Done(_) | Outcome::Repeat(_) => true,
        Outcome::Unchanged(decision) => !decision.changes.is_empty(),
    }
}

pub fn show(world: &World, found: &BTreeMap<String, Vec<Observed>>) -> ShowRestoreReply {
    let Some(record) = world.restored.as_ref().map(|r| &*r.value) else {
        return ShowRestoreReply::default();
    };
    let nodes = match record.accepted {
        None => world
            .nodes
            .keys()
            .map(|name| compare(world, name, found.get(name)))
            .collect(),
        Some(_) => Vec::new(),
    };
    ShowRestoreReply {
        pending: record.accepted.is_none(),
        restored_at_ms: record.at_ms,
        taken_at_ms: record.taken_at_ms,
        accepted_by: record.accepted.as_ref().map(|a| a.by.clone()).unwrap_or_default(),
        accepted_at_ms: record.accepted.as_ref().map_or(0, |a| a.at_ms),
        cluster_id: String::new(),
        nodes,
    }
}

fn compare(world: &World, node: &str, found: Option<&Vec<Observed>>) -> RestoredNode {
    let mut out = RestoredNode {
        name: node.to_owned(),
        heard: found.is_some(),
        ..RestoredNode::default()
    };
    let Some(found) = found else { return out };
    for pod in found {
        if world.pod_by_uid(&pod.uid).is_some() {
            out.known += 1;
        } else {
            out.unknown.push(PodName {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            });
        }
    }
    let there: BTreeSet<&str> = found.iter().map(|p| p.uid.as_str()).collect();
    let lacks = world
        .pods_on(node)
        .filter(|(_, pod)| pod.live() && !there.contains(pod.record.uid.as_str()));
    out.missing = lacks
        .map(|((namespace, name), pod)| PodName {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: pod.record.uid.clone(),
        })
        .collect();
    out
}

pub fn check_cluster(ours: &str, named: &str) -> Result<(), ApiError> {
    if named.is_empty() || named == ours {
        return Ok(());
    }
    Err(ApiError::BadRequest(format!(
        "cluster: this is cluster {ours}, not {}; nothing was accepted",
        quoted(named)
    )))
}

pub fn accept(world: &World, by: &str, now_ms: u64) -> Result<Decision<Word>, ApiError> {
    let Some(found) = &world.restored else {
        return Err(ApiError::Refused(
            "restore: this cluster's state was not restored from a backup; there is nothing to accept".into(),
        ));
    };
    if found.value.accepted.is_some() {
        return Ok(Decision::new(Vec::new(), Word::Restore));
    }
    let record = RestoredRecord {
        accepted: Some(Accepted {
            by: by.to_owned(),
            at_ms: now_ms,
        }),
        ..(*found.value).clone()
    };
    let change = Change::put(keys::RESTORED, Expect::At(found.rv), encode(&record));
    Ok(Decision {
        before: Some(json!(&*found.value)),
        after: Some(json!(record)),
        ..Decision::new(vec![change], Word::Restore)
    })
}

pub fn orphans(world: &World) -> Vec<wire::Orphan> {
    let one = |(uid, orphan): (&String, &Versioned<OrphanRecord>)| {
        let orphan = &orphan.value;
        let spec = orphan
            .run
            .as_ref()
            .and_then(|run| serde_json::from_str::<PodSpec>(&run.spec).ok());
        let containers = spec.iter().flat_map(|s| &s.containers).map(|c| c.name.clone());
        wire::Orphan {
            uid: uid.clone(),
            namespace: orphan.namespace.clone(),
            name: orphan.name.clone(),
            node: orphan.node.clone(),
            found_ms: u64::try_from(orphan.found.0).unwrap_or(0).saturating_mul(1000),
            containers: containers.collect(),
            deleting: orphan.delete,
        }
    };
    world.orphans.iter().map(one).collect()
}

fn find<'w>(world: &'w World, uid: &str) -> Result<(&'w Versioned<OrphanRecord>, Word), ApiError> {
    let orphan = world.orphans.get(uid).ok_or_else(|| {
        ApiError::Gone(format!(
            "orphan {} not found; see `wharf cluster orphan list`",
            quoted(uid)
        ))
    })?;
    let word = Word::Orphan {
        namespace: orphan.value.namespace.clone(),
        name: orphan.value.name.clone(),
        uid: uid.to_owned(),
    };
    Ok((orphan, word))
}

pub fn delete(world: &World, uid: &str) -> Result<Decision<Word>, ApiError> {
    let (orphan, word) = find(world, uid)?;
    if orphan.value.delete {
        return Ok(Decision::new(Vec::new(), word));
    }
    let record = OrphanRecord {
        delete: true,
        ..(*orphan.value).clone()
    };
    let change = Change::put(keys::orphan(uid), Expect::At(orphan.rv), encode(&record));
    Ok(Decision {
        detail: format!("orphan {uid} on node {}", orphan.value.node),
        ..Decision::new(vec![change], word)
    })
}

/// The pod as its agent runs it: the same uid, node and spec, so that nothing changes for its containers.
pub fn adopt(world: &World, uid: &str) -> Result<Decision<Word>, ApiError> {
    let (found, word) = find(world, uid)?;
    let orphan = &*found.value;
    let (namespace, name) = (orphan.namespace.as_str(), orphan.name.as_str());
    let refuse = |what: String| ApiError::in_use(Kind::Pod, name, format!("orphan {uid}: {what}"));
    if orphan.delete {
        return Err(refuse("it is being deleted".into()));
    }
    if !world.namespaces.contains_key(namespace) {
        return Err(refuse(format!(
            "its namespace {} is not there; create it first",
            quoted(namespace)
        )));
    }
    if world.pods.contains_key(&(namespace.to_owned(), name.to_owned())) {
        return Err(refuse(
            "another pod has its name by now; delete that one, or this orphan".into(),
        ));
    }
    if !world.nodes.contains_key(&orphan.node) {
        return Err(refuse(format!(
            "its node {} is not there any more",
            quoted(&orphan.node)
        )));
    }
    let run = orphan.run.as_ref().ok_or_else(|| {
        refuse(format!(
            "the agent of node {} has not told what it runs; try again once that node is Ready",
            orphan.node
        ))
    })?;
    let spec: PodSpec = serde_json::from_str(&run.spec)
        .map_err(|e| refuse(format!("what it runs cannot be read ({e}); it can only be deleted")))?;
    // What its agent would be told must be what it was told: a spec of a uid never changes.
    if ids::content_hash(&encode(&spec.placed_on(&orphan.node))) != run.spec_hash {
        return Err(refuse(
            "it was made by another release, and what it runs would change; it can only be deleted".into(),
        ));
    }
    let template = TemplateRecord {
        labels: run.labels.clone(),
        annotations: run.annotations.clone(),
        spec,
    };
    let (hash, bytes) = template.encode();
    let record = PodRecord {
        uid: uid.to_owned(),
        template: hash.clone(),
        created: orphan.found,
        node: orphan.node.clone(),
        ..PodRecord::default()
    };
    let changes = vec![
        Change::put(keys::template(&hash), Expect::Any, bytes),
        Change::put(
            keys::object(Kind::Pod, namespace, name),
            Expect::Absent,
            encode(&record),
        ),
        Change::delete(keys::orphan(uid), Expect::At(found.rv)),
    ];
    Ok(Decision {
        detail: format!("orphan {uid} on node {}", orphan.node),
        ..Decision::new(changes, word)
    })
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
