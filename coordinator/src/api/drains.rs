//! Drain, Cancel, Watch: a node is emptied, and is given back. Mounted by the listener; what leaves when is
//! `plan::drain`'s.
//!
//! Invariant: a drain and its hold begin in one commit, and end in one; once it is acknowledged, no pod comes to the
//! node any more. What is under way is never changed by a second request.

use std::{fmt::Write as _, sync::Arc};

use async_trait::async_trait;
use proto::{
    model::{HoldKind, Kind, NodeHold, Object, Time},
    reason,
    wire::{
        CancelDrainReply, CancelDrainRequest, DrainReply, DrainRequest, DrainView, WatchDrainRequest,
        drains_server::Drains,
    },
};
use serde_json::{Value, json};
use tonic::{Extensions, Request, Response, Status};

use super::{
    Api, convert, drain_watch,
    errors::ApiError,
    held,
    view_watch::ViewStream,
    write::{Decision, Outcome, Ticket, audited, now_ms},
};
use crate::{
    ca::authorizer::Attributes,
    plan::drain::simulate::simulate,
    store::{Change, Expect, keys},
    world::{
        NodeState, World,
        drains::{DrainEnd, DrainOptions, DrainOutcome, DrainRecord, OnDeadline},
        record::encode,
        settings::DRAIN_DEADLINE,
    },
};

/// Longest reason, characters.
const MAX_REASON: usize = 256;

/// Latest deadline, ms from now: as long as any time that can be set.
const MAX_DEADLINE_MS: u64 = 400 * 24 * 3_600_000;

pub struct DrainService(pub(super) Arc<Api>);

#[async_trait]
impl Drains for DrainService {
    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let r = request.get_ref();
        let caller = self.admit(request.extensions(), "update", &r.name)?;
        let asked = Asked::new(r)?;
        let ticket = Ticket::new(caller, "drain", r.dry_run, &r.request_id, r)?
            .because(request.metadata())?
            .with_reason(&asked.reason);
        if r.dry_run {
            return Ok(Response::new(self.simulated(&r.name, &asked)?));
        }
        let _held_back = self.0.held_back(true).await;
        let decide = |world: &World| begin(world, &r.name, &asked, &ticket.caller, Time::now());
        let began = match self.0.write(&ticket, decide).await? {
            Outcome::Done(_) | Outcome::Repeat(_) => true,
            Outcome::Unchanged(_) => false,
        };
        let view = self.0.hub.read(|w| drain_watch::view(w, &r.name, now_ms()));
        Ok(Response::new(DrainReply { began, view }))
    }

    async fn cancel(&self, request: Request<CancelDrainRequest>) -> Result<Response<CancelDrainReply>, Status> {
        let r = request.get_ref();
        let caller = self.admit(request.extensions(), "update", &r.name)?;
        let ticket = Ticket::new(caller, "cancel-drain", r.dry_run, &r.request_id, r)?.because(request.metadata())?;
        let decide = |world: &World| cancel(world, &r.name, Time::now());
        let (changed, object) = match self.0.write(&ticket, decide).await? {
            Outcome::Done(decision) => (true, Some(decision.object)),
            Outcome::Unchanged(decision) => (!decision.changes.is_empty(), Some(decision.object)),
            Outcome::Repeat(_) => (true, self.0.hub.read(|w| w.object(Kind::Node, "", &r.name))),
        };
        let Some(Object::Node(node)) = object else {
            return Err(ApiError::not_found(Kind::Node, &r.name).into());
        };
        let holds = node.status.unwrap_or_default().holds;
        Ok(Response::new(CancelDrainReply {
            changed,
            still_held_by: holds.iter().map(ToString::to_string).collect(),
        }))
    }

    type WatchStream = ViewStream<DrainView>;

    async fn watch(&self, request: Request<WatchDrainRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let name = &request.get_ref().name;
        self.admit(request.extensions(), "get", name)?;
        Ok(Response::new(self.0.watch_drain(name)?))
    }
}

