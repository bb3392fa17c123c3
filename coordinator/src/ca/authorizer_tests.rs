//! Every method and every kind by every role, against tables written down here.

use prost::Message as _;
use proto::identity::Identity;

use super::*;
use crate::{
    ca::methods::policy_of_method,
    store::{Rv, Update, keys},
};

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn caller(role: Identified, id: &str) -> Caller {
    Caller {
        identity: Identity {
            cluster: CLUSTER.into(),
            role,
            id: id.into(),
        },
        serial: "01".into(),
        not_after: u64::MAX,
        deleted: false,
        generation: 0,
        key: String::new(),
        issuer: String::new(),
    }
}

fn view() -> View {
    let view = View::default();
    let updates: Vec<Update> = [UserRole::Viewer, UserRole::Operator, UserRole::Admin]
        .into_iter()
        .map(|role| Update {
            rv: Rv(1),
            key: keys::binding(role.as_str()),
            value: Some(
                serde_json::to_vec(&Binding { role, created_at_ms: 0 })
                    .expect("JSON")
                    .into(),
            ),
        })
        .collect();
    view.apply(&updates);
    view
}

/// In the order of the letters in the tables below.
fn callers() -> [(char, Caller); 7] {
    let deleted = Caller {
        deleted: true,
        ..caller(Identified::Agent, "n1")
    };
    [
        ('a', caller(Identified::Agent, "n1")),
        ('d', deleted),
        ('c', caller(Identified::Coordinator, "c1")),
        ('u', caller(Identified::User, "unbound")),
        ('v', caller(Identified::User, "viewer")),
        ('o', caller(Identified::User, "operator")),
        ('A', caller(Identified::User, "admin")),
    ]
}

fn allowed_by(check: impl Fn(&Caller) -> Result<(), Denied>) -> String {
    callers()
        .iter()
        .filter(|(_, caller)| check(caller).is_ok())
        .map(|(letter, _)| *letter)
        .collect()
}

fn methods_of(descriptors: &[u8]) -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(descriptors).expect("descriptors");
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

