//! Why a pod is not placed, in words: `0/3 nodes: 2 do not match nodeSelector zone=north, 1 not Ready`.
//! Called by `scheduler`; users see it as the pod's PodScheduled condition and in FailedScheduling events.
//!
//! Invariant: every node is counted once; the same refusals give the same text, so that it is written only
//! when something changed.

use std::{cmp::Reverse, collections::BTreeMap};

use proto::model::host_port;

use super::filter::Refusal;
use crate::world::Template;

/// Most holds in other words than others that are told one by one: the text is stored with each pod that waits.
const MAX_HELD: usize = 4;

/// How many nodes refused, by reason.
#[derive(Clone, Debug)]
pub struct Tally {
    total: usize,
    counts: BTreeMap<Refusal, usize>,
}

impl Tally {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            counts: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, refusal: Refusal, nodes: usize) {
        if nodes > 0 {
            *self.counts.entry(refusal).or_default() += nodes;
        }
    }
}

/// The most frequent reason first.
pub fn text(template: &Template, tally: &Tally) -> String {
    if tally.total == 0 {
        return "0 nodes: no node has joined".to_owned();
    }
    let mut counts: Vec<_> = tally.counts.iter().collect();
    counts.sort_by_key(|(refusal, n)| (Reverse(**n), *refusal));
    let (mut reasons, mut held, mut more) = (Vec::new(), 0, 0);
    for (refusal, n) in counts {
        held += usize::from(matches!(refusal, Refusal::Held(_)));
        if matches!(refusal, Refusal::Held(_)) && held > MAX_HELD {
            more += n;
        } else {
            reasons.push(format!("{n} {}", reason(template, refusal, *n == 1)));
        }
    }
    if more > 0 {
        reasons.push(format!("{more} held for other reasons"));
    }
    format!("0/{} nodes: {}", tally.total, reasons.join(", "))
}

/// One reason in words; `one`: of one node.
pub fn reason(template: &Template, refusal: &Refusal, one: bool) -> String {
    let spec = &template.record.spec;
    match refusal {
        Refusal::NotNode => format!("{} not node {}", if one { "is" } else { "are" }, spec.node_name),
        Refusal::Selector => {
            let pairs: Vec<String> = spec.node_selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let verb = if one { "does" } else { "do" };
            format!("{verb} not match nodeSelector {}", pairs.join(","))
        }
        Refusal::Affinity => {
            let verb = if one { "does" } else { "do" };
            let required = spec.affinity.node_affinity.required.as_ref();
            let terms = required.map(ToString::to_string).unwrap_or_default();
            format!("{verb} not match nodeAffinity {terms}")
        }
        Refusal::NoTopology(key) => {
            let verb = if one { "has" } else { "have" };
            format!("{verb} no label {key} to spread pods over")
        }
        Refusal::Taint(taint) => {
            let verb = if one { "has" } else { "have" };
            format!("{verb} taint {taint}")
        }
        Refusal::Spread(rule) => match spec.topology_spread_constraints.get(*rule) {
            Some(c) => format!("would exceed maxSkew {} over {}", c.max_skew, c.topology_key),
            None => "would spread the pods too unevenly".to_owned(),
        },
        Refusal::Capability(name) => {
            let verb = if one { "has an agent" } else { "have agents" };
            format!("{verb} without {name}: update the agent")
        }
        Refusal::NotReady => "not Ready".to_owned(),
        Refusal::Held(words) => format!("held ({words})"),
        Refusal::Returning => {
            let verb = if one { "waits" } else { "wait" };
            format!("{verb} for replaced pods to stop")
        }
        Refusal::HostPort(port) => format!("host port {port} taken"),
        Refusal::NoFreePort => {
            let given = host_port::GIVEN;
            format!("too few free host ports from {} to {}", given.start(), given.end())
        }
        Refusal::Cpu => "insufficient cpu".to_owned(),
        Refusal::Memory => "insufficient memory".to_owned(),
        Refusal::Storage => "insufficient ephemeral-storage".to_owned(),
        Refusal::Pods => "insufficient pods".to_owned(),
    }
}
