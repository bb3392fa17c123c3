//! `create`, `delete`, `scale` and `token`.

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Command, Fake, pod, rc, wharf, within};

const GOOD: &str = "\
kind: Namespace
metadata: {name: prod}
---
kind: Pod
metadata: {name: p, namespace: prod}
spec: {containers: [{name: c, image: 'i:1'}]}
---
kind: Pod
metadata: {name: q}
spec: {containers: [{name: c, image: 'i:1'}]}
";

fn calls(fake: &Fake, method: &str) -> Vec<String> {
    let state = fake.state();
    state.calls.iter().filter(|c| c.starts_with(method)).cloned().collect()
}

#[tokio::test]
async fn creates_in_order_in_the_right_namespace() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let done = Command::new(&[&server.address])
        .stdin(GOOD)
        .run("create -f - --dry-run")
        .await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            0,
            "namespace/prod created (dry run)\npod/p created (dry run)\npod/q created (dry run)\n",
            ""
        )
    );
    assert_eq!(fake.state().revision, 0);
    fake.state().warning = Some("overlaps".into());
    let done = Command::new(&[&server.address]).stdin(GOOD).run("create -f -").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "namespace/prod created\npod/p created\npod/q created\n")
    );
    assert!(done.err.contains("warning: pod/p: overlaps\n"), "{}", done.err);
    fake.state().warning = None;
    assert_eq!(wharf(&server, "get pods -A -o name").await.out, "pod/q\npod/p\n");

    let again = Command::new(&[&server.address]).stdin(GOOD).run("create -f -").await;
    assert_eq!(again.code, 1);
    assert_eq!(
        again.err,
        "error: namespaces \"prod\" already exists\nerror: pods \"p\" already exists\nerror: pods \"q\" already exists\n"
    );
}

#[tokio::test]
async fn nothing_is_sent_when_one_document_is_bad() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let command = Command::new(&[&server.address]);
    let good = command.file("good.yaml", GOOD);
    let bad = command.file("bad.yaml", "kind: Pod\nmetadata: {name: x}\nspec: {container: []}\n");
    let line = format!("create -f {} -f {}", good.display(), bad.display());
    let done = command.run(&line).await;
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    assert_eq!(
        done.err,
        format!(
            "error: {}:3:8: pod \"x\": spec.container: unknown field; did you mean `containers`?\n",
            bad.display()
        )
    );
    assert_eq!(fake.state().calls.len(), 0);
}

#[tokio::test]
async fn what_has_no_effect_is_warned_of_once_and_not_sent() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let command = Command::new(&[&server.address]);
    let export = command.file("export.yaml", include_str!("../fixtures/kubectl-1.33.yaml"));
    let done = command.run(&format!("create -f {} --dry-run", export.display())).await;
    let warnings: Vec<_> = done.err.lines().filter(|l| l.starts_with("warning: ")).collect();
    assert_eq!((done.code, warnings.len()), (0, 2), "{}", done.err);
    assert!(
        warnings[0].starts_with(&format!(
            "warning: {}:9:5: replicationcontroller \"nginx\": no effect here",
            export.display()
        )),
        "{}",
        done.err
    );
    let pod = "kind: Pod\nmetadata: {name: p, selfLink: /x}\nspec: {containers: [{name: c, image: i, tty: false}]}\n\
               status: {phase: Running}\n";
    let done = Command::new(&[&server.address])
        .stdin(pod)
        .run("create -f - -o json")
        .await;
    let sent: Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!(sent["spec"]["containers"][0], json!({"name": "c", "image": "i"}));
    assert_eq!((sent["metadata"].get("selfLink"), sent.get("status")), (None, None));
    assert_eq!(
        done.err,
        "warning: stdin:2:21: pod \"p\": no effect here, left out: metadata.selfLink, spec.containers[0].tty, status\n"
    );
}

#[tokio::test]
async fn an_object_of_another_namespace_is_refused_before_anything_is_sent() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let done = Command::new(&[&server.address])
        .stdin(GOOD)
        .run("create -n test -f -")
        .await;
    assert_eq!(done.code, 1);
    assert_eq!(
        done.err,
        "error: stdin:5:32: pod \"p\": metadata.namespace: it is \"prod\", but --namespace is \"test\"; leave one of \
         them out\n"
    );
    assert_eq!(fake.state().calls.len(), 0);
}

#[tokio::test]
async fn creates_a_namespace_by_name_and_shows_what_was_created() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let done = wharf(&server, "create ns prod").await;
    assert_eq!((done.code, done.out.as_str()), (0, "namespace/prod created\n"));
    let done = wharf(&server, "create namespace test -o json").await;
    let value: Value = serde_json::from_str(&done.out).expect("JSON");
    assert_eq!(value["metadata"]["name"], "test");
    let done = wharf(&server, "create ns Bad").await;
    assert_eq!(done.code, 1);
    assert!(
        done.err
            .starts_with("error: namespace \"Bad\" is invalid: metadata.name: \"Bad\" must be a DNS"),
        "{}",
        done.err
    );
    for line in ["create pod x", "create ns", "create", "create ns a -f b"] {
        assert_eq!(wharf(&server, line).await.code, 2, "{line}");
    }
}

