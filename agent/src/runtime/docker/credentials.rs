//! What this host may show to a registry: the credentials of Docker's own configuration file, or of the helper that
//! it names. Called for each pull.
//!
//! Invariants: a file that others could have written is not believed; nothing of a credential is ever logged, shown
//! or kept longer than a pull. Credentials that cannot be had hinder no pull that needs none.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD};
use bollard::{BollardRequest, auth::DockerCredentials};
use nix::fcntl::OFlag;
use serde::Deserialize;
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, process::Command};

use crate::runtime::RuntimeError;

/// Registry of images without one in their name, and the name that Docker keeps its credentials under.
const HUB: &str = "docker.io";
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Largest configuration file, and answer of a helper, that is read.
const MAX: u64 = 1 << 20;
/// A helper's user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What every helper says when it has nothing; see Docker's credential helpers' protocol.
const NOT_FOUND: &str = "credentials not found";

/// Docker's `config.json`; what is not about credentials is passed over.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConfigFile {
    auths: HashMap<String, Entry>,
    creds_store: String,
    cred_helpers: HashMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// Base64 of `user:password`.
    auth: String,
    username: String,
    password: String,
    #[serde(alias = "identityToken")]
    identitytoken: String,
    #[serde(alias = "registryToken")]
    registrytoken: String,
}

/// A helper's answer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    username: String,
    secret: String,
}

/// The credentials for an image's registry, if the file at `path` has any. A file that is not there is no error; the
/// error says why what is there cannot be used, and what to do.
pub(super) async fn find(
    path: PathBuf,
    reference: &str,
    helper_limit: Duration,
) -> Result<Option<DockerCredentials>, String> {
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    let Some(config) = read.map_err(|e| e.to_string())?? else {
        return Ok(None);
    };
    let registry = registry(reference);
    if let Some(helper) = helper(&config, registry)
        && let Some(found) = ask(helper, registry, helper_limit).await?
    {
        return Ok(Some(found));
    }
    entry(&config, registry).map_or(Ok(None), |entry| from_entry(entry, registry))
}

/// How a pull ended that may have lacked its credentials: only a failure is explained by that.
pub(super) fn explain(outcome: Result<(), RuntimeError>, lacked: Option<String>) -> Result<(), RuntimeError> {
    match (outcome, lacked) {
        (Err(RuntimeError::Refused(words)), Some(why)) => Err(RuntimeError::Refused(format!(
            "{words} (tried without registry credentials: {why})"
        ))),
        (outcome, _) => outcome,
    }
}

/// Reads the file, if it is there and nobody but its owner, root or this agent's user, can have written it.
fn read(path: &Path) -> Result<Option<ConfigFile>, String> {
    let at = path.display();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(format!("cannot read {at}: {e}")),
    };
    // Of the opened file: its name may meanwhile be another one's.
    let facts = file.metadata().map_err(|e| format!("cannot read {at}: {e}"))?;
    if !facts.is_file() {
        return Err(format!("{at} is not a file"));
    }
    if facts.uid() != 0 && facts.uid() != nix::unistd::geteuid().as_raw() {
        return Err(format!(
            "{at} belongs to user {} and is not believed: chown root {at}",
            facts.uid()
        ));
    }
    if facts.mode() & 0o022 != 0 {
        return Err(format!(
            "{at} can be written by others and is not believed: chmod go-w {at}"
        ));
    }
    let mut bytes = Vec::new();
    file.take(MAX)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot read {at}: {e}"))?;
    // The parser's words may quote the content: only the place is told.
    let config = serde_json::from_slice(&bytes);
    config
        .map(Some)
        .map_err(|e| format!("{at}:{}:{}: is not Docker's configuration", e.line(), e.column()))
}

/// The registry that an image reference names.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => canonical(first),
        _ => HUB,
    }
}

/// A key of the file as a registry: without scheme and path, the Hub under one name.
fn canonical(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    match key.split('/').next().unwrap_or(key) {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => HUB,
        host => host,
    }
}

/// The value under the registry's own name, else under another spelling of it.
fn of_registry<'a, V>(map: &'a HashMap<String, V>, registry: &str) -> Option<&'a V> {
    map.get(key(registry)).or_else(|| map.get(registry)).or_else(|| {
        let mut others: Vec<_> = map.iter().filter(|(k, _)| canonical(k) == registry).collect();
        others.sort_by_key(|(k, _)| k.as_str());
        others.first().map(|(_, v)| *v)
    })
}

