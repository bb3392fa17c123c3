//! `wharf describe`: everything about an object, with what belongs to it and its events. One file a kind writes
//! the text from objects fetched here.
//!
//! Invariant: the texts are pure functions of objects and `now`.

mod budget;
mod daemon_set;
mod doc;
mod endpoints;
mod hardware;
mod namespace;
mod node;
mod pod;
mod rc;

use proto::model::{Event, Kind, Object, ObjectMeta, Pod, Time};

use crate::{
    age,
    args::DescribeArgs,
    client::Query,
    error::{Error, Refusals},
    files, get,
    printers::{event_last_seen, event_order, event_type},
    received::Received,
    select,
    session::Session,
    table::table,
    target::Targets,
};
use doc::Doc;

pub async fn run(args: &DescribeArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    let mut objects = Vec::new();
    let named = if args.filename.is_empty() {
        match Targets::parse(&args.targets)? {
            Targets::Named(named) => select::references(named, session),
            Targets::Kinds(kinds) => {
                check_kinds(&kinds)?;
                for kind in &kinds {
                    let namespace = session.namespace_for(*kind);
                    let labels = args.selector.clone().unwrap_or_default();
                    objects.extend(fetch(session, *kind, &namespace, labels, String::new()).await?);
                }
                if objects.is_empty() {
                    let note = get::nothing_found(kinds.iter().copied(), false, session);
                    session.note(&note);
                }
                Vec::new()
            }
        }
    } else {
        files::references(&args.filename, session)?
    };
    if !named.is_empty() && args.selector.is_some() {
        return Err(Error::Usage("a name and a selector cannot be given together".into()));
    }
    check_kinds(&named.iter().map(|t| t.kind).collect::<Vec<_>>())?;
    for target in &named {
        let object = session.client.get(target).await;
        objects.extend(refusals.keep(object)?);
    }
    let mut blank = "";
    for object in &objects {
        let text = one(object, session).await;
        if let Some(text) = refusals.keep(text)? {
            session.out(&format!("{blank}{text}"))?;
            blank = "\n\n";
        }
    }
    refusals.finish()
}

fn check_kinds(kinds: &[Kind]) -> Result<(), Error> {
    if kinds.contains(&Kind::Event) {
        return Err(Error::Usage(
            "events cannot be described; use `wharf get events -o wide`".into(),
        ));
    }
    Ok(())
}

async fn fetch(
    session: &mut Session<'_>,
    kind: Kind,
    namespace: &str,
    labels: String,
    fields: String,
) -> Result<Vec<Received>, Error> {
    let query = Query {
        kind,
        namespace: namespace.to_owned(),
        labels,
        fields,
    };
    Ok(session.client.list(&query).await?.0)
}

async fn pods(session: &mut Session<'_>, namespace: &str, labels: String, fields: String) -> Result<Vec<Pod>, Error> {
    let mut pods = Vec::new();
    for object in fetch(session, Kind::Pod, namespace, labels, fields).await? {
        if let Object::Pod(pod) = object.object()? {
            pods.push(pod);
        }
    }
    Ok(pods)
}

/// A controller's pods. Ownership is by uid, so a selector would not find them all.
async fn owned(session: &mut Session<'_>, controller: &ObjectMeta) -> Result<Vec<Pod>, Error> {
    let mut pods = pods(session, &controller.namespace, String::new(), String::new()).await?;
    pods.retain(|p| p.metadata.owner_references.iter().any(|o| o.uid == controller.uid));
    Ok(pods)
}

/// The events of an object, the oldest first.
async fn events(session: &mut Session<'_>, meta: &ObjectMeta) -> Result<Vec<Event>, Error> {
    let fields = format!("involvedObject.uid={}", meta.uid);
    let mut events = Vec::new();
    // Events about objects without a namespace stand in one of the coordinator's choice.
    for object in fetch(session, Kind::Event, &meta.namespace, String::new(), fields).await? {
        if let Object::Event(event) = object.object()? {
            events.push(event);
        }
    }
    events.sort_by_key(event_order);
    Ok(events)
}

async fn one(object: &Received, session: &mut Session<'_>) -> Result<String, Error> {
    let typed = object.object()?;
    let events = events(session, typed.meta()).await?;
    let now = session.now();
    match &typed {
        Object::Pod(pod) => Ok(pod::describe(pod, &events, now)),
        Object::Node(node) => {
            let fields = format!("spec.nodeName={}", node.metadata.name);
            let pods = pods(session, "", String::new(), fields).await?;
            let drain = session.client.drain_view(&node.metadata.name).await?;
            Ok(node::describe(node, drain.as_ref(), &pods, &events, now))
        }
        Object::ReplicationController(rc) => {
            let pods = owned(session, &rc.metadata).await?;
            let (namespace, name) = (&rc.metadata.namespace, &rc.metadata.name);
            let mut updates = session.client.list_updates(namespace).await?.into_iter();
            let update = updates.find(|u| u.old == *name || u.new == *name);
            Ok(rc::describe(rc, update.as_ref(), &pods, &events, now))
        }
        Object::DaemonSet(set) => {
            let pods = owned(session, &set.metadata).await?;
            Ok(daemon_set::describe(set, &pods, &events, now))
        }
        Object::Namespace(namespace) => {
            let name = namespace.metadata.name.as_str();
            let pods = fetch(session, Kind::Pod, name, String::new(), String::new())
                .await?
                .len();
            let rcs = fetch(session, Kind::ReplicationController, name, String::new(), String::new()).await?;
            let sets = fetch(session, Kind::DaemonSet, name, String::new(), String::new()).await?;
            let contents = (pods, rcs.len(), sets.len());
            Ok(namespace::describe(namespace, contents, &events, now))
        }
        Object::PodDisruptionBudget(budget) => Ok(budget::describe(budget, &events, now)),
        Object::Endpoints(endpoints) => Ok(endpoints::describe(endpoints, &events, now)),
        // Refused above.
        Object::Event(_) => Ok(String::new()),
    }
}

/// Name, namespace, labels and annotations.
fn meta(doc: &mut Doc, meta: &ObjectMeta) {
    doc.field(0, "Name", &meta.name);
    if !meta.namespace.is_empty() {
        doc.field(0, "Namespace", &meta.namespace);
    }
    doc.pairs(0, "Labels", &meta.labels);
    doc.pairs(0, "Annotations", &meta.annotations);
}

/// `2026-01-31T12:00:00Z (5m ago)`.
fn when(time: Option<Time>, now: Time) -> String {
    match time {
        Some(t) => format!("{t} ({} ago)", age::duration(now.since(t))),
        None => "<unknown>".to_owned(),
    }
}

fn event_table(doc: &mut Doc, events: &[Event], now: Time) {
    if events.is_empty() {
        doc.group();
        doc.field(0, "Events", "<none>");
        return;
    }
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|e| {
            let mut seen = age::since(event_last_seen(e), now);
            if e.count > 1 {
                let first = age::since(e.first_timestamp, now);
                seen = format!("{seen} (x{} over {first})", e.count);
            }
            vec![
                event_type(e).to_owned(),
                e.reason.clone(),
                seen,
                e.source.component.clone(),
                e.message.clone(),
            ]
        })
        .collect();
    doc.heading(0, "Events");
    doc.block(2, &table(&["Type", "Reason", "Age", "From", "Message"], &rows));
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
