//! `wharf-coordinator migrate`: finds the two stores of a data directory, sees that nobody uses them, and moves the state.
//! Called by `main`, with no coordinator of the cluster running.
//!
//! Invariant: nothing is changed in either store before it is known that no coordinator leads the one that is left; of the
//! file in the data directory only one that is never served again is set aside, and nothing is removed that was there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use proto::files::{FileError, file_error};

use super::migrate::{self, End, MigrateError, MigrateReport, Successor};
use crate::{
    ca::{ClusterMeta, META_CLUSTER},
    config::Backend,
    init::{ClusterFile, Layout},
    store::{
        OpenError, ReadError, Rv, Store,
        contest::{Contest, Look},
        etcd::{self, EtcdOptions, EtcdStore},
        import::Import,
        sqlite::{SqliteOptions, SqliteStore},
    },
};

/// Longer than any coordinator that leads is silent.
const WATCHED: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long etcd may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct MoveOptions {
    pub data_dir: PathBuf,
    pub etcd: EtcdOptions,
    /// Where the state goes; it comes from the other one.
    pub to: Backend,
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
}

/// What was moved, and between which stores, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub report: MigrateReport,
    pub from: String,
    pub to: String,
    /// Under which name the file lies that was in the way.
    pub set_aside: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoresError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{dir} is not a coordinator's: name the --data-dir of a coordinator of the cluster")]
    NoCluster { dir: String },
    #[error("{path} is missing: there is nothing to be moved from sqlite; is the state in etcd already?")]
    NoStore { path: String },
    #[error("{place} does not answer: the reasons are above; nothing was moved")]
    Silent { place: String },
    #[error("{place} holds cluster {found}, and {dir} belongs to cluster {cluster}: name the right one of the two")]
    OtherCluster {
        place: String,
        found: String,
        dir: String,
        cluster: String,
    },
    #[error("{place} is led by {holder}: stop all coordinators of the cluster first")]
    Led { place: String, holder: String },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{place}: {error}")]
    Read { place: String, error: ReadError },
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// Moves the state. After an interruption the same call goes on.
pub async fn run(options: MoveOptions) -> Result<Moved, StoresError> {
    let dir = &options.data_dir;
    let path = Layout::new(dir).cluster_file();
    if !path.exists() {
        return Err(StoresError::NoCluster {
            dir: dir.display().to_string(),
        });
    }
    let ours = ClusterFile::read(&path).map_err(|e| file_error(&path, e))?;
    match options.to {
        Backend::Etcd => to_etcd(&options, &ours).await,
        Backend::Sqlite => to_sqlite(&options, &ours).await,
    }
}

/// The store of the data directory, in words.
fn sqlite_place(dir: &Path) -> String {
    format!("sqlite {}", dir.join(SqliteStore::FILE).display())
}

async fn to_etcd(options: &MoveOptions, ours: &ClusterFile) -> Result<Moved, StoresError> {
    let dir = &options.data_dir;
    let path = dir.join(SqliteStore::FILE);
    if !path.exists() {
        return Err(StoresError::NoStore {
            path: path.display().to_string(),
        });
    }
    // Refused while a coordinator uses it.
    let from = SqliteStore::open(dir, SqliteOptions::default())?;
    let (from_place, to_place) = (sqlite_place(dir), etcd::place(&options.etcd));
    check_cluster(&from, &from_place, dir, ours).await?;
    let mut to = answering(&options.etcd, EtcdStore::open_to_import(options.etcd.clone())).await?;
    if read(&from_place, Successor::read(&from).await)?.is_none()
        && let Some(copy) = read(&to_place, Successor::read(&to).await)?
        && copy.unfinished
        && copy.store == from_place
        && check_cluster(&to, &to_place, dir, ours).await.is_ok()
    {
        // The copy of a move that broke off: all of it is here still, and nobody has led it.
        to.withdraw().await.map_err(|error| MigrateError::Import {
            store: to_place.clone(),
            error,
        })?;
        to.close().await;
        to = answering(&options.etcd, EtcdStore::open_to_import(options.etcd.clone())).await?;
    }
    let report = moved((&from, &from_place), (&to, &to_place), None, options.now_ms).await;
    from.close().await;
    to.close().await;
    Ok(Moved {
        report: report?,
        from: from_place,
        to: to_place,
        set_aside: None,
    })
}

async fn to_sqlite(options: &MoveOptions, ours: &ClusterFile) -> Result<Moved, StoresError> {
    let dir = &options.data_dir;
    let (from_place, to_place) = (etcd::place(&options.etcd), sqlite_place(dir));
    let from = answering(&options.etcd, EtcdStore::open(options.etcd.clone())).await?;
    check_cluster(&from, &from_place, dir, ours).await?;
    unled(&from, &from_place).await?;
    let left = read(&from_place, Successor::read(&from).await)?;
    let existed = dir.join(SqliteStore::FILE).exists();
    let mut to = SqliteStore::open(dir, SqliteOptions::default())?;
    let mut set_aside = None;
    if left.is_none() && read(&to_place, Successor::read(&to).await)?.is_some() {
        // Left by an earlier move, or the copy of one that was interrupted: it is never served.
        to.close().await;
        set_aside = Some(put_aside(dir, options.now_ms)?);
        to = SqliteStore::open(dir, SqliteOptions::default())?;
    }
    let only = Some(ours.name.as_str());
    let report = moved((&from, &from_place), (&to, &to_place), only, options.now_ms).await;
    let empty = to.newest() == Rv(0);
    from.close().await;
    to.close().await;
    if report.is_err() && empty && (!existed || set_aside.is_some()) {
        // Made by us, and nothing is in it.
        for suffix in SUFFIXES {
            let _ = std::fs::remove_file(dir.join(format!("{}{suffix}", SqliteStore::FILE)));
        }
    }
    Ok(Moved {
        report: report?,
        from: from_place,
        to: to_place,
        set_aside,
    })
}

