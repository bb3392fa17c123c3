//! Failures as Kubernetes `Status` objects, for `-o json` and `-o yaml`. Made by [`crate::error`].
//!
//! Which object and which fields a failure is about is read from its one line, whose form is fixed (the object, the
//! field, the remedy): `pods "x" not found`, `pod "x" is invalid: spec.a: wrong; spec.b: worse`,
//! `web.yaml:3:1: pod "x": spec.a: wrong`.
//!
//! Invariant: the message is the whole line; a line of another form has no details, never wrong ones.

use proto::model::Kind;
use serde_json::{Map, Value, json};
use tonic::Code;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFormat {
    /// `error: …`.
    Line,
    Json,
    Yaml,
}

/// Kubernetes' words for why, each with its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    AlreadyExists,
    Conflict,
    Expired,
    Invalid,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
}

impl Reason {
    /// Of a coordinator's refusal.
    pub fn of(code: Code, message: &str) -> Self {
        match code {
            Code::InvalidArgument if message.contains(INVALID) => Self::Invalid,
            Code::InvalidArgument => Self::BadRequest,
            Code::Unauthenticated => Self::Unauthorized,
            Code::PermissionDenied => Self::Forbidden,
            Code::NotFound => Self::NotFound,
            Code::Unimplemented => Self::MethodNotAllowed,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::Aborted | Code::FailedPrecondition => Self::Conflict,
            Code::OutOfRange => Self::Expired,
            Code::ResourceExhausted => Self::TooManyRequests,
            Code::Unavailable => Self::ServiceUnavailable,
            Code::DeadlineExceeded => Self::Timeout,
            _ => Self::InternalError,
        }
    }

    fn words(self) -> (&'static str, u16) {
        match self {
            Self::BadRequest => ("BadRequest", 400),
            Self::Unauthorized => ("Unauthorized", 401),
            Self::Forbidden => ("Forbidden", 403),
            Self::NotFound => ("NotFound", 404),
            Self::MethodNotAllowed => ("MethodNotAllowed", 405),
            Self::AlreadyExists => ("AlreadyExists", 409),
            Self::Conflict => ("Conflict", 409),
            Self::Expired => ("Expired", 410),
            Self::Invalid => ("Invalid", 422),
            Self::TooManyRequests => ("TooManyRequests", 429),
            Self::InternalError => ("InternalError", 500),
            Self::ServiceUnavailable => ("ServiceUnavailable", 503),
            Self::Timeout => ("Timeout", 504),
        }
    }
}

const INVALID: &str = "\" is invalid: ";

/// The object; `reason` is none where Kubernetes has no word for it.
pub fn status(reason: Option<Reason>, message: &str) -> Value {
    let (mut details, causes) = subject(message);
    // What is wrong with a field is said as such, whoever found it.
    let reason = match reason {
        Some(Reason::BadRequest) if !causes.is_empty() => Some(Reason::Invalid),
        other => other,
    };
    if !causes.is_empty() {
        details.insert("causes".to_owned(), causes.into());
    }
    let mut status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": message});
    if let Some((word, code)) = reason.map(Reason::words) {
        status["reason"] = json!(word);
        if !details.is_empty() {
            status["details"] = details.into();
        }
        status["code"] = json!(code);
    }
    status
}

/// Name and kind, and the fields that are wrong.
fn subject(message: &str) -> (Map<String, Value>, Vec<Value>) {
    let mut details = Map::new();
    let Some((kind, name, rest)) = object(message) else {
        return (details, Vec::new());
    };
    details.insert("name".to_owned(), json!(name));
    details.insert("kind".to_owned(), json!(kind));
    let causes = match (rest.strip_prefix(" is invalid: "), rest.strip_prefix(": ")) {
        (Some(several), _) => causes(several),
        (None, Some(one)) => field(one).map(|(path, words)| cause(path, words)).into_iter().collect(),
        (None, None) => Vec::new(),
    };
    (details, causes)
}

/// The first `KIND "NAME"` of the line, as (plural, name, what follows).
fn object(message: &str) -> Option<(&'static str, String, &str)> {
    let mut at = 0;
    while let Some(quote) = message.get(at..)?.find(" \"").map(|i| at + i) {
        let word = message[..quote].rsplit(' ').next().unwrap_or_default();
        let plural = Kind::ALL
            .into_iter()
            .find(|k| [k.singular(), k.plural()].contains(&word))
            .map(Kind::plural)
            .or_else(|| (word == "tokens").then_some("tokens"));
        let quoted = &message[quote + 1..];
        let mut values = serde_json::Deserializer::from_str(quoted).into_iter::<String>();
        if let (Some(plural), Some(Ok(name))) = (plural, values.next()) {
            return Some((plural, name, &quoted[values.byte_offset()..]));
        }
        at = quote + 2;
    }
    None
}

