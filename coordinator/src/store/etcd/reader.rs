//! Reads of the etcd store. Called by `EtcdStore` and by the stream.
//!
//! Invariant: a list is true at one revision whatever is written meanwhile; a single read has every commit acknowledged
//! before it began.

use std::time::Duration;

use etcd_client::{
    EventType, GetOptions, SortOrder, SortTarget, TxnOp, TxnResponse, WatchOptions, proto::PbTxnOpResponse,
};

use super::{
    Shared,
    client::{Failure, MAX_MESSAGE, classify},
    layout::{self, MARKER, Version, unwrap},
    mirror::{Event, List, Listed},
};
use crate::store::{Entry, Order, Rv, Span};

/// Keys of one page of a list.
const PAGE: i64 = 1_000;
/// Entries of one page where values may be large.
const FEW: i64 = 100;

/// Value and revision of a key outside of the data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) revision: i64,
    pub(super) value: Vec<u8>,
}

/// The keys that a transaction of gets alone found.
pub(super) fn raws(answer: &TxnResponse) -> Vec<Option<Raw>> {
    let one = |op: &etcd_client::proto::PbResponseOp| match op.response.as_ref() {
        Some(PbTxnOpResponse::ResponseRange(range)) => range.kvs.first().map(|kv| Raw {
            revision: kv.mod_revision,
            value: kv.value.clone(),
        }),
        _ => None,
    };
    answer.0.responses.iter().map(one).collect()
}

impl Shared {
    /// Some keys, all true at one moment; at `revision`, if given.
    pub(super) async fn read_keys(
        &self,
        keys: &[String],
        revision: Option<i64>,
        deadline: Duration,
    ) -> Result<Vec<Option<Raw>>, Failure> {
        self.read_keys_with(keys, revision, (deadline, self.options.patience))
            .await
    }

    /// As [`Self::read_keys`], with a patience for each endpoint.
    pub(super) async fn read_keys_with(
        &self,
        keys: &[String],
        revision: Option<i64>,
        (deadline, patience): (Duration, Duration),
    ) -> Result<Vec<Option<Raw>>, Failure> {
        let get = |key: &String| {
            let options = revision.map(|r| GetOptions::new().with_revision(r));
            TxnOp::get(key.as_str(), options)
        };
        let gets: Vec<_> = keys.iter().map(get).collect();
        let txn = etcd_client::Txn::new().and_then(gets);
        let ask = |mut kv: etcd_client::KvClient| {
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        };
        Ok(raws(&self.cluster.call_with(deadline, patience, ask).await?))
    }

