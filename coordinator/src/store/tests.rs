//! One conformance suite for every backend, and what only the file on disk can show.

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
    };
}

mod commits;
mod damage;
mod disk_full;
mod group;
mod kill;
mod model;
mod rig;
mod scans;
mod watches;
