//! `wharf cluster orphan`: pods that agents run and that a restored state did not know.
//!
//! Invariant: a name that fits several orphans names none of them.

use proto::{model::Time, wire};
use serde_json::json;

use crate::{
    age,
    args::{DataFormat, OrphanArgs, OrphanCommand, OrphanListArgs},
    error::{Error, Refusals},
    output::{self, clean},
    session::Session,
    table,
};

pub async fn run(command: &OrphanCommand, session: &mut Session<'_>) -> Result<(), Error> {
    match command {
        OrphanCommand::List(args) => list(args, session).await,
        OrphanCommand::Adopt(args) => act(args, true, session).await,
        OrphanCommand::Delete(args) => act(args, false, session).await,
    }
}

async fn list(args: &OrphanListArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let orphans = session.client.list_orphans().await?;
    let value = || {
        let items: Vec<_> = orphans.iter().map(object).collect();
        json!({"apiVersion": "wharfinger.io/v1", "kind": "OrphanList", "items": items})
    };
    let text = match args.output {
        Some(DataFormat::Json) => output::json(&value()),
        Some(DataFormat::Yaml) => output::yaml(&value())?,
        None if orphans.is_empty() => {
            session.note("no orphans");
            return Ok(());
        }
        None => page(&orphans, session.now()),
    };
    session.out(&text)
}

fn object(orphan: &wire::Orphan) -> serde_json::Value {
    json!({
        "uid": orphan.uid,
        "namespace": orphan.namespace,
        "name": orphan.name,
        "node": orphan.node,
        "found": Time::from_millis(orphan.found_ms).to_string(),
        "containers": orphan.containers,
        "deleting": orphan.deleting,
    })
}

fn page(orphans: &[wire::Orphan], now: Time) -> String {
    let head = ["NAMESPACE", "NAME", "NODE", "CONTAINERS", "STATUS", "AGE", "UID"];
    let mut rows = Vec::new();
    for orphan in orphans {
        let containers = if orphan.containers.is_empty() {
            "<unknown>".to_owned()
        } else {
            orphan.containers.join(",")
        };
        rows.push(vec![
            clean(&orphan.namespace),
            clean(&orphan.name),
            clean(&orphan.node),
            clean(&containers),
            if orphan.deleting { "Terminating" } else { "Orphaned" }.to_owned(),
            age::since(Some(Time::from_millis(orphan.found_ms)), now),
            clean(&orphan.uid),
        ]);
    }
    table::table(&head, &rows)
}

async fn act(args: &OrphanArgs, adopt: bool, session: &mut Session<'_>) -> Result<(), Error> {
    let orphans = session.client.list_orphans().await?;
    let chosen: Vec<wire::Orphan> = if args.all {
        orphans
    } else if args.pods.is_empty() {
        return Err(Error::Usage("name orphans, by UID or NAMESPACE/NAME, or --all".into()));
    } else {
        let found: Result<Vec<_>, _> = args.pods.iter().map(|name| find(&orphans, name)).collect();
        found?
    };
    let dry = args.dry_run.on;
    let mut refusals = Refusals::default();
    for orphan in chosen {
        let result = if adopt {
            session.client.adopt_orphan(&orphan.uid, dry).await
        } else {
            session.client.delete_orphan(&orphan.uid, dry).await
        };
        if let Some(changed) = refusals.keep(result)? {
            let words = match (adopt, changed) {
                (true, _) => "adopted",
                (false, true) => "deleted",
                (false, false) => "is being deleted already",
            };
            let suffix = if changed { args.dry_run.suffix() } else { "" };
            session.out(&format!(
                "orphan {}/{} {words}{suffix}\n",
                clean(&orphan.namespace),
                clean(&orphan.name)
            ))?;
        }
    }
    refusals.finish()
}

/// By uid, or by namespace and name where only one has these.
fn find(orphans: &[wire::Orphan], name: &str) -> Result<wire::Orphan, Error> {
    let named = |o: &&wire::Orphan| o.uid == name || format!("{}/{}", o.namespace, o.name) == name;
    let found: Vec<&wire::Orphan> = orphans.iter().filter(named).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::Refused(format!(
            "orphan {name:?} not found; see `wharf cluster orphan list`"
        ))),
        several => Err(Error::Refused(format!(
            "{} orphans are called {name:?}: name them by UID",
            several.len()
        ))),
    }
}
