//! Which credentials a reference gets, from which files and helpers, and that none of them shows in an error.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;

const CANARY: &str = "canary-secret";

fn config(json: &str) -> ConfigFile {
    serde_json::from_str(json).expect("a configuration")
}

fn auth(user: &str, password: &str) -> String {
    STANDARD.encode(format!("{user}:{password}"))
}

/// User and password, or tokens.
fn found(json: &str, reference: &str) -> Option<(String, String)> {
    let registry = registry(reference);
    let given = from_entry(entry(&config(json), registry)?, registry).expect("readable")?;
    let text = |t: Option<String>| t.unwrap_or_default();
    Some(match (given.identitytoken, given.registrytoken) {
        (Some(token), _) => ("identity".into(), token),
        (_, Some(token)) => ("registry".into(), token),
        _ => (text(given.username), text(given.password)),
    })
}

#[test]
fn registries_of_references() {
    for (reference, name) in [
        ("nginx", HUB),
        ("nginx:1.27", HUB),
        ("team/app:1", HUB),
        ("docker.io/library/nginx", HUB),
        ("index.docker.io/team/app", HUB),
        ("localhost/app", "localhost"),
        ("localhost:5000/app:1", "localhost:5000"),
        ("registry.example.org/team/app@sha256:ab", "registry.example.org"),
    ] {
        assert_eq!(registry(reference), name, "{reference}");
    }
}

