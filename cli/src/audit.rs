//! `wharf audit`.
//!
//! Invariant: entries are asked for the newest first, so that a limit keeps those, and shown the newest last.

use proto::{
    model::{Kind, Time},
    wire,
};
use serde_json::{Value, json};

use crate::{
    args::{AuditArgs, AuditFormat},
    error::Error,
    output::{self, or_none},
    session::Session,
    table,
};

/// Entries asked for at once: the most that the coordinator gives.
const PAGE: u32 = 5000;

pub async fn run(args: &AuditArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let now_ms = u64::try_from(session.now().0).unwrap_or_default().saturating_mul(1000);
    let since_ms = args.since.map_or(0, |since| {
        now_ms.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    });
    let mut request = wire::ListAuditRequest {
        since_ms,
        object: args
            .object
            .as_deref()
            .map(|o| object_of(o, &session.namespace))
            .unwrap_or_default(),
        caller: args.user.as_deref().map(caller_of).unwrap_or_default(),
        ..wire::ListAuditRequest::default()
    };
    let mut entries = Vec::new();
    let more = loop {
        let missing = args
            .limit
            .saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        if missing == 0 {
            break true;
        }
        request.limit = missing.min(PAGE);
        let reply = session.client.list_audit(&request).await?;
        entries.extend(reply.entries);
        if !reply.more || reply.next.is_empty() {
            break false;
        }
        request.from = reply.next;
    };
    entries.reverse();
    let objects = || {
        json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""},
            "items": entries.iter().map(entry_object).collect::<Vec<_>>()})
    };
    match args.output {
        Some(AuditFormat::Json) => session.out(&output::json(&objects()))?,
        Some(AuditFormat::Yaml) => session.out(&output::yaml(&objects())?)?,
        _ if entries.is_empty() => session.note("No audit entries found"),
        wide => session.out(&audit_table(&entries, wide.is_some()))?,
    }
    if more {
        session.note("there are older ones: see --limit and --since");
    }
    Ok(())
}

/// `node/n1` as the record names it: `nodes/n1`; `rc/web` is `replicationcontrollers/NAMESPACE/web`.
fn object_of(text: &str, namespace: &str) -> String {
    let Some((kind, name)) = text.split_once('/') else {
        return text.to_owned();
    };
    match Kind::parse(kind) {
        Some(kind) if kind.namespaced() && !name.contains('/') => format!("{}/{namespace}/{name}", kind.plural()),
        Some(kind) => format!("{}/{name}", kind.plural()),
        // Objects without a kind of their own: tokens, users, clusters.
        None if kind.ends_with('s') => text.to_owned(),
        None => format!("{kind}s/{name}"),
    }
}

fn caller_of(text: &str) -> String {
    if text.contains('/') || ["coordinator", "host"].contains(&text) {
        text.to_owned()
    } else {
        format!("user/{text}")
    }
}

fn audit_table(entries: &[wire::AuditEntry], wide: bool) -> String {
    let mut header = vec!["TIME", "WHO", "VERB", "OBJECT", "REASON"];
    header.extend(wide.then_some("DETAIL"));
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|e| {
            let mut row = vec![
                Time::from_millis(e.at_ms).to_string(),
                or_none(e.caller.clone()),
                or_none(e.verb.clone()),
                or_none(e.object.clone()),
                or_none(e.reason.clone()),
            ];
            row.extend(wide.then(|| or_none(e.detail.clone())));
            row
        })
        .collect();
    table::table(&header, &rows)
}

fn entry_object(entry: &wire::AuditEntry) -> Value {
    let mut object = json!({
        "apiVersion": "wharfinger.io/v1",
        "kind": "AuditEntry",
        "time": Time::from_millis(entry.at_ms),
        "milliseconds": entry.at_ms,
        "caller": entry.caller,
        "verb": entry.verb,
        "object": entry.object,
    });
    for (field, text) in [("reason", &entry.reason), ("detail", &entry.detail)] {
        if !text.is_empty() {
            object[field] = json!(text);
        }
    }
    for (field, text) in [("before", &entry.before), ("after", &entry.after)] {
        if !text.is_empty() {
            // A newer coordinator may send another form; it is shown as it came.
            object[field] = serde_json::from_str(text).unwrap_or_else(|_| json!(text));
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_users_as_the_record_names_them() {
        for (typed, recorded) in [
            ("node/n1", "nodes/n1"),
            ("no/n1", "nodes/n1"),
            ("rc/web", "replicationcontrollers/shop/web"),
            ("pods/other/web", "pods/other/web"),
            ("token/k7", "tokens/k7"),
            ("tokens/k7", "tokens/k7"),
            ("settings", "settings"),
        ] {
            assert_eq!(object_of(typed, "shop"), recorded);
        }
        for (typed, recorded) in [
            ("admin", "user/admin"),
            ("tokens/k7", "tokens/k7"),
            ("coordinator", "coordinator"),
        ] {
            assert_eq!(caller_of(typed), recorded);
        }
    }
}
