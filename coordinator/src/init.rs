//! `wharf-coordinator init` and `admin-credentials`: a cluster comes into being in a data directory. Called by
//! `main` and by tests.
//!
//! Invariant: nothing is overwritten; `cluster.json` is written last and is the mark that all else is there.
//! What a failed `init` made, it removes.

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::{
    credentials::Credentials,
    files::{self, FileError, file_error},
    identity::{Role, coordinator_dns_name, spki_sha256},
    ids::hex,
    model::{Time, labels::check_dns_subdomain},
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Serialize;

use crate::{
    ca::{
        ClusterMeta, META_CLUSTER,
        audit::AuditRecord,
        authorizer::{Binding, UserRole},
        issue::{self, IssueError, Issuer},
        issuers::IssuerRecord,
        secret::{ClusterKey, SecretError},
    },
    store::{Change, CommitError, Expect, OpenError, ReadError, Store, keys},
    world::replicas::CoordinatorRecord,
};

pub use crate::layout::{ClusterFile, Layout};

/// Session port where none is named.
pub const SESSION_PORT: u16 = 7443;
/// The first user.
pub const ADMIN: &str = "admin";
const ADMIN_LIFE_MS: u64 = 365 * 24 * 3600 * 1000;

#[derive(Clone, Debug)]
pub struct InitOptions {
    pub data_dir: PathBuf,
    /// HOST:PORT under which agents and the command reach this coordinator; `None`: this machine's address and
    /// [`SESSION_PORT`].
    pub advertise: Option<String>,
    /// `None`: the machine's host name.
    pub name: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    pub cluster: String,
    pub incarnation: String,
    pub name: String,
    pub addresses: Vec<String>,
    /// SHA-256 of the root's public key, hex; join tokens carry it.
    pub root_spki: String,
    pub admin_file: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "{path} already exists: this directory belongs to a cluster; choose another --data-dir, or remove the directory if that cluster is gone for good"
    )]
    Exists { path: String },
    #[error("{path}: an earlier init was interrupted here; remove the directory {dir} and run init again")]
    Interrupted { path: String, dir: String },
    #[error("{path}: a join was begun here; finish it with wharf-coordinator join, or choose another --data-dir")]
    Joining { path: String },
    #[error(
        "the store already holds the cluster {0}; choose an empty one (for etcd another --etcd-prefix), or remove it if that cluster is gone for good"
    )]
    StoreInUse(String),
    #[error("--advertise {0:?} is not HOST:PORT, e.g. coordinator.example:7443")]
    Advertise(String),
    #[error("name: {0}")]
    Name(String),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Makes a cluster. `open` opens the store of the data directory (created by then); the cluster's facts, its
/// first user and `seed` are committed to it under a first term. The store is dropped before this returns.
pub async fn init<F, O>(options: InitOptions, seed: Vec<Change>, open: F) -> Result<InitReport, InitError>
where
    F: FnOnce(PathBuf) -> O,
    O: Future<Output = Result<Arc<dyn Store>, OpenError>>,
{
    let layout = Layout::new(&options.data_dir);
    if layout.joining().exists() {
        return Err(InitError::Joining {
            path: layout.joining().display().to_string(),
        });
    }
    refuse_to_overwrite(&layout)?;
    let address = match &options.advertise {
        Some(address) => check_address(address)?,
        None => format!("{}:{SESSION_PORT}", own_address()),
    };
    let name = match &options.name {
        Some(name) => name.clone(),
        None => host_name(),
    };
    check_dns_subdomain(&name).map_err(InitError::Name)?;

    let dir = &options.data_dir;
    let existed = dir.exists();
    files::create_private_dir(dir).map_err(|e| file_error(dir, e))?;
    let before = listing(dir)?;
    let made = make(&options, &layout, seed, open, name, address).await;
    if made.is_err() {
        clean_up(dir, existed, &before);
    }
    made
}

