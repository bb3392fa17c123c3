//! Trust: joining, certificates and authorization. [`Authority`] is its face; the coordinator's wiring opens
//! one, puts [`layer::AuthLayer`] before the session port and [`service::EnrolService`] on the enrolment port,
//! and runs [`Authority::run`] beside them.
//!
//! | module | what it is |
//! |---|---|
//! | [`secret`] | the cluster secret K, the seal, the pepper |
//! | [`issue`] | certificates |
//! | [`tokens`], [`enrol`], [`renew`] | joining and staying |
//! | [`certs`] | the registry of valid serials, in memory |
//! | [`authorizer`], [`methods`], [`layer`] | who may do what |
//! | [`server_cert`] | the coordinator's own certificate on both ports |
//! | [`service`], [`audit`], [`upkeep`] | gRPC, the record, what recurs |
//!
//! Invariant: certificates carry identity, not rights; keys and secrets appear in no log and no Debug output.

pub mod audit;
pub mod authorizer;
pub mod certs;
pub mod enrol;
pub mod issue;
pub mod layer;
pub mod methods;
mod rate;
pub mod renew;
pub mod secret;
pub mod server_cert;
pub mod service;
#[cfg(test)]
pub(crate) mod test_store;
#[cfg(test)]
#[path = "ca_tests.rs"]
mod tests;
pub mod tokens;
pub mod upkeep;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use proto::model::Kind;
use ring::hmac;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use self::{
    authorizer::Attributes,
    certs::{Caller, Denied, View},
    issue::Issuer,
    secret::ClusterKey,
};
#[cfg(test)]
use crate::store;
use crate::{
    layout::{ClusterFile, Layout},
    store::{Change, CommitError, Fence, ReadError, Store, Update},
};

/// Key of the cluster's facts, value [`ClusterMeta`]; written by `init`.
pub const META_CLUSTER: &str = "meta/cluster";

/// Value of [`META_CLUSTER`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMeta {
    /// UUID.
    pub cluster: String,
    /// UUID of the state history.
    pub incarnation: String,
    pub created_at_ms: u64,
    pub root_pem: String,
    /// Sealed under K ([`ClusterKey::seal`]).
    pub sealed_root_key: String,
    /// Session addresses of the coordinators, HOST:PORT.
    pub addresses: Vec<String>,
}

/// Milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The current fence; `None` while this coordinator is not the active one.
pub type FenceSource = Arc<dyn Fn() -> Option<Fence> + Send + Sync>;

/// The machine's clock.
pub fn system_clock() -> Clock {
    Arc::new(|| u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0))
}

