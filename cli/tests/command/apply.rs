//! `apply`, `replace` and `diff`.

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Command, Done, Fake, Server, pod, rc, wharf};

const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A controller's file; `more` goes into its spec.
fn file(more: &str) -> String {
    format!(
        "kind: ReplicationController\nmetadata:\n  name: web\n  labels: {{app: web}}\nspec:\n{more}  template:\n    \
         metadata: {{labels: {{app: web}}}}\n    spec:\n      containers:\n      - name: c\n        image: web:1\n"
    )
}

async fn apply(server: &Server, text: &str, flags: &str) -> Done {
    let command = Command::new(&[&server.address]).stdin(text);
    command.run(&format!("apply -f - {flags}")).await
}

fn web(fake: &Fake) -> Value {
    fake.object(Kind::ReplicationController, "default", "web")
        .expect("there")
}

#[tokio::test]
async fn created_then_unchanged_then_configured() {
    let fake = Fake::new();
    let server = fake.serve().await;
    for (text, flags, out) in [
        (file(""), "--dry-run", "replicationcontroller/web created (dry run)\n"),
        (file(""), "", "replicationcontroller/web created\n"),
        (file(""), "", "replicationcontroller/web unchanged\n"),
        (
            file("  replicas: 3\n"),
            "--dry-run=server",
            "replicationcontroller/web configured (dry run)\n",
        ),
        (
            file("  replicas: 3\n"),
            "--dry-run=none",
            "replicationcontroller/web configured\n",
        ),
        (file("  replicas: 3\n"), "-o name", "replicationcontroller/web\n"),
    ] {
        let done = apply(&server, &text, flags).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, out, ""),
            "{flags}"
        );
    }
    assert_eq!(fake.state().revision, 2, "created, configured; nothing else was stored");
    let applied = web(&fake)["metadata"]["annotations"][LAST].clone();
    insta::assert_snapshot!(applied.as_str().expect("text"), @r#"
    {"apiVersion":"v1","kind":"ReplicationController","metadata":{"annotations":{},"labels":{"app":"web"},"name":"web","namespace":"default"},"spec":{"replicas":3,"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"image":"web:1","name":"c"}]}}}}
    "#);
    let sent = fake.state().calls.clone();
    let sent = sent.iter().rfind(|c| c.starts_with("replace")).expect("replaced");
    for not in ["creationTimestamp", "generation", "\"status\""] {
        assert!(!sent.contains(not), "what only the cluster writes is not sent: {sent}");
    }
    let shown = apply(&server, &file(""), "-o json").await;
    let shown: Value = serde_json::from_str(&shown.out).expect("JSON");
    assert_eq!(
        shown["spec"].get("replicas"),
        None,
        "given up, so that the default holds"
    );
}

#[tokio::test]
async fn what_others_set_stays_and_what_the_file_gives_up_goes() {
    let fake = Fake::new();
    let server = fake.serve().await;
    assert_eq!(apply(&server, &file("  minReadySeconds: 5\n"), "").await.code, 0);
    assert_eq!(wharf(&server, "scale rc web --replicas=7").await.code, 0);
    assert_eq!(wharf(&server, "label rc web owner=ops").await.code, 0);
    let done = apply(&server, &file(""), "").await;
    assert_eq!(
        (done.out.as_str(), done.err.as_str()),
        ("replicationcontroller/web configured\n", "")
    );
    let web = web(&fake);
    assert_eq!(web["spec"]["replicas"], 7, "as scaled");
    assert_eq!(web["metadata"]["labels"], json!({"app": "web", "owner": "ops"}));
    assert_eq!(web["spec"].get("minReadySeconds"), None);
    // A count that the file gives up is not one that it never set.
    assert_eq!(apply(&server, &file("  replicas: 3\n"), "").await.err, "");
    let done = apply(&server, &file(""), "--dry-run").await;
    assert_eq!(
        (done.out.as_str(), done.err.as_str()),
        (
            "replicationcontroller/web configured (dry run)\n",
            "warning: replicationcontroller/web: spec.replicas was applied before and the file sets it no more: it \
             falls from 3 to 1, the default\n"
        )
    );
}

#[tokio::test]
async fn an_object_that_apply_did_not_make_is_told_of_once() {
    let fake = Fake::new();
    fake.put(Kind::ReplicationController, rc("web", 5));
    let server = fake.serve().await;
    let done = apply(&server, &file(""), "").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "replicationcontroller/web configured\n")
    );
    assert!(
        done.err
            .starts_with("warning: replicationcontroller/web: it was not made by apply"),
        "{}",
        done.err
    );
    assert_eq!(web(&fake)["spec"]["replicas"], 5);
    let again = apply(&server, &file(""), "").await;
    assert_eq!(
        (again.out.as_str(), again.err.as_str()),
        ("replicationcontroller/web unchanged\n", "")
    );

    let mut damaged = web(&fake);
    damaged["metadata"]["annotations"][LAST] = json!("{");
    damaged["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:30Z");
    fake.put(Kind::ReplicationController, damaged);
    let done = apply(&server, &file(""), "").await;
    assert_eq!(done.code, 0);
    assert!(done.err.contains("cannot be read and is written anew"), "{}", done.err);
    assert!(
        done.err.contains("it is being deleted; apply again once it is gone"),
        "{}",
        done.err
    );
}

