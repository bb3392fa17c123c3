//! Notes about what happened, on their way to becoming Event objects. Called by planners' drivers, sessions
//! and the api; `control::events` counts, batches and stores them.
//!
//! Invariant: lossy and never in the way: a full queue drops the note.

use proto::model::{EventType, ObjectReference, Time};
use tokio::sync::mpsc;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub involved: ObjectReference,
    /// CamelCase.
    pub reason: String,
    pub message: String,
    pub kind: EventType,
    /// `scheduler`, `replication-controller`, `agent`, …
    pub component: &'static str,
    /// Node, for the agent's notes.
    pub host: String,
    pub at: Time,
}

#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<Note>);

impl Recorder {
    /// The recorder, and the queue that `control::events` drains.
    pub fn new() -> (Self, mpsc::Receiver<Note>) {
        let (tx, rx) = mpsc::channel(4096);
        (Self(tx), rx)
    }

    pub fn note(&self, note: Note) {
        // Dropping under load is the contract.
        let _ = self.0.try_send(note);
    }
}
