//! `wharf get -w`: lists, then shows every change. Called by `get`.
//!
//! Invariant: no change is shown twice, and none that the coordinator still keeps is left out: after a listing only
//! what changed meanwhile is shown.

use std::collections::HashMap;

use proto::model::Kind;

use crate::{
    args::GetArgs,
    client::{Query, not_found},
    error::Error,
    follow::{Follow, Patience, Step},
    get,
    output::{self, Format},
    printers::{self, Context, Options},
    received::Received,
    session::Session,
    sort::SortBy,
    table::Table,
    target::Reference,
};

/// What to watch: one object, or all that the query finds.
pub struct Watched<'a> {
    pub query: Query,
    pub one: Option<&'a Reference>,
}

pub async fn run(
    args: &GetArgs,
    watched: &Watched<'_>,
    sort: Option<&SortBy>,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let mut view = View {
        kind: watched.query.kind,
        format: args.output,
        options: get::options(args, false),
        table: Table::default(),
        header: !args.no_headers,
        seen: HashMap::new(),
    };
    let interrupt = session.env.interrupt.clone();
    tokio::select! {
        // Ends only in an error.
        result = follow(watched, sort, &mut view, session) => result,
        () = interrupt => Err(Error::Interrupted(String::new())),
    }
}

async fn follow(
    watched: &Watched<'_>,
    sort: Option<&SortBy>,
    view: &mut View,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let (client, times) = (session.client.clone(), session.env.times);
    let mut follow = Follow::new(client, watched.query.clone(), times, Patience::Times, false);
    let mut first = true;
    loop {
        match follow.next().await? {
            Step::All(mut objects) => {
                if let (true, Some(one)) = (first && objects.is_empty(), watched.one) {
                    return Err(not_found(one.kind, &one.name));
                }
                if first {
                    get::arrange(&mut objects, sort)?;
                }
                first = false;
                view.forget_others(&objects);
                view.show(objects, session).await?;
            }
            Step::Put(object) => view.show(vec![object], session).await?,
            Step::Gone(object) => {
                view.seen.remove(&object.uid);
                view.print(&[object], session).await?;
            }
            Step::Broken(why) => session.note(&format!("watch: {why}; going on")),
        }
    }
}

struct View {
    kind: Kind,
    format: Option<Format>,
    options: Options,
    table: Table,
    /// Still to be printed.
    header: bool,
    /// Uid → resource version as last shown.
    seen: HashMap<String, String>,
}

impl View {
    /// Shows the objects that are new or changed.
    async fn show(&mut self, mut objects: Vec<Received>, session: &mut Session<'_>) -> Result<(), Error> {
        objects.retain(|o| {
            let before = self.seen.insert(o.uid.clone(), o.resource_version.clone());
            o.uid.is_empty() || before.as_ref() != Some(&o.resource_version)
        });
        self.print(&objects, session).await
    }

    /// Objects that are gone need not be remembered.
    fn forget_others(&mut self, objects: &[Received]) {
        let uids: std::collections::HashSet<&str> = objects.iter().map(|o| o.uid.as_str()).collect();
        self.seen.retain(|uid, _| uids.contains(uid.as_str()));
    }

    async fn print(&mut self, objects: &[Received], session: &mut Session<'_>) -> Result<(), Error> {
        if objects.is_empty() {
            return Ok(());
        }
        match self.format {
            None | Some(Format::Wide) => {
                let node = match objects {
                    [one] => Some(one.name.as_str()),
                    _ => None,
                };
                let context = match get::context(session, self.kind, &self.options, node).await {
                    // A break is no reason to end; the column says that it does not know.
                    Err(Error::Unreachable(_)) => Context {
                        now: session.now(),
                        pods_on: None,
                    },
                    other => other?,
                };
                let mut rows = Vec::with_capacity(objects.len());
                for object in objects {
                    rows.push(printers::row(&object.object()?, &self.options, &context));
                }
                let text = if std::mem::take(&mut self.header) {
                    self.table.block(&printers::header(self.kind, &self.options), &rows)
                } else {
                    self.table.rows(&rows)
                };
                session.out(&text)
            }
            Some(Format::Json) => objects.iter().try_for_each(|o| session.out(&output::json(&o.json))),
            Some(Format::Yaml) => objects
                .iter()
                .try_for_each(|o| session.out(&format!("---\n{}", output::yaml(&o.json)?))),
            Some(Format::Name) => objects.iter().try_for_each(|o| session.out(&(output::name(o) + "\n"))),
        }
    }
}
