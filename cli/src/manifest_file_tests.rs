//! Files as they come: those that must load as they are, what kubectl and other clients write, and the traps of YAML.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn good(text: &str) -> Vec<Document> {
    parse("f.yaml", text, Check::Whole).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn bad(text: &str) -> Vec<String> {
    parse("f.yaml", text, Check::Whole).map_or_else(|problems| problems, |_| vec!["accepted".to_owned()])
}

/// What `load` says of one file with these bytes, without its name.
fn loaded(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("f");
    std::fs::write(&file, bytes).expect("written");
    match load(std::slice::from_ref(&file), &mut std::io::empty(), Check::Whole) {
        Ok(documents) => documents.iter().map(|d| format!("{} {};", d.kind, d.name)).collect(),
        Err(e) => e.to_string().replace(&file.display().to_string(), "f"),
    }
}

const POD: &str = "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n";

/// Kind, name and warning of each object.
fn summary(text: &str) -> Vec<String> {
    let line = |d: &Document| format!("{} {}: {}", d.kind, d.name, d.warning.as_deref().unwrap_or("-"));
    good(text).iter().map(line).collect()
}

#[test]
fn the_files_that_brought_us_here_load_as_they_are() {
    for (text, expected) in [
        (
            include_str!("../tests/fixtures/unschedule_node.yaml"),
            "Node kubernetes-minion1: -",
        ),
        (
            include_str!("../tests/fixtures/redis-master-controller.yaml"),
            "ReplicationController redis-master: -",
        ),
        (
            include_str!("../tests/fixtures/redis-master-controller-v2.yaml"),
            "ReplicationController redis-master-v2: -",
        ),
    ] {
        assert_eq!(summary(text), [expected]);
    }
    let rc = &good(include_str!("../tests/fixtures/redis-master-controller.yaml"))[0];
    assert_eq!(
        rc.json["spec"]["template"]["spec"]["nodeSelector"],
        json!({"zone": "north"})
    );
    let node = &good(include_str!("../tests/fixtures/unschedule_node.yaml"))[0];
    assert_eq!(node.json["spec"]["unschedulable"], true);
}

#[test]
fn exports_of_kubectl_load_with_one_warning_an_object() {
    let old = include_str!("../tests/fixtures/kubectl-1.20.yaml");
    assert_eq!(
        summary(old),
        [
            "ReplicationController frontend: f.yaml:9:5: replicationcontroller \"frontend\": no effect here, left out: \
             metadata.creationTimestamp, metadata.generation, metadata.managedFields, metadata.selfLink, \
             spec.template.spec.dnsPolicy and 2 more",
            "Node worker-1: f.yaml:182:5: node \"worker-1\": no effect here, left out: metadata.creationTimestamp, \
             metadata.managedFields, metadata.selfLink, spec.podCIDR, spec.podCIDRs and 3 more",
        ]
    );
    let new = include_str!("../tests/fixtures/kubectl-1.33.yaml");
    assert_eq!(
        summary(new),
        [
            "ReplicationController nginx: f.yaml:9:5: replicationcontroller \"nginx\": no effect here, left out: \
             metadata.creationTimestamp, metadata.generation, \
             spec.template.spec.containers[0].securityContext.seccompProfile, spec.template.spec.dnsPolicy, \
             spec.template.spec.schedulerName and 3 more",
            "Node worker-a: f.yaml:88:5: node \"worker-a\": no effect here, left out: metadata.creationTimestamp, \
             spec.podCIDR, spec.podCIDRs, spec.providerID, status",
        ]
    );
    for text in [old, new] {
        for document in good(text) {
            // What is sent gives the coordinator nothing to warn of, and keeps what counts.
            let again = proto::model::parse::written(document.kind, document.json.clone()).expect("reads");
            assert_eq!((again.without_effect, again.json), (Vec::new(), document.json.clone()));
            assert!(document.json["metadata"]["annotations"].is_object());
            assert!(document.json["metadata"]["resourceVersion"].is_string());
        }
    }
    let node = &good(old)[1].json;
    assert_eq!(
        (node["spec"].clone(), node.get("status")),
        (json!({"unschedulable": true}), None)
    );
    let container = &good(new)[0].json["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
}

#[test]
fn lists_of_one_kind_as_foreign_clients_write_them() {
    for (kind, item, expected) in [
        (
            "PodList",
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}),
            "Pod p: -",
        ),
        (
            "NodeList",
            json!({"metadata": {"name": "n"}, "spec": null}),
            "Node n: -",
        ),
        (
            "NamespaceList",
            json!({"kind": "Namespace", "metadata": {"name": "a"}}),
            "Namespace a: -",
        ),
    ] {
        let list = json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "7", "continue": ""},
            "items": [item]});
        assert_eq!(summary(&list.to_string()), [expected]);
    }
    let rc = include_str!("../tests/fixtures/redis-master-controller.yaml");
    let indented: String = rc.lines().skip(2).map(|l| format!("  {l}\n")).collect();
    let list = format!("kind: ReplicationControllerList\nitems:\n-{}", &indented[1..]);
    assert_eq!(summary(&list), ["ReplicationController redis-master: -"]);
}

