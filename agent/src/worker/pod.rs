//! The task of one pod: sees, steps, acts, and sees again. Started and watched by [`super::Supervisor`].
//!
//! Invariants: at most one action a container is under way; the task acts only on a view that is newer than its
//! own last action; what must not be unlearned is durable before the next action and before it is reported.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Listing, Shared,
    act::{DISK_RETRY, Flight, Landed, Seen, inspect},
    last_words, spec,
};
use crate::{
    ledger::{PodEntry, Saved},
    probe::{Findings, Prober},
    runtime::{ContainerInfo, State},
    settings::ms,
    step::{Action, Outcome, PodBook, PodDesired, PodObserved, Step, StepSettings, record, step},
};

/// Runs until the agent stops or the task is aborted; returns the pod's uid. Begins after `delay`.
pub(super) async fn run(
    shared: Arc<Shared>,
    wish: watch::Receiver<Arc<PodEntry>>,
    poke: Arc<Notify>,
    delay: Duration,
) -> String {
    tokio::time::sleep(delay).await;
    let entry = wish.borrow().clone();
    let uid = entry.uid.clone();
    let prober = Prober::new(shared.clone());
    let mut task = PodTask {
        listing: shared.listing.subscribe(),
        answers: shared.answers.subscribe(),
        may_start: shared.may_start.subscribe(),
        host_ip: shared.host_ip.clone(),
        settings: shared.settings.step(),
        ready_after_ms: shared.ready_after_ms.subscribe(),
        findings: prober.findings(),
        prober,
        desired: Arc::new(entry.desired()),
        book: entry.book.clone(),
        saved: entry.book.clone(),
        view: None,
        acted: 0,
        wake: None,
        pulling: BTreeMap::new(),
        look_at_pulls: Instant::now(),
        cleaned: false,
        uncleaned: 0,
        clean_at: Instant::now(),
        busy: BTreeMap::new(),
        flights: FuturesUnordered::new(),
        looking: false,
        look_again: false,
        entry,
        shared,
        wish,
        poke,
    };
    while task.turn().await.is_continue() {}
    uid
}

/// What the pod looks like, and when that look began.
struct Seeing {
    begun: u64,
    containers: Vec<ContainerInfo>,
}

enum Arrived {
    Action(Box<Landed>),
    /// The look's tick, and what was seen if the engine answered.
    Look(u64, Option<Vec<Seen>>),
}

struct Busy {
    call_off: CancellationToken,
    may_make: bool,
    /// A hook: only haste calls it off.
    hook: bool,
    /// The image that it pulls.
    pulls: Option<String>,
}

struct PodTask {
    shared: Arc<Shared>,
    wish: watch::Receiver<Arc<PodEntry>>,
    poke: Arc<Notify>,
    listing: watch::Receiver<Option<Arc<Listing>>>,
    answers: watch::Receiver<bool>,
    may_start: watch::Receiver<bool>,
    host_ip: watch::Receiver<String>,
    settings: StepSettings,
    ready_after_ms: watch::Receiver<u64>,
    prober: Prober,
    findings: watch::Receiver<Findings>,
    entry: Arc<PodEntry>,
    desired: Arc<PodDesired>,
    book: PodBook,
    /// As in the ledger.
    saved: PodBook,
    view: Option<Seeing>,
    /// Tick of the last action's end; older looks are not believed.
    acted: u64,
    wake: Option<Instant>,
    /// How far pulls are, by container name, and when to ask again.
    pulling: BTreeMap<String, String>,
    look_at_pulls: Instant,
    /// Volumes and last words of the pod are removed; else attempts that failed, and when the next one is due.
    cleaned: bool,
    uncleaned: u32,
    clean_at: Instant,
    /// By container name.
    busy: BTreeMap<String, Busy>,
    flights: FuturesUnordered<BoxFuture<'static, Arrived>>,
    looking: bool,
    /// Something happened during that look.
    look_again: bool,
}

type Flow = std::ops::ControlFlow<()>;

