//! The way to another coordinator: this one's own certificate shown, and the other one verified. Called by whoever follows
//! the active coordinator or hands calls on to it.
//!
//! Invariant: a handshake completes only with a coordinator of this cluster that is on record, whose certificate its own
//! intermediate issued; its address proves nothing.

use std::sync::Arc;

use proto::{
    credentials::{ChannelError, ChannelTimes, Credentials},
    identity::{Role, coordinator_dns_name},
};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tonic::transport::{ClientTlsConfig, Endpoint, Identity};

use super::{Authority, AuthorityError, certs::Caller};

/// What this coordinator shows to another one.
pub struct PeerIdentity {
    /// PEM: leaf, then intermediate.
    pub chain_pem: String,
    /// PEM.
    pub key_pem: String,
}

impl Authority {
    /// An endpoint for another coordinator's session address, HOST:PORT; nothing is connected yet. It shows the
    /// certificate of this moment: make a new one for each connection.
    pub fn peer_client(&self, address: &str, times: ChannelTimes) -> Result<Endpoint, ChannelError> {
        let own = self.0.tls.peer.load();
        let tls = ClientTlsConfig::new()
            .identity(Identity::from_pem(&own.chain_pem, &own.key_pem))
            .domain_name(coordinator_dns_name(self.cluster()));
        Credentials::bare(address, times)?
            .tls_config_with_verifier(tls, self.peer_verifier().map_err(ChannelError::Verifier)?)
            .map_err(ChannelError::Credentials)
    }

    /// Verifies another coordinator as its client.
    fn peer_verifier(&self) -> Result<Arc<PeerVerifier>, String> {
        let usual = || -> Result<_, AuthorityError> {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.issuer.root.clone())?;
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
            Ok(builder.build().map_err(|e| Error::General(e.to_string()))?)
        };
        Ok(Arc::new(PeerVerifier {
            usual: usual().map_err(|e| e.to_string())?,
            authority: self.clone(),
        }))
    }

    /// Whether the certificate, whose chain TLS has verified, is that of a coordinator on record.
    fn is_peer(&self, leaf: &[u8]) -> bool {
        let Ok(mut caller) = Caller::of_certificate(leaf) else {
            return false;
        };
        caller.issuer = self.0.view.issuer_of(leaf);
        caller.identity.role == Role::Coordinator
            && self
                .0
                .view
                .standing(self.cluster(), &caller, self.now_ms())
                .inspect_err(|denied| tracing::warn!(reason = denied.message, "this is no coordinator of the cluster"))
                .is_ok()
    }
}

/// See the module's head.
#[derive(Debug)]
struct PeerVerifier {
    /// Chain, time and name, as every client of the cluster verifies them.
    usual: Arc<WebPkiServerVerifier>,
    authority: Authority,
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .usual
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        if self.authority.is_peer(end_entity) {
            Ok(verified)
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