#[tokio::test]
async fn a_change_by_others_meanwhile_is_kept_and_endless_ones_end_it() {
    let fake = Fake::new();
    let server = fake.serve().await;
    assert_eq!(apply(&server, &file(""), "").await.code, 0);
    fake.state().races = 2;
    let done = apply(&server, &file("  replicas: 4\n"), "").await;
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let now = web(&fake);
    assert_eq!(
        (&now["spec"]["replicas"], &now["metadata"]["labels"]["race"]),
        (&json!(4), &json!("0"))
    );

    fake.state().races = 100;
    let done = apply(&server, &file("  replicas: 5\n"), "").await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            1,
            "error: replicationcontroller \"web\": others keep changing it; apply again\n"
        )
    );
}

#[tokio::test]
async fn an_exported_file_applies_to_the_version_that_it_was_exported_at() {
    let fake = Fake::new();
    fake.put(Kind::ReplicationController, rc("web", 5));
    let server = fake.serve().await;
    let export = wharf(&server, "get rc web -o yaml").await.out;
    let done = apply(&server, &export, "").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "replicationcontroller/web configured\n"),
        "{}",
        done.err
    );
    let text = web(&fake)["metadata"]["annotations"][LAST]
        .as_str()
        .expect("text")
        .to_owned();
    for not in ["resourceVersion", "uid", "status", "creationTimestamp"] {
        assert!(!text.contains(not), "{not}: {text}");
    }
    let stale = apply(&server, &export, "").await;
    assert_eq!(
        (stale.code, stale.err.lines().last()),
        (
            1,
            Some(
                "error: replicationcontroller \"web\": metadata.resourceVersion: the file has \"1\", the object has \"2\"; \
             take the field out of the file to apply it to whatever is there"
            )
        )
    );
    fake.remove(Kind::ReplicationController, "default", "web");
    let gone = apply(&server, &export, "").await;
    assert!(
        gone.err.contains("the file has \"1\", there is no such object"),
        "{}",
        gone.err
    );
    assert_eq!(fake.object(Kind::ReplicationController, "default", "web"), None);
}

#[tokio::test]
async fn files_and_directories() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let command = Command::new(&[&server.address]);
    command.file(
        "b.yml",
        "kind: Namespace\nmetadata: {name: b}\n---\nkind: Namespace\nmetadata: {name: c}\n",
    );
    command.file("a.json", "{\"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}");
    command.file("notes.txt", "no manifest");
    // The credentials are YAML too, and no manifest.
    let manifests = command.dir.path().join("manifests");
    std::fs::create_dir(&manifests).expect("made");
    for name in ["b.yml", "a.json", "notes.txt"] {
        std::fs::rename(command.dir.path().join(name), manifests.join(name)).expect("moved");
    }
    let line = format!("apply -f {}", manifests.display());
    let done = command.run(&line).await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (0, "namespace/a created\nnamespace/b created\nnamespace/c created\n", "")
    );
    let empty = Command::new(&[&server.address]);
    let dir = empty.dir.path().join("empty");
    std::fs::create_dir(&dir).expect("made");
    let line = format!("apply -f {}", dir.display());
    let done = empty.run(&line).await;
    assert_eq!(done.code, 1);
    assert!(
        done.err.contains("no *.yaml, *.yml or *.json file in this directory"),
        "{}",
        done.err
    );
}

#[tokio::test]
async fn nothing_is_sent_when_one_document_cannot_be_applied() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let text = "kind: Namespace\nmetadata: {name: a}\n---\nkind: Pod\nmetadata: {generateName: p-}\nspec: {containers: \
                [{name: c, image: i}]}\n---\nkind: Event\nmetadata: {name: e}\n---\nkind: Endpoints\nmetadata: {name: web}\n";
    for verb in ["apply", "replace", "diff"] {
        let done = Command::new(&[&server.address])
            .stdin(text)
            .run(&format!("{verb} -f -"))
            .await;
        assert_eq!(done.code, if verb == "diff" { 2 } else { 1 });
        assert_eq!(
            done.err,
            "error: stdin:4:1: pod: metadata.name: required here; `wharf create` makes a name from generateName\nerror: \
             stdin:8:1: event \"e\": events are written by the cluster only\nerror: stdin:11:1: endpoints \"web\": \
             endpoints are derived from a controller's pods; leave them out, and change the controller\n",
            "{verb}"
        );
    }
    assert_eq!(fake.state().calls.len(), 0);
}

