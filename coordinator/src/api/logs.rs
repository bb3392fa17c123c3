//! Logs: what a container wrote, over a pipe from its node's agent. Mounted by the listener.
//!
//! Invariant: nothing of a log is kept here; the caller's stream polls the agent's.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, future, stream, stream::BoxStream};
use proto::{
    capability,
    model::{ContainerState, ContainerStatus, Kind, labels::quoted},
    wire::{LogsChunk, LogsRequest, ReadLog, logs_server, open_pipe},
};
use tonic::{Code, Request, Response, Status};

use super::{
    Api, convert,
    errors::{ApiError, one_line},
};
use crate::{
    ca::authorizer::Attributes,
    session::{
        Sessions,
        pipes::{Pipe, PipeError},
    },
    world::{PodState, World},
};

pub struct LogsService {
    pub(super) api: Arc<Api>,
    pub(super) sessions: Arc<Sessions>,
}

#[async_trait]
impl logs_server::Logs for LogsService {
    type ReadStream = BoxStream<'static, Result<LogsChunk, Status>>;

    async fn read(&self, request: Request<LogsRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let message = request.get_ref();
        let namespace = convert::namespace(Kind::Pod, &message.namespace);
        let action = Attributes {
            verb: "get",
            resource: Kind::Pod.plural(),
            subresource: "log",
            namespace,
            name: &message.pod,
        };
        self.api.admit(request.extensions(), &action)?;
        let Wanted { node, log } = self.api.hub.read(|world| resolve(world, namespace, message))?;
        let session = self.sessions.registry().get(&node).ok_or_else(|| {
            let why = self.api.hub.read(|world| away(world, &node));
            let pod = quoted(&message.pod);
            Status::unavailable(one_line(&format!(
                "pods {pod}: node {} is not connected{why}",
                quoted(&node)
            )))
        })?;
        let first = LogsChunk {
            container_id: log.container_id.clone(),
            ..LogsChunk::default()
        };
        let pipe = self
            .sessions
            .pipes()
            .open(&session, open_pipe::Kind::Log(log))
            .await
            .map_err(|e| status(&message.pod, &e))?;
        let rest = stream::unfold((pipe, message.pod.clone()), following);
        Ok(Response::new(
            stream::once(future::ready(Ok(first))).chain(rest).boxed(),
        ))
    }
}

async fn following((mut pipe, pod): (Pipe, String)) -> Option<(Result<LogsChunk, Status>, (Pipe, String))> {
    let chunk = match pipe.next().await? {
        Ok(data) => Ok(LogsChunk {
            data: data.data,
            stderr: data.stderr,
            container_id: String::new(),
        }),
        Err(e) => Err(status(&pod, &e)),
    };
    Some((chunk, (pipe, pod)))
}

fn refusal(pod: &str, what: String) -> ApiError {
    ApiError::in_use(Kind::Pod, pod, what)
}

fn status(pod: &str, error: &PipeError) -> Status {
    let code = match error {
        PipeError::NodeFull { .. } | PipeError::Full(_) | PipeError::Busy(_) => Code::ResourceExhausted,
        PipeError::Refused(_) => Code::FailedPrecondition,
        PipeError::Late { .. } | PipeError::Lost(_) | PipeError::Demoted(_) | PipeError::Failed(_) => Code::Unavailable,
        PipeError::Protocol { .. } => Code::Internal,
    };
    Status::new(code, one_line(&format!("pods {}: {error}", quoted(pod))))
}

/// Why a node is not connected, as far as it is known.
fn away(world: &World, node: &str) -> String {
    let Some(state) = world.nodes.get(node) else {
        return "; it was deleted".to_owned();
    };
    let reason = state.condition().reason;
    let known = if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    };
    format!("{known}; its logs can be read when it is back")
}

/// What to ask of which node.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    node: String,
    log: ReadLog,
}

