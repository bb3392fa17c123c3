//! The one URI in a certificate, `spiffe://<cluster-uuid>/{agent|coordinator|user}/<id>`, and the DNS name of
//! the coordinators. Used by the CA, by both ends of every connection and by the authorizer.
//!
//! Invariant: a certificate has exactly one identity; anything else is no identity at all.

use std::fmt;

use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Agent,
    Coordinator,
    User,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Coordinator => "coordinator",
            Self::User => "user",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Agent, Self::Coordinator, Self::User]
            .into_iter()
            .find(|r| r.as_str() == text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// UUID of the cluster.
    pub cluster: String,
    pub role: Role,
    /// Node name, coordinator name or user name.
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificate without a Wharfinger identity: {0}")]
pub struct IdentityError(pub String);

impl Identity {
    pub fn uri(&self) -> String {
        format!("spiffe://{}/{}/{}", self.cluster, self.role.as_str(), self.id)
    }

    pub fn parse(uri: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError(format!("{uri:?} is not spiffe://<cluster>/<role>/<id>"));
        let rest = uri.strip_prefix("spiffe://").ok_or_else(bad)?;
        let mut parts = rest.split('/');
        let (Some(cluster), Some(role), Some(id), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let role = Role::parse(role).ok_or_else(bad)?;
        if uuid::Uuid::parse_str(cluster).is_err() || crate::model::labels::check_dns_subdomain(id).is_err() {
            return Err(bad());
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            role,
            id: id.to_owned(),
        })
    }

    /// The identity in a DER certificate: its only URI name.
    pub fn of_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| IdentityError(e.to_string()))?;
        let mut uris = cert
            .extensions()
            .iter()
            .filter_map(|e| match e.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => Some(san),
                _ => None,
            })
            .flat_map(|san| &san.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Self::parse(uri),
            (None, _) => Err(IdentityError("it names no URI".into())),
            (Some(_), Some(_)) => Err(IdentityError("it names more than one URI".into())),
        }
    }
}

/// As people see it: `user/admin`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role.as_str(), self.id)
    }
}

/// Serial number of a DER certificate, lower-case hex.
pub fn serial_of_certificate(der: &[u8]) -> Result<String, IdentityError> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| IdentityError(e.to_string()))?;
    Ok(cert.raw_serial().iter().map(|b| format!("{b:02x}")).collect())
}

/// SHA-256 of a DER certificate's SubjectPublicKeyInfo: what a join token pins.
pub fn spki_sha256(der: &[u8]) -> Result<[u8; 32], IdentityError> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| IdentityError(e.to_string()))?;
    let digest = ring::digest::digest(&ring::digest::SHA256, cert.public_key().raw);
    digest
        .as_ref()
        .try_into()
        .map_err(|_| IdentityError("its key has no SHA-256".into()))
}

/// Seconds since the Unix epoch from and until which a DER certificate is valid.
pub fn validity_of_certificate(der: &[u8]) -> Result<(u64, u64), IdentityError> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| IdentityError(e.to_string()))?;
    let seconds = |t: i64| u64::try_from(t).unwrap_or(0);
    let validity = cert.validity();
    Ok((
        seconds(validity.not_before.timestamp()),
        seconds(validity.not_after.timestamp()),
    ))
}

/// Name in every coordinator's certificate, whatever its address.
pub fn coordinator_dns_name(cluster: &str) -> String {
    format!("coordinator.{cluster}.wharfinger.internal")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    #[test]
    fn reads_back_and_refuses_the_rest() {
        let id = Identity {
            cluster: CLUSTER.into(),
            role: Role::Agent,
            id: "node1".into(),
        };
        assert_eq!(Identity::parse(&id.uri()), Ok(id));
        for bad in [
            "spiffe://x/agent/n".to_owned(),
            format!("spiffe://{CLUSTER}/agent/"),
            format!("spiffe://{CLUSTER}/root/n"),
            format!("spiffe://{CLUSTER}/agent/n/m"),
            format!("spiffe://{CLUSTER}/agent/../user"),
            format!("http://{CLUSTER}/agent/n"),
            format!("spiffe://{CLUSTER}/agent/N%2e"),
        ] {
            assert!(Identity::parse(&bad).is_err(), "{bad}");
        }
        assert!(Identity::of_certificate(b"garbage").is_err());
    }
}