#[test]
fn mistakes_of_all_documents_are_named_up_to_one_of_syntax() {
    let text = "kind: Pod\nmetadata: {name: A}\nspec: {containers: [{name: c, image: i}]}\n---\nkind: Pod\nkind: Pod\n---\n\
                kind: Namespace\nmetadata: {nam: x}\n---\nkind: [\n";
    let found = bad(text);
    let starts = [
        "f.yaml:2:18: pod \"A\": metadata.name: \"A\" must be a DNS subdomain",
        "f.yaml:6:1: duplicate key: kind",
        "f.yaml:9:12: namespace: metadata.nam: unknown field; did you mean `name`?",
        "f.yaml:11:7: unclosed bracket '['",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}\nexpected {start}");
    }
    let several = "kind: Pod\nmetadata: {name: p, labels: {a: 1, b: yes, c: true}}\nspec: {container: [], hostNetwork: 'true', \
                   initContainers: [{}]}\n";
    assert_eq!(
        bad(several),
        [
            "f.yaml:3:8: pod \"p\": spec.container: unknown field; did you mean `containers`?",
            "f.yaml:3:44: pod \"p\": spec.initContainers: not supported by Wharfinger yet; leave it out",
            "f.yaml:2:33: pod \"p\": metadata.labels.a: invalid type: integer `1`, expected a string; put it in quotes",
            "f.yaml:2:47: pod \"p\": metadata.labels.c: invalid type: boolean `true`, expected a string; put it in quotes",
            "f.yaml:3:36: pod \"p\": spec.hostNetwork: invalid type: string \"true\", expected true or false; leave out the \
             quotes",
        ]
    );
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let text = "\
kind: Pod
metadata:
  name: p
  labels: &labels {app: web, tier: front}
  annotations: *labels
spec:
  containers:
  - &first
    name: a
    image: i:1
    env: [{name: X, value: '1'}]
  - <<: *first
    name: b
";
    let json = &good(text)[0].json;
    assert_eq!(json["metadata"]["annotations"], json!({"app": "web", "tier": "front"}));
    assert_eq!(
        json["spec"]["containers"][1],
        json!({"name": "b", "image": "i:1", "env": [{"name": "X", "value": "1"}]})
    );
    let wrong = text.replace("image: i:1", "imag: i:1");
    let found = bad(&wrong);
    assert_eq!(found.len(), 2, "in both places: {found:?}");
    assert!(
        found[0].starts_with("f.yaml:10:5: pod \"p\": spec.containers[0].imag: unknown field"),
        "{found:?}"
    );
    assert!(found[1].contains("spec.containers[1].imag: unknown field"), "{found:?}");
}

#[test]
fn aliases_and_nesting_are_bounded() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    let deep = |open: &str, n: usize| format!("kind: Pod\nmetadata: {}", open.repeat(n));
    let blocks: String = (0..100_000).map(|i| format!("{}-\n", " ".repeat(i % 50))).collect();
    let steps: String = (0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    for (name, text, expected) in [
        ("aliases", bomb, "write it out"),
        ("itself", "a: &a [*a]\n".to_owned(), "f.yaml:1:"),
        ("lists", deep("[", 100_000), "nested more than 32 levels deep"),
        ("maps", deep("{a: ", 100_000), "nested more than 32 levels deep"),
        ("keys", deep("\n  ", 1) + &"? ".repeat(100_000), "f.yaml:"),
        (
            "dashes",
            deep("\n- ", 1) + &"- ".repeat(100_000),
            "nested more than 32 levels deep",
        ),
        ("blocks", blocks, "f.yaml:"),
        ("steps", steps, "nested more than 32 levels deep"),
    ] {
        let found = bad(&text);
        assert!(found[0].contains(expected), "{name}: {}", &found[0]);
        assert!(found[0].len() < 500, "{name}: {} bytes", found[0].len());
    }
}

