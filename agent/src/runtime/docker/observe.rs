//! What the engine shows, in the trait's terms. Called by list and inspect. Pure.
//!
//! Invariant: identity comes from labels alone; a container whose labels do not say whose it is is nobody's.

use std::collections::HashMap;

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerSummary, ContainerSummaryStateEnum};
use proto::{ids::label, model::Time};

use super::{Scope, errors::clean};
use crate::runtime::{ContainerInfo, Exit, Owner, State, Unmanaged};

/// Exit codes of a program that could not be executed; see [`init_failure`].
pub(super) const NOT_EXECUTED: [i32; 2] = [126, 127];

pub(super) type Labels = HashMap<String, String>;

/// Whether the labels name this cluster and this node.
pub(super) fn in_scope(labels: &Labels, scope: &Scope) -> bool {
    labels.get(label::CLUSTER) == Some(&scope.cluster) && labels.get(label::NODE) == Some(&scope.node)
}

/// Whose container this is, or which label is missing or wrong.
pub(super) fn owner(labels: &Labels) -> Result<Owner, &'static str> {
    let text = |key: &'static str| labels.get(key).filter(|v| !v.is_empty()).cloned().ok_or(key);
    Ok(Owner {
        uid: text(label::UID)?,
        namespace: text(label::NAMESPACE)?,
        pod: text(label::POD)?,
        container: text(label::CONTAINER)?,
        attempt: text(label::ATTEMPT)?.parse().map_err(|_| label::ATTEMPT)?,
        // Empty for a container whose hash nobody asked for.
        spec_hash: labels.get(label::SPEC_HASH).cloned().unwrap_or_default(),
    })
}

/// From a full inspection.
pub(super) fn from_inspect(id: &str, owner: Owner, seen: &ContainerInspectResponse) -> ContainerInfo {
    let mut networks: Vec<_> = seen
        .network_settings
        .iter()
        .filter_map(|n| n.networks.as_ref())
        .flatten()
        .collect();
    networks.sort_by_key(|(name, _)| name.as_str());
    ContainerInfo {
        id: seen.id.clone().unwrap_or_else(|| id.to_owned()),
        owner,
        state: seen.state.as_ref().map_or(State::Created, state),
        image: seen.config.as_ref().and_then(|c| c.image.clone()).unwrap_or_default(),
        image_id: seen.image.clone().unwrap_or_default(),
        ip: networks
            .into_iter()
            .filter_map(|(_, n)| n.ip_address.clone())
            .find(|ip| !ip.is_empty())
            .unwrap_or_default(),
    }
}

/// From a list's line, where the container cannot be inspected: times, address and OOM are not in it.
pub(super) fn from_summary(id: &str, owner: Owner, seen: &ContainerSummary) -> ContainerInfo {
    use ContainerSummaryStateEnum as S;
    let state = match seen.state {
        Some(S::RUNNING | S::PAUSED | S::RESTARTING | S::STOPPING) => State::Running { started_at: None },
        Some(S::EXITED | S::DEAD | S::REMOVING) => State::Exited(Exit {
            code: exit_code(seen.status.as_deref().unwrap_or_default()),
            error: "the engine does not tell more of this container".into(),
            ..Exit::default()
        }),
        Some(S::CREATED | S::EMPTY) | None => State::Created,
    };
    ContainerInfo {
        id: id.to_owned(),
        owner,
        state,
        image: seen.image.clone().unwrap_or_default(),
        image_id: seen.image_id.clone().unwrap_or_default(),
        ip: String::new(),
    }
}

/// What a list shows of containers that no agent of this cluster made. Those of other nodes on this engine are ours,
/// whatever they are.
pub(super) fn unmanaged(lines: &[ContainerSummary], scope: &Scope) -> Vec<Unmanaged> {
    let ours = |line: &ContainerSummary| {
        let cluster = line.labels.as_ref().and_then(|l| l.get(label::CLUSTER));
        cluster == Some(&scope.cluster)
    };
    let others = lines.iter().filter(|line| !ours(line));
    others
        .map(|line| {
            let names = line.names.iter().flatten();
            let name = names.map(|n| n.trim_start_matches('/')).find(|n| !n.is_empty());
            Unmanaged {
                name: name.or(line.id.as_deref()).unwrap_or_default().to_owned(),
                image: line.image.clone().unwrap_or_default(),
                state: line.state.map(|s| s.to_string()).unwrap_or_default(),
            }
        })
        .collect()
}

/// `Exited (137) 3 seconds ago` → 137; 255, Docker's own "unknown", when it cannot be read.
fn exit_code(status: &str) -> i32 {
    status
        .split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'))
        .and_then(|(code, _)| code.parse().ok())
        .unwrap_or(255)
}

