//! etcd's own authority and the certificates below it. Called by [`super::make`].
//!
//! Invariant: it is not the cluster's authority, and nothing that it signs is an identity there; its key lies in
//! `OUT/ca/` only and goes to no host.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _, SanType,
};

use super::{
    files::PEER_NAME,
    member::{Host, Member},
};
use crate::ca::issue::{IssueError, authority_params, params};

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A member towards clients. It is a client too: etcd's own gateway calls with it.
    Server,
    /// A member towards the others.
    Peer,
    /// A coordinator.
    Client,
}

/// Certificate and key, PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// Signs below the authority.
pub struct EtcdCa {
    pub certificate: String,
    key: KeyPair,
}

impl EtcdCa {
    /// `label` tells one cluster's authority from another's.
    pub fn generate(label: &str, now_ms: u64) -> Result<Self, IssueError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        // A common name has at most 64 characters.
        let name: String = format!("etcd CA {label}").chars().take(64).collect();
        let certificate = authority_params(&name, 0, now_ms)?.self_signed(&key)?.pem();
        Ok(Self { certificate, key })
    }

    /// The error says nothing of the key.
    pub fn read(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let ca = Self {
            certificate: certificate.to_owned(),
            key: KeyPair::from_pem(key)?,
        };
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .map_err(|_| IssueError::Malformed("the file holds none".into()))?;
        let parsed = pem
            .parse_x509()
            .map_err(|_| IssueError::Malformed("the file holds none".into()))?;
        if parsed.public_key().raw != ca.key.subject_public_key_info() {
            return Err(IssueError::Malformed("it and the key do not belong together".into()));
        }
        Ok(ca)
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// For a member; a coordinator's (`None`) names no host.
    pub fn issue(&self, purpose: Purpose, member: Option<&Member>, days: u32, now_ms: u64) -> Result<Pair, IssueError> {
        let name = match purpose {
            Purpose::Server => member.map_or("wharf-etcd-server", |m| m.name.as_str()),
            Purpose::Peer => PEER_NAME,
            Purpose::Client => "wharf-coordinator",
        };
        let until_ms = now_ms.saturating_add(u64::from(days) * 24 * 3_600_000);
        let mut params = params(name, now_ms, until_ms)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if purpose != Purpose::Client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if let Some(member) = member {
            name_host(&mut params, &member.host)?;
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.certificate, &self.key)?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        Ok(Pair {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

fn name_host(params: &mut CertificateParams, host: &Host) -> Result<(), IssueError> {
    let names = &mut params.subject_alt_names;
    match host {
        Host::Ip(ip) => names.push(SanType::IpAddress(*ip)),
        Host::Name(name) => names.push(SanType::DnsName(name.as_str().try_into()?)),
    }
    // A peer is checked against the address that it calls from, which is this one on a loopback of any number.
    let usual = IpAddr::V4(Ipv4Addr::LOCALHOST);
    if host.is_loopback() && !names.contains(&SanType::IpAddress(usual)) {
        names.push(SanType::IpAddress(usual));
    }
    Ok(())
}
