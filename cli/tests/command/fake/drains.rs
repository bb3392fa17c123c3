//! The fake coordinator's drains: views that a test wrote, sent one after the other. Without any, a drain is over at
//! once.
//!
//! Invariant: a stream ends with the first view that has ended, and with every break.

use std::pin::Pin;

use futures::{Stream, stream};
use proto::{
    model::Kind,
    wire::{self, DrainView, drains_server::Drains},
};
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{Fake, NOW, not_found};

/// Milliseconds of [`NOW`].
pub const NOW_MS: u64 = NOW.unsigned_abs() * 1000;

/// A drain of n2 that goes on, `ms` after it began.
pub fn draining(ms: u64) -> DrainView {
    DrainView {
        node: "n2".into(),
        id: "d1".into(),
        phase: "Draining".into(),
        by: "user/admin".into(),
        since_ms: NOW_MS,
        deadline_ms: NOW_MS + 3_600_000,
        on_deadline: "block".into(),
        total: 2,
        left: 2,
        now_ms: NOW_MS + ms,
        ..DrainView::default()
    }
}

pub fn ended(phase: &str, ms: u64) -> DrainView {
    DrainView {
        phase: phase.into(),
        left: 0,
        ended_ms: NOW_MS + ms,
        ..draining(ms)
    }
}

impl Fake {
    /// One more view of the drain; who watches sees it.
    pub fn view(&self, view: DrainView) {
        self.state().drain_views.push(view);
        self.tick.send_modify(|t| t.0 += 1);
    }
}

#[tonic::async_trait]
impl Drains for Fake {
    async fn drain(&self, request: Request<wire::DrainRequest>) -> Result<Response<wire::DrainReply>, Status> {
        let r = request.into_inner();
        let words = [&r.reason, &r.on_deadline, &r.local_data, &r.daemons].map(String::as_str);
        let flags = [
            (r.delete_unmanaged, "delete-unmanaged"),
            (r.allow_downtime, "allow-downtime"),
            (r.dry_run, "dry-run"),
        ];
        let flags = flags.into_iter().filter(|(on, _)| *on).map(|(_, word)| word);
        let all: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).chain(flags).collect();
        self.begin(format!("drain {} {} {}", r.name, r.deadline_ms, all.join(" ")))
            .await?;
        self.object(Kind::Node, "", &r.name)
            .ok_or_else(|| not_found(Kind::Node, &r.name))?;
        let mut state = self.state();
        if r.dry_run {
            return Ok(Response::new(wire::DrainReply {
                began: true,
                view: state.drain_plan.clone(),
            }));
        }
        let began = !std::mem::replace(&mut state.drained_before, true);
        let first = state.drain_views.first().cloned().unwrap_or_else(|| draining(0));
        Ok(Response::new(wire::DrainReply {
            began,
            view: Some(first),
        }))
    }

    async fn cancel(
        &self,
        request: Request<wire::CancelDrainRequest>,
    ) -> Result<Response<wire::CancelDrainReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("cancel-drain {}", r.name)).await?;
        let node = self
            .object(Kind::Node, "", &r.name)
            .ok_or_else(|| not_found(Kind::Node, &r.name))?;
        let holds = node["status"]["holds"].as_array().cloned().unwrap_or_default();
        let changed = holds.iter().any(|h| h["kind"] == "drain");
        let rest: Vec<_> = holds.into_iter().filter(|h| h["kind"] != "drain").collect();
        let still = rest.iter().map(|h| {
            let text = |field: &str| h[field].as_str().unwrap_or_default().replace("user/", "");
            format!("{} by {}", text("kind"), text("owner"))
        });
        let still_held_by = still.collect();
        if changed && !r.dry_run {
            let mut node = node;
            node["status"]["holds"] = json!(rest);
            self.put(Kind::Node, node);
        }
        Ok(Response::new(wire::CancelDrainReply { changed, still_held_by }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<DrainView, Status>> + Send>>;

    async fn watch(&self, request: Request<wire::WatchDrainRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let r = request.into_inner();
        self.begin(format!("watch-drain {}", r.name)).await?;
        if !self.state().drained_before && self.state().drain_views.is_empty() {
            return Err(Status::not_found(format!("nodes {:?}: it has no drain", r.name)));
        }
        let tick = self.tick.subscribe();
        let breaks = tick.borrow().1;
        let newest = self.state().drain_views.len().saturating_sub(1);
        let views = stream::unfold(Some((self.clone(), tick, newest)), move |state| async move {
            let (fake, mut tick, at) = state?;
            loop {
                if tick.borrow_and_update().1 != breaks {
                    return Some((Err(Status::unavailable("this coordinator is going away")), None));
                }
                let next = {
                    let state = fake.state();
                    match state.drain_views.get(at) {
                        None if state.drain_views.is_empty() => Some(ended("Drained", 4100)),
                        found => found.cloned(),
                    }
                };
                if let Some(view) = next {
                    let over = view.ended_ms > 0;
                    return Some((Ok(view), (!over).then_some((fake, tick, at + 1))));
                }
                tick.changed().await.ok()?;
            }
        });
        Ok(Response::new(Box::pin(views)))
    }
}
