//! What the calls of the trait are built of: the client, deadlines, and looking at containers. Called by the rest
//! of this module.
//!
//! Invariant: a container of another cluster or node is never returned.

use std::{future::Future, time::Duration};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    models::{ContainerInspectResponse, ImageInspect, SystemInfo},
    query_parameters::InspectContainerOptions,
};
use proto::ids::label;
use tokio::time::Instant;

use super::{
    BOLLARD_TIMEOUT_S, DockerRuntime, Facts, LOOK_AGAIN, credentials, errors::Problem, locked, observe, pull, short,
};
use crate::runtime::{ContainerInfo, CreateContainer, EngineInfo, Owner, RuntimeError, State};

impl DockerRuntime {
    pub(super) fn client(&self) -> Result<&Docker, RuntimeError> {
        self.docker().map_err(|p| p.into_error(&self.endpoint, "connect"))
    }

    /// bollard refuses to be made for a socket that is absent, so this waits for the first call that finds one.
    pub(super) fn docker(&self) -> Result<&Docker, Problem> {
        if let Some(docker) = self.docker.get() {
            return Ok(docker);
        }
        let made = if self.endpoint.starts_with("unix://") {
            Docker::connect_with_unix(&self.endpoint, BOLLARD_TIMEOUT_S, API_DEFAULT_VERSION)
        } else {
            Docker::connect_with_http(
                self.endpoint.trim_end_matches('/'),
                BOLLARD_TIMEOUT_S,
                API_DEFAULT_VERSION,
            )
        };
        match made {
            Ok(docker) => {
                let docker = docker.with_request_modifier(credentials::url_safe);
                Ok(self.docker.get_or_init(|| docker))
            }
            Err(bollard::errors::Error::SocketNotFoundError(_)) => {
                Err(Problem::Silent("no such socket; is Docker running?".into()))
            }
            Err(e) => Err(Problem::Silent(e.to_string())),
        }
    }

    /// Labels of all that is this node's, as filters take them.
    pub(super) fn scope_labels(&self) -> Vec<String> {
        vec![
            format!("{}={}", label::CLUSTER, self.scope.cluster),
            format!("{}={}", label::NODE, self.scope.node),
        ]
    }

