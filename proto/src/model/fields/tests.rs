//! The tables against the model's types, the keys of merging, and stripping.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::model::{
    Affinity, Capabilities, Container, ContainerPort, DaemonSet, DaemonSetSpec, DaemonSetStatus,
    DaemonSetUpdateStrategy, EmptyDirVolume, EndpointSubset, Endpoints, EnvVar, EnvVarSource, Event, EventSource,
    EventType, Exec, Hook, HostPathType, HostPathVolume, HttpGet, HttpHeader, IntOrPercent, Lifecycle, Namespace,
    NamespaceSpec, NamespaceStatus, Node, NodeAffinity, NodeOperator, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, NodeSpec, NodeStatus, NodeTaintsPolicy, Object, ObjectFieldSelector, ObjectMeta, ObjectReference,
    OwnerReference, PdbSpec, PdbStatus, Pod, PodDisruptionBudget, PodOperator, PodSecurityContext, PodSelector,
    PodSelectorRequirement, PodSpec, PodStatus, PodTemplate, PortRef, PreferredSchedulingTerm, Probe, Protocol,
    PullPolicy, Quantity, RcSpec, RcStatus, ReplicationController, ResourceRequirements, RestartPolicy,
    RollingUpdateDaemonSet, Scheme, SecurityContext, Sleep, StorageMedium, Taint, TaintEffect, TcpSocket,
    TerminationMessagePolicy, Time, Toleration, TolerationOperator, TopologySpreadConstraint, UpdateStrategyType,
    Volume, VolumeMount, WhenUnsatisfiable,
};

fn text() -> String {
    "x".to_owned()
}

fn map() -> BTreeMap<String, String> {
    BTreeMap::from([(text(), text())])
}

// Every field stands in the literals below, so that a new one does not compile until it is here.

fn meta() -> ObjectMeta {
    ObjectMeta {
        name: text(),
        generate_name: text(),
        namespace: text(),
        uid: text(),
        resource_version: text(),
        generation: Some(1),
        creation_timestamp: Some(Time(1)),
        deletion_timestamp: Some(Time(1)),
        deletion_grace_period_seconds: Some(1),
        labels: map(),
        annotations: map(),
        owner_references: vec![OwnerReference {
            api_version: text(),
            kind: text(),
            name: text(),
            uid: text(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }],
        finalizers: vec![text()],
    }
}

fn pod_spec() -> PodSpec {
    PodSpec {
        containers: vec![container()],
        restart_policy: RestartPolicy::Always,
        termination_grace_period_seconds: Some(1),
        node_name: text(),
        node_selector: map(),
        host_network: true,
        volumes: vec![Volume {
            name: text(),
            empty_dir: Some(EmptyDirVolume {
                medium: StorageMedium::Memory,
                size_limit: Some(Quantity::from_units(1)),
            }),
            host_path: Some(HostPathVolume {
                path: text(),
                kind: HostPathType::File,
            }),
        }],
        security_context: PodSecurityContext {
            run_as_user: Some(1),
            run_as_group: Some(1),
            run_as_non_root: Some(true),
            supplemental_groups: vec![1],
        },
        affinity: Affinity {
            node_affinity: NodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![term()],
                }),
                preferred: vec![PreferredSchedulingTerm {
                    weight: 1,
                    preference: term(),
                }],
            },
        },
        topology_spread_constraints: vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: text(),
            when_unsatisfiable: WhenUnsatisfiable::DoNotSchedule,
            label_selector: Some(selector()),
            min_domains: Some(1),
            node_taints_policy: NodeTaintsPolicy::Honor,
        }],
        tolerations: vec![Toleration {
            key: text(),
            operator: TolerationOperator::Exists,
            value: text(),
            effect: Some(TaintEffect::NoExecute),
            toleration_seconds: Some(1),
        }],
    }
}

fn selector() -> PodSelector {
    PodSelector {
        match_labels: map(),
        match_expressions: vec![PodSelectorRequirement {
            key: text(),
            operator: PodOperator::In,
            values: vec![text()],
        }],
    }
}

