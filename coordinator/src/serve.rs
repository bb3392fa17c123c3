//! The whole process: a coordinator behind its ports. Called by `main`; the simulated fleet takes
//! [`start_services`] from it and brings its own store and connections.
//!
//! Invariant: nothing of the session port is reachable without the layer that authenticates and authorizes;
//! the enrolment port serves enrolment and nothing else.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use proto::{
    files::file_error,
    wire::{self, coordinators_server::CoordinatorsServer, tokens_server::TokensServer},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Extensions, Status,
    service::Routes,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::util::option_layer;

use crate::{
    api::{
        self, Access, Api,
        cluster::ClusterFacts,
        etcd::{Members, admin::Alone, promote},
        replicas::Sole,
    },
    backup,
    ca::{
        self, Authority, ClusterMeta, META_CLUSTER,
        authorizer::Attributes,
        certs::Caller,
        layer::AuthLayer,
        secret::ClusterKey,
        service::{CoordinatorsService, EnrolService, TokensService},
    },
    config::{Config, StoreConfig},
    control,
    error::Error,
    init::{ClusterFile, InitError, Layout},
    peer::{self, forward::ForwardLayer, standing::Backed, wiring::Ranks},
    run::{self, Coordinator},
    session::service::{Callers, Helpers, Peer, Renewer},
    store::{
        Store,
        etcd::EtcdStore,
        sqlite::{SqliteOptions, SqliteStore},
    },
    tls::{self, AcceptLimits},
    world::{
        hub::HubError,
        settings::{AGENT_DOWN_AFTER, HEARTBEAT},
    },
};

/// Serves the cluster of a data directory until the process is asked to end.
pub async fn serve(config: Config) -> Result<(), Error> {
    match config.store.clone() {
        StoreConfig::Sqlite => {
            check_data_dir(&config.data_dir)?;
            // The whole file is checked before anything else goes on; nothing else is waiting yet.
            let store = Arc::new(SqliteStore::open(&config.data_dir, SqliteOptions::default())?);
            let closed = store.clone();
            let ends = async move { closed.closed().await };
            let result = behind_ports(config, store.clone(), ends, None).await;
            store.close().await;
            result
        }
        StoreConfig::Etcd(options) => {
            let file = Layout::new(&config.data_dir).cluster_file();
            if !file.exists() {
                return Err(Error::NoCluster(config.data_dir.display().to_string()));
            }
            let store = Arc::new(tokio::select! {
                opened = EtcdStore::open(*options) => opened?,
                () = run::asked_to_end() => return Ok(()),
            });
            check_etcd(&store, &config.data_dir, &file).await?;
            let result = behind_ports(config, store.clone(), std::future::pending(), Some(store.clone())).await;
            store.close().await;
            result
        }
    }
}

