//! Calls on the members of an etcd cluster: one client an endpoint, our own failover, a deadline on every call. Called by
//! all of the etcd store.
//!
//! Invariant: no call waits longer than its deadline, and an error says of each endpoint that was asked what it
//! answered. A call may reach etcd more than once: what changes something must bear that.

use std::{
    error::Error as _,
    fmt,
    future::Future,
    io,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, KvClient, TlsOptions};
use proto::{identity::validity_of_certificate, model::Time};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use tokio::time::Instant;

use super::EtcdOptions;
use crate::store::OpenError;

/// Largest answer that is taken: a page of a load, or a batch of a watch.
pub(super) const MAX_MESSAGE: usize = 256 << 20;

pub(super) struct Endpoint {
    pub(super) url: String,
    client: Client,
    /// What it last answered wrongly; none: it serves.
    fault: Mutex<Option<String>>,
    /// Bytes that it may hold, once known.
    pub(super) quota: OnceLock<u64>,
}

impl Endpoint {
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_MESSAGE)
    }

    /// Keeps what it answered and says it once.
    pub(super) fn note(&self, fault: Option<&str>) {
        let mut kept = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_deref() == fault {
            return;
        }
        match (fault, kept.is_some()) {
            (Some(why), false) => tracing::warn!(endpoint = self.url, "etcd does not serve here: {why}"),
            (None, true) => tracing::info!(endpoint = self.url, "etcd serves here again"),
            _ => {}
        }
        *kept = fault.map(str::to_owned);
    }
}

/// All members that we were told of.
pub(super) struct Cluster {
    pub(super) endpoints: Vec<Endpoint>,
    preferred: AtomicUsize,
    /// How long one endpoint has before another is asked.
    patience: Duration,
    /// Those of the connections, with their ends.
    pub(super) certificates: Vec<(String, Time)>,
    pub(super) tls: Option<TlsOptions>,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// etcd refused it: nothing was done, and it would not be another time.
    Refused(String),
    /// The quota is used up; nothing was done.
    NoSpace(String),
    /// What was asked for is no longer kept.
    Compacted(String),
    /// No endpoint got the request.
    Unsent(String),
    /// Some endpoint may have got it.
    Unclear(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Refused(s) | Self::NoSpace(s) | Self::Compacted(s) | Self::Unsent(s) | Self::Unclear(s)) = self;
        f.write_str(s)
    }
}

impl Failure {
    /// Asking another endpoint may help.
    fn passes(&self) -> bool {
        matches!(self, Self::Unsent(_) | Self::Unclear(_))
    }
}

impl Cluster {
    /// Connects to nothing yet, so that the order in which etcd and we start does not matter.
    pub(super) async fn new(options: &EtcdOptions) -> Result<Self, OpenError> {
        let connect = connect_options(options)?;
        let mut endpoints = Vec::new();
        for url in &options.endpoints {
            let connect = connect.clone().with_require_leader(true);
            endpoints.push(Endpoint {
                url: url.clone(),
                client: open(url, connect).await?,
                fault: Mutex::default(),
                quota: OnceLock::new(),
            });
        }
        Ok(Self {
            endpoints,
            preferred: AtomicUsize::new(0),
            patience: options.patience,
            certificates: certificates(options),
            tls: tls(options)?,
        })
    }

