//! `wharf-coordinator restore`: a backup becomes the state of a cluster again, as a new incarnation. Called by `main`,
//! with no coordinator running.
//!
//! Invariant: only into an empty store; what is restored carries the mark that it awaits an operator's word in the same
//! step that makes it a store, and one coordinator, that of the directory; no version of the history before is handed out
//! again; a failed restore leaves the directory as it was, and the store empty.

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use proto::{
    backup::{self, Backup, BackupError},
    files::{self, FileError, file_error},
    model::{Time, labels::check_dns_subdomain},
};
use rcgen::KeyPair;

use super::import_key;
use crate::{
    ca::{
        ClusterMeta, META_CLUSTER,
        audit::AuditRecord,
        issue::{self, AuthorityCert, IssueError, Issuer},
        issuers::IssuerRecord,
        secret::{ClusterKey, SecretError, passphrase::PassphraseError},
    },
    init::{self, ClusterFile, InitError, Layout},
    leader::guard::Guard,
    store::{
        Entry, OpenError, Rv,
        import::{Import, ImportError, Imported},
        keys::{self, Parsed},
        sqlite::SqliteStore,
    },
    world::{
        record::encode,
        replicas::CoordinatorRecord,
        restored::{Former, RestoredRecord},
    },
};

#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub file: PathBuf,
    pub data_dir: PathBuf,
    pub passphrase_file: Option<PathBuf>,
    /// HOST:PORT of this coordinator; `None`: the addresses of the backup.
    pub advertise: Option<String>,
    /// For a new directory; `None`: the machine's host name.
    pub name: Option<String>,
    /// The store in words, where it is not in the data directory.
    pub place: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    pub cluster: String,
    pub incarnation: String,
    pub addresses: Vec<String>,
    pub entries: usize,
    pub taken_at_ms: u64,
    /// The directory was made from the backup's keys, with new admin credentials here.
    pub admin_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} {error}")]
    Backup { path: String, error: BackupError },
    #[error("{path}: {what}; use a backup that a coordinator made")]
    Content { path: String, what: String },
    #[error(
        "{dir} is of cluster {here}, the backup of cluster {there}: restore into another --data-dir, or use a backup of this cluster"
    )]
    OtherCluster { dir: String, here: String, there: String },
    #[error(
        "{path} is not the secret of the backup's cluster: put back the cluster's own file, or restore into a new --data-dir with a backup made --with-keys"
    )]
    OtherKey { path: String },
    #[error(
        "{path} holds a store: nothing is restored over it; if its state is lost for good, move it away (and keep it) first"
    )]
    StoreInUse { path: String },
    #[error(
        "{place} is not empty: nothing is restored over it; choose another --etcd-prefix, or, if what is there is lost for good, remove it first"
    )]
    PlaceInUse { place: String },
    #[error(
        "{dir} has no cluster.key, and {file} holds no keys: name the data directory of a coordinator of this cluster, or a backup made --with-keys"
    )]
    NoKeys { dir: String, file: String },
    #[error("{file} has its keys under a passphrase: give --passphrase-file")]
    NoPassphrase { file: String },
    #[error("{file}: {error}")]
    Passphrase { file: String, error: PassphraseError },
    #[error(transparent)]
    Init(#[from] InitError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// A backup that was read, and what is in it of the cluster.
struct Source {
    path: String,
    backup: Backup,
    meta: ClusterMeta,
}

/// Restores. `open` opens the store of the data directory, which must be empty; it is dropped before this returns.
pub async fn restore<F, O>(options: RestoreOptions, open: F) -> Result<RestoreReport, RestoreError>
where
    F: FnOnce(PathBuf) -> O,
    O: Future<Output = Result<Arc<dyn Import>, OpenError>>,
{
    let source = read(&options.file)?;
    let advertised = match &options.advertise {
        Some(address) => Some(vec![init::check_address(address)?]),
        None => None,
    };
    let layout = Layout::new(&options.data_dir);
    let incarnation = uuid::Uuid::new_v4().to_string();
    if layout.cluster_file().exists() {
        return into_known(&options, &layout, source, advertised, incarnation, open).await;
    }
    let addresses = advertised.unwrap_or_else(|| source.meta.addresses.clone());
    into_new(&options, &layout, source, addresses, incarnation, open).await
}

/// The coordinator that goes on with the restored state.
struct Own {
    name: String,
    issuer: IssuerRecord,
}

impl Own {
    fn new(name: &str, issuer: &Issuer) -> Result<Self, RestoreError> {
        let issuer = IssuerRecord::of(issuer).map_err(|e| IssueError::Malformed(e.to_string()))?;
        Ok(Self {
            name: name.to_owned(),
            issuer,
        })
    }
}

/// What a backup has of a coordinator.
fn on_record(source: &Source, name: &str) -> Option<CoordinatorRecord> {
    let key = keys::coordinator(name);
    let entry = source.backup.entries.iter().find(|e| e.key == key)?;
    serde_json::from_slice(&entry.value).ok()
}

fn read(path: &Path) -> Result<Source, RestoreError> {
    let bytes = std::fs::read(path).map_err(|e| file_error(path, e))?;
    let shown = path.display().to_string();
    let backup = backup::decode(&bytes).map_err(|error| RestoreError::Backup {
        path: shown.clone(),
        error,
    })?;
    let content = |what: &str| RestoreError::Content {
        path: shown.clone(),
        what: what.to_owned(),
    };
    let meta = backup.entries.iter().find(|e| e.key == META_CLUSTER);
    let meta = meta.ok_or_else(|| content("it holds no cluster"))?;
    let meta: ClusterMeta =
        serde_json::from_slice(&meta.value).map_err(|_| content("what it says of its cluster cannot be read"))?;
    if (&meta.cluster, &meta.incarnation) != (&backup.header.cluster, &backup.header.incarnation) {
        return Err(content("its header is of another cluster than its content"));
    }
    Ok(Source {
        path: shown,
        backup,
        meta,
    })
}

/// Into the directory of a coordinator of this cluster: its keys are there.
async fn into_known<F, O>(
    options: &RestoreOptions,
    layout: &Layout,
    source: Source,
    advertised: Option<Vec<String>>,
    incarnation: String,
    open: F,
) -> Result<RestoreReport, RestoreError>
where
    F: FnOnce(PathBuf) -> O,
    O: Future<Output = Result<Arc<dyn Import>, OpenError>>,
{
    let path = layout.cluster_file();
    let file = ClusterFile::read(&path).map_err(|e| file_error(&path, e))?;
    if file.cluster != source.meta.cluster {
        return Err(RestoreError::OtherCluster {
            dir: options.data_dir.display().to_string(),
            here: file.cluster,
            there: source.meta.cluster,
        });
    }
    let path = layout.cluster_key();
    let key = std::fs::read(&path).map_err(|e| file_error(&path, e))?;
    let key = ClusterKey::from_bytes(&key).map_err(|e| file_error(&path, e))?;
    key.open(&source.meta.cluster, &source.meta.sealed_root_key)
        .map_err(|_| RestoreError::OtherKey {
            path: path.display().to_string(),
        })?;
    let issuer = layout.issuer(&file.cluster)?;
    let own = Own::new(&file.name, &issuer)?;
    let addresses = advertised
        .or_else(|| Some(vec![on_record(&source, &own.name)?.address]))
        .unwrap_or_else(|| source.meta.addresses.clone());
    let before = init::listing(&options.data_dir)?;
    let state = state_of(&source, &own, &addresses, &incarnation, "", options.now_ms);
    let entries = state.entries.len();
    let file = ClusterFile {
        incarnation: incarnation.clone(),
        addresses: addresses.clone(),
        ..file
    };
    let (path, text) = (layout.cluster_file(), init::to_json(&file)?);
    let done = match fill(options, state, open).await {
        Ok(store) => {
            let written = files::write_private(&path, text.as_bytes()).map_err(|e| file_error(&path, e).into());
            unless_done(&*store, written).await
        }
        Err(e) => Err(e),
    };
    if done.is_err() {
        remove_store(&options.data_dir, &before);
    }
    done?;
    // Last: with it in place nothing of a half restored directory is served.
    Guard::set_aside(&options.data_dir, options.now_ms).map_err(|e| {
        let what =
            format!("all is restored, but the mark of what was served could not be moved away ({e}); do that by hand");
        file_error(&options.data_dir.join("served.json"), what)
    })?;
    Ok(report(source, incarnation, addresses, entries, None))
}

/// Removes the store's files that were not there before; everything else of such a directory is not ours. An error here
/// would only hide the one that matters.
fn remove_store(dir: &Path, before: &BTreeSet<PathBuf>) {
    for suffix in ["", "-wal", "-shm", ".new", ".new-journal"] {
        let path = dir.join(format!("{}{suffix}", SqliteStore::FILE));
        if !before.contains(&path) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Into a new directory, made from the keys that the backup carries.
async fn into_new<F, O>(
    options: &RestoreOptions,
    layout: &Layout,
    source: Source,
    addresses: Vec<String>,
    incarnation: String,
    open: F,
) -> Result<RestoreReport, RestoreError>
where
    F: FnOnce(PathBuf) -> O,
    O: Future<Output = Result<Arc<dyn Import>, OpenError>>,
{
    init::refuse_to_overwrite(layout)?;
    let key = unlock(options, &source)?;
    let root = root_of(&key, &source)?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => init::host_name(),
    };
    check_dns_subdomain(&name).map_err(InitError::Name)?;
    let dir = &options.data_dir;
    let existed = dir.exists();
    files::create_private_dir(dir).map_err(|e| file_error(dir, e))?;
    let before = init::listing(dir)?;
    let file = ClusterFile {
        cluster: source.meta.cluster.clone(),
        incarnation: incarnation.clone(),
        name,
        addresses: addresses.clone(),
    };
    let made = make(options, layout, &source, &key, &root, file, open).await;
    if made.is_err() {
        init::clean_up(dir, existed, &before);
    }
    let entries = made?;
    Ok(report(
        source,
        incarnation,
        addresses,
        entries,
        Some(layout.admin_file()),
    ))
}

async fn make<F, O>(
    options: &RestoreOptions,
    layout: &Layout,
    source: &Source,
    key: &ClusterKey,
    root: &AuthorityCert,
    file: ClusterFile,
    open: F,
) -> Result<usize, RestoreError>
where
    F: FnOnce(PathBuf) -> O,
    O: Future<Output = Result<Arc<dyn Import>, OpenError>>,
{
    let now_ms = options.now_ms;
    let intermediate = issue::new_intermediate(root, &file.name, now_ms)?;
    let chain = format!("{}{}", intermediate.pem, root.pem);
    let issuer = Issuer::new(&file.cluster, &chain, &intermediate.key.serialize_pem())?;
    let (admin, serial) = init::admin_certificate(&issuer, &file, now_ms)?;
    let staged = Layout::new(&layout.staging());
    files::create_private_dir(&staged.ca_dir()).map_err(|e| file_error(&staged.ca_dir(), e))?;
    key.write(&staged.cluster_key())
        .map_err(|e| file_error(&staged.cluster_key(), e))?;
    let write =
        |path: PathBuf, text: String| files::write_private(&path, text.as_bytes()).map_err(|e| file_error(&path, e));
    write(staged.intermediate_key(), intermediate.key.serialize_pem())?;
    write(staged.intermediate_cert(), chain)?;
    write(staged.admin_file(), init::to_yaml(&admin)?)?;
    write(staged.cluster_file(), init::to_json(&file)?)?;
    let detail = format!("; admin certificate {serial}");
    let own = Own::new(&file.name, &issuer)?;
    let state = state_of(source, &own, &file.addresses, &file.incarnation, &detail, now_ms);
    let entries = state.entries.len();
    let store = fill(options, state, open).await?;
    let named = init::name_staged(&staged, layout).map_err(RestoreError::from);
    unless_done(&*store, named).await?;
    Ok(entries)
}

/// Takes the import back where what came after it failed. An error of that would only hide the one that matters.
async fn unless_done(store: &dyn Import, done: Result<(), RestoreError>) -> Result<(), RestoreError> {
    if done.is_err()
        && let Err(error) = store.withdraw().await
    {
        tracing::warn!(%error, "the restored state could not be taken back out of the store");
    }
    done
}

async fn fill<F, O>(options: &RestoreOptions, state: Imported, open: F) -> Result<Arc<dyn Import>, RestoreError>
where
    F: FnOnce(PathBuf) -> O,
    O: Future<Output = Result<Arc<dyn Import>, OpenError>>,
{
    let path = options.data_dir.join(SqliteStore::FILE);
    let in_use = || match &options.place {
        Some(place) => RestoreError::PlaceInUse { place: place.clone() },
        None => RestoreError::StoreInUse {
            path: path.display().to_string(),
        },
    };
    if options.place.is_none() && path.symlink_metadata().is_ok() {
        return Err(in_use());
    }
    let store = open(options.data_dir.clone()).await?;
    match store.import(state).await {
        Err(ImportError::NotEmpty) => Err(in_use()),
        other => {
            other?;
            Ok(store)
        }
    }
}

fn unlock(options: &RestoreOptions, source: &Source) -> Result<ClusterKey, RestoreError> {
    let file = || source.path.clone();
    if !source.backup.header.keys {
        return Err(RestoreError::NoKeys {
            dir: options.data_dir.display().to_string(),
            file: file(),
        });
    }
    let path = options
        .passphrase_file
        .as_ref()
        .ok_or_else(|| RestoreError::NoPassphrase { file: file() })?;
    let text = std::fs::read_to_string(path).map_err(|e| file_error(path, e))?;
    let words = text.lines().next().unwrap_or_default();
    ClusterKey::unlock(&source.meta.cluster, words, &source.backup.sealed)
        .map_err(|error| RestoreError::Passphrase { file: file(), error })
}

fn root_of(key: &ClusterKey, source: &Source) -> Result<AuthorityCert, RestoreError> {
    let plain = key
        .open(&source.meta.cluster, &source.meta.sealed_root_key)
        .map_err(|_| RestoreError::Content {
            path: source.path.clone(),
            what: "its keys are not those of its cluster".to_owned(),
        })?;
    Ok(AuthorityCert {
        pem: source.meta.root_pem.clone(),
        key: KeyPair::try_from(plain.as_slice()).map_err(IssueError::from)?,
    })
}

/// Revisions left free above a backup's: the history before went on after it, and nobody knows how far.
const GAP: u64 = 1 << 32;
/// More transactions than any disk makes durable in a millisecond.
const PER_MS: u64 = 64;

/// Pure: what the store begins with.
fn state_of(
    source: &Source,
    own: &Own,
    addresses: &[String],
    incarnation: &str,
    detail: &str,
    now_ms: u64,
) -> Imported {
    let header = &source.backup.header;
    let newest = Rv(header.newest);
    let since = now_ms.saturating_sub(header.taken_at_ms);
    let base = newest.revision().saturating_add(GAP.max(since.saturating_mul(PER_MS)));
    let mut entries: Vec<Entry> = source
        .backup
        .entries
        .iter()
        // Other coordinators join anew: certificates of one that is lost would be valid for whoever found its disk.
        .filter(|e| import_key(&e.key) && !matches!(keys::parse(&e.key), Parsed::Coordinator(_) | Parsed::Issuer(_)))
        .map(imported)
        .collect();
    let before = entries.iter().find(|e| e.key == keys::RESTORED);
    let before: RestoredRecord = before
        .and_then(|e| serde_json::from_slice(&e.value).ok())
        .unwrap_or_default();
    let mut from = before.from;
    from.push(Former {
        incarnation: source.meta.incarnation.clone(),
        newest,
    });
    let meta = ClusterMeta {
        incarnation: incarnation.to_owned(),
        addresses: addresses.to_vec(),
        ..source.meta.clone()
    };
    let restored = RestoredRecord {
        at_ms: now_ms,
        taken_at_ms: header.taken_at_ms,
        from,
        accepted: None,
    };
    let taken = proto::model::Time::from_millis(header.taken_at_ms);
    let words = format!("backup of {taken}, incarnation {}{detail}", source.meta.incarnation);
    let audit = AuditRecord::new(now_ms, "host", "restore", format!("clusters/{}", meta.cluster), words).change();
    let known = on_record(source, &own.name);
    let address = addresses.first().cloned().unwrap_or_default();
    let record = CoordinatorRecord {
        enrol: match &known {
            Some(known) if known.address == address => known.enrol.clone(),
            _ => init::enrol_address(&address),
        },
        joined: known.map_or(Time::from_millis(now_ms), |known| known.joined),
        version: proto::VERSION.to_owned(),
        address,
    };
    let new = [
        (META_CLUSTER.to_owned(), encode(&meta)),
        (keys::RESTORED.to_owned(), encode(&restored)),
        (audit.key, audit.value.unwrap_or_default().into()),
        (keys::coordinator(&own.name), encode(&record)),
        (keys::issuer(&own.name), encode(&own.issuer)),
    ];
    let last = u16::try_from(new.len() - 1).unwrap_or(u16::MAX);
    for (ordinal, (key, value)) in (0..).zip(new) {
        entries.retain(|e| e.key != key);
        entries.push(Entry {
            rv: Rv::new(base, ordinal),
            key,
            value: value.into(),
        });
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Imported {
        entries,
        newest: Rv::new(base, last),
        base,
    }
}

fn imported(entry: &backup::Entry) -> Entry {
    Entry {
        rv: Rv(entry.rv),
        key: entry.key.clone(),
        value: entry.value.clone().into(),
    }
}

fn report(
    source: Source,
    incarnation: String,
    addresses: Vec<String>,
    entries: usize,
    admin_file: Option<PathBuf>,
) -> RestoreReport {
    RestoreReport {
        cluster: source.meta.cluster,
        incarnation,
        addresses,
        entries,
        taken_at_ms: source.backup.header.taken_at_ms,
        admin_file,
    }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