fn term() -> NodeSelectorTerm {
    let requirement = NodeSelectorRequirement {
        key: text(),
        operator: NodeOperator::In,
        values: vec![text()],
    };
    NodeSelectorTerm {
        match_expressions: vec![requirement.clone()],
        match_fields: vec![requirement],
    }
}

fn container() -> Container {
    Container {
        name: text(),
        image: text(),
        image_pull_policy: Some(PullPolicy::Always),
        command: vec![text()],
        args: vec![text()],
        env: vec![EnvVar {
            name: text(),
            value: text(),
            value_from: Some(EnvVarSource {
                field_ref: ObjectFieldSelector {
                    api_version: text(),
                    field_path: text(),
                },
            }),
        }],
        ports: vec![ContainerPort {
            name: text(),
            container_port: 1,
            host_port: 1,
            host_ip: text(),
            protocol: Protocol::Tcp,
        }],
        resources: ResourceRequirements {
            requests: BTreeMap::from([(text(), Quantity::from_units(1))]),
            limits: BTreeMap::from([(text(), Quantity::from_units(1))]),
        },
        working_dir: text(),
        volume_mounts: vec![VolumeMount {
            name: text(),
            mount_path: text(),
            read_only: true,
        }],
        security_context: SecurityContext {
            run_as_user: Some(1),
            run_as_group: Some(1),
            run_as_non_root: Some(true),
            read_only_root_filesystem: true,
            allow_privilege_escalation: Some(true),
            capabilities: Capabilities {
                add: vec![text()],
                drop: vec![text()],
            },
        },
        termination_message_path: text(),
        termination_message_policy: Some(TerminationMessagePolicy::FallbackToLogsOnError),
        startup_probe: Some(probe()),
        readiness_probe: Some(probe()),
        liveness_probe: Some(probe()),
        lifecycle: Lifecycle {
            pre_stop: Some(Hook {
                exec: Some(exec()),
                http_get: Some(http_get()),
                sleep: Some(Sleep { seconds: 1 }),
            }),
        },
    }
}

fn probe() -> Probe {
    Probe {
        http_get: Some(http_get()),
        tcp_socket: Some(TcpSocket {
            port: PortRef::Number(1),
            host: text(),
        }),
        exec: Some(exec()),
        initial_delay_seconds: 1,
        timeout_seconds: 1,
        period_seconds: 1,
        success_threshold: 1,
        failure_threshold: 1,
        termination_grace_period_seconds: Some(1),
    }
}

fn http_get() -> HttpGet {
    HttpGet {
        path: text(),
        port: PortRef::Name(text()),
        host: text(),
        scheme: Scheme::Https,
        http_headers: vec![HttpHeader {
            name: text(),
            value: text(),
        }],
    }
}

fn exec() -> Exec {
    Exec { command: vec![text()] }
}

