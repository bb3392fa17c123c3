//! Another process on the data directory: killed amid commits, and refused by name. The other process is this
//! test binary again, told by a variable to run [`writes_until_killed`] and nothing else.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use super::{
    super::{
        Fence, OpenError, Rv, Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
    rig::{any, lead, value},
};

const DIR: &str = "WHARF_TEST_STORE_KILL_DIR";
const WRITERS: usize = 4;

fn open(dir: &Path) -> Result<SqliteStore, OpenError> {
    let options = SqliteOptions {
        // Trimming goes on amid the kills, too.
        history: 300,
        ..SqliteOptions::default()
    };
    SqliteStore::open(dir, options)
}

/// The child's part; does nothing in an ordinary run. Prints `open`, then `ack <writer> <n> <version>` after
/// each acknowledged commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let store = Arc::new(open(Path::new(&dir)).unwrap());
    let fence = lead(&*store).await;
    say("open");
    let mut writers = tokio::task::JoinSet::new();
    for w in 0..WRITERS {
        writers.spawn(write(Arc::clone(&store), fence.clone(), w));
    }
    writers.join_all().await;
}

async fn write(store: Arc<SqliteStore>, fence: Fence, w: usize) {
    let begin: u64 = value(&*store, &format!("{w}/last"))
        .await
        .map_or(0, |v| v.parse().unwrap());
    for n in begin + 1.. {
        // Spread over the file, so that a torn write would show.
        let text = n.to_string();
        let changes = vec![
            any(&format!("{w}/last"), &text),
            any(&format!("{w}/{n:08}"), &text),
            any(&format!("zz/{w}/last"), &format!("{text} {}", "x".repeat(2_000))),
        ];
        let done = store.commit(&fence, changes).await.unwrap();
        say(&format!("ack {w} {n} {}", done.last()));
    }
}

/// Past the test harness' capture, and whole lines only.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .unwrap();
}

/// The other process; killed when dropped.
struct Other {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Other {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::kill::writes_until_killed", "--nocapture"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut other = Self {
            child,
            lines: Box::new(lines.map_while(Result::ok)),
        };
        assert!(other.lines.any(|line| line == "open"), "it did not open the store");
        other
    }

    /// SIGKILL; returns what it still had said.
    fn kill(&mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.lines.by_ref().collect()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn no_acknowledged_commit_is_lost_by_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut newest = Rv(0);
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for round in 0..12 {
        let mut other = Other::start(dir.path());
        // Anywhere between the first commits and some checkpoints; the other writers are amid theirs.
        let acks = 1 + usize::from(uuid::Uuid::new_v4().as_bytes()[0]) * 2;
        let mut lines: Vec<String> = other
            .lines
            .by_ref()
            .filter(|l| l.starts_with("ack "))
            .take(acks)
            .collect();
        assert_eq!(lines.len(), acks, "it ended by itself");
        lines.extend(other.kill());
        let before = newest;
        for line in lines {
            let fields: Vec<&str> = line.split(' ').collect();
            if let ["ack", w, n, rv] = fields[..] {
                let (w, n, rv) = (w.parse().unwrap(), n.parse().unwrap(), Rv(rv.parse().unwrap()));
                assert!(rv > before, "version {rv} was handed out before");
                newest = newest.max(rv);
                // A writer's numbers have no gap, so its last one stands for all.
                let last = acknowledged.insert(w, n).unwrap_or(0);
                assert!(n > last);
            }
        }
        let store = open(dir.path()).unwrap();
        assert!(store.newest() >= newest, "round {round}");
        newest = store.newest();
        for w in 0..WRITERS as u64 {
            let last: u64 = value(&store, &format!("{w}/last"))
                .await
                .map_or(0, |v| v.parse().unwrap());
            let acked = acknowledged.get(&w).copied().unwrap_or(0);
            // At most the one that was under way came through without its answer being heard.
            assert!(
                last == acked || last == acked + 1,
                "round {round}: {last} after {acked}"
            );
            acknowledged.insert(w, last);
            let torn = value(&store, &format!("zz/{w}/last")).await;
            assert_eq!(
                torn.as_deref().and_then(|v| v.split(' ').next()).map(str::parse),
                (last > 0).then_some(Ok(last)),
                "round {round}: a commit came through in part"
            );
            for n in 1..=last {
                assert_eq!(
                    store.get(&format!("{w}/{n:08}")).await.unwrap().map(|e| e.value),
                    Some(n.to_string().into())
                );
            }
        }
    }
}

#[tokio::test]
async fn a_second_process_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Other::start(dir.path());
    let error = open(dir.path()).map(drop).expect_err("the other process has it");
    let OpenError::InUse { pid, since, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*pid, other.child.id());
    let since: jiff::Timestamp = since.parse().unwrap();
    assert!(since <= jiff::Timestamp::now());
    assert!(error.to_string().contains(&format!("pid {pid}")), "{error}");
    other.kill();
    // A dead one's lock holds nobody up.
    let store = open(dir.path()).unwrap();
    lead(&store).await;
}