    /// Runs one call within its limit.
    pub(super) async fn call<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Problem> {
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(Problem::from),
            Err(_) => Err(Problem::Slow(limit)),
        }
    }

    async fn system_info(&self) -> Result<SystemInfo, RuntimeError> {
        let docker = self.client()?;
        match self.call(self.settings.list_timeout, docker.info()).await {
            Ok(info) => Ok(info),
            // An engine that cannot tell its own facts is of no use: there is nobody else to refuse.
            Err(Problem::Said { words, .. }) => Err(RuntimeError::Unavailable(format!("{}: {words}", self.endpoint))),
            Err(problem) => Err(problem.into_error(&self.endpoint, "info")),
        }
    }

    /// The engine's facts, at most `facts_age` old.
    pub(super) async fn facts(&self) -> Result<Facts, RuntimeError> {
        let known = locked(&self.facts).clone();
        if let Some((at, facts)) = known
            && at.elapsed() < self.settings.facts_age
        {
            return Ok(facts);
        }
        let info = self.system_info().await?;
        let facts = Facts {
            engine: EngineInfo {
                version: info.server_version.unwrap_or_default(),
                root_dir: info.docker_root_dir.unwrap_or_default(),
            },
            architecture: info.architecture.unwrap_or_default(),
        };
        *locked(&self.facts) = Some((Instant::now(), facts.clone()));
        Ok(facts)
    }

    /// The engine's time, as `since` of an event stream takes it.
    pub(super) async fn clock(&self) -> Result<String, RuntimeError> {
        let told = self.system_info().await?.system_time.unwrap_or_default();
        let now: jiff::Timestamp = told.parse().unwrap_or_else(|_| jiff::Timestamp::now());
        Ok(format!("{}.{:09}", now.as_second(), now.subsec_nanosecond()))
    }

    /// Raw inspection by id or name, whoever's container it is; `None` when there is none.
    pub(super) async fn look(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Problem> {
        let docker = self.docker()?;
        let call = docker.inspect_container(id, None::<InspectContainerOptions>);
        match self.call(self.settings.inspect_timeout, call).await {
            Ok(seen) => Ok(Some(seen)),
            Err(Problem::Said { status: 404, .. }) => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// An image of this host; `None` when it is not here.
    pub(super) async fn look_at_image(&self, reference: &str) -> Result<Option<ImageInspect>, RuntimeError> {
        pull::check(reference)?;
        let call = self.client()?.inspect_image(reference);
        match self.call(self.settings.inspect_timeout, call).await {
            Ok(image) => Ok(Some(image)),
            Err(Problem::Said { status: 404, .. }) => Ok(None),
            Err(problem) => Err(problem.into_error(&self.endpoint, &format!("inspect of image {reference}"))),
        }
    }

    /// One of this node's containers; others do not exist here.
    pub(super) async fn own(&self, id: &str) -> Result<Option<ContainerInfo>, Problem> {
        let Some(seen) = self.look(id).await? else {
            return Ok(None);
        };
        let Some(owner) = self.owner_of(id, seen.config.as_ref().and_then(|c| c.labels.as_ref())) else {
            return Ok(None);
        };
        let mut info = observe::from_inspect(id, owner, &seen);
        if let State::Exited(exit) = &mut info.state {
            self.explain(&seen, exit).await;
        }
        Ok(Some(info))
    }

    pub(super) fn owner_of(&self, id: &str, labels: Option<&observe::Labels>) -> Option<Owner> {
        let labels = labels.filter(|l| observe::in_scope(l, &self.scope))?;
        match observe::owner(labels) {
            Ok(owner) => Some(owner),
            Err(label) => {
                if locked(&self.warned).insert(id.to_owned()) {
                    tracing::warn!(container = %id, label, "ignoring a container of this node: label missing or unreadable");
                }
                None
            }
        }
    }

    /// After a name conflict: the id of the container by that name when it is this very attempt; `None` when
    /// there is none (any more, or yet).
    pub(super) async fn adopt(&self, spec: &CreateContainer) -> Result<Option<String>, RuntimeError> {
        let seen = self
            .look(&spec.name)
            .await
            .map_err(|p| p.into_error(&self.endpoint, &format!("inspect of {}", spec.name)))?;
        let Some(seen) = seen else { return Ok(None) };
        let id = seen.id.unwrap_or_default();
        let labels = seen.config.and_then(|c| c.labels).unwrap_or_default();
        let whose = match observe::owner(&labels) {
            Err(_) => "which is not Wharfinger's".to_owned(),
            Ok(o) if !observe::in_scope(&labels, &self.scope) => format!(
                "which belongs to pod {}/{} of node {} in cluster {}",
                o.namespace,
                o.pod,
                labels.get(label::NODE).map_or("?", String::as_str),
                labels.get(label::CLUSTER).map_or("?", String::as_str),
            ),
            Ok(o)
                if o.uid == spec.owner.uid
                    && o.container == spec.owner.container
                    && o.attempt == spec.owner.attempt =>
            {
                return Ok(Some(id));
            }
            Ok(o) => format!(
                "which is attempt {} of container {} of pod {}/{} with uid {}",
                o.attempt, o.container, o.namespace, o.pod, o.uid
            ),
        };
        Err(RuntimeError::NameTaken(format!(
            "container name `{}` is taken by container {}, {whose}; remove or rename that one",
            spec.name,
            short(&id)
        )))
    }

    /// Waits until the container does not run any more; true when that shows before the deadline.
    pub(super) async fn exited(&self, id: &str, deadline: Instant) -> Result<bool, Problem> {
        loop {
            match self.own(id).await? {
                Some(ContainerInfo {
                    state: State::Running { .. },
                    ..
                }) => {}
                _ => return Ok(true),
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}
