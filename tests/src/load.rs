//! A load that hides nothing: at a steady rate one request a connection, to each address of a controller's endpoints in
//! turn, as read from the coordinator once a second. Used by tests that change a workload while it is in use.
//!
//! Invariant: nothing is tried twice; a request that has no complete 200 answer in time is counted as failed, by what
//! befell it, and so is one for which there is no address.

use std::{
    collections::BTreeMap,
    fmt,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// How often the endpoints are read.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Failures that are told one by one.
const TOLD: usize = 10;

/// Where the requests go.
#[derive(Clone, Debug)]
pub enum To {
    /// The ready addresses of these endpoints; `http` is the coordinator's HOST:PORT, or those of several with commas
    /// between them, of which the first that answers is believed.
    Endpoints {
        http: String,
        namespace: String,
        name: String,
    },
    /// One address, such as a load balancer's.
    Fixed(SocketAddr),
}

#[derive(Clone, Debug)]
pub struct Options {
    pub to: To,
    pub path: String,
    /// Requests a second.
    pub rate: u32,
    /// For connection, request and answer together.
    pub limit: Duration,
}

impl Options {
    pub fn new(to: To) -> Self {
        Self {
            to,
            path: "/".into(),
            rate: 100,
            limit: Duration::from_secs(5),
        }
    }
}

/// What became of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub sent: u64,
    pub ok: u64,
    /// By what befell them: `refused`, `reset`, `timeout`, `cut short`, `no address`, `status 503`, …
    pub failed: BTreeMap<String, u64>,
    /// The first failures: when, where, what.
    pub first: Vec<String>,
    /// Good answers by address.
    pub by_address: BTreeMap<String, u64>,
    /// How often the endpoints could not be read; the requests went on to the addresses known before.
    pub unread: u64,
}

impl Report {
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests, {} failed", self.sent, self.failures())?;
        for (what, n) in &self.failed {
            write!(f, ", {n} {what}")?;
        }
        for first in &self.first {
            write!(f, "\n  {first}")?;
        }
        Ok(())
    }
}

/// A load that runs until it is stopped.
pub struct Load {
    stop: CancellationToken,
    report: Arc<Mutex<Report>>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Begins at once; where endpoints are followed, after they were read for the first time.
    pub fn start(options: Options) -> Self {
        let stop = CancellationToken::new();
        let report = Arc::new(Mutex::new(Report::default()));
        let (ours, shared) = (stop.clone(), Arc::clone(&report));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(run(options, ours, shared));
        });
        Self {
            stop,
            report,
            thread: Some(thread),
        }
    }

    /// Up to now.
    pub fn so_far(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends no more, waits for what is under way, and tells what became of all.
    pub fn stop(mut self) -> Report {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the load ran to its end");
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(options: Options, stop: CancellationToken, report: Arc<Mutex<Report>>) {
    let begun = Instant::now();
    let mut known = vec![];
    let mut reads = interval(READ_EVERY);
    reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sends = interval(Duration::from_secs(1) / options.rate.max(1));
    // A machine that is busy elsewhere makes a gap, not a burst after it.
    sends.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut requests = JoinSet::new();
    let mut reading = JoinSet::new();
    let (mut turn, mut read) = (0, false);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = reads.tick(), if reading.is_empty() => {
                reading.spawn(addresses(options.to.clone(), options.limit));
            }
            Some(result) = reading.join_next() => match result.expect("it does not panic") {
                Some(addresses) => (known, read) = (addresses, true),
                None => report.lock().unwrap_or_else(PoisonError::into_inner).unread += 1,
            },
            Some(_) = requests.join_next() => {}
            _ = sends.tick(), if read => {
                let to = known.get(turn % known.len().max(1)).cloned();
                turn += 1;
                let (options, report) = (options.clone(), Arc::clone(&report));
                requests.spawn(async move {
                    let at = begun.elapsed();
                    let result = match &to {
                        Some(to) => request(to, &options.path, options.limit).await.map(|_| to.clone()),
                        None => Err("no address".to_owned()),
                    };
                    let to = to.unwrap_or_default();
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    count(&mut report, result, &format!("after {at:.3?}: {to}"));
                });
            }
        }
    }
    while requests.join_next().await.is_some() {}
}

fn count(report: &mut Report, result: Result<String, String>, about: &str) {
    report.sent += 1;
    match result {
        Ok(address) => {
            report.ok += 1;
            *report.by_address.entry(address).or_default() += 1;
        }
        Err(what) => {
            if report.first.len() < TOLD {
                report.first.push(format!("{about} {what}"));
            }
            *report.failed.entry(what).or_default() += 1;
        }
    }
}

/// The ready addresses now; `None`: they could not be read.
async fn addresses(to: To, limit: Duration) -> Option<Vec<String>> {
    let (http, path) = match to {
        To::Fixed(address) => return Some(vec![address.to_string()]),
        To::Endpoints { http, namespace, name } => (http, format!("/v1/endpoints/{namespace}/{name}")),
    };
    for http in http.split(',') {
        if let Ok(body) = request(http, &path, limit).await {
            return listed(&body);
        }
    }
    None
}

/// The ready addresses of an Endpoints object, each with the first port.
fn listed(body: &[u8]) -> Option<Vec<String>> {
    let endpoints: Value = serde_json::from_slice(body).ok()?;
    let mut addresses = Vec::new();
    for subset in endpoints["subsets"].as_array()? {
        for address in subset["addresses"].as_array().into_iter().flatten() {
            let port = &subset["ports"][0]["port"];
            addresses.push(format!("{}:{port}", address["ip"].as_str()?));
        }
    }
    Some(addresses)
}

/// The ready addresses of a controller's pods now, as `/v1/endpoints` at `http` tells them.
pub fn ready(http: &str, namespace: &str, name: &str) -> Result<Vec<String>, String> {
    let body = get(http, &format!("/v1/endpoints/{namespace}/{name}"))?;
    listed(&body).ok_or_else(|| format!("no Endpoints: {}", String::from_utf8_lossy(&body)))
}

/// Asks once.
pub fn get(address: &str, path: &str) -> Result<Vec<u8>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(request(address, path, Duration::from_secs(5)))
}

/// One request on a connection of its own; the body of a 200 answer, or what befell it.
async fn request(address: &str, path: &str, limit: Duration) -> Result<Vec<u8>, String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = match timeout(limit, exchange).await {
        Err(_) => return Err("timeout".into()),
        Ok(Err(e)) => {
            return Err(match e.kind() {
                ErrorKind::ConnectionRefused => "refused".into(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".into(),
                _ => e.to_string(),
            });
        }
        Ok(Ok(answer)) => answer,
    };
    body(&answer)
}

/// The body, whole: an answer that breaks off is no answer.
fn body(answer: &[u8]) -> Result<Vec<u8>, String> {
    let cut = || "cut short".to_owned();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(cut)?;
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let body = &answer[end + 4..];
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).unwrap_or_default();
    if status != "200" {
        return Err(format!("status {status}"));
    }
    let length = lines.find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    if length.is_some_and(|length| body.len() != length) {
        return Err(cut());
    }
    Ok(body.to_vec())
}