    /// The endpoint that serves, as far as we know, and the others after it.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &Endpoint> {
        let first = self.preferred.load(Ordering::Relaxed);
        let n = self.endpoints.len();
        (0..n).filter_map(move |i| self.endpoints.get((first + i) % n))
    }

    pub(super) fn prefer(&self, endpoint: &Endpoint) {
        if let Some(i) = self.endpoints.iter().position(|e| e.url == endpoint.url) {
            self.preferred.store(i, Ordering::Relaxed);
        }
        endpoint.note(None);
    }

    /// Asks one endpoint after the other, again and again, until one answers or `deadline` has passed.
    pub(super) async fn call<T, F>(&self, deadline: Duration, ask: impl Fn(KvClient) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_with(deadline, self.patience, ask).await
    }

    /// As [`Self::call`], with another patience for each endpoint: for what is small, asked often, and safe to ask again.
    pub(super) async fn call_with<T, F>(
        &self,
        deadline: Duration,
        patience: Duration,
        ask: impl Fn(KvClient) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let until = Instant::now() + deadline;
        let mut unclear = false;
        let mut pause = Duration::from_millis(20);
        loop {
            let mut reasons = Vec::new();
            for endpoint in self.in_turn() {
                let left = until.saturating_duration_since(Instant::now());
                let attempt = Attempt::new(self, endpoint);
                let answer = tokio::time::timeout(left.min(patience), ask(endpoint.kv())).await;
                let failure = match answer {
                    Ok(Ok(answer)) => {
                        attempt.answered();
                        self.prefer(endpoint);
                        return Ok(answer);
                    }
                    Ok(Err(error)) => classify(&error),
                    Err(_) => Failure::Unclear("it did not answer in time".to_owned()),
                };
                if !failure.passes() {
                    return Err(failure);
                }
                unclear |= matches!(failure, Failure::Unclear(_));
                let why = failure.to_string();
                endpoint.note(Some(&why));
                reasons.push(format!("{}: {why}", endpoint.url));
            }
            if Instant::now() + pause >= until {
                let reasons = reasons.join("; ");
                return Err(if unclear {
                    Failure::Unclear(reasons)
                } else {
                    Failure::Unsent(reasons)
                });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }
}

/// An endpoint that is being asked. Where nobody waits for its answer any more, the next call begins with another one:
/// else whoever gives up sooner than this would ask the one that hangs for ever.
struct Attempt<'c> {
    cluster: &'c Cluster,
    index: usize,
    since: Instant,
    answered: bool,
}

/// Who gives up sooner had other reasons.
const HANGS: Duration = Duration::from_millis(100);

impl<'c> Attempt<'c> {
    fn new(cluster: &'c Cluster, endpoint: &Endpoint) -> Self {
        let index = cluster.endpoints.iter().position(|e| std::ptr::eq(e, endpoint));
        Self {
            cluster,
            index: index.unwrap_or_default(),
            since: Instant::now(),
            answered: false,
        }
    }

    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= HANGS {
            let next = (self.index + 1) % self.cluster.endpoints.len().max(1);
            // Another call may have found a better one.
            let preferred = &self.cluster.preferred;
            let _ = preferred.compare_exchange(self.index, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// A client of one endpoint; it connects when it is first used, and again after a loss.
pub(super) async fn open(url: &str, options: ConnectOptions) -> Result<Client, OpenError> {
    Client::connect([url], Some(options)).await.map_err(|e| {
        let why = words(&e);
        let what = if why.contains("KeyMismatch") {
            "--etcd-cert and --etcd-key do not belong together: name a certificate and its own key".to_owned()
        } else {
            format!("cannot be used: {why}; check --etcd-ca, --etcd-cert and --etcd-key")
        };
        OpenError::Io {
            path: format!("etcd endpoint {url}"),
            what,
        }
    })
}

pub(super) fn connect_options(options: &EtcdOptions) -> Result<ConnectOptions, OpenError> {
    // etcd drops a connection that pings more often than every 5 s; what hangs is noticed by the deadlines instead.
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(options.patience)
        .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5));
    if let Some(tls) = tls(options)? {
        connect = connect.with_tls(tls);
    }
    Ok(connect)
}

fn tls(options: &EtcdOptions) -> Result<Option<TlsOptions>, OpenError> {
    let Some(files) = &options.tls else { return Ok(None) };
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|e| OpenError::Io {
            path: path.display().to_string(),
            what: format!("cannot be read: {e}; name the file by --etcd-ca, --etcd-cert and --etcd-key"),
        })
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&files.ca)?));
    if let Some((cert, key)) = &files.identity {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(Some(tls))
}