async fn moved(
    (from, from_place): (&dyn Store, &str),
    (to, to_place): (&dyn Import, &str),
    only: Option<&str>,
    now_ms: u64,
) -> Result<MigrateReport, StoresError> {
    let from = End {
        store: from,
        name: from_place.to_owned(),
    };
    let to = End {
        store: to,
        name: to_place.to_owned(),
    };
    Ok(migrate::migrate(from, to, only, now_ms).await?)
}

async fn answering<T>(
    etcd: &EtcdOptions,
    opening: impl Future<Output = Result<T, OpenError>>,
) -> Result<T, StoresError> {
    match tokio::time::timeout(PATIENCE, opening).await {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(StoresError::Silent {
            place: etcd::place(etcd),
        }),
    }
}

fn read<T>(place: &str, result: Result<T, ReadError>) -> Result<T, StoresError> {
    result.map_err(|error| StoresError::Read {
        place: place.to_owned(),
        error,
    })
}

/// The state must be that of the data directory's cluster.
async fn check_cluster(store: &dyn Store, place: &str, dir: &Path, ours: &ClusterFile) -> Result<(), StoresError> {
    let entry = read(place, store.get(META_CLUSTER).await)?;
    let meta = entry.and_then(|e| serde_json::from_slice::<ClusterMeta>(&e.value).ok());
    match meta {
        Some(meta) if meta.cluster != ours.cluster => Err(StoresError::OtherCluster {
            place: place.to_owned(),
            found: meta.cluster,
            dir: dir.display().to_string(),
            cluster: ours.cluster.clone(),
        }),
        Some(_) => Ok(()),
        None => Err(MigrateError::Empty {
            store: place.to_owned(),
        }
        .into()),
    }
}

/// Refuses a store in which somebody beats, or takes over, while it is looked at.
async fn unled(store: &dyn Contest, place: &str) -> Result<(), StoresError> {
    let first = read(place, store.look().await)?;
    let until = tokio::time::Instant::now() + WATCHED;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = read(place, store.look().await)?;
        if let Some(holder) = alive(&first, &now) {
            return Err(StoresError::Led {
                place: place.to_owned(),
                holder,
            });
        }
    }
    Ok(())
}

/// Pure: who leads, if a sign of life lies between two looks.
fn alive(before: &Look, now: &Look) -> Option<String> {
    let same = before.beat == now.beat && before.term.as_ref().map(|t| t.0) == now.term.as_ref().map(|t| t.0);
    if same {
        return None;
    }
    let holder = now.term.as_ref().map(|(_, record)| record);
    Some(match holder {
        Some(record) if !record.coordinator.is_empty() => {
            format!(
                "coordinator {} ({}, {})",
                record.coordinator, record.address, record.holder
            )
        }
        Some(record) => record.holder.clone(),
        None => "another process".to_owned(),
    })
}

/// The files of a store that is not open.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Renames the store's files; the main one last, so that an interruption leaves it in its place.
fn put_aside(dir: &Path, now_ms: u64) -> Result<PathBuf, StoresError> {
    let name = |suffix: &str| dir.join(format!("{}{suffix}", SqliteStore::FILE));
    let aside = |suffix: &str| dir.join(format!("{}.moved-{now_ms}{suffix}", SqliteStore::FILE));
    for suffix in SUFFIXES.iter().rev() {
        let (from, to) = (name(suffix), aside(suffix));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !suffix.is_empty() => {}
            Err(e) => return Err(file_error(&from, format!("cannot be renamed to {}: {e}", to.display())).into()),
        }
    }
    proto::files::sync_dir(dir).map_err(|e| file_error(dir, e))?;
    Ok(aside(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys::TermRecord;

    #[test]
    fn a_beat_or_a_new_term_is_a_sign_of_life() {
        let look = |term, beat, coordinator: &str| Look {
            term: Some((
                term,
                TermRecord {
                    coordinator: coordinator.into(),
                    holder: "h:1".into(),
                    address: "a:7443".into(),
                    ..TermRecord::default()
                },
            )),
            beat,
        };
        let first = look(5, 7, "c1");
        assert_eq!(alive(&first, &look(5, 7, "c1")), None);
        assert_eq!(
            alive(&first, &look(5, 8, "c1")).unwrap(),
            "coordinator c1 (a:7443, h:1)"
        );
        assert_eq!(alive(&first, &look(6, 7, "")).unwrap(), "h:1");
        let none = Look { term: None, beat: 0 };
        assert_eq!(alive(&none, &none), None);
        assert!(alive(&none, &first).is_some());
    }

    #[test]
    fn a_store_is_set_aside_with_all_its_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["store.db", "store.db-wal", "other"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let to = put_aside(dir.path(), 9).unwrap();
        assert_eq!(to, dir.path().join("store.db.moved-9"));
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["other", "store.db.moved-9", "store.db.moved-9-wal"]);
        let refused = put_aside(dir.path(), 9).unwrap_err().to_string();
        assert!(refused.contains("store.db"), "{refused}");
    }
}
