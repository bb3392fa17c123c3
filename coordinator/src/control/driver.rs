//! Runs the planners: plans what an update marked, commits it under the fence it was decided under, and
//! plans again. Spawned by `control::run`.
//!
//! Invariant: a pass is planned as a whole before any of its commits is sent, and the next one starts after
//! the world includes them all; so a pass never counts a placement twice or not at all. Expired things are
//! removed in a pass of their own.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use proto::model::{EventType, Time};
use tokio::{
    sync::broadcast::{self, error::RecvError, error::TryRecvError},
    time::Instant,
};

use super::{ControlError, Settings, work::Work};
use crate::{
    events::{Note, Recorder},
    plan::{Commit, Group, Pass, Plan, change::to_store, check::Violation, dirty::Dirty},
    store::{CommitError, Committed, Fence},
    world::{Touched, World, hub::Batch, hub::Hub},
};

/// Plans one group; a seam for tests that need a planner that panics.
type Planner = fn(&mut Pass, &World, &Group) -> Result<Plan, Violation>;

pub struct Driver {
    hub: Arc<Hub>,
    recorder: Recorder,
    settings: Settings,
    planner: Planner,
    /// The store could not be written to and this was said.
    full: bool,
    /// Nothing is decided before on what was not heard.
    no_loss_before: Time,
}

/// The present leadership is over.
struct Deposed;

/// How one commit went.
struct Outcome {
    group: Group,
    notes: Vec<Note>,
    result: Result<Committed, CommitError>,
}

impl Driver {
    pub fn new(hub: Arc<Hub>, recorder: Recorder, settings: Settings) -> Self {
        Self {
            hub,
            recorder,
            settings,
            planner: Pass::plan,
            full: false,
            no_loss_before: Time::default(),
        }
    }

    #[cfg(test)]
    pub fn with_planner(mut self, planner: Planner) -> Self {
        self.planner = planner;
        self
    }

    /// Acts whenever this process leads. Returns only with an error that should end the process.
    pub async fn run(mut self) -> Result<(), ControlError> {
        let mut fences = self.hub.fences();
        let mut lost: Option<Arc<Fence>> = None;
        loop {
            // The guard must not be held while this leads: the next fence waits for it.
            let led = fences.wait_for(|f| f.is_some() && *f != lost).await.ok();
            let fence = led.and_then(|f| f.clone());
            // The hub lives as long as this driver, so there always is one.
            let Some(fence) = fence else { continue };
            tokio::select! {
                over = self.lead(&fence) => {
                    let Deposed = over?;
                    tracing::info!(term = fence.term, "planning stops: another coordinator leads");
                    // This process need not know of it yet.
                    lost = Some(fence);
                }
                // Dropping what is under way is safe: a commit is whole or not at all.
                _ = fences.wait_for(|f| f.as_ref() != Some(&fence)) => {}
            }
        }
    }

    async fn lead(&mut self, fence: &Arc<Fence>) -> Result<Deposed, ControlError> {
        let mut feed = self.hub.subscribe();
        // What an earlier leader wrote must be in the world before anything is decided on it.
        while !self.hub.read(|w| w.terms.contains_key(&fence.term)) {
            // A lag is no matter here, and the feed lives in the hub.
            let _ = feed.recv().await;
        }
        if self.hub.read(World::restore_pending) {
            tracing::warn!("a restore awaits `wharf cluster accept-restore`: nothing is planned before");
        }
        self.hub.accepted().await;
        tracing::info!(term = fence.term, "planning starts");
        let silence = self.hub.read(|w| self.settings.silence(w));
        // Stored times have whole seconds, and this one must not come too early.
        let seconds = i64::try_from(silence.as_millis().div_ceil(1000) + 1).unwrap_or(i64::MAX);
        self.no_loss_before = Time(Time::now().0.saturating_add(seconds));
        let mut work = Work::default();
        work.dirty = self.hub.read(Dirty::all);
        let full_pass = Duration::from_millis(self.settings.full_pass_ms.max(1));
        let expiry = Duration::from_millis(self.settings.expiry_ms.max(1));
        let mut next_full = Instant::now() + full_pass;
        let mut next_expiry = Instant::now() + expiry;
        loop {
            self.drain(&mut feed, &mut work);
            let now = Instant::now();
            if now >= next_full {
                next_full = now + full_pass;
                work.dirty.groups.extend(self.hub.read(Dirty::all).groups);
            }
            let groups = work.take(now, self.settings.groups_per_pass.max(1));
            let groups = if !groups.is_empty() {
                groups
            } else if std::mem::take(&mut work.expire) || now >= next_expiry {
                next_expiry = now + expiry;
                vec![Group::Expiry]
            } else {
                let wake = work.next().into_iter().chain([next_full, next_expiry]).min();
                tokio::select! {
                    batch = feed.recv() => self.note_batch(batch, &mut work),
                    () = sleep_until(wake) => {}
                }
                continue;
            };
            if let Some(Deposed) = self.pass(fence, groups, &mut work).await? {
                return Ok(Deposed);
            }
        }
    }

