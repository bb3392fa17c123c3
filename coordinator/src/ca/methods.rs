//! The method table: what each gRPC path means to the authorizer. Called by [`super::layer`].
//!
//! Invariant: it maps and decides nothing; a path that does not stand here is denied, and a method of the
//! descriptor set without a line here fails a test.

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Any valid certificate.
    AnyIdentity,
    /// Served on the enrolment port, to anyone; denied on the session port.
    EnrolPortOnly,
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
    ("/wharfinger.v1.Cluster/Info", Policy::AnyIdentity),
    ("/grpc.health.v1.Health/Check", Policy::AnyIdentity),
    ("/grpc.health.v1.Health/Watch", Policy::AnyIdentity),
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
