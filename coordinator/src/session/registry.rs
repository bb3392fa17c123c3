//! The live sessions, by node: which one is the node's, when it was last heard, and how to end it. Written by
//! `stream` and `router`; read by `liveness`, the metrics and whoever must end a node's session.
//!
//! Invariant: memory only, and one session a node: a new one takes the old one's place at once, and begins
//! its work after the old one's last write. Sessions in quarantine, and those that are heard while another coordinator
//! leads, have places of their own beside it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use proto::wire::{OpenPipe, goodbye::Reason};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// Why a session is made to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kick {
    pub reason: Reason,
    pub message: String,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The node's agent, at work.
    Full,
    /// One of those that hold the node's identity: it is heard, and nothing is told to it. The number tells them
    /// apart.
    Cloned(u8),
    /// A restore awaits an operator's word: it tells what it runs, and nothing is told to it.
    Restored,
    /// The agent of a deleted node: it tells what still runs, and hears what to stop.
    Deleted,
    /// This coordinator does not lead: the agent is heard, and told who does. The number tells those apart that hold the
    /// same identity; 0: as far as is known it is the node's only one.
    Standby(u8),
}

impl Mode {
    /// Nothing is told to its agent, and nothing it says is written.
    pub fn is_mute(self) -> bool {
        matches!(self, Self::Cloned(_) | Self::Restored)
    }

    /// The place of such a session; a node's name has no slash.
    fn place(self, node: &str) -> String {
        match self {
            Self::Full => node.to_owned(),
            Self::Cloned(number) => format!("{node}/{number}"),
            Self::Restored => format!("{node}/restored"),
            Self::Deleted => format!("{node}/deleted"),
            Self::Standby(number) => format!("{node}/standby{number}"),
        }
    }

    /// Whether such a session shows that the node is there.
    pub fn shows_its_node(self) -> bool {
        matches!(self, Self::Full | Self::Standby(0))
    }
}

/// One session, as others see it.
#[derive(Debug)]
pub struct Handle {
    pub node: String,
    /// Of the node object: another one of the same name is another node.
    pub uid: String,
    pub mode: Mode,
    /// Rises with every session of this process.
    pub id: u64,
    pub started: Instant,
    /// Milliseconds after `started`.
    heard: AtomicU64,
    /// Liveness counts it as not heard; the next message must say so.
    lost: AtomicBool,
    /// Longest silence by the period of heartbeats that its agent was told, milliseconds; 0: none yet.
    silence: AtomicU64,
    /// The agent said that it restarts.
    leaving: AtomicBool,
    /// The node was confirmed off when it began, and that was not taken back yet.
    pub returning: AtomicBool,
    /// A pod of it waits for its template.
    pub incomplete: AtomicBool,
    /// The node's pods may have changed.
    pub dirty: Notify,
    /// Pipes to be asked for; as many as `pipes` has places, at most.
    asks: Mutex<VecDeque<OpenPipe>>,
    /// There are some.
    pub asked: Notify,
    /// Who leads, or where coordinators are, may have changed.
    pub retell: Notify,
    /// It ends because another coordinator leads.
    demoted: AtomicBool,
    kick: watch::Sender<Option<Kick>>,
    ended: CancellationToken,
}

impl Handle {
    /// Notes a message of the agent; true: liveness must be told that the node is heard again.
    pub fn hear(&self, now: Instant) -> bool {
        let after = now.saturating_duration_since(self.started).as_millis();
        self.heard
            .fetch_max(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.lost.swap(false, Ordering::Relaxed)
    }

    pub fn last_heard(&self) -> Instant {
        self.started + Duration::from_millis(self.heard.load(Ordering::Relaxed))
    }

    pub fn set_silence(&self, silence: Duration) {
        let ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        self.silence.store(ms, Ordering::Relaxed);
    }

    /// As its agent was told.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.silence.load(Ordering::Relaxed))
    }

    pub fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub fn leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub fn set_demoted(&self) {
        self.demoted.store(true, Ordering::Relaxed);
    }

    pub fn demoted(&self) -> bool {
        self.demoted.load(Ordering::Relaxed)
    }

