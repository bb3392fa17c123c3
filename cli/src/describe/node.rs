//! `describe node`.

use std::collections::BTreeMap;

use proto::{
    model::{Event, Node, NodeHold, Pod, Quantity, ResourceList, Time, Unmanaged},
    wire::DrainView,
};

use super::{Doc, event_table, hardware, meta, pod::condition, when};
use crate::{
    age,
    drain::page,
    hold::ends,
    output::{bytes, or_none},
    printers::{node_status, takes_room},
    table::table,
};

pub fn describe(node: &Node, drain: Option<&DrainView>, pods: &[Pod], events: &[Event], now: Time) -> String {
    let mut doc = Doc::default();
    let status = node.status.clone().unwrap_or_default();
    meta(&mut doc, &node.metadata);
    doc.field(0, "Created", when(node.metadata.creation_timestamp, now));
    doc.field(0, "Status", node_status(node));
    doc.field(0, "Unschedulable", node.spec.unschedulable.to_string());
    holds(&mut doc, &status.holds, now);
    if let Some(drain) = drain {
        draining(&mut doc, drain);
    }
    if !node.spec.taints.is_empty() {
        let taints = node.spec.taints.iter().map(ToString::to_string);
        doc.field(0, "Taints", taints.collect::<Vec<_>>().join(", "));
    }
    if !status.conditions.is_empty() {
        let rows: Vec<Vec<String>> = status
            .conditions
            .iter()
            .map(|c| {
                vec![
                    c.kind.clone(),
                    condition(c.status).to_owned(),
                    when(c.last_transition_time, now),
                    or_none(c.reason.clone()),
                    c.message.clone(),
                ]
            })
            .collect();
        doc.heading(0, "Conditions");
        doc.block(2, &table(&["Type", "Status", "Since", "Reason", "Message"], &rows));
    }
    doc.heading(0, "Addresses");
    doc.group();
    for address in &status.addresses {
        doc.field(2, &address.kind, &address.address);
    }
    resources(&mut doc, "Capacity", &status.capacity);
    resources(&mut doc, "Allocatable", &status.allocatable);
    let info = status.node_info.clone().unwrap_or_default();
    doc.heading(0, "System Info");
    doc.group();
    for (key, value) in [
        ("Machine ID", &info.machine_id),
        ("Boot ID", &info.boot_id),
        ("Kernel Version", &info.kernel_version),
        ("OS Image", &info.os_image),
        ("Operating System", &info.operating_system),
        ("Architecture", &info.architecture),
        ("Container Runtime Version", &info.container_runtime_version),
        ("Agent Version", &info.kubelet_version),
    ] {
        doc.field(2, key, or_none(value.clone()));
    }
    hardware::describe(&mut doc, &status.hardware.unwrap_or_default());
    if let Some(unmanaged) = &status.unmanaged {
        others(&mut doc, unmanaged);
    }
    let pods: Vec<&Pod> = pods.iter().filter(|p| takes_room(p)).collect();
    pod_table(&mut doc, &pods, now);
    allocated(&mut doc, &pods, &status.allocatable);
    event_table(&mut doc, events, now);
    doc.finish()
}

/// Pods of a drain that are told one by one.
const DRAINING: usize = 50;

/// The present or last drain.
fn draining(doc: &mut Doc, drain: &DrainView) {
    doc.heading(0, "Drain");
    doc.group();
    doc.field(2, "State", page::state(drain, drain.now_ms));
    doc.field(2, "By", &drain.by);
    doc.field_if(2, "Reason", &drain.reason);
    if drain.ended_ms == 0 {
        let deadline = Time::from_millis(drain.deadline_ms);
        doc.field(2, "Deadline", format!("{deadline}, then {}", drain.on_deadline));
        doc.field_if(2, "Why", drain.why.join("; "));
        doc.block(2, &page::pod_table(drain, drain.now_ms, DRAINING));
    }
}

