//! The task that owns the ledger. Everyone else asks it through [`KeeperHandle`] and sees the latest durable
//! state in a watch.
//!
//! Invariants: what the watch shows is on disk, except for bookkeeping that was only noted (lazy). An answer is
//! given only after the write. Requests that come together share one write.

use std::{sync::Arc, time::Duration};

use proto::wire;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Disk, Ledger, LedgerChange, LedgerError, PodEntry, Refusal, Said, accept_answer, accept_assignments};
use crate::{clock::Clock, step::PodBook};

/// Answer to a request: a refusal by rule, or a disk that does not take the write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Saved {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    NotDurable(String),
    #[error("the agent is stopping")]
    Stopping,
}

enum Request {
    Welcome(Box<wire::Welcome>, Said),
    Assignments(wire::Assignments),
    Coordinators(Vec<String>),
    Settings(wire::AgentSettings),
    Boot(String),
    Book { uid: String, book: PodBook },
    Disconnect { uid: String, reason: String },
    Drop { uid: String },
}

struct Asked {
    request: Request,
    /// `None`: a note that need not be on disk at once.
    reply: Option<oneshot::Sender<Result<(), Saved>>>,
}

#[derive(Clone)]
pub struct KeeperHandle {
    requests: mpsc::Sender<Asked>,
    state: watch::Receiver<Arc<Ledger>>,
}

impl KeeperHandle {
    /// The latest state; changes wake its holder.
    pub fn watch(&self) -> watch::Receiver<Arc<Ledger>> {
        self.state.clone()
    }

    pub fn current(&self) -> Arc<Ledger> {
        self.state.borrow().clone()
    }

    async fn ask(&self, request: Request) -> Result<(), Saved> {
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            request,
            reply: Some(reply),
        };
        self.requests.send(asked).await.map_err(|_| Saved::Stopping)?;
        answer.await.map_err(|_| Saved::Stopping)?
    }

    /// Accepts the Welcome of an active coordinator, in answer to what was said; durable on return.
    pub async fn welcome(&self, welcome: wire::Welcome, said: Said) -> Result<(), Saved> {
        self.ask(Request::Welcome(Box::new(welcome), said)).await
    }

    /// Accepts assignments; durable on return.
    pub async fn assignments(&self, assignments: wire::Assignments) -> Result<(), Saved> {
        self.ask(Request::Assignments(assignments)).await
    }

    /// Keeps the list of coordinators, told without an answer to Hello.
    pub async fn coordinators(&self, coordinators: Vec<String>) -> Result<(), Saved> {
        self.ask(Request::Coordinators(coordinators)).await
    }

    /// Keeps the cluster's settings; durable on return.
    pub async fn settings(&self, settings: wire::AgentSettings) -> Result<(), Saved> {
        self.ask(Request::Settings(settings)).await
    }

    /// Keeps in which boot of the host the pods were taken up; durable on return.
    pub async fn boot(&self, boot: String) -> Result<(), Saved> {
        self.ask(Request::Boot(boot)).await
    }

    /// Keeps a pod's book; durable on return.
    pub async fn save_book(&self, uid: &str, book: PodBook) -> Result<(), Saved> {
        let uid = uid.to_owned();
        self.ask(Request::Book { uid, book }).await
    }

    /// Keeps a pod's book with the next write that comes along.
    pub async fn note_book(&self, uid: &str, book: PodBook) {
        let uid = uid.to_owned();
        let asked = Asked {
            request: Request::Book { uid, book },
            reply: None,
        };
        // A keeper that is gone means that the agent stops; the engine shows the rest at the next start.
        let _ = self.requests.send(asked).await;
    }

    /// Stops a pod by this agent's own decision, for good; durable on return.
    pub async fn disconnect(&self, uid: &str, reason: String) -> Result<(), Saved> {
        let uid = uid.to_owned();
        self.ask(Request::Disconnect { uid, reason }).await
    }

    /// Drops a pod that is over and of which nothing is left on the engine.
    pub async fn drop_pod(&self, uid: &str) -> Result<(), Saved> {
        let uid = uid.to_owned();
        self.ask(Request::Drop { uid }).await
    }
}

pub struct Keeper {
    disk: Arc<dyn Disk>,
    lazy: Duration,
    clock: Clock,
    ledger: Ledger,
    requests: mpsc::Receiver<Asked>,
    state: watch::Sender<Arc<Ledger>>,
}

/// Requests answered by one write at most.
const BATCH: usize = 256;

