//! The tower layer before every service of the session port: who calls (client certificate and registry) and
//! may that caller call this path. Puts the [`Caller`] into the request's extensions.
//!
//! Invariant: without a certificate, without an identity, or without a policy for the path: denied.

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

use super::{
    Authority,
    authorizer::authorize_method,
    certs::{Caller, Denied},
    methods::policy_of_method,
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

impl Authority {
    /// The decision for one request, from its extensions and path.
    pub async fn admit(&self, extensions: &http::Extensions, path: &str) -> Result<Caller, Denied> {
        let certificates = extensions
            .get::<TlsConnectInfo<TcpConnectInfo>>()
            .and_then(TlsConnectInfo::peer_certs);
        let leaf = certificates.as_ref().and_then(|chain| chain.first());
        let Some(leaf) = leaf else {
            return Err(Denied::unauthenticated(
                "a client certificate is required; use the admin.yaml of this cluster",
            ));
        };
        let caller = self.authenticate(leaf).await?;
        authorize_method(self.view(), &caller, policy_of_method(path), path)?;
        Ok(caller)
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
            match authority.admit(request.extensions(), request.uri().path()).await {
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
