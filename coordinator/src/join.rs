//! `wharf-coordinator join`: a data directory becomes that of another coordinator of a cluster. Called by `main` and by
//! tests.
//!
//! Invariant: no byte of the token leaves before a peer proved to hold the pinned root's trust; every attempt in one
//! directory uses one key, on disk before it is sent; nothing is overwritten, and `cluster.json` is written last and is
//! the mark that all else is there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use proto::{
    files::{self, FileError, file_error},
    identity::{Role, spki_sha256},
    model::labels::check_dns_label,
    pin::{self, PinError},
    token::{JoinToken, TokenError},
    wire::{self, enrol_client::EnrolClient},
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::{
    ca::{issue::Issuer, issuers::signed, secret::ClusterKey},
    init::{self, InitError, SESSION_PORT, check_address, enrol_address},
    layout::{ClusterFile, Layout},
    leader::guard::{Guard, GuardError, Mark},
    store::sqlite::SqliteStore,
};

/// Durations of joining.
#[derive(Clone, Copy, Debug)]
pub struct JoinTimes {
    pub connect: Duration,
    pub request: Duration,
    /// Rounds over all peers, and the pause after the first one, doubling.
    pub rounds: u32,
    pub pause: Duration,
}

impl Default for JoinTimes {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(20),
            rounds: 5,
            pause: Duration::from_millis(500),
        }
    }
}

#[derive(Clone)]
pub struct JoinOptions {
    pub data_dir: PathBuf,
    /// The token's text; secret.
    pub token: String,
    /// Enrolment addresses of coordinators, HOST:PORT.
    pub peers: Vec<String>,
    /// `None`: the first label of the machine's host name.
    pub name: Option<String>,
    /// Where agents, the command and peers will reach this one; `None`: this machine's address and [`SESSION_PORT`].
    pub advertise: Option<String>,
    /// Where hosts will join it, HOST:PORT; `None`: on the port after `advertise`'s.
    pub enrol: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    pub times: JoinTimes,
}

impl std::fmt::Debug for JoinOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinOptions")
            .field("data_dir", &self.data_dir)
            .field("peers", &self.peers)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReport {
    pub cluster: String,
    pub name: String,
    /// Session addresses of all coordinators, as of now.
    pub coordinators: Vec<String>,
    /// Where the cluster's state is kept, as `run --store` names it; empty: not stated.
    pub store: String,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("--token-file {path}: {what}")]
    TokenFile { path: String, what: String },
    #[error("--token or --token-file is not given; make a token with wharf token create --role coordinator")]
    NoToken,
    #[error("--peers: {0:?} is not HOST:PORT, e.g. coordinator.example:7444")]
    Peer(String),
    #[error("--advertise {0:?} is not HOST:PORT with a port after it for joining; choose another one, or give --enrol")]
    Advertise(String),
    #[error("--enrol {0:?} is not HOST:PORT, e.g. coordinator.example:7444")]
    Enrol(String),
    #[error("--name: {0}")]
    Name(String),
    /// The directory is in use.
    #[error(transparent)]
    Directory(#[from] InitError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(
        "{address} is not a coordinator of the token's cluster ({what}); nothing was sent to it: check --peers, or make a new token there"
    )]
    WrongRoot { address: String, what: String },
    #[error(
        "{address}: the coordinator's certificate is not valid at this host's time, {now} ({what}); set the clock of whichever is wrong"
    )]
    Clock { address: String, now: String, what: String },
    /// The coordinator's own words.
    #[error("{address}: {message}")]
    Refused { address: String, message: String },
    #[error(
        "{address}: {message}; run the same command again: its key is kept in {kept}, so that this costs no further use of the token"
    )]
    Unavailable {
        address: String,
        message: String,
        kept: String,
    },
    #[error("{address}: the answer cannot be used ({what}); nothing was kept of it")]
    Answer { address: String, what: String },
}

impl JoinError {
    /// What was asked for is wrong in itself.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoToken | Self::Peer(_) | Self::Advertise(_) | Self::Enrol(_) | Self::Name(_)
        )
    }
}

/// The token from a flag or a file; neither is a refusal.
pub fn read_token(text: Option<String>, file: Option<&Path>) -> Result<String, JoinError> {
    match (text, file) {
        (Some(text), _) => Ok(text),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| JoinError::TokenFile {
            path: path.display().to_string(),
            what: e.to_string(),
        }),
        (None, None) => Err(JoinError::NoToken),
    }
}

/// What this coordinator will be, checked.
struct Wanted {
    name: String,
    address: String,
    enrol: String,
}