/// Who may call what, by path alone.
const EXPECTED: &[(&str, &str)] = &[
    ("/wharfinger.v1.Agent/Session", "ad"),
    ("/wharfinger.v1.Agent/Pipe", "a"),
    ("/wharfinger.v1.Agent/Renew", "a"),
    ("/wharfinger.v1.Agent/Leave", "ad"),
    // A coordinator hands on what reached its own enrolment port.
    ("/wharfinger.v1.Enrol/Enrol", "c"),
    ("/wharfinger.v1.Enrol/JoinCoordinator", "c"),
    ("/wharfinger.v1.Peer/Follow", "c"),
    ("/wharfinger.v1.Resources/Get", "voA"),
    ("/wharfinger.v1.Resources/List", "voA"),
    ("/wharfinger.v1.Resources/Watch", "voA"),
    ("/wharfinger.v1.Resources/Create", "oA"),
    ("/wharfinger.v1.Resources/Replace", "oA"),
    ("/wharfinger.v1.Resources/Patch", "oA"),
    ("/wharfinger.v1.Resources/Delete", "oA"),
    ("/wharfinger.v1.Controllers/Scale", "oA"),
    ("/wharfinger.v1.Nodes/Readmit", "A"),
    ("/wharfinger.v1.Nodes/Forget", "A"),
    ("/wharfinger.v1.Nodes/ConfirmOff", "A"),
    ("/wharfinger.v1.Holds/Cordon", "oA"),
    ("/wharfinger.v1.Holds/Uncordon", "oA"),
    ("/wharfinger.v1.Holds/Add", "oA"),
    ("/wharfinger.v1.Holds/Release", "oA"),
    ("/wharfinger.v1.Drains/Drain", "oA"),
    ("/wharfinger.v1.Drains/Cancel", "oA"),
    ("/wharfinger.v1.Drains/Watch", "voA"),
    ("/wharfinger.v1.Updates/Begin", "oA"),
    ("/wharfinger.v1.Updates/Steer", "oA"),
    ("/wharfinger.v1.Updates/Undo", "oA"),
    ("/wharfinger.v1.Updates/History", "voA"),
    ("/wharfinger.v1.Updates/List", "voA"),
    ("/wharfinger.v1.Updates/Watch", "voA"),
    ("/wharfinger.v1.Logs/Read", "voA"),
    ("/wharfinger.v1.Settings/Show", "voA"),
    ("/wharfinger.v1.Settings/Set", "oA"),
    ("/wharfinger.v1.Settings/Freeze", "oA"),
    ("/wharfinger.v1.Settings/Unfreeze", "oA"),
    ("/wharfinger.v1.Audit/List", "voA"),
    ("/wharfinger.v1.Tokens/CreateToken", "A"),
    ("/wharfinger.v1.Tokens/ListTokens", "A"),
    ("/wharfinger.v1.Tokens/RevokeToken", "A"),
    ("/wharfinger.v1.Coordinators/Remove", "A"),
    ("/wharfinger.v1.Cluster/Info", "auvoA"),
    ("/wharfinger.v1.Cluster/Backup", "A"),
    ("/wharfinger.v1.Cluster/ShowRestore", "voA"),
    ("/wharfinger.v1.Cluster/AcceptRestore", "A"),
    ("/wharfinger.v1.Cluster/ListOrphans", "voA"),
    ("/wharfinger.v1.Cluster/AdoptOrphan", "oA"),
    ("/wharfinger.v1.Cluster/DeleteOrphan", "oA"),
    ("/wharfinger.v1.Replicas/Status", "voA"),
    ("/wharfinger.v1.Replicas/Transfer", "A"),
    ("/wharfinger.v1.Etcd/AddMember", "A"),
    ("/wharfinger.v1.Etcd/UpdateMember", "A"),
    ("/wharfinger.v1.Etcd/RemoveMember", "A"),
    ("/wharfinger.v1.Etcd/Defrag", "A"),
];

#[test]
fn every_method_and_every_role() {
    let view = view();
    let ours = methods_of(proto::wire::DESCRIPTORS);
    for path in &ours {
        let expected = EXPECTED.iter().find(|(known, _)| known == path);
        let (_, expected) = expected.unwrap_or_else(|| panic!("{path} has no line in this test's table"));
        assert!(policy_of_method(path).is_some(), "{path} has no policy");
        let allowed = allowed_by(|c| authorize_method(&view, c, policy_of_method(path), path));
        assert_eq!(&allowed, expected, "{path}");
    }
    assert_eq!(ours.len(), EXPECTED.len(), "the table names a method that is gone");
}

