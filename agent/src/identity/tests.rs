//! What needs no coordinator: addresses and the file on disk. Joining itself is tested end to end.

use std::path::Path;

use proto::{identity::Identity as CertIdentity, wire};
use rcgen::{CertificateParams, KeyPair, SanType};

use super::{disk, enrol::enrol_addresses, *};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn options(coordinators: &[&str], enrol: &[&str]) -> EnrolOptions {
    EnrolOptions {
        data_dir: "/nowhere".into(),
        coordinators: coordinators.iter().map(ToString::to_string).collect(),
        enrol: enrol.iter().map(ToString::to_string).collect(),
        token: "secret-token".into(),
        name: "n1".into(),
        machine_id: String::new(),
        shared_host: true,
        architecture: String::new(),
        operating_system: String::new(),
        times: EnrolTimes::default(),
    }
}

#[test]
fn enrolment_is_on_the_next_port_unless_stated() {
    let addresses = |c: &[&str], e: &[&str]| enrol_addresses(&options(c, e)).map_err(|e| e.to_string());
    assert_eq!(
        addresses(&["h:7443", "[::1]:9"], &[]),
        Ok(vec!["h:7444".into(), "[::1]:10".into()])
    );
    assert_eq!(addresses(&["h:7443"], &["g:1"]), Ok(vec!["g:1".into()]));
    assert_eq!(
        addresses(&["h"], &[]),
        Err("--coordinators: \"h\" is not HOST:PORT".into())
    );
    assert!(addresses(&["h:65535"], &[]).is_err());
    assert!(addresses(&[":1"], &[]).is_err());
    assert!(addresses(&["h:1"], &["g"]).is_err());
    assert!(addresses(&[], &[]).is_err());
    assert!(!format!("{:?}", options(&["h:1"], &[])).contains("secret-token"));
}

fn issued(key: &KeyPair, role: proto::identity::Role, id: &str) -> wire::Issued {
    let uri = CertIdentity {
        cluster: CLUSTER.into(),
        role,
        id: id.into(),
    }
    .uri();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ascii"))];
    let pem = params.self_signed(key).expect("certificate").pem();
    wire::Issued {
        certificate_chain_pem: pem.clone(),
        ca_pem: pem,
        not_after: 300,
        renew_after: 100,
    }
}

fn identity(key: &KeyPair) -> Identity {
    let issued = issued(key, proto::identity::Role::Agent, "n1");
    Identity::from_issued(CLUSTER, "n1", vec!["h:1".into()], key, issued).expect("belongs together")
}

#[test]
fn an_answer_for_another_key_name_role_or_cluster_is_refused() {
    use proto::identity::Role;
    let (key, other) = (disk::new_key().expect("key"), disk::new_key().expect("key"));
    let refused = |cluster: &str, issued| {
        Identity::from_issued(cluster, "n1", Vec::new(), &key, issued)
            .expect_err("refused")
            .to_string()
    };
    assert!(refused(CLUSTER, issued(&other, Role::Agent, "n1")).contains("do not belong together"));
    assert!(refused(CLUSTER, issued(&key, Role::Agent, "n2")).contains("names agent/n2"));
    assert!(refused(CLUSTER, issued(&key, Role::User, "n1")).contains("names user/n1"));
    assert!(refused("another", issued(&key, Role::Agent, "n1")).contains("names agent/n1"));
    let mut cut = issued(&key, Role::Agent, "n1");
    cut.ca_pem.clear();
    assert!(refused(CLUSTER, cut).contains("root does not parse"));
    assert!(refused(CLUSTER, wire::Issued::default()).contains("certificate does not parse"));
}

#[test]
fn a_damaged_file_is_named_and_shows_no_key() {
    let dir = tempfile::tempdir().expect("directory");
    assert_eq!(Identity::load(dir.path()).expect("nothing there"), None);
    let key = disk::new_key().expect("key");
    let good = identity(&key);
    good.save(dir.path()).expect("saves");
    assert_eq!(Identity::load(dir.path()).expect("loads"), Some(good));
    let path = dir.path().join("identity/identity.json");
    let text = std::fs::read_to_string(&path).expect("read");
    let other = disk::new_key()
        .expect("key")
        .serialize_pem()
        .replace('\n', "\\n")
        .replace('\r', "\\r");
    let mine = key.serialize_pem().replace('\n', "\\n").replace('\r', "\\r");
    assert!(text.contains(&mine));
    for damaged in [
        text[..text.len() / 2].to_owned(),
        String::new(),
        text.replace(&mine, &other),
        text.replace(&mine, "x"),
        text.replace("\"node\": \"n1\"", "\"node\": \"n2\""),
        // A value of the wrong type, which a decoder likes to quote.
        text.replace("\"notAfter\": 300", &format!("\"notAfter\": \"{mine}\"")),
    ] {
        assert_ne!(damaged, text);
        std::fs::write(&path, damaged).expect("write");
        let error = Identity::load(dir.path()).expect_err("damaged").to_string();
        assert!(error.starts_with(&format!("{}: damaged", path.display())), "{error}");
        assert!(!error.contains("PRIVATE KEY") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn the_enrolments_key_is_made_once() {
    let dir = tempfile::tempdir().expect("directory");
    let one = disk::enrolment_key(dir.path()).expect("key");
    let two = disk::enrolment_key(dir.path()).expect("key");
    assert_eq!(one.serialized_der(), two.serialized_der());
    disk::forget_enrolment_key(dir.path());
    disk::forget_enrolment_key(dir.path());
    assert_ne!(
        disk::enrolment_key(dir.path()).expect("key").serialized_der(),
        one.serialized_der()
    );
    std::fs::write(dir.path().join("identity/enrol-key.pem"), "cut").expect("write");
    let error = disk::enrolment_key(dir.path()).expect_err("damaged").to_string();
    assert!(error.contains("enrol-key.pem: damaged"), "{error}");
    assert!(disk::enrolment_key(Path::new("/proc/nowhere")).is_err());
}
