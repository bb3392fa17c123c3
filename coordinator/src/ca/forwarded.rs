//! A caller that another coordinator vouches for: how it stands in a call's headers. A standby writes it with
//! [`Caller::to_headers`] as it hands a call on; [`super::layer`] reads it.
//!
//! Invariant: what is read is either exactly what was written, once, or refused; who wrote it, and whether that caller is
//! valid and may do this, is not decided here.

use http::{HeaderMap, HeaderValue};
use proto::identity::Identity;

use super::certs::{Caller, Denied, DeniedKind};

/// `<identity URI>;serial=…;until=…;key=…;issuer=…`
pub const HEADER: &str = "wharf-forwarded-caller";

/// An identity's URI has at most some 320 characters, the rest less than 256.
const LONGEST: usize = 640;

fn bad(what: &str) -> Denied {
    Denied::new(DeniedKind::Unauthenticated, format!("{HEADER}: {what}"))
}

/// Lower-case hex digits.
fn hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Caller {
    /// Puts this caller into the headers of a call that is handed on, in place of any that came with it.
    pub fn to_headers(&self, headers: &mut HeaderMap) -> Result<(), Denied> {
        let Self {
            identity,
            serial,
            not_after,
            key,
            issuer,
            // As the active coordinator finds them.
            deleted: _,
            generation: _,
        } = self;
        let text = format!(
            "{};serial={serial};until={not_after};key={key};issuer={issuer}",
            identity.uri()
        );
        let value = HeaderValue::try_from(text).map_err(|_| bad("the caller's name does not fit into a header"))?;
        headers.insert(HEADER, value);
        Ok(())
    }

    /// The caller in a call's headers; `None`: there is none.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Denied> {
        let mut values = headers.get_all(HEADER).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => return Ok(None),
            (Some(value), None) => value,
            (Some(_), Some(_)) => return Err(bad("stands twice")),
        };
        let text = value.to_str().map_err(|_| bad("is no text"))?;
        if text.len() > LONGEST {
            return Err(bad("is too long"));
        }
        parse(text).map(Some).ok_or_else(|| bad("is not one of ours"))
    }
}

fn parse(text: &str) -> Option<Caller> {
    let mut parts = text.split(';');
    let identity = Identity::parse(parts.next()?).ok()?;
    let mut field = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
    let (serial, until, key, issuer) = (field("serial")?, field("until")?, field("key")?, field("issuer")?);
    if parts.next().is_some() {
        return None;
    }
    let until_fits = !until.is_empty() && until.bytes().all(|b| b.is_ascii_digit());
    let fits = (1..=40).contains(&serial.len())
        && key.len() == 64
        && matches!(issuer.len(), 0 | 64)
        && until_fits
        && [serial, key, issuer].into_iter().all(hex);
    if !fits {
        return None;
    }
    Some(Caller {
        identity,
        serial: serial.to_owned(),
        not_after: until.parse().ok()?,
        deleted: false,
        generation: 0,
        key: key.to_owned(),
        issuer: issuer.to_owned(),
    })
}

#[cfg(test)]
#[path = "forwarded_tests.rs"]
mod tests;
