//! One conformance suite for every backend, and what only the file on disk and only etcd can show.

/// Makes of each function a test against each backend.
macro_rules! on_each_backend {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Memory).await; })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Sqlite).await; })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Etcd).await; })*
        }
        mod etcd_filled {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Backend::Filled).await; })*
        }
    };
}

mod commits;
mod contest;
mod damage;
mod disk_full;
mod etcd;
mod etcd_imports;
// Some of it is for the tests of whole programs.
#[allow(dead_code)]
#[path = "../../../tests/src/etcd.rs"]
mod etcd_process;
mod group;
mod imports;
mod kill;
mod line;
mod model;
mod proxy;
mod rig;
mod scans;
mod watches;