/// Durations in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Life of an agent's certificate; renewed at a third, ±10 %.
    pub agent_life_ms: u64,
    /// Life of this coordinator's own certificate.
    pub server_life_ms: u64,
    /// Clocks may differ by this much at a join.
    pub max_skew_ms: u64,
    /// Refused joins answered at once before the rate applies, and the time after which one more is.
    pub refusal_burst: u32,
    pub refusal_refill_ms: u64,
    /// How often a commit that conflicts is planned again.
    pub commit_attempts: u32,
    /// Period of [`Authority::run`]'s checks.
    pub upkeep_ms: u64,
    /// A token that can no longer be used is listed this much longer.
    pub keep_tokens_ms: u64,
    /// Session addresses to tell; empty: those told to `init`.
    pub coordinators: Vec<String>,
    /// Port for joining on each coordinator's host; 0: the one after its session port.
    pub joining_port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        const HOUR: u64 = 3600 * 1000;
        Self {
            agent_life_ms: 72 * HOUR,
            server_life_ms: 72 * HOUR,
            max_skew_ms: HOUR / 12,
            refusal_burst: 50,
            refusal_refill_ms: 100,
            commit_attempts: 20,
            upkeep_ms: 30_000,
            keep_tokens_ms: 7 * 24 * HOUR,
            coordinators: Vec::new(),
            joining_port: 0,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path}: {what}")]
    File { path: String, what: String },
    #[error("the store holds no cluster; run `wharf-coordinator init`, or restore a backup")]
    NoCluster,
    #[error(
        "{path}: this directory belongs to cluster {here}, the store to cluster {there}; use the data directory and the store of one cluster"
    )]
    OtherCluster { path: String, here: String, there: String },
    #[error(transparent)]
    Store(#[from] ReadError),
    #[error("certificate of this coordinator: {0}")]
    Issue(#[from] issue::IssueError),
    #[error("TLS of this coordinator: {0}")]
    Tls(#[from] rustls::Error),
}

/// What an [`Authority`] works with.
pub struct Parts {
    pub data_dir: PathBuf,
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub fence: FenceSource,
    pub settings: Settings,
}

struct Inner {
    layout: Layout,
    file: ClusterFile,
    meta: ClusterMeta,
    store: Arc<dyn Store>,
    clock: Clock,
    fence: FenceSource,
    settings: Settings,
    issuer: Issuer,
    pepper: hmac::Key,
    root_spki: [u8; 32],
    view: View,
    refusals: rate::Bucket,
    turn: Semaphore,
    tls: server_cert::ServerTls,
}

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct Authority(Arc<Inner>);

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.0.meta.cluster)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Reads keys and cluster facts, loads the registry, issues this coordinator's certificate.
    pub async fn open(parts: Parts) -> Result<Self, AuthorityError> {
        let Parts {
            data_dir,
            store,
            clock,
            fence,
            settings,
        } = parts;
        let layout = Layout::new(&data_dir);
        let file =
            ClusterFile::read(&layout.cluster_file()).map_err(|what| file_error(&layout.cluster_file(), what))?;
        let entry = store.get(META_CLUSTER).await?.ok_or(AuthorityError::NoCluster)?;
        let meta: ClusterMeta = serde_json::from_slice(&entry.value)
            .map_err(|e| ReadError::Io(format!("{META_CLUSTER} does not decode: {e}")))?;
        if meta.cluster != file.cluster {
            return Err(AuthorityError::OtherCluster {
                path: data_dir.display().to_string(),
                here: file.cluster,
                there: meta.cluster,
            });
        }
        let key = layout.cluster_key();
        let secret = read(&key).and_then(|bytes| ClusterKey::from_bytes(&bytes).map_err(|e| file_error(&key, e)))?;
        secret
            .open(&meta.cluster, &meta.sealed_root_key)
            .map_err(|e| file_error(&key, e))?;
        let pepper = secret.pepper(&meta.cluster).map_err(|e| file_error(&key, e))?;
        let issuer = layout
            .issuer(&meta.cluster)
            .map_err(|(path, what)| file_error(&path, what))?;
        let root_spki =
            proto::identity::spki_sha256(&issuer.root).map_err(|e| file_error(&layout.intermediate_cert(), e))?;
        let tls = server_cert::ServerTls::new(&issuer, &file.name, settings.server_life_ms, &clock)?;
        let view = View::default();
        view.load(&store.load().await?);
        let refusals = rate::Bucket::new(settings.refusal_burst, settings.refusal_refill_ms);
        Ok(Self(Arc::new(Inner {
            layout,
            file,
            meta,
            store,
            clock,
            fence,
            settings,
            issuer,
            pepper,
            root_spki,
            view,
            refusals,
            turn: Semaphore::new(1),
            tls,
        })))
    }

    /// UUID of the cluster.
    pub fn cluster(&self) -> &str {
        &self.0.meta.cluster
    }

    pub fn meta(&self) -> &ClusterMeta {
        &self.0.meta
    }

    /// This coordinator's name.
    pub fn name(&self) -> &str {
        &self.0.file.name
    }

    /// Session addresses of all coordinators.
    pub fn coordinators(&self) -> Vec<String> {
        match self.0.settings.coordinators.as_slice() {
            [] => self.0.meta.addresses.clone(),
            told => told.to_vec(),
        }
    }

    /// Addresses for joining, where they do not follow from [`Self::coordinators`].
    pub fn joining(&self) -> Vec<String> {
        let port = self.0.settings.joining_port;
        let usual = |session: &str| session.parse().is_ok_and(|p: u16| p.checked_add(1) == Some(port));
        let coordinators = self.coordinators();
        let hosts = coordinators.iter().filter_map(|a| a.rsplit_once(':'));
        if port == 0 || hosts.clone().all(|(_, session)| usual(session)) {
            return Vec::new();
        }
        hosts.map(|(host, _)| format!("{host}:{port}")).collect()
    }

    pub fn root_pem(&self) -> &str {
        self.0.issuer.root_pem()
    }

    /// Registry and bindings. [`Self::run`] feeds it; whoever watches the store anyway may feed it too.
    pub fn view(&self) -> &View {
        &self.0.view
    }

    /// TLS of the session port (client certificate required); swapped at renewal.
    pub fn session_tls(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.0.tls.session.clone()
    }

    /// TLS of the enrolment port (no client certificate); swapped at renewal.
    pub fn enrol_tls(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.0.tls.enrol.clone()
    }

    /// The one decision; see [`authorizer::authorize`].
    pub fn authorize(&self, caller: &Caller, attributes: &Attributes<'_>) -> Result<(), Denied> {
        authorizer::authorize(&self.0.view, caller, attributes)
    }

    /// For `Resources.*` after decoding; see [`authorizer::authorize_resource`].
    pub fn authorize_resource(
        &self,
        caller: &Caller,
        verb: &str,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), Denied> {
        authorizer::authorize_resource(&self.0.view, caller, verb, kind, namespace, name)
    }

    fn now_ms(&self) -> u64 {
        (self.0.clock)()
    }

    /// Commits and shows the result to the view at once, so that an answered join is valid here before the
    /// watch delivers it.
    async fn commit(&self, fence: &Fence, changes: Vec<Change>) -> Result<(), CommitError> {
        let updates = changes.clone();
        let committed = self.0.store.commit(fence, changes).await?;
        let updates: Vec<Update> = updates
            .into_iter()
            .zip(committed.rvs)
            .map(|(Change { key, value, .. }, rv)| Update { rv, key, value })
            .collect();
        self.0.view.apply(&updates);
        Ok(())
    }
}

fn file_error(path: &Path, what: impl ToString) -> AuthorityError {
    AuthorityError::File {
        path: path.display().to_string(),
        what: what.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    std::fs::read(path).map_err(|e| file_error(path, e))
}