impl DrainService {
    fn admit(&self, extensions: &Extensions, verb: &str, name: &str) -> Result<String, Status> {
        let action = Attributes {
            verb,
            resource: Kind::Node.plural(),
            subresource: "drain",
            name,
            ..Attributes::default()
        };
        self.0.admit(extensions, &action)
    }

    /// What a drain would do. Of a node that is being drained, or is empty, how that stands.
    fn simulated(&self, name: &str, asked: &Asked) -> Result<DrainReply, ApiError> {
        let (now, ms) = (Time::now(), now_ms());
        self.0.hub.read(|world| {
            let state = node(world, name)?;
            let began = asked.present(name, state)?.is_none();
            let view = if began {
                let options = asked.options(world, now);
                // The same question has the same answer.
                let report = simulate(world, name, &options, now, 0);
                let mut view = DrainView {
                    node: name.to_owned(),
                    reason: asked.reason.clone(),
                    deadline_ms: convert::ms(options.deadline),
                    on_deadline: options.on_deadline.as_str().to_owned(),
                    total: to_leave(world, name, &options),
                    unmanaged: drain_watch::unmanaged(state),
                    now_ms: ms,
                    ..DrainView::default()
                };
                drain_watch::fill(&mut view, &report);
                Some(view)
            } else {
                drain_watch::view(world, name, ms)
            };
            Ok(DrainReply { began, view })
        })
    }
}

/// A Drain, read and checked as far as it can be without the world. What was left out is none: for a drain under way
/// any value of it will do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    reason: String,
    deadline_ms: Option<u64>,
    on_deadline: Option<OnDeadline>,
    discard_local_data: Option<bool>,
    stop_daemons: Option<bool>,
    delete_unmanaged: bool,
    allow_downtime: bool,
}

impl Asked {
    /// Errors: INVALID_ARGUMENT.
    fn new(r: &DrainRequest) -> Result<Self, ApiError> {
        let reason = reason::check(&r.reason).map_err(|what| bad("reason", &what))?;
        let length = reason.chars().count();
        if length > MAX_REASON {
            let what = format!("must have at most {MAX_REASON} characters, has {length}");
            return Err(bad("reason", &what));
        }
        if r.deadline_ms > MAX_DEADLINE_MS {
            return Err(bad(
                "deadline_ms",
                "must be at most 400 days; leave it out for the setting drain-deadline",
            ));
        }
        let either = |field, given: &str, no: &str, yes: &str| match given {
            "" => Ok(None),
            given if given == no => Ok(Some(false)),
            given if given == yes => Ok(Some(true)),
            given => Err(bad(field, &format!("must be {no} or {yes}, is {given:?}"))),
        };
        Ok(Self {
            reason: reason.to_owned(),
            deadline_ms: (r.deadline_ms > 0).then_some(r.deadline_ms),
            on_deadline: match r.on_deadline.as_str() {
                "" => None,
                "block" => Some(OnDeadline::Block),
                "abort" => Some(OnDeadline::Abort),
                "force" => Some(OnDeadline::Force),
                given => {
                    let what = format!("must be block, abort or force, is {given:?}");
                    return Err(bad("on_deadline", &what));
                }
            },
            discard_local_data: either("local_data", &r.local_data, "block", "discard")?,
            stop_daemons: either("daemons", &r.daemons, "keep", "stop")?,
            delete_unmanaged: r.delete_unmanaged,
            allow_downtime: r.allow_downtime,
        })
    }

    /// Of a drain that begins now.
    fn options(&self, world: &World, now: Time) -> DrainOptions {
        let ms = self.deadline_ms.unwrap_or_else(|| world.settings.get(&DRAIN_DEADLINE));
        DrainOptions {
            deadline: Time(now.0.saturating_add(seconds(ms))),
            on_deadline: self.on_deadline.unwrap_or_default(),
            discard_local_data: self.discard_local_data.unwrap_or_default(),
            stop_daemons: self.stop_daemons.unwrap_or_default(),
            delete_unmanaged: self.delete_unmanaged,
            allow_downtime: self.allow_downtime,
        }
    }

