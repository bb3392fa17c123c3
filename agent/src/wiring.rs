//! The parts of a real host: the identity on disk or a joining token, Docker, the machine, and the renewal of
//! the certificate. Handed to [`crate::program`] by `main`.
//!
//! Invariant: with an identity on disk no token is read; a refusal is one line and nothing was changed.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use proto::{ids::IdGen, model::labels::check_dns_subdomain, token::JoinToken};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

use crate::{
    AgentError,
    clock::wall_ms,
    config::Options,
    host::{self, HostOptions, HostProbe, parse_capacity},
    identity::{self, EnrolError, EnrolOptions, EnrolTimes, Identity, renew},
    join::{Connector, Join, TlsConnector},
    preflight,
    program::Wiring,
    runtime::docker::{DockerRuntime, DockerSettings, Scope, docker_endpoint},
    settings::{Settings, ms},
};

/// See the module's head; waits for a coordinator when there is none yet.
pub fn wire(options: Arc<Options>) -> BoxFuture<'static, Result<Wiring, AgentError>> {
    Box::pin(async move { make(&options).await })
}

async fn make(options: &Options) -> Result<Wiring, AgentError> {
    let usage = |e: &dyn std::fmt::Display| AgentError::Usage(e.to_string());
    let mut host = HostOptions::new(&options.data_dir);
    host.shared_host = options.shared_host;
    host.inventory_every = ms(options.settings.inventory_ms);
    if let Some(text) = &options.capacity {
        host.capacity = parse_capacity(text).map_err(|e| usage(&e))?;
    }
    let probe = HostProbe::new(host).map_err(|e| usage(&e))?;

    // Before joining: a mistake here must not cost one of the token's uses.
    if let Some(docker) = &options.docker_host {
        docker_endpoint(docker).map_err(|e| AgentError::Usage(format!("--docker-host: {e}")))?;
    }

    let identity = who(options, &probe).await?;
    let scope = Scope {
        cluster: identity.cluster.clone(),
        node: identity.node.clone(),
        // Each container gets the incarnation of the assignment that it is made for.
        incarnation: String::new(),
    };
    let settings = options.settings.clone();
    let docker = DockerSettings {
        pull_inactivity: ms(settings.pull_inactivity_ms),
        max_pulls: settings.max_pulls,
        helper_timeout: ms(settings.credential_helper_ms),
        docker_config: options.docker_config.clone(),
        ..DockerSettings::default()
    };
    let runtime = DockerRuntime::connect(options.docker_host.as_deref(), scope, docker).map_err(|e| usage(&e))?;

    let (mut join, connector) = Join::renewing(&identity.node, identity.credentials(), &settings);
    join.coordinators.extend(options.coordinators.iter().cloned());
    let renewal = Renewal {
        identity,
        data_dir: options.data_dir.clone(),
        connector,
        channel: join.channel.subscribe(),
        settings,
    };
    Ok(Wiring {
        join,
        runtime,
        facts: Arc::new(probe),
        beside: Box::pin(renewal.run()),
    })
}

/// The identity on disk, or a new one for the token.
async fn who(options: &Options, probe: &HostProbe) -> Result<Identity, AgentError> {
    let refused = |e: &dyn std::fmt::Display| AgentError::Refused(e.to_string());
    if let Some(identity) = Identity::load(&options.data_dir).map_err(|e| refused(&e))? {
        if let Some(name) = options.name.as_ref().filter(|n| **n != identity.node) {
            return Err(AgentError::Refused(format!(
                "--name: the data directory {} belongs to node {:?}, not {name:?}; leave --name out, or use another --data-dir",
                options.data_dir.display(),
                identity.node
            )));
        }
        return Ok(identity);
    }
    let token = options.read_token()?.ok_or_else(|| {
        AgentError::Usage(
            "this host has not joined yet: give --token-file with a token from `wharf token create`, and --coordinators"
                .into(),
        )
    })?;
    let name = match &options.name {
        Some(name) => name.clone(),
        None => hostname()?,
    };
    check_dns_subdomain(&name).map_err(|e| AgentError::Usage(format!("--name: {e}")))?;
    JoinToken::parse(&token).map_err(|e| refused(&e))?;
    preflight::check(&options.data_dir, options.docker_host.as_deref(), &options.settings)
        .await
        .map_err(AgentError::Refused)?;
    let enrol = EnrolOptions {
        data_dir: options.data_dir.clone(),
        coordinators: options.coordinators.clone(),
        enrol: options.enrol.clone(),
        token,
        name,
        machine_id: probe.machine_id().to_owned(),
        shared_host: options.shared_host,
        architecture: host::architecture().to_owned(),
        operating_system: host::OPERATING_SYSTEM.to_owned(),
        times: EnrolTimes::default(),
    };
    let told = |error: &EnrolError, pause: Duration| {
        tracing::warn!("cannot join yet, next attempt in {} ms: {error}", pause.as_millis());
    };
    let identity = identity::join(&enrol, told).await.map_err(|e| match e {
        EnrolError::NoAddress | EnrolError::Address(_) => AgentError::Usage(e.to_string()),
        other => refused(&other),
    })?;
    tracing::info!(node = %identity.node, cluster = %identity.cluster, "joined");
    Ok(identity)
}