impl PodTask {
    /// One round: take what is new, step, act, wait.
    async fn turn(&mut self) -> Flow {
        // In this order: the observer publishes a list before it says that the engine answers.
        let answers = *self.answers.borrow_and_update();
        self.take_listing();
        self.wake = None;
        self.watch_pulls();
        if answers {
            self.hear().await;
        }
        if answers && let Some(view) = &self.view {
            let host_ip = self.host_ip.borrow_and_update().clone();
            self.settings.ready_after_ms = *self.ready_after_ms.borrow_and_update();
            let findings = self.findings.borrow_and_update().clone();
            let observed = PodObserved {
                book: &self.book,
                containers: &view.containers,
                host_ip: &host_ip,
                pulling: &self.pulling,
                health: &findings,
                in_flight: self.busy.values().any(|b| b.may_make),
            };
            let next = step(&self.desired, observed, self.shared.clock.now_ms(), &self.settings);
            if self.settle(next).await.is_break() {
                return Flow::Break(());
            }
        }
        self.wait().await
    }

    /// Makes a step's answer true: durable, told, reported, begun.
    async fn settle(&mut self, next: Step) -> Flow {
        self.book = next.book;
        for note in next.notes {
            self.shared.notes.push(&self.entry, note);
        }
        if let Some(at) = next.wake_at_ms {
            self.wake_at(self.shared.clock.instant(at));
        }
        if self.book.must_persist_after(&self.saved) {
            match self.shared.keeper.save_book(&self.entry.uid, self.book.clone()).await {
                Ok(()) => self.saved = self.book.clone(),
                Err(Saved::Stopping) => return Flow::Break(()),
                Err(e) => {
                    tracing::error!(pod = %self.entry.name, "nothing is done for this pod: {e}");
                    self.wake = Some(Instant::now() + DISK_RETRY);
                    return Flow::Continue(());
                }
            }
        } else if self.book.differs_on_disk(&self.saved) {
            self.shared.keeper.note_book(&self.entry.uid, self.book.clone()).await;
            self.saved = self.book.clone();
        }
        self.prober.aim(next.targets, &self.entry, &self.desired);
        let pod = &self.entry;
        self.shared
            .reporter
            .update(&pod.uid, &pod.namespace, &pod.name, next.view.status, next.view.stopped);
        if next.view.gone && self.busy.is_empty() && !self.clean().await {
            return Flow::Continue(());
        }
        let pod = &self.entry;
        if next.view.gone && self.busy.is_empty() && pod.leaves_when_gone() {
            if let Err(e) = self.shared.keeper.drop_pod(&pod.uid).await {
                tracing::warn!(pod = %pod.name, "cannot drop the pod from the ledger: {e}");
                self.wake = Some(Instant::now() + DISK_RETRY);
            }
            return Flow::Continue(());
        }
        // A wish that came before the leave to start counts, though it is taken only in the next round.
        let starts = *self.may_start.borrow_and_update() && !self.wish.has_changed().unwrap_or(true);
        for action in next.actions {
            let starting = matches!(
                action,
                Action::Pull { .. } | Action::Create { .. } | Action::Start { .. }
            );
            if starts || !starting {
                self.begin(action);
            }
        }
        Flow::Continue(())
    }

    fn begin(&mut self, action: Action) {
        if self.busy.contains_key(action.container()) {
            return;
        }
        let call_off = CancellationToken::new();
        let busy = Busy {
            call_off: call_off.clone(),
            may_make: matches!(action, Action::Create { .. } | Action::Start { .. }),
            hook: matches!(action, Action::PreStop { .. }),
            pulls: match &action {
                Action::Pull { image, .. } => Some(image.clone()),
                _ => None,
            },
        };
        let attempt = match &action {
            Action::Remove { id, .. } => self.attempt_of(id),
            _ => None,
        };
        self.busy.insert(action.container().to_owned(), busy);
        let flight = Flight {
            shared: self.shared.clone(),
            entry: self.entry.clone(),
            desired: self.desired.clone(),
            action,
            attempt,
            call_off,
        };
        self.flights
            .push(Box::pin(async { Arrived::Action(Box::new(flight.fly().await)) }));
    }