/// Refuses what is not this directory's cluster, and says what etcd should be warned of.
async fn check_etcd(store: &EtcdStore, dir: &Path, file: &Path) -> Result<(), Error> {
    let ours = ClusterFile::read(file).map_err(|e| InitError::from(file_error(file, e)))?;
    let dir = dir.display().to_string();
    let entry = store.get(META_CLUSTER).await.map_err(HubError::Read)?;
    let Some(entry) = entry else {
        return Err(Error::EmptyStore {
            place: store.place(),
            dir,
            cluster: ours.cluster,
        });
    };
    // One that cannot be read is refused by who reads all of it.
    let found = serde_json::from_slice::<ClusterMeta>(&entry.value).map(|meta| meta.cluster);
    if let Ok(found) = found
        && found != ours.cluster
    {
        return Err(Error::OtherCluster {
            place: store.place(),
            found,
            dir,
            cluster: ours.cluster,
        });
    }
    for warning in store.status().await.warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// Opening a store would make an empty one; a directory that lost its own must be refused instead.
fn check_data_dir(dir: &Path) -> Result<(), Error> {
    let file = Layout::new(dir).cluster_file();
    if !file.exists() {
        return Err(Error::NoCluster(dir.display().to_string()));
    }
    let store = dir.join(SqliteStore::FILE);
    if !store.exists() {
        return Err(Error::NoStore(store.display().to_string()));
    }
    Ok(())
}

/// `ends` resolves when the store can go on no longer, with the reason. `shared`: the same store, where other
/// coordinators share it.
async fn behind_ports(
    config: Config,
    store: Arc<dyn Store>,
    ends: impl Future<Output = String> + Send + 'static,
    shared: Option<Arc<EtcdStore>>,
) -> Result<(), Error> {
    // Bound before the term is taken: a port in use must not end another process's leadership.
    let session = run::listen("agents and the command", config.listen).await?;
    let enrol = run::listen("joining", config.enrol).await?;
    let addresses = (session.local_addr().ok(), enrol.local_addr().ok());

    let mut config = config;
    config.sessions.contested = shared.is_some();
    let mut coordinator = match shared {
        None => Coordinator::start(config, store).await?,
        Some(_) => Coordinator::load(config, store).await?,
    };
    let authority = open_authority(&coordinator).await?;
    if shared.is_none() {
        let (address, joining) = authority.own_addresses();
        authority.ensure_own_record(&address, &joining).await?;
    }
    let stopping = coordinator.stopping();

    let ending = stopping.clone();
    coordinator.spawn("the store", async move {
        tokio::select! {
            () = ending.cancelled() => Ok(()),
            reason = ends => Err(reason),
        }
    });
    let (ca, ending) = (authority.clone(), stopping.clone());
    coordinator.spawn("certificates", async move {
        ca.run(ending).await;
        Ok(())
    });

    let peers = shared.and_then(|store| peer::wiring::take_part(&mut coordinator, &authority, store));
    let facts = ClusterFacts {
        ranks: peers.as_ref().map(|p| p.ranks.clone()),
        cluster_id: authority.cluster().to_owned(),
        coordinators: authority.coordinators(),
        secret: secret_of(&coordinator.config().data_dir),
        found: found_by(&coordinator),
    };
    let layout = Layout::new(&coordinator.config().data_dir);
    let backups = backup::schedule::run(
        coordinator.hub().clone(),
        layout.backup_dir(),
        ca::system_clock(),
        stopping.clone(),
    );
    coordinator.spawn("scheduled backups", async move {
        backups.await;
        Ok(())
    });
    let gate = Arc::new(Gate(authority.clone()));
    let mut routes = start_services(&mut coordinator, gate, facts, control::Settings::default())?
        .add_service(TokensServer::new(TokensService(authority.clone())))
        .add_service(CoordinatorsServer::new(CoordinatorsService(authority.clone())))
        // For coordinators, which hand on what reached their own enrolment port.
        .add_service(EnrolService(authority.clone()).into_server());
    let mut forward = None;
    if let Some(peers) = peers {
        routes = routes.add_service(peers.service);
        forward = Some(ForwardLayer(peers.forwarder));
    }
    serve_sessions(
        &mut coordinator,
        session,
        &authority,
        routes,
        forward.clone(),
        &stopping,
    );
    serve_enrolment(&mut coordinator, enrol, &authority, forward, &stopping);

    if let (Some(listen), None) = (addresses.0, &coordinator.config().advertise)
        && let Some(warning) = misled(listen, &authority.coordinators())
    {
        tracing::warn!("{warning}");
    }
    let show = |address: Option<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    tracing::info!(
        name = authority.name(),
        session = show(addresses.0),
        enrol = show(addresses.1),
        http = %coordinator.http_address(),
        cluster = authority.cluster(),
        "serving"
    );
    coordinator.run(run::asked_to_end()).await
}

async fn open_authority(coordinator: &Coordinator) -> Result<Authority, Error> {
    let hub = coordinator.hub().clone();
    let parts = ca::Parts {
        data_dir: coordinator.config().data_dir.clone(),
        store: hub.store().clone(),
        clock: ca::system_clock(),
        fence: Arc::new(move || hub.fence().map(|f| (*f).clone())),
        settings: coordinator.config().ca.clone(),
    };
    Ok(Authority::open(parts).await?)
}

/// What agents said that they run, while a restore is pending.
fn found_by(coordinator: &Coordinator) -> api::restore::FoundSource {
    let sessions = coordinator.sessions().clone();
    Arc::new(move || sessions.found())
}

/// The cluster's secret, read when a backup is to carry it.
fn secret_of(dir: &Path) -> api::backup::SecretSource {
    let path = Layout::new(dir).cluster_key();
    Arc::new(move || {
        let words = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let bytes = std::fs::read(&path).map_err(|e| words(&e))?;
        ClusterKey::from_bytes(&bytes).map_err(|e| words(&e))
    })
}

/// Why nobody may reach this coordinator under the addresses told to `init`, if so.
fn misled(listen: SocketAddr, told: &[String]) -> Option<String> {
    let [address] = told else { return None };
    let (host, port) = address.rsplit_once(':')?;
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let elsewhere = listen.ip().is_loopback() && ip.is_some_and(|ip| !ip.is_loopback());
    let other_port = port.parse() != Ok(listen.port());
    (elsewhere || other_port).then(|| {
        format!(
            "admin.yaml, tokens and agents are told {address}, but this coordinator listens on {listen}: unless that \
             is forwarded here, give --advertise HOST:{}, and name it in admin.yaml",
            listen.port()
        )
    })
}

/// Starts planning and the services that need no certificates, and gives their routes. `gate` decides who calls
/// and what he may do; whoever serves the routes puts before them what `gate` reads.
pub fn start_services<G: Access + Callers + Renewer>(
    coordinator: &mut Coordinator,
    gate: Arc<G>,
    facts: ClusterFacts,
    control: control::Settings,
) -> Result<Routes, Error> {
    // A new leader hears of each node what its predecessor heard, at the latest after this.
    let sessions = &coordinator.config().sessions;
    let silence = sessions.heartbeat * sessions.missed;
    let control = control::Settings {
        silence_ms: u64::try_from(silence.as_millis()).unwrap_or(u64::MAX),
        ..control
    };
    let mut started = control.started();
    for (setting, time) in [
        (&HEARTBEAT, sessions.heartbeat),
        (&AGENT_DOWN_AFTER, sessions.agent_down),
    ] {
        started.insert(setting.name, u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }
    start_control(coordinator, control);
    let api = start_api(coordinator, gate.clone());
    let helpers = Helpers {
        callers: gate.clone(),
        renewer: gate,
        leaver: api.clone(),
    };
    let ranks = facts.ranks.clone().unwrap_or_else(|| sole(coordinator, &facts));
    let leading = ranks.leading;
    let store = Arc::new(Backed {
        inner: ranks.store,
        hub: coordinator.hub().clone(),
    });
    let members = Members::new(api.clone(), store.clone());
    if facts.ranks.is_some() {
        let promoting = promote::run(members.clone(), promote::PERIOD, coordinator.stopping());
        coordinator.spawn("learners of etcd", async move {
            promoting.await;
            Ok(())
        });
    }
    let routes = coordinator
        .routes(helpers)?
        .add_service(api.replicas(facts.cluster_id.clone(), leading, store))
        .add_service(api.etcd(members))
        .add_service(api.resources())
        .add_service(api.controllers())
        .add_service(api.nodes())
        .add_service(api.holds())
        .add_service(api.drains())
        .add_service(api.updates())
        .add_service(api.cluster(facts))
        .add_service(api.cluster_settings(started))
        .add_service(api.audit_record())
        .add_service(api.logs(coordinator.sessions().clone()));
    Ok(routes)
}

/// Where there is one coordinator.
fn sole(coordinator: &Coordinator, facts: &ClusterFacts) -> Ranks {
    let sessions = coordinator.sessions().clone();
    let address = facts.coordinators.first().cloned().unwrap_or_default();
    let heard = move || sessions.registry().len();
    Ranks {
        leading: Sole::new(coordinator.hub().clone(), address, String::new(), heard),
        store: Alone::sqlite(),
    }
}

fn start_control(coordinator: &mut Coordinator, settings: control::Settings) {
    let Some(notes) = coordinator.take_notes() else { return };
    let (hub, recorder, stopping) = (
        coordinator.hub().clone(),
        coordinator.recorder().clone(),
        coordinator.stopping(),
    );
    coordinator.spawn("planning", async move {
        control::run(hub, recorder, notes, settings, stopping)
            .await
            .map_err(|e| e.to_string())
    });
}

fn start_api(coordinator: &mut Coordinator, access: Arc<dyn Access>) -> Arc<Api> {
    let api = Api::new(coordinator.hub().clone(), access, api::Settings::default());
    let (closing, stopping) = (api.clone(), coordinator.stopping());
    coordinator.spawn("watches", async move {
        stopping.cancelled().await;
        closing.close().await;
        Ok(())
    });
    api
}

fn serve_sessions(
    coordinator: &mut Coordinator,
    listener: TcpListener,
    authority: &Authority,
    routes: Routes,
    forward: Option<ForwardLayer>,
    stopping: &CancellationToken,
) {
    let (accepting, incoming) = tls::accept(
        listener,
        authority.session_tls(),
        AcceptLimits::default(),
        stopping.clone(),
    );
    coordinator.spawn("the session port", ended(accepting, stopping.clone()));
    let server = tls::session_server()
        .layer(AuthLayer(authority.clone()))
        .layer(option_layer(forward))
        .add_routes(routes);
    let stopping = stopping.clone();
    coordinator.spawn("serving sessions", async move {
        server
            .serve_with_incoming_shutdown(incoming, stopping.cancelled_owned())
            .await
            .map_err(|e| e.to_string())
    });
}

fn serve_enrolment(
    coordinator: &mut Coordinator,
    listener: TcpListener,
    authority: &Authority,
    forward: Option<ForwardLayer>,
    stopping: &CancellationToken,
) {
    let (accepting, incoming) = tls::accept(listener, authority.enrol_tls(), AcceptLimits::enrol(), stopping.clone());
    coordinator.spawn("the enrolment port", ended(accepting, stopping.clone()));
    let server = tls::enrol_server()
        .layer(option_layer(forward))
        .add_service(EnrolService(authority.clone()).into_server());
    let stopping = stopping.clone();
    coordinator.spawn("serving enrolment", async move {
        server
            .serve_with_incoming_shutdown(incoming, stopping.cancelled_owned())
            .await
            .map_err(|e| e.to_string())
    });
}

/// An accept loop ends when it is asked to, never before.
async fn ended(accepting: impl Future<Output = ()>, stopping: CancellationToken) -> Result<(), String> {
    accepting.await;
    if stopping.is_cancelled() {
        Ok(())
    } else {
        Err("no more connections are accepted".to_owned())
    }
}

/// Where the services meet the authority: who calls, by the layer's word, and what he may do.
struct Gate(Authority);

fn caller(extensions: &Extensions) -> Result<&Caller, Status> {
    extensions
        .get::<Caller>()
        .ok_or_else(|| Status::unauthenticated("a client certificate is required"))
}

impl Access for Gate {
    fn caller(&self, extensions: &Extensions) -> Result<String, Status> {
        Ok(caller(extensions)?.to_string())
    }

    fn allow(&self, extensions: &Extensions, request: &Attributes<'_>) -> Result<(), Status> {
        Ok(self.0.authorize(caller(extensions)?, request)?)
    }
}

impl Callers for Gate {
    fn peer(&self, extensions: &Extensions) -> Result<Peer, Status> {
        let caller = caller(extensions)?;
        if caller.is_agent() {
            let address = extensions
                .get::<TlsConnectInfo<TcpConnectInfo>>()
                .and_then(|info| info.get_ref().remote_addr());
            Ok(Peer {
                node: caller.identity.id.clone(),
                deleted: caller.deleted,
                generation: caller.generation,
                address: address.map(|a| a.ip().to_string()).unwrap_or_default(),
            })
        } else {
            Err(Status::permission_denied(format!(
                "{caller} is not an agent; only agents open sessions"
            )))
        }
    }

    fn still_valid(&self, extensions: &Extensions) -> Result<(), Status> {
        self.0.still_valid(caller(extensions)?)?;
        Ok(())
    }
}

#[async_trait]
impl Renewer for Gate {
    async fn renew(&self, extensions: &Extensions, csr_der: &[u8]) -> Result<wire::Issued, Status> {
        self.0.renew(caller(extensions)?, csr_der).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_leads_elsewhere_is_noticed() {
        for (listen, told, expected) in [
            ("0.0.0.0:7443", "10.0.0.1:7443", false),
            ("0.0.0.0:7443", "c1.example:7443", false),
            ("127.0.0.1:7443", "localhost:7443", false),
            ("127.0.0.1:7443", "127.0.0.1:7443", false),
            ("127.0.0.1:7443", "10.0.0.1:7443", true),
            ("0.0.0.0:8443", "c1.example:7443", true),
            ("[::]:7443", "[fd00::1]:7443", false),
            ("[::1]:7443", "[fd00::1]:7443", true),
        ] {
            let warning = misled(listen.parse().unwrap(), &[told.to_owned()]);
            assert_eq!(warning.is_some(), expected, "{listen} {told} {warning:?}");
        }
    }
}
