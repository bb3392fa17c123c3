//! Fetching images: one pull per reference at a time, and no more at once than the settings say. Called by
//! [`super::DockerRuntime`].
//!
//! Invariant: a pull ends when it succeeded, failed, or was silent for the inactivity limit; there is no limit on
//! the whole. When every caller has gone away it is dropped, and the engine abandons it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::{Docker, auth::DockerCredentials, query_parameters::CreateImageOptionsBuilder};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, WeakShared},
};

use tokio::sync::Semaphore;

use super::{errors::Problem, locked, progress::Progress};
use crate::runtime::RuntimeError;

type Outcome = Result<(), RuntimeError>;
type Pull = BoxFuture<'static, Outcome>;

/// Pulls under way, by reference.
pub(super) struct Pulls {
    under_way: Mutex<HashMap<String, UnderWay>>,
    permits: Arc<Semaphore>,
}

struct UnderWay {
    pull: WeakShared<Pull>,
    progress: Far,
}

/// How far a pull is; `None` while it waits for others.
pub(super) type Far = Arc<Mutex<Option<Progress>>>;

impl Pulls {
    /// At most `most` of them run at once, each of another reference.
    pub(super) fn new(most: usize) -> Self {
        Self {
            under_way: Mutex::default(),
            permits: Arc::new(Semaphore::new(most.max(1))),
        }
    }

    /// The pull of `key` that is under way, or the one that `begin` makes; that begins in its turn.
    pub(super) fn join<F>(&self, key: &str, begin: impl FnOnce(Far) -> F) -> Shared<Pull>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let mut map = locked(&self.under_way);
        map.retain(|_, known| known.pull.upgrade().is_some_and(|p| p.peek().is_none()));
        if let Some(pull) = map.get(key).and_then(|known| known.pull.upgrade()) {
            return pull;
        }
        let progress = Far::default();
        let (far, permits, begun) = (progress.clone(), self.permits.clone(), begin(progress.clone()));
        let pull = async move {
            // Never closed.
            let _permit = permits.acquire().await;
            *locked(&far) = Some(Progress::default());
            begun.await
        }
        .boxed()
        .shared();
        if let Some(weak) = pull.downgrade() {
            map.insert(key.to_owned(), UnderWay { pull: weak, progress });
        }
        pull
    }

    /// How far the pull of `key` is; `None` when there is none under way.
    pub(super) fn progress(&self, key: &str) -> Option<String> {
        let map = locked(&self.under_way);
        let known = map.get(key).filter(|known| known.pull.upgrade().is_some())?;
        Some(match &*locked(&known.progress) {
            Some(progress) => progress.words(key),
            None => format!("waiting for other pulls before pulling {key}"),
        })
    }
}

/// One pull from its registry. `reference` is [`normalize`]d; `endpoint` names the engine in errors.
pub(super) async fn fetch(
    docker: Docker,
    endpoint: String,
    reference: String,
    credentials: Option<DockerCredentials>,
    inactivity: Duration,
    far: Far,
) -> Outcome {
    // Without a tag Docker would fetch every tag; a digest is part of the name.
    let (name, tag) = split(&reference);
    let options = CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
    let mut stream = std::pin::pin!(docker.create_image(Some(options), None, credentials));
    loop {
        match tokio::time::timeout(inactivity, stream.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(line))) => {
                let detail = line.progress_detail.unwrap_or_default();
                if let (Some(layer), Some(status), Some(known)) = (line.id, line.status, locked(&far).as_mut()) {
                    known.note(&layer, &status, detail.current, detail.total);
                }
            }
            // Docker says 404 when the registry does; its words are what helps, so both are Refused.
            Ok(Some(Err(e))) => return Err(Problem::from(e).into_error(&endpoint, &format!("pull of {reference}"))),
            Err(_) => {
                return Err(RuntimeError::Refused(format!(
                    "pull of {reference} stood still for {}; is the registry reachable from this host?",
                    humantime::format_duration(inactivity)
                )));
            }
        }
    }
    match docker.inspect_image(&reference).await.map_err(Problem::from) {
        Ok(_) => Ok(()),
        Err(Problem::Said { .. }) => Err(RuntimeError::Refused(format!(
            "pull of {reference} ended without an error and without the image"
        ))),
        Err(problem) => Err(problem.into_error(&endpoint, &format!("inspect of image {reference}"))),
    }
}

