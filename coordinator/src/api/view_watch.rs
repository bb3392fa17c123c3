//! Watches of what is no object: a view of a drain or of an update is sent at once and again after each change of it.
//! Called by `drain_watch` and `update_watch`, which say what the view is.
//!
//! Invariant: a watch sends what is so now, never a view that was overtaken; a view that says nothing new is not sent,
//! and no more than one in [`LEAST`]. It ends after the view of what has ended.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast, broadcast::error::RecvError, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tonic::Status;

use super::{Api, errors::ApiError};
use crate::world::{
    World,
    hub::{Batch, Hub},
};

/// Between two views of one watch.
const LEAST: Duration = Duration::from_millis(100);

/// Some goes on without any write, by the time alone: it is looked at again this often.
const LOOK: Duration = Duration::from_secs(1);

/// Views that wait for a reader: what is newer is looked up once it has taken these.
pub(super) const BUFFER: usize = 4;

/// One thing that is watched.
pub(super) trait Viewed: Send + 'static {
    type View: Clone + Send + Sync + 'static;

    /// How it stands. Errors: it is not there any more, or another one is in its place.
    fn look(&mut self, world: &World) -> Result<Self::View, ApiError>;

    /// Whether that is the last view.
    fn ended(view: &Self::View) -> bool;

    /// Whether a view says anything that the one before did not.
    fn news(before: &Self::View, now: &Self::View) -> bool;

    /// Whether what happened may be about it.
    fn concerns(&self, hub: &Hub, batch: &Batch) -> bool;
}

/// What tonic polls. Dropping it ends the watch.
pub struct ViewStream<V> {
    views: mpsc::Receiver<Result<V, Status>>,
    _seat: OwnedSemaphorePermit,
}

impl<V> Stream for ViewStream<V> {
    type Item = Result<V, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.views.poll_recv(cx)
    }
}

impl Api {
    /// Watches what `find` finds in the present world. Errors: of `find`; too many watch already.
    pub(super) fn watch_view<T: Viewed>(
        &self,
        find: impl FnOnce(&World) -> Result<T, ApiError>,
    ) -> Result<ViewStream<T::View>, ApiError> {
        // Before the first look, so that nothing falls between the two.
        let feed = self.hub.subscribe();
        let viewed = self.hub.read(find)?;
        let most = self.settings.view_watches;
        let seat = Arc::clone(&self.view_watches).try_acquire_owned();
        let seat = seat.map_err(|_| {
            let what = format!(
                "{most} watches of drains and updates are open, the most there may be; end some, or try again later"
            );
            ApiError::Busy(what)
        })?;
        // The last word has its place from the beginning.
        let (sender, views) = mpsc::channel(BUFFER + 1);
        let mut watch = Watch {
            hub: Arc::clone(&self.hub),
            viewed,
            feed,
            sender,
            stall: self.settings.watch_stall,
            sent: None,
        };
        let stop = self.stop.clone();
        self.watches.spawn(async move {
            let client = watch.sender.clone();
            let Ok(last) = client.clone().reserve_owned().await else {
                return;
            };
            let end = tokio::select! {
                biased;
                () = client.closed() => return,
                () = stop.cancelled() => Err(ApiError::Stopping),
                end = watch.run() => end,
            };
            match end {
                // The permit goes back unused: the stream ends as it should.
                Ok(()) => drop(last),
                Err(e) => {
                    last.send(Err(e.into()));
                }
            }
        });
        Ok(ViewStream { views, _seat: seat })
    }
}

struct Watch<T: Viewed> {
    hub: Arc<Hub>,
    viewed: T,
    feed: broadcast::Receiver<Arc<Batch>>,
    sender: mpsc::Sender<Result<T::View, Status>>,
    stall: Duration,
    sent: Option<T::View>,
}

impl<T: Viewed> Watch<T> {
    /// Runs until it has ended, or something else ends the watch.
    async fn run(&mut self) -> Result<(), ApiError> {
        loop {
            let looked = Instant::now();
            let view = self.hub.read(|world| self.viewed.look(world))?;
            let ended = T::ended(&view);
            if self.sent.as_ref().is_none_or(|sent| T::news(sent, &view)) {
                let sent = timeout(self.stall, self.sender.send(Ok(view.clone()))).await;
                match sent {
                    Ok(Ok(())) => self.sent = Some(view),
                    // Nobody will read this.
                    Ok(Err(_)) => return Err(ApiError::Stopping),
                    Err(_) => return Err(ApiError::Late),
                }
            }
            if ended {
                return Ok(());
            }
            self.wait(looked + LOOK).await?;
            sleep_until(looked + LEAST).await;
        }
    }

    /// Until something happens to it, or it is time to look in any case.
    async fn wait(&mut self, until: Instant) -> Result<(), ApiError> {
        loop {
            let batch = tokio::select! {
                () = sleep_until(until) => return Ok(()),
                batch = self.feed.recv() => batch,
            };
            match batch {
                Ok(batch) if self.viewed.concerns(&self.hub, &batch) => return Ok(()),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Ok(()),
                Err(RecvError::Closed) => return Err(ApiError::Stopping),
            }
        }
    }
}
