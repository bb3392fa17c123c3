//! One HTTP request of a probe or a hook. Called by [`super::check`].
//!
//! Invariants: no redirect is followed and no body is read. The server of an `HTTPS` request is not verified, as in
//! Kubernetes: a probe tells nothing secret, and the container's certificate is seldom one for its address.

use std::{pin::pin, sync::Arc};

use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use proto::model::{HttpGet, Scheme};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// The status of the answer; an error is in words for people.
pub(super) async fn get(get: &HttpGet, host: &str, port: u16) -> Result<StatusCode, String> {
    let request = request(get, host, port)?;
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|e| format!("connect to {host}:{port}: {e}"))?;
    match get.scheme {
        Scheme::Http => send(stream, request).await,
        Scheme::Https => {
            let connector = TlsConnector::from(Arc::new(tls()?));
            let name = server_name(&request, host)?;
            let stream = connector.connect(name, stream).await;
            send(stream.map_err(|e| format!("TLS with {host}:{port}: {e}"))?, request).await
        }
    }
}

fn request(get: &HttpGet, host: &str, port: u16) -> Result<Request<Empty<Bytes>>, String> {
    let bracketed = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let mut request = Request::get(get.target())
        .header(HOST, format!("{bracketed}:{port}"))
        .header(USER_AGENT, concat!("wharf-probe/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|e| format!("the path {:?} cannot be asked for: {e}", get.path))?;
    let headers = request.headers_mut();
    for given in &get.http_headers {
        let refused = |e: &dyn std::fmt::Display| format!("the header {:?} cannot be sent: {e}", given.name);
        let name = HeaderName::from_bytes(given.name.as_bytes()).map_err(|e| refused(&e))?;
        let value = HeaderValue::from_bytes(given.value.as_bytes()).map_err(|e| refused(&e))?;
        let ours = [HOST, USER_AGENT, ACCEPT, CONNECTION].contains(&name);
        if ours {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |e: hyper::Error| proto::credentials::root_cause(&e);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    let mut open = true;
    loop {
        tokio::select! {
            answer = &mut answer => return answer.map(|a| a.status()).map_err(failed),
            _ = &mut connection, if open => open = false,
        }
    }
}

/// The name that the server is asked for: that of the header `Host`, else the address.
fn server_name(request: &Request<Empty<Bytes>>, host: &str) -> Result<ServerName<'static>, String> {
    let given = request.headers().get(HOST).and_then(|h| h.to_str().ok());
    let name = given.and_then(|h| h.split(':').next()).unwrap_or_default();
    ServerName::try_from(name.to_owned())
        .or_else(|_| ServerName::try_from(host.to_owned()))
        .map_err(|_| format!("{host:?} is no name of a server"))
}

fn tls() -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(config
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(schemes)))
        .with_no_client_auth())
}

/// Trusts whoever answers.
#[derive(Debug)]
struct Anyone(Vec<SignatureScheme>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server whose certificate nobody has signed and which names another host.
    async fn server() -> u16 {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["elsewhere.example".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("a configuration");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.expect("TLS");
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).await.expect("asked");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.expect("answered");
        });
        port
    }

    #[tokio::test]
    async fn https_is_answered_by_whoever_it_is() {
        let port = server().await;
        let https: HttpGet = serde_json::from_str(r#"{"port":1,"scheme":"HTTPS"}"#).expect("a request");
        assert_eq!(get(&https, "127.0.0.1", port).await, Ok(StatusCode::OK));
        // Plain HTTP is not what it speaks.
        let port = server().await;
        let http = HttpGet::default();
        assert!(get(&http, "127.0.0.1", port).await.is_err());
    }
}
