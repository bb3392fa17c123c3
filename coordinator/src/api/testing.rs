//! What the API's tests stand on: a store in memory with real compare-and-swap and watches, a hub over it, and
//! the services with an [`Access`] that allows all or nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use proto::{
    model::{Kind, NodeCondition, Time},
    wire::{
        self, CreateRequest, DeleteRequest, GetRequest, ListRequest, PatchRequest, ReplaceRequest, ScaleReply,
        ScaleRequest, controllers_server::Controllers, resources_server::Resources,
    },
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Code, Extensions, Request, Status};

use super::{
    Access, Api, Settings, controllers::ControllerService, default_namespace, resources::ResourceService,
    watch::WatchStream,
};
use crate::{
    ca::authorizer::Attributes,
    store::{
        Change, CommitError, Committed, Entry, Expect, Fence, ReadError, Rv, Snapshot, Span, Store, Update, Watch, keys,
    },
    world::{
        hub::Hub,
        record::{FactsRecord, OwnerRecord, PodRecord, StatusRecord, TemplateRecord, encode},
    },
};

#[derive(Default)]
struct State {
    revision: u64,
    entries: BTreeMap<String, (Rv, Bytes)>,
    history: Vec<Update>,
    watchers: Vec<mpsc::Sender<Vec<Update>>>,
    /// Commits that come just before the next ones of others.
    rivals: VecDeque<Vec<Change>>,
    /// Answers of the next commits.
    faults: VecDeque<CommitError>,
    scans: usize,
}

pub struct TestStore(Mutex<State>);

impl TestStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits `changes` right before the next commit, as a faster writer would.
    pub fn rival(&self, changes: Vec<Change>) {
        self.state().rivals.push_back(changes);
    }

    pub fn fail(&self, error: CommitError) {
        self.state().faults.push_back(error);
    }

    /// Values of all keys that begin so.
    pub fn values(&self, prefix: &str) -> Vec<Value> {
        let state = self.state();
        let found = state.entries.iter().filter(|(k, _)| k.starts_with(prefix));
        found
            .map(|(_, (_, v))| serde_json::from_slice(v).expect("JSON"))
            .collect()
    }

    /// How often a span was read.
    pub fn scans(&self) -> usize {
        self.state().scans
    }

    pub fn keys(&self) -> Vec<String> {
        self.state().entries.keys().cloned().collect()
    }
}

impl State {
    fn commit(&mut self, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let mut seen = BTreeSet::new();
        for change in &changes {
            if !seen.insert(&change.key) {
                return Err(CommitError::DuplicateKey(change.key.clone()));
            }
            let actual = self.entries.get(&change.key).map(|(rv, _)| *rv);
            let holds = match change.expect {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::At(rv) => actual == Some(rv),
            };
            if !holds {
                return Err(CommitError::Conflict {
                    key: change.key.clone(),
                    expected: change.expect,
                    actual,
                });
            }
        }
        self.revision += 1;
        let (mut rvs, mut updates) = (Vec::new(), Vec::new());
        for change in changes {
            let ordinal = u16::try_from(updates.len()).expect("few");
            let rv = Rv::new(self.revision, ordinal);
            rvs.push(rv);
            let update = match change.value {
                Some(value) => {
                    self.entries.insert(change.key.clone(), (rv, value.clone()));
                    Some(value)
                }
                None if self.entries.remove(&change.key).is_none() => continue,
                None => None,
            };
            updates.push(Update {
                rv,
                key: change.key,
                value: update,
            });
        }
        self.history.extend(updates.iter().cloned());
        self.watchers.retain(|w| w.try_send(updates.clone()).is_ok());
        Ok(Committed { rvs })
    }
}

