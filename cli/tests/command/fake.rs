//! A coordinator that keeps objects in memory and fails on request.
//!
//! Invariant: tests wait for what was written or called, never for time.

mod cluster;
mod coordinators;
mod drains;
mod holds;
mod logs;
mod replicas;
mod tokens;
mod updates;

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{Stream, stream};
use proto::{
    model::{FieldSelector, Kind, LabelSelector},
    wire::{
        self,
        audit_server::AuditServer,
        cluster_server::ClusterServer,
        controllers_server::{Controllers, ControllersServer},
        coordinators_server::CoordinatorsServer,
        drains_server::DrainsServer,
        etcd_server::EtcdServer,
        holds_server::HoldsServer,
        logs_server::LogsServer,
        nodes_server::{Nodes, NodesServer},
        replicas_server::ReplicasServer,
        resources_server::{Resources, ResourcesServer},
        settings_server::SettingsServer,
        tokens_server::TokensServer,
        updates_server::UpdatesServer,
        watch_event::Type,
    },
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Request, Response, Status};

pub use self::replicas::{member, problem, replica, three};
pub use self::{
    drains::{NOW_MS, draining, ended},
    updates::{over, updating},
};
pub use crate::running::{Command, Done, Sink, wharf, within};

/// 2026-01-31T12:00:00Z.
pub const NOW: i64 = 1_769_860_800;

#[derive(Default)]
pub struct State {
    objects: BTreeMap<(Kind, String, String), Value>,
    pub revision: u64,
    history: Vec<(u64, Type, Value)>,
    /// Watches from before this revision are refused.
    pub oldest: u64,
    /// The next calls fail so.
    pub failures: VecDeque<Status>,
    /// Every call never answers.
    pub silent: bool,
    /// So many lists find no coordinator.
    pub lost_lists: u32,
    /// A delete only marks the object.
    pub slow_delete: bool,
    /// So many times someone else changes an object right before it is replaced or patched.
    pub races: u32,
    /// Method and what identifies the request.
    pub calls: Vec<String>,
    pub warning: Option<String>,
    /// Reasons that calls came with.
    pub reasons: Vec<String>,
    pub settings: BTreeMap<String, String>,
    pub freeze: Option<wire::Freeze>,
    /// The newest first.
    pub audit: Vec<wire::AuditEntry>,
    /// The one that answers is a standby.
    pub standby: bool,
    /// What containers wrote, by `pod/container`.
    pub logs: BTreeMap<String, Vec<Wrote>>,
    /// The readings that come next break after so many chunks.
    pub log_breaks: VecDeque<usize>,
    /// How the drain stood, from first to last.
    pub drain_views: Vec<wire::DrainView>,
    /// What a dry run of a drain says.
    pub drain_plan: Option<wire::DrainView>,
    /// A drain has begun.
    pub drained_before: bool,
    /// Of the update of web, one after the other; none: it is over at once.
    pub update_views: Vec<wire::UpdateView>,
    /// The update is one that was there.
    pub updated_before: bool,
    /// There is none to be steered.
    pub no_update: bool,
    /// The next backups: 0 whole, 1 with a changed byte, 2 cut short.
    pub spoil_backup: usize,
    /// What a restore found; none: nothing was restored.
    pub restore: wire::ShowRestoreReply,
    pub orphans: Vec<wire::Orphan>,
    /// Passphrases that backups were asked for with.
    pub passphrases: Vec<String>,
    /// How the coordinators are; none: one on SQLite.
    pub replicas: Option<wire::ReplicasStatusReply>,
    /// It is one release older: it knows nothing of replicas.
    pub older: bool,
    /// What a defragmentation finds.
    pub defragmented: Vec<wire::defrag_reply::Done>,
    uids: u64,
}

#[derive(Clone)]
pub struct Fake {
    state: Arc<Mutex<State>>,
    /// (changes, breaks of all watches).
    tick: watch::Sender<(u64, u64)>,
}

impl Fake {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            tick: watch::Sender::new((0, 0)),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// Serves on a port of its own.
    pub async fn serve(&self) -> Server {
        self.serve_at("127.0.0.1:0").await
    }