/// The reference with the tag that Docker would take: `app` → `app:latest`.
pub(super) fn normalize(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or_default();
    if reference.is_empty() || last.contains(':') || last.contains('@') {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

/// Name and tag of a normalized reference; a digest stays with the name.
fn split(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !reference.contains('@') => (name, tag),
        _ => (reference, ""),
    }
}

/// References become part of a path towards the engine: refused unless they look like one.
pub(super) fn check(reference: &str) -> Result<(), RuntimeError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:/@".contains(&b);
    let ok = reference.bytes().all(allowed)
        && reference.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && !reference.contains("..")
        && !reference.contains("//")
        && !reference.ends_with(['/', ':', '@']);
    if ok {
        Ok(())
    } else {
        Err(RuntimeError::Refused(format!(
            "image `{}` is not a reference such as nginx:1.27 or registry.example.org/team/app@sha256:…",
            reference.escape_debug()
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn references_get_the_tag_that_docker_takes() {
        for (given, normal, parts) in [
            ("app", "app:latest", ("app", "latest")),
            ("app:1", "app:1", ("app", "1")),
            ("host:5000/app", "host:5000/app:latest", ("host:5000/app", "latest")),
            ("host:5000/app:1", "host:5000/app:1", ("host:5000/app", "1")),
            ("app@sha256:ab", "app@sha256:ab", ("app@sha256:ab", "")),
            (
                "host/app:1@sha256:ab",
                "host/app:1@sha256:ab",
                ("host/app:1@sha256:ab", ""),
            ),
        ] {
            assert_eq!(normalize(given), normal);
            assert_eq!(split(normal), parts, "{given}");
            assert_eq!(check(given), Ok(()), "{given}");
        }
    }

    #[test]
    fn what_is_no_reference_never_reaches_the_engine() {
        for bad in [
            "",
            "a b",
            "../containers",
            "a/../b",
            "/a",
            "a?b=c",
            "a%2fb",
            "a//b",
            "a:",
            "-a",
            "ä",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    /// A pull that ends when it is told to, and counts that it began.
    fn held(
        begun: &Arc<AtomicUsize>,
        wait: Option<tokio::sync::oneshot::Receiver<()>>,
    ) -> impl FnOnce(Far) -> BoxFuture<'static, Outcome> {
        let begun = Arc::clone(begun);
        move |far| {
            async move {
                begun.fetch_add(1, Ordering::SeqCst);
                if let Some(known) = locked(&far).as_mut() {
                    known.note("l", "Downloading", Some(1_000), Some(4_000));
                }
                if let Some(wait) = wait {
                    let _ = wait.await;
                }
                Err(RuntimeError::Refused("no".into()))
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn callers_share_a_pull_and_its_outcome() {
        let pulls = Pulls::new(4);
        let begun = Arc::new(AtomicUsize::new(0));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let first = pulls.join("a:1", held(&begun, Some(wait)));
        let second = pulls.join("a:1", held(&begun, None));
        let other = pulls.join("b:1", held(&begun, None));
        assert!(go.send(()).is_ok());
        let refused = Err(RuntimeError::Refused("no".into()));
        assert_eq!(
            tokio::join!(first, second, other),
            (refused.clone(), refused.clone(), refused)
        );
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        // The outcome is not kept: the next caller tries again.
        let _ = pulls.join("a:1", held(&begun, None)).await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn pulls_wait_for_their_turn_and_tell_how_far_they_are() {
        let pulls = Pulls::new(1);
        let begun = Arc::new(AtomicUsize::new(0));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        assert_eq!(pulls.progress("a:1"), None);
        let mut first = pulls.join("a:1", held(&begun, Some(wait)));
        // Who shares a pull needs no turn of his own.
        let mut same = pulls.join("a:1", held(&begun, None));
        let mut other = pulls.join("b:1", held(&begun, None));
        for pull in [&mut first, &mut same, &mut other] {
            assert_eq!(futures::poll!(pull), std::task::Poll::Pending);
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        assert_eq!(pulls.progress("a:1").as_deref(), Some("pulling a:1: 1 of 4 kB"));
        let waits = pulls.progress("b:1").expect("it waits");
        assert!(waits.starts_with("waiting for other pulls"), "{waits}");
        assert!(go.send(()).is_ok());
        let _ = tokio::join!(first, same, other);
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        assert_eq!(pulls.progress("a:1"), None);
    }

    #[tokio::test]
    async fn a_pull_that_nobody_waits_for_is_dropped() {
        let pulls = Pulls::new(1);
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let pull = pulls.join("a:1", |_| async move {
            let _held = held;
            std::future::pending().await
        });
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(pull);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