    /// Marks all that has arrived.
    fn drain(&self, feed: &mut broadcast::Receiver<Arc<Batch>>, work: &mut Work) {
        loop {
            match feed.try_recv() {
                Ok(batch) => self.note_batch(Ok(batch), work),
                Err(TryRecvError::Lagged(n)) => self.note_batch(Err(RecvError::Lagged(n)), work),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn note_batch(&self, batch: Result<Arc<Batch>, RecvError>, work: &mut Work) {
        match batch {
            Ok(batch) => {
                work.expire |= batch.touched.contains(&Touched::Settings);
                self.hub.read(|w| work.dirty.touch(w, &batch.touched));
            }
            // Updates were lost: look at everything. What is dirty without an update stays so.
            Err(RecvError::Lagged(_)) => work.dirty.groups.extend(self.hub.read(Dirty::all).groups),
            Err(RecvError::Closed) => {}
        }
    }

    async fn pass(
        &mut self,
        fence: &Arc<Fence>,
        groups: Vec<Group>,
        work: &mut Work,
    ) -> Result<Option<Deposed>, ControlError> {
        let hub = Arc::clone(&self.hub);
        let _placing = hub.place().await;
        let pass = Pass::new(
            Time::now(),
            random_seed(),
            self.hub.read(|world| self.settings.keep(&world.settings)),
        );
        let mut pass = pass.no_loss_before(self.no_loss_before);
        let (mut commits, mut failed) = (Vec::new(), false);
        for group in groups {
            // Under one lock, so that plan and check see the same world.
            let planned = catch_unwind(AssertUnwindSafe(|| {
                self.hub.read(|world| (self.planner)(&mut pass, world, &group))
            }));
            match planned {
                Ok(Ok(plan)) => {
                    work.well(&group);
                    if let Some(at) = plan.wake_at {
                        let seconds = at.since(Time::now()).max(1);
                        work.wake(group, Instant::now() + Duration::from_secs(seconds));
                    }
                    commits.extend(plan.commits);
                }
                Ok(Err(violation)) => {
                    failed = true;
                    self.park(group, "PlanRefused", &violation.what, work);
                }
                Err(panic) => {
                    failed = true;
                    self.park(group, "PlannerPanicked", &panic_text(&*panic), work);
                }
            }
            tokio::task::yield_now().await;
        }
        let mut outcomes = stream::iter(commits)
            .map(|commit| self.send(fence, commit))
            .buffer_unordered(self.settings.in_flight.max(1))
            .collect::<Vec<_>>()
            .await;
        // A fence that is no longer ours, or a broken store, goes before all else.
        outcomes.sort_by_key(|o| !matches!(o.result, Err(CommitError::Io(_) | CommitError::Closed)));
        let mut deposed = None;
        for outcome in outcomes {
            failed |= outcome.result.is_err();
            if self.settle(outcome, work)? {
                deposed = Some(Deposed);
            }
        }
        if failed {
            // The pass's other groups made way for what was not applied.
            self.hub.read(|w| work.dirty.room(w));
        }
        Ok(deposed)
    }

    async fn send(&self, fence: &Fence, commit: Commit) -> Outcome {
        let result = self.hub.commit_under(fence, to_store(&commit.changes)).await;
        Outcome {
            group: commit.group,
            notes: commit.notes,
            result,
        }
    }

    /// True when the fence is no longer the store's.
    fn settle(&mut self, outcome: Outcome, work: &mut Work) -> Result<bool, ControlError> {
        let Outcome { group, notes, result } = outcome;
        let now = Instant::now();
        match result {
            Ok(_) => {
                self.full = false;
                for note in notes {
                    self.recorder.note(note);
                }
            }
            Err(CommitError::Conflict { key, .. }) => {
                tracing::debug!(?group, key, "another writer was first; planning again");
                work.retry(group, now, Duration::from_millis(self.settings.conflict_retry_ms));
            }
            Err(error @ (CommitError::Full(_) | CommitError::Unavailable(_) | CommitError::Unknown(_))) => {
                if !self.full {
                    tracing::error!("{error}");
                }
                self.full = true;
                work.retry(group, now, Duration::from_millis(self.settings.full_retry_ms));
            }
            Err(CommitError::Fenced { .. }) => return Ok(true),
            Err(error @ (CommitError::TooLarge { .. } | CommitError::DuplicateKey(_))) => {
                self.park(group, "PlanRefused", &error.to_string(), work);
            }
            Err(error @ (CommitError::Io(_) | CommitError::Closed)) => return Err(ControlError::Store(error)),
        }
        Ok(false)
    }

    /// A fault of a planner: the group waits, the others go on.
    fn park(&self, group: Group, reason: &str, what: &str, work: &mut Work) {
        let first = Duration::from_millis(self.settings.park_ms);
        let most = Duration::from_millis(self.settings.park_most_ms);
        let pause = work.park(group.clone(), Instant::now(), first, most);
        tracing::error!(?group, ?pause, reason, "planning of this group is paused: {what}");
        self.recorder.note(Note {
            involved: self.hub.read(|w| group.reference(w)),
            reason: reason.to_owned(),
            message: format!("planning is paused, a fault of the coordinator: {what}"),
            kind: EventType::Warning,
            component: "planner",
            host: String::new(),
            at: Time::now(),
        });
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Uids and names come from it, so it must never repeat, in no process.
fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 ^ uuid::Uuid::new_v4().as_u64_pair().1
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}
