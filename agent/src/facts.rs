//! What the agent tells of its host. [`HostFacts`] is what it needs; the real one looks at the machine, the
//! fixed one serves tests and the simulated fleet. [`keep`] collects again and again and tells changes.
//!
//! Invariant: whether Docker answers is known here from the worker's observer alone.

use std::sync::Arc;

use proto::{
    model,
    wire::{NodeFacts, ResourceAmounts, UnmanagedContainer},
};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    host::HostProbe,
    runtime::{EngineInfo, Runtime, Unmanaged},
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
/// notified, then with nothing kept from before. What cannot be learned of others' containers is as it was.
pub async fn keep(
    host: Arc<dyn HostFacts>,
    runtime: Arc<dyn Runtime>,
    mut engine: watch::Receiver<Engine>,
    facts: watch::Sender<Option<NodeFacts>>,
    settings: Settings,
    look_again: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut others = Vec::new();
    loop {
        let now = engine.borrow_and_update().clone();
        if matches!(now, Engine::Up(_)) {
            tokio::select! {
                () = stop.cancelled() => return,
                found = runtime.unmanaged() => match found {
                    Ok(found) => others = found,
                    Err(e) => tracing::debug!("the engine's other containers are not known: {e}"),
                },
            }
        }
        if now != Engine::Unknown {
            let host = host.clone();
            let collected = tokio::task::spawn_blocking(move || collect(&*host, &now)).await;
            match collected {
                Ok(mut new) => {
                    show(&mut new, &others);
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

/// Others' containers by name; an engine lists them as it likes.
fn show(facts: &mut NodeFacts, others: &[Unmanaged]) {
    let mut sorted: Vec<_> = others.iter().collect();
    sorted.sort_unstable();
    facts.unmanaged_count = u32::try_from(sorted.len()).unwrap_or(u32::MAX);
    let told = sorted.into_iter().take(model::Unmanaged::MOST);
    facts.unmanaged = told
        .map(|c| UnmanagedContainer {
            name: bounded(&c.name),
            image: bounded(&c.image),
            state: bounded(&c.state),
        })
        .collect();
}

/// At most as many bytes as the wire takes.
fn bounded(text: &str) -> String {
    text.chars()
        .scan(0, |bytes, c| {
            *bytes += c.len_utf8();
            (*bytes <= 256).then_some(c)
        })
        .collect()
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
    use crate::runtime::fake::FakeEngine;

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
        let engines = FakeEngine::new();
        let task = tokio::spawn(keep(
            host,
            engines,
            engine,
            out,
            settings,
            look_again.clone(),
            stop.clone(),
        ));
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

    fn other(name: &str, image: &str) -> Unmanaged {
        Unmanaged {
            name: name.into(),
            image: image.into(),
            state: "running".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn others_containers_are_told_when_they_change() {
        let engines = FakeEngine::new();
        engines.set_unmanaged(vec![other("b", "b:1"), other("a", "a:1")]);
        let (out, mut facts) = watch::channel(None);
        let info = EngineInfo {
            version: "1".into(),
            root_dir: "/".into(),
        };
        let (_engine, engine) = watch::channel(Engine::Up(info));
        let (look_again, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let host = Arc::new(FixedFacts::new("h", "192.0.2.1", 1, 1 << 30));
        let period = Settings::default().facts_ms;
        let kept = keep(
            host,
            engines.clone(),
            engine,
            out,
            Settings::default(),
            look_again,
            stop.clone(),
        );
        let task = tokio::spawn(kept);
        let names = |f: &Option<NodeFacts>| {
            let f = f.as_ref().expect("collected");
            let names: Vec<_> = f.unmanaged.iter().map(|c| c.name.clone()).collect();
            (f.unmanaged_count, names.join(" "))
        };
        facts.changed().await.expect("kept");
        assert_eq!(names(&facts.borrow_and_update()), (2, "a b".into()));
        // In another order they are the same; while the engine is silent nobody knows better.
        engines.set_unmanaged(vec![other("a", "a:1"), other("b", "b:1")]);
        tokio::time::sleep(ms(2 * period)).await;
        engines.set_unavailable(Some("busy"));
        tokio::time::sleep(ms(2 * period)).await;
        assert!(!facts.has_changed().expect("kept"));
        engines.set_unavailable(None);
        engines.set_unmanaged((0..150).map(|n| other(&format!("c{n:03}"), "x")).collect());
        facts.changed().await.expect("kept");
        let now = facts.borrow_and_update().clone();
        assert_eq!(names(&now).0, 150);
        let told = now.expect("collected").unmanaged;
        assert_eq!((told.len(), told[99].name.as_str()), (100, "c099"));
        stop.cancel();
        task.await.expect("ends");
    }

    #[test]
    fn words_of_others_are_bounded() {
        let mut facts = NodeFacts::default();
        show(&mut facts, &[other(&"ä".repeat(300), "i")]);
        assert_eq!(facts.unmanaged[0].name, "ä".repeat(128));
    }
}