fn key(registry: &str) -> &str {
    if registry == HUB { HUB_KEY } else { registry }
}

fn helper<'a>(config: &'a ConfigFile, registry: &str) -> Option<&'a str> {
    of_registry(&config.cred_helpers, registry)
        .or(Some(&config.creds_store))
        .map(String::as_str)
        .filter(|name| !name.is_empty())
}

fn entry<'a>(config: &'a ConfigFile, registry: &str) -> Option<&'a Entry> {
    of_registry(&config.auths, registry)
}

fn from_entry(entry: &Entry, registry: &str) -> Result<Option<DockerCredentials>, String> {
    let (mut username, mut password) = (entry.username.clone(), entry.password.clone());
    if !entry.auth.is_empty() {
        let bad = || format!("auths.{registry}.auth is not base64 of USER:PASSWORD: docker login {registry}");
        let text = entry.auth.trim();
        let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text));
        let text = String::from_utf8(bytes.map_err(|_| bad())?).map_err(|_| bad())?;
        let (user, secret) = text.split_once(':').ok_or_else(bad)?;
        // Docker pads the password with zeros at times.
        (username, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let credentials = DockerCredentials {
        username: some(&username),
        password: some(&password),
        identitytoken: some(&entry.identitytoken),
        registrytoken: some(&entry.registrytoken),
        ..DockerCredentials::default()
    };
    // An empty entry says that a helper has it.
    if credentials == DockerCredentials::default() {
        return Ok(None);
    }
    Ok(Some(DockerCredentials {
        serveraddress: Some(key(registry).to_owned()),
        ..credentials
    }))
}

/// Asks `docker-credential-NAME` of this host. `None`: it has nothing for the registry.
async fn ask(name: &str, registry: &str, limit: Duration) -> Result<Option<DockerCredentials>, String> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !plain {
        return Err("a credential helper's name is not a plain word".into());
    }
    consult(&format!("docker-credential-{name}"), registry, limit).await
}

/// Asks one helper's program.
async fn consult(program: &str, registry: &str, limit: Duration) -> Result<Option<DockerCredentials>, String> {
    let answer = tokio::time::timeout(limit, run(program, key(registry))).await;
    let (success, output) = match answer {
        Err(_) => {
            return Err(format!(
                "{program} gave no answer within {}",
                humantime::format_duration(limit)
            ));
        }
        Ok(Err(e)) => return Err(format!("cannot run {program}: {e}; install it in the agent's PATH")),
        Ok(Ok(answer)) => answer,
    };
    if !success {
        if String::from_utf8_lossy(&output).contains(NOT_FOUND) {
            return Ok(None);
        }
        // Its own words might hold what must not be shown.
        return Err(format!(
            "{program} failed; see why with: echo {} | {program} get",
            key(registry)
        ));
    }
    let secret: Secret =
        serde_json::from_slice(&output).map_err(|_| format!("{program} gave no answer that can be read"))?;
    let mut credentials = DockerCredentials {
        serveraddress: Some(key(registry).to_owned()),
        ..DockerCredentials::default()
    };
    if secret.username == TOKEN_USER {
        credentials.identitytoken = Some(secret.secret);
    } else {
        (credentials.username, credentials.password) = (Some(secret.username), Some(secret.secret));
    }
    Ok(Some(credentials))
}

/// Whether it ended well, and what it said. It is killed when the caller stops waiting.
async fn run(program: &str, registry: &str) -> io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        // The agent's own secret is none of its affairs.
        .env_remove("WHARF_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading has its reasons; its answer counts.
        let _ = stdin.write_all(registry.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}

/// Makes the credentials of a request readable for the engine: it expects base64 in its form for URLs, bollard
/// writes the other one, and the engine takes what it cannot decode for no credentials at all.
pub(super) fn url_safe(mut request: BollardRequest) -> BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("x-registry-auth")
        && let Ok(text) = value.to_str()
        && let Ok(mut changed) = text.replace('+', "-").replace('/', "_").parse()
    {
        std::mem::swap(value, &mut changed);
        value.set_sensitive(true);
    }
    request
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
