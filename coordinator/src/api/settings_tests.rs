//! Show, Set, Freeze, Unfreeze.

use proto::wire::settings_server::Settings as _;
use tonic::Code;

use super::*;
use crate::{
    api::testing::{As, Bench, DenyAll, refused},
    world::settings::{EVENT_KEEP, HEARTBEAT},
};

fn service(bench: &Bench) -> SettingsService {
    SettingsService {
        api: Arc::clone(&bench.api),
        started: [(HEARTBEAT.name, 100)].into(),
    }
}

fn setting(pairs: &[(&str, &str)], unset: &[&str]) -> SetSettingsRequest {
    SetSettingsRequest {
        set: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        unset: unset.iter().map(|n| (*n).to_owned()).collect(),
        ..SetSettingsRequest::default()
    }
}

async fn set(bench: &Bench, request: SetSettingsRequest) -> Result<Vec<String>, Status> {
    let reply = service(bench).set(Request::new(request)).await;
    reply.map(|r| r.into_inner().changed)
}

async fn show(bench: &Bench) -> ShowSettingsReply {
    let reply = service(bench).show(Request::new(ShowSettingsRequest {})).await;
    reply.expect("shown").into_inner()
}

async fn shown(bench: &Bench, name: &str) -> (String, bool) {
    let reply = show(bench).await;
    let found = reply.settings.into_iter().find(|s| s.name == name).expect("there");
    (found.value, found.set)
}

#[tokio::test]
async fn set_and_unset_are_all_or_none_and_on_record() {
    let bench = Bench::new().await;
    assert_eq!(
        shown(&bench, "heartbeat").await,
        ("100ms".into(), false),
        "as it was started"
    );
    assert_eq!(show(&bench).await.settings.len(), ALL.len());
    let dry = SetSettingsRequest {
        dry_run: true,
        ..setting(&[("event-keep", "1h")], &[])
    };
    assert_eq!(set(&bench, dry).await.expect("valid"), ["event-keep"]);
    assert_eq!(shown(&bench, "event-keep").await, ("3days".into(), false));

    let both = setting(&[("event-keep", "60m"), ("brake-share", "20")], &[]);
    assert_eq!(
        set(&bench, both.clone()).await.expect("set"),
        ["brake-share", "event-keep"]
    );
    assert_eq!(set(&bench, both).await.expect("again"), [""; 0], "nothing is new");
    assert_eq!(shown(&bench, "brake-share").await, ("20%".into(), true));
    assert_eq!(bench.hub.read(|w| w.settings.given(&EVENT_KEEP)), Some(3_600_000));

    let one_bad = setting(&[("brake-share", "30")], &["event-keep", "brake-shares"]);
    let refusal = refused(set(&bench, one_bad).await);
    let words = "settings: no setting \"brake-shares\"; did you mean `brake-share`?";
    assert_eq!(refusal, (Code::InvalidArgument, words.to_owned()));
    assert_eq!(shown(&bench, "brake-share").await, ("20%".into(), true));
    let swap = setting(&[("heartbeat", "1s")], &["event-keep"]);
    assert_eq!(set(&bench, swap).await.expect("swapped"), ["event-keep", "heartbeat"]);
    assert_eq!(shown(&bench, "event-keep").await, ("3days".into(), false));
    assert_eq!(shown(&bench, "heartbeat").await, ("1s".into(), true));

    let audit = bench.store.values("audit/");
    assert_eq!(audit.len(), 2);
    assert_eq!(audit[1]["object"], "settings");
    assert_eq!(audit[1]["detail"], "event-keep 1h -> unset, heartbeat unset -> 1s");
    assert_eq!(audit[1]["before"], json!({"event-keep": "1h", "heartbeat": null}));
    assert_eq!(audit[1]["after"], json!({"event-keep": null, "heartbeat": "1s"}));
}

#[tokio::test]
async fn a_repeat_gets_the_first_answer() {
    let bench = Bench::new().await;
    let request = SetSettingsRequest {
        request_id: "r1".into(),
        ..setting(&[("event-keep", "1h"), ("heartbeat", "1s"), ("brake-share", "5")], &[])
    };
    let bytes = prost::Message::encode_to_vec(&request);
    for _ in 0..8 {
        // As each comes over the wire, in whatever order its map then has.
        let request: SetSettingsRequest = prost::Message::decode(&*bytes).expect("a request");
        let changed = set(&bench, request).await.expect("set");
        assert_eq!(changed, ["brake-share", "event-keep", "heartbeat"]);
    }
    assert_eq!(bench.store.values("audit/").len(), 1);
}

#[tokio::test]
async fn who_is_slower_decides_anew() {
    let bench = Bench::new().await;
    let rival = Change::put(
        keys::SETTINGS,
        Expect::Absent,
        br#"{"brake-share":"5%","novel":"1"}"#.to_vec(),
    );
    bench.store.rival(vec![rival]);
    set(&bench, setting(&[("event-keep", "1h")], &[])).await.expect("set");
    assert_eq!(
        shown(&bench, "brake-share").await,
        ("5%".into(), true),
        "the other's stays"
    );
    // What a newer release set can be taken back by its name.
    assert_eq!(set(&bench, setting(&[], &["novel"])).await.expect("unset"), ["novel"]);
}

