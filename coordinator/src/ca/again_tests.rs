//! A host that comes back under its node's record, and hosts that may not join: the name, the machine, the release.

use super::{deleted::holder, *};
use crate::world::record::{HolderRecord, encode};

async fn token_for(bed: &Bed, node: &str) -> (String, String) {
    let only = TokenSpec {
        node: node.into(),
        ..spec(1)
    };
    bed.token(&only).await
}

async fn node(bed: &Bed, name: &str) -> Node {
    let key = keys::object(Kind::Node, "", name);
    let entry = bed.store.get(&key).await.expect("get").expect("a node");
    serde_json::from_slice(&entry.value).expect("a node")
}

#[tokio::test]
async fn a_token_for_a_node_that_exists_gives_it_a_new_identity_in_one_commit() {
    let bed = bed().await;
    let old = bed.joined(&Host::new("n1")).await;
    let before = node(&bed, "n1").await;
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let holds = Change::put(keys::holds("n1"), Expect::Absent, "{}");
    let known = Change::put(keys::holder("n1"), Expect::Any, "{\"holder\":{\"epoch\":57}}");
    bed.ca.commit(&fence, vec![holds, known]).await.expect("commit");
    let old_caller = bed.ca.authenticate(&leaf(&old)).await.expect("valid");
    let renewed = bed.ca.renew(&old_caller, &Host::new("n1").csr()).await.expect("renews");

    let (id, token) = token_for(&bed, "n1").await;
    let newest = bed.store.newest();
    let host = Host::new("n1");
    let new = bed
        .join(&host, &token)
        .await
        .expect("comes back")
        .issued
        .expect("issued");
    assert_eq!(bed.store.newest().revision(), newest.revision() + 1, "one commit");
    assert_eq!(node(&bed, "n1").await, before, "uid, labels and age stay");
    assert_eq!(bed.keys("holds/").await.len(), 1);
    assert_eq!(holder(&bed).await, HolderRecord::vacant(1, true));
    assert_eq!(bed.used(&id).await, 1);
    // Whatever the old host holds opens nothing, open streams included.
    for issued in [&old, &renewed] {
        let denied = bed.ca.authenticate(&leaf(issued)).await.expect_err("revoked");
        assert_eq!(denied.kind, DeniedKind::Superseded);
    }
    assert_eq!(
        bed.ca.still_valid(&old_caller).expect_err("ended").kind,
        DeniedKind::Superseded
    );
    let status = bed
        .ca
        .renew(&old_caller, &Host::new("n1").csr())
        .await
        .expect_err("revoked");
    assert_eq!(status.code(), Code::Unauthenticated);
    let caller = bed.ca.authenticate(&leaf(&new)).await.expect("valid");
    assert_eq!((caller.to_string(), caller.generation), ("agent/n1".into(), 1));
    // The generation is the identity's, not the certificate's.
    let next = bed.ca.renew(&caller, &Host::new("n1").csr()).await.expect("renews");
    assert_eq!(bed.ca.authenticate(&leaf(&next)).await.expect("valid").generation, 1);

    // Spent, it does nothing more, and a lost answer costs nothing.
    let again = bed.join(&Host::new("n1"), &token).await.expect_err("spent");
    assert_eq!(again, JoinError::Refused);
    let (id, token) = token_for(&bed, "n1").await;
    let third = Host::new("n1");
    bed.join(&third, &token).await.expect("comes back");
    bed.join(&third, &token).await.expect("the same answer again");
    assert_eq!((bed.used(&id).await, holder(&bed).await.holder.generation), (1, 2));
}