/// What the connections rest on until the process ends, and when that is over. What cannot be read has been refused.
fn certificates(options: &EtcdOptions) -> Vec<(String, Time)> {
    let Some(files) = &options.tls else { return Vec::new() };
    let client = files.identity.as_ref().map(|(cert, _)| ("etcd client", cert));
    let all = [Some(("etcd CA", &files.ca)), client].into_iter().flatten();
    let ends = all.filter_map(|(of, path)| {
        let der = CertificateDer::from_pem_file(path).ok()?;
        let (_, until) = validity_of_certificate(&der).ok()?;
        Some((of.to_owned(), Time(i64::try_from(until).ok()?)))
    });
    ends.collect()
}

/// What an error means for the request that got it.
pub(super) fn classify(error: &Error) -> Failure {
    use tonic::Code;
    let why = words(error);
    let Error::GRpcStatus(status) = error else {
        return if never_connected(error) {
            Failure::Unsent(why)
        } else {
            Failure::Unclear(why)
        };
    };
    match status.code() {
        Code::ResourceExhausted if status.message().contains("database space exceeded") => Failure::NoSpace(why),
        Code::OutOfRange if status.message().contains("compacted") => Failure::Compacted(why),
        Code::ResourceExhausted if status.message().contains("too many requests") => Failure::Unsent(why),
        Code::Unavailable if status.message().contains("no leader") => Failure::Unsent(why),
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::NotFound
        | Code::Unimplemented => Failure::Refused(why),
        _ if never_connected(error) => Failure::Unsent(why),
        _ => Failure::Unclear(why),
    }
}

/// True only where no byte of the request can have left.
fn never_connected(error: &Error) -> bool {
    let mut source = error_source(error);
    while let Some(e) = source {
        if let Some(e) = e.downcast_ref::<io::Error>() {
            let kind = e.kind();
            if matches!(
                kind,
                io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
            ) {
                return true;
            }
        }
        source = e.source();
    }
    false
}

fn error_source(error: &Error) -> Option<&(dyn std::error::Error + 'static)> {
    match error {
        Error::GRpcStatus(status) => status.source(),
        Error::TransportError(e) => e.source(),
        Error::IoError(e) => Some(e),
        _ => None,
    }
}

/// The error in one line, its cause included.
pub(super) fn words(error: &Error) -> String {
    let mut text = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut source = error_source(error);
    let mut deepest = None;
    while let Some(e) = source {
        deepest = Some(e.to_string());
        source = e.source();
    }
    if let Some(cause) = deepest.filter(|cause| !text.contains(cause.as_str())) {
        text = format!("{text}: {cause}");
    }
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // The two that an operator meets first.
    if text.contains("invalid peer certificate") {
        format!("its certificate is not one of --etcd-ca's, or not for this address ({text})")
    } else if text.contains("received fatal alert") || text.contains("CertificateRequired") {
        format!("it refused our certificate: check --etcd-cert and --etcd-key ({text})")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn only_what_surely_was_not_done_is_called_so() {
        let of = |status: Status| classify(&Error::GRpcStatus(status));
        let cause = |e: io::Error| {
            let mut status = Status::unavailable("tcp connect error");
            status.set_source(std::sync::Arc::new(e));
            status
        };
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(matches!(of(cause(refused)), Failure::Unsent(why) if why.contains("refused")));
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(matches!(of(cause(reset)), Failure::Unclear(_)));
        for (status, expected) in [
            (Status::unavailable("etcdserver: no leader"), "Unsent"),
            (Status::unavailable("etcdserver: request timed out"), "Unclear"),
            (Status::unavailable("etcdserver: leader changed"), "Unclear"),
            (Status::unknown("?"), "Unclear"),
            (Status::cancelled("?"), "Unclear"),
            (Status::deadline_exceeded("?"), "Unclear"),
            (Status::internal("h2"), "Unclear"),
            (
                Status::resource_exhausted("etcdserver: mvcc: database space exceeded"),
                "NoSpace",
            ),
            (Status::resource_exhausted("etcdserver: too many requests"), "Unsent"),
            (Status::invalid_argument("etcdserver: request is too large"), "Refused"),
            (
                Status::out_of_range("etcdserver: mvcc: required revision has been compacted"),
                "Compacted",
            ),
        ] {
            let text = status.message().to_owned();
            assert!(format!("{:?}", of(status)).starts_with(expected), "{text}");
        }
    }
}
