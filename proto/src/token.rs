//! The joining token's text: `wharf1.<role>.<id>.<secret>.<root-SPKI-sha256>.<crc32>`. Minted by the
//! coordinator's CA, read by an agent, which pins the root key before it sends the token.
//!
//! Invariant: a mistyped or cut token is refused by its checksum before anything is sent anywhere; the secret
//! never appears in Debug output.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::identity::Role;

const PREFIX: &str = "wharf1";

#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub role: Role,
    /// Public: names the token in lists.
    pub id: String,
    /// 256 random bits.
    pub secret: [u8; 32],
    /// SHA-256 of the root certificate's SubjectPublicKeyInfo, DER.
    pub root_spki: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "this is not a join token: it must begin with `wharf1.`; copy the whole text that `wharf token create` printed"
    )]
    NotAToken,
    #[error("the join token is damaged (checksum): copy the whole text that `wharf token create` printed")]
    Damaged,
    #[error(
        "the join token is for role `{found}`, not `{expected}`: make one with `wharf token create --role {expected}`"
    )]
    WrongRole { found: String, expected: String },
}

impl JoinToken {
    /// The text to hand to an operator.
    pub fn reveal(&self) -> String {
        let body = format!(
            "{PREFIX}.{}.{}.{}.{}",
            self.role.as_str(),
            self.id,
            URL_SAFE_NO_PAD.encode(self.secret),
            URL_SAFE_NO_PAD.encode(self.root_spki)
        );
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body}.{crc:08x}")
    }

    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if !text.starts_with("wharf1.") {
            return Err(TokenError::NotAToken);
        }
        let (body, crc) = text.rsplit_once('.').ok_or(TokenError::Damaged)?;
        if crc != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
            return Err(TokenError::Damaged);
        }
        let parts: Vec<&str> = body.split('.').collect();
        let [_, role, id, secret, root] = parts[..] else {
            return Err(TokenError::Damaged);
        };
        let bytes = |s: &str| -> Result<[u8; 32], TokenError> {
            URL_SAFE_NO_PAD
                .decode(s)
                .ok()
                .and_then(|b| b.try_into().ok())
                .ok_or(TokenError::Damaged)
        };
        let id_ok = !id.is_empty() && id.len() <= 32 && id.chars().all(|c| c.is_ascii_alphanumeric());
        if !id_ok {
            return Err(TokenError::Damaged);
        }
        Ok(Self {
            role: Role::parse(role).ok_or(TokenError::Damaged)?,
            id: id.to_owned(),
            secret: bytes(secret)?,
            root_spki: bytes(root)?,
        })
    }

    pub fn expect_role(self, role: Role) -> Result<Self, TokenError> {
        if self.role == role {
            Ok(self)
        } else {
            Err(TokenError::WrongRole {
                found: self.role.as_str().into(),
                expected: role.as_str().into(),
            })
        }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("role", &self.role)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            role: Role::Agent,
            id: "k7x2p9".into(),
            secret: [7; 32],
            root_spki: [9; 32],
        }
    }

    #[test]
    fn reads_back() {
        let text = token().reveal();
        assert_eq!(JoinToken::parse(&text), Ok(token()));
        assert_eq!(JoinToken::parse(&format!(" {text}\n")), Ok(token()));
        assert!(!format!("{:?}", token()).contains("07"));
    }

    #[test]
    fn any_changed_character_is_noticed() {
        let text = token().reveal();
        for i in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[i] = if bytes[i] == b'x' { b'y' } else { b'x' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(JoinToken::parse(&changed).is_err(), "{i}");
            assert!(JoinToken::parse(&text[..i]).is_err(), "cut at {i}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(wharf1\\.)?\\PC{0,40}") {
            let _ = JoinToken::parse(&text);
        }
    }
}
