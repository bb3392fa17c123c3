//! The merge as a table, and what holds for every input.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn rc(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

fn merged(last: &Value, file: &Value, live: &Value) -> Value {
    three_way(Kind::ReplicationController, last, file, live)
}

#[test]
fn fields() {
    let none = Value::Null;
    for (why, last, file, live, expected) in [
        (
            "a count that was never applied stays as scaled",
            json!({"spec": {"minReadySeconds": 5}}),
            json!({"spec": {"minReadySeconds": 6}}),
            json!({"spec": {"replicas": 9, "minReadySeconds": 5}}),
            json!({"spec": {"replicas": 9, "minReadySeconds": 6}}),
        ),
        (
            "the file wins over who scaled",
            json!({"spec": {"replicas": 3}}),
            json!({"spec": {"replicas": 3}}),
            json!({"spec": {"replicas": 9}}),
            json!({"spec": {"replicas": 3}}),
        ),
        (
            "what the file gives up goes",
            json!({"spec": {"replicas": 3, "minReadySeconds": 5}}),
            json!({"spec": {"replicas": 3}}),
            json!({"spec": {"replicas": 3, "minReadySeconds": 5}}),
            json!({"spec": {"replicas": 3}}),
        ),
        (
            "without a last one nothing goes",
            none,
            json!({"spec": {"replicas": 3}}),
            json!({"spec": {"minReadySeconds": 5}}),
            json!({"spec": {"minReadySeconds": 5, "replicas": 3}}),
        ),
        (
            "labels of others stay when the file gives up all of its own",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            "a map that is empty then goes too",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {}}),
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {}}),
        ),
        (
            "a label that others took over keeps going by what was applied",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {}}}),
            json!({"metadata": {"labels": {"a": "theirs"}}}),
            json!({"metadata": {"labels": {}}}),
        ),
    ] {
        assert_eq!(merged(&last, &file, &live), expected, "{why}");
    }
}

#[test]
fn lists_of_named_items() {
    for (why, last, file, live, expected) in [
        (
            "an item of others stays, one that was given up goes",
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
            json!({"containers": [{"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "side", "image": "s"}, {"name": "a", "image": "1"}, {"name": "b"}]}),
            json!({"containers": [{"name": "side", "image": "s"}, {"name": "a", "image": "2"}]}),
        ),
        (
            "inside an item the same holds",
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}], "args": ["x"]}]}),
            json!({"containers": [{"name": "a", "image": "1", "args": ["y", "z"]}]}),
            json!({"containers": [{"name": "a", "image": "1", "imagePullPolicy": "Never", "args": ["x"],
                "env": [{"name": "X", "value": "1"}, {"name": "THEIRS", "value": "2"}]}]}),
            json!({"containers": [{"name": "a", "image": "1", "imagePullPolicy": "Never", "args": ["y", "z"],
                "env": [{"name": "THEIRS", "value": "2"}]}]}),
        ),
        (
            "a port is named by number and protocol, TCP when left out",
            json!({}),
            json!({"containers": [{"name": "a", "ports": [
                {"containerPort": 53, "hostPort": 54}, {"containerPort": 53, "protocol": "UDP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [
                {"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [
                {"containerPort": 53, "protocol": "TCP", "hostPort": 54}, {"containerPort": 53, "protocol": "UDP"}]}]}),
        ),
        (
            "the file's order counts, since variables refer to those before",
            json!({}),
            json!({"containers": [{"name": "a", "env": [{"name": "X"}, {"name": "NEW"}, {"name": "Y"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "O"}, {"name": "X"}, {"name": "Y"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "X"}, {"name": "NEW"}, {"name": "Y"}, {"name": "O"}]}]}),
        ),
        (
            "a source that is given up goes whole, with what was filled in",
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/a"}}]}),
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/a", "type": ""}}]}),
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        ),
        (
            "two items of one name: the list is replaced",
            json!({}),
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a"}]}),
        ),
        (
            "a list without keys is replaced",
            json!({}),
            json!({"containers": [{"name": "a", "command": ["x"]}]}),
            json!({"containers": [{"name": "a", "command": ["y", "z"]}]}),
            json!({"containers": [{"name": "a", "command": ["x"]}]}),
        ),
        (
            "another type is replaced",
            json!({"containers": "odd"}),
            json!({"containers": [{"name": "a"}]}),
            json!({"containers": {"odd": 1}}),
            json!({"containers": [{"name": "a"}]}),
        ),
    ] {
        assert_eq!(merged(&rc(last), &rc(file), &rc(live)), rc(expected), "{why}");
    }
}

