//! `get`, `describe` and `version`.

use proto::model::Kind;
use serde_json::{Value, json};

use crate::fake::{Command, Fake, pod, rc, wharf};

fn filled() -> Fake {
    let fake = Fake::new();
    fake.put(
        Kind::Node,
        json!({"metadata": {"name": "n1", "creationTimestamp": "2026-01-31T11:00:00Z"},
        "status": {"allocatable": {"pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    fake.put(Kind::Pod, pod("default", "web-b", "web", "n1"));
    fake.put(Kind::Pod, pod("default", "db-a", "db", "n1"));
    fake.put(Kind::Pod, pod("prod", "web-z", "web", "n1"));
    fake.put(Kind::ReplicationController, rc("web", 1));
    fake.put(
        Kind::Endpoints,
        json!({"metadata": {"name": "web", "namespace": "default", "creationTimestamp": "2026-01-31T11:50:00Z"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1", "nodeName": "n1"}], "ports": [{"port": 20001}]}]}),
    );
    fake
}

#[tokio::test]
async fn tables() {
    let server = filled().serve().await;
    for (line, expected) in [
        (
            "get po",
            "NAME    READY   STATUS    RESTARTS   AGE\n\
             db-a    1/1     Running   0          10m\n\
             web-b   1/1     Running   0          10m\n",
        ),
        (
            "get pods -l app=web -A --no-headers",
            "default   web-b   1/1   Running   0   10m\nprod      web-z   1/1   Running   0   10m\n",
        ),
        (
            "get rc,nodes",
            "NAME                        DESIRED   CURRENT   READY   AGE\n\
             replicationcontroller/web   1         1         1       10m\n\
             \n\
             NAME      STATUS   AGE   VERSION\n\
             node/n1   Ready    60m   <none>\n",
        ),
        (
            "get -n prod pod/web-z -L app",
            "NAME    READY   STATUS    RESTARTS   AGE   APP\nweb-z   1/1     Running   0          10m   web\n",
        ),
        ("get pods -o name --field-selector metadata.name=db-a", "pod/db-a\n"),
        (
            "get ep web",
            "NAME   ENDPOINTS         AGE\nweb    192.0.2.1:20001   10m\n",
        ),
        ("get endpoints/web -o name", "endpoints/web\n"),
        ("get pods,ns -o name", "pod/db-a\npod/web-b\n"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, expected, ""),
            "{line}"
        );
    }
    let wide = wharf(&server, "get nodes -o wide").await;
    assert!(wide.out.contains("3/110"), "{}", wide.out);
}

#[tokio::test]
async fn events_are_in_the_order_of_time() {
    let fake = Fake::new();
    for (name, at) in [("a", "11:59:00"), ("b", "11:50:00")] {
        fake.put(
            Kind::Event,
            json!({"metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "reason": name,
            "lastTimestamp": format!("2026-01-31T{at}Z")}),
        );
    }
    let done = wharf(&fake.serve().await, "get events --no-headers").await;
    assert_eq!(done.out, "10m   Normal   b   pod/p\n60s   Normal   a   pod/p\n");
}

#[tokio::test]
async fn json_yaml_and_what_a_newer_coordinator_adds() {
    let fake = Fake::new();
    let mut value = pod("default", "p", "web", "n1");
    value["spec"]["newField"] = json!({"a": "yes"});
    fake.put(Kind::Pod, value);
    let server = fake.serve().await;

    let one: Value = serde_json::from_str(&wharf(&server, "get pod p -o json").await.out).expect("JSON");
    assert_eq!(
        (&one["kind"], &one["spec"]["newField"]["a"]),
        (&json!("Pod"), &json!("yes"))
    );
    let list: Value = serde_json::from_str(&wharf(&server, "get pods -o json").await.out).expect("JSON");
    assert_eq!(
        (&list["kind"], &list["items"][0], &list["metadata"]["resourceVersion"]),
        (&json!("List"), &one, &json!("1"))
    );
    let yaml = wharf(&server, "get pods -o yaml").await.out;
    let read: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(read["items"], list["items"], "{yaml}");
    let table = wharf(&server, "get pods").await;
    assert_eq!(table.code, 0, "{}", table.err);
}

#[tokio::test]
async fn nothing_found() {
    let server = Fake::new().serve().await;
    for (line, expected) in [
        ("get pods", "No resources found in default namespace.\n"),
        ("get pods,nodes -n prod", "No resources found in prod namespace.\n"),
        ("get pods -A", "No resources found\n"),
        ("get nodes", "No resources found\n"),
        ("get pods -o name", ""),
        ("describe pods", "No resources found in default namespace.\n"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, "", expected),
            "{line}"
        );
    }
    let done = wharf(&server, "get pods -o json").await;
    assert_eq!(
        serde_json::from_str::<Value>(&done.out).expect("JSON")["items"],
        json!([])
    );
}

#[tokio::test]
async fn what_is_missing_does_not_hide_what_is_there() {
    let server = filled().serve().await;
    let done = wharf(&server, "get pod/web-b pod/x node/n9 -o name").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            1,
            "pod/web-b\n",
            "error: pods \"x\" not found\nerror: nodes \"n9\" not found\n"
        )
    );
    let done = wharf(&server, "get node n9 -o json").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (
            1,
            "",
            "{\"apiVersion\":\"v1\",\"kind\":\"Status\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"nodes \\\"n9\\\" \
             not found\",\"reason\":\"NotFound\",\"details\":{\"name\":\"n9\",\"kind\":\"nodes\"},\"code\":404}\n"
        )
    );
    let done = wharf(&server, "get node n9 n1 --ignore-not-found -o name").await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "node/n1\n", ""));
    let done = wharf(&server, "get node n9 --ignore-not-found").await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "", ""));
}

