//! The intermediates on record, one a coordinator, and which of them signed a certificate. Read by [`super::certs`].
//!
//! A chain that verifies to the root says that its intermediate was the cluster's once. Only the record says that it is
//! so still: it goes with its coordinator.
//!
//! Invariant: what is remembered of a certificate is who signed it, which never changes; whether that one is on record
//! is asked each time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use proto::{
    identity::{IdentityError, spki_sha256},
    ids::hex,
};
use ring::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::issue::Issuer;
use crate::store::{Change, Expect, keys};

/// Value of `issuer/<coordinator>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRecord {
    /// SHA-256 of the intermediate's public key, hex: what names it.
    pub key: String,
    /// PEM of the intermediate.
    pub certificate: String,
}

impl IssuerRecord {
    /// That of this intermediate. Errors: it is no certificate.
    pub fn of(issuer: &Issuer) -> Result<Self, IdentityError> {
        Ok(Self {
            key: hex(&spki_sha256(&issuer.intermediate)?),
            certificate: issuer.intermediate_pem().to_owned(),
        })
    }

    pub fn change(&self, coordinator: &str, expect: Expect) -> Change {
        // A struct of strings always serializes.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Change::put(keys::issuer(coordinator), expect, json)
    }

    fn signed(&self, leaf: &[u8]) -> bool {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).is_ok_and(|issuer| signed(leaf, &issuer))
    }
}

/// Whether `issuer`'s key, ECDSA P-256 as all of ours, signed the certificate `leaf`. Both in DER.
pub fn signed(leaf: &[u8], issuer: &[u8]) -> bool {
    let (Ok((_, leaf)), Ok((_, issuer))) = (
        x509_parser::parse_x509_certificate(leaf),
        x509_parser::parse_x509_certificate(issuer),
    ) else {
        return false;
    };
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &issuer.public_key().subject_public_key.data);
    key.verify(leaf.tbs_certificate.as_ref(), &leaf.signature_value.data)
        .is_ok()
}

/// Certificates whose signer is remembered; the memory is emptied when it is full.
const REMEMBERED: usize = 4096;

/// Which intermediate signed a certificate, by the certificate's SHA-256: a signature is checked once, not at each call.
#[derive(Default)]
pub struct Signers(Mutex<HashMap<[u8; 32], String>>);

impl Signers {
    /// [`IssuerRecord::key`] of the one among `issuers` that signed; empty: none of them.
    pub fn find<'a>(&self, leaf: &[u8], mut issuers: impl Iterator<Item = &'a IssuerRecord>) -> String {
        let Ok(hash) = <[u8; 32]>::try_from(digest(&SHA256, leaf).as_ref()) else {
            return String::new();
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = known.get(&hash) {
            return key.clone();
        }
        let Some(issuer) = issuers.find(|issuer| issuer.signed(leaf)) else {
            // Not remembered: it may be that of a coordinator that joins next.
            return String::new();
        };
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(hash, issuer.key.clone());
        issuer.key.clone()
    }
}

#[cfg(test)]
mod tests {
    use proto::identity::Role;

    use super::*;
    use crate::ca::issue::{new_intermediate, new_root};

    const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn only_the_key_that_signed_is_found() {
        let root = new_root(CLUSTER, NOW).expect("root");
        let make = |name: &str| {
            let one = new_intermediate(&root, name, NOW).expect("intermediate");
            let chain = format!("{}{}", one.pem, root.pem);
            let issuer = Issuer::new(CLUSTER, &chain, &one.key.serialize_pem()).expect("issuer");
            let key = hex(&spki_sha256(&issuer.intermediate).expect("key"));
            let record = IssuerRecord {
                key,
                certificate: one.pem,
            };
            (issuer, record)
        };
        // One name for both: nothing but the key tells them apart.
        let ((first, a), (second, b)) = (make("c1"), make("c1"));
        let leaf = |issuer: &Issuer| {
            let key = rcgen::KeyPair::generate().expect("key");
            issuer
                .issue_for(&key, Role::User, "admin", 1000, NOW)
                .expect("leaf")
                .der
        };
        let (one, two) = (leaf(&first), leaf(&second));
        let signers = Signers::default();
        assert_eq!(signers.find(&one, [&b].into_iter()), "");
        assert_eq!(
            signers.find(&one, [&b, &a].into_iter()),
            a.key,
            "a miss is not remembered"
        );
        assert_eq!(signers.find(&two, [&b, &a].into_iter()), b.key);
        // What signed does not change; whether it is on record is asked elsewhere.
        assert_eq!(signers.find(&one, [].into_iter()), a.key);
        assert_eq!(signers.find(b"garbage", [&a].into_iter()), "");
        let broken = IssuerRecord {
            certificate: "x".into(),
            ..a
        };
        assert_eq!(signers.find(&leaf(&first), [&broken].into_iter()), "");
    }
}
