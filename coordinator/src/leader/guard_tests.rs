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
