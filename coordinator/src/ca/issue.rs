//! Certificates: the root and intermediate made at `init`, and the leaves that enrolment and renewal issue.
//! Called by `init`, [`super::enrol`], [`super::replicas`], [`super::renew`] and [`super::server_cert`].
//!
//! Invariant: of a request only its public key is taken; every other field of a certificate is written here.

use proto::{
    identity::{Identity, Role, coordinator_dns_name, validity_of_certificate},
    ids::hex,
    wire,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::secret::{SecretError, random};

/// Certificates begin this long before they are issued, so that a clock a little behind accepts them.
const BACKDATE_MS: u64 = 5 * 60 * 1000;
/// Life of root and intermediate.
const AUTHORITY_LIFE_MS: u64 = 20 * 365 * 24 * 3600 * 1000;
/// Largest request that is parsed; one of ours has about 200 bytes.
const MAX_CSR: usize = 8 << 10;

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("certificate: {0}")]
    Rcgen(#[from] rcgen::Error),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("certificate: {0}")]
    Malformed(String),
}

/// Why a certificate signing request is refused; safe to tell its sender.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CsrError {
    #[error("csr_der: not a PKCS#10 request in DER: {0}; send one of at most {MAX_CSR} bytes")]
    Malformed(&'static str),
    #[error("csr_der: its signature is wrong; sign the request with the key that it names")]
    Signature,
    #[error("csr_der: the key is not ECDSA P-256; make such a key")]
    Algorithm,
}

/// The one thing taken from a request.
#[derive(Debug)]
pub struct PublicKey {
    info: SubjectPublicKeyInfo,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub hash: String,
}

/// Checks a request's form and its proof of possession.
pub fn parse_csr(der: &[u8]) -> Result<PublicKey, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::Malformed("it is too long"));
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed("it does not parse"))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed("bytes follow it"));
    }
    let spki = csr.certification_request_info.subject_pki.raw;
    let info = SubjectPublicKeyInfo::from_der(spki).map_err(|_| CsrError::Algorithm)?;
    if info.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(CsrError::Algorithm);
    }
    match CertificateSigningRequestParams::from_der(&der.into()) {
        Ok(_) => {}
        Err(rcgen::Error::InvalidCertificationRequestSignature) => return Err(CsrError::Signature),
        Err(_) => return Err(CsrError::Malformed("it holds what no request of ours does")),
    }
    let hash = hex(ring::digest::digest(&ring::digest::SHA256, spki).as_ref());
    Ok(PublicKey { info, hash })
}

/// A certificate of the authority itself, with its key.
pub struct AuthorityCert {
    pub pem: String,
    pub key: KeyPair,
}

fn date(ms: u64) -> Result<OffsetDateTime, IssueError> {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|e| IssueError::Malformed(e.to_string()))
}

/// 128 bits, positive and of constant length in DER, so that its hex form is one and the same everywhere.
fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes: [u8; 16] = random()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// What all certificates begin with; who signs sets the rest.
pub(crate) fn params(common_name: &str, now_ms: u64, until_ms: u64) -> Result<CertificateParams, IssueError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.not_before = date(now_ms.saturating_sub(BACKDATE_MS))?;
    params.not_after = date(until_ms.saturating_add(999))?;
    params.serial_number = Some(serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(crate) fn authority_params(common_name: &str, below: u8, now_ms: u64) -> Result<CertificateParams, IssueError> {
    let mut params = params(common_name, now_ms, now_ms.saturating_add(AUTHORITY_LIFE_MS))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Self-signed, ECDSA P-256; one intermediate may stand below it.
pub fn new_root(cluster: &str, now_ms: u64) -> Result<AuthorityCert, IssueError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = authority_params(&format!("Wharfinger root {cluster}"), 1, now_ms)?.self_signed(&key)?;
    Ok(AuthorityCert { pem: cert.pem(), key })
}

/// A coordinator's own: signs leaves only.
pub fn new_intermediate(root: &AuthorityCert, coordinator: &str, now_ms: u64) -> Result<AuthorityCert, IssueError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let pem = sign(&root.pem, &root.key, &key, coordinator, now_ms)?;
    Ok(AuthorityCert { pem, key })
}

/// The same for a key that was made elsewhere. PEM.
pub fn sign_intermediate(
    root_pem: &str,
    root_key: &KeyPair,
    key: &PublicKey,
    coordinator: &str,
    now_ms: u64,
) -> Result<String, IssueError> {
    sign(root_pem, root_key, &key.info, coordinator, now_ms)
}

