//! `wharf status`: what needs the operator, on one screen.
//!
//! | file | what it is |
//! |---|---|
//! | this | asks the coordinator |
//! | `page` | from what was seen to problems, the worst first: pure |
//! | `reasons` | why pods are not ready, in few words: pure |
//! | `show` | the page as text and as an object: pure |
//!
//! Invariant: exit status 0 only if there is no problem.

mod page;
mod reasons;
mod show;
#[cfg(test)]
mod tests;

use proto::{
    model::{Kind, Object},
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
    let mut seen = Seen {
        now: session.now(),
        home: session.namespace.clone(),
        info,
        settings,
        ..Seen::default()
    };
    for kind in [Kind::Node, Kind::ReplicationController, Kind::Pod] {
        let query = Query {
            kind,
            namespace: String::new(),
            labels: String::new(),
            fields: String::new(),
        };
        for object in session.client.list(&query).await?.0 {
            match object.object()? {
                Object::Node(node) => seen.nodes.push(node),
                Object::ReplicationController(rc) => seen.controllers.push(rc),
                Object::Pod(pod) => seen.pods.push(pod),
                Object::Namespace(_) | Object::Event(_) => {}
            }
        }
    }
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