/// Part of a controller, as a file or the cluster may have it.
fn part() -> impl Strategy<Value = Value> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let label = || prop::collection::btree_map(name(), prop::sample::select(vec!["1", "2"]), 0..3);
    let env = prop::collection::btree_map(name(), 0_i32..3, 0..3).prop_map(|m: BTreeMap<&str, i32>| {
        m.into_iter()
            .map(|(n, v)| json!({"name": n, "value": v.to_string()}))
            .collect::<Vec<_>>()
    });
    let container = (
        0_i32..3,
        prop::option::of(env),
        prop::option::of(prop::collection::vec(0_i32..3, 1..3)),
    );
    let containers = prop::collection::btree_map(name(), container, 1..3).prop_map(|m| {
        let containers = m.into_iter().map(|(name, (image, env, args))| {
            let mut c = json!({"name": name, "image": image.to_string()});
            if let Some(env) = env {
                c["env"] = json!(env);
            }
            if let Some(args) = args {
                c["args"] = json!(args);
            }
            c
        });
        containers.collect::<Vec<_>>()
    });
    let replicas = prop::option::of(0_i32..4);
    (prop::option::of(label()), replicas, containers, any::<bool>()).prop_map(|(labels, replicas, mut list, turn)| {
        if turn {
            list.reverse();
        }
        let mut value = json!({"metadata": {"name": "x"}, "spec": {"template": {"spec": {"containers": list}}}});
        if let Some(labels) = labels {
            value["metadata"]["labels"] = json!(labels);
        }
        if let Some(replicas) = replicas {
            value["spec"]["replicas"] = json!(replicas);
        }
        value
    })
}

/// Every field by its path, items of named lists by their name.
fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| walk(&format!("{path}.{k}"), v, out)),
            Value::Array(items) if items.iter().all(|i| i["name"].is_string()) => {
                for item in items {
                    walk(&format!("{path}[{}]", item["name"]), item, out);
                }
            }
            other => drop(out.insert(path.to_owned(), other.clone())),
        }
    }
    let mut out = BTreeMap::new();
    walk("", value, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_field_has_the_right_owner(last in part(), file in part(), live in part()) {
        let result = merged(&last, &file, &live);
        let (last, file, live, result) = (leaves(&last), leaves(&file), leaves(&live), leaves(&result));
        for (path, value) in &file {
            prop_assert_eq!(result.get(path), Some(value), "the file's {} wins", path);
        }
        for (path, value) in &live {
            match (file.contains_key(path), last.contains_key(path)) {
                (false, true) => prop_assert!(!result.contains_key(path), "{} was given up", path),
                // An item that was given up goes with all that others set in it.
                (false, false) if !of_a_lost_item(path, &last, &file) => {
                    prop_assert_eq!(result.get(path), Some(value), "{} is of others", path);
                }
                _ => {}
            }
        }
        for path in result.keys() {
            prop_assert!(file.contains_key(path) || live.contains_key(path), "{} comes from nowhere", path);
        }
    }

    #[test]
    fn applied_again_nothing_changes(last in part(), file in part(), live in part()) {
        let once = merged(&last, &file, &live);
        prop_assert_eq!(&merged(&file, &file, &once), &once);
        prop_assert_eq!(&merged(&last, &file, &once), &once);
    }
}

/// `path` is in an item, or a list, that was applied and is in the file no more.
fn of_a_lost_item(path: &str, last: &BTreeMap<String, Value>, file: &BTreeMap<String, Value>) -> bool {
    let ends = path.match_indices(']').map(|(i, _)| &path[..=i]);
    let has = |of: &BTreeMap<String, Value>, item: &str| of.keys().any(|p| p.starts_with(item));
    ends.into_iter().any(|item| has(last, item) && !has(file, item))
}
