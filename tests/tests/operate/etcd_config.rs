//! Three real etcd on three loopback addresses, started on nothing but the files of `etcd-config`.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use harness::{
    eventually,
    program::{self, Background},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

/// Of the distribution's package; `make test` installs it.
const ETCD: &str = "/usr/bin/etcd";

struct Bed {
    dir: tempfile::TempDir,
    client_port: u16,
    peer_port: u16,
    running: Vec<Background>,
}

impl Bed {
    fn new() -> Self {
        assert!(
            Path::new(ETCD).exists(),
            "{ETCD} is missing: apt-get install etcd-server, as `make test` does"
        );
        let free = |but: u16| {
            let taken = |port: u16| (1..=4).any(|n| TcpListener::bind((format!("127.0.0.{n}"), port)).is_err());
            let start = 26_000 + u16::try_from(std::process::id() % 4000).expect("below 4000");
            (start..start + 4000)
                .find(|port| *port != but && !taken(*port))
                .expect("a free port")
        };
        let client_port = free(0);
        Self {
            dir: tempfile::Builder::new()
                .prefix("wharf-etcd-config-")
                .tempdir()
                .expect("a directory"),
            client_port,
            peer_port: free(client_port),
            running: Vec::new(),
        }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// `etcd-config`; the hosts keep their files where they were made.
    fn config(&self, args: &[&str]) -> String {
        let out = self.out();
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        program::run(
            Command::new(program::path("wharf-coordinator"))
                .arg("etcd-config")
                .args(args)
                .arg("--out")
                .arg(&out)
                .args([
                    "--install-dir",
                    &at("out/{member}"),
                    "--etcd-data-dir",
                    &at("data/{member}"),
                ])
                .args(["--client-port", &self.client_port.to_string()])
                .args(["--peer-port", &self.peer_port.to_string()]),
        )
        .ok()
    }

    fn start(&mut self, member: &str) {
        let text = fs::read_to_string(self.out().join(member).join("etcd.env")).expect("etcd.env");
        let pairs = text
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split_once('=').expect("NAME=VALUE"));
        let mut command = Command::new(ETCD);
        command.env_clear().envs(pairs);
        let log = self.dir.path().join(format!("{member}.log"));
        self.running.push(Background::of(&mut command, log));
    }

    fn logs(&self) -> String {
        let tail = |b: &Background| {
            let text = b.log_text();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(8)..].join("\n")
        };
        self.running.iter().map(tail).collect::<Vec<_>>().join("\n---\n")
    }

    /// A call over HTTPS; with the coordinators' certificate or with `certificate` (none: without one).
    fn call(&self, member: u8, certificate: Option<&str>, request: &str) -> Result<String, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let limit = Duration::from_secs(10);
        runtime.block_on(async {
            tokio::time::timeout(limit, self.talk(member, certificate, request))
                .await
                .map_err(|_| "no answer".to_owned())?
                .map_err(|e| e.to_string())
        })
    }

    async fn talk(&self, member: u8, certificate: Option<&str>, request: &str) -> std::io::Result<String> {
        let out = self.out();
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(out.join("coordinator/ca.crt")).expect("a certificate");
        roots.add(ca).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match certificate {
            Some(name) => {
                let chain =
                    vec![CertificateDer::from_pem_file(out.join(format!("{name}.crt"))).expect("a certificate")];
                let key = PrivateKeyDer::from_pem_file(out.join(format!("{name}.key"))).expect("a key");
                config.with_client_auth_cert(chain, key).expect("a pair")
            }
            None => config.with_no_client_auth(),
        };
        let host = format!("127.0.0.{member}");
        let stream = tokio::net::TcpStream::connect((host.as_str(), self.client_port)).await?;
        let name = ServerName::try_from(host).expect("an address");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer).await {
            Err(e) if answer.is_empty() => return Err(e),
            _ => {}
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn post(&self, member: u8, path: &str, body: &str) -> Result<String, String> {
        let length = body.len();
        let request = format!("POST {path} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}");
        self.call(member, Some(CLIENT), &request)
    }

    #[track_caller]
    fn healthy(&self, members: u8) {
        for member in 1..=members {
            eventually(&format!("etcd{member} is healthy"), || {
                let answer = self.call(member, Some(CLIENT), "GET /health HTTP/1.0\r\n\r\n");
                match answer {
                    Ok(text) if text.contains(r#"{"health":"true""#) => Ok(()),
                    other => Err(format!("{other:?}\n{}", self.logs())),
                }
            });
        }
    }
}

const CLIENT: &str = "coordinator/client";

#[test]
fn three_members_start_on_the_files_and_a_fourth_joins_them() {
    let mut bed = Bed::new();
    bed.config(&[
        "--member",
        "etcd1=127.0.0.1",
        "--member",
        "etcd2=127.0.0.2",
        "--member",
        "etcd3=127.0.0.3",
    ]);
    for member in ["etcd1", "etcd2", "etcd3"] {
        bed.start(member);
    }
    bed.healthy(3);
    // What one took all have; `k` and `v` in base64.
    let put = bed
        .post(1, "/v3/kv/put", r#"{"key":"aw==","value":"dg=="}"#)
        .expect("put");
    assert!(put.contains("200 OK"), "{put}");
    let got = bed.post(3, "/v3/kv/range", r#"{"key":"aw=="}"#).expect("range");
    assert!(got.contains("dg=="), "{got}");
    // Who has no certificate of this authority gets nothing.
    let answer = bed.call(1, None, "GET /health HTTP/1.0\r\n\r\n");
    assert!(!answer.as_ref().is_ok_and(|a| a.contains("health")), "{answer:?}");

    let url = format!(r#"{{"peerURLs":["https://127.0.0.4:{}"]}}"#, bed.peer_port);
    let told = bed.config(&["--member", "etcd4=127.0.0.4"]);
    assert!(
        told.contains("next: make the cluster expect etcd4=https://127.0.0.4:"),
        "{told}"
    );
    // etcd takes a member in only once all have been connected for some seconds.
    let begun = Instant::now();
    loop {
        let added = bed.post(1, "/v3/cluster/member/add", &url).expect("member add");
        if added.contains("200 OK") {
            break;
        }
        assert!(
            added.contains("unhealthy cluster") && begun.elapsed() < Duration::from_secs(30),
            "{added}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    bed.start("etcd4");
    bed.healthy(4);
    let got = bed.post(4, "/v3/kv/range", r#"{"key":"aw=="}"#).expect("range");
    assert!(got.contains("dg=="), "{got}");
}
