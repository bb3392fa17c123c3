//! Puts one of several coordinators together: its part in the contest, its stream to the active one, and what it passes
//! on. Called by `serve`.
//!
//! Invariant: nothing here decides; each task ends once the coordinator is asked to end.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use proto::{credentials::ChannelTimes, wire::peer_server::PeerServer};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    Dial, DialError, Dialer, Own,
    forward::{self, Forwarder},
    link::Follower,
    service::{PeerService, Peers},
    standing::{Contestant, EtcdAdmin, Writes},
};
use crate::{
    api::{etcd::admin::StoreAdmin, replicas::Leading},
    ca::{Authority, AuthorityError},
    run::{Contested, Coordinator},
    store::{Fence, contest::Contest as _, etcd::EtcdStore},
    world::hub::Hub,
};

/// Writes by which the store's speed is told.
const MEASURED: usize = 50;

/// Who is who, and how their store is.
#[derive(Clone)]
pub struct Ranks {
    pub leading: Arc<dyn Leading>,
    pub store: Arc<dyn StoreAdmin>,
}

/// What the ports need.
pub struct Parts {
    pub service: PeerServer<PeerService>,
    pub forwarder: Arc<Forwarder>,
    pub ranks: Ranks,
}

/// Takes part in the contest for leadership and follows whoever leads.
pub fn take_part(coordinator: &mut Coordinator, authority: &Authority, store: Arc<EtcdStore>) -> Option<Parts> {
    let hub = coordinator.hub().clone();
    let stopping = coordinator.stopping();
    let (address, enrol) = authority.own_addresses();
    let own = Own {
        name: authority.name().to_owned(),
        address,
        enrol,
    };
    let dial: Dialer = Arc::new(Certified(authority.clone()));
    let peers = Arc::new(Peers::default());
    let (link, reports) = watch::channel(None);
    let (told, hand_overs) = mpsc::channel(1);
    coordinator.take_part(Contested {
        contest: store.clone(),
        name: own.name.clone(),
        address: own.address.clone(),
        settings: coordinator.config().leader.clone(),
        link: reports,
        hand_overs,
        standbys: peers.clone(),
    });
    let leadership = coordinator.leadership().cloned()?;
    let follower = Follower {
        hub: hub.clone(),
        dial: dial.clone(),
        own: own.clone(),
        sessions: coordinator.sessions().clone(),
        link,
        hand_overs: told,
    };
    let ending = stopping.clone();
    coordinator.spawn("following", async move {
        follower.run(ending).await;
        Ok(())
    });
    let (kept, writes) = (store.clone(), Writes::default());
    let measured = writes.clone();
    let (ca, record, watched, ending) = (authority.clone(), own.clone(), hub.clone(), stopping.clone());
    coordinator.spawn("what only the active coordinator does", async move {
        while_leading(ca, record, (kept, measured), watched, ending).await
    });
    let service = PeerService::server(
        hub.clone(),
        peers.clone(),
        coordinator.sessions().clone(),
        own.clone(),
        coordinator.config().sessions.max_skew,
        stopping,
    );
    let ranks = Ranks {
        leading: Arc::new(Contestant {
            own: own.clone(),
            leadership: leadership.clone(),
            peers,
            sessions: coordinator.sessions().clone(),
        }),
        store: Arc::new(EtcdAdmin { store, writes }),
    };
    let forwarder = Forwarder::new(hub, own.name, dial, leadership, forward::Settings::default());
    Some(Parts {
        service,
        forwarder,
        ranks,
    })
}

/// Keeps its own record true and the store small, under each term of its own. An error: it must not lead.
async fn while_leading(
    ca: Authority,
    own: Own,
    (store, writes): (Arc<EtcdStore>, Writes),
    hub: Arc<Hub>,
    stopping: CancellationToken,
) -> Result<(), String> {
    let mut fences = hub.fences();
    loop {
        let led = fences.borrow_and_update().clone();
        let over = stopping.child_token();
        let work = async {
            let Some(fence) = &led else { return Ok(()) };
            match ca.ensure_own_record(&own.address, &own.enrol).await {
                Ok(()) => {}
                Err(e @ (AuthorityError::Removed(_) | AuthorityError::Replaced(_))) => return Err(e.to_string()),
                Err(e) => tracing::warn!(error = %e, "the record of this coordinator was not renewed"),
            }
            if writes.get().is_none() {
                writes.set(measure(&store, fence).await);
            }
            if let Err(e) = store.run_upkeep(fence, over.clone()).await {
                tracing::debug!(error = %e, "the upkeep of the store ends");
            }
            Ok(())
        };
        let changed = async {
            // An error: the hub is gone, and all with it.
            let _ = fences.changed().await;
        };
        let both = async {
            work.await?;
            std::future::pending::<Result<(), String>>().await
        };
        tokio::select! {
            refused = both => return refused,
            () = changed => over.cancel(),
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

/// How long some small durable writes take, one after another.
async fn measure(store: &EtcdStore, fence: &Fence) -> Vec<Duration> {
    let mut took = Vec::new();
    for _ in 0..MEASURED {
        let began = Instant::now();
        if store.beat(fence).await.is_ok() {
            took.push(began.elapsed());
        }
        // Not to be in the way of what is under way.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    took
}

/// Peers by the authority's certificates.
struct Certified(Authority);

#[async_trait]
impl Dial for Certified {
    async fn dial(&self, address: &str) -> Result<Channel, DialError> {
        let times = ChannelTimes {
            connect: Duration::from_secs(1),
            ..ChannelTimes::default()
        };
        let endpoint = self
            .0
            .peer_client(address, times)
            .map_err(|e| DialError::Other(e.to_string()))?;
        endpoint.connect().await.map_err(|e| {
            if super::refused(&e) {
                DialError::Refused
            } else {
                DialError::Other(proto::credentials::root_cause(&e))
            }
        })
    }
}
