//! Joining: one token, any reachable coordinator, one identity. Called by the agent's `run` where no identity
//! is on disk.
//!
//! Invariant: no byte of the token leaves before the coordinator proved to hold the pinned root's trust; every
//! attempt of one host uses one key.

use std::{path::PathBuf, time::Duration};

use proto::{
    identity::Role,
    pin::{self, PinError},
    token::{JoinToken, TokenError},
    wire::{self, enrol_client::EnrolClient},
};
use ring::rand::SecureRandom as _;
use tonic::{Status, transport::Channel};

use super::disk::{self, Identity, IdentityError};

/// Durations of joining.
#[derive(Clone, Copy, Debug)]
pub struct EnrolTimes {
    pub connect: Duration,
    pub request: Duration,
    /// First pause after a failed round, doubling up to the longest, each ±50 %.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

impl Default for EnrolTimes {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(20),
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(30),
        }
    }
}

#[derive(Clone)]
pub struct EnrolOptions {
    pub data_dir: PathBuf,
    /// Session addresses, HOST:PORT; enrolment is on the port after it.
    pub coordinators: Vec<String>,
    /// Enrolment addresses, HOST:PORT, where they are not on the port after; empty: they are.
    pub enrol: Vec<String>,
    /// The token's text; secret.
    pub token: String,
    /// The node's name.
    pub name: String,
    /// What tells this machine from others; empty: nothing does.
    pub machine_id: String,
    /// Another agent may run on this machine.
    pub shared_host: bool,
    /// What the host is, in the words of image manifests; empty: not stated.
    pub architecture: String,
    pub operating_system: String,
    pub times: EnrolTimes,
}

impl std::fmt::Debug for EnrolOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolOptions")
            .field("coordinators", &self.coordinators)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("--coordinators: {0:?} is not HOST:PORT")]
    Address(String),
    #[error("--coordinators is empty; give the address that `wharf token create` printed")]
    NoAddress,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "{address} is not a coordinator of the token's cluster ({what}); nothing was sent to it: check --coordinators, or make a new token there"
    )]
    WrongRoot { address: String, what: String },
    #[error(
        "{address}: the coordinator's certificate is not valid at this host's time, {now} ({what}); set the clock of whichever is wrong"
    )]
    Clock { address: String, now: String, what: String },
    /// The coordinator's own words.
    #[error("{address}: {message}")]
    Refused { address: String, message: String },
    /// May pass: not reachable, not active, too many at once.
    #[error("{address}: {message}")]
    Unavailable { address: String, message: String },
}

