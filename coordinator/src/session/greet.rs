//! The beginning of a session: what must hold before anything is assigned, and Welcome. Called by `turns`, for the first
//! Hello of a stream and for each that a take-over asks for.
//!
//! Invariant: a session is its node's only one of its mode, and the one before it has written its last, when this
//! ends; the agent's start is durably the newest one, or the session is one in quarantine.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{Stream, StreamExt as _};
use proto::{
    model::{EventType, Hardware, Kind},
    wire::{self, AgentSettings, Down, Hello, Quarantine, Up, Welcome, down, goodbye::Reason, up},
};
use tokio::sync::mpsc;
use tonic::Status;

use super::{
    Sessions,
    assignments::agent_settings,
    facts, hardware,
    hello::{self, Lineage},
    holder,
    ingest::Start,
    liveness::Signal,
    notes, orphans,
    registry::{Handle, Mode},
    router::{misplaced, retimed},
    service::Peer,
    told::Whereabouts,
};
use crate::{
    events::Note,
    store::Fence,
    world::{
        World, clone_words,
        record::{Claim, FactsRecord},
    },
};

/// Most pods that an agent may speak of at once.
pub const MAX_OBSERVED: usize = 4096;

/// How a session ends.
pub enum End {
    /// The agent is gone.
    Closed,
    Goodbye(Reason, String),
    Refused(Status),
    /// Not the stream ends, but this coordinator's turn to lead.
    Turn,
}

impl End {
    pub fn protocol(what: impl Into<String>) -> Self {
        Self::Goodbye(Reason::Protocol, what.into())
    }
}

/// A session that may begin.
pub struct Greeted {
    pub guard: Guard,
    pub fence: Arc<Fence>,
    pub start: Start,
    pub hello: Hello,
    pub lineage: Lineage,
    pub facts: FactsRecord,
    pub hardware: Option<Hardware>,
    /// As Welcome told them.
    pub settings: AgentSettings,
    pub whereabouts: Whereabouts,
}

/// Puts a session's end on record, however its task ends.
pub struct Guard {
    shared: Arc<Sessions>,
    pub handle: Arc<Handle>,
}