#[tokio::test]
async fn wrong_command_lines() {
    let server = filled().serve().await;
    for (line, expected) in [
        ("get", "error: the following required arguments were not provided"),
        ("get pdos", "error: unknown kind \"pdos\"; known: "),
        (
            "get pod x -l a=b",
            "error: a name and a selector cannot be given together",
        ),
        (
            "get pod x -A",
            "error: a name and --all-namespaces cannot be given together",
        ),
        ("get pods,rc -w", "error: -w shows one kind at a time"),
        ("get pod a b -w", "error: -w shows one object"),
        ("get pods --namespace=", "error: --namespace: it is empty; use -A"),
        ("get pods -o table", "error: invalid value 'table'"),
        ("get pods --request-timeout soon", "error: invalid value 'soon'"),
        ("describe events", "error: events cannot be described"),
        ("frobnicate", "error: unrecognized subcommand"),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{line}");
        assert!(done.err.starts_with(expected), "{line}: {}", done.err);
    }
    let done = wharf(&server, "get pods -l a=b=c").await;
    assert_eq!(done.code, 1, "a selector is judged by the coordinator");
    assert!(done.err.starts_with("error: selector `a=b=c`: "), "{}", done.err);
}

#[tokio::test]
async fn the_namespace_comes_from_flag_variable_and_credentials() {
    let fake = filled();
    let server = fake.serve().await;
    let command = || {
        let mut command = Command::new(&[&server.address]);
        let config = json!({"coordinators": [server.address], "cluster": "c", "ca": "-", "certificate": "-",
            "key": "-", "namespace": "prod"});
        let path = command.file("prod.yaml", &config.to_string());
        command
            .env
            .vars
            .insert("WHARF_CONFIG".into(), path.display().to_string());
        command
    };
    assert_eq!(command().run("get pods -o name").await.out, "pod/web-z\n");
    let mut with_variable = command();
    with_variable
        .env
        .vars
        .insert("WHARF_NAMESPACE".into(), "default".into());
    assert_eq!(with_variable.run("get pods -o name").await.out, "pod/db-a\npod/web-b\n");
    let mut with_both = command();
    with_both.env.vars.insert("WHARF_NAMESPACE".into(), "default".into());
    assert_eq!(with_both.run("get -n prod pods -o name").await.out, "pod/web-z\n");
}

#[tokio::test]
async fn descriptions_gather_what_belongs_to_an_object() {
    let fake = filled();
    let uid = {
        let text = wharf(&fake.serve().await, "get rc web -o json").await.out;
        let value: Value = serde_json::from_str(&text).expect("JSON");
        value["metadata"]["uid"].clone()
    };
    let mut owned = pod("default", "web-b", "other", "n1");
    owned["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": uid, "controller": true}]);
    fake.put(Kind::Pod, owned);
    fake.put(
        Kind::Event,
        json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "Scaled",
        "message": "to 1", "involvedObject": {"kind": "ReplicationController", "name": "web", "uid": uid}}),
    );
    let server = fake.serve().await;
    let rc = wharf(&server, "describe rc web").await;
    assert_eq!((rc.code, rc.err.as_str()), (0, ""));
    assert!(rc.out.contains("1 Running / 0 Waiting"), "{}", rc.out);
    assert!(rc.out.contains("Scaled"), "{}", rc.out);
    let node = wharf(&server, "describe node n1").await;
    assert!(node.out.contains("Pods (3 in total)"), "{}", node.out);
    let namespace = wharf(&server, "describe pod/web-b pod/x rc/web").await;
    assert_eq!(
        (namespace.code, namespace.err.as_str()),
        (1, "error: pods \"x\" not found\n")
    );
    assert!(
        namespace.out.contains("Controlled By:   ReplicationController/web"),
        "{}",
        namespace.out
    );
    assert!(namespace.out.contains("\n\n\nName:         web"), "{}", namespace.out);
}

