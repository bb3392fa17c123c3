//! Streams of views: how a drain or an update stands, again and again. Called by the calls about those.
//!
//! Invariant: of a watch one attempt a call: whether to try again is the caller's to say.

use tonic::{Code, Response, Status, Streaming, transport::Channel};

use super::{Client, WatchError, is_elsewhere, refused, words};
use crate::error::Error;

pub struct ViewWatch<V>(Streaming<V>);

impl Client {
    /// To the coordinator whose turn it is.
    pub(super) async fn channel_to_watch(&mut self) -> Result<Channel, WatchError> {
        let address = self.address();
        self.channel().await.map_err(|e| {
            self.leave();
            match e {
                Error::Unreachable(why) => WatchError::Broken(format!("{address}: {why}")),
                other => WatchError::Refused(other),
            }
        })
    }

    /// What came of opening a stream; none: no answer in time.
    pub(super) fn opened<V>(
        &mut self,
        opened: Option<Result<Response<Streaming<V>>, Status>>,
    ) -> Result<ViewWatch<V>, WatchError> {
        match opened {
            Some(Ok(stream)) => Ok(ViewWatch(stream.into_inner())),
            Some(Err(status)) => Err(self.broken(&status)),
            None => {
                let address = self.address();
                self.leave();
                Err(WatchError::Broken(format!("{address}: no answer")))
            }
        }
    }

    /// `None` after the last one.
    pub async fn next_view<V>(&mut self, watch: &mut ViewWatch<V>) -> Result<Option<V>, WatchError> {
        watch.0.message().await.map_err(|status| self.broken(&status))
    }

    fn broken(&mut self, status: &Status) -> WatchError {
        if is_elsewhere(status) || matches!(status.code(), Code::Cancelled | Code::Aborted) {
            self.leave();
            return WatchError::Broken(words(status));
        }
        WatchError::Refused(refused(status))
    }
}