#[test]
fn line_ends_byte_order_marks_and_tabs() {
    assert_eq!(summary(&POD.replace('\n', "\r\n")), ["Pod p: -"]);
    assert_eq!(loaded(format!("\u{feff}{POD}").as_bytes()), "Pod p;");
    let crlf = POD.replace('\n', "\r\n").replace("image", "imag");
    assert_eq!(
        bad(&crlf),
        ["f.yaml:3:31: pod \"p\": spec.containers[0].imag: unknown field; did you mean `image`?"]
    );
    let tabs = bad("kind: Pod\nmetadata:\n\tname: p\n");
    assert!(tabs[0].starts_with("f.yaml:3:") && tabs[0].contains("tab"), "{tabs:?}");
    let wide = bad("kind: Pod\nmetadata: {name: p, annotations: {ä: \"日本\", nöte: [x]}}\n");
    assert!(
        wide.iter().any(|p| p.starts_with("f.yaml:2:50: ")),
        "columns are characters: {wide:?}"
    );
}

#[test]
fn files_that_cannot_be_read() {
    assert_eq!(
        loaded(b""),
        "f: no object in it; expected YAML or JSON with `kind` and `metadata.name`"
    );
    assert_eq!(
        loaded(
            "kind: Pod\nä: "
                .as_bytes()
                .iter()
                .copied()
                .chain([0xff, b'\n'])
                .collect::<Vec<_>>()
                .as_slice()
        ),
        "f:2:4: not UTF-8 text; save the file as UTF-8"
    );
    assert_eq!(
        loaded(b"kind: Pod\nmetadata: {name: a\0b}\n").split(": ").next(),
        Some("f:2:19")
    );
    // An endless stream ends at the limit.
    let mut endless = std::io::repeat(b'#');
    let error = load(&["-".into()], &mut endless, Check::Whole).expect_err("too large");
    assert_eq!(error.to_string(), "stdin: larger than 16 MiB; split it");

    let dir = tempfile::tempdir().expect("tempdir");
    let missing = dir.path().join("missing");
    let binary = dir.path().join("b");
    std::fs::write(&binary, [0xff, 0xfe]).expect("written");
    let files = [missing.clone(), binary.clone(), dir.path().to_owned()];
    let error = load(&files, &mut std::io::empty(), Check::Whole).expect_err("all bad");
    let mut text = Vec::new();
    error.report(&mut text, false, crate::status::StatusFormat::Line);
    let text = String::from_utf8_lossy(&text).into_owned();
    for expected in [
        format!("error: {}: No such file", missing.display()),
        format!("error: {}:1:1: not UTF-8", binary.display()),
        format!("error: {}: Is a directory", dir.path().display()),
    ] {
        assert!(text.contains(&expected), "{text}");
    }
    let twice = load(&["-".into(), "-".into()], &mut std::io::empty(), Check::Whole);
    assert!(matches!(twice, Err(Error::Usage(_))));
}

#[test]
fn a_large_file_is_read_or_refused_but_never_hangs() {
    let namespaces: String = (0..3_000)
        .map(|i| format!("---\nkind: Namespace\nmetadata: {{name: n{i}}}\n"))
        .collect();
    let found = parse("f.yaml", &namespaces, Check::Whole);
    assert_eq!(found.map(|d| d.len()), Ok(3_000));
    let numbers = format!("kind: Pod\nmetadata: [{}]\n", "1,".repeat(510_000));
    let found = bad(&numbers);
    assert!(
        found[0].contains("one document holds too much; at most 500000 values"),
        "{found:?}"
    );
}

proptest! {
    #[test]
    fn an_edit_of_a_good_file_is_read_or_refused_with_its_place(
        at in any::<prop::sample::Index>(),
        cut in 0_usize..3,
        put in prop::sample::select(vec!["", "\t", "\n", ": ", "- ", "&a ", "*a", "<<: ", "[", "}", "\"", "'", "|", "#", "?", "\u{0}", "é"]),
    ) {
        let mut text = include_str!("../tests/fixtures/kubectl-1.33.yaml").to_owned();
        let at = at.index(text.len() - 2);
        text.replace_range(at..at + cut, put);
        if let Err(problems) = parse("f.yaml", &text, Check::Whole) {
            for problem in problems {
                let place: Vec<_> = problem.splitn(4, ':').collect();
                let numbers = place.len() == 4 && place[1].parse::<u64>().is_ok() && place[2].parse::<u64>().is_ok();
                prop_assert!(numbers, "{}", problem);
            }
        }
    }
}
