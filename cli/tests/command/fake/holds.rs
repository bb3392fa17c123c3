//! The fake coordinator's holds: those of user/admin, and others' that a test put there.
//!
//! Invariant: as of the service's documentation, less what only time and other callers can show.

use std::collections::BTreeMap;

use proto::{
    model::Kind,
    wire::{self, holds_server::Holds},
};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use super::{Fake, not_found};

impl Fake {
    /// Changes a node's holds as user/admin; a hold is found by its id.
    async fn hold(
        &self,
        call: String,
        name: &str,
        dry_run: bool,
        change: impl FnOnce(&mut BTreeMap<String, Value>) -> Result<(), Status>,
    ) -> Result<Response<wire::HoldReply>, Status> {
        self.begin(call).await?;
        let mut node = self
            .object(Kind::Node, "", name)
            .ok_or_else(|| not_found(Kind::Node, name))?;
        let present = node["status"]["holds"].as_array().cloned().unwrap_or_default();
        let id = |h: &Value| format!("{}/{}", h["kind"].as_str().unwrap(), h["owner"].as_str().unwrap());
        let mut holds: BTreeMap<String, Value> = present.into_iter().map(|h| (id(&h), h)).collect();
        let before = holds.clone();
        change(&mut holds)?;
        let changed = holds != before;
        if changed && !dry_run {
            node["status"]["holds"] = holds.values().cloned().collect();
            self.put(Kind::Node, node);
        }
        let holds = holds.into_iter().map(|(id, hold)| {
            let text = |field: &str| hold[field].as_str().unwrap_or_default().to_owned();
            wire::NodeHold {
                id,
                kind: text("kind"),
                owner: text("owner"),
                reason: text("reason"),
                ..wire::NodeHold::default()
            }
        });
        Ok(Response::new(wire::HoldReply {
            changed,
            holds: holds.collect(),
        }))
    }
}

fn a_hold(kind: &str, reason: &str) -> Value {
    json!({"kind": kind, "owner": "user/admin", "reason": reason, "since": "2026-01-31T12:00:00Z"})
}

#[tonic::async_trait]
impl Holds for Fake {
    async fn cordon(&self, request: Request<wire::CordonRequest>) -> Result<Response<wire::HoldReply>, Status> {
        let r = request.into_inner();
        let call = format!("cordon {} {} {:?} {}", r.name, r.request_id, r.reason, r.for_ms);
        self.hold(call, &r.name, r.dry_run, |holds| {
            holds.insert("cordon/user/admin".into(), a_hold("cordon", &r.reason));
            Ok(())
        })
        .await
    }

    async fn uncordon(&self, request: Request<wire::UncordonRequest>) -> Result<Response<wire::HoldReply>, Status> {
        let r = request.into_inner();
        let call = format!("uncordon {} {} {}", r.name, r.request_id, r.all_owners);
        self.hold(call, &r.name, r.dry_run, |holds| {
            holds.retain(|id, _| !(id == "cordon/user/admin" || r.all_owners && id.starts_with("cordon/")));
            Ok(())
        })
        .await
    }

    async fn add(&self, request: Request<wire::AddHoldRequest>) -> Result<Response<wire::HoldReply>, Status> {
        let r = request.into_inner();
        let call = format!("hold {} {} {:?} {}", r.name, r.request_id, r.reason, r.for_ms);
        self.hold(call, &r.name, r.dry_run, |holds| {
            holds.insert("automation/user/admin".into(), a_hold("automation", &r.reason));
            Ok(())
        })
        .await
    }

    async fn release(&self, request: Request<wire::ReleaseHoldRequest>) -> Result<Response<wire::HoldReply>, Status> {
        let r = request.into_inner();
        let call = format!("release {} {} {:?}", r.name, r.request_id, r.id);
        let own = "automation/user/admin".to_owned();
        let id = if r.id.is_empty() { own } else { r.id };
        self.hold(call, &r.name, r.dry_run, |holds| {
            if holds.contains_key(&id) && !id.ends_with("/user/admin") && !r.any_owner {
                return Err(Status::permission_denied(format!("nodes {:?}: not yours", r.name)));
            }
            holds.remove(&id);
            Ok(())
        })
        .await
    }
}