    /// The drain that is the answer already: it is under way, or it has left the node empty. Errors:
    /// FAILED_PRECONDITION (one under way differs from what is asked).
    fn present<'w>(&self, name: &str, node: &'w NodeState) -> Result<Option<&'w DrainRecord>, ApiError> {
        let Some(drain) = node.emptied().or_else(|| node.draining()) else {
            return Ok(None);
        };
        if drain.ended.is_some() {
            // Its daemons run on: to stop them too is another drain.
            let more = self.stop_daemons == Some(true) && !drain.options.stop_daemons;
            return Ok((!more).then_some(drain));
        }
        let other = self.differences(drain);
        if other.is_empty() {
            return Ok(Some(drain));
        }
        let what = format!(
            "it is being drained by {} with {}; watch that one: wharf drain {name}, or end it first: wharf drain {name} --cancel",
            drain.by,
            other.join(" and ")
        );
        Err(ApiError::in_use(Kind::Node, name, what))
    }

    /// What was asked for and is otherwise in this drain, in its words.
    fn differences(&self, drain: &DrainRecord) -> Vec<String> {
        let options = &drain.options;
        let mut other = Vec::new();
        let after = options.deadline.0.saturating_sub(drain.since.0);
        if self.deadline_ms.is_some_and(|ms| seconds(ms) != after) {
            other.push(format!("its deadline at {}", options.deadline));
        }
        if self.on_deadline.is_some_and(|on| on != options.on_deadline) {
            other.push(format!("--on-deadline {}", options.on_deadline.as_str()));
        }
        let either = |asked: Option<bool>, is: bool, flag: &str, no: &str, yes: &str| {
            let differs = asked.is_some_and(|asked| asked != is);
            differs.then(|| format!("{flag} {}", if is { yes } else { no }))
        };
        other.extend(either(
            self.discard_local_data,
            options.discard_local_data,
            "--local-data",
            "block",
            "discard",
        ));
        other.extend(either(
            self.stop_daemons,
            options.stop_daemons,
            "--daemons",
            "keep",
            "stop",
        ));
        for (asked, is, flag) in [
            (self.delete_unmanaged, options.delete_unmanaged, "--delete-unmanaged"),
            (self.allow_downtime, options.allow_downtime, "--allow-downtime"),
        ] {
            if asked && !is {
                other.push(format!("no {flag}"));
            }
        }
        other
    }
}

/// A span of stored times, which have whole seconds: none ends too early.
fn seconds(ms: u64) -> i64 {
    i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX)
}

fn node<'w>(world: &'w World, name: &str) -> Result<&'w NodeState, ApiError> {
    let found = world.nodes.get(name);
    found.ok_or_else(|| ApiError::not_found(Kind::Node, name))
}

/// Pods that leave in a drain with these options.
fn to_leave(world: &World, name: &str, options: &DrainOptions) -> u32 {
    let pods = world.pods_on(name);
    let leaving = pods.filter(|(_, pod)| options.stop_daemons || !pod.is_daemon());
    u32::try_from(leaving.count()).unwrap_or(u32::MAX)
}