    pub fn set_lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Asks the agent for a pipe, once the session gets to it.
    pub fn ask(&self, open: OpenPipe) {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).push_back(open);
        self.asked.notify_one();
    }

    /// The next pipe to be asked for.
    pub fn next_ask(&self) -> Option<OpenPipe> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Ends the session with a Goodbye; the first reason counts.
    pub fn kick(&self, reason: Reason, message: impl Into<String>) {
        self.kick.send_if_modified(|k| {
            let first = k.is_none();
            if first {
                *k = Some(Kick {
                    reason,
                    message: message.into(),
                });
            }
            first
        });
    }

    /// Resolves once the session is to end.
    pub async fn kicked(&self) -> Kick {
        let mut kick = self.kick.subscribe();
        match kick.wait_for(Option::is_some).await.map(|k| k.clone()) {
            Ok(Some(kick)) => kick,
            // The sender lives in self.
            _ => std::future::pending().await,
        }
    }

    /// Said by the session's own task after its last write.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Resolves after the session's last write.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} agents are connected, and max-sessions allows no more; raise it or retry later")]
pub struct Full(pub usize);

#[derive(Debug)]
pub struct Registry {
    sessions: Mutex<Places>,
    ids: AtomicU64,
    most: usize,
}

impl Registry {
    /// For at most `most` nodes.
    pub fn new(most: usize) -> Self {
        Self {
            sessions: Mutex::default(),
            ids: AtomicU64::new(1),
            most,
        }
    }

    /// Makes a session of `node` (object `uid`) the live one of its mode. The one before it, if any, is told to end
    /// and returned: wait for its end before any write.
    pub fn open(&self, node: &str, uid: &str, mode: Mode) -> Result<(Arc<Handle>, Option<Arc<Handle>>), Full> {
        let place = mode.place(node);
        let mut sessions = self.lock();
        // A node that has a session may turn it into one of another mode.
        if sessions.len() >= self.most && places_of(&sessions, node).next().is_none() {
            return Err(Full(self.most));
        }
        let handle = Arc::new(Handle {
            node: node.to_owned(),
            uid: uid.to_owned(),
            mode,
            id: self.ids.fetch_add(1, Ordering::Relaxed),
            started: Instant::now(),
            heard: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            silence: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            returning: AtomicBool::new(false),
            incomplete: AtomicBool::new(false),
            dirty: Notify::new(),
            asks: Mutex::default(),
            asked: Notify::new(),
            retell: Notify::new(),
            demoted: AtomicBool::new(false),
            kick: watch::Sender::new(None),
            ended: CancellationToken::new(),
        });
        let old = sessions.insert(place, handle.clone());
        drop(sessions);
        if let Some(old) = &old {
            old.kick(Reason::Superseded, "another session of this node took over");
        }
        Ok((handle, old))
    }

    /// Takes out a session that has ended, unless another one is the node's by now.
    pub fn close(&self, handle: &Handle) {
        let place = handle.mode.place(&handle.node);
        let mut sessions = self.lock();
        if sessions.get(&place).is_some_and(|h| h.id == handle.id) {
            sessions.remove(&place);
        }
    }

    /// The node's agent at work.
    pub fn get(&self, node: &str) -> Option<Arc<Handle>> {
        self.lock().get(node).cloned()
    }

    /// Every session of a node, those in quarantine too.
    pub fn all_of(&self, node: &str) -> Vec<Arc<Handle>> {
        places_of(&self.lock(), node).cloned().collect()
    }

    /// When the node's agent was last heard here, on whatever session shows that it is there.
    pub fn last_heard(&self, node: &str) -> Option<Instant> {
        let sessions = self.lock();
        let shows = places_of(&sessions, node).filter(|h| h.mode.shows_its_node());
        shows.map(|h| h.last_heard()).max()
    }