    /// Serves where a server was before.
    pub async fn serve_at(&self, address: &str) -> Server {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        // Connections of the one before may still linger.
        socket.set_reuseaddr(true).expect("set");
        socket.bind(address.parse().expect("an address")).expect("bind");
        let listener = socket.listen(64).expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let fake = self.clone();
        let reasons = tonic::service::InterceptorLayer::new(move |request: Request<()>| {
            let found = request.metadata().get(proto::reason::HEADER);
            let found = found.map(|v| v.to_str().expect("ASCII").to_owned());
            fake.state().reasons.extend(found);
            Ok(request)
        });
        let service = tonic::transport::Server::builder()
            .layer(reasons)
            .add_service(SettingsServer::new(self.clone()))
            .add_service(AuditServer::new(self.clone()))
            .add_service(ResourcesServer::new(self.clone()))
            .add_service(ControllersServer::new(self.clone()))
            .add_service(NodesServer::new(self.clone()))
            .add_service(LogsServer::new(self.clone()))
            .add_service(HoldsServer::new(self.clone()))
            .add_service(DrainsServer::new(self.clone()))
            .add_service(UpdatesServer::new(self.clone()))
            .add_service(TokensServer::new(self.clone()))
            .add_service(CoordinatorsServer::new(self.clone()))
            .add_service(ClusterServer::new(self.clone()))
            .add_service(ReplicasServer::new(self.clone()))
            .add_service(EtcdServer::new(self.clone()))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
        let task = tokio::spawn(async move {
            let _ = service.await;
        });
        Server { address, task }
    }

    /// Stores an object, new or changed.
    pub fn put(&self, kind: Kind, mut value: Value) {
        let mut state = self.state();
        state.revision += 1;
        let revision = state.revision;
        value["apiVersion"] = json!(kind.api_version());
        value["kind"] = json!(kind.name());
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (kind, text("namespace"), text("name"));
        let known = state.objects.get(&key).map(|o| o["metadata"]["uid"].clone());
        let event = if known.is_some() { Type::Modified } else { Type::Added };
        value["metadata"]["uid"] = known.unwrap_or_else(|| {
            state.uids += 1;
            json!(format!("uid-{}", state.uids))
        });
        value["metadata"]["resourceVersion"] = json!(revision.to_string());
        value["metadata"]["generation"] = json!(revision);
        state.objects.insert(key, value.clone());
        state.history.push((revision, event, value));
        drop(state);
        self.tick.send_modify(|t| t.0 += 1);
    }

    pub fn remove(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let mut state = self.state();
        let value = state.objects.remove(&(kind, namespace.to_owned(), name.to_owned()))?;
        state.revision += 1;
        let revision = state.revision;
        state.history.push((revision, Type::Deleted, value.clone()));
        drop(state);
        self.tick.send_modify(|t| t.0 += 1);
        Some(value)
    }

    /// Puts another object of the same name in an object's place, at once.
    pub fn succeed(&self, kind: Kind, namespace: &str, name: &str) {
        let value = self.remove(kind, namespace, name).expect("it is there");
        self.put(kind, value);
    }

