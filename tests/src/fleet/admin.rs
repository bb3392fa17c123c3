//! A client of the fleet's API that repeats a write, under the same request id, until it is acknowledged. Used by
//! tests while coordinators come and go.
//!
//! Invariant: what [`Admin`] returned was acknowledged once and asked for once, however often it was sent.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agent::settings::Settings;
use proto::{
    ids::IdGen,
    wire::{
        BeginUpdateReply, BeginUpdateRequest, CancelDrainReply, CancelDrainRequest, CordonRequest, CreateRequest,
        DeleteRequest, DrainReply, DrainRequest, DrainView, HoldReply, ListRequest, NodeReply, NodeRequest, Object,
        PatchRequest, ScaleReply, ScaleRequest, SteerUpdateReply, SteerUpdateRequest, UncordonRequest,
        WatchDrainRequest, controllers_client::ControllersClient, drains_client::DrainsClient,
        holds_client::HoldsClient, nodes_client::NodesClient, resources_client::ResourcesClient,
        updates_client::UpdatesClient,
    },
};
use serde_json::{Value, json};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::net::Link;

/// How long a write is repeated; longer than any outage of a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// A controller to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub replicas: i32,
    /// Image of each of its containers.
    pub images: Vec<String>,
    /// Of its pods.
    pub annotations: Vec<(String, String)>,
}

/// Its manifest.
pub fn controller(wanted: &Wanted) -> Value {
    let annotations: BTreeMap<_, _> = wanted.annotations.iter().cloned().collect();
    let containers = wanted.images.iter().enumerate();
    let containers: Vec<_> = containers
        .map(|(i, image)| json!({"name": format!("c{i}"), "image": image}))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "metadata": {"name": wanted.name},
        "spec": {
            "replicas": wanted.replicas,
            "template": {
                "metadata": {"labels": {"app": wanted.name}, "annotations": annotations},
                "spec": {"containers": containers, "terminationGracePeriodSeconds": 1},
            },
        },
    })
}

/// See the module's head.
pub struct Admin {
    link: Arc<Link>,
    settings: Settings,
    ids: IdGen,
    channel: Option<Channel>,
}

impl Admin {
    pub(super) fn new(link: Arc<Link>, settings: Settings) -> Self {
        // Request ids are unique in a cluster: no two clients draw the same ones.
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        Self {
            link,
            settings,
            ids: IdGen::new(CLIENTS.fetch_add(1, Ordering::Relaxed)),
            channel: None,
        }
    }

    pub async fn create(&mut self, wanted: &Wanted) -> Result<Object, Status> {
        self.make("ReplicationController", &controller(wanted)).await
    }

