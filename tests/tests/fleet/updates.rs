//! Rolling updates in a simulated fleet: the coordinator ends at each of the commits that one is made of, on either side of
//! it, and the update ends the same.

use coordinator::world::{Key, updates::UpdateOutcome};
use harness::fleet::{Asked, Fleet, Side, Wanted};

use crate::{
    PATIENCE,
    every_commit::{Met, meet},
};

/// More commits than any update here is made of.
const MOST: u32 = 200;

fn web() -> Key {
    ("default".to_owned(), "web".to_owned())
}

async fn fleet() -> (Fleet, Asked) {
    let fleet = Fleet::of(3).start().await;
    let mut admin = fleet.admin();
    let wanted = Wanted {
        name: "web".into(),
        replicas: 3,
        images: vec!["web:0".into()],
        ..Wanted::default()
    };
    admin.create(&wanted).await.expect("created");
    let asked = Asked::from([("web".to_owned(), 3)]);
    fleet.until("the fleet is up", PATIENCE, |f| f.converged(&asked)).await;
    (fleet, asked)
}

/// The controller has its name, its pods the image, and nothing else is left.
fn updated(fleet: &Fleet, image: &str, asked: &Asked) -> Result<(), String> {
    fleet.world(|w| {
        let ended = w.updates.get(&web()).and_then(|u| u.value.ended);
        if ended.map(|e| e.how) != Some(UpdateOutcome::Updated) {
            return Err(format!("the update is {:?}", w.updates.get(&web())));
        }
        let images: Vec<String> = w.pods.values().map(|p| p.spec().containers[0].image.clone()).collect();
        let all = images.iter().all(|i| i == image) && w.controllers.len() == 1;
        all.then_some(())
            .ok_or_else(|| format!("{} controllers, {images:?}", w.controllers.len()))
    })?;
    fleet.converged(asked)
}

/// Updates until one went through without meeting its commit.
async fn every_commit(side: Side) {
    let (mut fleet, asked) = fleet().await;
    let mut crashes = 0;
    for commit in 1..MOST {
        let image = format!("web:{commit}");
        let mut admin = fleet.admin();
        let to = image.clone();
        let asking = async move { admin.update("web", &to).await };
        let met = meet(&mut fleet, (commit, side), "the update", asking, |f| {
            updated(f, &image, &asked)
        })
        .await;
        crashes += u32::from(met == Met::Commit);
        if met == Met::Nothing {
            println!("{crashes} commits of an update");
            assert!(crashes > 8, "an update of three pods is made of more: {crashes}");
            assert_eq!(fleet.fewest("web", 3).await, 3, "one was missed");
            assert_eq!(fleet.crimes().await, Vec::<String>::new());
            return;
        }
    }
    panic!("an update is made of fewer than {MOST} commits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_ends_the_same_whatever_commit_the_coordinator_ends_before() {
    every_commit(Side::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_ends_the_same_whatever_commit_the_coordinator_ends_after() {
    every_commit(Side::After).await;
}