/// An object of each kind with every field set.
pub(super) fn full(kind: Kind) -> Object {
    match kind {
        Kind::Node => Object::Node(Node {
            metadata: meta(),
            spec: NodeSpec {
                unschedulable: true,
                taints: vec![Taint {
                    key: text(),
                    value: text(),
                    effect: TaintEffect::NoExecute,
                    time_added: Some(Time(1)),
                }],
            },
            status: Some(NodeStatus::default()),
        }),
        Kind::Namespace => Object::Namespace(Namespace {
            metadata: meta(),
            spec: Some(NamespaceSpec::default()),
            status: Some(NamespaceStatus::default()),
        }),
        Kind::ReplicationController => Object::ReplicationController(ReplicationController {
            metadata: meta(),
            spec: RcSpec {
                replicas: 1,
                min_ready_seconds: 1,
                selector: map(),
                template: PodTemplate {
                    metadata: meta(),
                    spec: pod_spec(),
                },
            },
            status: Some(RcStatus::default()),
        }),
        Kind::DaemonSet => Object::DaemonSet(DaemonSet {
            metadata: meta(),
            spec: DaemonSetSpec {
                selector: PodSelector {
                    match_labels: map(),
                    match_expressions: vec![PodSelectorRequirement {
                        key: text(),
                        operator: PodOperator::In,
                        values: vec![text()],
                    }],
                },
                template: PodTemplate {
                    metadata: meta(),
                    spec: pod_spec(),
                },
                min_ready_seconds: 1,
                update_strategy: DaemonSetUpdateStrategy {
                    kind: UpdateStrategyType::OnDelete,
                    rolling_update: Some(RollingUpdateDaemonSet {
                        max_unavailable: IntOrPercent::Int(1),
                    }),
                },
            },
            status: Some(DaemonSetStatus::default()),
        }),
        Kind::Pod => Object::Pod(Pod {
            metadata: meta(),
            spec: pod_spec(),
            status: Some(PodStatus::default()),
        }),
        Kind::PodDisruptionBudget => Object::PodDisruptionBudget(PodDisruptionBudget {
            metadata: meta(),
            spec: PdbSpec {
                min_available: Some(IntOrPercent::Int(1)),
                max_unavailable: Some(IntOrPercent::Percent(1)),
                selector: Some(selector()),
            },
            status: Some(PdbStatus::default()),
        }),
        Kind::Endpoints => Object::Endpoints(Endpoints {
            metadata: meta(),
            subsets: vec![EndpointSubset::default()],
        }),
        Kind::Event => Object::Event(Event {
            metadata: meta(),
            involved_object: ObjectReference {
                kind: text(),
                namespace: text(),
                name: text(),
                uid: text(),
            },
            reason: text(),
            message: text(),
            kind: EventType::Normal,
            count: 1,
            first_timestamp: Some(Time(1)),
            last_timestamp: Some(Time(1)),
            source: EventSource {
                component: text(),
                host: text(),
            },
        }),
    }
}

/// The model's fields at `path` are the table's, in both directions.
fn same(fields: Fields, value: &Value, path: &str, seen: &mut Vec<String>) {
    let value = value.as_object().unwrap_or_else(|| panic!("{path}: {value}"));
    for name in value.keys() {
        let known =
            find(fields, name).is_some_and(|f| matches!(f.rule, Rule::Acted | Rule::ActedUnless(_) | Rule::Ours));
        assert!(known, "{path}.{name}: the model has it, the table does not");
    }
    for field in fields {
        let path = format!("{path}.{}", field.name);
        let at = fields.iter().filter(|f| f.name == field.name).count();
        assert_eq!(at, 1, "{path} stands twice");
        let found = value.get(field.name);
        match (field.rule, field.shape) {
            (Rule::Idle | Rule::IdleIf(_) | Rule::Unsupported, _) => assert!(found.is_none(), "{path}"),
            (Rule::Ours, _) => assert!(found.is_some(), "{path}: the table has it, the model does not"),
            (Rule::Acted | Rule::ActedUnless(_), shape) => {
                let inner = found.unwrap_or_else(|| panic!("{path}: the table has it, the model does not"));
                seen.push(path.clone());
                match shape {
                    Shape::Scalar => assert!(!inner.is_object() && !inner.is_array(), "{path}: {inner}"),
                    Shape::Map => assert!(inner.is_object(), "{path}: {inner}"),
                    Shape::List => assert!(inner[0].is_string() || inner[0].is_number(), "{path}: {inner}"),
                    Shape::Object(fields) => same(fields, inner, &path, seen),
                    Shape::Items(fields, keys) => {
                        assert!(keys.iter().all(|k| find(fields, k).is_some()), "{path}: {keys:?}");
                        same(fields, &inner[0], &path, seen);
                    }
                }
            }
        }
    }
}

#[test]
fn the_tables_and_the_model_have_the_same_fields() {
    for kind in Kind::ALL {
        let mut seen = Vec::new();
        same(of(kind), &full(kind).to_json(), kind.name(), &mut seen);
        if kind == Kind::Pod {
            assert!(seen.contains(&"Pod.spec.containers.securityContext.capabilities.drop".to_owned()));
        }
    }
}

