//! What the certificates of a deleted and of a doubled node are still good for.

use super::*;
use crate::world::record::{HolderRecord, TombstoneRecord, encode};

/// Who holds the identity of n1.
pub(super) async fn holder(bed: &Bed) -> HolderRecord {
    let entry = bed
        .store
        .get(&keys::holder("n1"))
        .await
        .expect("get")
        .expect("a holder");
    serde_json::from_slice(&entry.value).expect("a record")
}

/// What the api does for `wharf delete node`.
pub(super) async fn delete_node(bed: &Bed, name: &str) {
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let tombstone = TombstoneRecord {
        uid: "u".into(),
        at: proto::model::Time(1),
        forgotten: false,
    };
    let changes = vec![
        Change::delete(keys::object(Kind::Node, "", name), Expect::Any),
        Change::put(keys::tombstone(name), Expect::Any, encode(&tombstone)),
    ];
    bed.ca.commit(&fence, changes).await.expect("commit");
}

#[tokio::test]
async fn a_deleted_nodes_certificates_open_a_session_and_nothing_else() {
    let bed = bed().await;
    let host = Host::new("n1");
    let (_, token) = bed.token(&spec(2)).await;
    let old = bed.join(&host, &token).await.expect("joins").issued.expect("issued");
    let open = bed.ca.authenticate(&leaf(&old)).await.expect("valid");
    assert!(!open.deleted);
    let renewed = bed.ca.renew(&open, &Host::new("n1").csr()).await.expect("renews");
    delete_node(&bed, "n1").await;
    // A stream from before does not go on as if nothing had happened.
    assert_eq!(bed.ca.still_valid(&open).expect_err("ended").kind, DeniedKind::Revoked);
    // Both certificates of it are known for what they are; the first use of the newer one changes nothing.
    for issued in [&old, &renewed] {
        let caller = bed.ca.authenticate(&leaf(issued)).await.expect("known");
        assert!(caller.deleted);
        assert_eq!(bed.ca.still_valid(&caller), Ok(Standing::Deleted));
        let may = |path: &str| {
            let policy = methods::policy_of_method(path);
            authorizer::authorize_method(bed.ca.view(), &caller, policy, path)
        };
        may("/wharfinger.v1.Agent/Session").expect("a session");
        for path in [
            "/wharfinger.v1.Agent/Renew",
            "/wharfinger.v1.Cluster/Info",
            "/grpc.health.v1.Health/Check",
        ] {
            let denied = may(path).expect_err(path);
            assert_eq!(denied.kind, DeniedKind::Forbidden, "{path}");
            assert!(denied.message.contains("its node was deleted"), "{denied}");
        }
        let status = bed
            .ca
            .renew(&caller, &Host::new("n1").csr())
            .await
            .expect_err("deleted");
        assert_eq!(status.code(), Code::PermissionDenied);
    }
    // The enrolment is not answered again: the key would be a node once more, at no use.
    let before = bed.keys("obj/node/").await;
    let again = bed
        .join(&host, &token)
        .await
        .expect("a use of the token is left")
        .issued
        .expect("issued");
    assert_eq!((before.len(), bed.keys("obj/node/").await.len()), (0, 1));
    assert!(bed.keys("tombstone/").await.is_empty());
    let caller = bed.ca.authenticate(&leaf(&again)).await.expect("a new node");
    assert!(!caller.deleted);
    for issued in [&old, &renewed] {
        let denied = bed
            .ca
            .authenticate(&leaf(issued))
            .await
            .expect_err("the old ones open nothing");
        assert_eq!(denied.kind, DeniedKind::Superseded);
    }
}

#[tokio::test]
async fn a_deleted_nodes_name_is_free_and_its_starts_are_not_counted_on() {
    let bed = bed().await;
    let old = bed.joined(&Host::new("n1")).await;
    delete_node(&bed, "n1").await;
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    // A session that was faster than the deletion left its holder behind.
    let stale = Change::put(keys::holder("n1"), Expect::Any, "{\"holder\":{\"epoch\":9}}");
    bed.ca.commit(&fence, vec![stale]).await.expect("commit");
    let new = bed.joined(&Host::new("n1")).await;
    assert_eq!(holder(&bed).await, HolderRecord::vacant(1, true));
    assert_eq!(bed.ca.authenticate(&leaf(&new)).await.expect("valid").generation, 1);
    assert!(bed.ca.authenticate(&leaf(&old)).await.is_err());
}

#[tokio::test]
async fn no_holder_of_a_doubled_identity_renews() {
    let bed = bed().await;
    let issued = bed.joined(&Host::new("n1")).await;
    let caller = bed.ca.authenticate(&leaf(&issued)).await.expect("valid");
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let put = async |value: &'static str| {
        let change = Change::put(keys::holder("n1"), Expect::Any, value);
        bed.ca.commit(&fence, vec![change]).await.expect("commit");
    };
    put("{\"holder\":{\"epoch\":5}}").await;
    bed.ca
        .renew(&caller, &Host::new("n1").csr())
        .await
        .expect("one holder renews");
    put("{\"holder\":{\"epoch\":5},\"rival\":{\"claim\":{\"epoch\":4},\"since\":\"2026-01-01T00:00:00Z\"}}").await;
    let status = bed
        .ca
        .renew(&caller, &Host::new("n1").csr())
        .await
        .expect_err("two do not");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("wharf node readmit n1"), "{status}");
    // Its session goes on: that is how it is heard.
    bed.ca.still_valid(&caller).expect("valid");
}
