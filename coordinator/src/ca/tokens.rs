//! Joining tokens at rest: made, checked, revoked. Called by [`super::service`] (operators) and
//! [`super::enrol`] and [`super::replicas`].
//!
//! Invariant: the store holds an HMAC of a token's secret and never the secret; a token's use is counted in
//! the commit that makes the node, or the coordinator.

use std::collections::BTreeMap;

use proto::{
    identity::Role,
    ids::hex,
    model::labels::{check_dns_subdomain, check_label_key, check_label_value, quoted},
    token::JoinToken,
    wire,
};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{
    labels,
    secret::{SecretError, random},
};
use crate::store::{Change, Expect, keys};

/// Most uses of one token: its record lists the nodes that joined with it and is written at each join.
pub const MAX_USES: u32 = 1000;
pub const DEFAULT_TTL_SECONDS: u64 = 3600;
pub const MAX_TTL_SECONDS: u64 = 365 * 24 * 3600;

/// Value of `token/<id>`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    pub role: String,
    /// HMAC-SHA256 under the pepper, hex.
    mac: String,
    pub max_uses: u32,
    pub used: u32,
    pub created_at_ms: u64,
    pub expires_at_ms: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Only for this node name; empty: any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    pub creator: String,
    #[serde(default)]
    pub revoked: bool,
    #[serde(default)]
    pub joined: Vec<Joined>,
}

/// A node or coordinator that joined with a token, and the key it came with: how a repeat is recognized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    pub node: String,
    /// SHA-256 of the public key, hex.
    pub key: String,
}

impl std::fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRecord")
            .field("role", &self.role)
            .field("used", &self.used)
            .field("max_uses", &self.max_uses)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

/// What to make. Zero means the default for `uses` and `ttl_ms`.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    pub role: Role,
    pub uses: u32,
    pub ttl_ms: u64,
    pub labels: BTreeMap<String, String>,
    pub node: String,
}

/// One line, naming the field.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum TokenSpecError {
    #[error("role: {0} cannot join by token; use \"agent\" or \"coordinator\"")]
    Role(String),
    #[error("{0}: a coordinator has none; leave out --{1}, or make a token of role \"agent\"")]
    NotOfCoordinators(&'static str, &'static str),
    #[error("uses: {0} is more than {MAX_USES}; make several tokens")]
    Uses(u32),
    #[error("ttl: {0} seconds is more than {MAX_TTL_SECONDS} (a year); choose a shorter one")]
    Ttl(u64),
    #[error("labels: {0}")]
    Label(String),
    #[error("labels: {0} is set by the coordinator; leave it out")]
    ReservedLabel(String),
    #[error("node: {0}")]
    Node(String),
    #[error("node: a token for one node name has one use, not {0}; leave out uses or node")]
    NodeUses(u32),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Why a token is refused. For the log only: the caller gets one text for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Unknown,
    WrongSecret,
    WrongRole,
    Revoked,
    Expired,
    Spent,
}

