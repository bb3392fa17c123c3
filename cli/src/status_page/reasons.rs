//! Why pods are not ready, in few words. Called by `page`.
//!
//! Invariant: pure; the words are those of the pod table's STATUS.

use std::collections::BTreeMap;

use proto::model::{ConditionStatus, ContainerState, Pod, Time};

use crate::printers::pod_status;

/// Longest message of a pod in a line, characters.
const LONGEST: usize = 160;
/// Names that a line shows.
const SHOWN: usize = 3;
/// A container in these states does not get on by itself.
const TROUBLE: [&str; 7] = [
    "CrashLoopBackOff",
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// The pods that are not ready, by their word.
#[derive(Debug, Default)]
pub struct Why {
    /// How many, and what one of them says.
    words: BTreeMap<String, (usize, String)>,
    /// The longest that one is not ready.
    pub since: Option<Time>,
}

impl Why {
    pub fn of<'a>(pods: impl Iterator<Item = &'a Pod>) -> Self {
        let mut why = Self::default();
        for pod in pods {
            if pod.status.as_ref().is_some_and(proto::model::PodStatus::ready) {
                continue;
            }
            let mut word = pod_status(pod);
            if word == "Running" {
                "running, not ready".clone_into(&mut word);
            }
            let known = why.words.entry(word).or_default();
            known.0 += 1;
            if known.1.is_empty() {
                message(pod).clone_into(&mut known.1);
            }
            why.since = [why.since, since(pod)].into_iter().flatten().min();
        }
        why
    }

    /// `2 ImagePullBackOff (no such image), 1 Pending`; `missing` are not there at all.
    pub fn words(&self, missing: usize) -> String {
        let mut words: Vec<(&String, &(usize, String))> = self.words.iter().collect();
        words.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
        let said = words
            .into_iter()
            .map(|(word, (count, message))| match message.as_str() {
                "" => format!("{count} {word}"),
                message => format!("{count} {word} ({})", short(message)),
            });
        let gone = (missing > 0).then(|| format!("{missing} not made yet"));
        said.chain(gone).collect::<Vec<_>>().join(", ")
    }
}

/// A pod that waits for more than its turn.
pub fn stuck(pod: &Pod, word: &str) -> bool {
    TROUBLE.contains(&word) || unplaced(pod).is_some()
}

fn unplaced(pod: &Pod) -> Option<&str> {
    let condition = pod.status.as_ref()?.condition("PodScheduled")?;
    let waits = pod.spec.node_name.is_empty() && condition.status == ConditionStatus::False;
    waits.then_some(condition.message.as_str())
}

/// What is said of why it is not ready; empty: nothing.
pub fn message(pod: &Pod) -> &str {
    if let Some(message) = unplaced(pod) {
        return message;
    }
    let Some(status) = &pod.status else { return "" };
    let said = status.container_statuses.iter().map(|c| match &c.state {
        ContainerState::Waiting(w) => w.message.as_str(),
        ContainerState::Terminated(t) => t.message.as_str(),
        ContainerState::Running(_) => "",
    });
    said.chain([status.message.as_str()])
        .find(|m| !m.is_empty())
        .unwrap_or_default()
}

/// Since when it is not ready.
pub fn since(pod: &Pod) -> Option<Time> {
    let ready = pod.status.as_ref().and_then(|s| s.condition("Ready"));
    ready.and_then(|c| c.last_transition_time)
}

pub fn short(text: &str) -> String {
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// `1 pod`, `2 pods`.
pub fn number(n: usize, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

/// `a, b, c and 9 more`.
pub fn some(names: &[&str]) -> String {
    let shown = names.get(..SHOWN).unwrap_or(names);
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
