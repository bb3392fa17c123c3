//! The verifier that trusts one root by its key's hash, before anything of the cluster is known but the token.
//! Called by [`super::enrol`].
//!
//! Invariant: a handshake completes only with a coordinator whose chain, root included, verifies to the pinned
//! root and whose certificate names it a coordinator of one cluster.

use std::sync::{Arc, Mutex, PoisonError};

use proto::identity::{Identity as CertIdentity, Role, coordinator_dns_name, spki_sha256};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

/// What the last handshake showed; transport errors hide it otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A coordinator of this cluster (UUID).
    Coordinator(String),
    WrongRoot(String),
    /// The certificate is not valid at this host's time.
    Clock(String),
}

#[derive(Debug)]
pub(super) struct PinnedRoot {
    root_spki: [u8; 32],
    provider: Arc<CryptoProvider>,
    verdict: Mutex<Option<Verdict>>,
}

impl PinnedRoot {
    pub fn new(root_spki: [u8; 32]) -> Self {
        Self {
            root_spki,
            provider: Arc::new(ring::default_provider()),
            verdict: Mutex::new(None),
        }
    }

    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, verdict: Verdict) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
    }

    /// A chain is public: whoever shows it must also hold its key.
    fn possession(&self, checked: Result<HandshakeSignatureValid, Error>) -> Result<HandshakeSignatureValid, Error> {
        checked.inspect_err(|error| self.set(Verdict::WrongRoot(error.to_string())))
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<String, Error> {
        let root = intermediates
            .iter()
            .find(|cert| spki_sha256(cert).is_ok_and(|spki| spki == self.root_spki))
            .ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, algorithms)?;
        let not_one = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let identity = CertIdentity::of_certificate(end_entity).map_err(|_| not_one.clone())?;
        if identity.role != Role::Coordinator {
            return Err(not_one);
        }
        let name = ServerName::try_from(coordinator_dns_name(&identity.cluster)).map_err(|_| not_one)?;
        verify_server_name(&leaf, &name)?;
        Ok(identity.cluster)
    }
}

impl ServerCertVerifier for PinnedRoot {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.check(end_entity, intermediates, now);
        let verdict = match &checked {
            Ok(cluster) => Verdict::Coordinator(cluster.clone()),
            Err(
                error @ Error::InvalidCertificate(
                    CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. }
                    | CertificateError::Expired
                    | CertificateError::ExpiredContext { .. },
                ),
            ) => Verdict::Clock(error.to_string()),
            Err(error) => Verdict::WrongRoot(error.to_string()),
        };
        self.set(verdict);
        checked.map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.possession(verify_tls12_signature(message, cert, dss, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.possession(verify_tls13_signature(message, cert, dss, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
