//! Coordinators that contend for one store in memory, in simulated time: each can be killed, stopped, continued and cut
//! from the store. Used by the tests of the elector.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    clock::Clock,
    detector::Link,
    elector::{Elector, ElectorError, LinkReport, Parts},
    leadership::{HandOver, Leadership, Role, Standbys},
    marks::Marks,
    settings::Settings,
};
use crate::{
    store::{
        CommitError, Fence, ReadError,
        contest::{Claim, Contest, Look},
        line::{Cut, Line},
        memory::MemoryStore,
    },
    world::hub::Hub,
};

/// One way between a coordinator and the store.
const DELAY: Duration = Duration::from_millis(1);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A line that counts looks, and can lose the answer to the next attempt.
pub struct Tapped {
    line: Arc<Line>,
    pub looks: AtomicUsize,
    pub forget_attempt: AtomicBool,
}

#[async_trait]
impl Contest for Tapped {
    async fn look(&self) -> Result<Look, ReadError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.line.look().await
    }

    async fn take_over(&self, over: Option<u64>, claim: &Claim) -> Result<Fence, CommitError> {
        let result = self.line.take_over(over, claim).await;
        if self.forget_attempt.swap(false, Ordering::SeqCst) {
            return Err(CommitError::Io("the answer was lost".into()));
        }
        result
    }

    async fn beat(&self, fence: &Fence) -> Result<(), CommitError> {
        self.line.beat(fence).await
    }
}

/// What each coordinator can be told on its stream to the active one.
type Ears = Arc<Mutex<Vec<(String, mpsc::Sender<HandOver>)>>>;

/// The streams of one coordinator's standbys.
pub struct Streams {
    own: String,
    ears: Ears,
    /// What it says gets lost.
    pub deaf: AtomicBool,
    pub told: Mutex<Vec<HandOver>>,
}

#[async_trait]
impl Standbys for Streams {
    async fn pick(&self, to: Option<&str>) -> Result<String, String> {
        let ears = self.ears.lock().unwrap();
        ears.iter()
            .map(|(name, _)| name)
            .find(|name| **name != self.own && to.is_none_or(|to| to == *name))
            .cloned()
            .ok_or_else(|| format!("coordinator {} does not follow", to.unwrap_or("any")))
    }

    async fn tell(&self, hand_over: HandOver) -> Result<(), String> {
        self.told.lock().unwrap().push(hand_over.clone());
        if self.deaf.load(Ordering::SeqCst) {
            return Ok(());
        }
        let ears = self.ears.lock().unwrap().clone();
        for (_, ear) in ears.iter().filter(|(name, _)| *name != self.own) {
            // Who has gone hears nothing.
            let _ = ear.send(hand_over.clone()).await;
        }
        Ok(())
    }
}

pub struct Replica {
    pub name: String,
    pub hub: Arc<Hub>,
    pub line: Arc<Line>,
    pub contest: Arc<Tapped>,
    pub streams: Arc<Streams>,
    pub leadership: Leadership,
    pub stopping: CancellationToken,
    pub link: watch::Sender<Option<LinkReport>>,
    stopped: watch::Sender<bool>,
    /// Its view hears nothing of the store, which goes on to answer it.
    pub deaf: watch::Sender<bool>,
    tasks: JoinSet<Result<(), ElectorError>>,
    dir: Arc<tempfile::TempDir>,
}

impl Replica {
    pub fn acts(&self) -> bool {
        self.hub.fence().is_some()
    }

    /// As SIGKILL; others notice nothing by themselves.
    pub async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }

    /// As SIGSTOP.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// As SIGCONT.
    pub fn go_on(&self) {
        self.stopped.send_replace(false);
    }

    pub async fn ended(&mut self) -> Result<(), ElectorError> {
        timeout(ms(60_000), self.tasks.join_next())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }

    pub fn link(&self, term: u64, link: Link) {
        let since = Instant::now();
        self.link.send_replace(Some(LinkReport { term, link, since }));
    }

    /// What is on the disk goes away under it.
    pub fn lose_disk(&self) {
        std::fs::remove_dir_all(self.dir.path()).unwrap();
    }
}

/// Polls the future only while it is not stopped.
async fn stoppable<F: Future>(mut stopped: watch::Receiver<bool>, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    loop {
        if *stopped.borrow_and_update() {
            let _ = stopped.wait_for(|stopped| !*stopped).await;
            stopped.mark_unchanged();
        }
        tokio::select! {
            biased;
            changed = stopped.changed() => changed.unwrap(),
            out = &mut future => return out,
        }
    }
}

pub struct Bench {
    pub store: Arc<MemoryStore>,
    pub replicas: Vec<Replica>,
    pub settings: Settings,
    ears: Ears,
    clock: Clock,
}

impl Bench {
    /// Names `a`, `b`, `c`…; all that lead are settled.
    pub async fn new(n: usize) -> Self {
        Self::with(n, Settings::default()).await
    }

    /// With other times.
    pub async fn with(n: usize, settings: Settings) -> Self {
        let began = Instant::now();
        let mut bench = Self {
            store: Arc::new(MemoryStore::default()),
            replicas: Vec::new(),
            settings,
            ears: Ears::default(),
            clock: Arc::new(move || ms(1_000_000) + began.elapsed()),
        };
        for i in 0..n {
            bench
                .start(&char::from(b'a' + u8::try_from(i).unwrap()).to_string())
                .await;
        }
        if n > 0 {
            bench.leader().await;
            // Everybody has seen a beat of it.
            sleep(ms(500)).await;
        }
        bench
    }