#[tokio::test]
async fn versions() {
    let server = Fake::new().serve().await;
    let both = wharf(&server, "version").await;
    let client = format!("Client Version: {}\n", proto::VERSION);
    assert_eq!(
        (both.code, both.out.as_str()),
        (
            0,
            format!("{client}Coordinator Version: 9.8.7\nCluster: 0f8fad5b-d9cb-469f-a165-70867728950e\n").as_str()
        )
    );
    let mut alone = Command::new(&[]);
    alone.env.vars.clear();
    let alone = alone.run("version --client").await;
    assert_eq!(
        (alone.code, alone.out.as_str(), alone.err.as_str()),
        (0, client.as_str(), "")
    );
    let json: Value = serde_json::from_str(&wharf(&server, "version -o json").await.out).expect("JSON");
    assert_eq!(
        (&json["client"]["version"], &json["coordinator"]["version"]),
        (&json!(proto::VERSION), &json!("9.8.7"))
    );
}

#[tokio::test]
async fn sorted_selected_by_node_and_everything_of_a_workload() {
    let fake = filled();
    let mut busy = pod("default", "aa", "web", "n2");
    busy["status"]["containerStatuses"][0]["restartCount"] = json!(10);
    busy["metadata"]["creationTimestamp"] = json!("2026-01-31T11:40:00Z");
    fake.put(Kind::Pod, busy);
    let server = fake.serve().await;
    for (line, expected) in [
        (
            "get pods --sort-by=.status.containerStatuses[0].restartCount -o name",
            "pod/db-a\npod/web-b\npod/aa\n",
        ),
        (
            "get pods --sort-by {.metadata.creationTimestamp} -o name",
            "pod/aa\npod/db-a\npod/web-b\n",
        ),
        (
            "get pods,rc --sort-by spec.replicas -o name",
            "pod/aa\npod/db-a\npod/web-b\nreplicationcontroller/web\n",
        ),
        ("get pods --node n2 -o name", "pod/aa\n"),
        (
            "get pods --node n1 -A --field-selector metadata.name!=db-a -o name",
            "pod/web-b\npod/web-z\n",
        ),
        (
            "get all",
            "NAME        READY   STATUS    RESTARTS   AGE\n\
             pod/aa      1/1     Running   10         20m\n\
             pod/db-a    1/1     Running   0          10m\n\
             pod/web-b   1/1     Running   0          10m\n\
             \n\
             NAME                        DESIRED   CURRENT   READY   AGE\n\
             replicationcontroller/web   1         1         1       10m\n",
        ),
    ] {
        let done = wharf(&server, line).await;
        assert_eq!(
            (done.code, done.out.as_str(), done.err.as_str()),
            (0, expected, ""),
            "{line}"
        );
    }
    let done = wharf(&server, "get pods,rc --sort-by .no.such -o name").await;
    assert_eq!((done.code, done.out.as_str()), (1, ""));
    assert!(
        done.err
            .starts_with("error: --sort-by \".no.such\": no object has this field"),
        "{}",
        done.err
    );
    for line in [
        "get nodes --node n1",
        "get pod aa --node n1",
        "get all web",
        "get all -w",
        "get pods --sort-by=",
        "get events --node n1",
        "get pods -f x",
    ] {
        assert_eq!(wharf(&server, line).await.code, 2, "{line}");
    }
}

#[tokio::test]
async fn objects_that_a_file_names() {
    let server = filled().serve().await;
    let text = "kind: Pod\nmetadata: {name: web-z, namespace: prod}\n---\nkind: Node\nmetadata: {name: n1}\n";
    let run = async |line: &str| Command::new(&[&server.address]).stdin(text).run(line).await;
    let done = run("get -f - -o name").await;
    assert_eq!(
        (done.code, done.out.as_str(), done.err.as_str()),
        (0, "pod/web-z\nnode/n1\n", "")
    );
    let done = run("describe -f -").await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("Namespace:       prod\n"), "{}", done.out);
    let done = run("get -f - -n default").await;
    assert_eq!(done.code, 1);
    assert!(done.err.contains("metadata.namespace: it is \"prod\""), "{}", done.err);
}

#[tokio::test]
async fn a_pod_whose_node_is_not_heard_is_not_shown_as_ready() {
    let fake = Fake::new();
    let mut lost = pod("default", "p", "web", "n1");
    lost["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown", "reason": "NodeLost"}]);
    fake.put(Kind::Pod, lost);
    let done = wharf(&fake.serve().await, "get pods --no-headers").await;
    assert_eq!(done.out, "p   0/1   Unknown   0   10m\n");
}
