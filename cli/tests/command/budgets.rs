//! PodDisruptionBudgets at the command line: written from files, shown, waited for, and what scaling says of them.

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Command, Fake, rc, wharf};

const FILE: &str = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata:\n  name: web\nspec:\n  minAvailable: 50%\n  \
                    selector:\n    matchLabels: {app: web}\n";

fn budget(name: &str, spec: Value, allowed: i32) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-31T11:50:00Z"}, "spec": spec,
        "status": {"currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3, "disruptionsAllowed": allowed,
            "observedGeneration": 1,
            "conditions": [{"type": "DisruptionAllowed", "status": if allowed > 0 { "True" } else { "False" }}]}})
}

async fn from_file(address: &str, text: &str, line: &str) -> (u8, String, String) {
    let done = Command::new(&[address]).stdin(text).run(line).await;
    (done.code, done.out, done.err)
}

#[tokio::test]
async fn written_from_a_file() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let say = |text: &str| (0, text.to_owned(), String::new());
    let made = from_file(&server.address, FILE, "create -f -").await;
    assert_eq!(made, say("poddisruptionbudget/web created\n"));
    let stored = fake
        .object(Kind::PodDisruptionBudget, "default", "web")
        .expect("stored");
    assert_eq!(
        (&stored["apiVersion"], &stored["spec"]["minAvailable"]),
        (&json!("policy/v1"), &json!("50%"))
    );
    let applied = from_file(&server.address, FILE, "apply -f -").await;
    assert_eq!(
        (applied.0, applied.1.as_str()),
        (0, "poddisruptionbudget/web configured\n")
    );
    let applied = from_file(&server.address, FILE, "apply -f -").await;
    assert_eq!(applied, say("poddisruptionbudget/web unchanged\n"));
    let other = FILE.replace("minAvailable: 50%", "maxUnavailable: 1");
    let diff = from_file(&server.address, &other, "diff -f -").await;
    assert!(
        diff.0 == 1 && diff.1.contains("-  minAvailable: 50%") && diff.1.contains("+  maxUnavailable: 1"),
        "{diff:?}"
    );
    let applied = from_file(&server.address, &other, "apply -f -").await;
    assert_eq!(applied, say("poddisruptionbudget/web configured\n"));
    let stored = fake
        .object(Kind::PodDisruptionBudget, "default", "web")
        .expect("stored");
    assert_eq!(
        stored["spec"],
        json!({"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}})
    );
    let patched = wharf(&server, r#"patch pdb web -p {"spec":{"maxUnavailable":"25%"}}"#).await;
    assert_eq!(patched.out, "poddisruptionbudget/web patched\n", "{}", patched.err);
    let labelled = wharf(&server, "label pdb/web team=a").await;
    assert_eq!(labelled.out, "poddisruptionbudget/web labeled\n", "{}", labelled.err);
    let gone = wharf(&server, "delete poddisruptionbudgets web").await;
    assert_eq!(gone.out, "poddisruptionbudget \"web\" deleted\n", "{}", gone.err);
}

#[tokio::test]
async fn what_is_wrong_is_said_with_its_place() {
    let server = Fake::new().serve().await;
    for (from, to, place, problem) in [
        (
            "minAvailable: 50%",
            "minAvailable: '2'",
            "6:17",
            "spec.minAvailable: invalid value: string \"2\", expected a whole number, or a percentage such as \
             \"50%\"; leave out the quotes",
        ),
        (
            "minAvailable: 50%",
            "minAvailable: 101%",
            "6:17",
            "spec.minAvailable: must be 0% to 100%, is 101%",
        ),
        (
            "minAvailable: 50%",
            "maxUnavailable: -1",
            "6:19",
            "spec.maxUnavailable: must not be negative, is -1",
        ),
        (
            "minAvailable: 50%",
            "minAvailable: 50%\n  maxUnavailable: 1",
            "6:3",
            "spec: has minAvailable and maxUnavailable; leave one out",
        ),
        (
            "minAvailable: 50%",
            "minAvailble: 50%",
            "6:3",
            "spec.minAvailble: unknown field; did you mean `minAvailable`?",
        ),
        (
            "apiVersion: policy/v1",
            "apiVersion: v1",
            "1:13",
            "apiVersion: must be policy/v1, not \"v1\"",
        ),
        (
            "minAvailable: 50%",
            "minAvailable: 50%\n  unhealthyPodEvictionPolicy: IfHealthyBudget",
            "7:3",
            "spec.unhealthyPodEvictionPolicy: not supported by Wharfinger yet; leave it out",
        ),
    ] {
        let (code, out, err) = from_file(&server.address, &FILE.replace(from, to), "create -f -").await;
        assert_eq!((code, out.as_str()), (1, ""), "{to}: {err}");
        assert!(
            err.contains(problem) && err.contains(&format!(":{place}: ")),
            "{to}: {err}"
        );
    }
    let list = format!(
        "apiVersion: policy/v1\nkind: PodDisruptionBudgetList\nitems:\n- {}\n",
        FILE.trim_end().replace('\n', "\n  ")
    );
    let (code, out, err) = from_file(&server.address, &list, "create -f -").await;
    assert_eq!((code, out.as_str()), (0, "poddisruptionbudget/web created\n"), "{err}");
    let (code, _, err) = from_file(&server.address, &list.replacen("policy/v1", "v1", 1), "create -f -").await;
    assert!(
        code == 1 && err.contains("apiVersion: must be policy/v1, not \"v1\""),
        "{err}"
    );
}

#[tokio::test]
async fn shown_waited_for_and_warned_of() {
    let fake = Fake::new();
    let web = json!({"matchLabels": {"app": "web"}});
    fake.put(
        Kind::PodDisruptionBudget,
        budget("web", json!({"minAvailable": 2, "selector": web}), 1),
    );
    fake.put(
        Kind::PodDisruptionBudget,
        budget("rest", json!({"maxUnavailable": "0%", "selector": {}}), 0),
    );
    fake.put(Kind::ReplicationController, rc("web", 3));
    let server = fake.serve().await;
    for (line, expected) in [
        (
            "get pdb",
            "NAME   MIN AVAILABLE   MAX UNAVAILABLE   ALLOWED DISRUPTIONS   AGE\n\
             rest   N/A             0%                0                     10m\n\
             web    2               N/A               1                     10m\n",
        ),
        (
            "get poddisruptionbudget/web -o wide --no-headers",
            "web   2   N/A   1   10m   3   2   3   app=web\n",
        ),
        (
            "get pdb rest -o wide --no-headers",
            "rest   N/A   0%   0   10m   3   2   3   <all pods>\n",
        ),
        ("get pdb -o name", "poddisruptionbudget/rest\npoddisruptionbudget/web\n"),
        (
            "wait pdb/web --for condition=DisruptionAllowed",
            "poddisruptionbudget/web condition met\n",
        ),
        (
            "wait pdb/rest --for condition=DisruptionAllowed=False",
            "poddisruptionbudget/rest condition met\n",
        ),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, expected, ""),
            "{line}"
        );
    }
    let described = wharf(&server, "describe pdb web").await;
    assert!(
        described.out.contains("3 available / 2 must be / 3 expected"),
        "{}",
        described.out
    );
    let one: Value = serde_json::from_str(&wharf(&server, "get pdb web -o json").await.out).expect("JSON");
    assert_eq!(
        (&one["apiVersion"], &one["kind"]),
        (&json!("policy/v1"), &json!("PodDisruptionBudget"))
    );
    fake.state().warning = Some("spec.replicas: too few".into());
    let scaled = wharf(&server, "scale rc web --replicas=1").await;
    assert_eq!(
        (scaled.code, scaled.out.as_str(), scaled.err.as_str()),
        (
            0,
            "replicationcontroller/web scaled\n",
            "warning: replicationcontroller/web: spec.replicas: too few\n"
        )
    );
}
