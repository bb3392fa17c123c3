//! What is said of a drain, and how often.

use proto::wire::{DrainPod, DrainView};

use super::page::*;

fn view(now_ms: u64) -> DrainView {
    DrainView {
        node: "n2".into(),
        phase: "Draining".into(),
        since_ms: 1_000_000,
        deadline_ms: 4_600_000,
        total: 8,
        left: 3,
        now_ms,
        ..DrainView::default()
    }
}

fn pod(name: &str, step: &str, why: &str) -> DrainPod {
    DrainPod {
        namespace: "default".into(),
        name: name.into(),
        step: step.into(),
        why: why.into(),
        ..DrainPod::default()
    }
}

#[test]
fn spans_of_time() {
    for (ms, words) in [
        (0, "0.0 s"),
        (1, "0.1 s"),
        (4_100, "4.1 s"),
        (119_999, "120.0 s"),
        (120_000, "2m"),
        (190_500, "3m10s"),
    ] {
        assert_eq!(took(ms), words);
    }
}

#[test]
fn how_a_drain_stands() {
    let of = |change: fn(&mut DrainView)| {
        let mut view = view(1_012_000);
        change(&mut view);
        state(&view, view.now_ms)
    };
    for (change, words) in [
        (
            (|v| v.eta_ms = 1_032_000) as fn(&mut DrainView),
            "draining, 3 of 8 left, since 12 s, deadline in 59m, about 20 s to go",
        ),
        (|v| v.total = 2, "draining, 3 of 3 left, since 12 s, deadline in 59m"),
        (
            |v| {
                v.phase = "Blocked".into();
                v.now_ms = 4_900_000;
            },
            "blocked, 3 of 8 left, since 65m, deadline 5m ago",
        ),
        (
            |v| v.forced_ms = 1_002_000,
            "draining, 3 of 8 left, since 12 s, over budgets since 10 s",
        ),
        (
            |v| {
                v.phase = "Drained".into();
                v.ended_ms = 1_008_000;
            },
            "drained, 4 s ago",
        ),
    ] {
        assert_eq!(of(change), words);
    }
}

#[test]
fn a_screen_shows_first_what_needs_the_operator_and_no_more_than_fits() {
    let mut view = view(1_012_000);
    view.why = vec!["frozen by ann".into()];
    view.pods = (0..20).map(|n| pod(&format!("web-{n:02}"), "Waiting", "")).collect();
    view.pods.push(pod("db-0", "Blocked", "no room"));
    let text = standing(&view, view.now_ms);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2 + 16);
    assert_eq!(lines[1], "  frozen by ann");
    assert!(lines[2].starts_with("default/db-0     blocked"), "{text}");
    assert_eq!(lines[17], "and 6 more");
    view.pods.truncate(16);
    let text = standing(&view, view.now_ms);
    assert_eq!(text.lines().count(), 2 + 16, "one more line says no less: {text}");
}

fn texts(changes: &mut Changes, view: &DrainView) -> Vec<String> {
    changes.to(view).into_iter().map(|c| c.text).collect()
}

#[test]
fn a_reason_that_changes_all_the_time_is_told_now_and_then() {
    let mut changes = Changes::new("default");
    let mut told = 0;
    for second in 0..120 {
        let mut view = view(1_000_000 + second * 1000);
        view.phase = "Blocked".into();
        view.why = vec![format!("paused for {second} s")];
        view.pods = vec![pod("web-1", "Blocked", &format!("{second} are available"))];
        told += texts(&mut changes, &view)
            .iter()
            .filter(|t| t.contains("pod/web-1"))
            .count();
    }
    assert_eq!(told, 4);
}

#[test]
fn two_hundred_pods_give_a_line_for_what_happens_to_each() {
    let mut changes = Changes::new("shop");
    let mut view = view(1_000_000);
    view.pods = (0..200).map(|n| pod(&format!("web-{n}"), "Waiting", "")).collect();
    assert_eq!(texts(&mut changes, &view).len(), 1, "those that wait are counted");
    for pod in &mut view.pods[..8] {
        pod.step = "Starting".into();
    }
    let lines = texts(&mut changes, &view);
    assert_eq!((lines.len(), lines[0].as_str()), (8, "pod/web-0 (default): starting"));
    assert!(texts(&mut changes, &view).is_empty());
    view.pods.remove(0);
    assert_eq!(texts(&mut changes, &view), ["pod/web-0 (default): stopped"]);
    // Back to waiting is no news either.
    view.pods[0].step = "Waiting".into();
    assert!(texts(&mut changes, &view).is_empty());
    view.pods[0].step = "Starting".into();
    assert_eq!(texts(&mut changes, &view).len(), 1);
}