async fn make<F, O>(
    options: &InitOptions,
    layout: &Layout,
    seed: Vec<Change>,
    open: F,
    name: String,
    address: String,
) -> Result<InitReport, InitError>
where
    F: FnOnce(PathBuf) -> O,
    O: Future<Output = Result<Arc<dyn Store>, OpenError>>,
{
    let now_ms = options.now_ms;
    let addresses = vec![address.clone()];
    let cluster = uuid::Uuid::new_v4().to_string();
    let incarnation = uuid::Uuid::new_v4().to_string();
    let key = ClusterKey::generate()?;
    let root = issue::new_root(&cluster, now_ms)?;
    let intermediate = issue::new_intermediate(&root, &name, now_ms)?;
    let chain = format!("{}{}", intermediate.pem, root.pem);
    let issuer = Issuer::new(&cluster, &chain, &intermediate.key.serialize_pem())?;
    let meta = ClusterMeta {
        cluster: cluster.clone(),
        incarnation: incarnation.clone(),
        created_at_ms: now_ms,
        root_pem: root.pem.clone(),
        sealed_root_key: key.seal(&cluster, root.key.serialized_der())?,
        addresses: addresses.clone(),
    };
    let file = ClusterFile {
        cluster: cluster.clone(),
        incarnation: incarnation.clone(),
        name: name.clone(),
        addresses: addresses.clone(),
    };
    let (admin, serial) = admin_certificate(&issuer, &file, now_ms)?;
    let record = CoordinatorRecord {
        address: address.clone(),
        enrol: enrol_address(&address),
        joined: Time::from_millis(now_ms),
        version: proto::VERSION.to_owned(),
    };
    let own_issuer = IssuerRecord::of(&issuer).map_err(|e| IssueError::Malformed(e.to_string()))?;

    // All files under a staging directory first, then the store, then their names, `cluster.json` last.
    let staged = Layout::new(&layout.staging());
    files::create_private_dir(&staged.ca_dir()).map_err(|e| file_error(&staged.ca_dir(), e))?;
    key.write(&staged.cluster_key())
        .map_err(|e| file_error(&staged.cluster_key(), e))?;
    let write =
        |path: PathBuf, text: String| files::write_private(&path, text.as_bytes()).map_err(|e| file_error(&path, e));
    write(staged.intermediate_key(), intermediate.key.serialize_pem())?;
    write(staged.intermediate_cert(), chain)?;
    write(staged.admin_file(), to_yaml(&admin)?)?;
    write(staged.cluster_file(), to_json(&file)?)?;

    let store = open(options.data_dir.clone()).await?;
    if let Some(entry) = store.get(META_CLUSTER).await? {
        let found = serde_json::from_slice::<ClusterMeta>(&entry.value).map(|meta| meta.cluster);
        return Err(InitError::StoreInUse(
            found.unwrap_or_else(|_| "of another release".to_owned()),
        ));
    }
    let mut changes = vec![
        Change::put(META_CLUSTER, Expect::Absent, to_json(&meta)?),
        Change::put(
            keys::binding(ADMIN),
            Expect::Absent,
            to_json(&Binding {
                role: UserRole::Admin,
                created_at_ms: now_ms,
            })?,
        ),
        Change::put(keys::coordinator(&name), Expect::Absent, to_json(&record)?),
        own_issuer.change(&name, Expect::Absent),
        AuditRecord::new(
            now_ms,
            "host",
            "init",
            format!("clusters/{cluster}"),
            format!("admin certificate {serial}"),
        )
        .change(),
    ];
    changes.extend(seed);
    let fence = store
        .take_term(&incarnation, &format!("init:{}", std::process::id()))
        .await?;
    store.commit(&fence, changes).await?;
    drop(store);

    name_staged(&staged, layout)?;
    Ok(InitReport {
        cluster,
        incarnation,
        name,
        addresses,
        root_spki: hex(&spki_sha256(&issuer.root).map_err(|e| IssueError::Malformed(e.to_string()))?),
        admin_file: layout.admin_file(),
    })
}

/// Gives staged files their names, `cluster.json` last.
pub(crate) fn name_staged(staged: &Layout, layout: &Layout) -> Result<(), InitError> {
    let places = [
        (staged.cluster_key(), layout.cluster_key()),
        (staged.ca_dir(), layout.ca_dir()),
        (staged.admin_file(), layout.admin_file()),
        (staged.cluster_file(), layout.cluster_file()),
    ];
    for (from, to) in places {
        std::fs::rename(&from, &to).map_err(|e| file_error(&to, e))?;
    }
    std::fs::remove_dir(layout.staging()).map_err(|e| file_error(&layout.staging(), e))?;
    files::sync_dir(layout.dir()).map_err(|e| file_error(layout.dir(), e).into())
}

/// `admin-credentials`: a new admin certificate, from whoever may read the intermediate's key. Works with the
/// coordinator running or not; on record: the audit record lies in the data directory before the certificate
/// is handed out, and the coordinator takes it in.
pub fn admin_credentials(data_dir: &Path, now_ms: u64) -> Result<Credentials, InitError> {
    let layout = Layout::new(data_dir);
    let path = layout.cluster_file();
    let file = ClusterFile::read(&path).map_err(|e| file_error(&path, e))?;
    let issuer = layout.issuer(&file.cluster)?;
    let (credentials, serial) = admin_certificate(&issuer, &file, now_ms)?;
    let record = AuditRecord::new(
        now_ms,
        "host",
        "issue",
        format!("users/{ADMIN}"),
        format!("admin certificate {serial}"),
    );
    let dir = layout.audit_dir();
    files::create_private_dir(&dir).map_err(|e| file_error(&dir, e))?;
    let path = dir.join(format!("{}.json", uuid::Uuid::new_v4().simple()));
    files::write_private(&path, to_json(&record)?.as_bytes()).map_err(|e| file_error(&path, e))?;
    Ok(credentials)
}