/// `a.b: wrong; c: worse; change it` are two causes: a part without a path belongs to the one before.
fn causes(text: &str) -> Vec<Value> {
    let mut found: Vec<(&str, String)> = Vec::new();
    for part in text.split("; ") {
        match (field(part), found.last_mut()) {
            (Some((path, words)), _) => found.push((path, words.to_owned())),
            (None, Some((_, words))) => {
                words.push_str("; ");
                words.push_str(part);
            }
            (None, None) => found.push(("", part.to_owned())),
        }
    }
    found.iter().map(|(path, words)| cause(path, words)).collect()
}

/// `spec.a[0].b: words`.
fn field(text: &str) -> Option<(&str, &str)> {
    let (path, words) = text.split_once(": ")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '[' | ']' | '_' | '-' | '/');
    // Options of the command line are no fields of the object.
    (path.starts_with(|c: char| c.is_ascii_lowercase()) && path.chars().all(plain)).then_some((path, words))
}

fn cause(path: &str, words: &str) -> Value {
    let reason = if words.starts_with("required") {
        "FieldValueRequired"
    } else if words.starts_with("not supported") {
        "FieldValueNotSupported"
    } else {
        "FieldValueInvalid"
    };
    let mut cause = json!({"reason": reason, "message": words});
    if !path.is_empty() {
        cause["field"] = json!(path);
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_and_the_fields_are_read_from_the_line() {
        for (message, details) in [
            ("pods \"x\" not found", json!({"name": "x", "kind": "pods"})),
            (
                "replicationcontroller \"w\" is invalid: spec.replicas: must not be negative, is -1; spec.template: \
                 required; leave it out; metadata.labels.a/b: bad",
                json!({"name": "w", "kind": "replicationcontrollers", "causes": [
                    {"reason": "FieldValueInvalid", "message": "must not be negative, is -1", "field": "spec.replicas"},
                    {"reason": "FieldValueRequired", "message": "required; leave it out", "field": "spec.template"},
                    {"reason": "FieldValueInvalid", "message": "bad", "field": "metadata.labels.a/b"}]}),
            ),
            (
                "web.yaml:3:8: pod \"x\": spec.tty: not supported by Wharfinger yet; leave it out",
                json!({"name": "x", "kind": "pods", "causes": [{"reason": "FieldValueNotSupported",
                    "message": "not supported by Wharfinger yet; leave it out", "field": "spec.tty"}]}),
            ),
            (
                "a file \"pod \\\"y\\\": it says pod \"a\\\"b\": it is gone",
                json!({"name": "a\"b", "kind": "pods"}),
            ),
            ("tokens \"t\" not found", json!({"name": "t", "kind": "tokens"})),
            ("no coordinator answers: h:1: Connection refused", json!(null)),
            ("pod \"unended", json!(null)),
            ("pod \"x\": --replicas: bad", json!({"name": "x", "kind": "pods"})),
        ] {
            let status = status(Some(Reason::NotFound), message);
            assert_eq!(status["details"], details, "{message}");
            assert_eq!(status["message"], message);
        }
    }

    #[test]
    fn every_code_has_a_reason_and_the_shape_is_kubernetes() {
        assert_eq!(
            status(Some(Reason::of(Code::NotFound, "")), "pods \"x\" not found").to_string(),
            r#"{"apiVersion":"v1","kind":"Status","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#
        );
        for (code, message, expected) in [
            (Code::InvalidArgument, "pod \"x\" is invalid: a: b", ("Invalid", 422)),
            (Code::InvalidArgument, "selector `a=b=c`: bad", ("BadRequest", 400)),
            (Code::Unauthenticated, "", ("Unauthorized", 401)),
            (Code::PermissionDenied, "", ("Forbidden", 403)),
            (Code::AlreadyExists, "", ("AlreadyExists", 409)),
            (Code::Aborted, "", ("Conflict", 409)),
            (Code::FailedPrecondition, "", ("Conflict", 409)),
            (Code::Unimplemented, "", ("MethodNotAllowed", 405)),
            (Code::OutOfRange, "", ("Expired", 410)),
            (Code::ResourceExhausted, "", ("TooManyRequests", 429)),
            (Code::Unavailable, "", ("ServiceUnavailable", 503)),
            (Code::DeadlineExceeded, "", ("Timeout", 504)),
            (Code::DataLoss, "", ("InternalError", 500)),
        ] {
            assert_eq!(Reason::of(code, message).words(), expected, "{code:?}");
        }
        let invalid = status(Some(Reason::BadRequest), "f:1:1: pod \"x\": spec.a: wrong");
        assert_eq!(invalid["reason"], "Invalid");
        let none = status(None, "pod \"x\": no longer waiting");
        assert_eq!((none.get("reason"), none.get("code")), (None, None));
    }
}
