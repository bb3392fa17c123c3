//! What tests of rolling updates share: hosts whose engines have a second version of the program, a service in that
//! version, and how an update stands.
//!
//! Invariant: looks by the command alone, as an operator does.

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use crate::{
    Hosts, Options,
    docker::IMAGE,
    load::To,
    program::{Background, Output},
};

/// The same program under another name.
pub const NEXT: &str = "wharf-test-app:2";

/// Hosts that try again quickly what exits.
pub fn hosts(test: &str, count: usize) -> Hosts {
    let options = Options {
        agent: "crash_initial_ms = 200\ncrash_max_ms = 500\n".into(),
        ..Options::default()
    };
    let hosts = Hosts::start(test, count, options);
    for node in hosts.names() {
        hosts.engine(&node).engine.docker(&["tag", IMAGE, NEXT]).ok();
    }
    hosts
}

pub fn endpoints(hosts: &Hosts, name: &str) -> To {
    To::Endpoints {
        http: hosts.cluster.http(),
        namespace: "default".into(),
        name: name.into(),
    }
}

/// Images of the pods that there are.
pub fn images(hosts: &Hosts) -> BTreeSet<String> {
    let pods = hosts.cluster.items("pods");
    let image = |pod: &Value| {
        pod["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    pods.iter().map(image).collect()
}

/// Names of the pods whose containers run.
pub fn names(hosts: &Hosts) -> BTreeSet<String> {
    hosts.running_anywhere().into_iter().map(|c| c.pod).collect()
}

/// A manifest of `web` in its second version, under a name and a label of its own.
pub fn second(mut manifest: Value) -> Value {
    manifest["metadata"]["name"] = json!("web-v2");
    for labels in ["/spec/selector", "/spec/template/metadata/labels"] {
        manifest.pointer_mut(labels).expect("labels")["version"] = json!("2");
    }
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = json!(NEXT);
    manifest
}

/// The manifest as a file; its path.
pub fn write(hosts: &Hosts, manifest: &Value) -> String {
    let file = hosts.cluster.dir().join("second.json");
    fs::write(&file, manifest.to_string()).expect("a manifest");
    file.to_str().expect("UTF-8").to_owned()
}

/// `wharf rolling-update web …`, to its end.
pub fn update(hosts: &Hosts, args: &[&str]) -> Output {
    let mut all = vec!["rolling-update", "web"];
    all.extend(args);
    hosts.cluster.wharf(&all)
}

/// The same in a terminal of its own.
pub fn watching(hosts: &Hosts, args: &[&str]) -> Background {
    let mut all = vec!["rolling-update", "web"];
    all.extend(args);
    let config = hosts.cluster.data_dir().join("admin.yaml").display().to_string();
    let log = hosts.cluster.dir().join("update.log");
    Background::with_env("wharf", &all, &[("WHARF_CONFIG".to_owned(), config)], log)
}

/// How the present or last update of this controller stands; null: none is known, or nobody answers.
pub fn standing(hosts: &Hosts, name: &str) -> Value {
    let args = ["rollout", "status", "rc", name, "--watch=false", "-o", "json"];
    serde_json::from_str(&hosts.cluster.wharf(&args).stdout).unwrap_or_default()
}