#[async_trait]
impl Store for TestStore {
    async fn load(&self) -> Result<Snapshot, ReadError> {
        let state = self.state();
        let entries = state.entries.iter().map(|(key, (rv, value))| Entry {
            rv: *rv,
            key: key.clone(),
            value: value.clone(),
        });
        Ok(Snapshot {
            rv: Rv::new(state.revision, u16::MAX),
            entries: entries.collect(),
        })
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, ReadError> {
        let found = self.state().entries.get(key).cloned();
        Ok(found.map(|(rv, value)| Entry {
            rv,
            key: key.to_owned(),
            value,
        }))
    }

    async fn scan(&self, span: Span) -> Result<Vec<Entry>, ReadError> {
        let mut state = self.state();
        state.scans += 1;
        Ok(span.of(&state.entries))
    }

    async fn watch(&self, after: Rv) -> Result<Watch, ReadError> {
        let (sender, receiver) = mpsc::channel(1 << 16);
        let mut state = self.state();
        let past: Vec<_> = state.history.iter().filter(|u| u.rv > after).cloned().collect();
        sender.try_send(past).expect("room");
        state.watchers.push(sender);
        Ok(receiver)
    }

    async fn commit(&self, _: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let mut state = self.state();
        if let Some(fault) = state.faults.pop_front() {
            return Err(fault);
        }
        if let Some(rival) = state.rivals.pop_front() {
            state.commit(rival).expect("the rival is right");
        }
        state.commit(changes)
    }

    async fn take_term(&self, _: &str, _: &str) -> Result<Fence, CommitError> {
        Err(CommitError::Closed)
    }

    fn newest(&self) -> Rv {
        Rv::new(self.state().revision, u16::MAX)
    }
}

pub struct AllowAll;

/// Another caller than `user/admin`, as an extension of the request.
#[derive(Clone)]
pub struct As(pub &'static str);

impl Access for AllowAll {
    fn caller(&self, extensions: &Extensions) -> Result<String, Status> {
        Ok(extensions.get::<As>().map_or("user/admin", |a| a.0).into())
    }

    fn allow(&self, _: &Extensions, _: &Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// Knows the caller and allows nothing; the refusal says what was asked.
pub struct DenyAll;

impl Access for DenyAll {
    fn caller(&self, _: &Extensions) -> Result<String, Status> {
        Ok("user/guest".into())
    }

    fn allow(&self, _: &Extensions, action: &Attributes<'_>) -> Result<(), Status> {
        let Attributes {
            verb,
            resource,
            subresource,
            namespace,
            name,
        } = action;
        let asked = format!("{verb} {resource}/{subresource} {namespace}/{name}");
        Err(Status::permission_denied(asked))
    }
}

pub struct Stranger;

impl Access for Stranger {
    fn caller(&self, _: &Extensions) -> Result<String, Status> {
        Err(Status::unauthenticated("no certificate"))
    }

    fn allow(&self, _: &Extensions, _: &Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }
}

pub struct Bench {
    pub store: Arc<TestStore>,
    pub hub: Arc<Hub>,
    pub api: Arc<Api>,
    pub resources: ResourceService,
    controllers: ControllerService,
    _tasks: JoinSet<()>,
}

pub fn fence() -> Fence {
    Fence {
        incarnation: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
        term: 1,
        nonce: "n".into(),
    }
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(Arc::new(AllowAll), Settings::default()).await
    }

    pub async fn with(access: Arc<dyn Access>, settings: Settings) -> Self {
        let store = Arc::new(TestStore(Mutex::default()));
        store
            .state()
            .commit(vec![default_namespace(Time(1000))])
            .expect("empty before");
        let hub = Hub::load(store.clone()).await.expect("loads");
        hub.set_fence(Some(fence()));
        let mut tasks = JoinSet::new();
        let run = Arc::clone(&hub);
        tasks.spawn(async move {
            let _ = run.run().await;
        });
        let api = Api::new(Arc::clone(&hub), access, settings);
        Self {
            store,
            hub,
            resources: ResourceService(Arc::clone(&api)),
            controllers: ControllerService(Arc::clone(&api)),
            api,
            _tasks: tasks,
        }
    }

    pub async fn create(&self, request: CreateRequest) -> Result<wire::Object, Status> {
        let reply = self.resources.create(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn make(&self, kind: &str, manifest: &Value) -> wire::Object {
        self.create(creating(kind, manifest)).await.expect("created")
    }

    pub async fn replace(&self, request: ReplaceRequest) -> Result<wire::Object, Status> {
        let reply = self.resources.replace(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn patch(&self, request: PatchRequest) -> Result<wire::Object, Status> {
        let reply = self.resources.patch(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn delete(&self, request: DeleteRequest) -> Result<wire::Object, Status> {
        let reply = self.resources.delete(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn scale(&self, request: ScaleRequest) -> Result<ScaleReply, Status> {
        let reply = self.controllers.scale(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<wire::Object, Status> {
        let request = GetRequest {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        let reply = self.resources.get(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn list(&self, request: ListRequest) -> Result<wire::ListReply, Status> {
        let reply = self.resources.list(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    pub async fn watch(&self, request: ListRequest) -> Result<WatchStream, Status> {
        let reply = self.resources.watch(Request::new(request)).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Commits as another part of the coordinator would.
    pub async fn put(&self, changes: Vec<Change>) {
        self.hub.commit(changes).await.expect("committed");
    }

    pub async fn node(&self, name: &str, ready: bool) {
        let node = json!({"metadata": {"name": name, "uid": format!("uid-{name}")}});
        let condition = NodeCondition {
            kind: "Ready".into(),
            status: if ready {
                proto::model::ConditionStatus::True
            } else {
                proto::model::ConditionStatus::Unknown
            },
            reason: if ready { "AgentReady" } else { "Unreachable" }.into(),
            message: String::new(),
            last_transition_time: None,
            last_heartbeat_time: None,
        };
        self.put(vec![
            Change::put(keys::object(Kind::Node, "", name), Expect::Any, encode(&node)),
            Change::put(keys::node_ready(name), Expect::Any, encode(&condition)),
        ])
        .await;
    }

    /// What the node's agent says of where it is.
    pub async fn address(&self, node: &str, address: &str) {
        let status = json!({"addresses": [{"type": "InternalIP", "address": address}]});
        let facts = FactsRecord {
            status: serde_json::from_value(status).expect("a status"),
            ..FactsRecord::default()
        };
        self.put(vec![Change::put(keys::node_facts(node), Expect::Any, encode(&facts))])
            .await;
    }

    /// A pod as control would have placed it.
    pub async fn pod(&self, name: &str, node: &str, owner: Option<OwnerRecord>) {
        let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
        let containers = json!([{"name": "c", "image": "i:1", "ports": ports}]);
        let spec = json!({"containers": containers, "terminationGracePeriodSeconds": 7});
        let template = TemplateRecord {
            labels: [("app".to_owned(), "web".to_owned())].into(),
            spec: serde_json::from_value(spec).expect("a spec"),
            ..TemplateRecord::default()
        };
        let (hash, bytes) = template.encode();
        let record = PodRecord {
            uid: uuid::Uuid::new_v4().to_string(),
            template: hash.clone(),
            created: Time(2000),
            node: node.into(),
            owner,
            ..PodRecord::default()
        };
        self.put(vec![
            Change::put(keys::template(&hash), Expect::Any, bytes),
            Change::put(
                keys::object(Kind::Pod, "default", name),
                Expect::Absent,
                encode(&record),
            ),
        ])
        .await;
    }

    /// Changes a pod's record as control would.
    pub async fn change_pod(&self, name: &str, change: impl FnOnce(&mut PodRecord)) {
        let key = ("default".to_owned(), name.to_owned());
        let mut record = self.hub.read(|w| (*w.pods[&key].record).clone());
        change(&mut record);
        let at = keys::object(Kind::Pod, "default", name);
        self.put(vec![Change::put(at, Expect::Any, encode(&record))]).await;
    }

    pub async fn status(&self, name: &str, phase: proto::model::Phase, ready: bool) {
        let key = ("default".to_owned(), name.to_owned());
        let mut record = StatusRecord {
            uid: self.hub.read(|w| w.pods[&key].record.uid.clone()),
            ..StatusRecord::default()
        };
        record.status.phase = phase;
        let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }});
        record.status.conditions = vec![serde_json::from_value(condition).expect("a condition")];
        let at = keys::pod_status("default", name);
        self.put(vec![Change::put(at, Expect::Any, encode(&record))]).await;
    }
}

pub fn creating(kind: &str, manifest: &Value) -> CreateRequest {
    CreateRequest {
        kind: kind.into(),
        json: manifest.to_string().into_bytes(),
        ..CreateRequest::default()
    }
}

pub fn replacing(kind: &str, manifest: &Value) -> ReplaceRequest {
    ReplaceRequest {
        kind: kind.into(),
        json: manifest.to_string().into_bytes(),
        ..ReplaceRequest::default()
    }
}

pub fn patching(kind: &str, name: &str, patch: &Value) -> PatchRequest {
    PatchRequest {
        kind: kind.into(),
        name: name.into(),
        patch: patch.to_string().into_bytes(),
        ..PatchRequest::default()
    }
}

pub fn deleting(kind: &str, name: &str) -> DeleteRequest {
    DeleteRequest {
        kind: kind.into(),
        name: name.into(),
        ..DeleteRequest::default()
    }
}

pub fn listing(kind: &str, labels: &str, fields: &str) -> ListRequest {
    ListRequest {
        kind: kind.into(),
        label_selector: labels.into(),
        field_selector: fields.into(),
        ..ListRequest::default()
    }
}

pub fn rc(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": 2, "template": {
        "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}})
}

pub fn bare(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}})
}

pub fn value(object: &wire::Object) -> Value {
    serde_json::from_slice(&object.json).expect("JSON")
}

/// The manifest with `value` at the JSON pointer, whose parent must be there.
pub fn with(mut manifest: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    manifest.pointer_mut(parent).expect("there")[field] = value;
    manifest
}

/// Code and words of a refusal.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("refused");
    (status.code(), status.message().to_owned())
}
