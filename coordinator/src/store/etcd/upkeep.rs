//! What etcd needs from time to time: its history compacted, its quota alarm healed. Run by the coordinator that leads.
//!
//! Invariant: the history of the last period stays, so that a watch that was away for less resumes; and it ends at a
//! revision that deletes nothing, as etcd 3.4 drops the deletes of the very revision that it compacts to.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, CompactionOptions, Compare, CompareOp, KvClient, Txn, TxnOp, WatchOptions};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    EtcdStore, Shared,
    client::{Failure, classify},
    reader::raws,
};
use crate::store::{CommitError, Fence, Rv, keys};

/// How often the quota alarm is asked for.
const ALARM_EVERY: Duration = Duration::from_secs(5);
/// Most time for one member to rewrite its file.
const DEFRAG: Duration = Duration::from_secs(60);

/// Value of the key `upkeep`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Written {
    marker: i64,
    newest: Rv,
}

impl EtcdStore {
    /// Compacts and heals until the term is over or `stop` is cancelled. Faults of etcd are said and tried again.
    pub async fn run_upkeep(&self, fence: &Fence, stop: CancellationToken) -> Result<(), CommitError> {
        let shared = &self.shared;
        let every = shared.options.compact_every;
        let alarm_every = ALARM_EVERY.min(every);
        let mut until = Instant::now() + every;
        let mut past = match shared.note_newest(fence).await {
            Err(fenced @ CommitError::Fenced { .. }) => return Err(fenced),
            other => other.ok(),
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(alarm_every) => {}
                () = stop.cancelled() => return Ok(()),
                () = shared.closing.cancelled() => return Ok(()),
            }
            if let Err(e) = shared.heal_quota().await {
                tracing::warn!("etcd's quota alarm: {e}");
            }
            if Instant::now() < until {
                continue;
            }
            until = Instant::now() + every;
            if let Some(revision) = past.take() {
                match shared.compact(revision).await {
                    Ok(()) => tracing::debug!(revision, "etcd's history was compacted"),
                    Err(e) => tracing::warn!("etcd's history was not compacted: {e}"),
                }
            }
            match shared.note_newest(fence).await {
                Ok(revision) => past = Some(revision),
                Err(fenced @ CommitError::Fenced { .. }) => return Err(fenced),
                Err(e) => tracing::warn!("etcd's history will not be compacted for now: {e}"),
            }
        }
    }

    /// Gives up the history up to now. A watch that has not got there must load again.
    pub async fn compact_now(&self, fence: &Fence) -> Result<(), CommitError> {
        let revision = self.shared.note_newest(fence).await?;
        let compacted = self.shared.compact(revision).await;
        compacted.map_err(|e| CommitError::Unavailable(format!("etcd: {e}")))
    }
}

impl Shared {
    /// Writes down what the newest version is; the revision of that write deletes nothing.
    pub(super) async fn note_newest(&self, fence: &Fence) -> Result<i64, CommitError> {
        let term = self.layout.data(keys::TERM);
        let present = self.layout.term_revision(fence.term).unwrap_or(-1);
        for _ in 0..20 {
            let written = {
                let mirror = self.mirror();
                Written {
                    marker: mirror.marker(),
                    newest: mirror.newest(),
                }
            };
            // Numbers always serialize.
            let value = serde_json::to_vec(&written).unwrap_or_default();
            let marker = self.layout.marker();
            let txn = Txn::new()
                .when([
                    Compare::mod_revision(term.as_str(), CompareOp::Equal, present),
                    Compare::mod_revision(marker.as_str(), CompareOp::Equal, written.marker),
                ])
                .and_then([TxnOp::put(self.layout.upkeep(), value, None)])
                .or_else([TxnOp::get(term.as_str(), None), TxnOp::get(marker, None)]);
            let ask = |mut kv: KvClient| {
                let txn = txn.clone();
                async move { kv.txn(txn).await }
            };
            let answer = self.cluster.call(self.options.read_deadline, ask).await;
            let answer = answer.map_err(|failure| match failure {
                Failure::NoSpace(why) => self.full(&why),
                other => CommitError::Unavailable(format!("etcd: {other}")),
            })?;
            if answer.succeeded() {
                return Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
            }
            let mut found = raws(&answer).into_iter();
            let now = found.next().flatten().map_or(0, |raw| raw.revision);
            if now != present {
                return Err(CommitError::Fenced {
                    ours: fence.term,
                    current: if now == 0 { 0 } else { self.layout.term(now) },
                });
            }
            // The watch is a little behind, or others write just now.
            let marker = found.next().flatten().map_or(0, |raw| raw.revision);
            self.reached(marker, Duration::from_millis(200)).await;
        }
        Err(CommitError::Unavailable(
            "the store is written to all the time, or its watch is behind".to_owned(),
        ))
    }

