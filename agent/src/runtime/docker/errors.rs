//! What went wrong between us and the engine, and Docker's words made fit for a person. Called by every other
//! file of this module.
//!
//! Invariant: an engine that did not answer is never mistaken for one that refused, and the other way round:
//! after [`Problem::Silent`] and [`Problem::Slow`] nothing is known of the call's effect.

use std::{error::Error as _, time::Duration};

use bollard::errors::Error;

use crate::runtime::RuntimeError;

/// How a call ended that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The engine answered with this HTTP status and these words (cleaned).
    Said { status: u16, words: String },
    /// The connection failed or broke: why.
    Silent(String),
    /// No answer within the deadline.
    Slow(Duration),
    /// An answer that cannot be read: what is wrong with it.
    Garbled(String),
}

impl From<Error> for Problem {
    fn from(e: Error) -> Self {
        match e {
            Error::DockerResponseServerError { status_code, message } if engine_is_going(&message) => {
                Self::Silent(format!("status {status_code}: {}", clean(&message)))
            }
            Error::DockerResponseServerError { status_code, message } => Self::Said {
                status: status_code,
                words: clean(&message),
            },
            // In the middle of a stream that began with status 200.
            Error::DockerStreamError { error } => Self::Said {
                status: 500,
                words: clean(&error),
            },
            Error::JsonDataError { message, .. } => Self::Garbled(message),
            Error::JsonSerdeError { err } => Self::Garbled(err.to_string()),
            other => Self::Silent(root_cause(&other)),
        }
    }
}

impl Problem {
    /// As the trait's error, where the engine's no has no special meaning. `doing` names the call and its
    /// object, e.g. `start of web`; `endpoint` the engine.
    pub(super) fn into_error(self, endpoint: &str, doing: &str) -> RuntimeError {
        match self {
            Self::Said { words, .. } => RuntimeError::Refused(words),
            Self::Silent(why) => RuntimeError::Unavailable(format!("{endpoint}: {why}")),
            Self::Slow(limit) => RuntimeError::Unavailable(format!(
                "{endpoint}: {doing} took longer than {}",
                humantime::format_duration(limit)
            )),
            Self::Garbled(what) => {
                RuntimeError::Unavailable(format!("{endpoint}: unreadable answer to {doing}: {what}"))
            }
        }
    }
}

/// The engine's words when it is on its way down or has lost its containerd: no verdict on the request.
fn engine_is_going(message: &str) -> bool {
    [
        "containerd.sock",
        "transport is closing",
        "client connection is closing",
        "code = Unavailable",
        "context canceled",
        "ttrpc: closed",
        "daemon is shutting down",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

/// The innermost error's words: `connection refused` rather than four layers around it.
fn root_cause(e: &Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(inner) = next {
        text = inner.to_string();
        next = inner.source();
    }
    // "No such file or directory (os error 2)": the number helps nobody.
    one_line(text.split(" (os error").next().unwrap_or(&text))
}

/// Docker's words without its call stack: one line, the part that a user can act on.
pub(super) fn clean(message: &str) -> String {
    let message = one_line(message);
    let mut parts: Vec<&str> = message.split(": ").filter(|part| !is_noise(part.trim())).collect();
    // containerd appends its idea of the error's kind.
    if parts.len() > 1 && parts.last().is_some_and(|last| *last == "unknown") {
        parts.pop();
    }
    let text = parts.join(": ");
    if text.is_empty() { message } else { text }
}

fn is_noise(part: &str) -> bool {
    const LAYERS: [&str; 10] = [
        "Error response from daemon",
        "failed to create shim",
        "failed to create shim task",
        "failed to create task for container",
        "OCI runtime create failed",
        "OCI runtime start failed",
        "runc create failed",
        "unable to start container process",
        "starting container process caused",
        "container init caused",
    ];
    // "driver failed programming external connectivity on endpoint NAME (64 hex digits)"
    part.starts_with("driver failed programming external connectivity on endpoint ")
        || LAYERS.contains(&part)
        || is_source_line(part)
}

/// `container_linux.go:380`, where runc stood.
fn is_source_line(part: &str) -> bool {
    part.split_once(".go:").is_some_and(|(file, line)| {
        !line.is_empty()
            && line.bytes().all(|b| b.is_ascii_digit())
            && file.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_words_without_its_call_stack() {
        for (said, shown) in [
            (
                "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown",
                "exec: \"nope\": executable file not found in $PATH",
            ),
            (
                "OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"nope\": permission denied: unknown",
                "exec: \"nope\": permission denied",
            ),
            (
                "driver failed programming external connectivity on endpoint web (dd15a34d1ac3ad3015b7): Bind for 0.0.0.0:39001 failed: port is already allocated",
                "Bind for 0.0.0.0:39001 failed: port is already allocated",
            ),
            (
                "failed to create shim: OCI runtime create failed: container_linux.go:380: starting container process caused: process_linux.go:545: container init caused: process_linux.go:508: setting cgroup config for procHooks process caused: write memory.limit_in_bytes: device or resource busy: unknown",
                "setting cgroup config for procHooks process caused: write memory.limit_in_bytes: device or resource busy",
            ),
            (
                "Minimum memory limit allowed is 6MB",
                "Minimum memory limit allowed is 6MB",
            ),
            ("two\nlines\n", "two lines"),
            // Nothing but layers: better than silence.
            ("OCI runtime create failed: unknown", "unknown"),
            ("runc create failed", "runc create failed"),
            ("unknown", "unknown"),
        ] {
            assert_eq!(clean(said), shown);
        }
    }

    #[test]
    fn a_dying_engine_is_no_verdict() {
        let said = |message: &str| {
            Problem::from(Error::DockerResponseServerError {
                status_code: 500,
                message: message.to_owned(),
            })
        };
        for going in [
            "connection error: desc = \"transport: Error while dialing dial unix:///run/containerd/containerd.sock: timeout\": unavailable",
            "rpc error: code = Unavailable desc = transport is closing",
        ] {
            assert!(matches!(said(going), Problem::Silent(_)), "{going}");
        }
        assert!(matches!(
            said("port is already allocated"),
            Problem::Said { status: 500, .. }
        ));
    }

    #[test]
    fn the_innermost_cause_is_shown() {
        let e = Error::IOError {
            err: std::io::Error::from_raw_os_error(2),
        };
        assert_eq!(
            Problem::from(e).into_error("unix:///x.sock", "list"),
            RuntimeError::Unavailable("unix:///x.sock: No such file or directory".into())
        );
    }
}
