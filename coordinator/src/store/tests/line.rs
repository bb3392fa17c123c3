//! What a cut line does to what is asked through it.

use std::{sync::Arc, time::Duration};

use super::{
    super::{
        CommitError, ReadError, Store,
        contest::Contest,
        line::{Cut, Line},
        memory::MemoryStore,
    },
    rig::{any, lead, until, value},
};

#[tokio::test(start_paused = true)]
async fn a_cut_line_refuses_hangs_or_loses_answers_and_heals() {
    let store = Arc::new(MemoryStore::default());
    let line = Line::new(store.clone(), Duration::from_millis(2));
    let fence = lead(&*line).await;
    let mut watch = line.watch(line.newest()).await.unwrap();

    line.set(Cut::Refuses);
    let refused = line.commit(&fence, vec![any("a", "1")]).await;
    assert!(matches!(refused, Err(CommitError::Io(_))), "{refused:?}");
    assert!(matches!(line.look().await, Err(ReadError::Io(_))));
    assert_eq!(value(&*store, "a").await, None);

    line.set(Cut::LosesAnswers);
    let unknown = line.commit(&fence, vec![any("a", "2")]).await;
    assert!(matches!(unknown, Err(CommitError::Io(_))), "{unknown:?}");
    assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));

    line.set(Cut::Hangs);
    let long = Duration::from_secs(60);
    let hung = tokio::time::timeout(long, line.commit(&fence, vec![any("a", "3")])).await;
    assert!(hung.is_err(), "{hung:?}");
    assert_eq!(
        value(&*store, "a").await.as_deref(),
        Some("2"),
        "what was given up is gone"
    );
    assert!(watch.try_recv().is_err(), "nothing comes through a cut line");
    let late = line.commit(&fence, vec![any("a", "4")]);
    let heal = async {
        tokio::time::sleep(long).await;
        assert_eq!(value(&*store, "a").await.as_deref(), Some("2"));
        line.set(Cut::Whole);
    };
    let (late, ()) = tokio::join!(late, heal);
    let last = late.unwrap().last();
    let values: Vec<_> = until(&mut watch, last)
        .await
        .into_iter()
        .map(|u| u.value.unwrap())
        .collect();
    assert_eq!(values, ["2", "4"]);
}