#[tokio::test]
async fn bad_values_name_unit_and_bounds() {
    let bench = Bench::new().await;
    for (request, words) in [
        (
            setting(&[("heartbeat", "5")], &[]),
            "heartbeat: must be a time from 10ms to ",
        ),
        (
            setting(&[("heartbeat", "1ms")], &[]),
            "heartbeat: must be from 10ms to ",
        ),
        (
            setting(&[("brake-stop", "0%")], &[]),
            "brake-stop: must be from 1% to 100%; is \"0%\"",
        ),
        (
            setting(&[("no-such-thing-at-all", "1")], &[]),
            "no setting \"no-such-thing-at-all\"; wharf settings show",
        ),
        (
            setting(&[("heartbeat", "1s")], &["heartbeat"]),
            "heartbeat: both set and unset",
        ),
        (setting(&[], &[]), "nothing to set or unset"),
    ] {
        let (code, said) = refused(set(&bench, request).await);
        assert_eq!(code, Code::InvalidArgument);
        assert!(said.starts_with("settings: ") && said.contains(words), "{said}");
    }
    assert!(bench.store.values("settings").is_empty());
}

fn freezing(reason: &str, for_ms: u64) -> FreezeRequest {
    FreezeRequest {
        reason: reason.to_owned(),
        for_ms,
        ..FreezeRequest::default()
    }
}

async fn freeze(bench: &Bench, request: FreezeRequest) -> Result<FreezeReply, Status> {
    service(bench)
        .freeze(Request::new(request))
        .await
        .map(Response::into_inner)
}

async fn unfreeze(bench: &Bench) -> FreezeReply {
    let reply = service(bench).unfreeze(Request::new(UnfreezeRequest::default())).await;
    reply.expect("unfrozen").into_inner()
}

#[tokio::test]
async fn a_freeze_is_shown_replaced_and_ended() {
    let bench = Bench::new().await;
    assert!(!unfreeze(&bench).await.changed, "it was not frozen");
    let first = freeze(&bench, freezing(" power work ", 0)).await.expect("frozen");
    let shown = first.freeze.clone().expect("frozen");
    assert_eq!(
        (first.changed, &*shown.by, &*shown.reason, shown.until_ms),
        (true, "user/admin", "power work", 0)
    );
    assert!(
        !freeze(&bench, freezing("power work", 0)).await.expect("frozen").changed,
        "it is so already"
    );
    let mut other = Request::new(freezing("longer", 1));
    other.extensions_mut().insert(As("user/ann"));
    let second = service(&bench).freeze(other).await.expect("replaced").into_inner();
    let shown = second.freeze.expect("frozen");
    assert_eq!(
        (second.changed, &*shown.by, &*shown.reason),
        (true, "user/ann", "longer")
    );
    let since = first.freeze.map(|f| f.since_ms).unwrap_or_default();
    assert_eq!(shown.since_ms, since);
    assert!(shown.until_ms > since && shown.until_ms <= now_ms() + 2000);
    assert_eq!(show(&bench).await.freeze.map(|f| f.reason).as_deref(), Some("longer"));
    let ended = unfreeze(&bench).await;
    assert_eq!((ended.changed, ended.freeze), (true, None));
    assert!(show(&bench).await.freeze.is_none());

    let audit = bench.store.values("audit/");
    let verbs: Vec<_> = audit.iter().map(|a| a["verb"].as_str().unwrap_or_default()).collect();
    assert_eq!(verbs, ["freeze", "freeze", "unfreeze"]);
    assert_eq!(
        (&audit[0]["object"], &audit[0]["reason"]),
        (&json!("freeze"), &json!("power work"))
    );
    assert_eq!(audit[2]["before"]["reason"], "longer");
}

#[tokio::test]
async fn a_freeze_without_reason_or_end_in_sight_is_refused() {
    let bench = Bench::new().await;
    for (request, words) in [
        (freezing("  ", 0), "freeze: reason: required"),
        (freezing("a\nb", 0), "freeze: reason: must be one line"),
        (
            freezing("a", 401 * 24 * 3_600_000),
            "freeze: for_ms: must be at most 400 days",
        ),
    ] {
        let (code, said) = refused(freeze(&bench, request).await);
        assert_eq!(code, Code::InvalidArgument);
        assert!(said.starts_with(words), "{said}");
    }
    assert!(bench.store.values("freeze").is_empty());
}

#[tokio::test]
async fn each_asks_the_authorizer_first() {
    let bench = Bench::with(Arc::new(DenyAll), crate::api::Settings::default()).await;
    let refusals = [
        refused(set(&bench, setting(&[], &[])).await),
        refused(freeze(&bench, freezing("", 0)).await),
        refused(
            service(&bench)
                .unfreeze(Request::new(UnfreezeRequest::default()))
                .await
                .map(drop),
        ),
        refused(
            service(&bench)
                .show(Request::new(ShowSettingsRequest {}))
                .await
                .map(drop),
        ),
    ];
    let asked: Vec<_> = refusals.iter().map(|(_, words)| words.as_str()).collect();
    let freeze = "update settings/freeze /";
    assert_eq!(asked, ["update settings/ /", freeze, freeze, "get settings/ /"]);
}
