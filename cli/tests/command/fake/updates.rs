//! The fake coordinator's rolling updates: views that a test wrote, sent one after the other. Without any, an update is over
//! at once.
//!
//! Invariant: a stream ends with the first view that has ended, or when there are no more.

use std::pin::Pin;

use futures::{Stream, stream};
use proto::{
    model::Kind,
    wire::{self, UpdateStep, UpdateView, updates_server::Updates},
};
use tonic::{Request, Response, Status};

use super::{Fake, NOW_MS, not_found};

/// An update of web to web-v2 with these steps: old, new, whether turned back, whether done.
pub fn updating(steps: &[(u32, u32, bool, bool)]) -> UpdateView {
    UpdateView {
        namespace: "default".into(),
        old: "web".into(),
        new: "web-v2".into(),
        id: "u1".into(),
        phase: "Updating".into(),
        by: "user/admin".into(),
        since_ms: NOW_MS,
        target: 3,
        steps: steps
            .iter()
            .map(|&(old, new, back, done)| UpdateStep { old, new, back, done })
            .collect(),
        steps_in_all: 3,
        now_ms: NOW_MS,
        ..UpdateView::default()
    }
}

pub fn over(phase: &str, steps: &[(u32, u32, bool, bool)]) -> UpdateView {
    UpdateView {
        phase: phase.into(),
        ended_ms: NOW_MS + 12_000,
        ..updating(steps)
    }
}

impl Fake {
    fn first_view(&self) -> UpdateView {
        self.state()
            .update_views
            .first()
            .cloned()
            .unwrap_or_else(|| updating(&[]))
    }

    fn replaced(&self, namespace: &str, name: &str) -> Result<serde_json::Value, Status> {
        self.object(Kind::ReplicationController, namespace, name)
            .ok_or_else(|| not_found(Kind::ReplicationController, name))
    }

    fn begun(&self, old: &serde_json::Value, dry_run: bool) -> wire::BeginUpdateReply {
        let mut new = old.clone();
        new["metadata"]["name"] = "web-v2".into();
        let view = (!dry_run).then(|| self.first_view());
        wire::BeginUpdateReply {
            began: !self.state().updated_before,
            view,
            warnings: Vec::new(),
            old: old.to_string().into_bytes(),
            new: new.to_string().into_bytes(),
        }
    }
}

#[tonic::async_trait]
impl Updates for Fake {
    async fn begin(
        &self,
        request: Request<wire::BeginUpdateRequest>,
    ) -> Result<Response<wire::BeginUpdateReply>, Status> {
        let r = request.into_inner();
        let limits = r.limits.unwrap_or_default();
        let words = [
            r.image.as_str(),
            &r.container,
            &r.image_pull_policy,
            &r.new_name,
            &limits.max_surge,
            &limits.max_unavailable,
            &limits.on_failure,
            &limits.pause_after,
            &r.cause,
        ];
        let words: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
        self.begin(format!("update {} {}", r.name, words.join(" "))).await?;
        let old = self.replaced(&r.namespace, &r.name)?;
        Ok(Response::new(self.begun(&old, r.dry_run)))
    }

    async fn steer(
        &self,
        request: Request<wire::SteerUpdateRequest>,
    ) -> Result<Response<wire::SteerUpdateReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("{} {}", r.action, r.name)).await?;
        if self.state().no_update {
            return Err(Status::not_found(format!("no update of {} in progress", r.name)));
        }
        Ok(Response::new(wire::SteerUpdateReply {
            changed: true,
            view: Some(self.first_view()),
        }))
    }

    async fn undo(
        &self,
        request: Request<wire::UndoUpdateRequest>,
    ) -> Result<Response<wire::BeginUpdateReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("undo {} {}", r.name, r.to_revision)).await?;
        let old = self.replaced(&r.namespace, &r.name)?;
        Ok(Response::new(self.begun(&old, r.dry_run)))
    }

    async fn list(
        &self,
        request: Request<wire::ListUpdatesRequest>,
    ) -> Result<Response<wire::ListUpdatesReply>, Status> {
        self.begin(format!("updates {}", request.into_inner().namespace))
            .await?;
        let mut updates = self.state().update_views.clone();
        updates.retain(|view| view.ended_ms == 0);
        Ok(Response::new(wire::ListUpdatesReply { updates }))
    }

    async fn history(
        &self,
        request: Request<wire::UpdateHistoryRequest>,
    ) -> Result<Response<wire::UpdateHistoryReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("history {}", r.name)).await?;
        let object = self.replaced(&r.namespace, &r.name)?;
        let revision = |number: u32| wire::UpdateRevision {
            number,
            name: r.name.clone(),
            cause: format!("rolling-update web --image=web:{number}"),
            by: "user/admin".into(),
            at_ms: NOW_MS - 60_000,
            images: vec![format!("web:{number}")],
            controller: object.to_string().into_bytes(),
        };
        Ok(Response::new(wire::UpdateHistoryReply {
            revisions: vec![revision(1), revision(2)],
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<UpdateView, Status>> + Send>>;

    async fn watch(&self, request: Request<wire::WatchUpdateRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let r = request.into_inner();
        self.begin(format!("watch-update {}", r.name)).await?;
        let mut views = self.state().update_views.clone();
        if views.is_empty() {
            views.push(over(
                "Updated",
                &[(2, 1, false, true), (1, 2, false, true), (0, 3, false, true)],
            ));
        }
        // One that does not end goes on for ever.
        let hangs = views.last().is_none_or(|v| v.ended_ms == 0 && !v.paused);
        let sent = stream::iter(views.into_iter().map(Ok));
        if hangs {
            use futures::StreamExt as _;
            return Ok(Response::new(Box::pin(sent.chain(stream::pending()))));
        }
        Ok(Response::new(Box::pin(sent)))
    }
}