    /// What was written down: the marker's revision, and the newest version as of it.
    pub(super) async fn written_newest(&self) -> Result<Option<(i64, Rv)>, Failure> {
        let found = self
            .read_keys(&[self.layout.upkeep()], None, self.options.read_deadline)
            .await?;
        let written = found.into_iter().flatten().next();
        let written = written.and_then(|raw| serde_json::from_slice::<Written>(&raw.value).ok());
        Ok(written.map(|w| (w.marker, w.newest)))
    }

    pub(super) async fn compact(&self, revision: i64) -> Result<(), Failure> {
        let ask = |mut kv: KvClient| async move { kv.compact(revision, Some(CompactionOptions::new())).await };
        match self.cluster.call(self.options.read_deadline, ask).await {
            // By somebody else, or by us without an answer.
            Ok(_) | Err(Failure::Compacted(_)) => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    /// Versions after this one can still be watched.
    pub(super) async fn oldest(&self) -> Result<Rv, Failure> {
        let (first, end) = self.layout.range();
        let mut why = Failure::Unsent("there is no endpoint".to_owned());
        for endpoint in self.cluster.in_turn() {
            let options = WatchOptions::new().with_range(end.as_str()).with_start_revision(1);
            let look = async {
                let mut client = endpoint.client().watch_client();
                let mut stream = client
                    .watch(first.as_str(), Some(options))
                    .await
                    .map_err(|e| classify(&e))?;
                while let Some(message) = stream.message().await.map_err(|e| classify(&e))? {
                    if message.compact_revision() > 0 {
                        return Ok(self.layout.rv(message.compact_revision(), u16::MAX));
                    }
                    if !message.created() {
                        break;
                    }
                }
                Ok(Rv(0))
            };
            match tokio::time::timeout(self.options.read_deadline, look).await {
                Ok(Ok(oldest)) => return Ok(oldest),
                Ok(Err(failure)) => why = failure,
                Err(_) => why = Failure::Unclear(format!("{}: it did not answer in time", endpoint.url)),
            }
        }
        Err(why)
    }

    /// Where the quota is used up: makes room and ends the alarm. It comes again if that was not enough.
    pub(super) async fn heal_quota(&self) -> Result<(), Failure> {
        let alarms = self.alarms(AlarmAction::Get, AlarmType::None, 0).await?;
        let full: Vec<u64> = alarms
            .iter()
            .filter(|(_, alarm)| *alarm == AlarmType::Nospace)
            .map(|(member, _)| *member)
            .collect();
        if full.is_empty() {
            return Ok(());
        }
        tracing::error!("etcd's space quota is used up; its history is compacted and its files are rewritten");
        // Only where nothing can be written; who watches is told by the audit if it missed a delete here.
        let revision = self.mirror().position();
        self.compact(revision).await?;
        for endpoint in &self.cluster.endpoints {
            let mut client = endpoint.client().maintenance_client();
            match tokio::time::timeout(DEFRAG, client.defragment()).await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => tracing::warn!(endpoint = endpoint.url, "not defragmented: {}", classify(&e)),
                Err(_) => tracing::warn!(endpoint = endpoint.url, "not defragmented within {DEFRAG:?}"),
            }
        }
        for member in full {
            self.alarms(AlarmAction::Deactivate, AlarmType::Nospace, member).await?;
        }
        tracing::info!("etcd's quota alarm was ended");
        Ok(())
    }
}