    fn attempt_of(&self, id: &str) -> Option<u32> {
        let mut containers = self.view.iter().flat_map(|v| &v.containers);
        containers.find(|c| c.id == id).map(|c| c.owner.attempt)
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }

    /// Asks how far pulls are, in their own time: each answer becomes a status for the coordinator.
    fn watch_pulls(&mut self) {
        let pulls = || self.busy.iter().filter_map(|(name, b)| Some((name, b.pulls.as_ref()?)));
        if pulls().next().is_none() {
            self.pulling.clear();
            self.look_at_pulls = Instant::now() + ms(self.shared.settings.pull_progress_ms);
            return;
        }
        if Instant::now() >= self.look_at_pulls {
            let far = |image: &String| self.shared.runtime.pull_progress(image);
            self.pulling = pulls()
                .filter_map(|(n, image)| Some((n.clone(), far(image)?)))
                .collect();
            self.look_at_pulls = Instant::now() + ms(self.shared.settings.pull_progress_ms);
        }
        self.wake_at(self.look_at_pulls);
    }

    /// Adds what containers said of their end, before the exits enter the book.
    async fn hear(&mut self) {
        let Some(view) = &mut self.view else { return };
        for info in last_words::unheard(&self.book, &mut view.containers) {
            let State::Exited(exit) = &info.state else { continue };
            let words = last_words::hear(&self.shared, &self.desired.spec, info, exit).await;
            if let State::Exited(exit) = &mut info.state {
                exit.message = words;
            }
        }
    }

    /// Removes the pod's volumes and last words, its containers being gone. False when it must be tried again.
    async fn clean(&mut self) -> bool {
        if self.cleaned {
            return true;
        }
        if Instant::now() < self.clean_at {
            self.wake_at(self.clean_at);
            return false;
        }
        match clean(self.shared.clone(), self.desired.clone()).await {
            Ok(()) => {
                self.cleaned = true;
                self.uncleaned = 0;
            }
            Err(why) => {
                if self.uncleaned == 0 {
                    tracing::warn!(pod = %self.entry.name, "cannot remove the pod's volumes yet: {why}");
                }
                self.uncleaned = self.uncleaned.saturating_add(1);
                self.clean_at = Instant::now() + ms(self.settings.retry.delay_ms(self.uncleaned));
                self.wake_at(self.clean_at);
            }
        }
        self.cleaned
    }