fn hostname() -> Result<String, AgentError> {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .map(|name| name.to_ascii_lowercase())
        .ok_or_else(|| AgentError::Usage("this host's name cannot be read: give --name".into()))
}

/// Renews the certificate over the channel of the open session.
struct Renewal {
    identity: Identity,
    data_dir: PathBuf,
    connector: watch::Sender<Arc<dyn Connector>>,
    channel: watch::Receiver<Option<Channel>>,
    settings: Settings,
}

impl Renewal {
    /// Ends only with the agent.
    async fn run(mut self) {
        let (seed, _) = uuid::Uuid::new_v4().as_u64_pair();
        let mut jitter = IdGen::new(seed);
        loop {
            while let Some(wait) = until_due(self.identity.renew_after, wall_ms()) {
                sleep(wait).await;
            }
            let channel = match self.channel.wait_for(Option::is_some).await {
                Ok(channel) => channel.clone(),
                Err(_) => return,
            };
            if let Some(channel) = channel {
                self.once(channel).await;
            }
            // After a success this is not reached before the next one is due.
            if until_due(self.identity.renew_after, wall_ms()).is_none() {
                let longest = self.settings.renew_retry_ms;
                sleep(ms(longest / 2 + jitter.next_u64() % (longest / 2 + 1))).await;
            }
        }
    }

    async fn once(&mut self, channel: Channel) {
        let limit = ms(self.settings.renew_timeout_ms);
        let result = timeout(limit, renew(&self.identity, &self.data_dir, channel)).await;
        match result {
            Ok(Ok(renewed)) => {
                let connector = TlsConnector::new(renewed.credentials(), &self.settings);
                self.identity = renewed;
                self.connector.send_replace(Arc::new(connector));
            }
            Ok(Err(e)) if e.transient() => tracing::warn!("the certificate is not renewed yet: {e}"),
            Ok(Err(e)) => {
                tracing::error!("{e}; when it ends this host must join again with a new token; containers keep running")
            }
            Err(_) => tracing::warn!(
                "the certificate is not renewed yet: no answer within {} ms",
                limit.as_millis()
            ),
        }
    }
}

/// How long to wait for a renewal, in parts of an hour at most: the wall clock may be set meanwhile.
fn until_due(renew_after: u64, now_ms: u64) -> Option<Duration> {
    let due_ms = renew_after.saturating_mul(1000);
    (due_ms > now_ms).then(|| ms((due_ms - now_ms).min(3_600_000)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};

    async fn refused(line: &str) -> String {
        let Command::Run(args) = Cli::try_parse_from(line.split_whitespace()).expect("parses").command else {
            panic!("not a run");
        };
        let options = Options::load(*args, |_| None).expect("accepted");
        let error = wire(Arc::new(options)).await.err().expect("refused").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    #[tokio::test]
    async fn what_cannot_join_says_why_in_one_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let run = format!("wharf-agent run --data-dir {}", dir.path().display());
        for (more, words) in [
            ("", "--token-file"),
            ("--capacity cpu=much", "cpu"),
            ("--shared-host --capacity cpu=1", "--capacity"),
            ("--token x --coordinators c:1", "wharf1."),
            ("--token x --coordinators c:1 --name Not_A_Name", "--name"),
        ] {
            let error = refused(&format!("{run} {more}")).await;
            assert!(error.contains(words), "{more}: {error}");
        }
        assert!(!dir.path().join("identity/identity.json").exists());
    }

    #[test]
    fn waits_until_it_is_due_but_no_longer_than_an_hour() {
        assert_eq!(until_due(100, 100_000), None);
        assert_eq!(until_due(100, 200_000), None);
        assert_eq!(until_due(100, 99_000), Some(Duration::from_secs(1)));
        assert_eq!(until_due(100_000, 0), Some(Duration::from_secs(3600)));
    }
}
