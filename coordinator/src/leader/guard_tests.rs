//! Which stores the mark refuses, and in which words.

use super::*;
use crate::{
    session::testing::{Base, INCARNATION},
    world::World,
};

fn mark(world: &World) -> Mark {
    Mark {
        cluster: "c".into(),
        incarnation: INCARNATION.into(),
        term: *world.terms.keys().next_back().unwrap(),
        revision: world.rv.revision(),
    }
}

fn refusal(dir: &Path, cluster: &str, incarnation: &str, world: &World) -> String {
    let refused = Guard::open(dir)
        .unwrap()
        .check(cluster, incarnation, world)
        .unwrap_err()
        .to_string();
    assert!(
        !refused.contains('\n') && refused.contains(&dir.display().to_string()),
        "{refused}"
    );
    refused
}

#[tokio::test]
async fn an_older_an_empty_and_another_store_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::new().await;
    let old = base.hub.read(World::clone);
    let mut guard = Guard::open(dir.path()).unwrap();
    guard
        .check("c", INCARNATION, &World::default())
        .expect("nothing was served yet");
    guard.record(mark(&old)).unwrap();

    guard.check("c", INCARNATION, &old).unwrap();
    base.node("n1").await;
    let new = base.hub.read(World::clone);
    Guard::open(dir.path()).unwrap().check("c", INCARNATION, &new).unwrap();
    guard.record(mark(&new)).unwrap();

    let older = refusal(dir.path(), "c", INCARNATION, &old);
    let numbers = format!("revision {}, last served {}", old.rv.revision(), new.rv.revision());
    assert!(
        older.contains(&numbers) && older.contains("put back the newer file"),
        "{older}"
    );
    assert!(refusal(dir.path(), "c", INCARNATION, &World::default()).contains("is empty"));
    assert!(refusal(dir.path(), "other", INCARNATION, &new).contains("cluster other"));
    assert!(refusal(dir.path(), "c", "another", &new).contains("incarnation another"));
    // Grown past the mark, but without the term that was served.
    let mut diverged = new.clone();
    diverged.terms.clear();
    assert!(refusal(dir.path(), "c", INCARNATION, &diverged).contains("does not hold term"));
}

#[tokio::test]
async fn the_mark_never_goes_back_and_a_torn_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::new().await;
    let world = base.hub.read(World::clone);
    let mut guard = Guard::open(dir.path()).unwrap();
    let newest = mark(&world);
    guard.record(newest.clone()).unwrap();
    guard
        .record(Mark {
            revision: 0,
            ..newest.clone()
        })
        .unwrap();
    assert_eq!(Guard::open(dir.path()).unwrap().last(), Some(&newest));
    // What a crash before the rename leaves is no mark.
    fs::write(dir.path().join("served.json.tmp"), "{").unwrap();
    assert_eq!(Guard::open(dir.path()).unwrap().last(), Some(&newest));
    fs::write(dir.path().join(FILE), "{").unwrap();
    let refused = Guard::open(dir.path()).unwrap_err().to_string();
    assert!(
        refused.contains("served.json") && refused.contains("put back"),
        "{refused}"
    );
    let gone = dir.path().join("gone");
    let mut nowhere = Guard::open(&gone).unwrap();
    assert!(
        nowhere
            .record(newest)
            .unwrap_err()
            .to_string()
            .contains("cannot be written")
    );
}

#[tokio::test]
async fn a_restored_history_is_followed_only_where_it_goes_on_from_what_was_served_and_is_accepted() {
    use std::sync::Arc;

    use crate::world::{
        Versioned,
        restored::{Accepted, Former, RestoredRecord},
    };

    let dir = tempfile::tempdir().unwrap();
    let base = Base::new().await;
    let mut world = base.hub.read(World::clone);
    let served = Mark {
        incarnation: "before".into(),
        revision: u64::MAX,
        ..mark(&world)
    };
    Guard::open(dir.path()).unwrap().record(served).unwrap();
    refusal(dir.path(), "c", INCARNATION, &world);
    let restored = |from: &str, accepted: bool| {
        let value = RestoredRecord {
            from: vec![Former {
                incarnation: from.into(),
                newest: Rv(1),
            }],
            accepted: accepted.then(|| Accepted {
                by: "user/admin".into(),
                at_ms: 1,
            }),
            ..RestoredRecord::default()
        };
        Some(Versioned {
            rv: Rv(1),
            value: Arc::new(value),
        })
    };
    for refused in [restored("before", false), restored("another", true)] {
        world.restored = refused;
        assert!(refusal(dir.path(), "c", INCARNATION, &world).contains("incarnation"));
    }
    world.restored = restored("before", true);
    Guard::open(dir.path())
        .unwrap()
        .check("c", INCARNATION, &world)
        .unwrap();

    // Where its own store is restored the mark is out of the way, and kept.
    Guard::set_aside(dir.path(), 7).unwrap();
    assert_eq!(Guard::open(dir.path()).unwrap().last(), None);
    assert!(dir.path().join("served.json.before-7").exists());
    Guard::set_aside(dir.path(), 8).unwrap();
}

/// Whoever follows a store while it is moved away must not lead what is left, whether it has served or not.
#[tokio::test]
async fn a_store_whose_state_was_moved_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::new().await;
    let fence = base.hub.fence().unwrap();
    let change = |value: Option<&'static str>| crate::store::Change {
        key: crate::store::keys::SUCCESSOR.to_owned(),
        expect: crate::store::Expect::Any,
        value: value.map(Into::into),
    };
    for (value, moved) in [(Some("{}"), true), (None, false)] {
        base.hub.commit_under(&fence, vec![change(value)]).await.unwrap();
        let world = base.hub.read(World::clone);
        let checked = Guard::open(dir.path()).unwrap().check("c", INCARNATION, &world);
        assert_eq!(matches!(checked, Err(GuardError::Moved)), moved, "{checked:?}");
        assert_eq!(checked.is_ok(), !moved);
    }
}
