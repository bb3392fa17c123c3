//! `wharf cordon`, `wharf uncordon` and `wharf hold`: who holds which node, and why.
//!
//! Invariant: what is asked of a node that is so already is done, not refused; who still holds a node is said by whoever
//! lets go of it.

use proto::{
    model::{HoldKind, Kind, Node, NodeHold, Object, Time},
    wire,
};
use serde_json::{Value, json};

use crate::{
    age,
    args::{CordonArgs, HoldAddArgs, HoldCommand, HoldListArgs, HoldReleaseArgs, NodesArgs, UncordonArgs, Which},
    client::Query,
    error::{Error, Refusals},
    output::{self, Format, clean, or_none},
    received::Received,
    select::{self, Chosen},
    session::Session,
    table::table,
    target::{Reference, Targets},
};

pub async fn cordon(args: &CordonArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    for name in nodes(&args.nodes, session).await? {
        let request = wire::CordonRequest {
            name: name.clone(),
            reason: args.reason.clone().unwrap_or_default(),
            for_ms: args.expires.map(millis).unwrap_or_default(),
            dry_run: args.dry_run.on,
            ..wire::CordonRequest::default()
        };
        let reply = session.client.cordon(request).await;
        if let Some(reply) = refusals.keep(reply)? {
            let words = if reply.changed { "cordoned" } else { "already cordoned" };
            say(&name, words, "", args.dry_run.suffix(), &reply, session)?;
        }
    }
    refusals.finish()
}

pub async fn uncordon(args: &UncordonArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    for name in nodes(&args.nodes, session).await? {
        let request = wire::UncordonRequest {
            name: name.clone(),
            all_owners: args.all_owners,
            dry_run: args.dry_run.on,
            ..wire::UncordonRequest::default()
        };
        let reply = session.client.uncordon(request).await;
        if let Some(reply) = refusals.keep(reply)? {
            let words = if reply.changed {
                "uncordoned"
            } else {
                "already uncordoned"
            };
            say(
                &name,
                words,
                &still(&name, &reply),
                args.dry_run.suffix(),
                &reply,
                session,
            )?;
        }
    }
    refusals.finish()
}

pub async fn run(command: &HoldCommand, session: &mut Session<'_>) -> Result<(), Error> {
    match command {
        HoldCommand::Add(args) => add(args, session).await,
        HoldCommand::Release(args) => release(args, session).await,
        HoldCommand::List(args) => list(args, session).await,
    }
}

async fn add(args: &HoldAddArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    for name in nodes(&args.nodes, session).await? {
        let request = wire::AddHoldRequest {
            name: name.clone(),
            reason: args.reason.clone(),
            for_ms: args.expires.map(millis).unwrap_or_default(),
            dry_run: args.dry_run.on,
            ..wire::AddHoldRequest::default()
        };
        let reply = session.client.add_hold(request).await;
        if let Some(reply) = refusals.keep(reply)? {
            let words = if reply.changed { "held" } else { "already held" };
            say(&name, words, "", args.dry_run.suffix(), &reply, session)?;
        }
    }
    refusals.finish()
}

async fn release(args: &HoldReleaseArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let name = node_name(&args.node)?;
    let request = wire::ReleaseHoldRequest {
        name: name.clone(),
        id: args.id.clone().unwrap_or_default(),
        any_owner: args.any_owner,
        dry_run: args.dry_run.on,
        ..wire::ReleaseHoldRequest::default()
    };
    let reply = session.client.release_hold(request).await?;
    let words = if reply.changed {
        "hold released"
    } else {
        "hold already released"
    };
    say(
        &name,
        words,
        &still(&name, &reply),
        args.dry_run.suffix(),
        &reply,
        session,
    )
}

/// One line; a dry run is named where it would have changed something.
fn say(
    name: &str,
    words: &str,
    still: &str,
    dry: &str,
    reply: &wire::HoldReply,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let dry = if reply.changed { dry } else { "" };
    session.out(&(clean(&format!("node/{name} {words}{still}{dry}")) + "\n"))
}

/// Who holds the node now, and how that ends where it is no cordon.
fn still(node: &str, reply: &wire::HoldReply) -> String {
    if reply.holds.is_empty() {
        return String::new();
    }
    let holds: Vec<String> = reply.holds.iter().map(words).collect();
    let end = if reply.holds.iter().any(|h| h.kind == HoldKind::Drain.as_str()) {
        format!("; end the drain: wharf drain {node} --cancel")
    } else {
        String::new()
    };
    format!(" (still SchedulingDisabled: {}{end})", holds.join("; "))
}

