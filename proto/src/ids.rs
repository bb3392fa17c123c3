//! Uids, pod name suffixes, container names and Docker labels. Used by planners (which hand in their seed),
//! the coordinator's api and the agent.
//!
//! Invariant: a container's name is a pure function of (container, pod, namespace, uid, attempt), so that a
//! second create of the same attempt is a name conflict and never a second container.

use std::fmt::Write as _;

/// Docker labels; fixed in design: what users and other tools select by.
pub mod label {
    pub const CLUSTER: &str = "io.wharfinger.cluster";
    pub const INCARNATION: &str = "io.wharfinger.incarnation";
    pub const NODE: &str = "io.wharfinger.node";
    pub const NAMESPACE: &str = "io.wharfinger.namespace";
    pub const POD: &str = "io.wharfinger.pod";
    pub const UID: &str = "io.wharfinger.uid";
    pub const CONTAINER: &str = "io.wharfinger.container";
    pub const ATTEMPT: &str = "io.wharfinger.attempt";
    pub const SPEC_HASH: &str = "io.wharfinger.spec-hash";
}

/// Name of the container that holds a pod's shared network namespace.
pub const SANDBOX: &str = "POD";

/// `wharf_<container>_<pod>_<namespace>_<uid8>_<attempt>`; `container` is [`SANDBOX`] for a sandbox.
pub fn container_name(container: &str, pod: &str, namespace: &str, uid: &str, attempt: u32) -> String {
    format!("wharf_{container}_{pod}_{namespace}_{}_{attempt}", short_uid(uid))
}

/// First eight hex digits of the random part of a uid.
pub fn short_uid(uid: &str) -> &str {
    uid.get(..8).unwrap_or(uid)
}

/// Random uids and names from one seed, for planners: the same seed gives the same ids.
#[derive(Clone, Debug)]
pub struct IdGen(u64);

/// Letters of Kubernetes' name suffixes: no vowels, so that no words appear, and no digits that look like
/// letters.
const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

impl IdGen {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): every seed is good, one word of state.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A version 4 UUID.
    pub fn uid(&mut self) -> String {
        let bits = (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64());
        uuid::Builder::from_u128(bits)
            .with_version(uuid::Version::Random)
            .with_variant(uuid::Variant::RFC4122)
            .into_uuid()
            .to_string()
    }

    /// Five characters, as after a controller's name.
    pub fn suffix(&mut self) -> String {
        let mut word = self.next_u64();
        (0..5)
            .map(|_| {
                let c = LETTERS[usize::try_from(word % 27).unwrap_or(0)];
                word /= 27;
                char::from(c)
            })
            .collect()
    }
}

/// First 16 hex digits of SHA-256; names immutable content such as a pod template.
pub fn content_hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    hex(&digest.as_ref()[..8])
}

/// As [`content_hash`], of 32 hex digits: what a rolling update adds to a controller's name.
pub fn long_hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    hex(&digest.as_ref()[..16])
}

/// A uid for what has none of its own because it is derived from another object: the same for life, and no other
/// object's. A version 8 UUID.
pub fn derived_uid(what: &str, of: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, format!("{what}/{of}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_a_function_of_the_seed() {
        let (mut a, mut b) = (IdGen::new(7), IdGen::new(7));
        let uid = a.uid();
        assert_eq!(uid, b.uid());
        assert_eq!(uid.len(), 36);
        assert_eq!(uuid::Uuid::parse_str(&uid).map(|u| u.get_version_num()), Ok(4));
        assert_eq!(a.suffix(), b.suffix());
        assert_ne!(IdGen::new(8).uid(), uid);
        assert_eq!(a.suffix().len(), 5);
    }

    #[test]
    fn a_derived_uid_is_its_own() {
        let uid = derived_uid("endpoints", "u1");
        assert_eq!(uid, derived_uid("endpoints", "u1"));
        assert_ne!(uid, derived_uid("endpoints", "u2"));
        assert_ne!(uid, derived_uid("other", "u1"));
        assert_eq!(uuid::Uuid::parse_str(&uid).map(|u| u.get_version_num()), Ok(8));
    }

    #[test]
    fn container_names() {
        assert_eq!(
            container_name("app", "web-x2k4p", "default", "0123456789ab", 3),
            "wharf_app_web-x2k4p_default_01234567_3"
        );
    }
}
