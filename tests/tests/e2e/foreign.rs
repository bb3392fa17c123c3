//! A client in another language, made from the .proto files and `admin.yaml` alone, does the main job: it lists
//! nodes, scales a controller and watches its pods come. `deploy/dev/ensure-python.sh` makes its Python.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{
    Cluster,
    cluster::controller,
    program::{self, Output},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("a workspace")
        .to_owned()
}

/// The interpreter that the script made.
fn python() -> PathBuf {
    let script = root().join("deploy/dev/ensure-python.sh");
    let path = program::run(Command::new(&script).arg("--path")).ok();
    let path = PathBuf::from(path.trim());
    assert!(
        path.exists(),
        "{} is missing: run `make tools` or {} first",
        path.display(),
        script.display()
    );
    path
}

fn client(config: &Path, args: &[&str]) -> Output {
    program::run(
        Command::new(python())
            .arg(root().join("tests/foreign/client.py"))
            .arg("--config")
            .arg(config)
            .arg("--proto")
            .arg(root().join("proto"))
            .args(args),
    )
}

#[test]
fn a_python_client_lists_scales_and_watches() {
    let mut cluster = Cluster::start();
    cluster.join(&["n1", "n2"]);
    cluster.create(&controller("web", 2, &["serve"])).ok();
    cluster.settled(2);
    let config = cluster.data_dir().join("admin.yaml");

    assert_eq!(client(&config, &["nodes"]).ok(), "node n1 Ready\nnode n2 Ready\n");

    let before: BTreeSet<String> = names(&cluster);
    let out = client(&config, &["scale", "web", "5"]).ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.first(), Some(&"scaled web from 2 to 5"), "{out}");
    assert_eq!(lines.last(), Some(&"5 pods are ready"), "{out}");
    cluster.settled(5);
    let come: BTreeSet<String> = names(&cluster).difference(&before).cloned().collect();
    let with = |word: &str| -> BTreeSet<String> {
        let found = lines
            .iter()
            .filter_map(|l| l.strip_prefix(word)?.trim().split(' ').next());
        found.map(str::to_owned).collect()
    };
    assert_eq!(with("ADDED"), come, "each new pod was seen to come: {out}");
    assert_eq!(with("READY"), come, "and to be ready: {out}");

    let down = client(&config, &["scale", "web", "1"]).ok();
    assert!(down.ends_with("\n1 pods are ready\n"), "{down}");
    cluster.settled(1);
}

#[test]
fn a_python_client_is_told_why_and_trusts_no_other_cluster() {
    let cluster = Cluster::start();
    let config = cluster.data_dir().join("admin.yaml");
    let refused = client(&config, &["scale", "nothing", "1"]).refused(1);
    assert!(
        refused.starts_with("error: NOT_FOUND: ") && refused.contains("nothing"),
        "{refused}"
    );

    // The name that it must find in the certificate is in the file, for people too.
    let text = fs::read_to_string(&config).expect("admin.yaml");
    assert!(
        text.contains(&format!("coordinator.{}.wharfinger.internal", cluster.id)),
        "{text}"
    );

    let other = cluster.dir().join("other.yaml");
    let text = text.replace(&cluster.id, "0f8fad5b-d9cb-469f-a165-70867728950e");
    fs::write(&other, text).expect("written");
    let out = client(&other, &["--timeout", "3", "nodes"]);
    assert_eq!((out.code, out.stdout.as_str()), (1, ""), "{out:?}");
    assert!(
        out.stderr.contains("error: no coordinator of cluster 0f8fad5b"),
        "{}",
        out.stderr
    );
}

fn names(cluster: &Cluster) -> BTreeSet<String> {
    let pods = cluster.ready_pods().into_iter();
    pods.map(|p| p["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect()
}
