//! The method table: what each gRPC path means to the authorizer. Called by [`super::layer`].
//!
//! Invariant: it maps and decides nothing; a path that does not stand here is denied, and a method of the
//! descriptor set without a line here fails a test.

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any valid certificate but a coordinator's.
    AnyIdentity,
    /// Any valid certificate.
    Health,
    /// Served on the enrolment port, to anyone; on the session port to coordinators, which hand on what reached theirs.
    EnrolPortOnly,
    /// Between coordinators.
    PeerOnly,
    /// An agent's business with its own node, the name being its certificate's.
    OwnNode {
        verb: &'static str,
        subresource: &'static str,
    },
    Fixed {
        verb: &'static str,
        resource: &'static str,
        subresource: &'static str,
    },
    /// The message names the kind: the handler calls `authorize_resource` when it is decoded. By path only
    /// those pass who may do this to some kind.
    ByBody { verb: &'static str },
}

const fn fixed(verb: &'static str, resource: &'static str, subresource: &'static str) -> Policy {
    Policy::Fixed {
        verb,
        resource,
        subresource,
    }
}

const METHODS: &[(&str, Policy)] = &[
    (
        "/wharfinger.v1.Agent/Session",
        Policy::OwnNode {
            verb: "session",
            subresource: "session",
        },
    ),
    (
        "/wharfinger.v1.Agent/Pipe",
        Policy::OwnNode {
            verb: "pipe",
            subresource: "pipe",
        },
    ),
    (
        "/wharfinger.v1.Agent/Renew",
        Policy::OwnNode {
            verb: "renew",
            subresource: "certificate",
        },
    ),
    (
        "/wharfinger.v1.Agent/Leave",
        Policy::OwnNode {
            verb: "leave",
            subresource: "leave",
        },
    ),
    ("/wharfinger.v1.Enrol/Enrol", Policy::EnrolPortOnly),
    ("/wharfinger.v1.Enrol/JoinCoordinator", Policy::EnrolPortOnly),
    ("/wharfinger.v1.Peer/Follow", Policy::PeerOnly),
    ("/wharfinger.v1.Resources/Get", Policy::ByBody { verb: "get" }),
    ("/wharfinger.v1.Resources/List", Policy::ByBody { verb: "list" }),
    ("/wharfinger.v1.Resources/Watch", Policy::ByBody { verb: "watch" }),
    ("/wharfinger.v1.Resources/Create", Policy::ByBody { verb: "create" }),
    ("/wharfinger.v1.Resources/Replace", Policy::ByBody { verb: "update" }),
    ("/wharfinger.v1.Resources/Patch", Policy::ByBody { verb: "patch" }),
    ("/wharfinger.v1.Resources/Delete", Policy::ByBody { verb: "delete" }),
    (
        "/wharfinger.v1.Controllers/Scale",
        fixed("update", "replicationcontrollers", "scale"),
    ),
    // Who believes in an identity again decides on trust, as who makes tokens does.
    (
        "/wharfinger.v1.Nodes/Readmit",
        fixed("update", "certificates", "readmit"),
    ),
    ("/wharfinger.v1.Nodes/Forget", fixed("delete", "nodes", "forget")),
    (
        "/wharfinger.v1.Nodes/ConfirmOff",
        fixed("delete", "nodes", "confirm-off"),
    ),
    ("/wharfinger.v1.Holds/Cordon", fixed("update", "nodes", "cordon")),
    ("/wharfinger.v1.Holds/Uncordon", fixed("update", "nodes", "cordon")),
    ("/wharfinger.v1.Holds/Add", fixed("update", "nodes", "hold")),
    ("/wharfinger.v1.Holds/Release", fixed("update", "nodes", "hold")),
    ("/wharfinger.v1.Drains/Drain", fixed("update", "nodes", "drain")),
    ("/wharfinger.v1.Drains/Cancel", fixed("update", "nodes", "drain")),
    ("/wharfinger.v1.Drains/Watch", fixed("get", "nodes", "drain")),
    (
        "/wharfinger.v1.Updates/Begin",
        fixed("update", "replicationcontrollers", "rollout"),
    ),
    (
        "/wharfinger.v1.Updates/Steer",
        fixed("update", "replicationcontrollers", "rollout"),
    ),
    (
        "/wharfinger.v1.Updates/Undo",
        fixed("update", "replicationcontrollers", "rollout"),
    ),
    (
        "/wharfinger.v1.Updates/History",
        fixed("get", "replicationcontrollers", "rollout"),
    ),
    (
        "/wharfinger.v1.Updates/List",
        fixed("list", "replicationcontrollers", "rollout"),
    ),
    (
        "/wharfinger.v1.Updates/Watch",
        fixed("get", "replicationcontrollers", "rollout"),
    ),
    ("/wharfinger.v1.Logs/Read", fixed("get", "pods", "log")),
    ("/wharfinger.v1.Settings/Show", fixed("get", "settings", "")),
    ("/wharfinger.v1.Settings/Set", fixed("update", "settings", "")),
    ("/wharfinger.v1.Settings/Freeze", fixed("update", "settings", "freeze")),
    (
        "/wharfinger.v1.Settings/Unfreeze",
        fixed("update", "settings", "freeze"),
    ),
    ("/wharfinger.v1.Audit/List", fixed("list", "audit", "")),
    ("/wharfinger.v1.Tokens/CreateToken", fixed("create", "tokens", "")),
    ("/wharfinger.v1.Tokens/ListTokens", fixed("list", "tokens", "")),
    ("/wharfinger.v1.Tokens/RevokeToken", fixed("update", "tokens", "revoke")),
    (
        "/wharfinger.v1.Coordinators/Remove",
        fixed("delete", "coordinators", ""),
    ),
    ("/wharfinger.v1.Cluster/Info", Policy::AnyIdentity),
    ("/wharfinger.v1.Replicas/Status", fixed("get", "cluster", "")),
    ("/wharfinger.v1.Replicas/Transfer", fixed("update", "cluster", "leader")),
    ("/wharfinger.v1.Etcd/AddMember", fixed("create", "cluster", "members")),
    (
        "/wharfinger.v1.Etcd/UpdateMember",
        fixed("update", "cluster", "members"),
    ),
    (
        "/wharfinger.v1.Etcd/RemoveMember",
        fixed("delete", "cluster", "members"),
    ),
    ("/wharfinger.v1.Etcd/Defrag", fixed("update", "cluster", "defrag")),
    ("/wharfinger.v1.Cluster/Backup", fixed("get", "backups", "")),
    // Who accepts a restored state decides what every agent believes.
    ("/wharfinger.v1.Cluster/ShowRestore", fixed("get", "nodes", "restore")),
    (
        "/wharfinger.v1.Cluster/AcceptRestore",
        fixed("update", "backups", "restore"),
    ),
    ("/wharfinger.v1.Cluster/ListOrphans", fixed("list", "pods", "orphan")),
    ("/wharfinger.v1.Cluster/AdoptOrphan", fixed("create", "pods", "orphan")),
    ("/wharfinger.v1.Cluster/DeleteOrphan", fixed("delete", "pods", "orphan")),
    ("/grpc.health.v1.Health/Check", Policy::Health),
    ("/grpc.health.v1.Health/Watch", Policy::Health),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        Policy::AnyIdentity,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        Policy::AnyIdentity,
    ),
];

/// By exact path.
pub fn policy_of_method(path: &str) -> Option<&'static Policy> {
    METHODS
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, policy)| policy)
}