fn begin(world: &World, name: &str, asked: &Asked, caller: &str, now: Time) -> Result<Decision, ApiError> {
    let state = node(world, name)?;
    let before = world
        .object(Kind::Node, "", name)
        .ok_or_else(|| ApiError::not_found(Kind::Node, name))?;
    if asked.present(name, state)?.is_some() {
        return Ok(Decision::new(Vec::new(), before));
    }
    let options = asked.options(world, now);
    let record = DrainRecord {
        id: uuid::Uuid::new_v4().to_string(),
        by: caller.to_owned(),
        reason: asked.reason.clone(),
        since: now,
        total: to_leave(world, name, &options),
        options,
        forced: None,
        ended: None,
    };
    let hold = NodeHold {
        kind: HoldKind::Drain,
        owner: caller.to_owned(),
        reason: asked.reason.clone(),
        since: now,
        expires: None,
    };
    let mut next = held::present(state);
    // A node has one drain, and so one hold of this kind.
    next.retain(|_, hold| hold.kind != HoldKind::Drain);
    next.insert(hold.id(), hold);
    let mut detail = format!(
        "{} to leave by {}, then {}",
        pods(record.total),
        record.options.deadline,
        record.options.on_deadline.as_str()
    );
    for (given, words) in [
        (record.options.discard_local_data, "local data discarded"),
        (record.options.stop_daemons, "daemons stopped"),
        (record.options.delete_unmanaged, "unmanaged pods deleted"),
        (record.options.allow_downtime, "downtime allowed"),
    ] {
        if given {
            let _ = write!(detail, ", {words}");
        }
    }
    decided(state, before, Some(&record), &next, detail)
}

fn cancel(world: &World, name: &str, now: Time) -> Result<Decision, ApiError> {
    let state = node(world, name)?;
    let before = world
        .object(Kind::Node, "", name)
        .ok_or_else(|| ApiError::not_found(Kind::Node, name))?;
    let mut next = held::present(state);
    next.retain(|_, hold| hold.kind != HoldKind::Drain);
    // One that has ended stays as it ended: only its hold goes.
    let ended = state.draining().map(|drain| DrainRecord {
        ended: Some(DrainEnd {
            at: now,
            how: DrainOutcome::Cancelled,
        }),
        ..drain.clone()
    });
    let detail = match (&ended, state.emptied()) {
        (Some(drain), _) => format!("the drain that {} began at {} ends", drain.by, drain.since),
        (None, Some(drain)) => format!("taken back after the drain that {} began at {}", drain.by, drain.since),
        (None, None) => String::new(),
    };
    decided(state, before, ended.as_ref(), &next, detail)
}

/// The write of the node's drain and of its holds.
fn decided(
    state: &NodeState,
    before: Object,
    drain: Option<&DrainRecord>,
    holds: &crate::world::record::HoldsRecord,
    detail: String,
) -> Result<Decision, ApiError> {
    let name = &state.node.metadata.name;
    let Object::Node(mut node) = before.clone() else {
        return Err(ApiError::not_found(Kind::Node, name));
    };
    node.status.get_or_insert_default().holds = holds.values().cloned().collect();
    node.spec.unschedulable = holds.values().any(|h| h.kind == HoldKind::Cordon);
    let after = Object::Node(node);
    let mut changes = held::changes(state, (*state.node).clone(), holds);
    if let Some(drain) = drain {
        let expect = state.drain.as_ref().map_or(Expect::Absent, |d| Expect::At(d.rv));
        changes.push(Change::put(keys::drain(name), expect, encode(drain)));
    }
    let old = state.drain.as_ref().map(|d| &*d.value);
    Ok(Decision {
        detail,
        before: Some(with_drain(&before, old)),
        after: Some(with_drain(&after, drain.or(old))),
        ..Decision::new(changes, after)
    })
}

/// What an audit record shows.
fn with_drain(object: &Object, drain: Option<&DrainRecord>) -> Value {
    let mut shown = audited(object);
    if let Some(drain) = drain {
        shown["drain"] = json!(drain);
    }
    shown
}

fn pods(count: u32) -> String {
    match count {
        1 => "1 pod".to_owned(),
        count => format!("{count} pods"),
    }
}

fn bad(field: &str, what: &str) -> ApiError {
    ApiError::BadRequest(format!("drain: {field}: {what}"))
}

#[cfg(test)]
#[path = "drains_tests.rs"]
mod tests;
