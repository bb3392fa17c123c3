//! Fetching images: one pull per reference at a time. Called by [`super::DockerRuntime`].
//!
//! Invariant: a pull ends when it succeeded, failed, or was silent for the inactivity limit; there is no limit on
//! the whole. When every caller has gone away it is dropped, and the engine abandons it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{Docker, query_parameters::CreateImageOptionsBuilder};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, WeakShared},
};

use super::errors::Problem;
use crate::runtime::RuntimeError;

type Outcome = Result<(), RuntimeError>;
type Pull = BoxFuture<'static, Outcome>;

/// Pulls under way, by reference.
#[derive(Default)]
pub(super) struct Pulls(Mutex<HashMap<String, WeakShared<Pull>>>);

impl Pulls {
    /// The pull of `key` that is under way, or the one that `begin` makes.
    pub(super) fn join(&self, key: &str, begin: impl FnOnce() -> Pull) -> Shared<Pull> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.retain(|_, pull| pull.upgrade().is_some_and(|p| p.peek().is_none()));
        if let Some(pull) = map.get(key).and_then(WeakShared::upgrade) {
            return pull;
        }
        let pull = begin().shared();
        if let Some(weak) = pull.downgrade() {
            map.insert(key.to_owned(), weak);
        }
        pull
    }
}

/// One pull from its registry. `reference` is [`normalize`]d; `endpoint` names the engine in errors.
pub(super) async fn fetch(docker: Docker, endpoint: String, reference: String, inactivity: Duration) -> Outcome {
    // Without a tag Docker would fetch every tag; a digest is part of the name.
    let (name, tag) = split(&reference);
    let options = CreateImageOptionsBuilder::default().from_image(name).tag(tag).build();
    let mut stream = std::pin::pin!(docker.create_image(Some(options), None, None));
    loop {
        match tokio::time::timeout(inactivity, stream.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(_progress))) => {}
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

    #[tokio::test]
    async fn callers_share_a_pull_and_its_outcome() {
        let pulls = Pulls::default();
        let begun = Arc::new(AtomicUsize::new(0));
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let begin = |wait: Option<tokio::sync::oneshot::Receiver<()>>| {
            let begun = Arc::clone(&begun);
            move || {
                begun.fetch_add(1, Ordering::SeqCst);
                async move {
                    if let Some(wait) = wait {
                        let _ = wait.await;
                    }
                    Err(RuntimeError::Refused("no".into()))
                }
                .boxed()
            }
        };
        let first = pulls.join("a:1", begin(Some(wait)));
        let second = pulls.join("a:1", begin(None));
        let other = pulls.join("b:1", begin(None));
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        assert!(go.send(()).is_ok());
        let refused = Err(RuntimeError::Refused("no".into()));
        assert_eq!(
            tokio::join!(first, second, other),
            (refused.clone(), refused.clone(), refused)
        );
        // The outcome is not kept: the next caller tries again.
        let _ = pulls.join("a:1", begin(None)).await;
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_pull_that_nobody_waits_for_is_dropped() {
        let pulls = Pulls::default();
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let pull = pulls.join("a:1", || {
            async move {
                let _held = held;
                std::future::pending().await
            }
            .boxed()
        });
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(pull);
        assert_eq!(Arc::strong_count(&alive), 1);
    }
}
