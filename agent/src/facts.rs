//! What the agent tells of its host. [`HostFacts`] is what it needs; the real one looks at the machine, the
//! fixed one serves tests and the simulated fleet. [`keep`] collects again and again and tells changes.
//!
//! Invariant: whether Docker answers is known here from the worker's observer alone.

use std::sync::Arc;

use proto::wire::{NodeFacts, ResourceAmounts};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    host::HostProbe,
    runtime::EngineInfo,
    settings::{Settings, ms},
};

/// Collects the facts; called in a thread that may block. `docker_ready` and `docker_reason` are filled in by
/// the caller.
pub trait HostFacts: Send + Sync + 'static {
    /// `engine` is `None` while Docker does not answer; what depends on it then keeps its last value or a
    /// guess.
    fn collect(&self, engine: Option<&EngineInfo>) -> NodeFacts;
}

/// Whether the engine answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Not asked yet.
    #[default]
    Unknown,
    Up(EngineInfo),
    /// For how long is told by the node's condition; here only why.
    Down(String),
}

impl HostFacts for HostProbe {
    fn collect(&self, engine: Option<&EngineInfo>) -> NodeFacts {
        Self::collect(self, engine, "")
    }
}

/// Always the same facts.
#[derive(Clone, Debug)]
pub struct FixedFacts(pub NodeFacts);

impl FixedFacts {
    /// A host of `cpus` CPUs and `memory` bytes, all for pods.
    pub fn new(hostname: &str, address: &str, cpus: u64, memory: u64) -> Self {
        let amounts = ResourceAmounts {
            cpu_milli: cpus * 1000,
            memory,
            ephemeral_storage: 100 << 30,
            pods: 110,
        };
        Self(NodeFacts {
            capacity: Some(amounts),
            allocatable: Some(amounts),
            addresses: vec![address.to_owned()],
            hostname: hostname.to_owned(),
            operating_system: "linux".into(),
            os_image: "Test".into(),
            kernel_version: "0".into(),
            architecture: "amd64".into(),
            agent_version: proto::VERSION.into(),
            boot_id: format!("boot-{hostname}"),
            machine_id: format!("machine-{hostname}"),
            ..NodeFacts::default()
        })
    }
}

impl HostFacts for FixedFacts {
    fn collect(&self, engine: Option<&EngineInfo>) -> NodeFacts {
        NodeFacts {
            docker_version: engine.map(|e| e.version.clone()).unwrap_or_default(),
            ..self.0.clone()
        }
    }
}

/// Keeps `facts` current until `stop`: at the period, and at once when the engine comes or goes.
pub async fn keep(
    host: Arc<dyn HostFacts>,
    mut engine: watch::Receiver<Engine>,
    facts: watch::Sender<Option<NodeFacts>>,
    settings: Settings,
    stop: CancellationToken,
) {
    loop {
        let now = engine.borrow_and_update().clone();
        if now != Engine::Unknown {
            let host = host.clone();
            let collected = tokio::task::spawn_blocking(move || collect(&*host, &now)).await;
            match collected {
                Ok(new) => {
                    facts.send_if_modified(|old| {
                        let changed = old.as_ref() != Some(&new);
                        *old = Some(new);
                        changed
                    });
                }
                Err(e) => tracing::error!("collecting the host's facts failed: {e}"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = engine.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(ms(settings.facts_ms)) => {}
        }
    }
}

fn collect(host: &dyn HostFacts, engine: &Engine) -> NodeFacts {
    let (info, reason) = match engine {
        Engine::Up(info) => (Some(info), ""),
        Engine::Down(reason) => (None, reason.as_str()),
        Engine::Unknown => (None, "Docker was not asked yet"),
    };
    NodeFacts {
        docker_ready: info.is_some(),
        docker_reason: reason.to_owned(),
        ..host.collect(info)
    }
}