    /// All keys, or with `values: false` all keys without values (and so without ordinals).
    pub(super) async fn list(&self, values: bool) -> Result<List, Failure> {
        let (first, end) = self.layout.range();
        let mut from = first.into_bytes();
        let mut list = List::default();
        let mut page = PAGE;
        loop {
            let mut options = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(page)
                .with_revision(list.revision);
            if !values {
                options = options.with_keys_only();
            }
            let ask = |mut kv: etcd_client::KvClient| {
                let (from, options) = (from.clone(), options.clone());
                async move { kv.get(from, Some(options)).await }
            };
            let answer = self.cluster.call(self.options.read_deadline, ask).await?;
            if list.revision == 0 {
                // All other pages are read as they were now.
                list.revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            let bytes: usize = answer.kvs().iter().map(|kv| kv.value().len()).sum();
            for kv in answer.kvs() {
                let Some(inner) = self.layout.inner(kv.key()) else {
                    list.foreign.push(String::from_utf8_lossy(kv.key()).into_owned());
                    continue;
                };
                if inner == MARKER {
                    list.marker = kv.mod_revision();
                    continue;
                }
                let (version, value) = match (values, unwrap(kv.value())) {
                    (true, Some(found)) => found,
                    (false, _) => (Version::Own(0), bytes::Bytes::new()),
                    (true, None) => {
                        list.foreign.push(inner.to_owned());
                        continue;
                    }
                };
                list.entries.push(Listed {
                    inner: inner.to_owned(),
                    revision: kv.mod_revision(),
                    version,
                    value,
                });
            }
            match answer.kvs().last() {
                Some(last) if answer.0.more => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok(list),
            }
            // A page of large values is followed by a shorter one.
            page = if bytes > (8 << 20) { FEW } else { PAGE };
        }
    }

    pub(super) fn entry(&self, inner: &str, revision: i64, stored: &[u8]) -> Option<Entry> {
        let (version, value) = unwrap(stored)?;
        Some(Entry {
            rv: self.layout.version(revision, version),
            key: self.layout.shown(inner, revision),
            value,
        })
    }

    pub(super) async fn entry_of(&self, key: &str) -> Result<Option<Entry>, Failure> {
        let found = self
            .read_keys(&[self.layout.data(key)], None, self.options.read_deadline)
            .await?;
        if let Some(Some(raw)) = found.first() {
            return Ok(self.entry(key, raw.revision, &raw.value));
        }
        // A term of the history lies under its nonce.
        let Some(revision) = self.layout.term_of(key) else {
            return Ok(None);
        };
        let (from, until) = layout::terms_range();
        let named = self.range(from, until, Order::Ascending, i64::MAX).await?;
        Ok(named
            .into_iter()
            .find(|e| self.layout.revision(e.rv) == Some(revision) && e.key == key))
    }

    pub(super) async fn entries(&self, span: &Span) -> Result<Vec<Entry>, Failure> {
        if span.from >= span.until || span.limit == 0 {
            return Ok(Vec::new());
        }
        let limit = i64::try_from(span.limit).unwrap_or(i64::MAX);
        if !layout::touches_terms(&span.from, &span.until) {
            return self.range(&span.from, &span.until, span.order, limit).await;
        }
        // Names of the history of terms are not those in etcd: all of it is read, with all that is around it.
        let (first, end) = layout::terms_range();
        let from = span.from.as_str().min(first);
        let until = span.until.as_str().max(end);
        let mut found = self.range(from, until, Order::Ascending, i64::MAX).await?;
        found.retain(|e| *span.from <= *e.key && *e.key < *span.until);
        found.sort_by(|a, b| a.key.cmp(&b.key));
        if span.order == Order::Descending {
            found.reverse();
        }
        found.truncate(span.limit);
        Ok(found)
    }

    async fn range(&self, from: &str, until: &str, order: Order, limit: i64) -> Result<Vec<Entry>, Failure> {
        // The marker is among the data, and no entry.
        let limit = limit.min(1 << 40) + 1;
        let mut options = GetOptions::new().with_range(self.layout.data(until)).with_limit(limit);
        if order == Order::Descending {
            options = options.with_sort(SortTarget::Key, SortOrder::Descend);
        }
        let from = self.layout.data(from);
        let ask = |mut kv: etcd_client::KvClient| {
            let (from, options) = (from.clone(), options.clone());
            async move { kv.get(from, Some(options)).await }
        };
        let answer = self.cluster.call(self.options.read_deadline, ask).await?;
        let found = answer.kvs().iter().filter_map(|kv| {
            let inner = self.layout.inner(kv.key())?;
            (inner != MARKER).then(|| self.entry(inner, kv.mod_revision(), kv.value()))?
        });
        Ok(found.take(usize::try_from(limit - 1).unwrap_or(usize::MAX)).collect())
    }

    /// The events from one revision to another, both included, as etcd still has them.
    pub(super) async fn events(&self, from: i64, to: i64) -> Result<Vec<Event>, Failure> {
        let mut why = Failure::Unsent("there is no endpoint".to_owned());
        for endpoint in self.cluster.in_turn() {
            match tokio::time::timeout(self.options.read_deadline, self.events_at(endpoint, from, to)).await {
                Ok(Ok(events)) => return Ok(events),
                Ok(Err(failure @ (Failure::Compacted(_) | Failure::Refused(_)))) => return Err(failure),
                Ok(Err(failure)) => why = failure,
                Err(_) => why = Failure::Unclear(format!("{}: it did not answer in time", endpoint.url)),
            }
        }
        Err(why)
    }

    async fn events_at(&self, endpoint: &super::client::Endpoint, from: i64, to: i64) -> Result<Vec<Event>, Failure> {
        let (first, end) = self.layout.range();
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(from)
            .with_fragment();
        let mut client = endpoint.client().watch_client().max_decoding_message_size(MAX_MESSAGE);
        let mut stream = client.watch(first, Some(options)).await.map_err(|e| classify(&e))?;
        let mut events = Vec::new();
        loop {
            let message = stream.message().await.map_err(|e| classify(&e))?;
            let Some(message) = message else {
                return Err(Failure::Unclear(format!("{}: the watch ended", endpoint.url)));
            };
            if message.canceled() {
                let why = format!("{}: {}", endpoint.url, message.cancel_reason());
                return Err(if message.compact_revision() > 0 {
                    Failure::Compacted(why)
                } else {
                    Failure::Unclear(why)
                });
            }
            events.extend(message.0.events.iter().filter_map(|e| self.event(e)));
            let reached = message
                .events()
                .iter()
                .filter_map(|e| e.kv())
                .map(|kv| kv.mod_revision())
                .max();
            if reached.is_some_and(|r| r >= to) && !message.0.fragment {
                events.retain(|e: &Event| e.revision <= to);
                return Ok(events);
            }
        }
    }

    pub(super) fn event(&self, event: &etcd_client::proto::PbEvent) -> Option<Event> {
        let kv = event.kv.as_ref()?;
        let deleted = event.r#type == EventType::Delete as i32;
        Some(Event {
            inner: self.layout.inner(&kv.key)?.to_owned(),
            revision: kv.mod_revision,
            value: (!deleted).then(|| kv.value.clone()),
        })
    }

    /// The newest version that there was at the transaction with this revision.
    pub(super) async fn newest_of(&self, marker: i64) -> Result<Rv, Failure> {
        let mut at = marker;
        let exact = loop {
            if at == 0 {
                break Ok(self.start().newest);
            }
            let events = match self.events(at, at).await {
                Ok(events) => events,
                Err(failure) => break Err(failure),
            };
            let mut replay = super::mirror::Mirror::new(self.layout.clone(), &List::default(), Rv(0));
            if let Some(last) = replay.apply(events).batches.last().and_then(|b| b.last()) {
                break Ok(last.rv);
            }
            // All of that transaction was refused: look at the one before.
            let before = [self.layout.marker()];
            match self.read_keys(&before, Some(at - 1), self.options.read_deadline).await {
                Ok(found) => at = found.into_iter().flatten().next().map_or(0, |raw| raw.revision),
                Err(failure) => break Err(failure),
            }
        };
        match exact {
            // Not kept that long: any version between that transaction and the next one is as true.
            Err(Failure::Compacted(_)) => Ok(self.layout.rv(marker, u16::MAX)),
            other => other,
        }
    }
}
