//! Audit.List: who changed what, and why. Mounted by the listener.
//!
//! Invariant: reads only, in pages by key order, so that its memory follows the reply and not the record; no entry is
//! left out because it cannot be read.

use std::sync::Arc;

use async_trait::async_trait;
use prost::Message;
use proto::{
    model::labels::quoted,
    wire::{self, AuditEntry, ListAuditReply, ListAuditRequest},
};
use serde_json::Value;
use tonic::{Request, Response, Status};

use super::{Api, errors::ApiError};
use crate::{
    ca::{audit::AuditRecord, authorizer::Attributes},
    store::{Entry, Order, Span, keys},
};

/// Entries of a reply where the request does not say, and at most.
const DEFAULT_LIMIT: u32 = 200;
const MAX_LIMIT: u32 = 5000;
/// Entries read at once.
const PAGE: usize = 256;
/// A reply ends before this many bytes: what clients take by default is 4 MiB.
const MAX_BYTES: usize = 3 << 20;
/// Longest text of a filter.
const MAX_FILTER: usize = 600;
/// Later than any key can say, in its thirteen digits.
const MAX_MS: u64 = 9_999_999_999_999;

pub struct AuditService(pub(super) Arc<Api>);

#[async_trait]
impl wire::audit_server::Audit for AuditService {
    async fn list(&self, request: Request<ListAuditRequest>) -> Result<Response<ListAuditReply>, Status> {
        let action = Attributes {
            verb: "list",
            resource: "audit",
            ..Attributes::default()
        };
        self.0.admit(request.extensions(), &action)?;
        let message = request.get_ref();
        check(message)?;
        Ok(Response::new(self.0.audit(message).await?))
    }
}

fn check(message: &ListAuditRequest) -> Result<(), ApiError> {
    if message.limit > MAX_LIMIT {
        return Err(ApiError::BadRequest(format!(
            "audit: limit: must be at most {MAX_LIMIT}, is {}; go on with `from`",
            message.limit
        )));
    }
    let filters = [
        ("object", &message.object),
        ("caller", &message.caller),
        ("from", &message.from),
    ];
    match filters.into_iter().find(|(_, text)| text.len() > MAX_FILTER) {
        Some((field, text)) => Err(ApiError::BadRequest(format!(
            "audit: {field}: must have at most {MAX_FILTER} bytes, is {}",
            quoted(text)
        ))),
        None => Ok(()),
    }
}

impl Api {
    async fn audit(&self, message: &ListAuditRequest) -> Result<ListAuditReply, ApiError> {
        let limit = match message.limit {
            0 => DEFAULT_LIMIT,
            limit => limit,
        };
        let wanted = |record: &AuditRecord| {
            (message.object.is_empty() || record.object == message.object)
                && (message.caller.is_empty() || record.caller == message.caller)
        };
        let mut until = match message.from.as_str() {
            "" => keys::AUDIT_END.to_owned(),
            from => format!("{}{from}", keys::AUDIT),
        };
        let mut reply = ListAuditReply::default();
        let mut bytes = 0;
        loop {
            let span = Span {
                from: keys::audit(message.since_ms.min(MAX_MS), ""),
                until: until.clone(),
                order: Order::Descending,
                limit: PAGE,
            };
            let page = self.hub.store().scan(span).await;
            let page = page.map_err(|e| ApiError::Internal(format!("audit records cannot be read: {e}")))?;
            let last_page = page.len() < PAGE;
            for entry in page {
                let record = read(&entry);
                if wanted(&record) {
                    let shown = to_wire(record);
                    bytes += shown.encoded_len();
                    let full = reply.entries.len() >= limit as usize;
                    if full || (bytes > MAX_BYTES && !reply.entries.is_empty()) {
                        reply.more = true;
                        reply.next = until.strip_prefix(keys::AUDIT).unwrap_or_default().to_owned();
                        return Ok(reply);
                    }
                    reply.entries.push(shown);
                }
                until = entry.key;
            }
            if last_page {
                return Ok(reply);
            }
        }
    }
}

/// What cannot be read is shown as that: somebody changed something then.
fn read(entry: &Entry) -> AuditRecord {
    serde_json::from_slice(&entry.value).unwrap_or_else(|problem| {
        let time = entry
            .key
            .strip_prefix(keys::AUDIT)
            .and_then(|rest| rest.split('-').next());
        AuditRecord {
            at_ms: time.and_then(|ms| ms.parse().ok()).unwrap_or_default(),
            detail: format!("{} cannot be read: {problem}", entry.key),
            ..AuditRecord::default()
        }
    })
}

fn to_wire(record: AuditRecord) -> AuditEntry {
    let text = |value: Option<Value>| value.map(|v| v.to_string()).unwrap_or_default();
    AuditEntry {
        at_ms: record.at_ms,
        caller: record.caller,
        verb: record.verb,
        object: record.object,
        reason: record.reason,
        detail: record.detail,
        before: text(record.before),
        after: text(record.after),
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
