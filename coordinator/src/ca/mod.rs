//! Trust: joining, certificates and authorization. [`Authority`] is its face; the coordinator's wiring opens
//! one, puts [`layer::AuthLayer`] before the session port and [`service::EnrolService`] on the enrolment port,
//! and runs [`Authority::run`] beside them.
//!
//! | module | what it is |
//! |---|---|
//! | [`secret`] | the cluster secret K, the seal, the pepper |
//! | [`issue`] | certificates |
//! | [`tokens`], [`enrol`], [`renew`] | joining and staying |
//! | [`replicas`] | coordinators that join and go |
//! | [`labels`] | the labels that a node gets as it joins |
//! | [`certs`], [`issuers`] | the registry of valid certificates, in memory |
//! | [`authorizer`], [`methods`], [`layer`] | who may do what |
//! | [`forwarded`] | a caller that another coordinator vouches for |
//! | [`server_cert`], [`peers`] | the coordinator's own certificate, on both ports and towards other coordinators |
//! | [`service`], [`audit`], [`upkeep`] | gRPC, the record, what recurs |
//!
//! Invariant: certificates carry identity, not rights; keys and secrets appear in no log and no Debug output.

pub mod audit;
pub mod authorizer;
pub mod certs;
pub mod enrol;
pub mod forwarded;
pub mod issue;
pub mod issuers;
pub mod labels;
pub mod layer;
pub mod methods;
pub mod peers;
mod rate;
pub mod renew;
pub mod replicas;
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
use proto::{
    files::{FileError, file_error},
    model::Kind,
};
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
    init::enrol_address,
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
    /// This coordinator's session address to tell; empty: the one on record.
    pub coordinators: Vec<String>,
    /// Port for joining on this coordinator's host; 0: the one after its session port.
    pub joining_port: u16,
    /// Where the cluster's state is kept, as `run --store` names it; told to coordinators that join. Empty: not stated.
    pub store: String,
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
            store: String::new(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the store holds no cluster; run `wharf-coordinator init`, or restore a backup")]
    NoCluster,
    #[error(
        "{path}: this directory belongs to cluster {here}, the store to cluster {there}; use the data directory and the store of one cluster"
    )]
    OtherCluster { path: String, here: String, there: String },
    #[error(
        "coordinator {0:?} was removed from the cluster: it must not serve; join again from an empty --data-dir, with a new token"
    )]
    Removed(String),
    #[error(
        "the name {0:?} was given to another coordinator: this one must not serve; join again from an empty --data-dir, under another --name"
    )]
    Replaced(String),
    #[error("this coordinator is not the active one and cannot write; try again")]
    NotActive,
    #[error(transparent)]
    Store(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
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
        let issuer = layout.issuer(&meta.cluster)?;
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

    /// Session addresses of all coordinators, this one's first, the others by name.
    pub fn coordinators(&self) -> Vec<String> {
        self.addresses().into_iter().map(|(session, _)| session).collect()
    }

    /// Addresses for joining, where they do not follow from [`Self::coordinators`].
    pub fn joining(&self) -> Vec<String> {
        let addresses = self.addresses();
        let usual = |(session, enrol): &(String, String)| enrol.is_empty() || *enrol == enrol_address(session);
        if addresses.iter().all(usual) {
            return Vec::new();
        }
        let known = addresses.into_iter().map(|(_, enrol)| enrol);
        known.filter(|enrol| !enrol.is_empty()).collect()
    }

    /// Session and enrolment address of each coordinator, in the order of [`Self::coordinators`].
    fn addresses(&self) -> Vec<(String, String)> {
        let Inner { settings, meta, .. } = &*self.0;
        let mut on_record = self.0.view.coordinators();
        let own = on_record.remove(self.name());
        let told = settings.coordinators.first().cloned();
        // Nothing on record: made by an earlier release, and this one has not led yet.
        let alone = on_record.is_empty().then(|| meta.addresses.first().cloned()).flatten();
        let recorded = own.as_ref().map(|record| record.address.clone());
        let mut all = Vec::with_capacity(on_record.len() + 1);
        if let Some(session) = told.or(recorded).or(alone) {
            let enrol = match (settings.joining_port, own) {
                (0, Some(record)) if record.address == session => record.enrol,
                (0, _) => enrol_address(&session),
                (port, _) => session
                    .rsplit_once(':')
                    .map_or_else(String::new, |(host, _)| format!("{host}:{port}")),
            };
            all.push((session, enrol));
        }
        all.extend(on_record.into_values().map(|record| (record.address, record.enrol)));
        all
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

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|e| file_error(path, e))
}