#[tokio::test]
async fn deletes_and_waits_until_it_is_gone() {
    let fake = Fake::new();
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    fake.put(Kind::ReplicationController, rc("web", 1));
    fake.state().slow_delete = true;
    let server = fake.serve().await;
    let command = Command::new(&[&server.address]);
    let out = command.out.clone();
    let running = tokio::spawn(command.run("delete pod/a rc/web --grace-period 3 --cascade orphan"));
    out.until(|t| t == "pod \"a\" deleted\nreplicationcontroller \"web\" deleted\n")
        .await;
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch Pod"))).await;
    assert!(!running.is_finished());
    fake.remove(Kind::Pod, "default", "a");
    fake.until(|s| s.calls.iter().any(|c| c.starts_with("watch ReplicationController")))
        .await;
    // A successor of the same name does not prolong the wait.
    fake.succeed(Kind::ReplicationController, "default", "web");
    let done = within(running).await.expect("no panic");
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let sent = calls(&fake, "delete");
    assert!(
        sent[0].starts_with("delete Pod default/a uid=\"\" cascade=2 grace=Some(3) "),
        "{sent:?}"
    );
}

#[tokio::test]
async fn a_wait_that_ends_early_says_that_the_deletion_goes_on() {
    let fake = Fake::new();
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    fake.put(Kind::Pod, pod("default", "b", "web", "n1"));
    fake.state().slow_delete = true;
    let server = fake.serve().await;
    let message =
        "error: no longer waiting for pod \"a\" and 1 more to go; the deletion goes on: see `wharf get pod a`\n";

    let done = wharf(&server, "delete pods a b --timeout 50ms").await;
    assert_eq!((done.code, done.err.as_str()), (3, message));

    let mut command = Command::new(&[&server.address]);
    let interrupt = command.interrupt.take().expect("there");
    let out = command.out.clone();
    let running = tokio::spawn(command.run("delete pods a b --timeout 0"));
    out.until(|t| t.contains("\"b\" deleted")).await;
    interrupt.send(()).expect("it waits");
    let done = within(running).await.expect("no panic");
    assert_eq!((done.code, done.err.as_str()), (130, message));

    for line in ["delete pod a --wait=false", "delete pod a --dry-run"] {
        assert_eq!(wharf(&server, line).await.code, 0, "{line}");
    }
}

#[tokio::test]
async fn deletes_by_selector_by_file_and_all() {
    let fake = Fake::new();
    for name in ["a", "b"] {
        fake.put(Kind::Pod, pod("default", name, "web", "n1"));
    }
    fake.put(Kind::Pod, pod("default", "c", "db", "n1"));
    fake.put(Kind::Pod, pod("prod", "p", "web", "n1"));
    let server = fake.serve().await;

    let done = wharf(&server, "delete pods -l app=web").await;
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "pod \"a\" deleted\npod \"b\" deleted\n")
    );
    assert!(
        calls(&fake, "delete")[0].starts_with("delete Pod default/a uid=\"uid-1\""),
        "deleted by uid"
    );
    let done = wharf(&server, "delete pods -l app=web").await;
    assert_eq!(
        (done.code, done.err.as_str()),
        (0, "No resources found in default namespace.\n")
    );
    let done = Command::new(&[&server.address]).stdin(GOOD).run("delete -f -").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            1,
            "pod \"p\" deleted\n",
            "error: namespaces \"prod\" not found\nerror: pods \"q\" not found\n"
        )
    );
    assert_eq!(wharf(&server, "delete pods --all").await.out, "pod \"c\" deleted\n");
    let done = wharf(&server, "delete pod c --ignore-not-found").await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", ""));
}

#[tokio::test]
async fn a_delete_that_could_mean_everything_is_refused() {
    let fake = Fake::new();
    fake.put(Kind::Pod, pod("default", "a", "web", "n1"));
    let server = fake.serve().await;
    for line in [
        "delete pods",
        "delete pods --selector=",
        "delete pods -l ,",
        "delete pods a --all",
        "delete pods a -l app=web",
        "delete pods --all -l app=web",
        "delete pod/",
        "delete",
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{line}: {}", done.err);
    }
    assert_eq!(fake.state().calls.len(), 0);
}