#[test]
fn health_and_reflection_for_any_identity() {
    let view = view();
    let health = methods_of(tonic_health::pb::FILE_DESCRIPTOR_SET);
    let reflection = methods_of(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET);
    let alpha = methods_of(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
    assert!(!health.is_empty() && !reflection.is_empty() && !alpha.is_empty());
    for (paths, expected) in [(health, "acuvoA"), ([reflection, alpha].concat(), "auvoA")] {
        for path in paths {
            let allowed = allowed_by(|c| authorize_method(&view, c, policy_of_method(&path), &path));
            assert_eq!(allowed, expected, "{path}");
        }
    }
}

#[test]
fn unknown_paths_are_denied_to_all() {
    let view = view();
    for path in [
        "/wharfinger.v1.Agent/session",
        "/wharfinger.v1.Agent/Session/",
        "//wharfinger.v1.Agent/Session",
        "/wharfinger.v1.Cluster/Info?x",
        "/",
        "",
        "*",
    ] {
        assert_eq!(policy_of_method(path), None, "{path}");
        let allowed = allowed_by(|c| authorize_method(&view, c, policy_of_method(path), path));
        assert_eq!(allowed, "", "{path}");
    }
}

#[test]
fn kinds_and_verbs() {
    let view = view();
    let rows = [
        (Kind::Pod, "voA", "oA", "oA", "oA"),
        (Kind::ReplicationController, "voA", "oA", "oA", "oA"),
        (Kind::PodDisruptionBudget, "voA", "oA", "oA", "oA"),
        (Kind::DaemonSet, "voA", "oA", "oA", "oA"),
        (Kind::Namespace, "voA", "oA", "oA", "oA"),
        // Making a node is enrolment's, deleting one ends its identity.
        (Kind::Node, "voA", "A", "oA", "A"),
        (Kind::Endpoints, "voA", "A", "A", "A"),
        (Kind::Event, "voA", "A", "A", "A"),
    ];
    assert_eq!(rows.len(), Kind::ALL.len());
    for (kind, read, create, update, delete) in rows {
        for (verbs, expected) in [
            (&["get", "list", "watch"][..], read),
            (&["create"], create),
            (&["update", "patch"], update),
            (&["delete"], delete),
            (&["session", "renew", "", "impersonate", "*"], ""),
        ] {
            for verb in verbs {
                let allowed = allowed_by(|c| authorize_resource(&view, c, verb, kind, "default", "x"));
                assert_eq!(allowed, expected, "{verb} {kind}");
            }
        }
    }
}

#[test]
fn an_agent_has_only_its_own_node() {
    let view = view();
    let agent = caller(Identified::Agent, "n1");
    let ask = |verb, name| {
        let attributes = Attributes {
            verb,
            resource: "nodes",
            subresource: "session",
            namespace: "",
            name,
        };
        authorize(&view, &agent, &attributes)
    };
    assert_eq!(ask("session", "n1"), Ok(()));
    assert_eq!(ask("session", "n2").expect_err("denied").kind, DeniedKind::Forbidden);
    assert_eq!(ask("session", "").expect_err("denied").kind, DeniedKind::Forbidden);
    for verb in ["get", "update", "patch", "delete", "create"] {
        assert!(ask(verb, "n1").is_err(), "{verb}");
    }
    // A user cannot be taken for an agent by its name.
    assert_eq!(
        allowed_by(|c| authorize(
            &view,
            c,
            &Attributes {
                verb: "session",
                resource: "nodes",
                subresource: "session",
                namespace: "",
                name: &c.identity.id,
            }
        )),
        "ad"
    );
}

#[test]
fn a_refusal_names_who_what_and_the_remedy() {
    let view = view();
    let refused = |id| {
        authorize_resource(
            &view,
            &caller(Identified::User, id),
            "delete",
            Kind::Pod,
            "default",
            "web",
        )
    };
    assert_eq!(
        refused("viewer").expect_err("denied").message,
        "user/viewer may not delete pods \"web\" in namespace \"default\": its role is viewer; ask an admin"
    );
    assert_eq!(
        refused("unbound").expect_err("denied").message,
        "user/unbound may not delete pods \"web\" in namespace \"default\": it has no role; ask an admin"
    );
}

#[test]
fn a_removed_or_undecodable_binding_gives_nothing() {
    let view = view();
    let admin = caller(Identified::User, "admin");
    let allowed = || authorize_resource(&view, &admin, "delete", Kind::Node, "", "n1").is_ok();
    assert!(allowed());
    let update = |rv, value: Option<&'static [u8]>| {
        view.apply(&[Update {
            rv: Rv(rv),
            key: keys::binding("admin"),
            value: value.map(Into::into),
        }]);
    };
    update(2, Some(b"{\"role\":\"root\"}"));
    assert!(!allowed());
    update(4, Some(b"{\"role\":\"admin\",\"createdAtMs\":0}"));
    assert!(allowed());
    update(3, None);
    assert!(allowed(), "an older state never replaces a newer one");
    update(5, None);
    assert!(!allowed());
}