impl Wanted {
    fn new(options: &JoinOptions) -> Result<Self, JoinError> {
        for peer in &options.peers {
            check_address(peer).map_err(|_| JoinError::Peer(peer.clone()))?;
        }
        let address = match &options.advertise {
            Some(address) => check_address(address).map_err(|_| JoinError::Advertise(address.clone()))?,
            None => format!("{}:{SESSION_PORT}", init::own_address()),
        };
        let enrol = match &options.enrol {
            Some(enrol) => check_address(enrol).map_err(|_| JoinError::Enrol(enrol.clone()))?,
            None => enrol_address(&address),
        };
        if enrol.is_empty() {
            return Err(JoinError::Advertise(address));
        }
        let name = match &options.name {
            Some(name) => name.clone(),
            None => init::host_name().split('.').next().unwrap_or_default().to_owned(),
        };
        check_dns_label(&name).map_err(JoinError::Name)?;
        Ok(Self { name, address, enrol })
    }
}

/// Joins. Where an earlier attempt in this directory was interrupted it is finished.
pub async fn join(options: &JoinOptions) -> Result<JoinReport, JoinError> {
    let wanted = Wanted::new(options)?;
    let token = JoinToken::parse(&options.token)?.expect_role(Role::Coordinator)?;
    let layout = Layout::new(&options.data_dir);
    let staged = Layout::new(&layout.joining());
    if staged.cluster_file().exists() {
        // All of the answer lies here, and only its names are missing.
        return finish(&layout, &staged, String::new());
    }
    init::refuse_to_overwrite(&layout)?;
    let store = options.data_dir.join(SqliteStore::FILE);
    if store.exists() {
        let path = store.display().to_string();
        return Err(InitError::Exists { path }.into());
    }
    let existed = (options.data_dir.exists(), layout.joining().exists());
    let key = own_key(&staged)?;
    let attempt = Attempt {
        options,
        wanted: &wanted,
        token: &token,
        csr: csr(&key).map_err(|e| file_error(&staged.intermediate_key(), e))?,
    };
    let kept = layout.joining().display().to_string();
    match attempt.run(&kept).await {
        Ok((address, cluster, reply)) => {
            let store = reply.store.clone();
            let what = |what: String| JoinError::Answer {
                address: address.clone(),
                what,
            };
            let answer = Answer::check(&cluster, &token, &key, reply).map_err(what)?;
            answer.stage(&staged, &wanted.name)?;
            finish(&layout, &staged, store)
        }
        Err(error) => {
            // The key of an attempt that may have been taken is the way back to it.
            if !matches!(error, JoinError::Unavailable { .. }) {
                discard(&layout, existed);
            }
            Err(error)
        }
    }
}

/// Removes what this attempt made; an error here would only hide the one that matters.
fn discard(layout: &Layout, (directory, joining): (bool, bool)) {
    if !joining {
        let _ = std::fs::remove_dir_all(layout.joining());
    }
    if !directory {
        let _ = std::fs::remove_dir(layout.dir());
    }
}

/// The intermediate's key: made once, and on disk before it is used.
fn own_key(staged: &Layout) -> Result<KeyPair, JoinError> {
    let path = staged.intermediate_key();
    match std::fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|_| {
            file_error(
                &path,
                "it does not parse; remove the directory it lies in, and join again",
            )
            .into()
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let dir = staged.ca_dir();
            files::create_private_dir(&dir).map_err(|e| file_error(&dir, e))?;
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| file_error(&path, e))?;
            files::write_private(&path, key.serialize_pem().as_bytes()).map_err(|e| file_error(&path, e))?;
            Ok(key)
        }
        Err(e) => Err(file_error(&path, e).into()),
    }
}

/// Carries the public key and a proof of possession; every other field is the signer's.
fn csr(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

struct Attempt<'a> {
    options: &'a JoinOptions,
    wanted: &'a Wanted,
    token: &'a JoinToken,
    csr: Vec<u8>,
}

impl Attempt<'_> {
    /// The peer that answered, the cluster that it proved to belong to, and its answer.
    async fn run(&self, kept: &str) -> Result<(String, String, wire::JoinCoordinatorReply), JoinError> {
        let times = &self.options.times;
        let mut pause = times.pause;
        let mut last = JoinError::Peer(String::new());
        for round in 0..times.rounds.max(1) {
            if round > 0 {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
            }
            let mut passes = false;
            for address in &self.options.peers {
                match self.ask(address).await {
                    Ok((cluster, reply)) => return Ok((address.clone(), cluster, reply)),
                    Err(error) => {
                        let error = self.error(address, kept, error);
                        let refused = matches!(error, JoinError::Refused { .. });
                        let transient = matches!(error, JoinError::Unavailable { .. });
                        // A coordinator of the right cluster has decided.
                        if refused {
                            return Err(error);
                        }
                        tracing::warn!(%error, "cannot join here");
                        // What may pass is worth another round, whatever else was seen.
                        if transient || !passes {
                            last = error;
                        }
                        passes |= transient;
                    }
                }
            }
            if !passes {
                break;
            }
        }
        Err(last)
    }

    async fn ask(&self, address: &str) -> Result<(String, wire::JoinCoordinatorReply), PinError> {
        let times = &self.options.times;
        let (channel, cluster) = pin::connect(address, self.token.root_spki, times.connect, times.request).await?;
        let request = wire::JoinCoordinatorRequest {
            token: self.token.reveal(),
            csr_der: self.csr.clone(),
            name: self.wanted.name.clone(),
            address: self.wanted.address.clone(),
            enrol_address: self.wanted.enrol.clone(),
            clock_ms: self.options.now_ms,
            version: proto::VERSION.to_owned(),
        };
        let reply = EnrolClient::new(channel).join_coordinator(request).await;
        Ok((cluster, reply.map_err(|status| pin::refusal(&status))?.into_inner()))
    }

    fn error(&self, address: &str, kept: &str, error: PinError) -> JoinError {
        let address = address.to_owned();
        match error {
            PinError::Address => JoinError::Peer(address),
            PinError::WrongRoot(what) => JoinError::WrongRoot { address, what },
            PinError::Clock { now, what } => JoinError::Clock { address, now, what },
            PinError::Refused(message) => JoinError::Refused { address, message },
            PinError::Unavailable(message) => JoinError::Unavailable {
                address,
                message,
                kept: kept.to_owned(),
            },
        }
    }
}

