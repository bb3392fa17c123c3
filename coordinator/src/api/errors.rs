//! Every refusal of the admin API and what it looks like on the wire. Made by everything in `api`; turned into
//! a [`Status`] at the edge.
//!
//! Invariant: a message is one line of bounded length that names the object, the field and the remedy.

use proto::model::{FieldError, Invalid, Kind, SelectorError, labels::quoted};
use tonic::{Code, Status};

use crate::store::{CommitError, Rv};

/// Longest message, characters; what is longer would not fit into an HTTP/2 header of a default client.
const LONGEST: usize = 1500;

pub const NOT_ACTIVE: &str = "this coordinator is not the active one";

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{} is not a kind; use {}", quoted(.0), known_kinds())]
    UnknownKind(String),
    #[error("{} {} not found", .kind.plural(), quoted(.name))]
    NotFound { kind: Kind, name: String },
    /// A write of endpoints, by name.
    #[error(
        "endpoints {}: derived from the pods of the replicationcontroller of this name and not written; change that one",
        quoted(.0)
    )]
    Derived(String),
    /// Of something that is no object.
    #[error("{0}")]
    Gone(String),
    #[error("{} {} already exists", .kind.plural(), quoted(.name))]
    AlreadyExists { kind: Kind, name: String },
    #[error("{} {} is invalid: {}", .0.kind.singular(), quoted(&.0.name), joined(&.0.errors))]
    Invalid(Invalid),
    /// The request itself, not an object in it.
    #[error("{0}")]
    BadRequest(String),
    /// Something the caller named is no longer so.
    #[error("{} {}: {what}; look and try again", .kind.plural(), quoted(.name))]
    Mismatch { kind: Kind, name: String, what: String },
    #[error("{} {}: {what}", .kind.plural(), quoted(.name))]
    InUse { kind: Kind, name: String, what: String },
    /// Things are not so that it can be done.
    #[error("{0}")]
    Precondition(String),
    /// It was begun, and did not end in time.
    #[error("{0}")]
    NotInTime(String),
    /// It is another's.
    #[error("{} {}: {what}", .kind.plural(), quoted(.name))]
    NotYours { kind: Kind, name: String, what: String },
    /// Others changed the object each time that we tried.
    #[error("{0}: others keep changing it; try again")]
    Contended(String),
    #[error("{}", NOT_ACTIVE)]
    NotActive,
    #[error("this coordinator is shutting down; watch again")]
    Stopping,
    #[error("version {after} is no longer kept; list again")]
    TooOld { after: Rv },
    #[error("version {after} is beyond this coordinator's newest ({newest}); list again")]
    Beyond { after: Rv, newest: Rv },
    #[error("watch fell behind; list again")]
    FellBehind,
    /// A watch that has no version to be taken up from.
    #[error("watch fell behind; watch again")]
    Late,
    /// Of something that is no object, as it is now.
    #[error("{0}")]
    Refused(String),
    /// More than one coordinator serves at once.
    #[error("{0}")]
    Busy(String),
    /// A fault of ours.
    #[error("internal: {0}")]
    Internal(String),
    #[error("{}", commit_words(.0))]
    Commit(CommitError),
}

impl ApiError {
    pub fn not_found(kind: Kind, name: &str) -> Self {
        Self::NotFound {
            kind,
            name: name.to_owned(),
        }
    }

    pub fn invalid(kind: Kind, name: &str, path: &str, message: impl Into<String>) -> Self {
        Self::all_invalid(kind, name, vec![FieldError::new(path, message)])
    }

    /// Refuses where there are errors.
    pub fn unless_valid(kind: Kind, name: &str, errors: Vec<FieldError>) -> Result<(), Self> {
        if errors.is_empty() {
            return Ok(());
        }
        Err(Self::all_invalid(kind, name, errors))
    }

    pub fn all_invalid(kind: Kind, name: &str, errors: Vec<FieldError>) -> Self {
        Self::Invalid(Invalid {
            kind,
            name: name.to_owned(),
            errors,
        })
    }

    pub fn mismatch(kind: Kind, name: &str, what: impl Into<String>) -> Self {
        Self::Mismatch {
            kind,
            name: name.to_owned(),
            what: what.into(),
        }
    }

