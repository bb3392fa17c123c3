//! `wharf-agent leave`: this host leaves the cluster in good order. Called by [`crate::program`].
//!
//! Invariant: the agent does not run meanwhile (its lock is held); what is on disk goes only once the cluster has
//! deleted the node, or knows this identity no more, or `--force` was given; the identity goes last, so that whatever
//! breaks in between can be repeated. No container is touched.

use std::path::Path;

use proto::wire::{LeaveRequest, agent_client::AgentClient};
use tokio::time::timeout;
use tonic::Code;

use crate::{
    AgentError,
    identity::Identity,
    join::{Connector as _, TlsConnector},
    ledger,
    lock::{self, LockError},
    settings::{Settings, ms},
    status,
};

/// What the cluster says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// The node is deleted.
    Gone,
    /// It knows this identity no more, in its words.
    Stranger(String),
    /// It decided otherwise.
    Refused(String),
    /// No coordinator decided.
    Silent(String),
}

/// What was done, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub text: String,
    /// What remains to be done elsewhere; one line each.
    pub warnings: Vec<String>,
}

/// See the module's head.
pub async fn leave(data_dir: &Path, force: bool, settings: &Settings) -> Result<Left, AgentError> {
    let refused = |e: &dyn std::fmt::Display| AgentError::Refused(e.to_string());
    let load = || {
        Identity::load(data_dir).map_err(|e| refused(&e))?.ok_or_else(|| {
            AgentError::Refused(format!(
                "the data directory {} holds no identity: this host has not joined, or has left; give the agent's --data-dir",
                data_dir.display()
            ))
        })
    };
    // Before the lock, which would make the directory.
    load()?;
    let _lock = lock::lock(data_dir).map_err(|e| match e {
        LockError::Held { path, holder } => AgentError::Refused(format!(
            "the agent ({holder}) runs on the data directory {}: stop it first (systemctl disable --now wharf-agent), then leave",
            path.display()
        )),
        other => other.into(),
    })?;
    let identity = load()?;
    // A damaged one tells neither pods nor addresses; it is about to go.
    let ledger = ledger::load(data_dir).unwrap_or_else(|e| {
        tracing::warn!("{e}");
        ledger::Ledger::default()
    });
    let mut addresses = ledger.coordinators.clone();
    addresses.extend(
        identity
            .coordinators
            .iter()
            .filter(|a| !ledger.coordinators.contains(a))
            .cloned(),
    );
    let answer = ask(&identity, &addresses, settings).await;

    let node = &identity.node;
    let mut left = Left::default();
    match answer {
        Answer::Gone => {}
        Answer::Stranger(words) => left
            .warnings
            .push(format!("the cluster knows this identity no more: {words}")),
        Answer::Refused(words) | Answer::Silent(words) if force => {
            left.warnings.push(words);
            left.warnings.push(format!(
                "node {node} is still on record: with the admin's credentials, wharf delete node {node}"
            ));
            if !ledger.pods.is_empty() {
                left.warnings.push(format!(
                    "containers of its pods ({}) may still run here, and nobody looks after them: docker ps --filter label=io.wharfinger.node={node}",
                    ledger.pods.len()
                ));
            }
        }
        Answer::Refused(words) => return Err(AgentError::Refused(words)),
        Answer::Silent(words) => {
            return Err(AgentError::Refused(format!(
                "{words}; nothing was changed: try again, or leave --force, and delete node {node} with the admin's credentials"
            )));
        }
    }
    ledger::remove(data_dir)?;
    status::remove(data_dir).map_err(|e| refused(&e))?;
    Identity::forget(data_dir).map_err(|e| refused(&e))?;
    left.text = format!(
        "node {node} has left the cluster; {} holds no identity, a new token is needed to join again\n",
        data_dir.display()
    );
    Ok(left)
}

/// Asks one coordinator after the other until one decides.
async fn ask(identity: &Identity, addresses: &[String], settings: &Settings) -> Answer {
    let connector = TlsConnector::new(identity.credentials(), settings);
    let mut last = Answer::Silent("no coordinator is known".into());
    for address in addresses {
        let asked = async {
            let channel = connector.connect(address).await.map_err(Answer::Silent)?;
            match AgentClient::new(channel).leave(LeaveRequest {}).await {
                Ok(_) => Ok(Answer::Gone),
                Err(status) => Err(judge(address, &status)),
            }
        };
        last = match timeout(ms(settings.renew_timeout_ms), asked).await {
            Ok(Ok(answer) | Err(answer)) => answer,
            Err(_) => Answer::Silent(format!("{address}: no answer within {} ms", settings.renew_timeout_ms)),
        };
        if !matches!(last, Answer::Silent(_)) {
            return last;
        }
    }
    last
}

fn judge(address: &str, status: &tonic::Status) -> Answer {
    let words = format!("{address}: {}", status.message());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Answer::Stranger(words),
        Code::FailedPrecondition => Answer::Refused(words),
        _ => Answer::Silent(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_that_never_joined_is_told_so_and_nothing_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("agent");
        for force in [false, true] {
            let error = leave(&data, force, &Settings::default()).await.expect_err("refused");
            let words = error.to_string();
            assert!(
                words.contains("has not joined") && words.contains("--data-dir"),
                "{words}"
            );
        }
        assert!(!data.exists());
    }

    #[test]
    fn what_a_coordinator_says_is_told_from_what_it_does_not() {
        let of = |code| judge("c1:7443", &tonic::Status::new(code, "words"));
        let words = "c1:7443: words".to_owned();
        assert_eq!(of(Code::FailedPrecondition), Answer::Refused(words.clone()));
        for code in [Code::Unauthenticated, Code::PermissionDenied] {
            assert_eq!(of(code), Answer::Stranger(words.clone()));
        }
        for code in [
            Code::Unavailable,
            Code::Unknown,
            Code::Unimplemented,
            Code::DeadlineExceeded,
        ] {
            assert_eq!(of(code), Answer::Silent(words.clone()), "{code}");
        }
    }
}