    /// Creates an object of the default namespace.
    pub async fn make(&mut self, kind: &str, manifest: &Value) -> Result<Object, Status> {
        let request = CreateRequest {
            kind: kind.into(),
            namespace: "default".into(),
            json: manifest.to_string().into_bytes(),
            request_id: self.ids.uid(),
            ..CreateRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { ResourcesClient::new(channel).create(request).await }
        })
        .await
    }

    pub async fn scale(&mut self, name: &str, replicas: i32) -> Result<ScaleReply, Status> {
        let request = ScaleRequest {
            kind: "ReplicationController".into(),
            namespace: "default".into(),
            name: name.into(),
            replicas,
            request_id: self.ids.uid(),
            ..ScaleRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { ControllersClient::new(channel).scale(request).await }
        })
        .await
    }

    /// Merges a patch into an object of the default namespace, or into a node.
    pub async fn patch(&mut self, kind: &str, name: &str, patch: &Value) -> Result<Object, Status> {
        let request = PatchRequest {
            kind: kind.into(),
            name: name.into(),
            patch: patch.to_string().into_bytes(),
            request_id: self.ids.uid(),
            ..PatchRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { ResourcesClient::new(channel).patch(request).await }
        })
        .await
    }

    /// Cordons a node, for good or for so long.
    pub async fn cordon(&mut self, node: &str, life: Duration) -> Result<HoldReply, Status> {
        let request = CordonRequest {
            name: node.into(),
            for_ms: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
            request_id: self.ids.uid(),
            ..CordonRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { HoldsClient::new(channel).cordon(request).await }
        })
        .await
    }

    pub async fn uncordon(&mut self, node: &str) -> Result<HoldReply, Status> {
        let request = UncordonRequest {
            name: node.into(),
            request_id: self.ids.uid(),
            ..UncordonRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { HoldsClient::new(channel).uncordon(request).await }
        })
        .await
    }

    /// Begins to empty a node.
    pub async fn drain(&mut self, node: &str) -> Result<DrainReply, Status> {
        let request = DrainRequest {
            name: node.into(),
            request_id: self.ids.uid(),
            ..DrainRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { DrainsClient::new(channel).drain(request).await }
        })
        .await
    }

    /// Begins to update a controller to another image in its first container.
    pub async fn update(&mut self, name: &str, image: &str) -> Result<BeginUpdateReply, Status> {
        let request = BeginUpdateRequest {
            name: name.into(),
            image: image.into(),
            container: "c0".into(),
            request_id: self.ids.uid(),
            ..BeginUpdateRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { UpdatesClient::new(channel).begin(request).await }
        })
        .await
    }

    /// `action`: `pause`, `resume`, `rollback`.
    pub async fn steer(&mut self, name: &str, action: &str) -> Result<SteerUpdateReply, Status> {
        let request = SteerUpdateRequest {
            name: name.into(),
            action: action.into(),
            request_id: self.ids.uid(),
            ..SteerUpdateRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { UpdatesClient::new(channel).steer(request).await }
        })
        .await
    }

    /// Ends its drain, or gives a drained node back.
    pub async fn cancel_drain(&mut self, node: &str) -> Result<CancelDrainReply, Status> {
        let request = CancelDrainRequest {
            name: node.into(),
            request_id: self.ids.uid(),
            ..CancelDrainRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { DrainsClient::new(channel).cancel(request).await }
        })
        .await
    }

    /// Watches its drain; the stream breaks with the connection.
    pub async fn watch_drain(&mut self, node: &str) -> Result<Streaming<DrainView>, Status> {
        let request = WatchDrainRequest { name: node.into() };
        self.repeat(|channel| {
            let request = request.clone();
            async move { DrainsClient::new(channel).watch(request).await }
        })
        .await
    }

    /// Deletes a controller and its pods.
    pub async fn delete(&mut self, name: &str) -> Result<Object, Status> {
        self.delete_kind("ReplicationController", name).await
    }

    /// Says that the host of a node is off.
    pub async fn confirm_off(&mut self, node: &str) -> Result<NodeReply, Status> {
        let request = NodeRequest {
            name: node.into(),
            request_id: self.ids.uid(),
            ..NodeRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { NodesClient::new(channel).confirm_off(request).await }
        })
        .await
    }

    pub async fn delete_pod(&mut self, name: &str) -> Result<Object, Status> {
        self.delete_kind("Pod", name).await
    }

    /// Names of all pods of the default namespace.
    pub async fn pods(&mut self) -> Result<Vec<String>, Status> {
        let request = ListRequest {
            kind: "Pod".into(),
            namespace: "default".into(),
            ..ListRequest::default()
        };
        let reply = self
            .repeat(|channel| {
                let request = request.clone();
                async move { ResourcesClient::new(channel).list(request).await }
            })
            .await?;
        Ok(reply.items.into_iter().map(|o| o.name).collect())
    }

    async fn delete_kind(&mut self, kind: &str, name: &str) -> Result<Object, Status> {
        let request = DeleteRequest {
            kind: kind.into(),
            namespace: "default".into(),
            name: name.into(),
            request_id: self.ids.uid(),
            ..DeleteRequest::default()
        };
        self.repeat(|channel| {
            let request = request.clone();
            async move { ResourcesClient::new(channel).delete(request).await }
        })
        .await
    }

    async fn repeat<T, F>(&mut self, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let start = Instant::now();
        loop {
            let result = match self.channel().await {
                Ok(channel) => call(channel).await,
                Err(why) => Err(Status::unavailable(why)),
            };
            match result {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) if worth_repeating(&status) && start.elapsed() < PATIENCE => {
                    self.channel = None;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(status) => return Err(status),
            }
        }
    }

    async fn channel(&mut self) -> Result<Channel, String> {
        if self.channel.is_none() {
            self.channel = Some(self.link.channel(&self.settings).await?);
        }
        self.channel.clone().ok_or_else(|| "no channel".to_owned())
    }
}

/// The connection broke or the coordinator went, and it may have happened or not; or the store had no room.
fn worth_repeating(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::ResourceExhausted
    )
}
