//! One stream of an agent from its first Hello to its end, through the turns of this coordinator: it stands by, leads,
//! and stands by again, and the stream outlives all of that. A task each, spawned by `service`.
//!
//! Invariant: whoever begins to lead decides nothing on a Hello from before; the end is always said and always on record.

use std::sync::Arc;

use futures::Stream;
use proto::wire::{Down, Goodbye, Hello, Up, down, goodbye::Reason};
use tokio::{sync::mpsc, time::timeout};
use tonic::Status;

use super::{
    Sessions,
    greet::{self, End, say},
    service::{Outgoing, Peer},
    standby,
    stream::Session,
};
use crate::store::CommitError;

pub fn demoted() -> End {
    End::Goodbye(Reason::Demoted, "another coordinator leads".into())
}

/// Ends the session, and tells the process unless the fault passes by itself. Where others stand by, a lost term ends neither.
pub fn store_failed(shared: &Sessions, error: CommitError) -> End {
    if error.passes() {
        return End::Refused(Status::unavailable(format!(
            "the coordinator cannot write just now ({error}); retry later"
        )));
    }
    let end = match error {
        CommitError::Fenced { ours, .. } if shared.settings.contested => {
            shared.lost_term(ours);
            return End::Turn;
        }
        CommitError::Fenced { .. } => demoted(),
        _ => End::Refused(Status::unavailable("the coordinator's store failed")),
    };
    shared.fail(error);
    end
}

/// Serves one stream of an agent.
pub async fn serve<S>(shared: Arc<Sessions>, peer: Peer, mut inbound: S, out: Outgoing)
where
    S: Stream<Item = Result<Up, Status>> + Send + Unpin,
{
    let Outgoing { messages, last } = out;
    let end = converse(&shared, &peer, &mut inbound, &messages).await;
    drop(messages);
    let node = peer.node;
    let (reason, said) = match end {
        // A turn is taken by `converse`.
        End::Closed | End::Turn => {
            tracing::info!(node, "the agent closed its session");
            ("closed", None)
        }
        End::Goodbye(reason, message) => {
            tracing::info!(node, reason = reason.as_str_name(), message, "session ended");
            let goodbye = down::Message::Goodbye(Goodbye {
                reason: reason.into(),
                message,
            });
            (reason.as_str_name(), Some(Ok(say(goodbye))))
        }
        End::Refused(status) => {
            tracing::warn!(node, reason = status.message(), "session refused");
            ("refused", Some(Err(status)))
        }
    };
    shared.metrics.session_ended(reason);
    if let Some(said) = said {
        // Nobody reads when the agent is gone.
        let _ = last.send(said);
    }
}

/// All turns; how the stream ends.
async fn converse<S>(shared: &Arc<Sessions>, peer: &Peer, inbound: &mut S, messages: &mpsc::Sender<Down>) -> End
where
    S: Stream<Item = Result<Up, Status>> + Send + Unpin,
{
    let mut hello = match greet::first(shared, inbound).await {
        Ok(hello) => hello,
        Err(end) => return end,
    };
    // Hellos asked for by announcements that have not come.
    let mut asked = 0;
    if let Some(end) = lead(shared, peer, &hello, None, inbound, messages).await {
        return end;
    }
    loop {
        let standing = match standby::open(shared, peer, &hello).await {
            Ok(standing) => standing,
            Err(end) => return end,
        };
        let fresh = loop {
            if let Err(end) = standing.wait(shared, inbound, messages, &mut asked).await {
                return end;
            }
            // So many at once: a fleet is taken over in step, and its agents are not told all in one moment.
            let Ok(place) = shared.takeovers.clone().acquire_owned().await else {
                return End::Closed;
            };
            let announced = standing.announce(shared, inbound, messages, &mut asked);
            tokio::pin!(announced);
            let (told, place) = match timeout(shared.settings.takeover_hold, &mut announced).await {
                Ok(told) => (told, Some(place)),
                Err(_) => {
                    // An agent that is slow, or gone, keeps no other one waiting.
                    drop(place);
                    (announced.await, None)
                }
            };
            match told {
                Ok(Some(hello)) => break (hello, place),
                Ok(None) => {}
                Err(end) => return end,
            }
        };
        let place;
        (hello, place) = fresh;
        let begun = Begun {
            _standing: standing,
            _place: place,
        };
        if let Some(end) = lead(shared, peer, &hello, Some(begun), inbound, messages).await {
            return end;
        }
    }
}

/// What is given back once the session at work has begun.
struct Begun {
    _standing: standby::Standing,
    _place: Option<tokio::sync::OwnedSemaphorePermit>,
}

/// A turn of leading, on a Hello that was said for it; `None`: it is over, or never began.
async fn lead<S>(
    shared: &Arc<Sessions>,
    peer: &Peer,
    hello: &Hello,
    begun: Option<Begun>,
    inbound: &mut S,
    messages: &mpsc::Sender<Down>,
) -> Option<End>
where
    S: Stream<Item = Result<Up, Status>> + Send + Unpin,
{
    let fence = shared.leading()?;
    let greeted = match greet::greet(shared, peer, hello.clone(), fence, messages).await {
        Ok(greeted) => greeted,
        Err(End::Turn) => return None,
        Err(end) => return Some(end),
    };
    let mut session = Session::new(shared.clone(), &greeted, messages.clone());
    let mut end = session.first(&greeted.hello, &greeted.lineage).await.err();
    drop(begun);
    if end.is_none() {
        end = Some(session.run(inbound).await);
    }
    let turn = matches!(end, Some(End::Turn));
    if turn {
        greeted.guard.handle.set_demoted();
    }
    session.finish().await;
    end.filter(|_| !turn)
}
