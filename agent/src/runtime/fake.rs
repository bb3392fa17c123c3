//! An engine in memory, for tests and the simulated fleet. It outlives the agents that use it, follows a script
//! per image, fails on demand, and can be meddled with behind the agent's back ([`script`]).
//!
//! Invariant: it watches the agent: two live containers of one (pod, container), an attempt started before the
//! exit of the one before it was shown to the agent, or a stop without leave ([`FakeEngine::guard_stops`]) is
//! recorded and never forgotten ([`FakeEngine::violations`]).

#[path = "fake/logs.rs"]
mod logs;
#[path = "fake/script.rs"]
mod script;
#[path = "fake/state.rs"]
mod state;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
pub use script::{Answer, Failure, ImageScript, Op, Run};
use state::Inner;
#[cfg(test)]
pub(crate) use state::Inner as FakeState;
use tokio::sync::mpsc;

use super::{
    ContainerInfo, CreateContainer, EngineInfo, Executed, Exit, Hint, LogQuery, LogStream, MemoryVolume, Runtime,
    RuntimeError, Source, State, Unmanaged,
};
use crate::clock::Clock;

pub struct FakeEngine {
    inner: Mutex<Inner>,
    clock: Clock,
}

impl FakeEngine {
    /// An engine on which every image is present and runs for ever.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner::default()),
            clock: Clock::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.settle(self.clock.now_ms());
        inner
    }

    /// What containers and pulls of this image do from now on.
    pub fn script(&self, image: &str, script: ImageScript) {
        self.lock().images.insert(image.to_owned(), script);
    }

    /// How this command ends in every container from now on; others end well at once.
    pub fn answer(&self, command: &str, code: i64, takes: Duration) {
        self.lock().answers.insert(command.to_owned(), Answer { code, takes });
    }

    /// Commands that were begun, and when.
    pub fn commands(&self) -> Vec<(u64, String)> {
        self.lock().commands.clone()
    }

    /// Every call fails with `reason` until it is `None` again.
    pub fn set_unavailable(&self, reason: Option<&str>) {
        let mut inner = self.lock();
        inner.unavailable = reason.map(str::to_owned);
        if reason.is_none() {
            inner.hint(Hint::All);
        }
    }

    /// The next call of `op` fails; several queue up.
    pub fn fail_next(&self, op: Op, failure: Failure) {
        self.lock().failures.entry(op).or_default().push_back(failure);
    }

    /// How long each call of `op` takes.
    pub fn set_latency(&self, op: Op, latency: Duration) {
        self.lock().latency.insert(op, latency);
    }

    /// The container's main process ends with 137; nobody asked for it. False when it does not run.
    pub fn kill_behind_back(&self, id: &str) -> bool {
        let now_ms = self.clock.now_ms();
        self.lock().exit(id, 137, now_ms)
    }

    /// The container is gone at once, running or not.
    pub fn remove_behind_back(&self, id: &str) -> bool {
        self.lock().erase(id)
    }

    /// The engine restarts: every running container ends with 137.
    pub fn restart(&self) {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let running: Vec<_> = inner.running().map(str::to_owned).collect();
        for id in running {
            inner.exit(&id, 137, now_ms);
        }
        inner.hint(Hint::All);
    }

    /// What others have on the engine from now on.
    pub fn set_unmanaged(&self, containers: Vec<Unmanaged>) {
        self.lock().unmanaged = containers;
    }

    /// Puts a container there as if an earlier agent had made it.
    pub fn plant(&self, spec: &CreateContainer, running: bool) -> String {
        let now_ms = self.clock.now_ms();
        let mut inner = self.lock();
        let id = inner.insert(spec);
        if running {
            inner.run(&id, now_ms);
        }
        id
    }

    /// From now on the agent may stop a running container only if `leave`, asked with the pod's uid, says so, or
    /// if the sandbox with its network is gone.
    pub fn guard_stops(&self, leave: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.lock().leave_to_stop = Some(Box::new(leave));
    }

    /// The container writes, at this moment; each line is an entry of its own.
    pub fn write(&self, id: &str, stderr: bool, text: &[u8]) {
        let now_ms = self.clock.now_ms();
        self.lock().logs.write(id, now_ms, stderr, text);
    }

    /// Logs that are being read.
    pub fn log_readers(&self) -> usize {
        self.lock().logs.readers()
    }

    /// Bytes of logs that readers took so far.
    pub fn log_taken(&self) -> u64 {
        self.lock().logs.taken()
    }

    /// Volumes in memory and the uids of their pods.
    pub fn volumes(&self) -> BTreeMap<String, String> {
        self.lock().volumes.clone()
    }

    /// Puts a volume in memory there as if an earlier agent had made it.
    pub fn plant_volume(&self, name: &str, uid: &str) {
        self.lock().volumes.insert(name.to_owned(), uid.to_owned());
    }

    /// All containers, without counting as a look of the agent.
    pub fn containers(&self) -> Vec<ContainerInfo> {
        self.lock().infos()
    }

    /// What the container was created from.
    pub fn spec(&self, id: &str) -> Option<CreateContainer> {
        self.lock().containers.get(id).map(|c| c.spec.clone())
    }

    pub fn calls(&self, op: Op) -> u64 {
        self.lock().calls.get(&op).copied().unwrap_or(0)
    }

    /// Calls of each kind so far.
    pub fn all_calls(&self) -> BTreeMap<Op, u64> {
        self.lock().calls.clone()
    }

    /// Most calls of `op` that were ever under way at once.
    pub fn most_at_once(&self, op: Op) -> u64 {
        self.lock().most_at_once.get(&op).copied().unwrap_or(0)
    }

    /// Broken promises of the agent, in words. Must be empty.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Counts the call, waits its latency, and takes the next failure of the queue.
    async fn enter(&self, op: Op) -> Result<Entered<'_>, RuntimeError> {
        let latency = {
            let mut inner = self.lock();
            *inner.calls.entry(op).or_default() += 1;
            let now = inner.at_once.entry(op).or_default();
            *now += 1;
            let now = *now;
            let most = inner.most_at_once.entry(op).or_default();
            *most = (*most).max(now);
            inner.latency.get(&op).copied().unwrap_or_default()
        };
        let mut entered = Entered {
            engine: self,
            op,
            after: None,
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut inner = self.lock();
        if let Some(reason) = &inner.unavailable {
            return Err(RuntimeError::Unavailable(reason.clone()));
        }
        if let Some(failure) = inner
            .failures
            .get_mut(&op)
            .and_then(std::collections::VecDeque::pop_front)
        {
            if !failure.took_effect {
                return Err(failure.error);
            }
            entered.after = Some(failure.error);
        }
        drop(inner);
        Ok(entered)
    }
}

