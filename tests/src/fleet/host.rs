//! One host of the fleet: the real agent in a runtime of its own, on an engine in memory and a data directory
//! that both outlive it. Used by [`super::Fleet`].
//!
//! Invariant: killing the agent ends every task it ever spawned before the next one starts, as SIGKILL would.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use agent::{Config, facts::FixedFacts, join::Join, ledger::DataDir, runtime::fake::FakeEngine, settings::Settings};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{
    brittle::Brittle,
    crash::{Crash, Side},
    net::{Link, LinkConnector},
};

pub struct Host {
    pub name: String,
    pub engine: Arc<FakeEngine>,
    pub link: Arc<Link>,
    dir: PathBuf,
    settings: Settings,
    facts: FixedFacts,
    runtime: Option<Runtime>,
    /// Set while its agent is killed: what is cut off in the middle may still say so before it is gone.
    killed: Arc<AtomicBool>,
    crash: Arc<Crash>,
    ended: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// A host whose agent is not started. `ended` gets why an agent ended by itself.
    pub fn new(
        name: String,
        dir: PathBuf,
        link: Arc<Link>,
        settings: Settings,
        ended: Arc<Mutex<Vec<String>>>,
    ) -> Self {
        let facts = FixedFacts::new(&name, "10.0.0.1", 64, 256 << 30);
        Self {
            name,
            engine: FakeEngine::new(),
            link,
            dir,
            settings,
            facts,
            runtime: None,
            killed: Arc::default(),
            crash: Arc::default(),
            ended,
        }
    }

    pub fn runs(&self) -> bool {
        self.runtime.is_some()
    }

    /// Starts the agent if it does not run.
    pub fn start(&mut self) {
        if self.runs() {
            return;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(&self.name)
            .enable_all()
            .build()
            .expect("a runtime");
        let connector = LinkConnector {
            link: self.link.clone(),
            settings: self.settings.clone(),
        };
        let (join, renewals) = Join::with(&self.name, vec!["c1:7443".into()], Arc::new(connector));
        let disk = Brittle {
            inner: DataDir {
                path: self.dir.clone(),
                sync: self.settings.sync_writes,
            },
            crash: self.crash.clone(),
        };
        let config = Config {
            settings: self.settings.clone(),
            disk: Some(Arc::new(disk)),
            ..Config::new(&self.dir, join)
        };
        let engine = Arc::new(Brittle {
            inner: self.engine.clone(),
            crash: self.crash.clone(),
        });
        let facts = Arc::new(self.facts.clone());
        self.killed = Arc::default();
        let (ended, name, killed) = (self.ended.clone(), self.name.clone(), self.killed.clone());
        runtime.spawn(async move {
            let result = agent::run(config, engine, facts, CancellationToken::new()).await;
            drop(renewals);
            if !killed.load(Ordering::SeqCst) {
                let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                ended.push(format!("the agent of {name}: {result:?}"));
            }
        });
        self.runtime = Some(runtime);
    }

    /// As SIGKILL: returns once nothing of it runs any more. Containers keep running.
    pub async fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            self.killed.store(true, Ordering::SeqCst);
            super::end(runtime).await;
            self.crash.disarm();
        }
    }

    /// The agent ends at its `step`th step from now, counted from one; to be killed once [`Host::fell`].
    pub fn crash_at(&self, step: u32, side: Side) {
        self.crash.arm(step, side);
    }

    /// At what kind of step the agent ended by [`Host::crash_at`], if it has.
    pub fn fell(&self) -> Option<&'static str> {
        self.crash.fell()
    }

    /// It no longer ends at a step, unless it has.
    pub fn spare(&self) {
        if self.fell().is_none() {
            self.crash.disarm();
        }
    }

    /// Ends the agent without waiting for it.
    pub(super) fn abandon(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