#[tokio::test]
async fn a_host_that_comes_back_as_another_machine_has_the_labels_of_that() {
    let bed = bed().await;
    bed.joined(&Host::new("n1")).await;
    let mut before = node(&bed, "n1").await;
    before.metadata.labels.insert("rack".into(), "r7".into());
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let relabelled = Change::put(keys::object(Kind::Node, "", "n1"), Expect::Any, encode(&before));
    bed.ca.commit(&fence, vec![relabelled]).await.expect("commit");
    let comes_back = async |arch: &str, os: &str| {
        let (_, token) = token_for(&bed, "n1").await;
        let asks = wire::EnrolRequest {
            architecture: arch.into(),
            operating_system: os.into(),
            ..Host::new("n1").request(&token)
        };
        bed.ca.enrol(&asks).await.expect("comes back");
        node(&bed, "n1").await
    };
    let expected = |own: &[(&str, &str)]| {
        let mut expected = before.clone();
        let labels = &mut expected.metadata.labels;
        labels.retain(|key, _| ["zone", "rack", "kubernetes.io/hostname"].contains(&key.as_str()));
        labels.extend(own.iter().map(|(k, v)| (format!("kubernetes.io/{k}"), (*v).to_owned())));
        expected
    };
    assert_eq!(
        comes_back("arm64", "linux").await,
        expected(&[("arch", "arm64"), ("os", "linux")])
    );
    let last = bed.keys("audit/").await.pop().expect("a record");
    let entry = bed.store.get(&last).await.expect("get").expect("a record");
    let record: audit::AuditRecord = serde_json::from_slice(&entry.value).expect("reads");
    assert_eq!(
        (record.before, record.after),
        (
            Some(serde_json::json!({"kubernetes.io/arch": "amd64"})),
            Some(serde_json::json!({"kubernetes.io/arch": "arm64"}))
        )
    );
    // One that states nothing, as an older agent, or what nobody knows, has none.
    assert_eq!(comes_back("", "").await, expected(&[]));
    assert_eq!(comes_back("amd64", "plan9").await, expected(&[("arch", "amd64")]));
}

#[tokio::test]
async fn without_such_a_token_the_name_is_taken_and_the_refusal_says_what_to_do() {
    let bed = bed().await;
    bed.joined(&Host::new("n1")).await;
    let (id, token) = bed.token(&spec(1)).await;
    let error = bed.join(&Host::new("n1"), &token).await.expect_err("taken");
    assert_eq!(error, JoinError::NameTaken("n1".into()));
    let words = error.to_string();
    for remedy in ["--name", "wharf token create --node n1", "wharf delete node n1"] {
        assert!(words.contains(remedy), "{words}");
    }
    // For another node's name it is no better.
    let (other, for_other) = token_for(&bed, "n2").await;
    let error = bed.join(&Host::new("n1"), &for_other).await.expect_err("another's");
    assert!(matches!(error, JoinError::OtherNode { .. }), "{error}");
    assert_eq!((bed.used(&id).await, bed.used(&other).await), (0, 0));
}

#[tokio::test]
async fn one_machine_is_one_node_unless_all_its_agents_share_it() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(9)).await;
    let asks = |name: &str, machine: &str, shared_host| wire::EnrolRequest {
        machine_id: machine.into(),
        shared_host,
        ..Host::new(name).request(&token)
    };
    let join = async |name: &str, machine: &str, shared| {
        let joined = bed.ca.enrol(&asks(name, machine, shared)).await;
        joined.map(|_| ()).map_err(|e| e.to_string())
    };
    let refused = |other: &str, asked: &str| {
        let words = format!("this machine is node {other:?} already and cannot be node {asked:?} too");
        move |result: Result<(), String>| {
            let error = result.expect_err("refused");
            assert!(error.starts_with(&words) && error.contains("--shared-host"), "{error}");
            assert!(error.contains("systemd-machine-id-setup"), "{error}");
        }
    };
    join("n1", "m1", false).await.expect("the first");
    refused("n1", "n2")(join("n2", "m1", false).await);
    refused("n1", "n2")(join("n2", "m1", true).await);
    join("s1", "m2", true).await.expect("the first");
    join("s2", "m2", true).await.expect("both share");
    refused("s1", "s3")(join("s3", "m2", false).await);
    // An older agent does not say, and nothing clashes with silence.
    join("o1", "", false).await.expect("silent");
    join("o2", "", false).await.expect("silent too");
    assert_eq!(bed.used(&id).await, 5, "a refusal costs nothing");
    // Deleted, it is in nobody's way.
    deleted::delete_node(&bed, "n1").await;
    join("n2", "m1", false).await.expect("the other is gone");
    let long = join("n9", &"m".repeat(300), false).await.expect_err("too long");
    assert!(long.starts_with("machine_id: "), "{long}");
}

#[tokio::test]
async fn a_release_too_far_away_does_not_join() {
    let bed = bed().await;
    let (id, token) = bed.token(&spec(1)).await;
    for version in ["", "99.0.0", "0.1"] {
        let asks = wire::EnrolRequest {
            version: version.into(),
            ..Host::new("n1").request(&token)
        };
        let error = bed.ca.enrol(&asks).await.expect_err("refused");
        assert!(error.to_string().contains(proto::VERSION), "{error}");
        assert_eq!(tonic::Status::from(error).code(), Code::FailedPrecondition);
    }
    assert_eq!(bed.used(&id).await, 0);
}