fn state(seen: &ContainerState) -> State {
    let started_at = time(seen.started_at.as_deref());
    if seen.running == Some(true) {
        return State::Running { started_at };
    }
    if started_at.is_none() {
        return State::Created;
    }
    State::Exited(Exit {
        code: i32::try_from(seen.exit_code.unwrap_or_default()).unwrap_or(255),
        oom: seen.oom_killed == Some(true),
        error: clean(seen.error.as_deref().unwrap_or_default()),
        message: String::new(),
        started_at,
        finished_at: time(seen.finished_at.as_deref()),
    })
}

/// The engine writes the year 1 for "never".
fn time(text: Option<&str>) -> Option<Time> {
    text?
        .parse::<jiff::Timestamp>()
        .ok()
        .map(|t| Time(t.as_second()))
        .filter(|t| t.0 > 0)
}

/// Under the engine's init a command that cannot be executed is no failure of `start`: the init starts, says
/// `[FATAL tini (7)] exec nope failed: No such file or directory`, and exits with 126 or 127. This is that
/// sentence, from the container's log.
pub(super) fn init_failure(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|l| l.starts_with("[FATAL tini ("))?;
    let (_, words) = line.split_once("] ")?;
    Some(clean(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_made_is_all_without_the_clusters_label() {
        let scope = Scope {
            cluster: "ours".into(),
            node: "n1".into(),
            ..Scope::default()
        };
        let line = |name: &str, cluster: &str, node: &str| {
            let labels = [(label::CLUSTER, cluster), (label::NODE, node)];
            let labels = labels.into_iter().filter(|(_, v)| !v.is_empty());
            ContainerSummary {
                id: Some(format!("id-{name}")),
                names: (!name.is_empty()).then(|| vec![format!("/{name}")]),
                image: Some("img:1".into()),
                state: Some(ContainerSummaryStateEnum::RUNNING),
                labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
                ..ContainerSummary::default()
            }
        };
        let lines = [
            line("mine", "ours", "n1"),
            line("neighbour", "ours", "n2"),
            line("theirs", "another", "n1"),
            line("db", "", ""),
            line("", "", ""),
            ContainerSummary::default(),
        ];
        let found = unmanaged(&lines, &scope);
        let names: Vec<_> = found.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["theirs", "db", "id-", ""]);
        assert_eq!((found[0].image.as_str(), found[0].state.as_str()), ("img:1", "running"));
    }

    fn labels() -> Labels {
        [
            (label::UID, "u"),
            (label::NAMESPACE, "default"),
            (label::POD, "web"),
            (label::CONTAINER, "app"),
            (label::ATTEMPT, "3"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    #[test]
    fn an_owner_needs_every_label() {
        assert_eq!(
            owner(&labels()).map(|o| (o.attempt, o.spec_hash)),
            Ok((3, String::new()))
        );
        for key in [
            label::UID,
            label::NAMESPACE,
            label::POD,
            label::CONTAINER,
            label::ATTEMPT,
        ] {
            let mut labels = labels();
            labels.remove(key);
            assert_eq!(owner(&labels), Err(key));
            labels.insert(key.into(), String::new());
            assert_eq!(owner(&labels), Err(key));
        }
        let mut labels = labels();
        labels.insert(label::ATTEMPT.into(), "-1".into());
        assert_eq!(owner(&labels), Err(label::ATTEMPT));
    }

    #[test]
    fn states() {
        let seen = |running, started: &str, code| ContainerState {
            running: Some(running),
            started_at: Some(started.into()),
            finished_at: Some("2026-01-01T00:00:09.5Z".into()),
            exit_code: Some(code),
            oom_killed: Some(code == 137),
            error: Some("OCI runtime create failed: no".into()),
            ..Default::default()
        };
        assert_eq!(state(&seen(false, "0001-01-01T00:00:00Z", 127)), State::Created);
        let started_at = Some(Time(1_767_225_601));
        assert_eq!(
            state(&seen(true, "2026-01-01T00:00:01.25Z", 0)),
            State::Running { started_at }
        );
        assert_eq!(
            state(&seen(false, "2026-01-01T00:00:01.25Z", 137)),
            State::Exited(Exit {
                code: 137,
                oom: true,
                error: "no".into(),
                message: String::new(),
                started_at,
                finished_at: Some(Time(1_767_225_609)),
            })
        );
    }

    #[test]
    fn a_list_line_still_tells_the_exit_code() {
        let summary = ContainerSummary {
            state: Some(ContainerSummaryStateEnum::EXITED),
            status: Some("Exited (137) 3 seconds ago".into()),
            ..Default::default()
        };
        let owner = owner(&labels()).unwrap_or_default();
        let State::Exited(exit) = from_summary("id", owner, &summary).state else {
            panic!("not exited");
        };
        assert_eq!(exit.code, 137);
        assert_eq!(exit_code("Dead"), 255);
    }

    #[test]
    fn what_the_init_said() {
        assert_eq!(
            init_failure("hello\n[FATAL tini (7)] exec nope failed: No such file or directory\n").as_deref(),
            Some("exec nope failed: No such file or directory")
        );
        assert_eq!(init_failure("sh: nope: not found\n"), None);
    }
}
