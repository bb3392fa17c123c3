//! The header by itself: what was written is read, and nothing else.

use proptest::prelude::*;
use proto::identity::Role;

use super::*;

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn written(caller: &Caller) -> HeaderMap {
    let mut headers = HeaderMap::new();
    caller.to_headers(&mut headers).expect("fits");
    headers
}

fn read(text: &str) -> Result<Option<Caller>, Denied> {
    let mut headers = HeaderMap::new();
    headers.insert(HEADER, HeaderValue::from_str(text).expect("a value"));
    Caller::from_headers(&headers)
}

fn callers() -> impl Strategy<Value = Caller> {
    let role = prop_oneof![Just(Role::Agent), Just(Role::User), Just(Role::Coordinator)];
    let issuer = prop_oneof![Just(String::new()), "[0-9a-f]{64}"];
    (
        role,
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        "[0-9a-f]{1,40}",
        any::<u64>(),
        "[0-9a-f]{64}",
        issuer,
    )
        .prop_map(|(role, id, serial, not_after, key, issuer)| Caller {
            identity: Identity {
                cluster: CLUSTER.into(),
                role,
                id,
            },
            serial,
            not_after,
            deleted: false,
            generation: 0,
            key,
            issuer,
        })
}

fn one() -> Caller {
    Caller {
        identity: Identity {
            cluster: CLUSTER.into(),
            role: Role::User,
            id: "admin".into(),
        },
        serial: "4f".into(),
        not_after: 7,
        deleted: true,
        generation: 9,
        key: "a".repeat(64),
        issuer: String::new(),
    }
}

#[test]
fn no_header_is_no_caller_and_a_second_one_is_refused() {
    assert_eq!(Caller::from_headers(&HeaderMap::new()), Ok(None));
    let mut headers = written(&one());
    // A caller's own header does not travel on.
    one().to_headers(&mut headers).expect("fits");
    assert_eq!(headers.get_all(HEADER).iter().count(), 1);
    let value = headers[HEADER].clone();
    headers.append(HEADER, value);
    assert_eq!(Caller::from_headers(&headers), Err(bad("stands twice")));
}

#[test]
fn what_the_registry_says_does_not_travel() {
    let caller = Caller::from_headers(&written(&one()))
        .expect("reads")
        .expect("a caller");
    assert_eq!((caller.deleted, caller.generation), (false, 0));
}

#[test]
fn anything_else_is_refused() {
    let good = written(&one())[HEADER].to_str().expect("text").to_owned();
    assert!(read(&good).is_ok());
    for (from, to) in [
        ("serial=", "Serial="),
        ("serial=4f", "serial="),
        ("serial=4f", "serial=4F"),
        ("serial=4f", &format!("serial={}", "4".repeat(41))),
        ("until=7", "until="),
        ("until=7", "until=+7"),
        ("until=7", "until=99999999999999999999"),
        (";until=7", ""),
        ("key=a", "key="),
        ("key=a", "key=g"),
        ("issuer=", "issuer=a"),
        (";issuer=", ""),
        (";serial", ";serial=4f;serial"),
        ("/user/", "/root/"),
        ("/user/admin", "/user/"),
        ("spiffe", " spiffe"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        assert_eq!(read(&text), Err(bad("is not one of ours")), "{text}");
    }
    for more in [";", ";x=1", " "] {
        assert!(read(&format!("{good}{more}")).is_err(), "{more:?}");
    }
    assert_eq!(
        read(&good.replace("admin", &"a".repeat(LONGEST))),
        Err(bad("is too long"))
    );
    assert_eq!(read(""), Err(bad("is not one of ours")));
    let mut headers = HeaderMap::new();
    headers.insert(HEADER, HeaderValue::from_bytes(b"\xff").expect("a value"));
    assert_eq!(Caller::from_headers(&headers), Err(bad("is no text")));
}

proptest! {
    #[test]
    fn what_is_written_is_read(caller in callers()) {
        prop_assert_eq!(Caller::from_headers(&written(&caller)), Ok(Some(caller)));
    }

    #[test]
    fn one_changed_character_is_another_caller_or_none(caller in callers(), at in any::<prop::sample::Index>(), to in 32..127_u8) {
        let mut text = written(&caller)[HEADER].as_bytes().to_vec();
        let at = at.index(text.len());
        prop_assume!(text[at] != to);
        text[at] = to;
        if let Ok(Some(other)) = read(std::str::from_utf8(&text).expect("ASCII")) {
            prop_assert_ne!(other, caller);
        }
    }

    #[test]
    fn never_panics(text in "[ -~]{0,700}") {
        let _ = read(&text);
    }
}
