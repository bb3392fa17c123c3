//! What holds of reading a write whatever is written: no panic, nothing stripped twice, nothing lost on the way to JSON
//! and back, and no typing mistake that passes.

use std::collections::BTreeMap;

use proptest::{collection, option, prelude::*, sample};
use serde_json::{Map, Value};

use super::{tests::full, *};
use crate::model::{
    Container, ContainerPort, EmptyDirVolume, EnvVar, Object, ObjectMeta, PodSecurityContext, PodSpec, PodTemplate,
    PullPolicy, Quantity, RcSpec, ReplicationController, ResourceRequirements, Volume, VolumeMount, parse, validate,
};

/// Names of all fields of a table, with those of all in it.
fn names(fields: Fields, out: &mut Vec<&'static str>) {
    for field in fields {
        out.push(field.name);
        if let Shape::Object(inner) | Shape::Items(inner, _) = field.shape {
            names(inner, out);
        }
    }
}

/// JSON whose keys are mostly those of real fields.
fn any_json() -> impl Strategy<Value = Value> {
    let mut known = Vec::new();
    for kind in Kind::ALL {
        names(of(kind), &mut known);
    }
    let key = prop_oneof![
        9 => sample::select(known).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
        sample::select(vec!["v1", "Always", "TCP", "1Gi", "default", "ClusterFirst", "x"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            1 => collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => collection::vec((key.clone(), inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_map() -> impl Strategy<Value = BTreeMap<String, String>> {
    collection::btree_map("[a-z]{1,8}(\\.x/y)?", "[a-z0-9]{0,8}", 0..4)
}

prop_compose! {
    fn any_container()(
        name in "[a-z]{1,8}", image in "[a-z]{1,8}(:[a-z0-9]{1,4})?",
        policy in option::of(sample::select(vec![PullPolicy::Always, PullPolicy::Never])),
        args in collection::vec("\\PC{0,8}", 0..3),
        env in any_map(), ports in collection::vec((any::<u16>(), any::<u16>()), 0..3),
        cpu in option::of(0_u64..1 << 40), user in option::of(any::<i64>()), read_only in any::<bool>(),
        mounts in collection::vec("/[a-z]{0,8}", 0..3), directory in "(/[a-z]{1,8})?",
    ) -> Container {
        let mut container = Container {
            name,
            image,
            image_pull_policy: policy,
            args,
            env: env.into_iter().map(|(name, value)| EnvVar { name, value, value_from: None }).collect(),
            ports: ports
                .into_iter()
                .map(|(container_port, host_port)| ContainerPort { container_port, host_port, ..ContainerPort::default() })
                .collect(),
            resources: ResourceRequirements {
                limits: cpu.map(|n| ("cpu".to_owned(), Quantity::from_milli(n))).into_iter().collect(),
                ..ResourceRequirements::default()
            },
            working_dir: directory,
            volume_mounts: mounts
                .into_iter()
                .map(|mount_path| VolumeMount { name: "v".to_owned(), mount_path, read_only })
                .collect(),
            ..Container::default()
        };
        container.security_context.run_as_user = user;
        container.security_context.read_only_root_filesystem = read_only;
        container
    }
}

prop_compose! {
    fn any_controller()(
        name in "[a-z]{0,8}", labels in any_map(), annotations in any_map(), replicas in any::<i32>(),
        containers in collection::vec(any_container(), 0..3), grace in option::of(any::<i64>()),
        host_network in any::<bool>(), size in option::of(any::<u32>()), group in option::of(any::<i64>()),
    ) -> ReplicationController {
        ReplicationController {
            metadata: ObjectMeta { name, annotations, ..ObjectMeta::default() },
            spec: RcSpec {
                replicas,
                selector: labels.clone(),
                template: PodTemplate {
                    metadata: ObjectMeta { labels, ..ObjectMeta::default() },
                    spec: PodSpec {
                        containers,
                        termination_grace_period_seconds: grace,
                        host_network,
                        volumes: size
                            .map(|bytes| Volume {
                                name: "v".to_owned(),
                                empty_dir: Some(EmptyDirVolume {
                                    size_limit: Some(Quantity::from_bytes(bytes.into())),
                                    ..EmptyDirVolume::default()
                                }),
                                host_path: None,
                            })
                            .into_iter()
                            .collect(),
                        security_context: PodSecurityContext { run_as_group: group, ..PodSecurityContext::default() },
                        ..PodSpec::default()
                    },
                },
                ..RcSpec::default()
            },
            status: None,
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_or_refused(value in any_json(), kind in sample::select(Kind::ALL.to_vec())) {
        let text = value.to_string();
        match parse::object(kind, text.as_bytes()) {
            Ok(mut written) => {
                validate::default(&mut written.object);
                let _ = validate::object(&written.object);
                // What is left says all that was read, and has no effectless part any more.
                let again = parse::written(kind, written.json.clone()).expect("read before");
                prop_assert_eq!(again.without_effect, Vec::<String>::new());
                prop_assert_eq!(again.json, written.json);
            }
            Err(errors) => prop_assert!(!errors.is_empty() && errors.iter().all(|e| !e.message.is_empty())),
        }
    }

    #[test]
    fn stripping_is_idempotent_and_leaves_only_fields_of_the_model(
        mut value in any_json(), kind in sample::select(Kind::ALL.to_vec()),
    ) {
        strip(kind, &mut value);
        let once = value.clone();
        let again = strip(kind, &mut value);
        prop_assert_eq!((again.errors.len(), again.without_effect.len()), (0, 0));
        prop_assert_eq!(&value, &once);
        if let Err(e) = parse::object_value(kind, once) {
            prop_assert!(!parse::is_unknown(&e.message), "{}", e);
        }
    }

    #[test]
    fn an_object_reads_back_as_it_was(rc in any_controller()) {
        let object = Object::ReplicationController(rc);
        let written = parse::written(Kind::ReplicationController, object.to_json());
        let written = written.map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        prop_assert_eq!(written.without_effect, Vec::<String>::new());
        prop_assert_eq!(written.object, object);
    }
}

/// Every place of a fixed field in `value`: the path of its map as keys and indices, the fields there, and the name.
fn places(fields: Fields, value: &Value, at: &str, out: &mut Vec<(String, Fields, String)>) {
    let Value::Object(map) = value else { return };
    for (name, inner) in map {
        out.push((at.to_owned(), fields, name.clone()));
        let acted = find(fields, name).filter(|f| matches!(f.rule, Rule::Acted));
        let Some(field) = acted else { continue };
        match field.shape {
            Shape::Object(next) => places(next, inner, &format!("{at}/{name}"), out),
            Shape::Items(next, _) => places(next, &inner[0], &format!("{at}/{name}/0"), out),
            Shape::Scalar | Shape::Map | Shape::List => {}
        }
    }
}

/// `name` with one letter deleted, changed or added, at each place.
fn slips(name: &str) -> Vec<String> {
    let letters: Vec<char> = name.chars().collect();
    let mut out = Vec::new();
    for i in 0..=letters.len() {
        let (before, after) = letters.split_at(i);
        let with = |middle: &[char], after: &[char]| before.iter().chain(middle).chain(after).collect::<String>();
        out.push(with(&['x'], after));
        if let Some((_, rest)) = after.split_first() {
            out.push(with(&[], rest));
            out.push(with(&['x'], rest));
        }
    }
    out
}

#[test]
fn no_slip_of_the_pen_passes() {
    let mut tried = 0;
    for kind in Kind::ALL {
        let good = full(kind).to_json();
        let mut found = Vec::new();
        places(of(kind), &good, "", &mut found);
        for (at, fields, name) in found {
            for wrong in slips(&name).into_iter().filter(|w| find(fields, w).is_none()) {
                let mut value = good.clone();
                let map = value.pointer_mut(&at).and_then(Value::as_object_mut).expect("a map");
                *map = map
                    .iter()
                    .map(|(k, v)| (if *k == name { wrong.clone() } else { k.clone() }, v.clone()))
                    .collect::<Map<_, _>>();
                let errors = parse::written(kind, value).expect_err(&wrong);
                let at = at.trim_start_matches('/').replace("/0", "[0]").replace('/', ".");
                let path = if at.is_empty() { wrong } else { format!("{at}.{wrong}") };
                let said = errors.iter().find(|e| e.path == path);
                let message = said.map(|e| e.message.as_str()).unwrap_or_default();
                assert!(
                    message.starts_with("unknown field; did you mean `"),
                    "{kind} {path}: {errors:?}"
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 2000, "{tried}");
}
