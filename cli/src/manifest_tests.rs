//! What a manifest may look like, and the exact line for each way to get it wrong.

use serde_json::json;

use super::*;

const RC: &str = "\
apiVersion: v1
kind: ReplicationController
metadata:
  name: web
spec:
  replicas: 2
  selector:
    app: web
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
      - name: c
        image: web:1
        ports:
        - containerPort: 80
";

fn problems(text: &str) -> Vec<String> {
    match parse("f.yaml", text, Check::Whole) {
        Ok(documents) => vec![format!("accepted {} documents", documents.len())],
        Err(problems) => problems,
    }
}

/// One change to a good manifest, and all that is said about it.
fn changed(from: &str, to: &str) -> Vec<String> {
    assert!(RC.contains(from), "{from}");
    problems(&RC.replacen(from, to, 1))
}

#[test]
fn a_good_manifest_in_yaml_json_lists_and_several_documents() {
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [
        {"kind": "Namespace", "metadata": {"name": "prod"}},
        {"kind": "Pod", "metadata": {"name": "p", "namespace": "prod"},
         "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
    ]});
    let text = format!("# first\n---\n{RC}---\n---\n# nothing\n---\n{list}\n");
    let documents = parse("f.yaml", &text, Check::Whole).expect("good");
    let found: Vec<_> = documents
        .iter()
        .map(|d| (d.kind, d.name.as_str(), d.namespace.as_str(), d.place.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (Kind::ReplicationController, "web", "", "f.yaml:3:1"),
            (Kind::Namespace, "prod", "", "f.yaml:25:57"),
            (Kind::Pod, "p", "prod", "f.yaml:25:154"),
        ]
    );
    let line = text.lines().nth(24).expect("the list's line");
    assert!(
        line[56..].starts_with("\"kind\":\"Namespace\"") || line[56..].starts_with("{\"kind\""),
        "{}",
        &line[56..]
    );
    assert!(line[153..].starts_with("\"prod\""), "{}", &line[153..]);
    assert_eq!(documents[0].json["spec"]["replicas"], 2);
    let pretty = serde_json::to_string_pretty(&documents[2].json)
        .expect("JSON")
        .replace("  ", "\t");
    assert!(
        parse("f.json", &pretty, Check::Whole).is_ok(),
        "JSON may be indented by tabs"
    );
}

#[test]
fn null_is_a_field_left_out() {
    let text = RC
        .replace(
            "  name: web\n",
            "  name: web\n  creationTimestamp: null\n  labels:\n  namespace:\n",
        )
        .replace(
            "        ports:\n        - containerPort: 80\n",
            "        ports:\n        resources: null\n",
        );
    let documents = parse("f.yaml", &text, Check::Whole).expect("good");
    assert_eq!(
        documents[0].json["spec"]["template"]["spec"]["containers"][0],
        json!({"name": "c", "image": "web:1"})
    );
    assert_eq!(
        changed("spec:\n  replicas: 2", "spec:\n  replica: null"),
        ["f.yaml:6:3: replicationcontroller \"web\": spec.replica: unknown field; did you mean `replicas`?"]
    );
}

#[test]
fn each_mistake_has_its_line() {
    let rc = "replicationcontroller \"web\":";
    let container = "spec.template.spec.containers[0]";
    for (from, to, expected) in [
        (
            "replicas: 2",
            "replica: 2",
            format!("f.yaml:6:3: {rc} spec.replica: unknown field; did you mean `replicas`?"),
        ),
        (
            "image: web:1",
            "imge: web:1",
            format!("f.yaml:16:9: {rc} {container}.imge: unknown field; did you mean `image`?"),
        ),
        (
            "- containerPort: 80",
            "- containerPort: 80\n          zzz: 1",
            format!("f.yaml:19:11: {rc} {container}.ports[0].zzz: unknown field"),
        ),
        (
            "replicas: 2",
            "replicas: '2'",
            format!("f.yaml:6:13: {rc} spec.replicas: invalid type: string \"2\", expected a whole number"),
        ),
        (
            "replicas: 2",
            "replicas: -1",
            format!("f.yaml:6:13: {rc} spec.replicas: must not be negative, is -1"),
        ),
        (
            "containerPort: 80",
            "containerPort: 70000",
            format!(
                "f.yaml:18:26: {rc} {container}.ports[0].containerPort: invalid value: integer `70000`, expected a whole number from 0 to 65535"
            ),
        ),
        (
            "        app: web\n    spec",
            "        app: 1\n    spec",
            format!(
                "f.yaml:12:14: {rc} spec.template.metadata.labels.app: invalid type: integer `1`, expected a string"
            ),
        ),
        (
            "    app: web\n  template",
            "    app: api\n  template",
            format!(
                "f.yaml:8:5: {rc} spec.selector: app=api does not match spec.template.metadata.labels, which has app=web"
            ),
        ),
        (
            "  name: web\n",
            "  name: Web\n",
            "f.yaml:4:9: replicationcontroller \"Web\": metadata.name: \"Web\" must be a DNS subdomain".to_owned(),
        ),
        (
            "  name: web\n",
            "  labels: {}\n",
            "f.yaml:4:3: replicationcontroller: metadata.name: required".to_owned(),
        ),
        (
            "replicas: 2",
            "replicas: 2\n  replicas: 3",
            "f.yaml:7:3: duplicate key: replicas".to_owned(),
        ),
        (
            "  replicas: 2",
            "\treplicas: 2",
            "f.yaml:6:2: tabs disallowed within this context (block indentation)".to_owned(),
        ),
        (
            "kind: ReplicationController",
            "kind: ReplicationControler",
            "f.yaml:2:7: kind: `ReplicationControler` is not known; did you mean `ReplicationController`?".to_owned(),
        ),
        (
            "kind: ReplicationController\n",
            "",
            "f.yaml:1:1: kind: required, e.g. `kind: ReplicationController`".to_owned(),
        ),
        (
            "apiVersion: v1",
            "apiVersion: v2",
            format!("f.yaml:1:13: {rc} apiVersion: must be v1, not \"v2\""),
        ),
        (
            "- name: c\n",
            "- null\n      - name: c\n",
            format!("f.yaml:15:9: {rc} {container}: invalid type: null"),
        ),
    ] {
        let found = changed(from, to);
        let first = found.first().map(String::as_str).unwrap_or_default();
        assert!(first.starts_with(&expected), "{first}\nexpected\n{expected}");
        assert_eq!(found.len(), 1, "{found:?}");
    }
}