#[tokio::test]
async fn scales() {
    let fake = Fake::new();
    fake.put(Kind::ReplicationController, rc("web", 2));
    let server = fake.serve().await;
    for (line, code, out, err) in [
        (
            "scale rc web --replicas=9 --dry-run",
            0,
            "replicationcontroller/web scaled (dry run)\n",
            "",
        ),
        (
            "scale rc/web --current-replicas=2 --replicas=9",
            0,
            "replicationcontroller/web scaled\n",
            "",
        ),
        (
            "scale rc web --replicas=3 --current-replicas=2",
            1,
            "",
            "error: replicationcontrollers \"web\": spec.replicas: is 9, not 2\n",
        ),
        (
            "scale rc web x --replicas=0",
            1,
            "replicationcontroller/web scaled\n",
            "error: replicationcontrollers \"x\" not found\n",
        ),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (code, out, err),
            "{line}"
        );
    }
    fake.put(Kind::ReplicationController, rc("api", 1));
    for line in [
        "scale rc web api --replicas=4",
        "scale rc --all --replicas=5",
        "scale rc -l app!=x --replicas=6",
    ] {
        let done = wharf(&server, line).await;
        let mut lines: Vec<&str> = done.out.lines().collect();
        lines.sort_unstable();
        let both = ["replicationcontroller/api scaled", "replicationcontroller/web scaled"];
        assert_eq!((done.code, &lines[..]), (0, &both[..]), "{line}: {}", done.err);
    }
    let done = Command::new(&[&server.address])
        .stdin("kind: ReplicationController\nmetadata: {name: api}\n")
        .run("scale -f - --replicas=2")
        .await;
    assert_eq!(done.out, "replicationcontroller/api scaled\n", "{}", done.err);
    let sent = calls(&fake, "scale").len();
    for line in ["scale rc web --replicas=-1", "scale rc web --replicas -1"] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.err.as_str()),
            (
                1,
                "error: replicationcontroller \"web\" is invalid: spec.replicas: must not be negative, is -1\n"
            ),
            "{line}"
        );
    }
    for line in [
        "scale pods --all --replicas=1",
        "scale pod web --replicas=1",
        "scale rc --replicas=1",
        "scale rc web",
        "scale rc web --replicas=x",
    ] {
        assert_eq!(wharf(&server, line).await.code, 2, "{line}");
    }
    assert_eq!(calls(&fake, "scale").len(), sent);
}

#[tokio::test]
async fn tokens() {
    let fake = Fake::new();
    let server = fake.serve().await;
    let text = "wharf1.agent.k7x2p9.s-e_c.r.00000000";

    let done = wharf(&server, "token create --uses 3 --ttl 90m --label zone=north").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            0,
            format!(
                "wharf-agent run --data-dir /var/lib/wharf-agent --coordinators 10.0.0.1:7443,10.0.0.2:7443 --token {text}\n"
            )
            .as_str(),
            "token k7x2p9: for 3 hosts, expires in 90m; run the command on the new host\n"
        )
    );
    assert_eq!(calls(&fake, "token "), ["token 3 5400 {\"zone\": \"north\"}"]);
    let done = wharf(&server, "token create --node n7 --coordinators h:1").await;
    assert_eq!(
        done.out,
        format!("wharf-agent run --data-dir /var/lib/wharf-agent --coordinators h:1 --name n7 --token {text}\n")
    );
    let done = wharf(&server, "token create --role coordinator --uses 2").await;
    assert_eq!(
        (done.out, done.err.as_str()),
        (
            format!(
                "wharf-coordinator join --data-dir /var/lib/wharf --peers 10.0.0.1:7444,10.0.0.2:7444 --token {text}\n"
            ),
            "token k7x2p9: for 2 coordinators, expires in 60m; run the command on the new coordinator's host\n"
        )
    );
    for line in ["token create -q", "token create -o name"] {
        let done = wharf(&server, line).await;
        assert_eq!((done.out, done.err.as_str()), (format!("{text}\n"), ""), "{line}");
    }
    let value: Value = serde_json::from_str(&wharf(&server, "token create -o json").await.out).expect("JSON");
    assert_eq!(
        (
            &value["kind"],
            &value["metadata"]["name"],
            &value["status"]["token"],
            &value["spec"]["expiresAt"]
        ),
        (
            &json!("Token"),
            &json!("k7x2p9"),
            &json!(text),
            &json!("2026-01-31T13:00:00Z")
        )
    );
    for line in [
        "token create --uses 0",
        "token create --ttl 0",
        "token create --ttl 10ms",
        "token create --label zone",
        "token create --label zone=-",
        "token create --role king",
        "token create --role coordinator --node n1",
        "token create --role coordinator --label zone=north",
        "token create --node a/b",
        "token",
    ] {
        assert_eq!(wharf(&server, line).await.code, 2, "{line}");
    }

    let done = wharf(&server, "token list").await;
    assert_eq!(
        done.out,
        "ID       ROLE    STATUS   USED   EXPIRES   NODE     LABELS\nk7x2p9   agent   Valid    0/1    in 10m    <none>   \
         <none>\n"
    );
    assert_eq!(wharf(&server, "token list -o name").await.out, "token/k7x2p9\n");
    let done = wharf(&server, "token revoke nope k7x2p9").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (1, "token/k7x2p9 revoked\n", "error: tokens \"nope\" not found\n")
    );
}