/// A call under way; counted down when it ends or is dropped.
struct Entered<'a> {
    engine: &'a FakeEngine,
    op: Op,
    /// The error to return although the call took effect.
    after: Option<RuntimeError>,
}

impl Entered<'_> {
    fn finish<T>(mut self, value: T) -> Result<T, RuntimeError> {
        self.after.take().map_or(Ok(value), Err)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(n) = self.engine.lock().at_once.get_mut(&self.op) {
            *n = n.saturating_sub(1);
        }
    }
}

#[async_trait]
impl Runtime for FakeEngine {
    async fn info(&self) -> Result<EngineInfo, RuntimeError> {
        self.enter(Op::Info).await?.finish(EngineInfo {
            version: "fake".into(),
            root_dir: "/".into(),
        })
    }

    async fn list(&self) -> Result<Vec<ContainerInfo>, RuntimeError> {
        let entered = self.enter(Op::List).await?;
        let all = self.lock().show_all();
        entered.finish(all)
    }

    async fn unmanaged(&self) -> Result<Vec<Unmanaged>, RuntimeError> {
        let inner = self.lock();
        match &inner.unavailable {
            Some(why) => Err(RuntimeError::Unavailable(why.clone())),
            None => Ok(inner.unmanaged.clone()),
        }
    }

    async fn inspect(&self, id: &str) -> Result<Option<ContainerInfo>, RuntimeError> {
        let entered = self.enter(Op::Inspect).await?;
        let one = self.lock().show(id);
        entered.finish(one)
    }

    async fn image(&self, reference: &str) -> Result<Option<String>, RuntimeError> {
        let entered = self.enter(Op::Image).await?;
        let script = self.lock().image(reference);
        entered.finish(script.present.then(|| format!("sha256:{reference}")))
    }

