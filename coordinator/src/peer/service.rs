//! The active coordinator's end of its standbys' streams: who follows, how far behind, and which nodes they hear.
//! Mounted by `serve`; asked by `api` for the cluster's status, and by `leader` to hand over.
//!
//! Invariant: at most one stream a peer counts, the newest; what a peer hears is forgotten when its stream ends.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::Stream;
use proto::{
    identity::Role,
    model::Time,
    wire::{
        self, FollowBeat, FollowDown, FollowHello, FollowUp, FollowWelcome, follow_down, follow_up,
        peer_server::{Peer, PeerServer},
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use super::Own;
use crate::{
    ca::certs::Caller,
    leader::leadership::{HandOver, Standbys},
    session::Sessions,
    store::{Change, Expect, Rv, keys},
    world::{hub::Hub, record::encode, replicas::CoordinatorRecord},
};

/// How often a standby is told that this one is there.
const BEAT: Duration = Duration::from_millis(250);
/// How long a peer may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);
const QUEUE: usize = 16;

/// A standby, as this coordinator hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    pub version: String,
    pub address: String,
    pub since: Time,
    /// What its view includes.
    pub rv: Rv,
    /// Nodes that it hears.
    pub heard: usize,
    /// How far its clock was ahead of ours when it came, milliseconds.
    pub skew_ms: i64,
}

struct Entry {
    following: Following,
    down: mpsc::Sender<Result<FollowDown, Status>>,
    /// Counts streams, so that the end of an older one removes nothing of a newer one.
    number: u64,
}

/// Who follows.
#[derive(Default)]
pub struct Peers {
    table: Mutex<(u64, BTreeMap<String, Entry>)>,
}

impl Peers {
    fn with<R>(&self, f: impl FnOnce(&mut u64, &mut BTreeMap<String, Entry>) -> R) -> R {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, entries) = &mut *table;
        f(number, entries)
    }

    /// By name.
    pub fn following(&self) -> BTreeMap<String, Following> {
        self.with(|_, entries| entries.iter().map(|(n, e)| (n.clone(), e.following.clone())).collect())
    }
}

#[async_trait]
impl Standbys for Peers {
    async fn pick(&self, to: Option<&str>) -> Result<String, String> {
        self.with(|_, entries| match to {
            Some(name) if entries.contains_key(name) => Ok(name.to_owned()),
            Some(name) => Err(format!(
                "coordinator {name} does not follow this one; see `wharf cluster status` for those that do"
            )),
            None => match entries.iter().max_by_key(|(_, e)| e.following.rv) {
                Some((name, _)) => Ok(name.clone()),
                None => Err("no standby follows this coordinator; start another one first".to_owned()),
            },
        })
    }

    async fn tell(&self, hand_over: HandOver) -> Result<(), String> {
        let down = self.with(|_, entries| entries.get(&hand_over.to).map(|e| e.down.clone()));
        let gone = || format!("coordinator {} follows no longer", hand_over.to);
        let message = follow_down::Message::HandOver(wire::HandOver {
            to: hand_over.to.clone(),
            term: hand_over.term,
            resource_version: hand_over.last.0,
        });
        let down = down.ok_or_else(gone)?;
        down.try_send(Ok(FollowDown { message: Some(message) }))
            .map_err(|_| gone())
    }
}

/// See the module's head.
pub struct PeerService(Arc<Inner>);

struct Inner {
    hub: Arc<Hub>,
    peers: Arc<Peers>,
    sessions: Arc<Sessions>,
    own: Own,
    max_skew: Duration,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl PeerService {
    pub fn server(
        hub: Arc<Hub>,
        peers: Arc<Peers>,
        sessions: Arc<Sessions>,
        own: Own,
        max_skew: Duration,
        stopping: CancellationToken,
    ) -> PeerServer<Self> {
        PeerServer::new(Self(Arc::new(Inner {
            hub,
            peers,
            sessions,
            own,
            max_skew,
            stopping,
            tasks: TaskTracker::new(),
        })))
    }
}

impl Inner {
    /// Its clock's difference to ours, ms, or why it may not follow.
    fn check(&self, hello: &FollowHello, name: &str) -> Result<i64, Status> {
        let (theirs, ours) = (i128::from(hello.clock_ms), i128::from(crate::ca::system_clock()()));
        let skew = theirs - ours;
        if skew.unsigned_abs() > self.max_skew.as_millis() {
            return Err(Status::failed_precondition(format!(
                "clocks: coordinator {name} is at {theirs} ms since the epoch, coordinator {} at {ours} ms, more than {} apart; set both by NTP",
                self.own.name,
                humantime::format_duration(self.max_skew)
            )));
        }
        Ok(i64::try_from(skew).unwrap_or(i64::MAX))
    }

    /// Puts its present addresses on record, where they are others than before.
    async fn record(&self, name: &str, hello: &FollowHello) -> Result<(), Status> {
        let known = self
            .hub
            .read(|w| w.coordinators.get(name).map(|c| (c.rv, (*c.value).clone())));
        let Some((rv, record)) = known else {
            return Err(Status::permission_denied(format!(
                "coordinator {name} was removed from the cluster"
            )));
        };
        let now = CoordinatorRecord {
            address: hello.address.clone(),
            enrol: hello.enrol_address.clone(),
            version: hello.version.clone(),
            joined: record.joined,
        };
        if now == record {
            return Ok(());
        }
        let change = Change::put(keys::coordinator(name), Expect::At(rv), encode(&now));
        self.hub.commit(vec![change]).await.map_err(|e| {
            Status::unavailable(format!(
                "the addresses of coordinator {name} could not be recorded: {e}"
            ))
        })?;
        Ok(())
    }

