//! One host of the fleet: the real agent in a runtime of its own, on an engine in memory and a data directory
//! that both outlive it. Used by [`super::Fleet`].
//!
//! Invariant: killing the agent ends every task it ever spawned before the next one starts, as SIGKILL would.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use agent::{Config, facts::FixedFacts, join::Join, runtime::fake::FakeEngine, settings::Settings};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::net::{Link, LinkConnector};

pub struct Host {
    pub name: String,
    pub engine: Arc<FakeEngine>,
    pub link: Arc<Link>,
    dir: PathBuf,
    settings: Settings,
    facts: FixedFacts,
    runtime: Option<Runtime>,
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
        let config = Config {
            settings: self.settings.clone(),
            ..Config::new(&self.dir, join)
        };
        let (engine, facts) = (self.engine.clone(), Arc::new(self.facts.clone()));
        let (ended, name) = (self.ended.clone(), self.name.clone());
        runtime.spawn(async move {
            let result = agent::run(config, engine, facts, CancellationToken::new()).await;
            drop(renewals);
            ended
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(format!("the agent of {name}: {result:?}"));
        });
        self.runtime = Some(runtime);
    }

    /// As SIGKILL: returns once nothing of it runs any more. Containers keep running.
    pub async fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            super::end(runtime).await;
        }
    }

    /// Ends the agent without waiting for it.
    pub(super) fn abandon(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
