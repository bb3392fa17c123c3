//! Hosts come, many at once; come back with a new disk; leave; and their names are used again.

use std::{sync::Arc, time::Duration};

use agent::{identity::Identity, leave::leave, settings::Settings};
use serde_json::json;
use tokio::task::JoinSet;

use crate::whole::{Guest, Home, is_ready};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_hosts_join_while_controllers_scale_and_none_is_lost() {
    let home = Arc::new(Home::start().await);
    home.create("web", 10).await;
    let token = home.token(50, "").await;
    let mut joining = JoinSet::new();
    for i in 0..50 {
        let (home, token) = (home.clone(), token.clone());
        joining.spawn(async move {
            let name = format!("n{i}");
            let dir = home.dir.path().join(&name);
            let guest = home.guest(&name, &token, &dir).await.expect("joins");
            (name, guest)
        });
    }
    // Meanwhile pods come and go.
    let mut guests: Vec<(String, Guest)> = Vec::new();
    for replicas in [40, 20, 80, 60, 100].into_iter().cycle() {
        home.scale("web", replicas).await;
        match joining.join_next().await {
            Some(joined) => guests.push(joined.expect("no panic")),
            None => break,
        }
    }
    home.scale("web", 100).await;
    let names: Vec<&str> = guests.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 50);
    home.until_ready(&names).await;
    home.until_running(100).await;
    // What is on record runs where it is said to run, and nothing else does.
    home.until("engines as on record", async |home| {
        let on_record = home.running().await;
        for (name, guest) in &guests {
            let mut of: Vec<_> = on_record
                .iter()
                .filter(|(_, n)| n == name)
                .map(|(p, _)| p.clone())
                .collect();
            of.sort();
            if guest.pods() != of {
                return Err(format!("{name} runs {:?}, on record are {of:?}", guest.pods()));
            }
        }
        Ok(())
    })
    .await;
    let nodes = home.items("Node").await;
    assert_eq!((nodes.len(), nodes.iter().filter(|n| is_ready(n)).count()), (50, 50));
    for (_, guest) in &guests {
        assert_eq!(guest.engine.violations(), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_with_a_new_disk_comes_back_under_its_own_record() {
    let home = Home::start().await;
    let old = home.joined("n1").await;
    home.until_ready(&["n1"]).await;
    home.patch("Node", "n1", json!({"metadata": {"labels": {"rack": "r7"}}}))
        .await;
    home.create("web", 3).await;
    home.until_running(3).await;
    let other = home.joined("n2").await;
    home.until_ready(&["n1", "n2"]).await;
    let before = home.node("n1").await;
    let former = home.running().await;
    let started = old.engine.calls(agent::runtime::fake::Op::Start);

    // Without a token for it the name is not to be had.
    let dir = home.dir.path().join("n1-new-disk");
    let any = home.token(1, "").await;
    let error = home.guest("n1", &any, &dir).await.err().expect("taken").to_string();
    assert!(error.contains("wharf token create --node n1"), "{error}");
    // The old agent still runs: this is the worst that can be.
    let token = home.token(1, "n1").await;
    let new = home.guest("n1", &token, &dir).await.expect("comes back");
    home.until("its pods are started anew", async |home| {
        let running = home.running().await;
        let anew = running.iter().all(|(pod, _)| former.iter().all(|(old, _)| old != pod));
        if running.len() == 3 && anew && home.items("Pod").await.len() == 3 {
            Ok(())
        } else {
            Err(format!("{running:?}"))
        }
    })
    .await;
    home.until_ready(&["n1"]).await;
    let after = home.node("n1").await;
    for field in ["uid", "creationTimestamp", "labels"] {
        assert_eq!(after["metadata"][field], before["metadata"][field], "{field}");
    }
    let here = [&new, &other].map(|g| g.pods().len());
    assert_eq!(here.iter().sum::<usize>(), 3, "{here:?}");
    // The old identity is nobody's: its host gets nothing more, whatever is scaled, and ends no session of the new one.
    home.scale("web", 9).await;
    home.until_running(9).await;
    assert_eq!(old.engine.calls(agent::runtime::fake::Op::Start), started);
    let mut old = old.again().await;
    home.scale("web", 12).await;
    home.until_running(12).await;
    assert_eq!(old.engine.calls(agent::runtime::fake::Op::Start), started);
    assert!(is_ready(&home.node("n1").await), "{}", home.node("n1").await);
    old.stop().await;

    // The new one counts its starts from one, and a restart of it is no copy.
    let new = new.again().await;
    home.scale("web", 4).await;
    home.until_running(4).await;
    home.until_ready(&["n1", "n2"]).await;
    drop(new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_choose_hosts_by_the_architecture_that_those_stated_when_they_joined() {
    let home = Home::start().await;
    let joins = async |name: &str, dir: &str, arch: &str, node: &str| {
        let (token, dir) = (home.token(1, node).await, home.dir.path().join(dir));
        home.guest_of(name, &token, &dir, arch).await.expect("joins")
    };
    let _other = joins("n1", "n1", "amd64", "").await;
    let chosen = joins("n2", "n2", "arm64", "").await;
    let _unknown = joins("n3", "n3", "arm64 ", "").await;
    home.until_ready(&["n1", "n2", "n3"]).await;
    let labels = async |name: &str| home.node(name).await["metadata"]["labels"].clone();
    let of = |name: &str, arch: &str| json!({"kubernetes.io/arch": arch, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"});
    assert_eq!(labels("n1").await, of("n1", "amd64"));
    assert_eq!(labels("n2").await, of("n2", "arm64"));
    assert_eq!(
        labels("n3").await,
        json!({"kubernetes.io/hostname": "n3", "kubernetes.io/os": "linux"})
    );
    let on_arm = json!({"kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux"});
    home.create_for("arm", 4, on_arm).await;
    home.until_running(4).await;
    let running = home.running().await;
    assert!(running.iter().all(|(_, node)| node == "n2"), "{running:?}");

    // In its place comes a machine of another kind: nothing is left that these pods can run on, and they say so.
    drop(chosen);
    let _new = joins("n2", "n2-other-machine", "amd64", "n2").await;
    assert_eq!(labels("n2").await, of("n2", "amd64"));
    home.until("its pods wait", async |home| {
        let pods = home.items("Pod").await;
        let why = |p: &serde_json::Value| p["status"]["conditions"].to_string();
        let words = "3 do not match nodeSelector kubernetes.io/arch=arm64";
        if pods.len() == 4 && pods.iter().all(|p| why(p).contains(words)) {
            Ok(())
        } else {
            Err(format!("{:?}", pods.iter().map(why).collect::<Vec<_>>()))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_leaves_once_nothing_is_bound_to_it_and_its_name_is_free() {
    let home = Home::start().await;
    let guest = home.joined("n1").await;
    home.until_ready(&["n1"]).await;
    let uid = home.node("n1").await["metadata"]["uid"].clone();
    home.create("web", 2).await;
    home.until_running(2).await;
    let settings = Settings::default();
    let refused = async |dir: &std::path::Path| {
        let error = leave(dir, false, &settings).await.expect_err("stays").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let error = refused(&guest.dir).await;
    assert!(
        error.contains("stop it first") && error.contains(&std::process::id().to_string()),
        "{error}"
    );
    let mut guest = guest;
    guest.stop().await;
    let error = refused(&guest.dir).await;
    assert!(error.contains("nodes \"n1\": 2 pods are still bound to it"), "{error}");
    assert!(
        Identity::load(&guest.dir).expect("loads").is_some(),
        "nothing was changed"
    );
    // Back at work, it takes leave of its pods first.
    let mut guest = guest.again().await;
    home.until_ready(&["n1"]).await;
    home.delete("ReplicationController", "web").await.expect("deleted");
    home.until_running(0).await;
    guest.stop().await;
    let left = leave(&guest.dir, false, &settings).await.expect("leaves");
    assert!(
        left.text.starts_with("node n1 has left the cluster") && left.warnings.is_empty(),
        "{left:?}"
    );
    assert!(home.items("Node").await.is_empty());
    assert_eq!(Identity::load(&guest.dir).expect("loads"), None);
    let ledger = agent::ledger::load(&guest.dir).expect("loads");
    assert_eq!((ledger.epoch, ledger.fence), (0, None));
    let error = refused(&guest.dir).await;
    assert!(error.contains("has not joined, or has left"), "{error}");

    // The name, the directory and the machine are free for another node.
    let token = home.token(1, "").await;
    let back = home.guest("n1", &token, &guest.dir).await.expect("joins anew");
    home.until_ready(&["n1"]).await;
    assert_ne!(home.node("n1").await["metadata"]["uid"], uid);
    drop(back);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_nodes_name_is_used_again_with_a_new_identity() {
    let home = Home::start().await;
    let mut guest = home.joined("n1").await;
    home.until_ready(&["n1"]).await;
    let uid = home.node("n1").await["metadata"]["uid"].clone();
    guest.stop().await;
    home.delete("Node", "n1").await.expect("deleted");
    let token = home.token(1, "").await;
    let dir = home.dir.path().join("another");
    let another = home.guest("n1", &token, &dir).await.expect("joins");
    home.until_ready(&["n1"]).await;
    assert_ne!(home.node("n1").await["metadata"]["uid"], uid);
    // The former one opens nothing, and its coming back harms nobody.
    let former = guest.again().await;
    home.create("web", 2).await;
    home.until_running(2).await;
    assert_eq!((another.pods().len(), former.pods().len()), (2, 0));
    assert!(is_ready(&home.node("n1").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_coordinator_only_force_leaves_and_says_what_remains() {
    let home = Home::start().await;
    let mut guest = home.joined("n1").await;
    home.until_ready(&["n1"]).await;
    home.create("web", 1).await;
    home.until_running(1).await;
    guest.stop().await;
    home.lose();
    let settings = Settings {
        connect_timeout_ms: 500,
        renew_timeout_ms: 1_000,
        ..Settings::default()
    };
    home.until("nobody listens", async |home| {
        let tried = tokio::time::timeout(Duration::from_secs(1), tokio::net::TcpStream::connect(home.session)).await;
        if matches!(tried, Ok(Ok(_))) {
            Err("connected".into())
        } else {
            Ok(())
        }
    })
    .await;
    let error = leave(&guest.dir, false, &settings)
        .await
        .expect_err("stays")
        .to_string();
    assert!(
        error.contains("nothing was changed") && error.contains("--force"),
        "{error}"
    );
    assert!(Identity::load(&guest.dir).expect("loads").is_some());
    let left = leave(&guest.dir, true, &settings).await.expect("leaves");
    let told = left.warnings.join("\n");
    for words in ["wharf delete node n1", "containers of its pods (1) may still run here"] {
        assert!(told.contains(words), "{told}");
    }
    assert_eq!(Identity::load(&guest.dir).expect("loads"), None);
    assert_eq!(guest.pods().len(), 1, "no container is touched");
}
