//! Watches: a List that goes on. [`Tracker`] is the pure part: it remembers what the client has and says what
//! changed; the task around it waits for the hub's batches and for the client.
//!
//! Invariant: a client that applies the events to what it had at the version it began with has exactly what a
//! List would give it. Every comparison is with the world as it is, never with a batch, so that coalescing,
//! lagging and repeated batches cannot lose a deletion.
//!
//! | situation | what is sent |
//! |---|---|
//! | from 0 | present objects as ADDED, then a BOOKMARK |
//! | from a version | what changed or came since as MODIFIED (which of both is not known), deletions as DELETED; with a selector on what can change, also a DELETED of what is not selected now and may have been |
//! | a change while watching | ADDED, MODIFIED or DELETED as seen by this client; several changes may be one |
//! | the name of a deleted object given anew | DELETED, then ADDED |
//!
//! `resource_version` of an event is the version to watch from again: that of the whole batch comes with its
//! last event, the ones before carry the version before it, so that nothing is lost by a break between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use proto::{
    model::{Kind, Object},
    wire::{self, WatchEvent, watch_event::Type},
};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError, error::TryRecvError},
        mpsc,
    },
    time::timeout,
};
use tonic::Status;

use super::{Api, Settings, convert, errors::ApiError, filter::Filter};
use crate::{
    store::Rv,
    world::{
        Key, Touched, World,
        hub::{Batch, Hub},
    },
};

/// What tonic polls. Dropping it ends the watch.
pub struct WatchStream(mpsc::Receiver<Result<WatchEvent, Status>>);

impl Stream for WatchStream {
    type Item = Result<WatchEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

impl Api {
    pub(super) fn watch(&self, filter: Filter, after: Rv) -> Result<WatchStream, ApiError> {
        // Before the first look, so that nothing falls between the two.
        let feed = self.hub.subscribe();
        let (tracker, events) = Tracker::begin(Arc::clone(&self.hub), filter, after)?;
        let (sender, receiver) = mpsc::channel(self.settings.watch_buffer.max(1) + 1);
        let mut watch = Watch {
            tracker,
            feed,
            sender,
            settings: self.settings.clone(),
        };
        let stop = self.stop.clone();
        self.watches.spawn(async move {
            // The last word has its place in the buffer from the beginning.
            let client = watch.sender.clone();
            let Ok(last) = client.clone().reserve_owned().await else {
                return;
            };
            let end = tokio::select! {
                biased;
                () = client.closed() => return,
                () = stop.cancelled() => ApiError::Stopping,
                end = watch.run(events) => end,
            };
            last.send(Err(end.into()));
        });
        Ok(WatchStream(receiver))
    }
}

struct Watch {
    tracker: Tracker,
    feed: broadcast::Receiver<Arc<Batch>>,
    sender: mpsc::Sender<Result<WatchEvent, Status>>,
    settings: Settings,
}

impl Watch {
    /// Runs until something ends it.
    async fn run(&mut self, mut events: Vec<WatchEvent>) -> ApiError {
        loop {
            for event in events {
                match timeout(self.settings.watch_stall, self.sender.send(Ok(event))).await {
                    Ok(Ok(())) => {}
                    // Closed: nobody will read this.
                    Ok(Err(_)) => return ApiError::Stopping,
                    Err(_) => return ApiError::FellBehind,
                }
            }
            let look = match self.feed.recv().await {
                Ok(batch) => self.coalesce(&batch),
                Err(RecvError::Lagged(_)) => Look::All,
                Err(RecvError::Closed) => return ApiError::Stopping,
            };
            events = self.tracker.look(&look);
        }
    }