    pub fn in_use(kind: Kind, name: &str, what: impl Into<String>) -> Self {
        Self::InUse {
            kind,
            name: name.to_owned(),
            what: what.into(),
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::UnknownKind(_) | Self::Invalid(_) | Self::BadRequest(_) => Code::InvalidArgument,
            Self::NotFound { .. } | Self::Gone(_) => Code::NotFound,
            Self::Derived(_) => Code::Unimplemented,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::Mismatch { .. } | Self::Contended(_) => Code::Aborted,
            Self::InUse { .. } | Self::Refused(_) | Self::Precondition(_) => Code::FailedPrecondition,
            Self::NotInTime(_) => Code::DeadlineExceeded,
            Self::NotYours { .. } => Code::PermissionDenied,
            Self::NotActive | Self::Stopping | Self::Late => Code::Unavailable,
            Self::TooOld { .. } | Self::Beyond { .. } => Code::OutOfRange,
            Self::FellBehind | Self::Busy(_) => Code::ResourceExhausted,
            Self::Internal(_) => Code::Internal,
            Self::Commit(e) => match e {
                CommitError::Fenced { .. }
                | CommitError::Io(_)
                | CommitError::Unavailable(_)
                | CommitError::Unknown(_)
                | CommitError::Closed => Code::Unavailable,
                CommitError::Conflict { .. } => Code::Aborted,
                CommitError::TooLarge { .. } => Code::InvalidArgument,
                CommitError::DuplicateKey(_) => Code::Internal,
                CommitError::Full(_) => Code::ResourceExhausted,
            },
        }
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<SelectorError> for ApiError {
    fn from(e: SelectorError) -> Self {
        Self::BadRequest(e.to_string())
    }
}

impl From<CommitError> for ApiError {
    fn from(e: CommitError) -> Self {
        Self::Commit(e)
    }
}

impl From<ApiError> for Status {
    fn from(e: ApiError) -> Self {
        Self::new(e.code(), one_line(&e.to_string()))
    }
}

fn commit_words(e: &CommitError) -> String {
    match e {
        CommitError::Fenced { .. } => NOT_ACTIVE.to_owned(),
        CommitError::Unavailable(_) => format!("{e}; nothing was changed: try again"),
        CommitError::Io(_) | CommitError::Unknown(_) | CommitError::Closed => {
            format!("{e}; whether the change was made is unknown: look before you repeat it")
        }
        CommitError::Conflict { .. } => format!("{e}; look and try again"),
        CommitError::TooLarge { .. } | CommitError::DuplicateKey(_) | CommitError::Full(_) => e.to_string(),
    }
}

fn known_kinds() -> String {
    Kind::ALL.map(Kind::plural).join(", ")
}

fn joined(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Field names come from the caller: no line breaks, no endless lines.
pub(super) fn one_line(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut line: String = text.chars().take(LONGEST).map(clean).collect();
    if line.len() < text.len() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Expect;

    #[test]
    fn codes_and_words() {
        let rc = Kind::ReplicationController;
        let two = Invalid {
            kind: rc,
            name: "x".into(),
            errors: vec![FieldError::new("spec.replicas", "bad"), FieldError::new("a.b", "worse")],
        };
        let conflict = CommitError::Conflict {
            key: "obj/pod/default/x".into(),
            expected: Expect::Absent,
            actual: None,
        };
        for (error, code, message) in [
            (
                ApiError::UnknownKind("deploy".into()),
                Code::InvalidArgument,
                "\"deploy\" is not a kind; use nodes, namespaces, replicationcontrollers, daemonsets, pods, poddisruptionbudgets, endpoints, events",
            ),
            (
                ApiError::not_found(Kind::Node, "n9"),
                Code::NotFound,
                "nodes \"n9\" not found",
            ),
            (
                ApiError::Derived("web".into()),
                Code::Unimplemented,
                "endpoints \"web\": derived from the pods of the replicationcontroller of this name and not written; \
                 change that one",
            ),
            (
                ApiError::AlreadyExists {
                    kind: rc,
                    name: "x".into(),
                },
                Code::AlreadyExists,
                "replicationcontrollers \"x\" already exists",
            ),
            (
                two.into(),
                Code::InvalidArgument,
                "replicationcontroller \"x\" is invalid: spec.replicas: bad; a.b: worse",
            ),
            (
                CommitError::Fenced { ours: 1, current: 2 }.into(),
                Code::Unavailable,
                "this coordinator is not the active one",
            ),
            (
                CommitError::Full("/d: 0 bytes".into()).into(),
                Code::ResourceExhausted,
                "the disk of the store is full: /d: 0 bytes; free space there and the coordinator goes on by itself",
            ),
            (
                CommitError::Io("broken".into()).into(),
                Code::Unavailable,
                "the store failed: broken; whether the change was made is unknown: look before you repeat it",
            ),
            (
                CommitError::Unavailable("etcd: a: refused".into()).into(),
                Code::Unavailable,
                "the store does not answer: etcd: a: refused; nothing was changed: try again",
            ),
            (
                CommitError::Unknown("etcd: a: reset".into()).into(),
                Code::Unavailable,
                "the store did not answer: etcd: a: reset; whether the change was made is unknown: look before you repeat it",
            ),
            (
                CommitError::Closed.into(),
                Code::Unavailable,
                "the store is closed; whether the change was made is unknown: look before you repeat it",
            ),
            (
                conflict.into(),
                Code::Aborted,
                "obj/pod/default/x is at version None, not as expected (Absent); look and try again",
            ),
        ] {
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, message));
        }
    }

    #[test]
    fn one_line_of_bounded_length() {
        let status = Status::from(ApiError::BadRequest(format!("a\nb{}", "ä".repeat(5000))));
        assert!(status.message().starts_with("a b"));
        assert_eq!(status.message().chars().count(), LONGEST + 1);
    }
}
