//! `wharf get -w`: lists, then shows every change. Called by `get`.
//!
//! A broken watch is taken up where it broke; when the coordinator no longer keeps that revision, it lists again and
//! shows only what changed meanwhile.
//!
//! Invariant: no change is shown twice, and none that the coordinator still keeps is left out.

use std::collections::HashMap;

use proto::{
    model::Kind,
    wire::{self, watch_event::Type},
};
use tokio::time::Instant;

use crate::{
    args::GetArgs,
    client::{Query, WatchError},
    error::Error,
    get,
    output::{self, Format},
    printers::{self, Options},
    received::Received,
    session::Session,
    table::Table,
    target::Targets,
};

pub async fn run(args: &GetArgs, targets: &Targets, session: &mut Session<'_>) -> Result<(), Error> {
    let kinds = targets.kinds();
    let [kind] = kinds[..] else {
        return Err(Error::Usage("-w shows one kind at a time".into()));
    };
    let mut query = get::query(args, kind, session);
    let mut name = None;
    if let Targets::Named(named) = targets {
        let [(_, one)] = &named[..] else {
            return Err(Error::Usage("-w shows one object, or all of a kind".into()));
        };
        query.fields = format!("metadata.name={one}");
        name = Some(one.as_str());
    }
    let mut view = View {
        kind,
        format: args.output,
        options: get::options(args, false),
        table: Table::default(),
        header: !args.no_headers,
        seen: HashMap::new(),
    };
    let interrupt = session.env.interrupt.clone();
    tokio::select! {
        // Ends only in an error.
        result = follow(&query, name, &mut view, session) => result,
        () = interrupt => Err(Error::Interrupted(String::new())),
    }
}

async fn follow(query: &Query, name: Option<&str>, view: &mut View, session: &mut Session<'_>) -> Result<(), Error> {
    let (objects, mut revision) = session.client.list(query).await?;
    if let (Some(name), true) = (name, objects.is_empty()) {
        return Err(crate::client::not_found(query.kind, name));
    }
    view.show(objects, session).await?;
    let times = session.env.times;
    let mut pause = times.reconnect.0;
    let mut answered = Instant::now();
    let mut told = false;
    loop {
        let why = match session.client.watch(query, revision).await {
            Ok(mut stream) => loop {
                answered = Instant::now();
                match session.client.next_event(&mut stream).await {
                    Ok(Some(event)) => {
                        (pause, told) = (times.reconnect.0, false);
                        revision = event.resource_version.max(revision);
                        view.event(event, session).await?;
                    }
                    Ok(None) => break WatchError::Broken("the coordinator ended the watch".to_owned()),
                    Err(e) => {
                        answered = Instant::now();
                        break e;
                    }
                }
            },
            Err(e) => e,
        };
        let why = match why {
            WatchError::Refused(message) => return Err(Error::Refused(message)),
            WatchError::Broken(why) => why,
            WatchError::TooOld => match session.client.list(query).await {
                Ok((objects, at)) => {
                    (revision, answered) = (at, Instant::now());
                    view.forget_others(&objects);
                    view.show(objects, session).await?;
                    "changes were missed; listed again".to_owned()
                }
                Err(Error::Unreachable(why)) => why,
                Err(e) => return Err(e),
            },
        };
        if answered.elapsed() >= times.give_up {
            return Err(Error::Unreachable(format!(
                "the watch broke and cannot be taken up again: {why}"
            )));
        }
        if !told {
            told = true;
            session.note(&format!("watch: {why}; going on"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(times.reconnect.1);
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
    async fn event(&mut self, event: wire::WatchEvent, session: &mut Session<'_>) -> Result<(), Error> {
        let kind = event.r#type();
        let Some(object) = event.object.filter(|_| kind != Type::Bookmark) else {
            return Ok(());
        };
        let object = Received::new(self.kind, object)?;
        if kind == Type::Deleted {
            self.seen.remove(&object.uid);
            return self.print(&[object], session).await;
        }
        self.show(vec![object], session).await
    }

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
                let context = get::context(session, self.kind, &self.options, node).await?;
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
