//! Pulls from a registry on this machine, by an agent without its session on the machine's real engine: passwords,
//! sharing, progress, and a registry that stops in the middle.

mod support;

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use agent::runtime::{Runtime as _, RuntimeError, docker::DockerSettings};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{
    Bed,
    registry::{Pace, Registry},
    rig::Rig,
    try_docker, until,
};

/// Characters that the two forms of base64 write differently, at every place of a triple.
const PASSWORD: &str = "canary~?>~~??>>x~y?z>";

/// An image that goes with the test.
struct Pulled(String);

impl Drop for Pulled {
    fn drop(&mut self) {
        try_docker("", &["image", "rm", "-f", &self.0]);
    }
}

fn pod(image: &str) -> Value {
    json!({"containers": [{"name": "c", "image": image, "args": ["exec sleep 1000"]}]})
}

fn config(dir: &tempfile::TempDir, json: &Value) -> PathBuf {
    let path = dir.path().join("config.json");
    fs::write(&path, json.to_string()).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    path
}

fn auths(registry: &Registry, login: &str) -> Value {
    json!({"auths": {&registry.address: {"auth": STANDARD.encode(login)}}})
}

#[tokio::test]
async fn a_private_image_needs_the_right_password() {
    let dir = tempfile::tempdir().expect("a directory");
    let login = format!("user:{PASSWORD}");
    let registry = Registry::start(Some(&login), Pace::AtOnce);
    let image = Pulled(registry.image("private"));
    let settings = DockerSettings {
        docker_config: dir.path().join("config.json"),
        ..DockerSettings::default()
    };
    let bed = Bed::on("", settings);
    let refused = async |what: &str| {
        let Err(RuntimeError::Refused(words)) = bed.docker.pull(&image.0).await else {
            panic!("{what}: not refused");
        };
        assert!(!words.contains(PASSWORD) && !words.contains('\n'), "{words}");
        words
    };
    let words = refused("no file").await;
    assert!(
        words.contains("no basic auth credentials") || words.contains("unauthorized"),
        "{words}"
    );
    config(&dir, &auths(&registry, "user:wrong"));
    refused("a wrong password").await;
    // The file is read anew for each pull.
    let path = config(&dir, &auths(&registry, &login));
    assert_eq!(bed.docker.pull(&image.0).await, Ok(()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("set");
    let words = refused("a file that anyone can write").await;
    assert!(
        words.contains("no basic auth") && words.contains("chmod go-w"),
        "{words}"
    );
    // It hinders no pull that needs none of it.
    let open = Registry::start(None, Pace::AtOnce);
    let public = Pulled(open.image("public"));
    assert_eq!(bed.docker.pull(&public.0).await, Ok(()));
    // Each place of the difficult characters, whatever comes before them.
    for n in 1..4 {
        let login = format!("{}:{PASSWORD}", "u".repeat(n));
        let registry = Registry::start(Some(&login), Pace::AtOnce);
        let image = Pulled(registry.image("private"));
        config(&dir, &auths(&registry, &login));
        assert_eq!(bed.docker.pull(&image.0).await, Ok(()), "{n}");
    }
}

#[tokio::test]
async fn pods_share_one_pull_and_tell_how_far_it_is() {
    let registry = Registry::start(None, Pace::Parts(30, Duration::from_millis(80)));
    let (alone, image) = (Pulled(registry.image("alone")), Pulled(registry.image("shared")));
    let rig = Rig::start().await;
    // What one pull asks for.
    rig.bed.docker.pull(&alone.0).await.expect("pulled");
    let (manifests, blobs) = (registry.given("alone/manifests"), registry.given("alone/blobs"));
    assert!(manifests > 0 && blobs == 2, "{manifests} manifests, {blobs} blobs");

    let mut uids = Vec::new();
    for _ in 0..5 {
        uids.push(rig.run(&pod(&image.0)).await);
    }
    let mut told = BTreeSet::new();
    until("all are ready", async || {
        let (reason, message) = rig.waiting(&uids[0], "c");
        if reason == "ContainerCreating" {
            told.insert(message);
        }
        uids.iter()
            .all(|u| rig.status(u).is_some_and(|s| s.ready()))
            .then_some(())
    })
    .await;
    assert_eq!(
        (registry.given("shared/manifests"), registry.given("shared/blobs")),
        (manifests, blobs)
    );
    let begun = format!("pulling {}: ", image.0);
    let far: Vec<_> = told
        .iter()
        .filter(|m| m.starts_with(&begun) && m.ends_with(" kB"))
        .collect();
    assert!(far.len() >= 3, "{told:?}");
}

#[tokio::test]
async fn a_layer_that_stops_in_the_middle_fails_the_pull_and_heals() {
    let stops = Registry::start(None, Pace::Stops);
    let slow = Registry::start(None, Pace::Parts(20, Duration::from_millis(150)));
    let (image, slow) = (stops.image("stops"), Pulled(slow.image("slow")));
    let settings = DockerSettings {
        pull_inactivity: Duration::from_millis(1500),
        ..DockerSettings::default()
    };
    let rig = Rig::with(settings).await;
    let uid = rig.run(&pod(&image)).await;
    let (reason, message) = until("the pull has failed", async || {
        Some(rig.waiting(&uid, "c")).filter(|(reason, _)| reason.contains("ImagePull"))
    })
    .await;
    assert!(
        message.contains("stood still for 1s 500ms") && message.contains(&image),
        "{reason}: {message}"
    );
    // Slow is not still: the limit is on silence, not on the whole.
    let uid = rig.run(&pod(&slow.0)).await;
    rig.ready(&uid).await;
}
