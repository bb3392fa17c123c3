//! The period of heartbeats and what is said of those that were heard, over a real gRPC connection.

use std::time::Duration;

use proto::wire::{down, goodbye::Reason};

use super::{
    Settings,
    testing::{Rig, hello},
};
use crate::{store::keys, world::record};

async fn set(rig: &Rig, settings: &[(&str, &str)]) {
    let record: record::SettingsRecord = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    rig.base.put(keys::SETTINGS.to_owned(), record::encode(&record)).await;
}

#[tokio::test]
async fn another_period_reaches_open_sessions() {
    let rig = Rig::new().await;
    rig.base.node("n1").await;
    let mut agent = rig.join("n1", hello()).await;
    rig.base.until_ready("n1", "AgentReady").await;
    set(&rig, &[("heartbeat", "500ms")]).await;
    let goodbye = agent.goodbye().await;
    assert_eq!(goodbye.reason(), Reason::Resync, "{}", goodbye.message);
    let mut agent = rig.connect("n1", hello()).await;
    assert_eq!(agent.welcome().await.heartbeat_ms, 500);
    agent.assignments().await;
    // Another setting is no reason to begin anew.
    set(&rig, &[("heartbeat", "500ms"), ("brake-share", "20")]).await;
    rig.base.pod("a", "n1").await;
    assert_eq!(agent.assignments().await.run.len(), 1);
}

#[tokio::test]
async fn an_agent_is_told_which_heartbeat_was_heard() {
    let rig = Rig::with(Settings {
        max_silence: Duration::from_millis(30),
        ..Settings::default()
    })
    .await;
    rig.base.node("n1").await;
    let mut agent = rig.join("n1", hello()).await;
    agent.ack(0).await;
    agent.heartbeat().await;
    let heard = async { while !matches!(agent.next().await, Ok(Some(down::Message::Ack(a))) if a.heard == 1) {} };
    tokio::time::timeout(Duration::from_secs(30), heard)
        .await
        .expect("heard");
}