impl TokenSpec {
    pub fn from_request(request: &wire::CreateTokenRequest) -> Result<Self, TokenSpecError> {
        let role = match request.role.as_str() {
            "" => Role::Agent,
            role => Role::parse(role)
                .filter(|role| *role != Role::User)
                .ok_or_else(|| TokenSpecError::Role(quoted(role)))?,
        };
        if request.ttl_seconds > MAX_TTL_SECONDS {
            return Err(TokenSpecError::Ttl(request.ttl_seconds));
        }
        let spec = Self {
            role,
            uses: request.uses,
            ttl_ms: request.ttl_seconds * 1000,
            labels: request.labels.clone().into_iter().collect(),
            node: request.node.clone(),
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), TokenSpecError> {
        if self.uses > MAX_USES {
            return Err(TokenSpecError::Uses(self.uses));
        }
        if self.role == Role::Coordinator {
            // Its name is chosen where it joins, and what it may do is the same for all.
            if !self.labels.is_empty() {
                return Err(TokenSpecError::NotOfCoordinators("labels", "label"));
            }
            if !self.node.is_empty() {
                return Err(TokenSpecError::NotOfCoordinators("node", "node"));
            }
        }
        if self.labels.len() > 64 {
            return Err(TokenSpecError::Label("more than 64; choose fewer".into()));
        }
        for (key, value) in &self.labels {
            check_label_key(key).map_err(TokenSpecError::Label)?;
            check_label_value(value).map_err(|e| TokenSpecError::Label(format!("{key}: {e}")))?;
            if labels::OWN.contains(&key.as_str()) || key.starts_with("wharfinger.io/") {
                return Err(TokenSpecError::ReservedLabel(key.clone()));
            }
        }
        if !self.node.is_empty() {
            check_node_name(&self.node).map_err(TokenSpecError::Node)?;
            if self.uses > 1 {
                return Err(TokenSpecError::NodeUses(self.uses));
            }
        }
        Ok(())
    }
}

/// A node's name is a label's value too (`kubernetes.io/hostname`), hence at most 63 characters.
pub fn check_node_name(name: &str) -> Result<(), String> {
    check_dns_subdomain(name)?;
    if name.len() > 63 {
        return Err(format!("{} must have at most 63 characters", quoted(name)));
    }
    Ok(())
}

/// A new token and its record; the token's text exists only in the answer to its creator.
pub fn create(
    spec: &TokenSpec,
    creator: &str,
    pepper: &hmac::Key,
    root_spki: [u8; 32],
    now_ms: u64,
) -> Result<(JoinToken, TokenRecord), TokenSpecError> {
    spec.check()?;
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let token = JoinToken {
        role: spec.role,
        id: random::<10>()?
            .iter()
            .filter_map(|b| LETTERS.get(usize::from(b % 32)))
            .map(|b| char::from(*b))
            .collect(),
        secret: random()?,
        root_spki,
    };
    let ttl_ms = match spec.ttl_ms {
        0 => DEFAULT_TTL_SECONDS * 1000,
        ms => ms,
    };
    let record = TokenRecord {
        role: spec.role.as_str().to_owned(),
        mac: hex(hmac::sign(pepper, &token.secret).as_ref()),
        max_uses: spec.uses.max(1),
        used: 0,
        created_at_ms: now_ms,
        expires_at_ms: now_ms.saturating_add(ttl_ms),
        labels: spec.labels.clone(),
        node: spec.node.clone(),
        creator: creator.to_owned(),
        revoked: false,
        joined: Vec::new(),
    };
    Ok((token, record))
}

impl TokenRecord {
    pub fn change(&self, id: &str, expect: Expect) -> Change {
        // Strings, numbers and flags always serialize.
        Change::put(keys::token(id), expect, serde_json::to_vec(self).unwrap_or_default())
    }

    /// Whether the presented token is this one, compared in constant time, and not revoked.
    pub fn authenticate(&self, token: &JoinToken, pepper: &hmac::Key) -> Result<(), Refusal> {
        let mac = unhex(&self.mac).ok_or(Refusal::WrongSecret)?;
        hmac::verify(pepper, &token.secret, &mac).map_err(|_| Refusal::WrongSecret)?;
        if self.role != token.role.as_str() {
            return Err(Refusal::WrongRole);
        }
        if self.revoked {
            return Err(Refusal::Revoked);
        }
        Ok(())
    }

    /// Whether one more node may join.
    pub fn admits_one_more(&self, now_ms: u64) -> Result<(), Refusal> {
        if now_ms >= self.expires_at_ms {
            return Err(Refusal::Expired);
        }
        if self.used >= self.max_uses {
            return Err(Refusal::Spent);
        }
        Ok(())
    }

    pub fn to_wire(&self, id: &str) -> wire::Token {
        wire::Token {
            id: id.to_owned(),
            role: self.role.clone(),
            max_uses: self.max_uses,
            used: self.used,
            created_at: self.created_at_ms / 1000,
            expires_at: self.expires_at_ms / 1000,
            labels: self.labels.clone().into_iter().collect(),
            node: self.node.clone(),
            creator: self.creator.clone(),
            revoked: self.revoked,
            nodes: self.joined.iter().map(|j| j.node.clone()).collect(),
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TokenSpec {
        TokenSpec {
            role: Role::Agent,
            uses: 0,
            ttl_ms: 0,
            labels: BTreeMap::new(),
            node: String::new(),
        }
    }

    fn pepper() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[1; 32])
    }

