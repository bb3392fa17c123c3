//! The hub: holds the world, feeds it from the store's watch, and is the one way to write. Everything in the
//! coordinator that reads state reads it here; everything that commits commits here.
//!
//! Invariant: a commit returns only after the world includes it, so whoever wrote reads its own write; the
//! world is replaced by no one else and an update is applied once.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use proto::model::{Kind, Object};
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard, broadcast, watch};

use super::{Touched, Unreadable, World};
use crate::store::{
    Change, CommitError, Committed, Fence, ReadError, Rv, Store, Update,
    keys::{self, Parsed},
};

/// How many deleted objects are remembered for watches that resume.
const TOMBSTONES: usize = 10_000;
/// How many batches a slow subscriber may lie behind before it must start again.
const FEED: usize = 1024;

/// One applied batch.
#[derive(Debug)]
pub struct Batch {
    pub rv: Rv,
    pub touched: Vec<Touched>,
}

/// An object that is gone, as it last was.
#[derive(Clone, Debug)]
pub struct Tombstone {
    pub rv: Rv,
    pub object: Arc<Object>,
}

#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("the store closed its watch")]
    WatchEnded,
}

struct State {
    world: World,
    tombstones: VecDeque<Tombstone>,
    /// Watches from before this cannot be told what was deleted.
    tombstones_from: Rv,
}

pub struct Hub {
    store: Arc<dyn Store>,
    state: RwLock<State>,
    applied: watch::Sender<Rv>,
    feed: broadcast::Sender<Arc<Batch>>,
    fence: watch::Sender<Option<Arc<Fence>>>,
    /// Commits that were begun and have not ended.
    writing: watch::Sender<usize>,
    /// Shared by who places pods, from its look at the world to the end of its commits; alone with who holds a node.
    placements: tokio::sync::RwLock<()>,
}

impl Hub {
    /// Loads the store; [`Hub::run`] must then be driven for the hub to move.
    pub async fn load(store: Arc<dyn Store>) -> Result<Arc<Self>, HubError> {
        let snapshot = store.load().await?;
        let mut world = World::default();
        let mut entries = snapshot.entries;
        entries.sort_by_key(|e| e.rv);
        for entry in entries {
            world.apply(&Update {
                rv: entry.rv,
                key: entry.key,
                value: Some(entry.value),
            })?;
        }
        world.loaded(snapshot.rv);
        Ok(Arc::new(Self {
            store,
            applied: watch::Sender::new(snapshot.rv),
            state: RwLock::new(State {
                world,
                tombstones: VecDeque::new(),
                tombstones_from: snapshot.rv,
            }),
            feed: broadcast::Sender::new(FEED),
            fence: watch::Sender::new(None),
            writing: watch::Sender::new(0),
            placements: tokio::sync::RwLock::default(),
        }))
    }

    /// Applies the store's updates until it fails. The caller ends the process then: what follows would be
    /// decided on an old world.
    pub async fn run(self: Arc<Self>) -> Result<(), HubError> {
        let after = *self.applied.borrow();
        let mut updates = self.store.watch(after).await?;
        while let Some(batch) = updates.recv().await {
            self.apply(&batch)?;
        }
        Err(HubError::WatchEnded)
    }