    /// Names of the nodes that `heard` says of.
    pub fn nodes(&self, heard: impl Fn(&Handle) -> bool) -> BTreeSet<String> {
        let sessions = self.lock();
        let there = sessions.values().filter(|h| h.mode.shows_its_node() && heard(h));
        there.map(|h| h.node.clone()).collect()
    }

    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.lock().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Places = BTreeMap<String, Arc<Handle>>;

fn places_of<'a>(sessions: &'a Places, node: &str) -> impl Iterator<Item = &'a Arc<Handle>> {
    let beside = format!("{node}/");
    let others = sessions
        .range(beside.clone()..)
        .take_while(move |(place, _)| place.starts_with(&beside));
    sessions.get(node).into_iter().chain(others.map(|(_, handle)| handle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_session_a_node_and_a_cap() {
        let registry = Registry::new(1);
        let (first, none) = registry.open("n1", "u", Mode::Full).unwrap();
        assert!(none.is_none());
        assert_eq!(registry.open("n2", "u", Mode::Full).unwrap_err(), Full(1));
        let (second, old) = registry.open("n1", "u", Mode::Full).unwrap();
        assert_eq!(old.map(|o| o.id), Some(first.id));
        assert_eq!(first.kicked().await.reason, Reason::Superseded);
        first.kick(Reason::Shutdown, "later");
        assert_eq!(first.kicked().await.reason, Reason::Superseded);
        registry.close(&first);
        assert_eq!(registry.get("n1").map(|h| h.id), Some(second.id));
        registry.close(&second);
        assert!(registry.is_empty());
    }

    #[tokio::test]
    async fn sessions_in_quarantine_stand_beside() {
        let registry = Registry::new(9);
        let open = |node, mode| registry.open(node, "u", mode).unwrap();
        let (full, _) = open("n1", Mode::Full);
        let (one, none) = open("n1", Mode::Cloned(1));
        assert!(none.is_none());
        let (_, old) = open("n1", Mode::Cloned(1));
        assert_eq!(old.map(|o| o.id), Some(one.id));
        open("n1", Mode::Deleted);
        // Names that sort between a name and its places.
        for other in ["n1-a", "n1.a", "n10", "n"] {
            open(other, Mode::Full);
        }
        let modes: Vec<Mode> = registry.all_of("n1").iter().map(|h| h.mode).collect();
        assert_eq!(modes, [Mode::Full, Mode::Cloned(1), Mode::Deleted]);
        assert_eq!(registry.get("n1").map(|h| h.id), Some(full.id));
        registry.close(&full);
        assert!(registry.get("n1").is_none());
        assert_eq!(registry.all_of("n1").len(), 2);
    }

    #[tokio::test]
    async fn a_standby_session_may_turn_into_one_at_work_where_all_places_are_taken() {
        let registry = Registry::new(1);
        let (standing, _) = registry.open("n1", "u", Mode::Standby(0)).unwrap();
        assert!(registry.get("n1").is_none(), "nothing may be asked of it");
        assert_eq!(registry.nodes(|_| true).into_iter().collect::<Vec<_>>(), ["n1"]);
        assert!(registry.last_heard("n1").is_some());
        assert_eq!(registry.open("n2", "u", Mode::Full).unwrap_err(), Full(1));
        let (full, old) = registry.open("n1", "u", Mode::Full).unwrap();
        assert!(old.is_none(), "it is the same stream");
        registry.close(&standing);
        assert_eq!(registry.get("n1").map(|h| h.id), Some(full.id));
        registry.close(&full);
        // Of two that hold one identity neither shows that the node is there.
        registry.open("n1", "u", Mode::Standby(1)).unwrap();
        assert!(registry.nodes(|_| true).is_empty() && registry.last_heard("n1").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_message_counts() {
        let registry = Registry::new(1);
        let (handle, _) = registry.open("n1", "u", Mode::Full).unwrap();
        let now = Instant::now();
        assert!(!handle.hear(now + Duration::from_secs(2)));
        assert!(!handle.hear(now + Duration::from_secs(1)));
        assert_eq!(handle.last_heard(), now + Duration::from_secs(2));
        handle.set_lost();
        assert!(handle.hear(now + Duration::from_secs(3)));
        assert!(!handle.hear(now + Duration::from_secs(4)));
    }
}
