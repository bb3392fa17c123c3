//! `describe pod`, and the containers of a controller's template.

use proto::model::{
    ConditionStatus, Container, ContainerState, ContainerStatus, Event, Pod, PodSpec, ResourceList, Time,
};

use super::{Doc, event_table, meta, when};
use crate::{
    output::{or_none, pairs},
    printers::pod_status,
    table::table,
};

pub fn describe(pod: &Pod, events: &[Event], now: Time) -> String {
    let mut doc = Doc::default();
    let status = pod.status.clone().unwrap_or_default();
    meta(&mut doc, &pod.metadata);
    let node = match (pod.spec.node_name.as_str(), status.host_ip.as_str()) {
        ("", _) => "<none>".to_owned(),
        (node, "") => node.to_owned(),
        (node, ip) => format!("{node}/{ip}"),
    };
    doc.field(0, "Node", node);
    doc.field(0, "Created", when(pod.metadata.creation_timestamp, now));
    doc.field(0, "Start Time", when(status.start_time, now));
    doc.field(0, "Status", pod_status(pod));
    doc.field_if(0, "Reason", &status.reason);
    doc.field_if(0, "Message", &status.message);
    if let Some(at) = pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        doc.field(0, "Termination", format!("at {at} at the latest (grace {grace}s)"));
    }
    doc.field(0, "IP", or_none(status.pod_ip.clone()));
    let owner = pod
        .metadata
        .owner_references
        .iter()
        .find(|o| o.controller == Some(true));
    if let Some(owner) = owner {
        doc.field(0, "Controlled By", format!("{}/{}", owner.kind, owner.name));
    }
    let policy = format!("{:?}", pod.spec.restart_policy);
    doc.field(0, "Restart Policy", policy);
    doc.field(0, "Grace Period", format!("{}s", pod.spec.grace_seconds()));
    doc.pairs(0, "Node-Selectors", &pod.spec.node_selector);
    containers(&mut doc, 0, &pod.spec, Some(&status.container_statuses), now);
    if !status.conditions.is_empty() {
        let rows: Vec<Vec<String>> = status
            .conditions
            .iter()
            .map(|c| {
                vec![
                    c.kind.clone(),
                    condition(c.status).to_owned(),
                    when(c.last_transition_time, now),
                    c.reason.clone(),
                    c.message.clone(),
                ]
            })
            .collect();
        doc.heading(0, "Conditions");
        doc.block(2, &table(&["Type", "Status", "Since", "Reason", "Message"], &rows));
    }
    event_table(&mut doc, events, now);
    doc.finish()
}

pub fn condition(status: ConditionStatus) -> &'static str {
    match status {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown => "Unknown",
    }
}

/// The containers of a pod with their states, or of a template (`statuses` is `None`) without.
pub fn containers(doc: &mut Doc, indent: usize, spec: &PodSpec, statuses: Option<&[ContainerStatus]>, now: Time) {
    doc.heading(indent, "Containers");
    for container in &spec.containers {
        doc.heading(indent + 2, &container.name);
        doc.group();
        let status = statuses.and_then(|all| all.iter().find(|s| s.name == container.name));
        one(doc, indent + 4, container, status, statuses.is_some(), now);
    }
}

fn one(doc: &mut Doc, at: usize, c: &Container, status: Option<&ContainerStatus>, running: bool, now: Time) {
    if let Some(status) = status {
        doc.field_if(at, "Container ID", &status.container_id);
    }
    doc.field(at, "Image", &c.image);
    if let Some(status) = status {
        doc.field_if(at, "Image ID", &status.image_id);
    }
    let ports: Vec<String> = c
        .ports
        .iter()
        .map(|p| format!("{}/{}", p.container_port, p.protocol.as_str()))
        .collect();
    doc.field(at, "Ports", or_none(ports.join(", ")));
    let host_ports: Vec<String> = c
        .ports
        .iter()
        .filter(|p| p.host_port != 0)
        .map(|p| {
            let ip = if p.host_ip.is_empty() {
                String::new()
            } else {
                format!("{}:", p.host_ip)
            };
            format!("{ip}{}/{}", p.host_port, p.protocol.as_str())
        })
        .collect();
    doc.field(at, "Host Ports", or_none(host_ports.join(", ")));
    doc.field_if(at, "Command", c.command.join(" "));
    doc.field_if(at, "Args", c.args.join(" "));
    match status {
        Some(status) => {
            state(doc, at, "State", &status.state, now);
            if let Some(last) = &status.last_state {
                state(doc, at, "Last State", last, now);
            }
            doc.field(at, "Ready", if status.ready { "True" } else { "False" });
            doc.field(at, "Restart Count", status.restart_count.to_string());
        }
        None if running => doc.field(at, "State", "Waiting"),
        None => {}
    }
    for (key, probe) in [
        ("Startup", &c.startup_probe),
        ("Readiness", &c.readiness_probe),
        ("Liveness", &c.liveness_probe),
    ] {
        if let Some(probe) = probe {
            doc.field(at, key, probe.to_string());
        }
    }
    if let Some(hook) = &c.lifecycle.pre_stop {
        doc.field(at, "Pre-Stop", hook.to_string());
    }
    let resources = |list: &ResourceList| {
        let list = list.iter().map(|(k, v)| (k.clone(), v.to_string()));
        pairs(list.collect::<std::collections::BTreeMap<_, _>>().iter())
    };
    doc.field(at, "Limits", resources(&c.resources.limits));
    doc.field(at, "Requests", resources(&c.resources.requests));
    if c.env.is_empty() {
        doc.field(at, "Environment", "<none>");
    }
    for (i, var) in c.env.iter().enumerate() {
        let value = match &var.value_from {
            Some(from) => format!("({})", from.field_ref.field_path),
            None => var.value.clone(),
        };
        let key = if i == 0 { "Environment" } else { "" };
        doc.field(at, key, format!("{}={value}", var.name));
    }
}

fn state(doc: &mut Doc, at: usize, key: &str, state: &ContainerState, now: Time) {
    match state {
        ContainerState::Waiting(w) => {
            doc.field(at, key, "Waiting");
            doc.field_if(at + 2, "Reason", &w.reason);
            doc.field_if(at + 2, "Message", &w.message);
        }
        ContainerState::Running(r) => {
            doc.field(at, key, "Running");
            doc.field(at + 2, "Started", when(r.started_at, now));
        }
        ContainerState::Terminated(t) => {
            doc.field(at, key, "Terminated");
            doc.field_if(at + 2, "Reason", &t.reason);
            doc.field_if(at + 2, "Message", &t.message);
            doc.field(at + 2, "Exit Code", t.exit_code.to_string());
            if let Some(signal) = t.signal {
                doc.field(at + 2, "Signal", signal.to_string());
            }
            doc.field(at + 2, "Started", when(t.started_at, now));
            doc.field(at + 2, "Finished", when(t.finished_at, now));
        }
    }
}
