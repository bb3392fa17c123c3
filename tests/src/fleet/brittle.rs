//! The engine and the disk of an agent that may end at any of its steps ([`Crash`]): each write of its ledger, and each
//! call of its engine that a pod's way is made of. Put between the real ones and the agent by [`super::Host`].
//!
//! Invariant: changes no call and no answer. What the agent looks at time and again (the list, the engine's facts) is no
//! step, so that steps can be counted; it gets no answer either once the agent has ended.

use std::{sync::Arc, time::Duration};

use agent::{
    ledger::{DataDir, Disk, Ledger, LedgerError},
    runtime::{
        ContainerInfo, CreateContainer, EngineInfo, Executed, Hint, LogQuery, LogStream, MemoryVolume, Runtime,
        RuntimeError, Unmanaged, fake::FakeEngine,
    },
};
use async_trait::async_trait;
use tokio::sync::mpsc;

use super::crash::Crash;

/// See the module's head.
pub struct Brittle<T> {
    pub inner: T,
    pub crash: Arc<Crash>,
}

#[async_trait]
impl Disk for Brittle<DataDir> {
    async fn save(&self, ledger: Ledger) -> Result<(), LedgerError> {
        self.crash.step("ledger", self.inner.save(ledger)).await
    }
}

#[async_trait]
impl Runtime for Brittle<Arc<FakeEngine>> {
    async fn info(&self) -> Result<EngineInfo, RuntimeError> {
        self.crash.alive(self.inner.info()).await
    }

    async fn list(&self) -> Result<Vec<ContainerInfo>, RuntimeError> {
        self.crash.alive(self.inner.list()).await
    }

    async fn unmanaged(&self) -> Result<Vec<Unmanaged>, RuntimeError> {
        self.crash.alive(self.inner.unmanaged()).await
    }

    async fn inspect(&self, id: &str) -> Result<Option<ContainerInfo>, RuntimeError> {
        self.crash.step("inspect", self.inner.inspect(id)).await
    }

    async fn image(&self, reference: &str) -> Result<Option<String>, RuntimeError> {
        self.crash.step("image", self.inner.image(reference)).await
    }

    async fn image_user(&self, reference: &str) -> Result<String, RuntimeError> {
        self.crash.step("image", self.inner.image_user(reference)).await
    }

    async fn pull(&self, reference: &str) -> Result<(), RuntimeError> {
        self.crash.step("pull", self.inner.pull(reference)).await
    }

    fn pull_progress(&self, reference: &str) -> Option<String> {
        self.inner.pull_progress(reference)
    }

    async fn create(&self, spec: &CreateContainer) -> Result<String, RuntimeError> {
        self.crash.step("create", self.inner.create(spec)).await
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        self.crash.step("start", self.inner.start(id)).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.crash.step("stop", self.inner.stop(id, grace)).await
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.crash.step("remove", self.inner.remove(id)).await
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<Executed, RuntimeError> {
        self.crash.step("exec", self.inner.exec(id, command, limit)).await
    }

    async fn log_tail(&self, id: &str, lines: u32) -> Result<String, RuntimeError> {
        self.crash.step("log", self.inner.log_tail(id, lines)).await
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, RuntimeError> {
        self.crash.alive(self.inner.logs(query)).await
    }

    async fn memory_volumes(&self) -> Result<Vec<MemoryVolume>, RuntimeError> {
        self.crash.alive(self.inner.memory_volumes()).await
    }

    async fn remove_memory_volume(&self, name: &str) -> Result<(), RuntimeError> {
        self.crash.step("remove", self.inner.remove_memory_volume(name)).await
    }

    fn hints(self: Arc<Self>) -> mpsc::Receiver<Hint> {
        self.inner.clone().hints()
    }
}