    /// The object as it is now.
    pub fn object(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let state = self.state();
        state
            .objects
            .get(&(kind, namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// Someone else changes the object, if so told.
    fn race(&self, kind: Kind, namespace: &str, name: &str) {
        if self.state().races == 0 {
            return;
        }
        self.state().races -= 1;
        if let Some(mut value) = self.object(kind, namespace, name) {
            let races = self.state().races;
            value["metadata"]["labels"]["race"] = json!(races.to_string());
            self.put(kind, value);
        }
    }

    /// The decision that replace and patch share: `wanted` in the place of the object.
    fn overwrite(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        wanted: impl FnOnce(&Value) -> Value,
        dry_run: bool,
    ) -> Result<Response<wire::Object>, Status> {
        self.race(kind, namespace, name);
        let old = self
            .object(kind, namespace, name)
            .ok_or_else(|| not_found(kind, name))?;
        let mut new = wanted(&old);
        for field in ["resourceVersion", "uid"] {
            let asked = new["metadata"][field].as_str().unwrap_or_default();
            let found = old["metadata"][field].as_str().unwrap_or_default();
            if !asked.is_empty() && asked != found {
                return Err(Status::aborted(format!(
                    "{} {name:?}: metadata.{field}: is {found}, not {asked}; look and try again",
                    kind.plural()
                )));
            }
        }
        for field in ["uid", "resourceVersion", "generation", "creationTimestamp", "namespace"] {
            if let Some(value) = old["metadata"].get(field) {
                new["metadata"][field] = value.clone();
            }
        }
        new["status"] = old["status"].clone();
        if new["status"].is_null() {
            new.as_object_mut().map(|map| map.shift_remove("status"));
        }
        (new["apiVersion"], new["kind"]) = (old["apiVersion"].clone(), old["kind"].clone());
        proto::model::parse::object_value(kind, new.clone())
            .map_err(|e| Status::invalid_argument(format!("{} {name:?} is invalid: {e}", kind.singular())))?;
        if new != old && !dry_run {
            self.put(kind, new);
            new = self.object(kind, namespace, name).expect("just stored");
        }
        let mut reply = wire_object(&new);
        reply.warnings.extend(self.state().warning.clone());
        Ok(Response::new(reply))
    }

    /// Ends every open watch as a restart would.
    pub fn break_watches(&self) {
        self.tick.send_modify(|t| t.1 += 1);
    }

    /// Completes once `done` holds.
    pub async fn until(&self, done: impl Fn(&State) -> bool) {
        let mut changes = self.tick.subscribe();
        within(async {
            while !done(&self.state()) {
                changes.changed().await.expect("the sender is ours");
            }
        })
        .await;
    }

    /// Notes a call; fails or is silent if so told.
    pub async fn begin(&self, call: String) -> Result<(), Status> {
        let (failure, silent) = {
            let mut state = self.state();
            state.calls.push(call);
            (state.failures.pop_front(), state.silent)
        };
        self.tick.send_modify(|t| t.0 += 1);
        if silent {
            std::future::pending::<()>().await;
        }
        failure.map_or(Ok(()), Err)
    }
}

pub struct Server {
    pub address: String,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn wire_object(value: &Value) -> wire::Object {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    wire::Object {
        kind: value["kind"].as_str().unwrap_or_default().to_owned(),
        api_version: value["apiVersion"].as_str().unwrap_or_default().to_owned(),
        namespace: text("namespace"),
        name: text("name"),
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        json: value.to_string().into_bytes(),
        warnings: Vec::new(),
    }
}

fn kind(text: &str) -> Result<Kind, Status> {
    Kind::parse(text).ok_or_else(|| Status::invalid_argument(format!("unknown kind {text:?}")))
}

fn selects(request: &wire::ListRequest, value: &Value) -> Result<bool, Status> {
    let bad = |e: proto::model::SelectorError| Status::invalid_argument(e.to_string());
    let labels = LabelSelector::parse(&request.label_selector).map_err(bad)?;
    let fields = [
        "metadata.name",
        "spec.nodeName",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.uid",
    ];
    let fields = FieldSelector::parse(&request.field_selector, &fields).map_err(bad)?;
    let meta = &value["metadata"];
    let of: BTreeMap<String, String> = meta
        .get("labels")
        .and_then(|l| serde_json::from_value(l.clone()).ok())
        .unwrap_or_default();
    let get = |path: &str| {
        let pointer = format!("/{}", path.replace('.', "/"));
        value.pointer(&pointer).and_then(Value::as_str).unwrap_or_default()
    };
    Ok(value["kind"] == kind(&request.kind)?.name()
        && (request.namespace.is_empty() || meta["namespace"] == *request.namespace)
        && labels.matches(&of)
        && fields.matches(get))
}

/// RFC 7386.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|map| map.shift_remove(key));
        } else {
            merge_patch(&mut target[key], value);
        }
    }
}

fn not_found(kind: Kind, name: &str) -> Status {
    Status::not_found(format!("{} {name:?} not found", kind.plural()))
}

#[tonic::async_trait]
impl Resources for Fake {
    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::Object>, Status> {
        let r = request.into_inner();
        self.begin(format!("get {} {}", r.kind, r.name)).await?;
        let kind = kind(&r.kind)?;
        let state = self.state();
        let found = state.objects.get(&(kind, r.namespace, r.name.clone()));
        found
            .map(|v| Response::new(wire_object(v)))
            .ok_or_else(|| not_found(kind, &r.name))
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Result<Response<wire::ListReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("list {}", r.kind)).await?;
        let mut state = self.state();
        if state.lost_lists > 0 {
            state.lost_lists -= 1;
            return Err(Status::unavailable("starting"));
        }
        let mut items = Vec::new();
        for value in state.objects.values() {
            if selects(&r, value)? {
                items.push(wire_object(value));
            }
        }
        Ok(Response::new(wire::ListReply {
            items,
            resource_version: state.revision,
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<wire::ListRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let r = request.into_inner();
        self.begin(format!("watch {} {}", r.kind, r.resource_version)).await?;
        if r.resource_version < self.state().oldest {
            return Err(Status::out_of_range("the revision is no longer kept"));
        }
        let tick = self.tick.subscribe();
        let breaks = tick.borrow().1;
        let start = (self.clone(), tick, r.resource_version, Some(r));
        let events = stream::unfold(start, move |(fake, mut tick, at, request)| async move {
            let request = request?;
            loop {
                if tick.borrow_and_update().1 != breaks {
                    let status = Status::unavailable("this coordinator is going away");
                    return Some((Err(status), (fake, tick, at, None)));
                }
                let next = {
                    let state = fake.state();
                    let mut later = state.history.iter().filter(|(revision, ..)| *revision > at);
                    later.find(|(.., v)| selects(&request, v).unwrap_or(false)).cloned()
                };
                if let Some((revision, kind, value)) = next {
                    let event = wire::WatchEvent {
                        r#type: kind.into(),
                        object: Some(wire_object(&value)),
                        resource_version: revision,
                    };
                    return Some((Ok(event), (fake, tick, revision, Some(request))));
                }
                tick.changed().await.ok()?;
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn create(&self, request: Request<wire::CreateRequest>) -> Result<Response<wire::Object>, Status> {
        let r = request.into_inner();
        self.begin(format!("create {} {}", r.kind, r.request_id)).await?;
        let kind = kind(&r.kind)?;
        let mut value: Value = serde_json::from_slice(&r.json).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if kind.namespaced() && value["metadata"]["namespace"].is_null() {
            value["metadata"]["namespace"] = json!(r.namespace);
        }
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (kind, text("namespace"), text("name"));
        if self.state().objects.contains_key(&key) {
            return Err(Status::already_exists(format!(
                "{} {:?} already exists",
                kind.plural(),
                key.2
            )));
        }
        let mut reply = value.clone();
        if !r.dry_run {
            self.put(kind, value);
            reply = self.state().objects[&key].clone();
        }
        let mut reply = wire_object(&reply);
        reply.warnings.extend(self.state().warning.clone());
        Ok(Response::new(reply))
    }

    async fn replace(&self, request: Request<wire::ReplaceRequest>) -> Result<Response<wire::Object>, Status> {
        let r = request.into_inner();
        let json = String::from_utf8_lossy(&r.json);
        self.begin(format!("replace {} {} {json}", r.kind, r.request_id))
            .await?;
        let kind = kind(&r.kind)?;
        let value: Value = serde_json::from_slice(&r.json).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.overwrite(kind, &r.namespace, &name, |_| value, r.dry_run)
    }

    async fn patch(&self, request: Request<wire::PatchRequest>) -> Result<Response<wire::Object>, Status> {
        let r = request.into_inner();
        let patch = String::from_utf8_lossy(&r.patch).into_owned();
        self.begin(format!("patch {} {} {patch}", r.kind, r.name)).await?;
        let kind = kind(&r.kind)?;
        let patch: Value = serde_json::from_str(&patch).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let wanted = |old: &Value| {
            let mut new = old.clone();
            if let Some(meta) = new["metadata"].as_object_mut() {
                // Only the patch's own is a precondition.
                meta.shift_remove("resourceVersion");
            }
            merge_patch(&mut new, &patch);
            new
        };
        self.overwrite(kind, &r.namespace, &r.name, wanted, r.dry_run)
    }

    async fn delete(&self, request: Request<wire::DeleteRequest>) -> Result<Response<wire::Object>, Status> {
        let r = request.into_inner();
        self.begin(format!(
            "delete {} {}/{} uid={:?} cascade={} grace={:?} {}",
            r.kind, r.namespace, r.name, r.uid, r.cascade, r.grace_seconds, r.request_id
        ))
        .await?;
        let kind = kind(&r.kind)?;
        let key = (kind, r.namespace.clone(), r.name.clone());
        let found = self.state().objects.get(&key).cloned();
        let value = found.ok_or_else(|| not_found(kind, &r.name))?;
        if !r.uid.is_empty() && value["metadata"]["uid"] != *r.uid {
            return Err(Status::aborted("the uid does not match"));
        }
        let slow = self.state().slow_delete;
        match (r.dry_run, slow) {
            (true, _) => {}
            (false, false) => drop(self.remove(kind, &r.namespace, &r.name)),
            (false, true) => {
                let mut marked = value.clone();
                marked["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:30Z");
                self.put(kind, marked);
            }
        }
        Ok(Response::new(wire_object(&value)))
    }
}

#[tonic::async_trait]
impl Controllers for Fake {
    async fn scale(&self, request: Request<wire::ScaleRequest>) -> Result<Response<wire::ScaleReply>, Status> {
        let r = request.into_inner();
        self.begin(format!("scale {} to {}", r.name, r.replicas)).await?;
        let key = (Kind::ReplicationController, r.namespace, r.name.clone());
        let found = self.state().objects.get(&key).cloned();
        let mut value = found.ok_or_else(|| not_found(key.0, &r.name))?;
        let now = value["spec"]["replicas"].as_i64().unwrap_or_default();
        if let Some(expected) = r.current_replicas.filter(|c| i64::from(*c) != now) {
            return Err(Status::aborted(format!(
                "replicationcontrollers {:?}: spec.replicas: is {now}, not {expected}",
                r.name
            )));
        }
        value["spec"]["replicas"] = json!(r.replicas);
        if !r.dry_run {
            self.put(key.0, value);
        }
        Ok(Response::new(wire::ScaleReply {
            warnings: self.state().warning.clone().into_iter().collect(),
            ..wire::ScaleReply::default()
        }))
    }
}

impl Fake {
    /// A node in quarantine, or a deleted one, has `marked` set; acting on it once takes the mark away.
    async fn act(&self, verb: &str, request: wire::NodeRequest) -> Result<Response<wire::NodeReply>, Status> {
        self.begin(format!("{verb} {} {}", request.name, request.request_id))
            .await?;
        let key = (Kind::Node, String::new(), request.name.clone());
        let found = self.state().objects.get(&key).cloned();
        let mut value = found.ok_or_else(|| not_found(key.0, &request.name))?;
        let changed = value["marked"] == true;
        if changed && !request.dry_run {
            value["marked"] = json!(false);
            self.put(key.0, value);
        }
        Ok(Response::new(wire::NodeReply { changed }))
    }
}

#[tonic::async_trait]
impl Nodes for Fake {
    async fn readmit(&self, request: Request<wire::NodeRequest>) -> Result<Response<wire::NodeReply>, Status> {
        self.act("readmit", request.into_inner()).await
    }

    async fn forget(&self, request: Request<wire::NodeRequest>) -> Result<Response<wire::NodeReply>, Status> {
        self.act("forget", request.into_inner()).await
    }

    async fn confirm_off(&self, request: Request<wire::NodeRequest>) -> Result<Response<wire::NodeReply>, Status> {
        self.act("confirm-off", request.into_inner()).await
    }
}

/// One line, or the end of the container.
#[derive(Clone)]
pub enum Wrote {
    /// Second of 2026-01-31T12:00, and text.
    Line(u32, String),
    End,
}

impl Fake {
    pub fn write(&self, log: &str, lines: &[Wrote]) {
        self.state()
            .logs
            .entry(log.to_owned())
            .or_default()
            .extend(lines.iter().cloned());
        self.tick.send_modify(|t| t.0 += 1);
    }

    /// The next message of a reading that has taken `at` lines.
    fn next_chunk(&self, r: &wire::LogsRequest, at: usize) -> Option<Option<wire::LogsChunk>> {
        let state = self.state();
        let key = format!("{}/{}", r.pod, r.container);
        match state.logs.get(&key).and_then(|log| log.get(at)) {
            Some(Wrote::Line(second, text)) => {
                let time = format!("2026-01-31T12:00:{second:02}.000000000Z ");
                let early = (NOW as u64 + u64::from(*second)) * 1000 < r.since_ms;
                let line = if early { String::new() } else { time + text };
                Some(Some(wire::LogsChunk {
                    data: line.into_bytes(),
                    ..wire::LogsChunk::default()
                }))
            }
            Some(Wrote::End) => Some(None),
            None if r.follow => None,
            None => Some(None),
        }
    }
}

/// A pod that runs on `node`.
pub fn pod(namespace: &str, name: &str, app: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app},
                     "creationTimestamp": "2026-01-31T11:50:00Z"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "web:1"}]},
        "status": {"phase": "Running", "containerStatuses":
            [{"name": "c", "image": "web:1", "state": {"running": {}}, "ready": true, "restartCount": 0}]}
    })
}

pub fn rc(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-31T11:50:00Z"},
        "spec": {"replicas": replicas, "selector": {"app": name}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}},
        "status": {"replicas": replicas, "readyReplicas": replicas,
            "conditions": [{"type": "Ready", "status": "True", "reason": "AllReady"}]}
    })
}
