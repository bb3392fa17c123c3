//! The cluster secret under a passphrase, as a backup may carry it. Called by [`crate::backup`].
//!
//! ```text
//! form (1) · Argon2id: memory in KiB u32, passes u32, lanes u32 · salt (16) · nonce (12) · AES-256-GCM of K (48)
//! ```
//!
//! Invariant: K is in the clear in this module's memory only; what derives the key stands beside it and is part of what
//! the seal covers, so that nothing of it can be changed.

use argon2::{Algorithm, Argon2, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::{ClusterKey, SecretError, random};

/// Fewer characters are guessed too soon.
pub const SHORTEST: usize = 12;
const FORM: u8 = 1;
const SALT: usize = 16;
/// Form, three numbers, salt.
const HEAD: usize = 1 + 12 + SALT;
const PURPOSE: &[u8] = b"wharfinger v1 backup of the cluster key";

/// How hard a guess is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// KiB.
    pub memory: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for Cost {
    /// RFC 9106, section 4: the second recommended option.
    fn default() -> Self {
        Self {
            memory: 64 << 10,
            passes: 3,
            lanes: 4,
        }
    }
}

impl Cost {
    /// What a file may ask of the host that reads it.
    fn bearable(self) -> bool {
        (8..=1 << 20).contains(&self.memory) && (1..=64).contains(&self.passes) && (1..=16).contains(&self.lanes)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    #[error("the passphrase is too short: at least {SHORTEST} characters")]
    Short,
    #[error("the passphrase is not the one that the backup's keys were sealed under")]
    Wrong,
    #[error("the backup's keys are not in a form that this release knows")]
    Malformed,
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl ClusterKey {
    /// Under a passphrase, bound to the cluster. Takes a while on purpose: not for an async task.
    pub fn lock(&self, cluster: &str, passphrase: &str, cost: Cost) -> Result<Vec<u8>, PassphraseError> {
        if passphrase.chars().count() < SHORTEST {
            return Err(PassphraseError::Short);
        }
        let mut out = vec![FORM];
        for number in [cost.memory, cost.passes, cost.lanes] {
            out.extend(number.to_be_bytes());
        }
        let salt: [u8; SALT] = random()?;
        out.extend(salt);
        let key = derive(passphrase, &salt, cost)?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut text = self.0.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(covered(cluster, &out)),
            &mut text,
        )
        .map_err(|_| PassphraseError::Malformed)?;
        out.extend(nonce);
        out.extend(text);
        Ok(out)
    }

    /// Opens what [`Self::lock`] made. As slow.
    pub fn unlock(cluster: &str, passphrase: &str, sealed: &[u8]) -> Result<Self, PassphraseError> {
        let malformed = PassphraseError::Malformed;
        let (head, rest) = sealed.split_at_checked(HEAD).ok_or(malformed)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or(malformed)?;
        if head.first() != Some(&FORM) {
            return Err(malformed);
        }
        let number = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?)) };
        let cost = Cost {
            memory: number(1).ok_or(malformed)?,
            passes: number(5).ok_or(malformed)?,
            lanes: number(9).ok_or(malformed)?,
        };
        if !cost.bearable() {
            return Err(malformed);
        }
        let salt = head.get(13..).ok_or(malformed)?;
        let key = derive(passphrase, salt, cost)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| malformed)?;
        let mut text = text.to_vec();
        let plain = key
            .open_in_place(nonce, Aad::from(covered(cluster, head)), &mut text)
            .map_err(|_| PassphraseError::Wrong)?;
        Ok(Self::from_bytes(plain)?)
    }
}

fn covered(cluster: &str, head: &[u8]) -> Vec<u8> {
    [PURPOSE, cluster.as_bytes(), head].concat()
}

fn derive(passphrase: &str, salt: &[u8], cost: Cost) -> Result<LessSafeKey, PassphraseError> {
    let malformed = |_| PassphraseError::Malformed;
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).map_err(malformed)?;
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut key)
        .map_err(malformed)?;
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| PassphraseError::Malformed)?;
    Ok(LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Cost = Cost {
        memory: 8,
        passes: 1,
        lanes: 1,
    };

    #[test]
    fn only_the_same_passphrase_and_cluster_open_it_and_no_byte_may_change() {
        let key = ClusterKey::generate().expect("random");
        let words = "correct horse battery";
        let sealed = key.lock("c1", words, QUICK).expect("locks");
        assert!(!sealed.windows(32).any(|w| w == key.0));
        let opened = ClusterKey::unlock("c1", words, &sealed).expect("opens");
        assert_eq!(opened.0, key.0);
        let refused = |cluster: &str, words: &str, sealed: &[u8]| ClusterKey::unlock(cluster, words, sealed).err();
        assert_eq!(
            refused("c1", "correct horse batterx", &sealed),
            Some(PassphraseError::Wrong)
        );
        assert_eq!(refused("c2", words, &sealed), Some(PassphraseError::Wrong));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            // The low bits only: a cost that would hold the test up is refused by another test.
            changed[at] ^= 1;
            assert!(refused("c1", words, &changed).is_some(), "byte {at}");
            assert!(refused("c1", words, &sealed[..at]).is_some(), "cut at {at}");
        }
        assert_ne!(
            sealed,
            key.lock("c1", words, QUICK).expect("locks"),
            "no salt is used twice"
        );
        assert_eq!(key.lock("c1", "short", QUICK), Err(PassphraseError::Short));
    }

    #[test]
    fn a_file_cannot_ask_for_more_than_a_host_bears() {
        for cost in [
            Cost {
                memory: u32::MAX,
                ..QUICK
            },
            Cost { passes: 1000, ..QUICK },
            Cost { lanes: 0, ..QUICK },
        ] {
            assert!(!cost.bearable(), "{cost:?}");
        }
        assert!(Cost::default().bearable() && QUICK.bearable());
    }
}