/// The active coordinator's answer, checked against what was asked and pinned.
struct Answer {
    chain: String,
    secret: ClusterKey,
    file: ClusterFile,
    mark: Mark,
}

impl Answer {
    fn check(
        cluster: &str,
        token: &JoinToken,
        key: &KeyPair,
        reply: wire::JoinCoordinatorReply,
    ) -> Result<Self, String> {
        if reply.cluster_id != cluster {
            return Err("it names another cluster than the coordinator's certificate".into());
        }
        let issuer = Issuer::new(cluster, &reply.chain_pem, &key.serialize_pem()).map_err(|e| e.to_string())?;
        if spki_sha256(&issuer.root) != Ok(token.root_spki) {
            return Err("its root is not the token's".into());
        }
        if !signed(&issuer.intermediate, &issuer.root) {
            return Err("its root did not sign the intermediate".into());
        }
        if reply.incarnation.is_empty() || reply.coordinators.is_empty() {
            return Err("it is not whole".into());
        }
        let secret = ClusterKey::from_bytes(&reply.cluster_key).map_err(|e| format!("the cluster's key {e}"))?;
        Ok(Self {
            chain: reply.chain_pem,
            secret,
            mark: Mark {
                cluster: cluster.to_owned(),
                incarnation: reply.incarnation.clone(),
                term: reply.term,
                revision: reply.revision,
            },
            file: ClusterFile {
                cluster: cluster.to_owned(),
                incarnation: reply.incarnation,
                name: String::new(),
                addresses: reply.coordinators,
            },
        })
    }

    /// Writes all of it beside the key, `cluster.json` last.
    fn stage(self, staged: &Layout, name: &str) -> Result<(), JoinError> {
        let file = ClusterFile {
            name: name.to_owned(),
            ..self.file
        };
        let path = staged.cluster_key();
        self.secret.write(&path).map_err(|e| file_error(&path, e))?;
        let path = staged.intermediate_cert();
        files::write_private(&path, self.chain.as_bytes()).map_err(|e| file_error(&path, e))?;
        // From its first start on it refuses a store that cannot be the cluster's.
        Guard::open(staged.dir())?.record(self.mark)?;
        let path = staged.cluster_file();
        let json = serde_json::to_vec_pretty(&file).map_err(|e| file_error(&path, e))?;
        files::write_private(&path, &json).map_err(|e| file_error(&path, e).into())
    }
}

/// Gives all that is staged its name, `cluster.json` last. May be repeated after a crash at any point.
fn finish(layout: &Layout, staged: &Layout, store: String) -> Result<JoinReport, JoinError> {
    let file = staged.cluster_file();
    let file = ClusterFile::read(&file).map_err(|what| file_error(&file, what))?;
    let places = [
        (staged.cluster_key(), layout.cluster_key()),
        (staged.ca_dir(), layout.ca_dir()),
        (staged.served_file(), layout.served_file()),
        (staged.cluster_file(), layout.cluster_file()),
    ];
    for (from, to) in places {
        match (from.exists(), to.exists()) {
            (true, false) => std::fs::rename(&from, &to).map_err(|e| file_error(&to, e))?,
            // It got its name before the crash.
            (false, true) => {}
            (true, true) => {
                return Err(file_error(
                    &to,
                    format!("exists, and so does {}: choose another --data-dir", from.display()),
                )
                .into());
            }
            (false, false) => return Err(file_error(&from, "is missing; remove its directory and join again").into()),
        }
    }
    let dir = layout.dir();
    files::sync_dir(dir).map_err(|e| file_error(dir, e))?;
    std::fs::remove_dir(layout.joining()).map_err(|e| file_error(&layout.joining(), e))?;
    files::sync_dir(dir).map_err(|e| file_error(dir, e))?;
    Ok(JoinReport {
        cluster: file.cluster,
        name: file.name,
        coordinators: file.addresses,
        store,
    })
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
