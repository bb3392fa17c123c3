//! Filling a store in etcd, which takes more than one transaction: what others see meanwhile, and what is left of one
//! that broke off.

use std::{sync::Arc, time::Duration};

use etcd_client::Client;

use super::{
    super::{
        Change, CommitError, Entry, Expect, OpenError, Order, Rv, Span, Store,
        etcd::{EtcdOptions, EtcdStore},
        import::{Import, ImportError, Imported},
        keys,
    },
    etcd_process::Etcd,
    proxy::{Mode, Proxy},
    rig::{lead, put, until, value, within},
};

const PREFIX: &str = "/wharf-test/";

fn options(endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions {
        endpoints,
        prefix: PREFIX.to_owned(),
        import_patience: Duration::from_millis(300),
        ..EtcdOptions::default()
    }
}

async fn open(etcd: &Etcd) -> Result<EtcdStore, OpenError> {
    within(EtcdStore::open(options(etcd.endpoints()))).await
}

async fn to_fill(etcd: &Etcd) -> EtcdStore {
    within(EtcdStore::open_to_import(options(etcd.endpoints())))
        .await
        .unwrap()
}

/// More than fits into one transaction, by number and by size.
fn state() -> Imported {
    let mut entries: Vec<Entry> = (0..450_u64)
        .map(|i| Entry {
            rv: Rv::new(1000 - i, 3),
            key: format!("k/{i:04}"),
            value: format!("v{i}").into(),
        })
        .collect();
    for (i, key) in ["l/1", "l/2", "l/3"].into_iter().enumerate() {
        entries.push(Entry {
            rv: Rv::new(5, u16::try_from(i).unwrap()),
            key: key.to_owned(),
            value: vec![b'x'; (1 << 20) - 3].into(),
        });
    }
    for term in [3, 700] {
        entries.push(Entry {
            rv: Rv::new(term, 1),
            key: keys::term_history(term),
            value: "{}".into(),
        });
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Imported {
        entries,
        newest: Rv::new(1000, 9),
        base: 5000,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_large_store_is_there_with_its_versions_for_everybody() {
    let etcd = Etcd::start(1);
    let store = to_fill(&etcd).await;
    store.import(state()).await.unwrap();
    let other = open(&etcd).await.unwrap();
    for store in [&store, &other] {
        let loaded = store.load().await.unwrap();
        assert_eq!(loaded.rv, state().newest);
        assert!(loaded.entries == state().entries, "differs");
        assert_eq!(store.newest(), state().newest);
        assert!(store.audit_now().await.unwrap().is_empty());
    }
    // Terms go by their names, old and new, and old ones can be removed.
    let fence = lead(&other).await;
    assert!(fence.term > 5000);
    let (old, new) = (keys::term_history(700), keys::term_history(fence.term));
    let found = store.get(&old).await.unwrap().unwrap();
    assert_eq!(found.rv, Rv::new(700, 1));
    let span = Span {
        from: "terms/".to_owned(),
        until: "terms0".to_owned(),
        order: Order::Descending,
        limit: 2,
    };
    let names: Vec<_> = store.scan(span).await.unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(names, [new.clone(), old.clone()]);
    let gone = Change::delete(old.as_str(), Expect::At(found.rv));
    let gone = other.commit(&fence, vec![gone]).await.unwrap();
    assert!(store.get(&old).await.unwrap().is_none() && store.get(&new).await.unwrap().is_some());
    until(&mut store.watch(state().newest).await.unwrap(), gone.last()).await;
    // The history before is nobody's, also once etcd's own is given up.
    put(&other, &fence, "k/0000", "again").await;
    other.compact_now(&fence).await.unwrap();
    let third = open(&etcd).await.unwrap();
    assert_eq!(third.newest(), other.newest());
    assert_eq!(third.load().await.unwrap().rv, other.newest());
    let kept = third.get("k/0001").await.unwrap().unwrap();
    assert_eq!(kept.rv, Rv::new(999, 3));
    let change = Change::put("k/0001", Expect::At(kept.rv), "new");
    third.commit(&fence, vec![change]).await.unwrap();
    // Everything listed anew, as after a long break: what was imported is no news.
    let mut watch = store.watch(store.newest()).await.unwrap();
    store.heal().await.unwrap();
    let last = put(&other, &fence, "end", "1").await;
    let seen = until(&mut watch, last).await;
    assert!(seen.iter().all(|u| u.rv.revision() > 5000), "{seen:?}");
    assert!(!seen.iter().any(|u| u.key == "k/0002"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_import_left_half_done_is_no_store_and_is_begun_anew() {
    let etcd = Etcd::start(1);
    let mut raw = Client::connect(etcd.endpoints(), None).await.unwrap();
    let mark = |step: u64| format!(r#"{{"id":"x","holder":"there:7","step":{step}}}"#);
    raw.put(format!("{PREFIX}importing"), mark(1), None).await.unwrap();
    for key in ["data/left", "data/k/0001"] {
        raw.put(format!("{PREFIX}{key}"), "\u{1}\0\0old", None).await.unwrap();
    }
    let refused = open(&etcd).await.unwrap_err().to_string();
    assert!(
        refused.contains("begun by there:7") && refused.contains(PREFIX),
        "{refused}"
    );
    // It counts as empty for who fills it, and goes once that begins.
    let store = to_fill(&etcd).await;
    assert_eq!(store.newest(), Rv(0));
    // While the other one goes on, nothing of its is touched.
    let going = tokio::spawn({
        let mut raw = raw.clone();
        async move {
            for step in 2.. {
                raw.put(format!("{PREFIX}importing"), mark(step), None).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let refused = store.import(state()).await.unwrap_err();
    assert!(
        matches!(&refused, ImportError::Busy(why) if why.contains("there:7")),
        "{refused}"
    );
    going.abort();
    let _ = going.await;
    assert!(raw.get(format!("{PREFIX}data/left"), None).await.unwrap().count() == 1);
    store.import(state()).await.unwrap();
    let loaded = open(&etcd).await.unwrap().load().await.unwrap();
    assert!(loaded.entries == state().entries, "something was left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opened_it_before_begins_no_term_in_it() {
    let etcd = Etcd::start(1);
    let before = open(&etcd).await.unwrap();
    let mut raw = Client::connect(etcd.endpoints(), None).await.unwrap();
    let importing = format!("{PREFIX}importing");
    raw.put(importing.as_str(), "{}", None).await.unwrap();
    let refused = within(before.take_term("inc", "h")).await;
    assert!(matches!(&refused, Err(CommitError::Unavailable(why)) if why.contains("start again")));
    raw.delete(importing, None).await.unwrap();
    to_fill(&etcd).await.import(state()).await.unwrap();
    let refused = within(before.take_term("inc", "h")).await;
    assert!(matches!(&refused, Err(CommitError::Unavailable(why)) if why.contains("start again")));
    assert!(open(&etcd).await.unwrap().get(keys::TERM).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_lost_answers() {
    let etcd = Etcd::start(1);
    let proxy = Arc::new(Proxy::to(etcd.port(0)).await);
    let opened = EtcdOptions {
        patience: Duration::from_millis(500),
        ..options(vec![proxy.endpoint()])
    };
    let store = within(EtcdStore::open_to_import(opened)).await.unwrap();
    let losing = tokio::spawn(async move {
        loop {
            proxy.set(Mode::Mute);
            tokio::time::sleep(Duration::from_millis(15)).await;
            proxy.set(Mode::Pass);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let filled = within(store.import(state())).await;
    losing.abort();
    filled.unwrap();
    let loaded = open(&etcd).await.unwrap().load().await.unwrap();
    assert!(loaded.entries == state().entries, "differs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_is_taken_back_while_nobody_has_led() {
    let etcd = Etcd::start(1);
    let store = to_fill(&etcd).await;
    store.withdraw().await.unwrap();
    store.import(state()).await.unwrap();
    store.withdraw().await.unwrap();
    let mut raw = Client::connect(etcd.endpoints(), None).await.unwrap();
    let all = etcd_client::GetOptions::new().with_prefix();
    assert_eq!(raw.get(PREFIX, Some(all)).await.unwrap().count(), 0);
    let store = to_fill(&etcd).await;
    store.import(state()).await.unwrap();
    lead(&store).await;
    store.withdraw().await.unwrap();
    assert_eq!(
        value(&open(&etcd).await.unwrap(), "k/0001").await.as_deref(),
        Some("v1")
    );
}
