//! What containers say of their end: from the file that each is given, or from the end of its log. Called by the
//! pod's task before an exit enters the book.
//!
//! Invariant: all that a pod's containers say together is bounded, so that its status always fits; words that
//! cannot be had take nothing away from the exit.

use proto::{
    ids::SANDBOX,
    model::{PodSpec, TerminationMessagePolicy},
};

use super::{Shared, files};
use crate::{
    runtime::{ContainerInfo, Exit, State},
    step::PodBook,
};

/// Most bytes of one container's words, and of all of a pod's.
const ONE: usize = 4096;
const ALL: usize = 12 << 10;
/// Most of a log that stands in for them.
const LOG_LINES: u32 = 80;
const LOG_BYTES: usize = 2048;

/// An exit that the book does not hold yet, and whose container may have said something.
pub(super) fn unheard<'a>(book: &PodBook, containers: &'a mut [ContainerInfo]) -> Vec<&'a mut ContainerInfo> {
    let new = |info: &ContainerInfo| match (&info.state, book.containers.get(&info.owner.container)) {
        (State::Exited(exit), _) if !exit.message.is_empty() => false,
        (State::Exited(_), Some(entry)) => {
            info.owner.attempt >= entry.attempt && entry.ended().is_none_or(|e| e.id != info.id)
        }
        (State::Exited(_), None) => true,
        (State::Created | State::Running { .. }, _) => false,
    };
    containers
        .iter_mut()
        .filter(|i| i.owner.container != SANDBOX && new(i))
        .collect()
}

/// Most bytes of one container's words, in a pod of so many.
pub(super) fn limit(containers: usize) -> usize {
    ONE.min(ALL / containers.max(1))
}

/// What the container said; empty when it said nothing.
pub(super) async fn hear(shared: &Shared, spec: &PodSpec, info: &ContainerInfo, exit: &Exit) -> String {
    let limit = limit(spec.containers.len());
    let owner = &info.owner;
    let path = shared.files.message(&owner.uid, &owner.container, owner.attempt);
    let Some(path) = path else { return String::new() };
    let read = shared.on_disk(move |files| Ok(files.last_words(&path, limit)));
    // It fails only by a panic, or at the agent's end.
    let words = read.await.unwrap_or_default();
    let policy = spec
        .containers
        .iter()
        .find(|c| c.name == owner.container)
        .and_then(|c| c.termination_message_policy);
    // Most programs know nothing of the file. Only an owner's own word keeps their log out of the status.
    if !words.is_empty() || exit.code == 0 || policy == Some(TerminationMessagePolicy::File) {
        return words;
    }
    match shared.runtime.log_tail(&info.id, LOG_LINES).await {
        Ok(log) => files::text(log.as_bytes(), LOG_BYTES.min(limit)),
        Err(e) => {
            tracing::warn!(container = %info.id, "cannot read the end of its log: {e}");
            String::new()
        }
    }
}
