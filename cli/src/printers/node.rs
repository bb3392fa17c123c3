//! The node table.

use proto::model::{Node, Quantity};

use super::Context;
use crate::{
    age,
    output::{bytes, or_none},
};

pub const COLUMNS: (&[&str], &[&str]) = (
    &["NAME", "STATUS", "AGE", "VERSION"],
    &["ADDRESS", "DOCKER", "CPU", "MEMORY", "PODS", "OS-IMAGE", "KERNEL"],
);

/// `Ready`, `NotReady`, with `,SchedulingDisabled` where no new pods come.
pub fn status(node: &Node) -> String {
    let ready = node.status.as_ref().is_some_and(proto::model::NodeStatus::ready);
    let mut text = if ready { "Ready" } else { "NotReady" }.to_owned();
    let held = node.status.as_ref().is_some_and(|s| !s.holds.is_empty());
    if held || node.spec.unschedulable {
        text.push_str(",SchedulingDisabled");
    }
    text
}

pub fn cells(node: &Node, context: &Context) -> Vec<String> {
    let status_of = node.status.clone().unwrap_or_default();
    let info = status_of.node_info.clone().unwrap_or_default();
    let address = |kind: &str| status_of.addresses.iter().find(|a| a.kind == kind);
    let address = address("InternalIP").or_else(|| address("Hostname"));
    let used = context.pods_on.as_ref().map_or_else(
        || "?".to_owned(),
        |counts| counts.get(&node.metadata.name).copied().unwrap_or(0).to_string(),
    );
    let room = status_of
        .allocatable
        .get("pods")
        .map_or_else(|| "?".to_owned(), Quantity::to_string);
    let capacity = &status_of.capacity;
    vec![
        node.metadata.name.clone(),
        status(node),
        age::since(node.metadata.creation_timestamp, context.now),
        or_none(info.kubelet_version),
        or_none(address.map(|a| a.address.clone()).unwrap_or_default()),
        or_none(
            info.container_runtime_version
                .trim_start_matches("docker://")
                .to_owned(),
        ),
        or_none(capacity.get("cpu").map(Quantity::to_string).unwrap_or_default()),
        or_none(capacity.get("memory").map(|m| bytes(m.units())).unwrap_or_default()),
        format!("{used}/{room}"),
        or_none(info.os_image),
        or_none(info.kernel_version),
    ]
}