/// Containers that are not ours.
fn others(doc: &mut Doc, unmanaged: &Unmanaged) {
    doc.heading(0, &format!("Unmanaged containers ({} in total)", unmanaged.count));
    let containers = unmanaged.containers.iter();
    let rows: Vec<Vec<String>> = containers
        .map(|c| vec![c.name.clone(), c.image.clone(), c.state.clone()])
        .collect();
    doc.block(2, &table(&["Name", "Image", "State"], &rows));
}

/// Why it takes no new pods.
fn holds(doc: &mut Doc, holds: &[NodeHold], now: Time) {
    if holds.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = holds
        .iter()
        .map(|h| {
            vec![
                h.kind.as_str().to_owned(),
                h.owner.clone(),
                when(Some(h.since), now),
                ends(h, now),
                or_none(h.reason.clone()),
            ]
        })
        .collect();
    doc.heading(0, "Holds");
    doc.block(2, &table(&["Kind", "Owner", "Since", "Expires", "Reason"], &rows));
}

fn resources(doc: &mut Doc, key: &str, list: &ResourceList) {
    doc.heading(0, key);
    doc.group();
    for (name, amount) in list {
        doc.field(2, name, shown(name, amount));
    }
}

/// Amounts of bytes with a unit that people read.
fn shown(name: &str, amount: &Quantity) -> String {
    match name {
        "memory" | "ephemeral-storage" => bytes(amount.units()),
        _ => amount.to_string(),
    }
}

/// Sum over a pod's containers, in thousandths; (requests, limits).
fn sums(pod: &Pod, resource: &str) -> (u64, u64) {
    let sum = |list: fn(&proto::model::ResourceRequirements) -> &ResourceList| {
        let amounts = pod
            .spec
            .containers
            .iter()
            .filter_map(|c| list(&c.resources).get(resource));
        amounts.fold(0_u64, |sum, q| sum.saturating_add(q.milli()))
    };
    (sum(|r| &r.requests), sum(|r| &r.limits))
}

fn amount(resource: &str, milli: u64) -> String {
    match resource {
        "cpu" => Quantity::from_milli(milli).to_string(),
        _ => bytes(milli / 1000),
    }
}

fn pod_table(doc: &mut Doc, pods: &[&Pod], now: Time) {
    doc.heading(0, &format!("Pods ({} in total)", pods.len()));
    if pods.is_empty() {
        return;
    }
    let rows: Vec<Vec<String>> = pods
        .iter()
        .map(|p| {
            let (cpu, cpu_limit) = sums(p, "cpu");
            let (memory, memory_limit) = sums(p, "memory");
            vec![
                p.metadata.namespace.clone(),
                p.metadata.name.clone(),
                amount("cpu", cpu),
                amount("cpu", cpu_limit),
                amount("memory", memory),
                amount("memory", memory_limit),
                age::since(p.metadata.creation_timestamp, now),
            ]
        })
        .collect();
    let header = [
        "Namespace",
        "Name",
        "CPU Requests",
        "CPU Limits",
        "Memory Requests",
        "Memory Limits",
        "Age",
    ];
    doc.block(2, &table(&header, &rows));
}

fn allocated(doc: &mut Doc, pods: &[&Pod], allocatable: &ResourceList) {
    let mut totals: BTreeMap<&str, (u64, u64)> = BTreeMap::from([("cpu", (0, 0)), ("memory", (0, 0))]);
    for pod in pods {
        for (resource, total) in &mut totals {
            let (requests, limits) = sums(pod, resource);
            total.0 = total.0.saturating_add(requests);
            total.1 = total.1.saturating_add(limits);
        }
    }
    let share = |resource: &str, milli: u64| {
        let room = allocatable.get(resource).map_or(0, Quantity::milli);
        let percent = match room {
            0 => String::new(),
            room => format!(" ({}%)", u128::from(milli) * 100 / u128::from(room)),
        };
        format!("{}{percent}", amount(resource, milli))
    };
    let rows: Vec<Vec<String>> = totals
        .iter()
        .map(|(resource, (requests, limits))| {
            vec![
                (*resource).to_owned(),
                share(resource, *requests),
                share(resource, *limits),
            ]
        })
        .collect();
    doc.heading(0, "Allocated resources");
    doc.block(2, &table(&["Resource", "Requests", "Limits"], &rows));
}