    async fn image_user(&self, reference: &str) -> Result<String, RuntimeError> {
        let entered = self.enter(Op::Image).await?;
        let script = self.lock().image(reference);
        if !script.present {
            return Err(RuntimeError::NoSuchImage(reference.to_owned()));
        }
        entered.finish(script.user)
    }

    async fn pull(&self, reference: &str) -> Result<(), RuntimeError> {
        let entered = self.enter(Op::Pull).await?;
        let script = self.lock().image(reference);
        if !script.pull_takes.is_zero() {
            tokio::time::sleep(script.pull_takes).await;
        }
        if let Some(words) = script.pull_error {
            return Err(RuntimeError::Refused(words));
        }
        let mut inner = self.lock();
        let present = ImageScript {
            present: true,
            ..inner.image(reference)
        };
        inner.images.insert(reference.to_owned(), present);
        drop(inner);
        entered.finish(())
    }

    fn pull_progress(&self, reference: &str) -> Option<String> {
        self.lock().image(reference).progress
    }

    async fn create(&self, spec: &CreateContainer) -> Result<String, RuntimeError> {
        let entered = self.enter(Op::Create).await?;
        let id = self.lock().create(spec)?;
        entered.finish(id)
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let entered = self.enter(Op::Start).await?;
        self.lock().start(id, self.clock.now_ms())?;
        entered.finish(())
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let entered = self.enter(Op::Stop).await?;
        let plan = {
            let mut inner = self.lock();
            inner.check_stop(id);
            inner.stop_plan(id, grace)
        };
        if let Some((takes, code)) = plan {
            tokio::time::sleep(takes).await;
            let now_ms = self.clock.now_ms();
            let mut inner = self.lock();
            inner.exit(id, code, now_ms);
            inner.exit_was_shown(id);
        }
        entered.finish(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let entered = self.enter(Op::Remove).await?;
        self.lock().remove(id)?;
        entered.finish(())
    }

    async fn exec(&self, id: &str, command: &[String], limit: Duration) -> Result<Executed, RuntimeError> {
        let entered = self.enter(Op::Exec).await?;
        let answer = {
            let mut inner = self.lock();
            if !inner.running().any(|running| running == id) {
                return Err(RuntimeError::NoSuchContainer(id.to_owned()));
            }
            inner.commands.push((self.clock.now_ms(), command.join(" ")));
            inner.answers.get(&command.join(" ")).copied().unwrap_or_default()
        };
        tokio::time::sleep(answer.takes.min(limit)).await;
        entered.finish(if answer.takes > limit {
            Executed::Unended(limit)
        } else {
            Executed::Exited {
                code: answer.code,
                output: String::new(),
            }
        })
    }

    async fn log_tail(&self, id: &str, _lines: u32) -> Result<String, RuntimeError> {
        let entered = self.enter(Op::Log).await?;
        let log = {
            let inner = self.lock();
            let image = inner.containers.get(id).map(|c| c.spec.image.clone());
            image.map(|i| inner.image(&i).log).unwrap_or_default()
        };
        entered.finish(log)
    }

    async fn logs(&self, query: &LogQuery) -> Result<LogStream, RuntimeError> {
        let entered = self.enter(Op::Log).await?;
        let inner = self.lock();
        let theirs = |o: &super::Owner| (&o.uid, &o.container) == (&query.uid, &query.container);
        if !inner.containers.get(&query.id).is_some_and(|c| theirs(&c.spec.owner)) {
            return Err(RuntimeError::NoSuchContainer(query.id.clone()));
        }
        let stream = inner.logs.open(query);
        drop(inner);
        entered.finish(stream)
    }

    async fn memory_volumes(&self) -> Result<Vec<MemoryVolume>, RuntimeError> {
        let entered = self.enter(Op::Volumes).await?;
        let volumes = self.lock().volumes.clone();
        let volumes = volumes.into_iter().map(|(name, uid)| MemoryVolume { name, uid });
        entered.finish(volumes.collect())
    }

    async fn remove_memory_volume(&self, name: &str) -> Result<(), RuntimeError> {
        let entered = self.enter(Op::RemoveVolume).await?;
        self.lock().remove_volume(name)?;
        entered.finish(())
    }

    fn hints(self: Arc<Self>) -> mpsc::Receiver<Hint> {
        let (sender, receiver) = mpsc::channel(1024);
        self.lock().listeners.push(sender);
        receiver
    }
}

#[cfg(test)]
#[path = "fake/fake_tests.rs"]
mod tests;
