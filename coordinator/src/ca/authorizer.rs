//! Who may do what: one function, [`authorize`], decides from stored bindings. Called by [`super::layer`] for
//! every RPC and by the api for the kind that a message names.
//!
//! Invariant: deny by default. A certificate says who calls, never what that caller may do; an agent can do
//! nothing but open its own session, renew its own certificate, and take its own node out of the fleet.

use proto::{identity::Role as Identified, model::Kind};
use serde::{Deserialize, Serialize};

use super::{
    certs::{Caller, Denied, DeniedKind, View},
    methods::Policy,
};

/// What a user may do; each includes the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserRole {
    /// Looks.
    Viewer,
    /// Runs workloads, cordons and labels nodes.
    Operator,
    /// All: tokens, deleting nodes, users.
    Admin,
}

impl UserRole {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Value of `binding/<user>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    pub role: UserRole,
    pub created_at_ms: u64,
}

/// One request, in Kubernetes' terms. Empty: not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`; `session`, `renew` of agents.
    pub verb: &'a str,
    /// Plural, lower case: `pods`, `tokens`.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 4] = ["create", "update", "patch", "delete"];
/// What an agent does with its own node; of a deleted one only the first two.
const AGENT: [&str; 4] = ["session", "leave", "renew", "pipe"];

/// (role from which on, verbs, resources)
const RULES: [(UserRole, &[&str], &[&str]); 4] = [
    (
        UserRole::Viewer,
        &READ,
        &[
            "nodes",
            "namespaces",
            "replicationcontrollers",
            "daemonsets",
            "pods",
            "poddisruptionbudgets",
            "events",
            "endpoints",
            "settings",
            "audit",
            "cluster",
        ],
    ),
    (
        UserRole::Operator,
        &WRITE,
        &[
            "namespaces",
            "replicationcontrollers",
            "daemonsets",
            "pods",
            "poddisruptionbudgets",
        ],
    ),
    (UserRole::Operator, &["update", "patch"], &["nodes"]),
    (UserRole::Operator, &["update"], &["settings"]),
];

fn role_allows(role: UserRole, verb: &str, resource: Option<&str>) -> bool {
    if role == UserRole::Admin {
        return READ.contains(&verb) || WRITE.contains(&verb);
    }
    RULES.iter().any(|(from, verbs, resources)| {
        role >= *from && verbs.contains(&verb) && resource.is_none_or(|r| resources.contains(&r))
    })
}

/// The one decision. `view` holds the bindings.
pub fn authorize(view: &View, caller: &Caller, attributes: &Attributes<'_>) -> Result<(), Denied> {
    decide(view, caller, attributes, Some(attributes.resource))
}

fn decide(view: &View, caller: &Caller, a: &Attributes<'_>, resource: Option<&str>) -> Result<(), Denied> {
    let allowed = match caller.identity.role {
        Identified::Agent => {
            let verbs = if caller.deleted { &AGENT[..2] } else { &AGENT };
            verbs.contains(&a.verb) && a.resource == "nodes" && a.name == caller.identity.id
        }
        Identified::User => view
            .binding(&caller.identity.id)
            .is_some_and(|binding| role_allows(binding.role, a.verb, resource)),
        // What coordinators ask of each other is not part of these services.
        Identified::Coordinator => false,
    };
    if allowed { Ok(()) } else { Err(refusal(view, caller, a)) }
}

fn refusal(view: &View, caller: &Caller, a: &Attributes<'_>) -> Denied {
    let mut what = if a.resource.is_empty() { "objects" } else { a.resource }.to_owned();
    if !a.subresource.is_empty() {
        what = format!("{what}/{}", a.subresource);
    }
    if !a.name.is_empty() {
        what = format!("{what} {:?}", a.name);
    }
    if !a.namespace.is_empty() {
        what = format!("{what} in namespace {:?}", a.namespace);
    }
    let why = match caller.identity.role {
        Identified::User => match view.binding(&caller.identity.id) {
            Some(binding) => format!("its role is {}; ask an admin", binding.role.as_str()),
            None => "it has no role; ask an admin".to_owned(),
        },
        Identified::Agent if caller.deleted => "its node was deleted; join again with a new token".to_owned(),
        Identified::Agent => "an agent may only open its own session and renew its own certificate".to_owned(),
        Identified::Coordinator => "a coordinator is not a user; it must name the caller for whom it asks".to_owned(),
    };
    Denied::new(
        DeniedKind::Forbidden,
        format!("{caller} may not {} {what}: {why}", a.verb),
    )
}

/// For `Resources.*`, once the message is decoded. `name` may be empty (list, watch, create with a generated
/// name), `namespace` too (all, or a kind without).
pub fn authorize_resource(
    view: &View,
    caller: &Caller,
    verb: &str,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<(), Denied> {
    let attributes = Attributes {
        verb,
        resource: kind.plural(),
        subresource: "",
        namespace,
        name,
    };
    authorize(view, caller, &attributes)
}

/// The check by path alone, before a message is read. `None`: a method without policy.
pub fn authorize_method(view: &View, caller: &Caller, policy: Option<&Policy>, path: &str) -> Result<(), Denied> {
    let coordinator = caller.identity.role == Identified::Coordinator;
    match policy {
        Some(Policy::AnyIdentity) if !caller.deleted && !coordinator => Ok(()),
        Some(Policy::Health) if !caller.deleted => Ok(()),
        Some(Policy::AnyIdentity | Policy::Health) => Err(refusal(
            view,
            caller,
            &Attributes {
                verb: "get",
                ..Attributes::default()
            },
        )),
        Some(Policy::OwnNode { verb, subresource }) => {
            // The name is the caller's own by construction; a user or coordinator has no node.
            let attributes = Attributes {
                verb,
                resource: "nodes",
                subresource,
                namespace: "",
                name: &caller.identity.id,
            };
            authorize(view, caller, &attributes)
        }
        Some(Policy::Fixed {
            verb,
            resource,
            subresource,
        }) => {
            let attributes = Attributes {
                verb,
                resource,
                subresource,
                ..Attributes::default()
            };
            authorize(view, caller, &attributes)
        }
        Some(Policy::ByBody { verb }) => {
            let attributes = Attributes {
                verb,
                ..Attributes::default()
            };
            decide(view, caller, &attributes, None)
        }
        Some(Policy::EnrolPortOnly | Policy::PeerOnly) if coordinator => Ok(()),
        Some(Policy::EnrolPortOnly | Policy::PeerOnly) | None => Err(Denied::new(
            DeniedKind::Forbidden,
            format!("{caller} may not call {path}: no such method on this port"),
        )),
    }
}

#[cfg(test)]
#[path = "authorizer_tests.rs"]
mod tests;
