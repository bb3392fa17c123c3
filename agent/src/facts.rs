//! What the agent tells of its host. [`HostFacts`] is what it needs; the real one looks at the machine, the
//! fixed one serves tests and the simulated fleet. [`keep`] collects again and again and tells changes.
//!
//! Invariant: whether Docker answers is known here from the worker's observer alone.

use std::sync::Arc;

use proto::wire::{NodeFacts, ResourceAmounts};
use tokio::sync::{Notify, watch};
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

    /// Which boot of the host this is; empty: the host does not tell.
    fn boot(&self) -> String;

    /// What is kept from one look to the next is read anew by the next one.
    fn forget(&self) {}
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

    fn boot(&self) -> String {
        self.boot_id()
    }

    fn forget(&self) {
        self.forget_inventory();
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

    fn boot(&self) -> String {
        self.0.boot_id.clone()
    }
}

/// Keeps `facts` current until `stop`: at the period, and at once when the engine comes or goes or `look_again` is
/// notified, then with nothing kept from before.
pub async fn keep(
    host: Arc<dyn HostFacts>,
    mut engine: watch::Receiver<Engine>,
    facts: watch::Sender<Option<NodeFacts>>,
    settings: Settings,
    look_again: Arc<Notify>,
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
            () = look_again.notified() => host.forget(),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Tells how often it was made to forget, as its host name.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl HostFacts for Counting {
        fn collect(&self, _: Option<&EngineInfo>) -> NodeFacts {
            NodeFacts {
                hostname: self.0.load(Ordering::SeqCst).to_string(),
                ..NodeFacts::default()
            }
        }

        fn boot(&self) -> String {
            String::new()
        }

        fn forget(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn an_operator_has_the_host_looked_at_again() {
        let host = Arc::new(Counting::default());
        let (out, mut facts) = watch::channel(None);
        let (_engine, engine) = watch::channel(Engine::Down("away".into()));
        let (look_again, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        // No period comes round meanwhile.
        let settings = Settings {
            facts_ms: 86_400_000,
            ..Settings::default()
        };
        let task = tokio::spawn(keep(host, engine, out, settings, look_again.clone(), stop.clone()));
        let hostname = |f: &Option<NodeFacts>| f.as_ref().map(|f| f.hostname.clone());
        let mut seen = async |n: &str| {
            let shown = facts.wait_for(|f| hostname(f).as_deref() == Some(n));
            tokio::time::timeout(ms(20_000), shown)
                .await
                .expect("in time")
                .expect("kept");
        };
        seen("0").await;
        look_again.notify_one();
        seen("1").await;
        stop.cancel();
        task.await.expect("ends");
    }
}