impl EnrolError {
    /// Whether another attempt with the same options can succeed. If not, the agent exits non-zero.
    pub fn transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Joins, or answers the identity on disk without reading the token. Tries again with backoff and jitter while
/// the failure may pass; drop the future to stop. `on_wait` hears of each failed round and the pause after it.
pub async fn join(
    options: &EnrolOptions,
    mut on_wait: impl FnMut(&EnrolError, Duration),
) -> Result<Identity, EnrolError> {
    let mut pause = options.times.backoff;
    loop {
        match enrol(options).await {
            Err(error) if error.transient() => {
                let wait = jittered(pause);
                on_wait(&error, wait);
                tokio::time::sleep(wait).await;
                pause = pause.saturating_mul(2).min(options.times.max_backoff);
            }
            done => return done,
        }
    }
}

/// One round over all addresses.
pub async fn enrol(options: &EnrolOptions) -> Result<Identity, EnrolError> {
    if let Some(identity) = Identity::load(&options.data_dir)? {
        disk::forget_enrolment_key(&options.data_dir);
        return Ok(identity);
    }
    let token = JoinToken::parse(&options.token)?.expect_role(Role::Agent)?;
    let addresses = enrol_addresses(options)?;
    let key = disk::enrolment_key(&options.data_dir)?;
    let csr = disk::csr(&key)?;

    let mut last = EnrolError::NoAddress;
    for address in addresses {
        let attempt = Attempt {
            options,
            token: &token,
            address: &address,
            csr: &csr,
        };
        match attempt.run().await {
            Ok((cluster, reply)) => {
                let issued = reply
                    .issued
                    .ok_or_else(|| IdentityError::Answer("it holds no certificate".into()))?;
                if reply.cluster_id != cluster {
                    return Err(IdentityError::Answer("it names another cluster than its certificate".into()).into());
                }
                let coordinators = if reply.coordinators.is_empty() {
                    options.coordinators.clone()
                } else {
                    reply.coordinators
                };
                let identity = Identity::from_issued(&cluster, &reply.node_name, coordinators, &key, issued)?;
                identity.save(&options.data_dir)?;
                disk::forget_enrolment_key(&options.data_dir);
                return Ok(identity);
            }
            // A coordinator of the right cluster has decided.
            Err(error @ EnrolError::Refused { .. }) => return Err(error),
            // Another address may do. What may pass is worth another round, whatever else was seen.
            Err(error) if last.transient() && !error.transient() => tracing::warn!(%error, "cannot join here"),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Enrolment addresses: those given, else the port after each session port.
pub(super) fn enrol_addresses(options: &EnrolOptions) -> Result<Vec<String>, EnrolError> {
    let split = |address: &String| -> Result<(String, u16), EnrolError> {
        address
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(host, port)| Some((host.to_owned(), port.parse::<u16>().ok()?)))
            .ok_or_else(|| EnrolError::Address(address.clone()))
    };
    if !options.enrol.is_empty() {
        options.enrol.iter().try_for_each(|a| split(a).map(|_| ()))?;
        return Ok(options.enrol.clone());
    }
    if options.coordinators.is_empty() {
        return Err(EnrolError::NoAddress);
    }
    options
        .coordinators
        .iter()
        .map(|address| {
            let (host, port) = split(address)?;
            let port = port
                .checked_add(1)
                .ok_or_else(|| EnrolError::Address(address.clone()))?;
            Ok(format!("{host}:{port}"))
        })
        .collect()
}

struct Attempt<'a> {
    options: &'a EnrolOptions,
    token: &'a JoinToken,
    address: &'a str,
    csr: &'a [u8],
}

impl Attempt<'_> {
    /// The cluster that the coordinator proved to belong to, and its answer.
    async fn run(&self) -> Result<(String, wire::EnrolReply), EnrolError> {
        let times = &self.options.times;
        let (channel, cluster) = pin::connect(self.address, self.token.root_spki, times.connect, times.request)
            .await
            .map_err(|error| self.error(error))?;
        let reply = self.ask(channel).await;
        let reply = reply.map_err(|status| self.error(pin::refusal(&status)))?;
        Ok((cluster, reply))
    }

    async fn ask(&self, channel: Channel) -> Result<wire::EnrolReply, Status> {
        let request = wire::EnrolRequest {
            token: self.token.reveal(),
            csr_der: self.csr.to_vec(),
            node_name: self.options.name.clone(),
            clock_ms: now_ms(),
            version: proto::VERSION.to_owned(),
            machine_id: self.options.machine_id.clone(),
            shared_host: self.options.shared_host,
            architecture: self.options.architecture.clone(),
            operating_system: self.options.operating_system.clone(),
        };
        Ok(EnrolClient::new(channel).enrol(request).await?.into_inner())
    }

    fn error(&self, error: PinError) -> EnrolError {
        let address = self.address.to_owned();
        match error {
            PinError::Address => EnrolError::Address(address),
            PinError::WrongRoot(what) => EnrolError::WrongRoot { address, what },
            PinError::Clock { now, what } => EnrolError::Clock { address, now, what },
            PinError::Refused(message) => EnrolError::Refused { address, message },
            PinError::Unavailable(message) => EnrolError::Unavailable { address, message },
        }
    }
}

pub(super) fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// ±50 %, so that hosts started together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let mut byte = [128u8];
    // Without random numbers the pause is the middle one.
    let _ = ring::rand::SystemRandom::new().fill(&mut byte);
    pause / 2 + pause * u32::from(byte[0]) / 255
}