    fn apply(&self, updates: &[Update]) -> Result<(), HubError> {
        let mut touched = Vec::new();
        let rv;
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for update in updates {
                let gone = if update.value.is_none() {
                    objects_at(&state.world, &update.key)
                } else {
                    Vec::new()
                };
                touched.extend(state.world.apply(update)?);
                for object in gone {
                    if state.tombstones.len() == TOMBSTONES
                        && let Some(dropped) = state.tombstones.pop_front()
                    {
                        state.tombstones_from = dropped.rv;
                    }
                    state.tombstones.push_back(Tombstone {
                        rv: update.rv,
                        object: Arc::new(object),
                    });
                }
            }
            rv = state.world.rv;
        }
        touched.sort_unstable();
        touched.dedup();
        self.applied.send_replace(rv);
        // No subscriber is no error.
        let _ = self.feed.send(Arc::new(Batch { rv, touched }));
        Ok(())
    }

    /// Reads the world. `f` must be short, and read nothing of a hub itself: it holds the lock that updates wait for,
    /// and a second read waits for an update that waits.
    pub fn read<R>(&self, f: impl FnOnce(&World) -> R) -> R {
        let _only = OnlyRead::begin();
        f(&self.state.read().unwrap_or_else(PoisonError::into_inner).world)
    }

    /// Objects of a kind deleted after `after`, oldest first; `None`: no longer known that far back.
    pub fn deleted_since(&self, kind: Kind, after: Rv) -> Option<Vec<Tombstone>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (after >= state.tombstones_from).then(|| {
            state
                .tombstones
                .iter()
                .filter(|t| t.rv > after && t.object.kind() == kind)
                .cloned()
                .collect()
        })
    }

    /// What was touched from now on; a lagging receiver must read the world anew.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.feed.subscribe()
    }

    /// Version of the world.
    pub fn rv(&self) -> Rv {
        *self.applied.borrow()
    }

    /// Waits until the world includes `rv`.
    pub async fn wait_for(&self, rv: Rv) {
        // The sender lives in self, so this cannot fail.
        let _ = self.applied.subscribe().wait_for(|applied| *applied >= rv).await;
    }

    /// Waits until no restore awaits an operator's word.
    pub async fn accepted(&self) {
        let mut feed = self.subscribe();
        while self.read(World::restore_pending) {
            // A lag is no matter here, and the feed lives in self.
            let _ = feed.recv().await;
        }
    }

    /// Commits under the present leadership and returns once the world includes it.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let fence = self.fence().ok_or(CommitError::Fenced { ours: 0, current: 0 })?;
        self.commit_under(&fence, changes).await
    }

    /// As [`Hub::commit`], for what was decided under `fence`.
    pub async fn commit_under(&self, fence: &Fence, changes: Vec<Change>) -> Result<Committed, CommitError> {
        let _writing = Writing::begin(&self.writing);
        let committed = self.store.commit(fence, changes).await?;
        self.wait_for(committed.last()).await;
        Ok(committed)
    }

    /// Returns at a moment at which no commit is under way.
    pub async fn quiet(&self) {
        // The sender lives in self, so this cannot fail.
        let _ = self.writing.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Present leadership of this process; `None`: it does not lead.
    pub fn fence(&self) -> Option<Arc<Fence>> {
        self.fence.borrow().clone()
    }

    /// Set by `leader` alone.
    pub fn set_fence(&self, fence: Option<Fence>) {
        self.fence.send_replace(fence.map(Arc::new));
    }

    /// Leadership of this process as it changes.
    pub fn fences(&self) -> watch::Receiver<Option<Arc<Fence>>> {
        self.fence.subscribe()
    }

    /// Taken by who places pods before it looks at the world, and kept until its commits have ended. Another
    /// process that placed pods before us has lost its fence.
    pub async fn place(&self) -> RwLockReadGuard<'_, ()> {
        self.placements.read().await
    }

    /// Waits for the placements under way and holds back new ones: no pod that was decided on the world from before
    /// a node's hold comes to the node after it.
    pub async fn hold_placements(&self) -> RwLockWriteGuard<'_, ()> {
        self.placements.write().await
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

/// Present while a thread reads. In a debug build a second read inside fails at once, and not one day.
struct OnlyRead;

impl OnlyRead {
    fn begin() -> Self {
        #[cfg(debug_assertions)]
        READING.with(|reading| assert!(!reading.replace(true), "a read of the world inside another"));
        Self
    }
}

impl Drop for OnlyRead {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        READING.with(|reading| reading.set(false));
    }
}

#[cfg(debug_assertions)]
thread_local! {
    static READING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Present while a commit is under way, however it ends.
struct Writing<'a>(&'a watch::Sender<usize>);

impl<'a> Writing<'a> {
    fn begin(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|n| *n += 1);
        Self(count)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

/// What goes with the key: a controller's endpoints go with it.
fn objects_at(world: &World, key: &str) -> Vec<Object> {
    let (kinds, namespace, name) = match keys::parse(key) {
        Parsed::Object {
            kind: Kind::ReplicationController,
            namespace,
            name,
        } => (&[Kind::ReplicationController, Kind::Endpoints][..], namespace, name),
        Parsed::Object { kind, namespace, name } => (&[kind][..], namespace, name),
        Parsed::Event { namespace, name } => (&[Kind::Event][..], namespace, name),
        _ => return Vec::new(),
    };
    let found = kinds.iter().filter_map(|kind| world.object(*kind, namespace, name));
    found.collect()
}