/// Which container of which attempt is meant. Pure.
fn resolve(world: &World, namespace: &str, message: &LogsRequest) -> Result<Wanted, ApiError> {
    let name = &message.pod;
    let pod = world
        .pods
        .get(&(namespace.to_owned(), name.clone()))
        .ok_or_else(|| ApiError::not_found(Kind::Pod, name))?;
    let container = container(pod, message)?;
    let node = &pod.record.node;
    if node.is_empty() {
        let why = &pod.record.waiting;
        let why = if why.is_empty() { "it waits for a node" } else { why };
        return Err(refusal(name, format!("it has written nothing yet: {why}")));
    }
    let known = world.nodes.get(node).and_then(|n| n.facts.as_ref());
    let capabilities = known.map(|f| f.value.capabilities.as_slice()).unwrap_or_default();
    if known.is_some() && !capabilities.iter().any(|c| c == capability::LOGS) {
        return Err(refusal(
            name,
            format!("the agent of node {} is too old to send logs; update it", quoted(node)),
        ));
    }
    let id = match message.container_id.as_str() {
        "" => attempt(pod, name, &container, message.previous)?,
        given if given.len() <= 128 && given.chars().all(|c| c.is_ascii_alphanumeric()) => given.to_owned(),
        given => {
            return Err(ApiError::BadRequest(format!(
                "container_id: {} is no container's id",
                quoted(given)
            )));
        }
    };
    Ok(Wanted {
        node: node.clone(),
        log: ReadLog {
            pod_uid: pod.record.uid.clone(),
            container,
            container_id: id,
            follow: message.follow,
            tail_lines: message.tail_lines,
            since_ms: message.since_ms,
            timestamps: message.timestamps,
        },
    })
}

fn container(pod: &PodState, message: &LogsRequest) -> Result<String, ApiError> {
    let names = || pod.template_record().spec.containers.iter().map(|c| c.name.as_str());
    let listed = || names().collect::<Vec<_>>().join(", ");
    let (pod, given) = (quoted(&message.pod), &message.container);
    if given.is_empty() {
        let mut all = names();
        return match (all.next(), all.next()) {
            (Some(only), None) => Ok(only.to_owned()),
            _ => Err(ApiError::BadRequest(format!(
                "pods {pod}: it has several containers; name one of {}",
                listed()
            ))),
        };
    }
    if names().any(|n| n == given) {
        return Ok(given.clone());
    }
    Err(ApiError::BadRequest(format!(
        "pods {pod}: container {} is none of its containers: {}",
        quoted(given),
        listed()
    )))
}

/// The engine's id of the present attempt, or of the one before.
fn attempt(pod: &PodState, name: &str, container: &str, previous: bool) -> Result<String, ApiError> {
    let statuses = pod
        .status
        .as_ref()
        .map(|s| s.value.status.container_statuses.as_slice());
    let status = statuses.and_then(|all| all.iter().find(|s| s.name == container));
    let ended = |state: &ContainerState| match state {
        ContainerState::Terminated(t) => Some(t.container_id.clone()),
        _ => None,
    };
    let before = |s: &ContainerStatus| s.last_state.as_ref().and_then(ended);
    let id = match status {
        Some(s) if previous => before(s),
        Some(s) => match &s.state {
            // One that is about to start again has not written yet; what it wrote before its end is of use.
            ContainerState::Waiting(_) => before(s),
            ContainerState::Running(_) => Some(s.container_id.clone()),
            state @ ContainerState::Terminated(_) => ended(state),
        },
        None => None,
    };
    // As `docker://<id>`.
    let id = id.map(|id| id.rsplit('/').next().unwrap_or_default().to_owned());
    if let Some(id) = id.filter(|id| !id.is_empty()) {
        return Ok(id);
    }
    let what = match status.map(|s| &s.state) {
        _ if previous => format!("container {} has not ended before", quoted(container)),
        Some(ContainerState::Waiting(w)) if !w.reason.is_empty() => {
            format!("container {} waits to start: {}", quoted(container), w.reason)
        }
        Some(ContainerState::Terminated(_)) => format!("container {} never started", quoted(container)),
        _ => format!("container {} waits to start", quoted(container)),
    };
    Err(refusal(name, what))
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
