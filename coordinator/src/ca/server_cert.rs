//! The coordinator's own certificate: made at start, swapped long before it expires, on both ports and towards other
//! coordinators. Called by [`super::Authority`].
//!
//! Invariant: its key is made here, anew each time, and is never written anywhere.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use proto::identity::Role;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{
    AuthorityError, Clock,
    issue::{IssueError, Issuer},
    peers::PeerIdentity,
};
use crate::tls;

pub struct ServerTls {
    pub session: Arc<ArcSwap<ServerConfig>>,
    pub enrol: Arc<ArcSwap<ServerConfig>>,
    pub peer: ArcSwap<PeerIdentity>,
    renew_after: AtomicU64,
}

struct Fresh {
    session: Arc<ServerConfig>,
    enrol: Arc<ServerConfig>,
    peer: Arc<PeerIdentity>,
    renew_after: u64,
}

fn fresh(issuer: &Issuer, name: &str, life_ms: u64, clock: &Clock) -> Result<Fresh, AuthorityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::from)?;
    let leaf = issuer.issue_for(&key, Role::Coordinator, name, life_ms, clock())?;
    // The root too: a joining host pins its key and needs the certificate.
    let chain = vec![leaf.der.clone(), issuer.intermediate.clone(), issuer.root.clone()];
    let peer = PeerIdentity {
        chain_pem: leaf.chain_pem,
        key_pem: key.serialize_pem(),
    };
    let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Fresh {
        session: Arc::new(tls::session_config(chain.clone(), key(), &issuer.root, clock)?),
        enrol: Arc::new(tls::enrol_config(chain, key(), clock)?),
        peer: Arc::new(peer),
        renew_after: leaf.renew_after,
    })
}

impl ServerTls {
    pub fn new(issuer: &Issuer, name: &str, life_ms: u64, clock: &Clock) -> Result<Self, AuthorityError> {
        let fresh = fresh(issuer, name, life_ms, clock)?;
        Ok(Self {
            session: Arc::new(ArcSwap::new(fresh.session)),
            enrol: Arc::new(ArcSwap::new(fresh.enrol)),
            peer: ArcSwap::new(fresh.peer),
            renew_after: AtomicU64::new(fresh.renew_after),
        })
    }

    /// Swaps in a new certificate when it is time; connections that are open keep the old one. True if it was.
    pub fn renew_if_due(
        &self,
        issuer: &Issuer,
        name: &str,
        life_ms: u64,
        clock: &Clock,
    ) -> Result<bool, AuthorityError> {
        if clock() / 1000 < self.renew_after.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let fresh = fresh(issuer, name, life_ms, clock)?;
        self.session.store(fresh.session);
        self.enrol.store(fresh.enrol);
        self.peer.store(fresh.peer);
        self.renew_after.store(fresh.renew_after, Ordering::Relaxed);
        Ok(true)
    }
}
