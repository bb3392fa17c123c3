//! Joining by itself: what is refused before anything is sent, which answers are believed, and how it ends after a crash.
//! With a coordinator it is tested end to end.

use super::*;
use crate::ca::issue::{AuthorityCert, new_intermediate, new_root, parse_csr, sign_intermediate};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const OTHER: &str = "1f8fad5b-d9cb-469f-a165-70867728950e";
const NOW: u64 = 1_800_000_000_000;

fn token(role: Role, root_spki: [u8; 32]) -> JoinToken {
    JoinToken {
        role,
        id: "k7x2p9".into(),
        secret: [7; 32],
        root_spki,
    }
}

fn options(dir: &Path) -> JoinOptions {
    JoinOptions {
        data_dir: dir.to_owned(),
        token: token(Role::Coordinator, [9; 32]).reveal(),
        // Nobody listens there.
        peers: vec!["127.0.0.1:1".into()],
        name: Some("c2".into()),
        advertise: Some("127.0.0.1:7443".into()),
        enrol: None,
        now_ms: NOW,
        times: JoinTimes {
            rounds: 1,
            ..JoinTimes::default()
        },
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_before_anything_is_made() {
    let parent = tempfile::tempdir().expect("directory");
    let dir = parent.path().join("data");
    type Change = fn(&mut JoinOptions);
    let cases: [(&str, Change); 11] = [
        ("--peers: \"h\" is not HOST:PORT", |o| o.peers = vec!["h".into()]),
        ("--peers: \"u@h:1\"", |o| o.peers.push("u@h:1".into())),
        ("--advertise \"h\"", |o| o.advertise = Some("h".into())),
        ("--advertise \"h:65535\"", |o| o.advertise = Some("h:65535".into())),
        ("--enrol \"h:0\"", |o| o.enrol = Some("h:0".into())),
        ("--name: \"C_2\"", |o| o.name = Some("C_2".into())),
        ("--name: \"c2.example\"", |o| o.name = Some("c2.example".into())),
        ("--name: ", |o| o.name = Some("a".repeat(64))),
        ("this is not a join token", |o| o.token = "hello".into()),
        ("the join token is damaged", |o| {
            o.token.pop();
        }),
        ("make one with `wharf token create --role coordinator`", |o| {
            o.token = token(Role::Agent, [9; 32]).reveal();
        }),
    ];
    for (words, change) in cases {
        let mut options = options(&dir);
        change(&mut options);
        let error = join(&options).await.expect_err(words).to_string();
        assert!(error.contains(words) && error.lines().count() == 1, "{error}");
        assert!(!error.contains(&options.token) || options.token == "hello", "{error}");
        assert!(!dir.exists(), "{words}");
    }
    let missing = read_token(None, Some(&dir.join("token")))
        .expect_err("no file")
        .to_string();
    assert!(
        missing.starts_with("--token-file ") && missing.contains("data/token"),
        "{missing}"
    );
    assert!(read_token(None, None).expect_err("none").is_usage());
    assert!(!format!("{:?}", options(&dir)).contains("wharf1"));
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    for name in [
        "cluster.json",
        "cluster.key",
        "ca",
        "admin.yaml",
        SqliteStore::FILE,
        ".init",
    ] {
        let dir = tempfile::tempdir().expect("directory");
        std::fs::write(dir.path().join(name), "").expect("write");
        let error = join(&options(dir.path())).await.expect_err("in use");
        assert!(matches!(error, JoinError::Directory(_)), "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1, "{name}");
    }
}

#[tokio::test]
async fn an_unreachable_peer_keeps_the_key_for_the_next_attempt() {
    let parent = tempfile::tempdir().expect("directory");
    let dir = parent.path().join("data");
    let key = dir.join(".join/ca/intermediate.key");
    let error = join(&options(&dir)).await.expect_err("nobody there");
    assert!(matches!(error, JoinError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("run the same command again") && error.to_string().lines().count() == 1);
    let first = std::fs::read(&key).expect("kept");
    join(&options(&dir)).await.expect_err("nobody there");
    assert_eq!(std::fs::read(&key).expect("kept"), first);
    // A new cluster is not made over it.
    let init = init::InitOptions {
        data_dir: dir.clone(),
        advertise: None,
        name: None,
        now_ms: NOW,
    };
    let store = async |_| -> Result<std::sync::Arc<dyn crate::store::Store>, crate::store::OpenError> {
        panic!("opened a store")
    };
    let refused = init::init(init, Vec::new(), store).await.expect_err("begun");
    assert!(matches!(refused, InitError::Joining { .. }), "{refused}");
    std::fs::write(&key, "cut").expect("write");
    let error = join(&options(&dir)).await.expect_err("damaged").to_string();
    assert!(error.contains("intermediate.key: it does not parse"), "{error}");
}

struct Signed {
    root: AuthorityCert,
    key: KeyPair,
    token: JoinToken,
    reply: wire::JoinCoordinatorReply,
}

fn answer() -> Signed {
    let root = new_root(CLUSTER, NOW).expect("root");
    let key = KeyPair::generate().expect("key");
    let public = parse_csr(&csr(&key).expect("request")).expect("parses");
    let intermediate = sign_intermediate(&root.pem, &root.key, &public, "c2", NOW).expect("signed");
    let chain_pem = format!("{intermediate}{}", root.pem);
    let issuer = Issuer::new(CLUSTER, &chain_pem, &key.serialize_pem()).expect("whole");
    Signed {
        token: token(Role::Coordinator, spki_sha256(&issuer.root).expect("key")),
        root,
        key,
        reply: wire::JoinCoordinatorReply {
            chain_pem,
            cluster_id: CLUSTER.into(),
            incarnation: OTHER.into(),
            cluster_key: vec![5; 32],
            coordinators: vec!["h:7443".into()],
            store: "etcd".into(),
            term: 3,
            revision: 9,
        },
    }
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_refused() {
    type Change = fn(&mut Signed);
    let cases: [(&str, Change); 7] = [
        ("another cluster", |s| s.reply.cluster_id = OTHER.into()),
        ("the intermediate's key", |s| s.key = KeyPair::generate().expect("key")),
        ("its root is not the token's", |s| s.token.root_spki = [9; 32]),
        ("the intermediate, then the root", |s| s.reply.chain_pem.clear()),
        ("it is not whole", |s| s.reply.incarnation.clear()),
        ("it is not whole", |s| s.reply.coordinators.clear()),
        ("not a cluster key", |s| {
            s.reply.cluster_key.pop();
        }),
    ];
    for (words, change) in cases {
        let mut s = answer();
        change(&mut s);
        let refused = Answer::check(CLUSTER, &s.token, &s.key, s.reply)
            .map(|_| ())
            .expect_err(words);
        assert!(refused.contains(words), "{words}: {refused}");
    }
    // The real root, and an intermediate that another one signed for this very key.
    let mut s = answer();
    let other = new_root(CLUSTER, NOW).expect("root");
    let public = parse_csr(&csr(&s.key).expect("request")).expect("parses");
    let foreign = sign_intermediate(&other.pem, &other.key, &public, "c2", NOW).expect("signed");
    s.reply.chain_pem = format!("{foreign}{}", s.root.pem);
    let refused = Answer::check(CLUSTER, &s.token, &s.key, s.reply).map(|_| ());
    assert_eq!(refused, Err("its root did not sign the intermediate".into()));
    // One that was made here as `init` makes it is not for this key either.
    let own = new_intermediate(&s.root, "c2", NOW).expect("intermediate");
    assert_ne!(own.key.serialized_der(), s.key.serialized_der());
}

#[test]
fn a_crash_between_any_two_names_is_finished() {
    for renamed in 0..=4 {
        let dir = tempfile::tempdir().expect("directory");
        let layout = Layout::new(dir.path());
        let staged = Layout::new(&layout.joining());
        let s = answer();
        std::fs::create_dir_all(staged.ca_dir()).expect("directory");
        std::fs::write(staged.intermediate_key(), s.key.serialize_pem()).expect("write");
        let answer = Answer::check(CLUSTER, &s.token, &s.key, s.reply).expect("believed");
        answer.stage(&staged, "c2").expect("staged");
        let names = ["cluster.key", "ca", "served.json", "cluster.json"];
        for name in &names[..renamed] {
            std::fs::rename(staged.dir().join(name), dir.path().join(name)).expect("rename");
        }
        if renamed == names.len() {
            // All but the empty directory is done: it is a coordinator's by now.
            assert!(init::refuse_to_overwrite(&layout).is_err());
            continue;
        }
        assert!(!layout.cluster_file().exists(), "the mark comes last");
        let report = finish(&layout, &staged, String::new()).expect("finished");
        assert_eq!((report.name.as_str(), report.cluster.as_str()), ("c2", CLUSTER));
        assert!(!layout.joining().exists());
        assert!(layout.issuer(CLUSTER).is_ok());
        let guard = Guard::open(dir.path()).expect("mark");
        let mark = guard.last().expect("a mark");
        assert_eq!((mark.term, mark.revision, mark.incarnation.as_str()), (3, 9, OTHER));
    }
}

#[test]
fn nothing_is_overwritten_at_the_end_either() {
    let dir = tempfile::tempdir().expect("directory");
    let layout = Layout::new(dir.path());
    let staged = Layout::new(&layout.joining());
    let s = answer();
    std::fs::create_dir_all(staged.ca_dir()).expect("directory");
    let answer = Answer::check(CLUSTER, &s.token, &s.key, s.reply).expect("believed");
    answer.stage(&staged, "c2").expect("staged");
    std::fs::write(layout.cluster_key(), "another's").expect("write");
    let error = finish(&layout, &staged, String::new())
        .expect_err("in the way")
        .to_string();
    assert!(error.contains("choose another --data-dir"), "{error}");
    assert_eq!(std::fs::read(layout.cluster_key()).expect("read"), b"another's");
    assert!(!layout.cluster_file().exists());
}