#[test]
fn what_has_no_effect_is_left_out_and_what_is_unsupported_is_refused() {
    let spec = |spec: Value| (Kind::Pod, json!({"spec": spec}), json!({"spec": {}}));
    let inner = |container: Value| {
        let left = json!({"spec": {"containers": [{}]}});
        (Kind::Pod, json!({"spec": {"containers": [container]}}), left)
    };
    for ((kind, mut value, left), path) in [
        ((Kind::Node, json!({"status": {"capacity": 7}}), json!({})), "status"),
        (
            (
                Kind::Node,
                json!({"metadata": {"selfLink": "/x"}}),
                json!({"metadata": {}}),
            ),
            "metadata.selfLink",
        ),
        (
            (
                Kind::Namespace,
                json!({"spec": {"finalizers": ["kubernetes"]}}),
                json!({}),
            ),
            "spec",
        ),
        (
            (
                Kind::Node,
                json!({"spec": {"taints": [{"key": "node.kubernetes.io/not-ready"}]}}),
                json!({"spec": {}}),
            ),
            "spec.taints",
        ),
        (spec(json!({"dnsPolicy": "ClusterFirst"})), "spec.dnsPolicy"),
        (spec(json!({"priority": 0})), "spec.priority"),
        (spec(json!({"hostPID": false})), "spec.hostPID"),
        (spec(json!({"initContainers": []})), "spec.initContainers"),
        (
            spec(json!({"serviceAccountName": "default"})),
            "spec.serviceAccountName",
        ),
        (
            (
                Kind::PodDisruptionBudget,
                json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}}),
                json!({"spec": {}}),
            ),
            "spec.unhealthyPodEvictionPolicy",
        ),
        (inner(json!({"resizePolicy": [{}]})), "spec.containers[0].resizePolicy"),
        (inner(json!({"stdin": false})), "spec.containers[0].stdin"),
    ] {
        let stripped = strip(kind, &mut value);
        assert_eq!(
            (stripped.errors.len(), stripped.without_effect),
            (0, vec![path.to_owned()]),
            "{path}"
        );
        assert_eq!(value, left, "{path}");
    }
    let security = |key: &str, value: Value| inner(json!({"securityContext": {key: value}})).1;
    for (kind, mut value, path) in [
        (Kind::Pod, spec(json!({"dnsPolicy": "None"})).1, "spec.dnsPolicy"),
        (Kind::Pod, spec(json!({"priority": 5})).1, "spec.priority"),
        (Kind::Pod, spec(json!({"hostPID": true})).1, "spec.hostPID"),
        (
            Kind::Pod,
            spec(json!({"initContainers": [{}]})).1,
            "spec.initContainers",
        ),
        (
            Kind::Pod,
            spec(json!({"schedulerName": "mine"})).1,
            "spec.schedulerName",
        ),
        (
            Kind::Pod,
            spec(json!({"serviceAccountName": "x"})).1,
            "spec.serviceAccountName",
        ),
        (
            Kind::Pod,
            spec(json!({"affinity": {"podAntiAffinity": {"x": 1}}})).1,
            "spec.affinity.podAntiAffinity",
        ),
        (
            Kind::Pod,
            spec(json!({"topologySpreadConstraints": [{"matchLabelKeys": ["x"]}]})).1,
            "spec.topologySpreadConstraints[0].matchLabelKeys",
        ),
        (
            Kind::Pod,
            spec(json!({"volumes": [{"configMap": {}}]})).1,
            "spec.volumes[0].configMap",
        ),
        (
            Kind::PodDisruptionBudget,
            spec(json!({"unhealthyPodEvictionPolicy": "IfHealthyBudget"})).1,
            "spec.unhealthyPodEvictionPolicy",
        ),
        (
            Kind::Pod,
            inner(json!({"livenessProbe": {"grpc": {}}})).1,
            "spec.containers[0].livenessProbe.grpc",
        ),
        (
            Kind::Pod,
            inner(json!({"envFrom": [{}]})).1,
            "spec.containers[0].envFrom",
        ),
        (
            Kind::Pod,
            inner(json!({"lifecycle": {"postStart": {}}})).1,
            "spec.containers[0].lifecycle.postStart",
        ),
        (
            Kind::Pod,
            inner(json!({"env": [{"valueFrom": {"resourceFieldRef": {}}}]})).1,
            "spec.containers[0].env[0].valueFrom.resourceFieldRef",
        ),
        (
            Kind::Pod,
            inner(json!({"volumeMounts": [{"subPath": "x"}]})).1,
            "spec.containers[0].volumeMounts[0].subPath",
        ),
        (
            Kind::Pod,
            security("privileged", json!(true)),
            "spec.containers[0].securityContext.privileged",
        ),
        (
            Kind::Pod,
            security("seccompProfile", json!({"type": "Unconfined"})),
            "spec.containers[0].securityContext.seccompProfile",
        ),
    ] {
        let stripped = strip(kind, &mut value);
        let found: Vec<_> = stripped.errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [format!("{path}: not supported by Wharfinger yet; leave it out")]
        );
        assert_eq!(stripped.without_effect, [""; 0]);
    }
}