    /// One look for all batches that wait.
    fn coalesce(&mut self, first: &Batch) -> Look {
        let mut touched: BTreeSet<Touched> = first.touched.iter().cloned().collect();
        loop {
            match self.feed.try_recv() {
                Ok(batch) => touched.extend(batch.touched.iter().cloned()),
                Err(TryRecvError::Lagged(_)) => return Look::All,
                // Closed is met again by the next receive.
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Look::At(touched),
            }
        }
    }
}

/// Where to look for changes.
pub(super) enum Look {
    At(BTreeSet<Touched>),
    /// Some batches were lost: everywhere.
    All,
}

pub(super) struct Tracker {
    hub: Arc<Hub>,
    filter: Filter,
    /// What the client has, as it was last sent (or as it was when the watch began).
    sent: BTreeMap<Key, wire::Object>,
    /// All changes up to here were returned.
    upto: Rv,
}

impl Tracker {
    /// The first events. Subscribe to the hub before.
    pub fn begin(hub: Arc<Hub>, filter: Filter, after: Rv) -> Result<(Self, Vec<WatchEvent>), ApiError> {
        let mut tracker = Self {
            hub,
            filter,
            sent: BTreeMap::new(),
            upto: after,
        };
        let events = if after == Rv(0) {
            tracker.whole()
        } else {
            tracker.resume(after)?
        };
        Ok((tracker, events))
    }

    fn whole(&mut self) -> Vec<WatchEvent> {
        let (rv, objects) = self.hub.read(|world| {
            let keys = world.keys(self.filter.kind, &self.filter.namespace);
            let selected = |(key, _): (Key, Rv)| self.filter.select(world, &key).map(|o| (key, o));
            (world.rv, keys.into_iter().filter_map(selected).collect::<Vec<_>>())
        });
        let mut events = Vec::with_capacity(objects.len() + 1);
        for (key, object) in objects {
            let object = convert::object(&object);
            events.push(event(Type::Added, object.clone()));
            self.sent.insert(key, object);
        }
        events.push(WatchEvent {
            r#type: Type::Bookmark.into(),
            object: None,
            resource_version: 0,
        });
        self.versioned(events, rv)
    }

    fn resume(&mut self, after: Rv) -> Result<Vec<WatchEvent>, ApiError> {
        let filter = &self.filter;
        // The world first and its tombstones then: what is deleted between the two is in both, and the live
        // batches bring it; the other way round it would be in neither.
        let (rv, present) = self.hub.read(|world| {
            let mut present = Vec::new();
            for (key, rv) in world.keys(filter.kind, &filter.namespace) {
                let version = shown_version(world, filter.kind, &key, rv);
                if let Some(object) = filter.select(world, &key) {
                    present.push((key, version, object, true));
                } else if version > after
                    && let Some(object) = world.object(filter.kind, &key.0, &key.1)
                    && filter.may_have_matched(&object)
                {
                    present.push((key, version, object, false));
                }
            }
            (world.rv, present)
        });
        if after > rv {
            return Err(ApiError::Beyond { after, newest: rv });
        }
        let dead = self
            .hub
            .deleted_since(filter.kind, after)
            .ok_or(ApiError::TooOld { after })?;
        let mut events: Vec<(Rv, WatchEvent)> = Vec::new();
        let mut died = BTreeSet::new();
        for tombstone in dead.into_iter().filter(|t| t.rv <= rv) {
            let meta = tombstone.object.meta();
            // Only the first one of a name can be what the client has.
            if died.insert((meta.namespace.clone(), meta.name.clone())) && filter.may_have_matched(&tombstone.object) {
                events.push((tombstone.rv, event(Type::Deleted, convert::object(&tombstone.object))));
            }
        }
        for (key, version, object, selected) in present {
            let object = convert::object(&object);
            if version > after {
                let kind = match (selected, died.contains(&key)) {
                    (true, true) => Type::Added,
                    (true, false) => Type::Modified,
                    (false, _) => Type::Deleted,
                };
                events.push((version, event(kind, object.clone())));
            }
            if selected {
                self.sent.insert(key, object);
            }
        }
        events.sort_by_key(|(version, _)| *version);
        let events = events.into_iter().map(|(_, event)| event).collect();
        Ok(self.versioned(events, rv))
    }