    #[test]
    fn checked_and_never_stored_in_clear() {
        let (token, record) = create(&spec(), "user/admin", &pepper(), [2; 32], 1000).expect("token");
        assert_eq!((record.max_uses, record.expires_at_ms), (1, 1000 + 3_600_000));
        assert_eq!(record.authenticate(&token, &pepper()), Ok(()));
        let mut other = token.clone();
        other.secret[31] ^= 1;
        assert_eq!(record.authenticate(&other, &pepper()), Err(Refusal::WrongSecret));
        let mut other = token.clone();
        other.role = Role::Coordinator;
        assert_eq!(record.authenticate(&other, &pepper()), Err(Refusal::WrongRole));
        let stranger = hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]);
        assert_eq!(record.authenticate(&token, &stranger), Err(Refusal::WrongSecret));
        let revoked = TokenRecord {
            revoked: true,
            ..record.clone()
        };
        assert_eq!(revoked.authenticate(&token, &pepper()), Err(Refusal::Revoked));
        assert_eq!(record.admits_one_more(3_600_999), Ok(()));
        assert_eq!(record.admits_one_more(3_601_000), Err(Refusal::Expired));
        let spent = TokenRecord {
            used: 1,
            ..record.clone()
        };
        assert_eq!(spent.admits_one_more(1000), Err(Refusal::Spent));
        let stored = record.change("x", Expect::Absent).value.expect("a value");
        let stored = String::from_utf8(stored.to_vec()).expect("JSON");
        assert!(!stored.contains(&hex(&token.secret)));
        assert!(!stored.contains(token.reveal().split('.').nth(3).expect("secret")));
        assert!(!format!("{record:?}").contains(&record.mac));
    }

    #[test]
    fn each_bad_field_is_named() {
        let request = |change: fn(&mut wire::CreateTokenRequest)| {
            let mut request = wire::CreateTokenRequest::default();
            change(&mut request);
            TokenSpec::from_request(&request).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(request(|_| ()), Ok(()));
        let named = |field: &str, result: Result<(), String>| {
            let message = result.expect_err("refused");
            assert!(message.starts_with(field), "{message}");
        };
        named("role: \"root\"", request(|r| r.role = "root".into()));
        named("role: \"user\"", request(|r| r.role = "user".into()));
        assert_eq!(request(|r| r.role = "coordinator".into()), Ok(()));
        named(
            "labels: a coordinator",
            request(|r| {
                r.role = "coordinator".into();
                r.labels.insert("zone".into(), "a".into());
            }),
        );
        named(
            "node: a coordinator",
            request(|r| (r.role, r.node) = ("coordinator".into(), "n1".into())),
        );
        named("uses: 1001", request(|r| r.uses = 1001));
        named("ttl: ", request(|r| r.ttl_seconds = u64::MAX));
        named(
            "labels: ",
            request(|r| drop(r.labels.insert("a b".into(), String::new()))),
        );
        named(
            "labels: a: ",
            request(|r| drop(r.labels.insert("a".into(), "-".into()))),
        );
        named(
            "labels: kubernetes.io/arch",
            request(|r| drop(r.labels.insert(labels::ARCH.into(), "x".into()))),
        );
        named(
            "labels: kubernetes.io/hostname",
            request(|r| drop(r.labels.insert(labels::HOSTNAME.into(), "x".into()))),
        );
        named(
            "labels: kubernetes.io/os",
            request(|r| drop(r.labels.insert(labels::OS.into(), "x".into()))),
        );
        named("node: \"N_1\"", request(|r| r.node = "N_1".into()));
        named(
            "node: a token for one",
            request(|r| (r.node, r.uses) = ("n1".into(), 2)),
        );
    }
}