impl Guard {
    pub fn new(shared: &Arc<Sessions>, handle: Arc<Handle>) -> Self {
        shared.heard_changed();
        Self {
            shared: shared.clone(),
            handle,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.registry.close(&self.handle);
        if !matches!(self.handle.mode, Mode::Standby(_)) {
            self.shared.signal(Signal::Closed(self.handle.clone()));
        }
        self.handle.end();
        self.shared.heard_changed();
    }
}

/// The first message of a stream.
pub async fn first<S>(shared: &Sessions, inbound: &mut S) -> Result<Hello, End>
where
    S: Stream<Item = Result<Up, Status>> + Send + Unpin,
{
    let within = shared.settings.hello_timeout;
    let first = tokio::select! {
        first = tokio::time::timeout(within, inbound.next()) => first,
        () = shared.stopping.cancelled() => {
            return Err(End::Goodbye(Reason::Shutdown, "the coordinator stops; come back".into()));
        }
    };
    match first {
        Err(_) => {
            let within = humantime::format_duration(within);
            Err(End::Refused(Status::deadline_exceeded(format!(
                "no Hello within {within}"
            ))))
        }
        Ok(None | Some(Err(_))) => Err(End::Closed),
        Ok(Some(Ok(Up {
            message: Some(up::Message::Hello(hello)),
        }))) => Ok(hello),
        Ok(Some(Ok(_))) => Err(End::protocol("the first message is not a Hello")),
    }
}

fn refuse(what: impl Into<String>) -> End {
    End::Refused(Status::failed_precondition(what))
}

/// What a Hello must fulfil, whether this coordinator leads or not; the facts in it.
pub fn examine(shared: &Sessions, hello: &Hello) -> Result<(FactsRecord, Option<Hardware>), End> {
    hello::check_version(proto::VERSION, &hello.version).map_err(refuse)?;
    hello::check_clock(now_ms(), hello.clock_ms, shared.settings.max_skew).map_err(refuse)?;
    if hello.observed.len() > MAX_OBSERVED {
        return Err(End::protocol(format!("a Hello with more than {MAX_OBSERVED} pods")));
    }
    let given = hello
        .facts
        .as_ref()
        .ok_or_else(|| End::protocol("a Hello without facts"))?;
    let facts = facts::record(given, &hello.capabilities).map_err(End::protocol)?;
    let hardware = hardware::record(given.inventory.as_ref()).map_err(End::protocol)?;
    holder::check_instance(&hello.instance).map_err(End::protocol)?;
    Ok((facts, hardware))
}

/// Uid of the caller's node, which the world may not have heard of yet.
pub async fn uid_of(shared: &Sessions, peer: &Peer) -> Result<String, End> {
    let node = peer.node.as_str();
    let look = |w: &World| {
        if peer.deleted {
            w.tombstones.get(node).map(|t| t.value.uid.clone())
        } else {
            w.nodes.get(node).map(|n| n.node.metadata.uid.clone())
        }
    };
    if shared.hub.read(|w| look(w).is_none()) {
        // A host that has just joined may be faster than the news of it.
        let caught_up = shared.hub.wait_for(shared.hub.store().newest());
        let _ = tokio::time::timeout(shared.settings.stall, caught_up).await;
    }
    shared.hub.read(look).ok_or_else(|| {
        let gone = format!("node {node} was deleted; let it join again with a new token");
        End::Refused(Status::permission_denied(gone))
    })
}

/// What a Hello claims to be.
pub fn claim(peer: &Peer, hello: &Hello, facts: &FactsRecord) -> Claim {
    Claim {
        generation: peer.generation,
        epoch: hello.epoch,
        instance: hello.instance.clone(),
        host: facts.hostname.clone(),
        address: peer.address.clone(),
    }
}

/// From a Hello to Welcome, under the fence of the moment.
pub async fn greet(
    shared: &Arc<Sessions>,
    peer: &Peer,
    hello: Hello,
    fence: Arc<Fence>,
    messages: &mpsc::Sender<Down>,
) -> Result<Greeted, End> {
    let (settings, node) = (&shared.settings, peer.node.as_str());
    let (facts, hardware) = examine(shared, &hello)?;
    let uid = uid_of(shared, peer).await?;
    let (lineage, known, ended, told, heartbeat, (leader, coordinators)) = shared.hub.read(|w| {
        let (known, ended) = hello::term_of(w, hello.fence.as_ref());
        (
            hello::lineage(w, &hello),
            known,
            ended,
            agent_settings(w),
            settings.heartbeat(&w.settings),
            settings.told(w, true),
        )
    });
    let (pending, replaces) = shared.hub.read(|w| (w.restore_pending(), w.replaces()));
    let lineage = if pending { Lineage::Fresh } else { lineage };
    let mut welcome = Welcome {
        role: wire::welcome::Role::Active.into(),
        leader: leader.clone(),
        coordinators: coordinators.clone(),
        fence: Some(wire_fence(&fence)),
        heartbeat_ms: millis(heartbeat),
        your_term_ended_at: ended.0,
        your_term_known: known,
        node: node.to_owned(),
        max_silence_ms: millis(settings.max_silence),
        settings: Some(told),
        replaces,
        ..Welcome::default()
    };
    if let Lineage::Broken(why) = lineage {
        let welcome = say(down::Message::Welcome(welcome));
        messages.send(welcome).await.map_err(|_| End::Closed)?;
        let message = format!(
            "the agent of node {node} belongs to another history: {why}; put back the newer store, or restore this one as a new incarnation"
        );
        shared.recorder.note(Note {
            involved: notes::reference(Kind::Node, "", node, &uid),
            reason: "HistoryRefused".into(),
            message: message.clone(),
            kind: EventType::Warning,
            component: "session",
            host: String::new(),
            at: proto::model::Time::now(),
        });
        return Err(refuse(message));
    }

    let mode = if pending {
        found(shared, peer, &hello, &mut welcome)?
    } else {
        mode(shared, peer, &hello, &facts, &mut welcome).await?
    };
    if mode == Mode::Full {
        orphans::settle(shared, node, &hello, &lineage).await?;
    }
    let (handle, old) = shared
        .registry
        .open(node, &uid, mode)
        .map_err(|full| End::Refused(Status::resource_exhausted(full.to_string())))?;
    let guard = Guard::new(shared, handle.clone());
    let off = shared.hub.read(|w| w.nodes.get(node).is_some_and(|n| n.off.is_some()));
    handle.returning.store(off && mode == Mode::Full, Ordering::Relaxed);
    handle.set_silence(heartbeat * settings.missed);
    // What came before the router could find the session.
    if let Some((reason, words)) = shared
        .hub
        .read(|w| misplaced(w, &handle).or_else(|| retimed(shared, w, &handle)))
    {
        handle.kick(reason, words);
    }
    if let Some(old) = old {
        // What the old session still writes must not come after what this one knows.
        let _ = tokio::time::timeout(settings.stall, old.ended()).await;
    }
    if shared.stopping.is_cancelled() {
        handle.kick(Reason::Shutdown, "the coordinator stops; come back");
    }
    let quarantine = welcome.quarantine();
    let welcome = say(down::Message::Welcome(welcome));
    messages.send(welcome).await.map_err(|_| End::Closed)?;
    shared.metrics.sessions_opened.inc();
    tracing::info!(
        node,
        version = hello.version,
        epoch = hello.epoch,
        instance = hello.instance,
        quarantine = quarantine.as_str_name(),
        "session opened"
    );
    Ok(Greeted {
        guard,
        fence,
        start: Start {
            generation: peer.generation,
            epoch: hello.epoch,
        },
        hello,
        lineage,
        facts,
        hardware,
        settings: told,
        whereabouts: (leader, coordinators),
    })
}

/// While a restore awaits an operator's word: what the agent runs is noted, for the operator to see.
fn found(shared: &Sessions, peer: &Peer, hello: &Hello, welcome: &mut Welcome) -> Result<Mode, End> {
    if peer.deleted {
        return Err(End::Refused(Status::unavailable(
            "a restore awaits `wharf cluster accept-restore`; retry later",
        )));
    }
    welcome.quarantine = Quarantine::Restored.into();
    welcome.quarantine_message =
        "the coordinator's state was restored from a backup; nothing is started or stopped until: wharf cluster accept-restore".into();
    let mut found = shared.found.lock().unwrap_or_else(PoisonError::into_inner);
    found.insert(peer.node.clone(), hello.observed.clone());
    Ok(Mode::Restored)
}

/// What the session is for; says so in `welcome`.
async fn mode(
    shared: &Sessions,
    peer: &Peer,
    hello: &Hello,
    facts: &FactsRecord,
    welcome: &mut Welcome,
) -> Result<Mode, End> {
    let node = &peer.node;
    let (mode, quarantine, words) = if peer.deleted {
        let words = format!(
            "node {node} was deleted: what still runs here of its pods is stopped; afterwards remove this agent, or join again with a new token"
        );
        (Mode::Deleted, Quarantine::Deleted, words)
    } else {
        let claim = claim(peer, hello, facts);
        if holder::admit(shared, node, &claim).await? {
            return Ok(Mode::Full);
        }
        let known = shared.hub.read(|w| w.nodes.get(node).and_then(|n| n.holder.clone()));
        let record = known.map(|k| (*k.value).clone()).unwrap_or_default();
        let (rival, number) = (record.rival.as_ref(), holder::number(&record, &claim));
        let words = rival.map(|r| clone_words(node, &record.holder, r)).unwrap_or_default();
        (Mode::Cloned(number), Quarantine::Cloned, words)
    };
    welcome.quarantine = quarantine.into();
    welcome.quarantine_message = words;
    Ok(mode)
}

pub fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The message as it goes out.
pub fn say(message: down::Message) -> Down {
    Down { message: Some(message) }
}

/// The wall clock, milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The fence as agents see it.
pub fn wire_fence(fence: &Fence) -> wire::Fence {
    wire::Fence {
        incarnation: fence.incarnation.to_string(),
        term: fence.term,
        nonce: fence.nonce.to_string(),
    }
}
