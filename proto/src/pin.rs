//! A connection to an enrolment port that trusts one root by its key's hash, before anything of the cluster is known but
//! the token. Used by whoever joins: an agent, another coordinator.
//!
//! Invariant: a handshake completes only with a coordinator whose chain, root included, verifies to the pinned
//! root and whose certificate names it a coordinator of one cluster.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
use tonic::{
    Code, Status,
    transport::{Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    credentials::root_cause,
    identity::{Identity as CertIdentity, Role, coordinator_dns_name, spki_sha256},
    model::Time,
};

/// Why there is no pinned connection, or no answer on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinError {
    /// Not HOST:PORT.
    Address,
    /// Not a coordinator of the pinned cluster; nothing was sent to it.
    WrongRoot(String),
    /// The coordinator's certificate is not valid at this host's time.
    Clock { now: String, what: String },
    /// The coordinator's own words.
    Refused(String),
    /// May pass: not reachable, not active, too many at once.
    Unavailable(String),
}

/// Connects to an enrolment port, HOST:PORT. Answers the channel and the cluster (UUID) that the coordinator proved to
/// belong to.
pub async fn connect(
    address: &str,
    root_spki: [u8; 32],
    connect: Duration,
    request: Duration,
) -> Result<(Channel, String), PinError> {
    let verifier = Arc::new(PinnedRoot::new(root_spki));
    // The cluster's name is not known yet; the verifier takes it from the certificate.
    let tls = ClientTlsConfig::new().domain_name("coordinator.wharfinger.internal");
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .map_err(|_| PinError::Address)?
        .connect_timeout(connect)
        .timeout(request)
        .tls_config_with_verifier(tls, verifier.clone())
        .map_err(|e| PinError::Unavailable(root_cause(&e)))?;
    let channel = endpoint.connect().await;
    match (channel, verifier.verdict()) {
        // The handshake is done, so the pin held.
        (Ok(channel), Some(Verdict::Coordinator(cluster))) => Ok((channel, cluster)),
        (Ok(_), _) => Err(PinError::Unavailable("the connection was not verified".into())),
        (Err(_), Some(Verdict::WrongRoot(what))) => Err(PinError::WrongRoot(what)),
        (Err(_), Some(Verdict::Clock(what))) => Err(PinError::Clock {
            now: Time::now().to_string(),
            what,
        }),
        (Err(error), Some(Verdict::Coordinator(_)) | None) => Err(PinError::Unavailable(root_cause(&error))),
    }
}

/// Whether a coordinator has decided, or another attempt may succeed.
pub fn refusal(status: &Status) -> PinError {
    let message = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unimplemented => PinError::Refused(message),
        // Unavailable, exhausted, timed out, cancelled, broken off.
        code if message.is_empty() => PinError::Unavailable(code.to_string()),
        _ => PinError::Unavailable(message),
    }
}

/// What the last handshake showed; transport errors hide it otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// A coordinator of this cluster (UUID).
    Coordinator(String),
    WrongRoot(String),
    /// The certificate is not valid at this host's time.
    Clock(String),
}

#[derive(Debug)]
struct PinnedRoot {
    root_spki: [u8; 32],
    provider: Arc<CryptoProvider>,
    verdict: Mutex<Option<Verdict>>,
}

impl PinnedRoot {
    fn new(root_spki: [u8; 32]) -> Self {
        Self {
            root_spki,
            provider: Arc::new(ring::default_provider()),
            verdict: Mutex::new(None),
        }
    }

    fn verdict(&self) -> Option<Verdict> {
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