#[test]
fn one_warning_names_the_first_fields_and_counts_the_rest() {
    let paths = |n: usize| (0..n).map(|i| format!("f{i}")).collect::<Vec<_>>();
    assert_eq!(warning(&[]), None);
    assert_eq!(warning(&paths(1)).as_deref(), Some("no effect here, left out: f0"));
    assert_eq!(
        warning(&paths(7)).as_deref(),
        Some("no effect here, left out: f0, f1, f2, f3, f4 and 2 more")
    );
}

#[test]
fn lists_of_named_items_and_their_keys() {
    let rc = Kind::ReplicationController;
    for (kind, path, expected) in [
        (Kind::Pod, "spec.containers", Some(&["name"][..])),
        (Kind::Pod, "spec.containers[3]", Some(&["name"])),
        (rc, "spec.template.spec.containers", Some(&["name"])),
        (rc, "spec.template.spec.initContainers", Some(&["name"])),
        (rc, "spec.template.spec.containers.env", Some(&["name"])),
        (
            rc,
            "spec.template.spec.containers[0].ports",
            Some(&["containerPort", "protocol"]),
        ),
        (
            rc,
            "spec.template.spec.containers[0].volumeMounts",
            Some(&["mountPath"]),
        ),
        (rc, "spec.template.spec.volumes", Some(&["name"])),
        (rc, "spec.template.spec.imagePullSecrets", Some(&["name"])),
        (rc, "spec.template.metadata.ownerReferences", Some(&["uid"])),
        (Kind::Node, "status.conditions", Some(&["type"])),
        (Kind::Node, "status.addresses", Some(&["type"])),
        (Kind::Node, "metadata.ownerReferences", Some(&["uid"])),
        (Kind::PodDisruptionBudget, "status.conditions", Some(&["type"])),
        (Kind::PodDisruptionBudget, "spec.selector.matchExpressions", None),
        (Kind::Node, "spec.taints", None),
        (Kind::Node, "spec.podCIDRs", None),
        (Kind::Pod, "spec.tolerations", None),
        (
            rc,
            "spec.template.spec.topologySpreadConstraints",
            Some(&["topologyKey", "whenUnsatisfiable"]),
        ),
        (Kind::Pod, "spec.containers.command", None),
        (Kind::Pod, "spec.containers[0].securityContext.capabilities.drop", None),
        (Kind::Pod, "spec", None),
        (Kind::Pod, "metadata.labels.containers", None),
        (Kind::Pod, "metadata.finalizers", None),
        (Kind::Pod, "containers", None),
        (Kind::Pod, "spec.containers.name", None),
        (Kind::Pod, "", None),
    ] {
        assert_eq!(merge_key(kind, path).map(|k| k.0), expected, "{kind} {path}");
    }
}

#[test]
fn a_key_of_an_item() {
    let key = merge_key(Kind::Pod, "spec.containers.ports").expect("named");
    assert_eq!(key.to_string(), "containerPort and protocol");
    for (item, expected) in [
        (json!({"containerPort": 80}), Some(vec![json!(80), json!("TCP")])),
        (
            json!({"containerPort": 80, "protocol": null}),
            Some(vec![json!(80), json!("TCP")]),
        ),
        (
            json!({"containerPort": 80, "protocol": "UDP"}),
            Some(vec![json!(80), json!("UDP")]),
        ),
        (json!({"protocol": "UDP"}), None),
        (json!({"containerPort": null}), None),
        (json!("words"), None),
    ] {
        assert_eq!(key.of(&item), expected, "{item}");
    }
}
