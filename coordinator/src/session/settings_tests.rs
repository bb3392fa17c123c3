//! What agents are told of the cluster's settings.

use proto::wire::down;

use super::testing::{Rig, hello};
use crate::{
    store::keys,
    world::record::{SettingsRecord, encode},
};

#[tokio::test]
async fn a_setting_is_told_at_the_beginning_and_when_it_changes() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let set = async |value: Option<&str>| {
        let given = value.map(|v| ("ready-after".to_owned(), v.to_owned()));
        let record: SettingsRecord = given.into_iter().collect();
        rig.base.put(keys::SETTINGS.to_owned(), encode(&record)).await;
    };
    let mut agent = rig.connect("n1", hello()).await;
    let told = agent.welcome().await.settings.expect("told");
    assert_eq!(told.ready_after_ms, None, "nobody set it");
    agent.assignments().await;
    for (value, ms) in [(Some("0s"), Some(0)), (Some("7s"), Some(7_000)), (None, None)] {
        set(value).await;
        let settings = loop {
            match agent.next().await.expect("open").expect("a message") {
                down::Message::Settings(settings) => break settings,
                down::Message::Ack(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(settings.ready_after_ms, ms);
    }
    set(Some("3s")).await;
    let mut other = rig.connect("n1", agent.ledger.hello()).await;
    let told = other.welcome().await.settings.expect("told");
    assert_eq!(told.ready_after_ms, Some(3_000));
}
