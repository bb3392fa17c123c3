//! The tower layer before every service of the session port: who calls (client certificate and registry) and
//! may that caller call this path. Puts the [`Caller`] into the request's extensions.
//!
//! A standby hands calls on and names the caller in a header ([`super::forwarded`]); that caller is judged here as if it
//! had called, and is the one that the services see.
//!
//! Invariant: without a certificate, without an identity, or without a policy for the path: denied. Only a coordinator
//! names another caller, and never another coordinator; whoever else tries is refused, not merely ignored.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tonic::{
    Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

use proto::identity::Role;

use super::{
    Authority,
    authorizer::authorize_method,
    certs::{Caller, Denied, DeniedKind},
    forwarded,
    methods::{Policy, policy_of_method},
};

#[derive(Clone)]
pub struct AuthLayer(pub Authority);

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AuthService {
            authority: self.0.clone(),
            inner,
        }
    }
}

#[derive(Clone)]
pub struct AuthService<S> {
    authority: Authority,
    inner: S,
}

/// Whether the coordinator that calls may speak for this caller. Pure.
fn may_speak_for(direct: &Caller, caller: &Caller, policy: Option<&Policy>) -> Result<(), Denied> {
    let refuse = |why: &str| {
        let message = format!("{direct} may not speak for {caller}: {why}");
        Err(Denied::new(DeniedKind::Forbidden, message))
    };
    match caller.identity.role {
        Role::User => Ok(()),
        // Its session and pipes end where it opened them.
        Role::Agent => match policy {
            Some(Policy::OwnNode {
                verb: "renew" | "leave",
                ..
            }) => Ok(()),
            _ => refuse("of an agent's calls only renewal and leaving are handed on"),
        },
        Role::Coordinator => refuse("a coordinator speaks for itself"),
    }
}

impl Authority {
    /// The decision for one request, from its extensions, headers and path.
    pub async fn admit(
        &self,
        extensions: &http::Extensions,
        headers: &http::HeaderMap,
        path: &str,
    ) -> Result<Caller, Denied> {
        let certificates = extensions
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(TlsConnectInfo::peer_certs);
        let leaf = certificates.as_ref().and_then(|chain| chain.first());
        let Some(leaf) = leaf else {
            return Err(Denied::unauthenticated(
                "a client certificate is required; use the admin.yaml of this cluster",
            ));
        };
        let direct = self.authenticate(leaf).await?;
        let policy = policy_of_method(path);
        let caller = if headers.contains_key(forwarded::HEADER) {
            self.forwarded(&direct, headers, policy).await?
        } else {
            direct
        };
        authorize_method(self.view(), &caller, policy, path)?;
        Ok(caller)
    }

    /// The caller that a coordinator speaks for, valid by the registry here and now.
    async fn forwarded(
        &self,
        direct: &Caller,
        headers: &http::HeaderMap,
        policy: Option<&Policy>,
    ) -> Result<Caller, Denied> {
        if direct.identity.role != Role::Coordinator {
            let message = format!(
                "{direct} may not speak for others: {} is for coordinators",
                forwarded::HEADER
            );
            return Err(Denied::new(DeniedKind::Forbidden, message));
        }
        match Caller::from_headers(headers)? {
            Some(caller) => {
                may_speak_for(direct, &caller, policy)?;
                self.establish(caller).await
            }
            None => Err(Denied::unauthenticated(format!("{}: is empty", forwarded::HEADER))),
        }
    }
}

impl<S, B, R> Service<http::Request<B>> for AuthService<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Default,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let authority = self.authority.clone();
        // The service that was polled ready is the one to call; its clone waits in its place.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let admitted = authority.admit(request.extensions(), request.headers(), request.uri().path());
            match admitted.await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(denied) => {
                    tracing::debug!(path = request.uri().path(), reason = denied.message, "call denied");
                    Ok(Status::from(denied).into_http())
                }
            }
        })
    }
}
