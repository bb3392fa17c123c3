//! `wharf cluster accept-restore`: shows what was found, asks, accepts.
//!
//! Invariant: nothing is accepted but by the cluster's own id, typed or given, or by `--yes` alone.

use std::io::{Read as _, Write as _};

use proto::{model::Time, wire};

use crate::{args::AcceptRestoreArgs, error::Error, output::clean, session::Session, table};

pub async fn run(args: &AcceptRestoreArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let found = session.client.show_restore().await?;
    if !found.pending {
        let text = match found.restored_at_ms {
            0 => "nothing was restored: there is nothing to accept\n".to_owned(),
            _ => format!(
                "restore already accepted by {}, {}\n",
                clean(&found.accepted_by),
                time(found.accepted_at_ms)
            ),
        };
        return if found.restored_at_ms == 0 {
            Err(Error::Refused(text.trim_end().to_owned()))
        } else {
            session.out(&text)
        };
    }
    session.out(&page(&found))?;
    if !certain(args, &found, session)? {
        return Err(Error::Refused(
            "what was typed is not the cluster's id; nothing was accepted".to_owned(),
        ));
    }
    let dry_run = args.dry_run.on;
    session.client.accept_restore(&found.cluster_id, dry_run).await?;
    session.out(&format!("restore accepted{}\n", args.dry_run.suffix()))?;
    if !dry_run && found.nodes.iter().any(|n| !n.unknown.is_empty()) {
        session.note("the pods that are not on record run on; see `wharf cluster orphan list`");
    }
    Ok(())
}

fn time(ms: u64) -> String {
    Time::from_millis(ms).to_string()
}

/// What an operator has to know before he accepts.
fn page(found: &wire::ShowRestoreReply) -> String {
    let mut rows = Vec::new();
    let count = |heard: bool, n: usize| if heard { n.to_string() } else { "?".to_owned() };
    for node in &found.nodes {
        rows.push(vec![
            clean(&node.name),
            if node.heard { "yes" } else { "no" }.to_owned(),
            count(node.heard, node.known as usize),
            count(node.heard, node.missing.len()),
            count(node.heard, node.unknown.len()),
        ]);
    }
    let mut text = format!(
        "cluster {}, restored {} from a backup of {}\n\n{}",
        clean(&found.cluster_id),
        time(found.restored_at_ms),
        time(found.taken_at_ms),
        table::table(&["NODE", "HEARD", "KNOWN", "MISSING", "UNKNOWN"], &rows)
    );
    for (title, all) in [
        ("on record, and not running: started again", false),
        ("running, and not on record: they run on as orphans", true),
    ] {
        let lines: Vec<String> = found
            .nodes
            .iter()
            .flat_map(|n| {
                let pods = if all { &n.unknown } else { &n.missing };
                pods.iter().map(move |p| (n, p))
            })
            .map(|(n, p)| format!("  {}/{} on {}", clean(&p.namespace), clean(&p.name), clean(&n.name)))
            .collect();
        if !lines.is_empty() {
            text.push_str(&format!("\n{title}\n{}\n", lines.join("\n")));
        }
    }
    let silent = found.nodes.iter().filter(|n| !n.heard).count();
    if silent > 0 {
        text.push_str(&format!(
            "\n{silent} of {} nodes were not heard yet: what they run is not known\n",
            found.nodes.len()
        ));
    }
    text
}

/// Longest answer that is read.
const LONGEST: usize = 300;

fn certain(args: &AcceptRestoreArgs, found: &wire::ShowRestoreReply, session: &mut Session<'_>) -> Result<bool, Error> {
    if args.yes || args.dry_run.on {
        return Ok(true);
    }
    if !session.env.stdin_is_terminal {
        return Err(Error::Usage(
            "nobody to ask: look at the list above, then say --yes".to_owned(),
        ));
    }
    let question = "Every agent will take this state for its own. The cluster's id, to accept: ";
    session.env.stderr.write_all(question.as_bytes())?;
    session.env.stderr.flush()?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LONGEST && session.env.stdin.read(&mut byte)? > 0 && byte != *b"\n" {
        line.extend(byte);
    }
    Ok(String::from_utf8_lossy(&line).trim() == found.cluster_id)
}
