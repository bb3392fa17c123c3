//! The fake coordinator's settings, freeze and audit record.

use proto::wire::{self, audit_server::Audit, settings_server::Settings};
use tonic::{Request, Response, Status};

use crate::fake::{Fake, NOW};

const SETTINGS: [(&str, &str); 4] = [
    ("brake-period", "1m"),
    ("brake-share", "10%"),
    ("event-keep", "3days"),
    ("heartbeat", "2s"),
];

#[tonic::async_trait]
impl Settings for Fake {
    async fn show(&self, _: Request<wire::ShowSettingsRequest>) -> Result<Response<wire::ShowSettingsReply>, Status> {
        self.begin("settings".into()).await?;
        let state = self.state();
        let settings = SETTINGS.map(|(name, default)| wire::Setting {
            name: name.into(),
            value: state.settings.get(name).map_or(default, String::as_str).into(),
            default_value: default.into(),
            set: state.settings.contains_key(name),
            about: format!("About {name}."),
        });
        Ok(Response::new(wire::ShowSettingsReply {
            settings: settings.into(),
            freeze: state.freeze.clone(),
            brake: String::new(),
        }))
    }

    async fn set(
        &self,
        request: Request<wire::SetSettingsRequest>,
    ) -> Result<Response<wire::SetSettingsReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("set {} {}", r.set.len(), r.unset.len())).await?;
        let mut after = self.state().settings.clone();
        for name in r.set.keys().chain(&r.unset) {
            if !SETTINGS.iter().any(|(known, _)| known == name) {
                return Err(Status::invalid_argument(format!("settings: no setting {name:?}")));
            }
        }
        let mut changed = Vec::new();
        for (name, value) in r.set {
            if after.insert(name.clone(), value.clone()) != Some(value) {
                changed.push(name);
            }
        }
        changed.extend(r.unset.into_iter().filter(|name| after.remove(name).is_some()));
        if !r.dry_run {
            self.state().settings = after;
        }
        Ok(Response::new(wire::SetSettingsReply { changed }))
    }

    async fn freeze(&self, request: Request<wire::FreezeRequest>) -> Result<Response<wire::FreezeReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("freeze {} {:?}", r.for_ms, r.reason)).await?;
        let freeze = wire::Freeze {
            by: "user/admin".into(),
            reason: r.reason,
            since_ms: NOW as u64 * 1000,
            until_ms: 0,
        };
        let changed = self.state().freeze.as_ref() != Some(&freeze);
        if !r.dry_run {
            self.state().freeze = Some(freeze.clone());
        }
        let freeze = Some(freeze);
        Ok(Response::new(wire::FreezeReply { changed, freeze }))
    }

    async fn unfreeze(&self, request: Request<wire::UnfreezeRequest>) -> Result<Response<wire::FreezeReply>, Status> {
        self.begin("unfreeze".into()).await?;
        let changed = self.state().freeze.is_some();
        if !request.get_ref().dry_run {
            self.state().freeze = None;
        }
        Ok(Response::new(wire::FreezeReply { changed, freeze: None }))
    }
}

#[tonic::async_trait]
impl Audit for Fake {
    async fn list(&self, request: Request<wire::ListAuditRequest>) -> Result<Response<wire::ListAuditReply>, Status> {
        let r = request.into_inner();
        self.begin(format!(
            "audit {} {} {:?} {:?} {:?}",
            r.limit, r.since_ms, r.object, r.caller, r.from
        ))
        .await?;
        // Two entries a reply, whatever the limit.
        let from: usize = r.from.parse().unwrap_or(0);
        let state = self.state();
        let take = (r.limit as usize).min(2);
        let entries: Vec<_> = state.audit.iter().skip(from).take(take).cloned().collect();
        let next = from + entries.len();
        let more = next < state.audit.len();
        Ok(Response::new(wire::ListAuditReply {
            entries,
            more,
            next: if more { next.to_string() } else { String::new() },
        }))
    }
}
