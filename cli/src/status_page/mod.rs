//! `wharf status`: what needs the operator, on one screen.
//!
//! | file | what it is |
//! |---|---|
//! | this | asks the coordinator |
//! | `area` | what a problem can be about, in order |
//! | `page` | from what was seen to problems, the worst first: pure |
//! | `reasons` | why pods are not ready, in few words: pure |
//! | `show` | the page as text and as an object: pure |
//!
//! Invariant: exit status 0 only if there is no problem.

mod area;
mod page;
mod reasons;
mod show;
#[cfg(test)]
mod tests;

use proto::{
    model::{HoldKind, Kind, Object},
    wire,
};

use crate::{
    args::{DataFormat, StatusArgs},
    client::Query,
    error::Error,
    output,
    session::Session,
    status::Reason,
};
use page::{Page, Seen};

pub async fn run(args: &StatusArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let info = session.client.info().await?;
    if info.fence.is_none() {
        return Err(Error::Unreachable(
            "no coordinator leads: the one that answers is a standby; look at the others, and at their logs".into(),
        ));
    }
    let settings = match session.client.show_settings().await {
        Ok(settings) => settings,
        // One release older: it knows no freeze either.
        Err(Error::Answered {
            reason: Reason::MethodNotAllowed,
            ..
        }) => wire::ShowSettingsReply::default(),
        Err(e) => return Err(e),
    };
    // One release older: it knows neither.
    let known = |e: &Error| {
        !matches!(
            e,
            Error::Answered {
                reason: Reason::MethodNotAllowed,
                ..
            }
        )
    };
    let restore = match session.client.show_restore().await {
        Err(e) if known(&e) => return Err(e),
        found => found.unwrap_or_default(),
    };
    let orphans = match session.client.list_orphans().await {
        Err(e) if known(&e) => return Err(e),
        found => found.unwrap_or_default(),
    };
    let mut seen = Seen {
        restore,
        orphans,
        now: session.now(),
        home: session.namespace.clone(),
        info,
        settings,
        ..Seen::default()
    };
    // Beside the lists: where a member of the store does not answer, the answer waits for it.
    let mut other = session.client.clone();
    let (replicas, listed) = futures::join!(Box::pin(other.replicas_status()), list(&mut seen, session));
    listed?;
    seen.replicas = match replicas {
        Ok(replicas) => Some(replicas),
        // One release older: it is alone.
        Err(Error::Answered {
            reason: Reason::MethodNotAllowed,
            ..
        }) => None,
        Err(e) => return Err(e),
    };
    for node in &seen.nodes {
        let holds = node.status.iter().flat_map(|s| &s.holds);
        if holds.into_iter().any(|h| h.kind == HoldKind::Drain) {
            let view = session.client.drain_view(&node.metadata.name).await?;
            seen.drains.extend(view.map(|view| (node.metadata.name.clone(), view)));
        }
    }
    seen.updates = session.client.list_updates("").await?;
    let page = Page::of(&seen);
    let text = match args.output {
        Some(DataFormat::Json) => output::json(&show::object(&page, &seen)),
        Some(DataFormat::Yaml) => output::yaml(&show::object(&page, &seen))?,
        None => show::text(&page, &seen),
    };
    session.out(&text)?;
    if page.problems.is_empty() {
        Ok(())
    } else {
        Err(Error::NotWell)
    }
}

/// All objects that the page is about.
async fn list(seen: &mut Seen, session: &mut Session<'_>) -> Result<(), Error> {
    for kind in [Kind::Node, Kind::ReplicationController, Kind::DaemonSet, Kind::Pod] {
        let query = Query {
            kind,
            namespace: String::new(),
            labels: String::new(),
            fields: String::new(),
        };
        let objects = match session.client.list(&query).await {
            Ok((objects, _)) => objects,
            // One release older: it knows no daemon sets.
            Err(Error::Answered {
                reason: Reason::BadRequest,
                ..
            }) if kind == Kind::DaemonSet => Vec::new(),
            Err(e) => return Err(e),
        };
        for object in objects {
            match object.object()? {
                Object::Node(node) => seen.nodes.push(node),
                Object::ReplicationController(rc) => seen.controllers.push(rc),
                Object::DaemonSet(set) => seen.daemon_sets.push(set),
                Object::Pod(pod) => seen.pods.push(pod),
                Object::Namespace(_) | Object::PodDisruptionBudget(_) | Object::Endpoints(_) | Object::Event(_) => {}
            }
        }
    }
    Ok(())
}
