//! The beginning of a session: what must hold before anything is assigned, and Welcome. Called by `stream`.
//!
//! Invariant: a session is its node's only one of its mode, and the one before it has written its last, when this
//! ends; the agent's start is durably the newest one, or the session is one in quarantine.

use std::{
    sync::{Arc, atomic::Ordering},
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
    notes,
    registry::{Handle, Mode},
    router::{misplaced, retimed},
    service::Peer,
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
}

/// Puts a session's end on record, however its task ends.
pub struct Guard {
    shared: Arc<Sessions>,
    pub handle: Arc<Handle>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.registry.close(&self.handle);
        self.shared.signal(Signal::Closed(self.handle.clone()));
        self.handle.end();
    }
}

/// From the first message to the first assignments.
pub async fn greet<S>(
    shared: &Arc<Sessions>,
    peer: &Peer,
    inbound: &mut S,
    messages: &mpsc::Sender<Down>,
) -> Result<Greeted, End>
where
    S: Stream<Item = Result<Up, Status>> + Send + Unpin,
{
    let (settings, node) = (&shared.settings, peer.node.as_str());
    let first = tokio::select! {
        first = tokio::time::timeout(settings.hello_timeout, inbound.next()) => first,
        () = shared.stopping.cancelled() => {
            return Err(End::Goodbye(Reason::Shutdown, "the coordinator stops; come back".into()));
        }
    };
    let hello = match first {
        Err(_) => {
            let within = humantime::format_duration(settings.hello_timeout);
            return Err(End::Refused(Status::deadline_exceeded(format!(
                "no Hello within {within}"
            ))));
        }
        Ok(None | Some(Err(_))) => return Err(End::Closed),
        Ok(Some(Ok(Up {
            message: Some(up::Message::Hello(hello)),
        }))) => hello,
        Ok(Some(Ok(_))) => return Err(End::protocol("the first message is not a Hello")),
    };
    let refuse = |what| End::Refused(Status::failed_precondition(what));
    hello::check_version(proto::VERSION, &hello.version).map_err(refuse)?;
    hello::check_clock(now_ms(), hello.clock_ms, settings.max_skew).map_err(refuse)?;
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
    let fence = shared
        .hub
        .fence()
        .ok_or_else(|| End::Refused(Status::unavailable("this coordinator does not lead; retry later")))?;

    let uid_of = |w: &World| {
        if peer.deleted {
            w.tombstones.get(node).map(|t| t.value.uid.clone())
        } else {
            w.nodes.get(node).map(|n| n.node.metadata.uid.clone())
        }
    };
    if shared.hub.read(|w| uid_of(w).is_none()) {
        // A host that has just joined may be faster than the news of it.
        let caught_up = shared.hub.wait_for(shared.hub.store().newest());
        let _ = tokio::time::timeout(settings.stall, caught_up).await;
    }
    let (uid, lineage, known, ended, told, heartbeat) = shared.hub.read(|w| {
        let (known, ended) = hello::term_of(w, hello.fence.as_ref());
        (
            uid_of(w),
            hello::lineage(w, &hello),
            known,
            ended,
            agent_settings(w),
            settings.heartbeat(&w.settings),
        )
    });
    let Some(uid) = uid else {
        let gone = format!("node {node} was deleted; let it join again with a new token");
        return Err(End::Refused(Status::permission_denied(gone)));
    };
    let mut welcome = Welcome {
        role: wire::welcome::Role::Active.into(),
        leader: settings.coordinators.first().cloned().unwrap_or_default(),
        coordinators: settings.coordinators.clone(),
        fence: Some(wire_fence(&fence)),
        heartbeat_ms: millis(heartbeat),
        your_term_ended_at: ended.0,
        your_term_known: known,
        node: node.to_owned(),
        max_silence_ms: millis(settings.max_silence),
        settings: Some(told),
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

    let mode = mode(shared, peer, &hello, &facts, &mut welcome).await?;
    let (handle, old) = shared
        .registry
        .open(node, &uid, mode)
        .map_err(|full| End::Refused(Status::resource_exhausted(full.to_string())))?;
    let guard = Guard {
        shared: shared.clone(),
        handle: handle.clone(),
    };
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
    })
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
        let claim = Claim {
            generation: peer.generation,
            epoch: hello.epoch,
            instance: hello.instance.clone(),
            host: facts.hostname.clone(),
            address: peer.address.clone(),
        };
        if holder::admit(shared, node, &claim).await? {
            return Ok(Mode::Full);
        }
        let known = shared.hub.read(|w| w.nodes.get(node).and_then(|n| n.holder.clone()));
        let record = known.map(|k| (*k.value).clone()).unwrap_or_default();
        let rival = record.rival.as_ref();
        let number = match rival {
            _ if record.holder.same_start(&claim) => 1,
            Some(rival) if rival.claim.same_start(&claim) => 2,
            _ => 3,
        };
        let words = rival.map(|r| clone_words(node, &record.holder, r)).unwrap_or_default();
        (Mode::Cloned(number), Quarantine::Cloned, words)
    };
    welcome.quarantine = quarantine.into();
    welcome.quarantine_message = words;
    Ok(mode)
}

fn millis(duration: Duration) -> u32 {
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