#[test]
fn entries_by_every_spelling_of_a_registry() {
    let a = auth("u", "p:w");
    for (key, reference, matches) in [
        ("https://index.docker.io/v1/", "nginx", true),
        ("index.docker.io", "team/app", true),
        ("docker.io", "nginx", true),
        ("registry-1.docker.io", "nginx", true),
        ("r.example.org", "r.example.org/app", true),
        ("https://r.example.org", "r.example.org/app", true),
        ("https://r.example.org/v2/", "r.example.org/app", true),
        ("http://r.example.org:5000", "r.example.org:5000/app", true),
        ("r.example.org", "r.example.org:5000/app", false),
        ("r.example.org", "nginx", false),
        ("example.org", "r.example.org/app", false),
        ("docker.io.example.org", "nginx", false),
    ] {
        let json = format!(r#"{{"auths":{{"{key}":{{"auth":"{a}"}}}},"psFormat":"x"}}"#);
        let expected = matches.then(|| ("u".to_owned(), "p:w".to_owned()));
        assert_eq!(found(&json, reference), expected, "{key} {reference}");
    }
    // The exact name before another spelling.
    let json = format!(
        r#"{{"auths":{{"https://r.io/v1/":{{"auth":"{}"}},"r.io":{{"auth":"{}"}}}}}}"#,
        auth("old", "x"),
        auth("new", "y")
    );
    assert_eq!(found(&json, "r.io/a").expect("found").0, "new");
}

#[test]
fn kinds_of_entries() {
    for (json, expected) in [
        (r#"{}"#, None),
        (r#"{"username":"u","password":"p"}"#, Some(("u", "p"))),
        (r#"{"auth":"","identitytoken":"t"}"#, Some(("identity", "t"))),
        (r#"{"registrytoken":"t"}"#, Some(("registry", "t"))),
        // Padded by Docker with zeros; and without padding.
        (r#"{"auth":"dTpwAAA="}"#, Some(("u", "p"))),
        (r#"{"auth":"dTpwdw"}"#, Some(("u", "pw"))),
    ] {
        let text = format!(r#"{{"auths":{{"r.io":{json}}}}}"#);
        let expected = expected.map(|(u, p)| (u.to_owned(), p.to_owned()));
        assert_eq!(found(&text, "r.io/a"), expected, "{json}");
    }
    for bad in ["!!!", "bm9jb2xvbg=="] {
        let entry = Entry {
            auth: bad.into(),
            ..Entry::default()
        };
        let error = from_entry(&entry, "r.io").expect_err("refused");
        assert!(error.contains("auths.r.io.auth") && !error.contains(bad), "{error}");
    }
}

#[test]
fn helpers_by_registry_then_the_store() {
    let both = config(r#"{"credsStore":"all","credHelpers":{"r.io":"one","docker.io":"hub"}}"#);
    assert_eq!(helper(&both, "r.io"), Some("one"));
    assert_eq!(helper(&both, HUB), Some("hub"));
    assert_eq!(helper(&both, "other.io"), Some("all"));
    assert_eq!(helper(&config("{}"), "r.io"), None);
}

fn write(dir: &tempfile::TempDir, mode: u32, text: &str) -> PathBuf {
    let path = dir.path().join("config.json");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
    path
}

fn whole(password: &str) -> String {
    format!(r#"{{"auths":{{"r.io":{{"auth":"{}"}}}}}}"#, auth("u", password))
}

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_file_that_others_can_write_is_not_believed() {
    let dir = tempfile::tempdir().expect("a directory");
    for (mode, believed) in [(0o600, true), (0o644, true), (0o664, false), (0o602, false)] {
        let result = find(write(&dir, mode, &whole(CANARY)), "r.io/a:1", LIMIT).await;
        match result {
            Ok(found) => assert!(believed && found.is_some_and(|f| f.password.as_deref() == Some(CANARY))),
            Err(e) => {
                assert!(!believed, "{mode:o}");
                assert!(e.contains("chmod go-w"), "{e}");
                assert!(!e.contains(CANARY) && !e.contains('\n'), "{e}");
            }
        }
    }
    if nix::unistd::geteuid().is_root() {
        let path = write(&dir, 0o600, &whole(CANARY));
        nix::unistd::chown(&path, Some(nix::unistd::Uid::from_raw(1234)), None).expect("changed");
        let words = find(path, "r.io/a", LIMIT).await.expect_err("refused");
        assert!(words.contains("user 1234") && words.contains("chown root"), "{words}");
    }
}

#[tokio::test]
async fn a_file_is_read_anew_each_time_and_its_absence_is_no_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("config.json");
    assert_eq!(find(missing.clone(), "r.io/a", LIMIT).await, Ok(None));
    assert_eq!(find(missing.join("below"), "r.io/a", LIMIT).await, Ok(None));
    for password in ["one", "two"] {
        let path = write(&dir, 0o600, &whole(password));
        let found = find(path, "r.io/a", LIMIT).await.expect("read").expect("there");
        assert_eq!(found.password.as_deref(), Some(password));
    }
    let broken = write(&dir, 0o600, &format!("{{\"auths\":\n {CANARY}"));
    let words = find(broken, "r.io/a", LIMIT).await.expect_err("refused");
    assert!(words.contains("config.json:2:") && !words.contains(CANARY), "{words}");
    let words = find(dir.path().into(), "r.io/a", LIMIT).await.expect_err("refused");
    assert!(words.contains("is not a file"), "{words}");
}

/// A helper's program, by its whole path.
fn program(dir: &tempfile::TempDir, name: &str, body: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("set");
    path.to_str().expect("text").to_owned()
}

#[tokio::test]
async fn what_a_helper_says() {
    let dir = tempfile::tempdir().expect("a directory");
    // Passes on what it was asked.
    let good = program(
        &dir,
        "good",
        r#"read r; echo "{\"ServerURL\":\"$r\",\"Username\":\"$r\",\"Secret\":\"$1\"}""#,
    );
    let (success, output) = run(&good, "r.io").await.expect("ran");
    assert!(success);
    let secret: Secret = serde_json::from_slice(&output).expect("an answer");
    assert_eq!((secret.username.as_str(), secret.secret.as_str()), ("r.io", "get"));
    // One that does not read its question.
    let deaf = program(&dir, "deaf", "exit 3");
    assert!(!run(&deaf, "r.io").await.expect("ran").0);
    assert!(run("docker-credential-nosuch", "r.io").await.is_err());
    let words = ask("nosuch", "r.io", LIMIT).await.expect_err("refused");
    assert!(words.contains("cannot run docker-credential-nosuch"), "{words}");
    let words = ask("../x", "r.io", LIMIT).await.expect_err("refused");
    assert!(!words.contains("../x"), "{words}");
}

#[tokio::test]
async fn a_helper_that_does_not_answer_is_left_and_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let hangs = program(&dir, "hangs", "exec sleep 1000");
    let words = consult(&hangs, "r.io", Duration::from_millis(20)).await;
    let words = words.expect_err("no answer");
    assert!(words.contains("hangs gave no answer within 20ms"), "{words}");
    // One that has begun ends when nobody waits for it any more.
    let written = dir.path().join("pid");
    let begins = program(
        &dir,
        "begins",
        &format!("echo $$ >{}\nexec sleep 1000", written.display()),
    );
    let pid = async {
        loop {
            let text = fs::read_to_string(&written).unwrap_or_default();
            if text.ends_with('\n') {
                return text.trim().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let pid = tokio::select! {
        ended = run(&begins, "r.io") => panic!("it ended: {ended:?}"),
        pid = pid => pid,
    };
    let stat = Path::new("/proc").join(pid).join("stat");
    let alive = || fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z "));
    for _ in 0..2_000 {
        if !alive() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the helper runs on");
}

#[test]
fn only_a_failure_is_explained_by_missing_credentials() {
    let why = || Some("chmod go-w x".to_owned());
    assert_eq!(explain(Ok(()), why()), Ok(()));
    let refused = |words: &str| Err(RuntimeError::Refused(words.to_owned()));
    assert_eq!(
        explain(refused("no"), why()),
        refused("no (tried without registry credentials: chmod go-w x)")
    );
    assert_eq!(explain(refused("no"), None), refused("no"));
    let away = || Err(RuntimeError::Unavailable("away".into()));
    assert_eq!(explain(away(), why()), away());
}

#[test]
fn the_engine_can_decode_every_password() {
    let request = |value: &str| {
        let request = http::Request::builder()
            .header("X-Registry-Auth", value)
            .body(bollard::body_full("".into()));
        url_safe(request.expect("a request"))
    };
    let sent = request("ab+/cd==");
    let value = &sent.headers()["x-registry-auth"];
    assert_eq!(value, "ab-_cd==");
    assert!(value.is_sensitive());
}