    async fn wait(&mut self) -> Flow {
        let wake = self.wake;
        tokio::select! {
            Some(arrived) = self.flights.next(), if !self.flights.is_empty() => match arrived {
                Arrived::Action(landed) => self.landed(*landed),
                Arrived::Look(begun, seen) => self.looked(begun, seen),
            },
            changed = self.wish.changed() => {
                if changed.is_err() {
                    return Flow::Break(());
                }
                let before = std::mem::replace(&mut self.entry, self.wish.borrow_and_update().clone());
                let hurries = self.entry.hurries(&before);
                self.desired = Arc::new(self.entry.desired());
                self.cleaned = false;
                // What only waits is not wanted any more, or wanted otherwise.
                for busy in self.busy.values().filter(|b| hurries || !b.hook) {
                    busy.call_off.cancel();
                }
            }
            changed = self.listing.changed() => if changed.is_err() { return Flow::Break(()) },
            changed = self.answers.changed() => if changed.is_err() { return Flow::Break(()) },
            changed = self.may_start.changed() => if changed.is_err() { return Flow::Break(()) },
            // The sender ends with the agent; the address then stays as it is.
            Ok(()) = self.host_ip.changed() => {}
            // Their senders outlive this wait.
            Ok(()) = self.findings.changed() => {}
            Ok(()) = self.ready_after_ms.changed() => {}
            () = self.poke.notified() => self.look(),
            () = async { match wake { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => {}
        }
        Flow::Continue(())
    }

    /// Takes the newest full list, unless this pod has acted since it began.
    fn take_listing(&mut self) {
        let Some(listing) = self.listing.borrow_and_update().clone() else {
            return;
        };
        let known = self.view.as_ref().map_or(0, |v| v.begun);
        if listing.begun > self.acted && listing.begun > known {
            self.view = Some(Seeing {
                begun: listing.begun,
                containers: listing.pods.get(&self.entry.uid).cloned().unwrap_or_default(),
            });
        }
    }

    fn landed(&mut self, landed: Landed) {
        let Landed { action, outcome, seen } = landed;
        self.busy.remove(action.container());
        let Some(outcome) = outcome else {
            // A stop that was called off may still take effect.
            if matches!(action, Action::Stop { .. }) {
                self.distrust();
            }
            return;
        };
        let (book, notes) = record(
            std::mem::take(&mut self.book),
            &self.desired,
            &action,
            &outcome,
            self.shared.clock.now_ms(),
            &self.settings,
        );
        self.book = book;
        for note in notes {
            self.shared.notes.push(&self.entry, note);
        }
        if matches!(action, Action::CheckImage { .. } | Action::Pull { .. }) {
            return;
        }
        self.acted = self.shared.tick();
        let unsure = matches!((&action, &outcome), (Action::Create { .. }, Outcome::Failed(_)));
        match seen {
            Some(seen) if !unsure => self.merge(vec![seen]),
            _ => self.distrust(),
        }
    }

    /// What was known is not believed any more; the next full list decides.
    fn distrust(&mut self) {
        self.acted = self.shared.tick();
        self.view = None;
        self.shared.relist.notify_one();
    }

    fn merge(&mut self, seen: Vec<Seen>) {
        let begun = self.shared.tick();
        let Some(view) = &mut self.view else {
            return;
        };
        view.begun = begun;
        for Seen { id, info } in seen {
            view.containers.retain(|c| c.id != id);
            view.containers.extend(info);
        }
    }

    /// Looks at this pod's containers: something happened to one of them.
    fn look(&mut self) {
        let ids: Vec<_> = self
            .view
            .iter()
            .flat_map(|v| &v.containers)
            .map(|c| c.id.clone())
            .collect();
        if ids.is_empty() {
            // With an action under way, that one looks when it ends.
            if self.busy.is_empty() {
                self.shared.relist.notify_one();
            }
            return;
        }
        if !self.looking {
            self.looking = true;
            let shared = self.shared.clone();
            self.flights.push(Box::pin(async move {
                let begun = shared.tick();
                Arrived::Look(begun, inspect(&shared, ids).await)
            }));
        } else {
            // It may have happened after that look.
            self.look_again = true;
        }
    }

    fn looked(&mut self, begun: u64, seen: Option<Vec<Seen>>) {
        self.looking = false;
        let again = std::mem::take(&mut self.look_again);
        match seen {
            Some(seen) if begun > self.acted => {
                self.merge(seen);
                if again {
                    self.look();
                }
            }
            // An action ended meanwhile.
            Some(_) => self.look(),
            None => self.shared.relist.notify_one(),
        }
    }
}

/// Removes what a pod has beside its containers, which are gone.
async fn clean(shared: Arc<Shared>, pod: Arc<PodDesired>) -> Result<(), String> {
    let uid = pod.uid.clone();
    let removed = shared.on_disk(move |files| files.remove_pod(&uid)).await;
    removed.map_err(|e| e.to_string())?;
    let volumes: Vec<String> = if pod.spec.containers.is_empty() {
        // Its spec was never known here, or cannot be read: the engine knows.
        let all = shared.runtime.memory_volumes().await.map_err(|e| e.to_string())?;
        all.into_iter().filter(|v| v.uid == pod.uid).map(|v| v.name).collect()
    } else {
        let in_memory = pod.spec.volumes.iter().filter(|v| v.in_memory());
        in_memory.map(|v| spec::memory_volume(&pod.uid, &v.name)).collect()
    };
    for name in volumes {
        let removed = shared.runtime.remove_memory_volume(&name).await;
        removed.map_err(|e| e.to_string())?;
    }
    Ok(())
}
