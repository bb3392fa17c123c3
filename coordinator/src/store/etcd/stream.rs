//! The one etcd watch of a store: it feeds the readers in this process, and takes itself up again wherever it breaks.
//! Spawned by `EtcdStore::open`.
//!
//! Invariant: what is published is complete transactions, in order, each once. Where etcd's history is gone or was wrong,
//! a list of all takes its place, and the readers are told the difference.

use std::time::Duration;

use etcd_client::{GetOptions, WatchOptions};
use tokio::time::Instant;

use super::{
    Shared,
    client::{Endpoint, Failure, MAX_MESSAGE, classify},
    mirror::Event,
};

/// Why one watch ended.
enum End {
    Closed,
    /// The history after our position is gone.
    Compacted,
    Broken(String),
}

impl Shared {
    /// Ends when the store closes.
    pub(super) async fn follow(&self) {
        let mut pause = Duration::ZERO;
        let mut relist = false;
        while !self.closing.is_cancelled() {
            if relist {
                match self.relist().await {
                    Ok(()) => relist = false,
                    Err(e) => tracing::warn!("the list that is to replace etcd's history failed: {e}"),
                }
            }
            if !relist {
                for endpoint in self.cluster.in_turn() {
                    let began = Instant::now();
                    match self.watch_at(endpoint).await {
                        End::Closed => return,
                        // Its connection may have gone first.
                        End::Broken(_) if self.closing.is_cancelled() => return,
                        End::Compacted => {
                            let from = self.mirror().position();
                            tracing::warn!(from, "etcd's history is gone from here on: everything is listed");
                            relist = true;
                        }
                        End::Broken(why) => {
                            tracing::debug!(endpoint = endpoint.url, "the watch broke: {why}");
                            endpoint.note(Some(&why));
                        }
                    }
                    if began.elapsed() > Duration::from_secs(1) || relist {
                        pause = Duration::ZERO;
                        break;
                    }
                }
            }
            if pause > Duration::ZERO || relist {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = self.closing.cancelled() => return,
                }
            }
            pause = (pause * 2).clamp(Duration::from_millis(10), Duration::from_millis(500));
        }
    }

    async fn watch_at(&self, endpoint: &Endpoint) -> End {
        let (first, end) = self.layout.range();
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(self.mirror().position() + 1)
            .with_fragment();
        let mut client = endpoint.client().watch_client().max_decoding_message_size(MAX_MESSAGE);
        let opening = tokio::time::timeout(self.options.patience, client.watch(first, Some(options)));
        let (mut requests, mut messages) = match opening.await {
            Ok(Ok(stream)) => stream.split(),
            Ok(Err(e)) => return End::Broken(classify(&e).to_string()),
            Err(_) => return End::Broken("the watch was not answered in time".to_owned()),
        };
        let mut events: Vec<Event> = Vec::new();
        let mut heard = Instant::now();
        let mut tick = tokio::time::interval(self.options.watch_ping);
        loop {
            let message = tokio::select! {
                message = messages.message() => message,
                _ = tick.tick() => {
                    if heard.elapsed() > self.options.watch_silence {
                        return End::Broken("the watch is silent".to_owned());
                    }
                    // A hang of etcd shows in nothing else.
                    if requests.request_progress().await.is_err() {
                        return End::Broken("the watch ended".to_owned());
                    }
                    continue;
                }
                () = self.closing.cancelled() => return End::Closed,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return End::Broken("the watch ended".to_owned()),
                Err(e) => return End::Broken(classify(&e).to_string()),
            };
            if message.canceled() {
                return if message.compact_revision() > 0 {
                    End::Compacted
                } else {
                    End::Broken(format!("the watch was refused: {}", message.cancel_reason()))
                };
            }
            heard = Instant::now();
            events.extend(message.0.events.iter().filter_map(|e| self.event(e)));
            // Its header's revision is no position: etcd 3.4 may send it before events that come first.
            if !message.0.fragment && !events.is_empty() {
                self.take_in(std::mem::take(&mut events));
                endpoint.note(None);
            }
        }
    }

    fn take_in(&self, events: Vec<Event>) {
        let mut mirror = self.mirror();
        let applied = mirror.apply(events);
        for batch in &applied.batches {
            if let Some(last) = batch.last() {
                self.saw_update(last.rv);
            }
            self.fanout.publish(batch);
        }
        let marker = mirror.marker();
        drop(mirror);
        self.seen.send_replace(marker);
        say_foreign(&applied.foreign);
    }

    /// Lists everything and publishes how it differs from what was published.
    pub(super) async fn relist(&self) -> Result<(), Failure> {
        let list = self.list(true).await?;
        say_foreign(&list.foreign);
        let mut mirror = self.mirror();
        if list.revision < mirror.position() {
            return Err(Failure::Unclear(
                "etcd answered with a state that is older than what it had sent".to_owned(),
            ));
        }
        let updates = mirror.replace(list);
        if let Some(last) = updates.last() {
            self.saw_update(last.rv);
        }
        self.fanout.heal(&updates);
        let marker = mirror.marker();
        drop(mirror);
        self.seen.send_replace(marker);
        Ok(())
    }

    /// Compares what was published with a list, as etcd's watch has been wrong before.
    pub(super) async fn audit(&self) {
        while !self.closing.is_cancelled() {
            tokio::select! {
                () = tokio::time::sleep(self.options.audit_every) => {}
                () = self.closing.cancelled() => return,
            }
            match self.audit_once().await {
                Ok(wrong) if wrong.is_empty() => {}
                Ok(wrong) => {
                    let shown: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
                    tracing::error!(
                        keys = wrong.len(),
                        "etcd's watch missed changes of {}; everything is listed; etcd's releases note such faults of \
                         3.4 and 3.5.0 to 3.5.2",
                        shown.join(", ")
                    );
                    if let Err(e) = self.relist().await {
                        tracing::warn!("the list that is to heal it failed, another look follows: {e}");
                    }
                }
                Err(e) => tracing::debug!("etcd was not audited: {e}"),
            }
        }
    }

    /// Keys in which the mirror is wrong.
    pub(super) async fn audit_once(&self) -> Result<Vec<String>, Failure> {
        let list = self.list(false).await?;
        if !self.reached(list.marker, self.options.read_deadline).await {
            // Not behind by a fault but by load or a break: nothing can be said.
            return Ok(Vec::new());
        }
        let (mut wrong, lacking) = self.mirror().differences(&list);
        for (inner, revision) in lacking.into_iter().take(100) {
            let key = self.layout.data(&inner);
            let ask = |mut kv: etcd_client::KvClient| {
                let key = key.clone();
                async move { kv.get(key, Some(GetOptions::new().with_keys_only())).await }
            };
            let now = self.cluster.call(self.options.read_deadline, ask).await?;
            // Still there as it was listed, and so never deleted meanwhile.
            let there = now.kvs().first().is_some_and(|kv| kv.mod_revision() == revision);
            if there && !self.mirror().has(&inner) {
                wrong.push(inner);
            }
        }
        Ok(wrong)
    }

    /// Waits until the stream has delivered the transaction with this marker.
    pub(super) async fn reached(&self, marker: i64, patience: Duration) -> bool {
        let mut seen = self.seen.subscribe();
        let wait = seen.wait_for(|seen| *seen >= marker);
        matches!(tokio::time::timeout(patience, wait).await, Ok(Ok(_)))
    }
}

fn say_foreign(keys: &[String]) {
    for key in keys.iter().take(20) {
        tracing::error!(
            key,
            "etcd has a value here that no known release of Wharfinger wrote; it is left out: remove it"
        );
    }
}
