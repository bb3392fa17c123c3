//! The identity on disk, `D/identity/identity.json`: one file, so that key and certificate can never be of
//! different renewals. Called by [`super::enrol`], [`super::renew`] and the agent's `run`.
//!
//! Invariant: the file is written whole, with mode 0600; key and certificate in it belong together.

use std::{
    io,
    path::{Path, PathBuf},
};

use proto::{
    credentials::Credentials,
    files::{self, FileError, file_error},
    identity::{Identity as CertIdentity, Role},
    wire,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "{path}: damaged ({what}); put back the undamaged file, or remove the directory and join again with a new token"
    )]
    Damaged { path: String, what: String },
    #[error("no key pair could be made: {0}")]
    Key(#[from] rcgen::Error),
    /// What the coordinator issued is not what was asked for.
    #[error("the coordinator's answer cannot be used: {0}")]
    Answer(String),
}

/// Who this host is, and how to reach its coordinators.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// UUID of the cluster.
    pub cluster: String,
    pub node: String,
    /// Session addresses, HOST:PORT; the session delivers the current list.
    pub coordinators: Vec<String>,
    /// PEM: the roots to trust.
    pub ca: String,
    /// PEM: leaf, then intermediate.
    pub certificate: String,
    /// PEM, PKCS#8.
    key: String,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// Seconds since the Unix epoch from which to renew.
    pub renew_after: u64,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("coordinators", &self.coordinators)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

pub(super) fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("identity")
}

fn file(data_dir: &Path) -> PathBuf {
    directory(data_dir).join("identity.json")
}

/// Key of an enrolment that was not answered yet.
fn key_file(data_dir: &Path) -> PathBuf {
    directory(data_dir).join("enrol-key.pem")
}

fn damaged(path: &Path, what: impl ToString) -> IdentityError {
    IdentityError::Damaged {
        path: path.display().to_string(),
        what: what.to_string(),
    }
}

impl Identity {
    /// The identity on disk; `None` on a host that has not joined.
    pub fn load(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = file(data_dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error(&path, e).into()),
        };
        // The decoder's message may quote what it read: only the place is told.
        let identity: Self = serde_json::from_slice(&bytes)
            .map_err(|e| damaged(&path, format!("line {} column {}", e.line(), e.column())))?;
        let key = KeyPair::from_pem(&identity.key).map_err(|_| damaged(&path, "its key does not parse"))?;
        check(&identity, &key).map_err(|what| damaged(&path, what))?;
        Ok(Some(identity))
    }

    /// Writes the identity, durable on return.
    pub fn save(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = file(data_dir);
        let dir = directory(data_dir);
        files::create_private_dir(&dir).map_err(|e| file_error(&dir, e))?;
        let json = serde_json::to_vec_pretty(self).map_err(|e| file_error(&path, e))?;
        files::write_private(&path, &json).map_err(|e| file_error(&path, e).into())
    }

    /// Removes the identity, and the key of an enrolment that was never answered: the host has not joined any more.
    pub fn forget(data_dir: &Path) -> Result<(), IdentityError> {
        for path in [key_file(data_dir), file(data_dir)] {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(file_error(&path, e).into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Persists the coordinators' list when it changed; an empty list changes nothing.
    pub fn set_coordinators(&mut self, data_dir: &Path, coordinators: &[String]) -> Result<(), IdentityError> {
        if coordinators.is_empty() || coordinators == self.coordinators {
            return Ok(());
        }
        let changed = Self {
            coordinators: coordinators.to_vec(),
            ..self.clone()
        };
        changed.save(data_dir)?;
        *self = changed;
        Ok(())
    }

    /// What a channel to the coordinators is made from.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            coordinators: self.coordinators.clone(),
            cluster: self.cluster.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            namespace: None,
        }
    }

    /// Whether it is time to renew; `now_ms` since the Unix epoch.
    pub fn renewal_due(&self, now_ms: u64) -> bool {
        now_ms / 1000 >= self.renew_after
    }

    /// From an answer, for the key that was asked with. Checks that it is what was asked for.
    pub(super) fn from_issued(
        cluster: &str,
        node: &str,
        coordinators: Vec<String>,
        key: &KeyPair,
        issued: wire::Issued,
    ) -> Result<Self, IdentityError> {
        let identity = Self {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            coordinators,
            ca: issued.ca_pem,
            certificate: issued.certificate_chain_pem,
            key: key.serialize_pem(),
            not_after: issued.not_after,
            renew_after: issued.renew_after,
        };
        check(&identity, key).map_err(IdentityError::Answer)?;
        Ok(identity)
    }
}

/// Key, certificate, name and cluster must belong together, and there must be a root.
fn check(identity: &Identity, key: &KeyPair) -> Result<(), String> {
    let leaf = CertificateDer::from_pem_slice(identity.certificate.as_bytes())
        .map_err(|_| "its certificate does not parse".to_owned())?;
    let named = CertIdentity::of_certificate(&leaf).map_err(|e| e.to_string())?;
    if named.role != Role::Agent || named.id != identity.node || named.cluster != identity.cluster {
        return Err(format!("its certificate names {named}, not agent/{}", identity.node));
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).map_err(|e| e.to_string())?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err("its key and certificate do not belong together".into());
    }
    CertificateDer::from_pem_slice(identity.ca.as_bytes()).map_err(|_| "its root does not parse".to_owned())?;
    Ok(())
}

pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// The key of the enrolment under way: made once and on disk before it is used, so that a repeat after a lost
/// answer is recognized as the same host.
pub(super) fn enrolment_key(data_dir: &Path) -> Result<KeyPair, IdentityError> {
    let path = key_file(data_dir);
    match std::fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|_| damaged(&path, "its key does not parse")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = new_key()?;
            let dir = directory(data_dir);
            files::create_private_dir(&dir).map_err(|e| file_error(&dir, e))?;
            files::write_private(&path, key.serialize_pem().as_bytes()).map_err(|e| file_error(&path, e))?;
            Ok(key)
        }
        Err(e) => Err(file_error(&path, e).into()),
    }
}

/// The identity holds the key now.
pub(super) fn forget_enrolment_key(data_dir: &Path) {
    if let Err(error) = std::fs::remove_file(key_file(data_dir))
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the enrolment's key file could not be removed; it is not used any more");
    }
}

/// A request that carries the public key and a proof of possession; every other field is the coordinator's.
pub(super) fn csr(key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}