    fn enter(&self, name: &str, following: Following, down: mpsc::Sender<Result<FollowDown, Status>>) -> u64 {
        self.peers.with(|number, entries| {
            *number += 1;
            let entry = Entry {
                following,
                down,
                number: *number,
            };
            entries.insert(name.to_owned(), entry);
            *number
        })
    }

    fn leave(&self, name: &str, number: u64) {
        let gone = self.peers.with(|_, entries| {
            let ours = entries.get(name).is_some_and(|e| e.number == number);
            ours.then(|| entries.remove(name)).is_some()
        });
        if gone {
            self.sessions.heard_elsewhere(name, None);
            tracing::info!(peer = name, "a standby follows no longer");
        }
    }

    async fn attend(
        &self,
        name: &str,
        (number, led): (u64, u64),
        mut up: Streaming<FollowUp>,
        down: mpsc::Sender<Result<FollowDown, Status>>,
    ) {
        let over = over(&self.hub, led);
        tokio::pin!(over);
        let mut beat = tokio::time::interval_at(Instant::now() + BEAT, BEAT);
        loop {
            tokio::select! {
                message = up.message() => match message {
                    Ok(Some(FollowUp { message: Some(follow_up::Message::Progress(progress)) })) => {
                        self.peers.with(|_, entries| {
                            if let Some(entry) = entries.get_mut(name).filter(|e| e.number == number) {
                                entry.following.rv = Rv(progress.resource_version);
                                entry.following.heard = progress.heard.len();
                            }
                        });
                        self.sessions.heard_elsewhere(name, Some(progress.heard.into_iter().collect()));
                    }
                    Ok(Some(_)) => {
                        let _ = down.send(Err(Status::invalid_argument("only progress follows the first message"))).await;
                        return;
                    }
                    Ok(None) | Err(_) => return,
                },
                _ = beat.tick() => {
                    let message = follow_down::Message::Beat(FollowBeat { resource_version: self.hub.rv().0 });
                    // A standby that does not read is as one that is gone.
                    if down.try_send(Ok(FollowDown { message: Some(message) })).is_err() {
                        return;
                    }
                }
                () = &mut over => {
                    let _ = down.send(Err(Status::failed_precondition("this coordinator leads no longer"))).await;
                    return;
                }
                () = self.stopping.cancelled() => {
                    let _ = down.send(Err(Status::unavailable("this coordinator stops"))).await;
                    return;
                }
            }
        }
    }
}

/// Resolves when a later term than that has begun. Until then the streams stay, though this coordinator may not act any
/// more: by one of them it tells its successor.
async fn over(hub: &Hub, led: u64) {
    let mut feed = hub.subscribe();
    while hub.read(|w| w.leader().is_some_and(|(term, _)| term == led)) {
        // Lagging is as good as a batch: look again.
        let _ = feed.recv().await;
    }
}

#[async_trait]
impl Peer for PeerService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowDown, Status>> + Send>>;

    async fn follow(&self, request: Request<Streaming<FollowUp>>) -> Result<Response<Self::FollowStream>, Status> {
        let inner = &self.0;
        let caller = request.extensions().get::<Caller>();
        let caller = caller.filter(|c| c.identity.role == Role::Coordinator);
        let Some(name) = caller.map(|c| c.identity.id.clone()) else {
            return Err(Status::permission_denied("only coordinators follow"));
        };
        let Some(fence) = inner.hub.fence() else {
            return Err(Status::failed_precondition(format!(
                "coordinator {} does not lead",
                inner.own.name
            )));
        };
        if name == inner.own.name {
            return Err(Status::failed_precondition(format!(
                "two coordinators are named {name}: give one of them a name of its own by joining it anew"
            )));
        }
        let mut up = request.into_inner();
        let hello = match tokio::time::timeout(HELLO, up.message()).await {
            Ok(Ok(Some(FollowUp {
                message: Some(follow_up::Message::Hello(hello)),
            }))) => hello,
            Ok(Err(status)) => return Err(status),
            _ => return Err(Status::invalid_argument("the first message says who follows")),
        };
        let skew_ms = inner.check(&hello, &name)?;
        inner.record(&name, &hello).await?;

        let (down, answers) = mpsc::channel(QUEUE);
        let welcome = follow_down::Message::Welcome(FollowWelcome {
            name: inner.own.name.clone(),
            term: fence.term,
        });
        // The queue is empty and has room.
        let _ = down.try_send(Ok(FollowDown { message: Some(welcome) }));
        let following = Following {
            version: hello.version,
            address: hello.address,
            since: Time::now(),
            rv: Rv(0),
            heard: 0,
            skew_ms,
        };
        let number = inner.enter(&name, following, down.clone());
        tracing::info!(peer = name, skew_ms, "a standby follows");
        let service = inner.clone();
        // Ends with the connection, with the leadership, or when the process is asked to end.
        inner.tasks.spawn(async move {
            service.attend(&name, (number, fence.term), up, down).await;
            service.leave(&name, number);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}