/// `admin.yaml`'s text. Its head says what a client has to know beside the fields: which name to verify.
pub fn to_yaml(credentials: &Credentials) -> Result<String, InitError> {
    let name = coordinator_dns_name(&credentials.cluster);
    let text =
        serde_saphyr::to_string(credentials).map_err(|e| InitError::Issue(IssueError::Malformed(e.to_string())))?;
    Ok(format!(
        "# Credentials of this cluster's administrator: a secret. Used by `wharf --config FILE`, or by any gRPC client:\n\
         # connect to one of the coordinators with TLS, trust this ca alone, show this certificate, and verify the\n\
         # server by the name {name}, whatever its address.\n{text}"
    ))
}

pub(crate) fn admin_certificate(
    issuer: &Issuer,
    file: &ClusterFile,
    now_ms: u64,
) -> Result<(Credentials, String), InitError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::from)?;
    let leaf = issuer.issue_for(&key, Role::User, ADMIN, ADMIN_LIFE_MS, now_ms)?;
    let credentials = Credentials {
        coordinators: file.addresses.clone(),
        cluster: file.cluster.clone(),
        ca: issuer.root_pem().to_owned(),
        certificate: leaf.chain_pem,
        key: key.serialize_pem(),
        namespace: None,
    };
    Ok((credentials, leaf.serial))
}

/// The directory must hold nothing of a cluster.
pub(crate) fn refuse_to_overwrite(layout: &Layout) -> Result<(), InitError> {
    // The mark first: with it the rest is the cluster's.
    let ours = [
        layout.cluster_file(),
        layout.cluster_key(),
        layout.ca_dir(),
        layout.admin_file(),
    ];
    let staging = layout.staging();
    if staging.exists() && !layout.cluster_file().exists() {
        return Err(InitError::Interrupted {
            path: staging.display().to_string(),
            dir: layout.dir().display().to_string(),
        });
    }
    match ours.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(InitError::Exists {
            path: path.display().to_string(),
        }),
        None => Ok(()),
    }
}

pub(crate) fn listing(dir: &Path) -> Result<BTreeSet<PathBuf>, InitError> {
    std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect())
        .map_err(|e| file_error(dir, e).into())
}

/// Removes what was not there before; an error here would only hide the one that matters.
pub(crate) fn clean_up(dir: &Path, existed: bool, before: &BTreeSet<PathBuf>) {
    for path in listing(dir).unwrap_or_default().difference(before) {
        let _ = if path.is_dir() {
            std::fs::remove_dir_all(path)
        } else {
            std::fs::remove_file(path)
        };
    }
    if !existed {
        let _ = std::fs::remove_dir(dir);
    }
}

pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<String, InitError> {
    serde_json::to_string_pretty(value).map_err(|e| InitError::Issue(IssueError::Malformed(e.to_string())))
}

/// HOST:PORT, as every client can use it.
pub fn check_address(address: &str) -> Result<String, InitError> {
    let bad = || InitError::Advertise(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let port_ok = port.parse::<u16>().is_ok_and(|p| p > 0);
    // The same test as that of every client that will read it.
    let uri_ok = format!("https://{address}")
        .parse::<http::Uri>()
        .is_ok_and(|u| u.path() == "/" && u.query().is_none());
    if host.is_empty() || host.contains('@') || !port_ok || !uri_ok {
        return Err(bad());
    }
    Ok(address.to_owned())
}

/// Where hosts join a coordinator of this session address, unless that is stated: one port higher. Empty: there is none.
pub fn enrol_address(session: &str) -> String {
    let next = session
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?.checked_add(1)?)));
    next.map_or_else(String::new, |(host, port)| format!("{host}:{port}"))
}

/// The address from which this machine reaches others; connecting a datagram socket sends nothing.
pub(crate) fn own_address() -> String {
    std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| {
            socket.connect("192.0.2.1:9")?;
            socket.local_addr()
        })
        .map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string())
}

/// The host name as a DNS subdomain.
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|n| n.into_string().ok())
        .unwrap_or_default();
    let name = name.to_ascii_lowercase().replace('_', "-");
    if check_dns_subdomain(&name).is_ok() {
        name
    } else {
        "coordinator".to_owned()
    }
}

#[cfg(test)]
#[path = "init_tests.rs"]
mod tests;
