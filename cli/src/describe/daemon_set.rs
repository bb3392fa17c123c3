//! `describe ds`.

use proto::model::{DaemonSet, Event, Pod, Time, UpdateStrategyType};

use super::{Doc, event_table, meta, pod::condition, rc, when};
use crate::table::table;

pub fn describe(set: &DaemonSet, pods: &[Pod], events: &[Event], now: Time) -> String {
    let mut doc = Doc::default();
    let status = set.status.clone().unwrap_or_default();
    meta(&mut doc, &set.metadata);
    doc.field(0, "Selector", set.spec.selector.to_string());
    doc.field(0, "Created", when(set.metadata.creation_timestamp, now));
    let strategy = &set.spec.update_strategy;
    let strategy = match strategy.kind {
        UpdateStrategyType::OnDelete => "OnDelete".to_owned(),
        UpdateStrategyType::RollingUpdate => {
            let most = strategy.rolling_update.unwrap_or_default().max_unavailable;
            format!("RollingUpdate, at most {most} unavailable")
        }
    };
    doc.field(0, "Update Strategy", strategy);
    doc.field(0, "Nodes Desired", status.desired_number_scheduled.to_string());
    doc.field(0, "Nodes With A Daemon", status.current_number_scheduled.to_string());
    doc.field(0, "Up To Date", status.updated_number_scheduled.to_string());
    doc.field(0, "Ready", status.number_ready.to_string());
    doc.field(0, "Available", status.number_available.to_string());
    doc.field(0, "Misscheduled", status.number_misscheduled.to_string());
    doc.field(0, "Pods Status", rc::phases(pods));
    doc.heading(0, "Pod Template");
    doc.group();
    rc::template(&mut doc, &set.spec.template, now);
    if !status.conditions.is_empty() {
        let conditions = status.conditions.iter();
        let rows = conditions.map(|c| {
            let state = condition(c.status).to_owned();
            vec![c.kind.clone(), state, c.reason.clone(), c.message.clone()]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        doc.heading(0, "Conditions");
        doc.block(2, &table(&["Type", "Status", "Reason", "Message"], &rows));
    }
    event_table(&mut doc, events, now);
    doc.finish()
}
