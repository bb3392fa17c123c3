//! The page as text, and as an object for programs. Called by `run`.
//!
//! Invariant: pure; the text fits a screen whatever the size of the fleet, the object has all.

use proto::model::Time;
use serde_json::{Value, json};

use super::{
    area::Area,
    page::{Count, Page, Problem, Seen},
    reasons::number,
};
use crate::{age, output::or_none, table};

/// Problems of one area that are shown line by line.
const LINES: usize = 8;

pub fn text(page: &Page, seen: &Seen) -> String {
    let counts = [
        counted(page.nodes, "node"),
        counted(page.controllers, "controller"),
        counted(page.pods, "pod"),
    ]
    .join(", ");
    if page.problems.is_empty() {
        return format!("all is well: {counts}\n");
    }
    let problems = number(page.problems.len(), "problem");
    format!("{problems}: {counts}\n\n{}", problem_table(page, seen.now))
}

/// `5 nodes (4 Ready)`; all being Ready goes without saying.
fn counted(count: Count, what: &str) -> String {
    let all = number(count.all, what);
    if count.ready == count.all {
        all
    } else {
        format!("{all} ({} ready)", count.ready)
    }
}

fn problem_table(page: &Page, now: Time) -> String {
    let mut rows = Vec::new();
    for area in Area::ALL {
        let of_area: Vec<&Problem> = page.problems.iter().filter(|p| p.area == area).collect();
        // One more line than there may be says no less than "and 1 more".
        let shown = if of_area.len() == LINES + 1 { LINES + 1 } else { LINES };
        rows.extend(of_area.iter().take(shown).map(|p| row(p, now)));
        let more = of_area.len().saturating_sub(shown);
        if more > 0 {
            let (_, what, remedy) = area.words();
            rows.push(vec![
                format!("and {more} more"),
                String::new(),
                remedy.to_owned(),
                format!("{more} more {what}"),
            ]);
        }
    }
    table::table(&["OBJECT", "SINCE", "REMEDY", "WHAT"], &rows)
}

fn row(problem: &Problem, now: Time) -> Vec<String> {
    let object = match problem.namespace.as_str() {
        "" => problem.object.clone(),
        namespace => format!("{} ({namespace})", problem.object),
    };
    let since = problem.since.map(|since| age::duration(now.since(since)));
    vec![
        object,
        or_none(since.unwrap_or_default()),
        problem.remedy.clone(),
        problem.what.clone(),
    ]
}

/// See docs/operate.md.
pub fn object(page: &Page, seen: &Seen) -> Value {
    let count = |c: Count| json!({"all": c.all, "ready": c.ready});
    let problems = page.problems.iter().map(|p| {
        let mut problem = json!({"area": p.area.words().0, "object": p.object});
        if !p.namespace.is_empty() {
            problem["namespace"] = json!(p.namespace);
        }
        problem["what"] = json!(p.what);
        if let Some(since) = p.since {
            problem["since"] = json!(since);
        }
        problem["remedy"] = json!(p.remedy);
        problem
    });
    json!({
        "apiVersion": "wharfinger.io/v1",
        "kind": "ClusterStatus",
        "well": page.problems.is_empty(),
        "coordinator": {"version": seen.info.version, "cluster": seen.info.cluster_id,
            "term": seen.info.fence.as_ref().map(|f| f.term)},
        "nodes": count(page.nodes),
        "controllers": count(page.controllers),
        "pods": count(page.pods),
        "problems": problems.collect::<Vec<_>>(),
    })
}
