//! The cluster secret K and what derives from it: the seal of the root key and the pepper of the tokens.
//! Called by `init`, `join` and [`super::Authority`].
//!
//! Invariant: K never leaves this module but into `D/cluster.key` (0600), to a coordinator that joins, over a
//! connection that it pinned, and, sealed under a passphrase ([`passphrase`]), into a backup; nothing here implements
//! Debug; what is opened is wiped when it is dropped.

pub mod passphrase;

use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use zeroize::{Zeroize as _, Zeroizing};

/// Purposes of derived keys; a new purpose gets a new text, never a reused one.
const SEAL: &[u8] = b"wharfinger v1 root key seal";
const PEPPER: &[u8] = b"wharfinger v1 token pepper";

#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
pub enum SecretError {
    #[error("the system gives no random numbers")]
    Random,
    #[error("does not belong to this cluster (it cannot open the sealed root key); put back the cluster's own file")]
    Foreign,
    #[error("is not a cluster key (32 bytes); put back the cluster's own file")]
    Malformed,
}

/// Random bytes of the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

pub struct ClusterKey([u8; 32]);

impl Drop for ClusterKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ClusterKey {
    pub fn generate() -> Result<Self, SecretError> {
        Ok(Self(random()?))
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        Ok(Self(bytes.try_into().map_err(|_| SecretError::Malformed)?))
    }

    /// For a coordinator that joins.
    pub fn reveal(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Writes `cluster.key`.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        proto::files::write_private(path, &self.0)
    }

    fn derive(&self, cluster: &str, purpose: &[u8]) -> Result<[u8; 32], SecretError> {
        let mut key = [0; 32];
        Salt::new(HKDF_SHA256, cluster.as_bytes())
            .extract(&self.0)
            .expand(&[purpose], HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut key))
            .map_err(|_| SecretError::Malformed)?;
        Ok(key)
    }

    fn sealing_key(&self, cluster: &str) -> Result<LessSafeKey, SecretError> {
        let key = self.derive(cluster, SEAL)?;
        Ok(LessSafeKey::new(
            UnboundKey::new(&AES_256_GCM, &key).map_err(|_| SecretError::Malformed)?,
        ))
    }

    /// Base64 of nonce and AES-256-GCM text, bound to the cluster.
    pub fn seal(&self, cluster: &str, plain: &[u8]) -> Result<String, SecretError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = plain.to_vec();
        self.sealing_key(cluster)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(cluster.as_bytes()),
                &mut sealed,
            )
            .map_err(|_| SecretError::Malformed)?;
        Ok(STANDARD.encode([&nonce[..], &sealed].concat()))
    }

    /// Opens what [`Self::seal`] made under the same K and cluster.
    pub fn open(&self, cluster: &str, sealed: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let bytes = STANDARD.decode(sealed).map_err(|_| SecretError::Foreign)?;
        let (nonce, text) = bytes.split_at_checked(NONCE_LEN).ok_or(SecretError::Foreign)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Foreign)?;
        let mut text = Zeroizing::new(text.to_vec());
        let plain = self
            .sealing_key(cluster)?
            .open_in_place(nonce, Aad::from(cluster.as_bytes()), &mut text)
            .map_err(|_| SecretError::Foreign)?;
        Ok(Zeroizing::new(plain.to_vec()))
    }

    /// Key of the tokens' HMAC.
    pub fn pepper(&self, cluster: &str) -> Result<hmac::Key, SecretError> {
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &self.derive(cluster, PEPPER)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_cluster_open_a_seal() {
        let key = ClusterKey::generate().expect("random");
        let sealed = key.seal("c1", b"root").expect("seal");
        assert_eq!(key.open("c1", &sealed).expect("opens").as_slice(), b"root");
        assert_eq!(key.open("c2", &sealed), Err(SecretError::Foreign));
        let other = ClusterKey::generate().expect("random");
        assert_eq!(other.open("c1", &sealed), Err(SecretError::Foreign));
        assert_eq!(key.open("c1", ""), Err(SecretError::Foreign));
        assert_eq!(key.open("c1", "%"), Err(SecretError::Foreign));
        let copy = ClusterKey::from_bytes(&key.reveal()).expect("a key");
        assert_eq!(copy.open("c1", &sealed).expect("opens").as_slice(), b"root");
        assert_ne!(
            sealed,
            key.seal("c1", b"root").expect("seal"),
            "a nonce is never used twice"
        );
        assert!(ClusterKey::from_bytes(b"short").is_err());
    }
}