    pub async fn start(&mut self, name: &str) -> usize {
        self.start_on(name, Arc::new(tempfile::tempdir().unwrap())).await
    }

    /// The process of this replica again, on the same disk.
    pub async fn restart(&mut self, i: usize) -> usize {
        let (name, dir) = (self.replicas[i].name.clone(), self.replicas[i].dir.clone());
        self.start_on(&name, dir).await
    }

    async fn start_on(&mut self, name: &str, dir: Arc<tempfile::TempDir>) -> usize {
        let line = Line::new(self.store.clone(), DELAY);
        let contest = Arc::new(Tapped {
            line: line.clone(),
            looks: AtomicUsize::new(0),
            forget_attempt: AtomicBool::new(false),
        });
        let hub = Hub::load(line.clone()).await.unwrap();
        let (ear, hand_overs) = mpsc::channel(4);
        self.ears.lock().unwrap().retain(|(n, _)| n != name);
        self.ears.lock().unwrap().push((name.to_owned(), ear));
        let streams = Arc::new(Streams {
            own: name.to_owned(),
            ears: self.ears.clone(),
            deaf: AtomicBool::new(false),
            told: Mutex::default(),
        });
        let (link, links) = watch::channel(None);
        let guard = Marks::open(dir.path()).await.unwrap();
        let (elector, leadership) = Elector::new(Parts {
            led: Arc::new(|_| ()),
            hub: hub.clone(),
            contest: contest.clone(),
            claim: Claim {
                incarnation: "inc".into(),
                holder: format!("{name}:{}", self.replicas.len()),
                coordinator: name.to_owned(),
                address: format!("{name}:7443"),
            },
            settings: self.settings.clone(),
            clock: self.clock.clone(),
            marks: Marks::new(guard, "cluster"),
            link: links,
            hand_overs,
            standbys: streams.clone(),
        });
        let stopping = CancellationToken::new();
        let stopped = watch::Sender::new(false);
        let deaf = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        let process = {
            let (hub, stopping, deaf) = (hub.clone(), stopping.clone(), deaf.subscribe());
            async move {
                tokio::select! {
                    ended = stoppable(deaf, hub.run()) => panic!("the hub ended: {ended:?}"),
                    result = elector.run(stopping) => result,
                }
            }
        };
        tasks.spawn(stoppable(stopped.subscribe(), process));
        self.replicas.push(Replica {
            name: name.to_owned(),
            hub,
            line,
            contest,
            streams,
            leadership,
            stopping,
            link,
            stopped,
            deaf,
            tasks,
            dir,
        });
        self.replicas.len() - 1
    }

    pub async fn term(&self) -> u64 {
        self.store.look().await.unwrap().term.map_or(0, |(term, _)| term)
    }

    /// Which one acts under the present term; at most one does.
    pub async fn acting(&self) -> Option<usize> {
        let term = self.term().await;
        let acts = |r: &Replica| r.hub.fence().is_some_and(|f| f.term == term);
        let all: Vec<_> = (0..self.replicas.len()).filter(|i| acts(&self.replicas[*i])).collect();
        assert!(all.len() <= 1, "{all:?} act under term {term}");
        all.first().copied()
    }

    /// The one that acts, once one does.
    pub async fn leader(&self) -> usize {
        self.leader_after(0).await.0
    }

    /// The one that acts under a term after this one, and how long that took.
    pub async fn leader_after(&self, term: u64) -> (usize, Duration) {
        let began = Instant::now();
        loop {
            if let Some(i) = self.acting().await
                && self.term().await > term
            {
                return (i, began.elapsed());
            }
            assert!(began.elapsed() < ms(60_000), "nobody leads after term {term}");
            sleep(ms(1)).await;
        }
    }

    /// Lets time pass; the leader and its term stay.
    pub async fn stays(&self, leader: usize, time: Duration) {
        let (term, began) = (self.term().await, Instant::now());
        while began.elapsed() < time {
            assert_eq!(self.acting().await, Some(leader), "after {:?}", began.elapsed());
            assert_eq!(self.term().await, term);
            sleep(ms(5)).await;
        }
    }

    /// All of the others see this of their stream to the leader.
    pub fn links(&self, leader: usize, term: u64, link: Link) {
        for (_, replica) in self.replicas.iter().enumerate().filter(|(i, _)| *i != leader) {
            replica.link(term, link);
        }
    }

    pub fn cut_all(&self, cut: Cut) {
        for replica in &self.replicas {
            replica.line.set(cut);
        }
    }

    /// A write through the view of this one.
    pub async fn write(&self, i: usize, key: &str) -> Result<crate::store::Committed, CommitError> {
        let change = crate::store::Change::put(key, crate::store::Expect::Any, "v");
        self.replicas[i].hub.commit(vec![change]).await
    }

    pub async fn role(&self, i: usize, role: Role) {
        let mut standings = self.replicas[i].leadership.standings();
        let waited = timeout(ms(60_000), standings.wait_for(|s| s.role == role)).await;
        waited.expect("the role within a minute").unwrap();
    }
}