fn sign(
    root_pem: &str,
    root_key: &KeyPair,
    key: &impl PublicKeyData,
    coordinator: &str,
    now_ms: u64,
) -> Result<String, IssueError> {
    let issuer = rcgen::Issuer::from_ca_cert_pem(root_pem, root_key)?;
    // A common name has at most 64 characters.
    let name: String = format!("Wharfinger coordinator {coordinator}")
        .chars()
        .take(64)
        .collect();
    Ok(authority_params(&name, 0, now_ms)?.signed_by(key, &issuer)?.pem())
}

/// A certificate that was just issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// PEM: leaf, then intermediate.
    pub chain_pem: String,
    /// DER of the leaf alone.
    pub der: CertificateDer<'static>,
    /// Lower-case hex.
    pub serial: String,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
    /// Seconds since the Unix epoch: a third of the life, ±10 %.
    pub renew_after: u64,
}

/// Signs leaves with this coordinator's intermediate.
pub struct Issuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    cluster: String,
    intermediate_pem: String,
    intermediate_until_ms: u64,
    root_pem: String,
    pub intermediate: CertificateDer<'static>,
    pub root: CertificateDer<'static>,
}

impl Issuer {
    /// `chain_pem`: the intermediate, then the root.
    pub fn new(cluster: &str, chain_pem: &str, key_pem: &str) -> Result<Self, IssueError> {
        let malformed = |what: String| IssueError::Malformed(what);
        let certs = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| malformed(e.to_string()))?;
        let [intermediate, root] = <[CertificateDer<'static>; 2]>::try_from(certs)
            .map_err(|_| malformed("the file must hold the intermediate, then the root".into()))?;
        let key = KeyPair::from_pem(key_pem)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&intermediate).map_err(|e| malformed(e.to_string()))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(malformed(
                "the intermediate's key and certificate do not belong together".into(),
            ));
        }
        let (_, until) = validity_of_certificate(&intermediate).map_err(|e| malformed(e.to_string()))?;
        Ok(Self {
            issuer: rcgen::Issuer::from_ca_cert_der(&intermediate, key)?,
            cluster: cluster.to_owned(),
            intermediate_pem: pem(&intermediate),
            intermediate_until_ms: until.saturating_mul(1000),
            root_pem: pem(&root),
            intermediate,
            root,
        })
    }

    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    pub fn intermediate_pem(&self) -> &str {
        &self.intermediate_pem
    }

    /// For an agent or user (client only) or a coordinator (client and server).
    pub fn issue(&self, key: &PublicKey, role: Role, id: &str, life_ms: u64, now_ms: u64) -> Result<Leaf, IssueError> {
        self.sign(&key.info, role, id, life_ms, now_ms)
    }

    /// The same for a key pair made here.
    pub fn issue_for(
        &self,
        key: &KeyPair,
        role: Role,
        id: &str,
        life_ms: u64,
        now_ms: u64,
    ) -> Result<Leaf, IssueError> {
        self.sign(key, role, id, life_ms, now_ms)
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        role: Role,
        id: &str,
        life_ms: u64,
        now_ms: u64,
    ) -> Result<Leaf, IssueError> {
        let identity = Identity {
            cluster: self.cluster.clone(),
            role,
            id: id.to_owned(),
        };
        let until_ms = now_ms.saturating_add(life_ms).min(self.intermediate_until_ms);
        let mut params = params(&format!("Wharfinger {}", role.as_str()), now_ms, until_ms)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.subject_alt_names = vec![SanType::URI(identity.uri().try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if role == Role::Coordinator {
            params
                .subject_alt_names
                .push(SanType::DnsName(coordinator_dns_name(&self.cluster).try_into()?));
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        let serial = params
            .serial_number
            .as_ref()
            .map(SerialNumber::to_bytes)
            .unwrap_or_default();
        let cert = params.signed_by(key, &self.issuer)?;
        // ±10 % in steps of 0.01 %, so that a fleet that joined at once does not renew at once.
        let jitter = u64::from(u16::from_be_bytes(random()?)) % 2001 + 9000;
        let third = life_ms / 3;
        let renew_ms = now_ms.saturating_add(third / 10_000 * jitter + third % 10_000 * jitter / 10_000);
        Ok(Leaf {
            chain_pem: format!("{}{}", cert.pem(), self.intermediate_pem),
            der: cert.der().clone(),
            serial: hex(&serial),
            not_after: until_ms.saturating_add(999) / 1000,
            renew_after: renew_ms / 1000,
        })
    }

    /// The wire's form of a leaf.
    pub fn issued(&self, leaf: &Leaf) -> wire::Issued {
        wire::Issued {
            certificate_chain_pem: leaf.chain_pem.clone(),
            ca_pem: self.root_pem.clone(),
            not_after: leaf.not_after,
            renew_after: leaf.renew_after,
        }
    }
}

fn pem(der: &CertificateDer<'_>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
#[path = "issue_tests.rs"]
mod tests;