#[test]
fn all_mistakes_of_all_documents_are_named_with_their_own_lines() {
    let bad = RC.replace("replicas: 2", "replicas: -2").replace("name: c", "name: C");
    let second = bad.lines().count() + 2;
    assert_eq!(
        problems(&format!("{bad}---\n{}", RC.replace("replicas", "replica"))),
        [
            "f.yaml:6:13: replicationcontroller \"web\": spec.replicas: must not be negative, is -2".to_owned(),
            "f.yaml:15:15: replicationcontroller \"web\": spec.template.spec.containers[0].name: \"C\" must be a DNS \
             label: at most 63 of a-z, 0-9 and '-', not at an end"
                .to_owned(),
            format!(
                "f.yaml:{}:3: replicationcontroller \"web\": spec.replica: unknown field; did you mean `replicas`?",
                second + 5
            ),
        ]
    );
}

#[test]
fn what_is_no_object() {
    for (text, expected) in [
        (
            "",
            "f.yaml: no object in it; expected YAML or JSON with `kind` and `metadata.name`",
        ),
        ("---\n# nothing\n---\n", "f.yaml: no object in it"),
        ("just words", "f.yaml:1:1: must be an object with `kind` and `metadata`"),
        ("- kind: Pod\n", "f.yaml:1:1: must be an object"),
        ("kind: [Pod]\n", "f.yaml:1:7: kind: must be a string"),
        ("kind: List\n", "f.yaml:1:1: items: required in a list"),
        (
            "kind: List\nitems: {}\n",
            "f.yaml:2:8: items: must be a list of objects",
        ),
        ("kind: List\nitems: []\n", "f.yaml:1:1: items: the list is empty"),
        (
            "kind: List\nitems:\n- {kind: Namespace, metadata: {name: a}}\nitem: []\n",
            "f.yaml:4:1: item: unknown field; did you mean `items`?",
        ),
        (
            "kind: PodList\nitems:\n- {kind: Nod}\n",
            "f.yaml:3:10: kind: `Nod` is not known; did you mean `Node`?",
        ),
        ("kind: PodLis\nitems: []\n", "f.yaml:1:7: kind: `PodLis` is not known"),
        (
            "apiVersion: v2\nkind: List\nitems: [{kind: Namespace, metadata: {name: a}}]\n",
            "f.yaml:1:13: apiVersion: must be v1, not \"v2\"",
        ),
        (
            "kind: List\nitems:\n- kind: Po\n",
            "f.yaml:3:9: kind: `Po` is not known; did you mean `Pod`?",
        ),
        ("kind: Pod\nspec: [\n", "f.yaml:2:7: unclosed bracket '['"),
        ("kind: 'Pod\n", "f.yaml:1:7: unclosed quote"),
        ("{\"kind\": \"Pod\",,}", "f.yaml:1:16: "),
        ("a: *nope\n", "f.yaml:1:4: alias references unknown anchor"),
    ] {
        let found = problems(text);
        assert!(found[0].starts_with(expected), "{text:?}: {found:?}");
        assert_eq!(found.len(), 1, "{found:?}");
    }
}

#[test]
fn deleting_needs_only_kind_and_name() {
    let text = "kind: Pod\nmetadata: {name: p, namespace: n}\nspec: {nonsense: 1}\n";
    let documents = parse("f", text, Check::Header).expect("good");
    assert_eq!(
        (documents[0].name.as_str(), documents[0].namespace.as_str()),
        ("p", "n")
    );
    for (metadata, expected) in [
        ("{}", "f:2:11: pod: metadata.name: required"),
        ("{name: 1}", "f:2:18: pod: metadata.name: must be a string"),
        ("{name: ''}", "f:2:18: pod: metadata.name: it is empty"),
        (
            "{name: p, namespace: 7}",
            "f:2:32: pod: metadata.namespace: must be a string",
        ),
    ] {
        let found = parse("f", &format!("kind: Pod\nmetadata: {metadata}\n"), Check::Header);
        assert_eq!(found.map(|_| ()), Err(vec![expected.to_owned()]));
    }
}
