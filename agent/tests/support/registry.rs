//! A registry on this machine (HTTP API v2) with any number of images of one layer each: it asks for a password,
//! dawdles or stops in the middle, and counts what it was asked. Docker takes 127.0.0.0/8 for such a registry
//! without TLS.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::busybox;

/// How a layer is sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    AtOnce,
    /// In so many parts, with a pause between them.
    Parts(usize, Duration),
    /// Half of it, and then nothing more.
    Stops,
}

#[derive(Default)]
struct State {
    /// By path: content type and content.
    files: BTreeMap<String, (&'static str, Vec<u8>)>,
    layers: Vec<String>,
    asked: Vec<String>,
}

pub struct Registry {
    /// `127.0.0.1:PORT`.
    pub address: String,
    state: Arc<Mutex<State>>,
}

fn digest(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    /// Asks for `USER:PASSWORD` when there is one.
    pub fn start(login: Option<&str>, pace: Pace) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, login) = (state.clone(), login.map(|l| format!("Basic {}", STANDARD.encode(l))));
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, login) = (shared.clone(), login.clone());
                // A client that goes away ends its own thread only.
                thread::spawn(move || serve(stream, &shared, login.as_deref(), pace));
            }
        });
        Self { address, state }
    }

    /// Adds an image that nobody has yet; its reference.
    pub fn image(&self, name: &str) -> String {
        // Of its own content: the engine must not know the layer.
        let mut content = uuid::Uuid::new_v4().as_bytes().to_vec();
        content.resize(1 << 20, 7);
        let layer = busybox::root(&content);
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"Entrypoint": ["/bin/sh", "-c"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}, "history": [{}],
        })
        .to_string()
        .into_bytes();
        let descriptor = |kind: &str, content: &[u8]| serde_json::json!({"mediaType": kind, "size": content.len(), "digest": digest(content)});
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.docker.container.image.v1+json", &config),
            "layers": [descriptor("application/vnd.docker.image.rootfs.diff.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut state = self.state.lock().expect("no panic");
        let base = format!("/v2/{name}");
        let layer_path = format!("{base}/blobs/{}", digest(&layer));
        state.layers.push(layer_path.clone());
        for reference in ["1".to_owned(), digest(&manifest)] {
            let file = (MANIFEST, manifest.clone());
            state.files.insert(format!("{base}/manifests/{reference}"), file);
        }
        let binary = "application/octet-stream";
        state
            .files
            .insert(format!("{base}/blobs/{}", digest(&config)), (binary, config));
        state.files.insert(layer_path, (binary, layer));
        format!("{}/{name}:1", self.address)
    }

    /// How often something was given whose path contains `part`.
    pub fn given(&self, part: &str) -> usize {
        let state = self.state.lock().expect("no panic");
        state.asked.iter().filter(|path| path.contains(part)).count()
    }
}

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn serve(mut stream: TcpStream, state: &Mutex<State>, login: Option<&str>, pace: Pace) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    // Docker tries TLS first; that is no text.
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut authorized = login.is_none();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            authorized |= name.eq_ignore_ascii_case("authorization") && Some(value.trim()) == login;
        }
    }
    let found = state.lock().ok()?.files.get(&path).cloned();
    let (status, kind, content) = match found {
        _ if !authorized => ("401 Unauthorized", "text/plain", Vec::new()),
        _ if path == "/v2/" => ("200 OK", "text/plain", Vec::new()),
        Some((kind, content)) => ("200 OK", kind, content),
        None => ("404 Not Found", "text/plain", Vec::new()),
    };
    if status.starts_with("200") && method == "GET" {
        state.lock().ok()?.asked.push(path.clone());
    }
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\n\
         Docker-Distribution-API-Version: registry/2.0\r\nWWW-Authenticate: Basic realm=\"test\"\r\n\
         Connection: close\r\n\r\n",
        content.len(),
        digest(&content)
    )
    .ok()?;
    if method == "HEAD" {
        return Some(());
    }
    let layer = state.lock().ok()?.layers.contains(&path);
    match pace {
        Pace::Parts(parts, pause) if layer => {
            for part in content.chunks(content.len().div_ceil(parts)) {
                stream.write_all(part).ok()?;
                thread::sleep(pause);
            }
        }
        Pace::Stops if layer => {
            stream.write_all(content.get(..content.len() / 2)?).ok()?;
            // Until the other side gives up.
            let _ = reader.read_line(&mut line);
        }
        _ => stream.write_all(&content).ok()?,
    }
    Some(())
}
