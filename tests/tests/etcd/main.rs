//! The coordinator's program on real etcd, without containers: made, started, refused, cut off, restarted.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use harness::{
    etcd::{Etcd, EtcdSettings},
    eventually,
    program::{self, Background, Output},
};

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a directory"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn init(&self, data: &str, etcd: &[String]) -> Output {
        let mut command = Command::new(program::path("wharf-coordinator"));
        command.args(["init", "--advertise", "127.0.0.1:7443", "--data-dir"]);
        program::run(command.arg(self.path(data)).args(etcd))
    }

    fn args(&self, data: &str, etcd: &[String]) -> Vec<String> {
        let mut args: Vec<String> = ["run", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
            .map(str::to_owned)
            .to_vec();
        args.extend(["--data-dir".to_owned(), self.path(data).display().to_string()]);
        args.extend_from_slice(etcd);
        args
    }

    /// In the background, its log under `name`.
    fn start(&self, name: &str, data: &str, etcd: &[String]) -> Background {
        Background::start("wharf-coordinator", &self.args(data, etcd), self.path(name))
    }

    fn refused(&self, data: &str, etcd: &[String]) -> String {
        let mut command = Command::new(program::path("wharf-coordinator"));
        let out = program::run(command.args(self.args(data, etcd)));
        assert_eq!(out.code, 1, "{out:?}");
        out.stderr
    }
}

fn log(process: &Background) -> String {
    std::fs::read_to_string(&process.log).unwrap_or_default()
}

#[track_caller]
fn says(process: &Background, words: &str) {
    eventually(words, || {
        let text = log(process);
        text.contains(words).then_some(()).ok_or(text)
    });
}

fn cluster_of(out: &str) -> String {
    let line = out
        .lines()
        .find(|l| l.starts_with("cluster "))
        .expect("the cluster's line");
    line.split(' ').nth(1).expect("its id").to_owned()
}

fn store(endpoints: &[String], prefix: &str) -> Vec<String> {
    let endpoints = endpoints.join(",");
    [
        "--store",
        "etcd",
        "--etcd-endpoints",
        &endpoints,
        "--etcd-prefix",
        prefix,
    ]
    .map(str::to_owned)
    .to_vec()
}

#[test]
fn a_cluster_is_made_served_and_refused_where_it_is_not() {
    let (etcd, place) = (Etcd::start(1), Place::new());
    let blue = store(&etcd.endpoints(), "/blue/");
    let made = place.init("blue", &blue).ok();
    let cluster = cluster_of(&made);
    assert!(made.contains("--store etcd"), "{made}");
    // The prefix is taken; nothing is left of the attempt.
    let line = place.init("other", &blue).refused(1);
    assert!(line.contains(&cluster) && line.contains("--etcd-prefix"), "{line}");
    assert!(!place.path("other").exists());
    // Beside it there is room for another one.
    let green = store(&etcd.endpoints(), "/green");
    place.init("green", &green).ok();

    let refused = place.refused("blue", &green);
    assert!(refused.contains(&cluster) && refused.contains("/green/"), "{refused}");
    let refused = place.refused("blue", &store(&etcd.endpoints(), "/nothing/"));
    assert!(
        refused.contains("/nothing/") && refused.contains("holds no cluster"),
        "{refused}"
    );
    let refused = place.refused("blue", &[]);
    assert!(refused.contains("store.db is missing"), "{refused}");

    let mut first = place.start("first.log", "blue", &blue);
    says(&first, "serving");
    says(&first, "one member only");
    assert!(first.ended().is_none());
    drop(first);
    // As after any crash; the term is another one.
    let second = place.start("second.log", "blue", &blue);
    says(&second, "serving");
}

#[test]
fn etcd_that_is_away_is_waited_for_and_borne() {
    let (etcd, place) = (Etcd::start(1), Place::new());
    let options = store(&etcd.endpoints(), "/wharf/");
    place.init("d", &options).ok();
    etcd.kill(0);
    let mut coordinator = place.start("c.log", "d", &options);
    says(&coordinator, "etcd does not answer, trying again");
    let text = log(&coordinator);
    assert!(text.contains(&etcd.endpoint(0)) && text.contains("refused"), "{text}");
    etcd.restart(0);
    says(&coordinator, "serving");
    // Away for longer than every deadline: it ends nothing.
    etcd.kill(0);
    says(&coordinator, "does not serve here");
    std::thread::sleep(Duration::from_secs(12));
    assert!(coordinator.ended().is_none(), "{}", log(&coordinator));
    etcd.restart(0);
    says(&coordinator, "serves here again");
    assert!(coordinator.ended().is_none(), "{}", log(&coordinator));
}

struct Certificates {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// A CA and a certificate for 127.0.0.1 that serves both ends.
fn certificates(dir: &Path, name: &str) -> Certificates {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let ca = params.self_signed(&key).expect("a CA");
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&own, &issuer).expect("a certificate");
    let write = |file: &str, text: String| {
        let path = dir.join(format!("{name}-{file}"));
        std::fs::write(&path, text).expect("a file");
        path
    };
    Certificates {
        ca: write("ca.pem", ca.pem()),
        cert: write("cert.pem", leaf.pem()),
        key: write("key.pem", own.serialize_pem()),
    }
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let place = Place::new();
    let (ours, theirs) = (
        certificates(place.dir.path(), "ours"),
        certificates(place.dir.path(), "theirs"),
    );
    let tls = Some((ours.ca.clone(), ours.cert.clone(), ours.key.clone()));
    let etcd = Etcd::with(
        1,
        EtcdSettings {
            tls,
            ..EtcdSettings::default()
        },
    );
    let with = |ca: &Certificates, own: Option<&Certificates>| {
        let mut args = store(&etcd.endpoints(), "/wharf/");
        args.extend(["--etcd-ca".to_owned(), ca.ca.display().to_string()]);
        if let Some(own) = own {
            args.extend(["--etcd-cert".to_owned(), own.cert.display().to_string()]);
            args.extend(["--etcd-key".to_owned(), own.key.display().to_string()]);
        }
        args
    };
    place.init("d", &with(&ours, Some(&ours))).ok();
    let served = place.start("well.log", "d", &with(&ours, Some(&ours)));
    says(&served, "serving");
    drop(served);
    let wrong_ca = place.start("ca.log", "d", &with(&theirs, Some(&ours)));
    says(&wrong_ca, "its certificate is not one of --etcd-ca's");
    let wrong_own = place.start("own.log", "d", &with(&ours, Some(&theirs)));
    says(&wrong_own, "it refused our certificate");
    let none = place.start("none.log", "d", &with(&ours, None));
    says(&none, "it refused our certificate");
    let missing = place.refused("d", &{
        let mut args = store(&etcd.endpoints(), "/wharf/");
        args.extend(["--etcd-ca".to_owned(), "/no/such/ca.pem".to_owned()]);
        args
    });
    assert!(
        missing.contains("/no/such/ca.pem") && missing.contains("--etcd-ca"),
        "{missing}"
    );
}