impl Keeper {
    /// Counts this start (`epoch`) and writes it: statuses of this run sort after all earlier ones. Where the clock was
    /// set back since, what is counted from the acceptance of a stop begins now.
    pub async fn open(
        disk: Arc<dyn Disk>,
        mut ledger: Ledger,
        lazy: Duration,
        clock: Clock,
    ) -> Result<(Self, KeeperHandle), LedgerError> {
        ledger.epoch = ledger.epoch.saturating_add(1);
        let now_ms = clock.now_ms();
        let ahead = |pod: &PodEntry| pod.stop.as_ref().is_some_and(|s| s.accepted_ms > now_ms);
        for pod in ledger.pods.values_mut().filter(|pod| ahead(pod)) {
            if let Some(stop) = &mut Arc::make_mut(pod).stop {
                stop.accepted_ms = now_ms;
            }
        }
        disk.save(ledger.clone()).await?;
        let (sender, requests) = mpsc::channel(BATCH);
        let (state, watch) = watch::channel(Arc::new(ledger.clone()));
        let keeper = Self {
            disk,
            lazy,
            clock,
            ledger,
            requests,
            state,
        };
        let handle = KeeperHandle {
            requests: sender,
            state: watch,
        };
        Ok((keeper, handle))
    }

    /// Serves until `stop` or until all handles are gone; then writes what was only noted.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut noted_until: Option<Instant> = None;
        loop {
            let mut batch = Vec::new();
            let deadline = noted_until;
            let received = tokio::select! {
                n = self.requests.recv_many(&mut batch, BATCH) => n,
                () = async { match deadline { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => 0,
                () = stop.cancelled() => {
                    self.requests.close();
                    while let Ok(asked) = self.requests.try_recv() {
                        batch.push(asked);
                    }
                    self.serve(batch, true).await;
                    return;
                }
            };
            if received == 0 && deadline.is_none_or(|at| Instant::now() < at) {
                self.serve(Vec::new(), true).await;
                return;
            }
            let due = received == 0;
            let written = self.serve(batch, due).await;
            noted_until = if written {
                None
            } else {
                noted_until.or(Some(Instant::now() + self.lazy))
            };
        }
    }

    /// Answers a batch. Writes when someone waits for it, or when `due`. True when nothing unwritten is left.
    async fn serve(&mut self, batch: Vec<Asked>, due: bool) -> bool {
        let mut next = self.ledger.clone();
        let mut waiting = Vec::new();
        for Asked { request, reply } in batch {
            match (apply(&mut next, request, self.clock.now_ms()), reply) {
                (Ok(()), Some(reply)) => waiting.push(reply),
                (Err(refusal), Some(reply)) => {
                    let _ = reply.send(Err(refusal.into()));
                }
                (_, None) => {}
            }
        }
        if waiting.is_empty() && !due {
            self.ledger = next;
            self.publish();
            return false;
        }
        if let Err(e) = self.disk.save(next.clone()).await {
            let why = e.to_string();
            tracing::error!("{why}");
            for reply in waiting {
                let _ = reply.send(Err(Saved::NotDurable(why.clone())));
            }
            // The old state stands. Lost notes come again with the next step of their pods.
            return true;
        }
        self.ledger = next;
        self.publish();
        for reply in waiting {
            let _ = reply.send(Ok(()));
        }
        true
    }

    fn publish(&self) {
        self.state.send_replace(Arc::new(self.ledger.clone()));
    }
}

fn apply(ledger: &mut Ledger, request: Request, now_ms: u64) -> Result<(), Refusal> {
    match request {
        Request::Welcome(welcome, said) => {
            let LedgerChange { next, .. } = accept_answer(ledger, &said, &welcome)?;
            *ledger = next;
        }
        Request::Assignments(assignments) => {
            let LedgerChange { next, .. } = accept_assignments(ledger, &assignments, now_ms)?;
            *ledger = next;
        }
        Request::Coordinators(list) => ledger.coordinators = list,
        Request::Settings(settings) => ledger.ready_after_ms = settings.ready_after_ms,
        Request::Boot(boot) => ledger.boot = boot,
        Request::Book { uid, book } => {
            if let Some(known) = ledger.pods.get_mut(&uid) {
                *known = Arc::new(PodEntry {
                    book,
                    ..PodEntry::clone(known)
                });
            }
        }
        Request::Disconnect { uid, reason } => {
            if let Some(known) = ledger.pods.get_mut(&uid)
                && known.disconnected.is_none()
            {
                let stop = known.own_stop(reason, now_ms);
                *known = Arc::new(PodEntry {
                    disconnected: Some(stop),
                    ..PodEntry::clone(known)
                });
            }
        }
        Request::Drop { uid } => {
            // It may have been assigned again since the caller looked.
            if ledger.pods.get(&uid).is_some_and(|p| p.leaves_when_gone()) {
                ledger.pods.remove(&uid);
            }
        }
    }
    Ok(())
}