/// As the coordinator says it elsewhere; of a kind that this build does not know, as it stands.
fn words(hold: &wire::NodeHold) -> String {
    let kind = serde_json::from_value(Value::from(hold.kind.clone()));
    kind.map_or_else(
        |_| format!("{}: {}", hold.id, hold.reason),
        |kind| {
            let known = NodeHold {
                kind,
                owner: hold.owner.clone(),
                reason: hold.reason.clone(),
                since: Time::from_millis(hold.since_ms),
                expires: None,
            };
            known.to_string()
        },
    )
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Names of nodes, each `n1` or `node/n1`.
async fn nodes(args: &NodesArgs, session: &mut Session<'_>) -> Result<Vec<String>, Error> {
    let Some(selector) = &args.selector else {
        return args.nodes.iter().map(|word| node_name(word)).collect();
    };
    let which = Which {
        selector: Some(selector.clone()),
        all: false,
    };
    match select::choose(&[Kind::Node.plural().to_owned()], &[], &which, session).await? {
        Chosen::Named(named) => Ok(named.into_iter().map(|reference| reference.name).collect()),
        Chosen::Found(found) => Ok(found.into_iter().map(|object| object.name).collect()),
    }
}

/// `n1` or `node/n1`.
pub fn node_name(word: &str) -> Result<String, Error> {
    if word.is_empty() {
        return Err(Error::Usage("the name of the node is empty".into()));
    }
    if !word.contains('/') {
        return Ok(word.to_owned());
    }
    match Targets::parse(&[word.to_owned()])? {
        Targets::Named(named) => match named.as_slice() {
            [(Kind::Node, name)] => Ok(name.clone()),
            _ => Err(Error::Usage(format!(
                "{word:?} is no node; give the name of one, e.g. n1 or node/n1"
            ))),
        },
        Targets::Kinds(_) => Err(Error::Usage(format!(
            "{word:?} is no node; give the name of one, e.g. n1 or node/n1"
        ))),
    }
}

async fn list(args: &HoldListArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    let mut found: Vec<Received> = Vec::new();
    if args.nodes.is_empty() {
        let query = Query {
            kind: Kind::Node,
            namespace: String::new(),
            labels: args.selector.clone().unwrap_or_default(),
            fields: String::new(),
        };
        found = session.client.list(&query).await?.0;
    }
    for word in &args.nodes {
        let target = Reference {
            kind: Kind::Node,
            namespace: String::new(),
            name: node_name(word)?,
        };
        let object = session.client.get(&target).await;
        found.extend(refusals.keep(object)?);
    }
    let mut rows = Vec::new();
    for object in &found {
        if let Object::Node(node) = object.object()? {
            rows.extend(held(&node));
        }
    }
    let text = match args.output {
        Some(Format::Json) => output::json(&objects(&rows)),
        Some(Format::Yaml) => output::yaml(&objects(&rows))?,
        Some(Format::Name) => rows
            .iter()
            .map(|(node, h)| format!("node/{node} {}\n", h.id()))
            .collect(),
        None | Some(Format::Wide) if rows.is_empty() => {
            if refusals.is_empty() {
                session.note("No holds found");
            }
            String::new()
        }
        None | Some(Format::Wide) => hold_table(&rows, session.now()),
    };
    session.out(&text)?;
    refusals.finish()
}

fn held(node: &Node) -> Vec<(String, NodeHold)> {
    let holds = node.status.iter().flat_map(|status| &status.holds);
    holds.map(|hold| (node.metadata.name.clone(), hold.clone())).collect()
}

fn hold_table(rows: &[(String, NodeHold)], now: Time) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(node, hold)| {
            vec![
                node.clone(),
                hold.id(),
                age::since(Some(hold.since), now),
                ends(hold, now),
                or_none(hold.reason.clone()),
            ]
        })
        .collect();
    table(&["NODE", "ID", "AGE", "EXPIRES", "REASON"], &rows)
}

/// When it ends by itself.
pub fn ends(hold: &NodeHold, now: Time) -> String {
    match hold.expires {
        None => "never".to_owned(),
        Some(at) if at <= now => "now".to_owned(),
        Some(at) => format!("in {}", age::duration(at.since(now))),
    }
}

/// Shaped as all objects are.
fn objects(rows: &[(String, NodeHold)]) -> Value {
    let items: Vec<Value> = rows
        .iter()
        .map(|(node, hold)| {
            // A hold has string keys only, so this cannot fail.
            let mut spec = serde_json::to_value(hold).unwrap_or_default();
            spec["node"] = json!(node);
            json!({
                "apiVersion": "wharfinger.io/v1",
                "kind": "NodeHold",
                "metadata": {"name": hold.id(), "creationTimestamp": hold.since},
                "spec": spec,
            })
        })
        .collect();
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}