#[tokio::test]
async fn one_refusal_does_not_hide_the_others_and_a_lost_coordinator_ends_it() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let text = "kind: Namespace\nmetadata: {name: a}\n---\nkind: Namespace\nmetadata: {name: b}\n";
    fake.state()
        .failures
        .push_back(tonic::Status::permission_denied("user/x may not get namespaces"));
    let done = apply(&server, text, "").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (1, "namespace/b created\n", "error: user/x may not get namespaces\n")
    );
    let gone = server.address.clone();
    drop(server);
    let done = Command::new(&[&gone]).stdin(text).run("apply -f -").await;
    assert_eq!((done.code, done.out.as_str()), (4, ""), "{}", done.err);
}

#[tokio::test]
async fn replaces_whole_objects() {
    let fake = Fake::new();
    fake.put(
        Kind::Node,
        json!({"metadata": {"name": "n1", "labels": {"zone": "north"}}, "spec": {"unschedulable": true}}),
    );
    let server = fake.serve().await;
    let export = wharf(&server, "get node n1 -o json").await.out;
    let text = "kind: Node\nmetadata: {name: n1, labels: {rack: b7}}\n";
    for (flags, out) in [
        ("--dry-run", "node/n1 replaced (dry run)\n"),
        ("", "node/n1 replaced\n"),
    ] {
        let done = Command::new(&[&server.address])
            .stdin(text)
            .run(&format!("replace -f - {flags}"))
            .await;
        assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, out, ""));
    }
    let node = fake.object(Kind::Node, "", "n1").expect("there");
    assert_eq!(
        (&node["metadata"]["labels"], node.get("spec")),
        (&json!({"rack": "b7"}), None)
    );

    let stale = Command::new(&[&server.address])
        .stdin(&export)
        .run("replace -f -")
        .await;
    assert_eq!(stale.code, 1);
    assert!(
        stale.err.contains("metadata.resourceVersion: is 2, not 1"),
        "{}",
        stale.err
    );
    let missing = Command::new(&[&server.address])
        .stdin("kind: Node\nmetadata: {name: n9}\n")
        .run("replace -f - -o yaml")
        .await;
    assert_eq!((missing.code, missing.out.as_str()), (1, ""));
    assert!(
        missing.err.contains("message: nodes \"n9\" not found"),
        "{}",
        missing.err
    );
}

#[tokio::test]
async fn a_diff_shows_what_apply_would_change_and_stores_nothing() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let diff = async |text: &str| Command::new(&[&server.address]).stdin(text).run("diff -f -").await;
    let new = diff(&file("")).await;
    assert_eq!((new.code, new.err.as_str()), (1, ""));
    insta::assert_snapshot!(new.out, @r"
    --- live: replicationcontroller/web in default
    +++ file: stdin:1:1
    @@ -0,0 +1,16 @@
    +apiVersion: v1
    +kind: ReplicationController
    +metadata:
    +  name: web
    +  labels:
    +    app: web
    +  namespace: default
    +spec:
    +  template:
    +    metadata:
    +      labels:
    +        app: web
    +    spec:
    +      containers:
    +      - name: c
    +        image: web:1
    ");
    assert_eq!(fake.state().revision, 0);
    assert_eq!(apply(&server, &file("  replicas: 2\n"), "").await.code, 0);
    let same = diff(&file("  replicas: 2\n")).await;
    assert_eq!((same.code, same.out.as_str(), same.err.as_str()), (0, "", ""));
    let changed = diff(&file("  replicas: 3\n").replace("web:1", "web:2")).await;
    assert_eq!(changed.code, 1);
    insta::assert_snapshot!(changed.out, @r"
    --- live: replicationcontroller/web in default
    +++ file: stdin:1:1
    @@ -6,7 +6,7 @@
         app: web
       namespace: default
     spec:
    -  replicas: 2
    +  replicas: 3
       template:
         metadata:
           labels:
    @@ -14,4 +14,4 @@
         spec:
           containers:
           - name: c
    -        image: web:1
    +        image: web:2
    ");
    assert_eq!(fake.state().revision, 1);
    fake.state()
        .failures
        .push_back(tonic::Status::permission_denied("user/x may not get rc"));
    assert_eq!(diff(&file("")).await.code, 2, "an error is no difference");
    fake.put(Kind::Pod, pod("default", "p", "web", "n1"));
    let two = format!("{}---\nkind: Node\nmetadata: {{name: n9}}\n", file("  replicas: 3\n"));
    fake.state().failures.extend([tonic::Status::internal("broken")]);
    let done = diff(&two).await;
    assert_eq!(done.code, 2, "some error and some difference");
    assert!(done.out.contains("+++ file: stdin:"), "{}", done.out);
}
