//! Filling an empty store: versions, what follows them, and what is refused.

use super::{
    super::{
        Change, CommitError, Entry, Expect, ReadError, Rv,
        import::{ImportError, Imported},
    },
    rig::{Backend, Rig, any, lead, put, until, value},
};

/// As `on_each_backend`; none of them filled before.
macro_rules! on_each_empty_backend {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Memory).await; })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Sqlite).await; })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Etcd).await; })*
        }
    };
}

on_each_empty_backend! {
    what_is_imported_keeps_its_versions_and_what_follows_is_above,
    only_an_empty_store_is_filled,
    what_is_not_in_order_is_refused_and_leaves_the_store_empty,
}

fn entry(key: &str, rv: Rv) -> Entry {
    Entry {
        rv,
        key: key.into(),
        value: key.to_owned().into(),
    }
}

fn state() -> Imported {
    Imported {
        entries: vec![entry("a", Rv::new(5, 1)), entry("b", Rv::new(9, 0))],
        newest: Rv::new(10, 7),
        base: 1000,
    }
}

async fn what_is_imported_keeps_its_versions_and_what_follows_is_above(backend: Backend) {
    let mut rig = Rig::new(backend);
    rig.import(state()).await.unwrap();
    for reopened in [false, true] {
        if reopened {
            rig.reopen().await;
        }
        let snapshot = rig.store.load().await.unwrap();
        assert_eq!(
            (snapshot.rv, &snapshot.entries),
            (state().newest, &state().entries),
            "{reopened}"
        );
        assert_eq!(rig.store.get("b").await.unwrap(), Some(entry("b", Rv::new(9, 0))));
    }
    // What was before cannot be watched, what comes can.
    let old = rig.store.watch(Rv::new(10, 6)).await.unwrap_err();
    assert!(
        matches!(old, ReadError::Compacted { oldest, .. } if oldest == Rv::new(10, 7)),
        "{old}"
    );
    let mut watch = rig.store.watch(Rv::new(10, 7)).await.unwrap();
    let fence = lead(&*rig.store).await;
    assert!(fence.term > 1000);
    let last = put(&*rig.store, &fence, "c", "3").await;
    assert_eq!(last.revision(), fence.term + 1);
    let seen = until(&mut watch, last).await;
    assert!(seen.iter().all(|u| u.rv.revision() > 1000), "{seen:?}");
    // A compare-and-swap on an imported version.
    let imported = Rv::new(5, 1);
    let change = || Change::put("a", Expect::At(imported), "new");
    let other = Change::delete("b", Expect::At(imported));
    let refused = rig.store.commit(&fence, vec![change(), other]).await;
    let conflict = CommitError::Conflict {
        key: "b".to_owned(),
        expected: Expect::At(imported),
        actual: Some(Rv::new(9, 0)),
    };
    assert_eq!(refused, Err(conflict));
    let done = rig.store.commit(&fence, vec![change()]).await.unwrap();
    // It has a version of here by now.
    assert!(matches!(
        rig.store.commit(&fence, vec![change()]).await,
        Err(CommitError::Conflict { actual, .. }) if actual == Some(done.last())
    ));
    let gone = Change::delete("b", Expect::At(Rv::new(9, 0)));
    let gone = rig.store.commit(&fence, vec![gone]).await.unwrap();
    let seen = until(&mut watch, gone.last()).await;
    let seen: Vec<_> = seen.into_iter().map(|u| (u.rv, u.key, u.value.is_some())).collect();
    let expected = [
        (done.last(), "a".to_owned(), true),
        (gone.last(), "b".to_owned(), false),
    ];
    assert_eq!(seen, expected);
    rig.reopen().await;
    assert_eq!(value(&*rig.store, "a").await.as_deref(), Some("new"));
    assert_eq!(value(&*rig.store, "b").await, None);
    assert!(lead(&*rig.store).await.term > gone.last().revision());
}

async fn only_an_empty_store_is_filled(backend: Backend) {
    let mut rig = Rig::new(backend);
    let fence = lead(&*rig.store).await;
    put(&*rig.store, &fence, "k", "v").await;
    assert_eq!(rig.import(state()).await, Err(ImportError::NotEmpty));
    rig.store
        .commit(&fence, vec![Change::delete("k", Expect::Any)])
        .await
        .unwrap();
    rig.reopen().await;
    assert_eq!(
        rig.import(state()).await,
        Err(ImportError::NotEmpty),
        "its versions were handed out"
    );
    let twice = Rig::new(backend);
    twice.import(state()).await.unwrap();
    assert_eq!(twice.import(state()).await, Err(ImportError::NotEmpty));
    let fence = lead(&*twice.store).await;
    twice.store.commit(&fence, vec![any("k", "v")]).await.unwrap();
}

async fn what_is_not_in_order_is_refused_and_leaves_the_store_empty(backend: Backend) {
    let rig = Rig::new(backend);
    for wrong in [
        Imported {
            entries: vec![entry("b", Rv(1)), entry("a", Rv(1))],
            ..state()
        },
        Imported {
            entries: vec![entry("a", Rv(1)), entry("a", Rv(2))],
            ..state()
        },
        Imported {
            entries: vec![entry("a", Rv::new(10, 8))],
            ..state()
        },
        Imported { base: 9, ..state() },
        Imported {
            base: 1 << 47,
            ..state()
        },
    ] {
        let refused = rig.import(wrong.clone()).await.unwrap_err();
        assert!(matches!(refused, ImportError::Invalid(_)), "{wrong:?}: {refused}");
        assert!(rig.store.load().await.unwrap().entries.is_empty());
    }
    rig.import(state()).await.unwrap();
}
