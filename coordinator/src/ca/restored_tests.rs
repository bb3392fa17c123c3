//! Certificates issued after the backup was taken from which the registry was restored: they open what they did.

use super::*;
use crate::{
    ca::certs::CertRecord,
    world::{
        record::encode,
        restored::{Former, RestoredRecord},
    },
};

/// What the registry has of a node, as of `record`, and that it was restored.
async fn restore(bed: &Bed, node: &str, record: &CertRecord) {
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let restored = |newest| RestoredRecord {
        from: vec![Former {
            incarnation: "before".into(),
            newest,
        }],
        ..RestoredRecord::default()
    };
    bed.ca
        .commit(&fence, vec![record.change(node, Expect::Any)])
        .await
        .expect("commit");
    let newest = restored(bed.store.newest());
    let change = Change::put(keys::RESTORED, Expect::Any, encode(&newest));
    bed.ca.commit(&fence, vec![change]).await.expect("commit");
}

#[tokio::test]
async fn a_certificate_from_after_the_backup_is_taken_on_record_once() {
    let bed = bed().await;
    let host = Host::new("n1");
    let first = bed.joined(&host).await;
    let (_, backup) = bed.ca.view().cert("n1").expect("on record");
    // Renewed twice after the backup was taken.
    bed.at(NOW + HOUR);
    let caller = bed.ca.authenticate(&leaf(&first)).await.expect("valid");
    let second = bed.ca.renew(&caller, &host.csr()).await.expect("renews");
    bed.at(NOW + 2 * HOUR);
    let caller = bed.ca.authenticate(&leaf(&second)).await.expect("valid");
    let third = bed.ca.renew(&caller, &host.csr()).await.expect("renews");

    restore(&bed, "n1", &backup).await;
    let caller = bed
        .ca
        .authenticate(&leaf(&third))
        .await
        .expect("valid, though not on record");
    assert_eq!(bed.ca.view().cert("n1").expect("on record").1.active, serial(&third));
    assert_eq!(bed.ca.still_valid(&caller), Ok(Standing::Active));
    // From then on the registry is as good as ever: what was before is nobody's.
    for old in [&first, &second] {
        let denied = bed.ca.authenticate(&leaf(old)).await.expect_err("superseded");
        assert_eq!(denied.kind, DeniedKind::Superseded);
    }
    let next = bed.ca.renew(&caller, &host.csr()).await.expect("renews");
    bed.ca.authenticate(&leaf(&next)).await.expect("valid");
}

#[tokio::test]
async fn a_restore_makes_up_for_nothing_else() {
    let bed = bed().await;
    let host = Host::new("n1");
    let first = bed.joined(&host).await;
    bed.at(NOW + HOUR);
    let caller = bed.ca.authenticate(&leaf(&first)).await.expect("valid");
    let second = bed.ca.renew(&caller, &host.csr()).await.expect("renews");
    let (_, record) = bed.ca.view().cert("n1").expect("on record");
    // Replaced before the backup was taken.
    let newer = CertRecord {
        active: "00".into(),
        pending: None,
        not_after: record.not_after + 1,
        ..record.clone()
    };
    restore(&bed, "n1", &newer).await;
    let denied = bed.ca.authenticate(&leaf(&second)).await.expect_err("superseded");
    assert_eq!(denied.kind, DeniedKind::Superseded);
    let revoked = CertRecord {
        active: "00".into(),
        pending: None,
        not_after: 1,
        revoked: Some("gone".into()),
        ..record.clone()
    };
    restore(&bed, "n1", &revoked).await;
    let denied = bed.ca.authenticate(&leaf(&second)).await.expect_err("revoked");
    assert_eq!(denied.kind, DeniedKind::Revoked);
    // Written since the restore: what is not on it is not valid.
    let fence = bed.fence.lock().expect("lock").clone().expect("fence");
    let written = CertRecord {
        revoked: None,
        ..revoked
    };
    bed.ca
        .commit(&fence, vec![written.change("n1", Expect::Any)])
        .await
        .expect("commit");
    let denied = bed.ca.authenticate(&leaf(&second)).await.expect_err("superseded");
    assert_eq!(denied.kind, DeniedKind::Superseded);
}