    /// What changed for this client since the last look.
    pub fn look(&mut self, look: &Look) -> Vec<WatchEvent> {
        let (rv, seen) = self.hub.read(|world| {
            let keys = match look {
                Look::At(touched) => candidates(world, self.filter.kind, touched),
                Look::All => {
                    let keys = world.keys(self.filter.kind, &self.filter.namespace);
                    let mut keys: BTreeSet<Key> = keys.into_iter().map(|(key, _)| key).collect();
                    keys.extend(self.sent.keys().cloned());
                    keys
                }
            };
            let seen: Vec<(Key, Option<Object>)> = keys
                .into_iter()
                .map(|key| {
                    let object = self.filter.select(world, &key);
                    (key, object)
                })
                .collect();
            (world.rv, seen)
        });
        let mut events = Vec::new();
        for (key, object) in seen {
            let now = object.as_ref().map(convert::object);
            match (self.sent.get(&key), now) {
                (None, None) => {}
                (None, Some(now)) => {
                    events.push(event(Type::Added, now.clone()));
                    self.sent.insert(key, now);
                }
                (Some(before), Some(now)) if before.uid != now.uid => {
                    events.push(event(Type::Deleted, before.clone()));
                    events.push(event(Type::Added, now.clone()));
                    self.sent.insert(key, now);
                }
                (Some(before), Some(now)) => {
                    if *before != now {
                        events.push(event(Type::Modified, now.clone()));
                        self.sent.insert(key, now);
                    }
                }
                (Some(_), None) => {
                    if let Some(before) = self.sent.remove(&key) {
                        events.push(event(Type::Deleted, before));
                    }
                }
            }
        }
        self.versioned(events, rv)
    }

    /// See the module's head, on `resource_version`.
    fn versioned(&mut self, mut events: Vec<WatchEvent>, rv: Rv) -> Vec<WatchEvent> {
        for event in &mut events {
            event.resource_version = self.upto.0;
        }
        if let Some(last) = events.last_mut() {
            last.resource_version = rv.0;
        }
        self.upto = rv;
        events
    }
}

fn event(kind: Type, object: wire::Object) -> WatchEvent {
    WatchEvent {
        r#type: kind.into(),
        object: Some(object),
        resource_version: 0,
    }
}

/// Objects of `kind` whose looks may have changed. What is shown of a pod depends on its node's readiness, of
/// a controller on both.
fn candidates(world: &World, kind: Kind, touched: &BTreeSet<Touched>) -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    for touched in touched {
        match (touched, kind) {
            (Touched::Node(name), Kind::Node) | (Touched::Namespace(name), Kind::Namespace) => {
                keys.insert((String::new(), name.clone()));
            }
            (Touched::Controller(key), Kind::ReplicationController | Kind::Endpoints)
            | (Touched::Endpoints(key), Kind::Endpoints)
            | (Touched::DaemonSet(key), Kind::DaemonSet)
            | (Touched::Pod(key), Kind::Pod)
            | (Touched::Budget(key), Kind::PodDisruptionBudget)
            | (Touched::Event(key), Kind::Event) => {
                keys.insert(key.clone());
            }
            (Touched::Node(name), Kind::Pod) => keys.extend(world.pods_on(name).map(|(key, _)| key.clone())),
            (Touched::Node(name), Kind::ReplicationController) => {
                let owners = world.pods_on(name).filter_map(|(_, pod)| pod.record.owner.as_ref());
                keys.extend(owners.filter_map(|o| world.controller_by_uid(&o.uid).map(|(key, _)| key.clone())));
            }
            _ => {}
        }
    }
    keys
}

/// Version since which an object looks as it does: its own, or that of a node it depends on.
fn shown_version(world: &World, kind: Kind, key: &Key, own: Rv) -> Rv {
    let of_node = |name: &str| {
        let ready = world.nodes.get(name).and_then(|n| n.ready.as_ref());
        ready.map(|r| r.rv).unwrap_or_default()
    };
    match kind {
        Kind::Pod => world
            .pods
            .get(key)
            .map_or(own, |pod| own.max(of_node(&pod.record.node))),
        Kind::ReplicationController => world.controllers.get(key).map_or(own, |state| {
            let pods = world.pods_of(&state.rc.metadata.uid);
            pods.fold(own, |version, (_, pod)| version.max(of_node(&pod.record.node)))
        }),
        // Nodes touch daemon sets.
        Kind::Node | Kind::Namespace | Kind::DaemonSet | Kind::PodDisruptionBudget | Kind::Endpoints | Kind::Event => {
            own
        }
    }
}

#[cfg(test)]
#[path = "watch_property_tests.rs"]
mod property_tests;
#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
