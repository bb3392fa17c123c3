//! `describe endpoints`.

use proto::model::{Endpoints, Event, Time};

use super::{Doc, event_table, meta, when};
use crate::table::table;

pub fn describe(endpoints: &Endpoints, events: &[Event], now: Time) -> String {
    let mut doc = Doc::default();
    meta(&mut doc, &endpoints.metadata);
    doc.field(0, "Created", when(endpoints.metadata.creation_timestamp, now));
    let mut rows = Vec::new();
    let (mut ready, mut pods) = (0, 0);
    for (address, ports, is_ready) in endpoints.each() {
        pods += 1;
        ready += usize::from(is_ready);
        for port in ports {
            let name = if port.name.is_empty() { "<unset>" } else { &port.name };
            rows.push(vec![
                address.with_port(port.port),
                port.protocol.as_str().to_owned(),
                name.to_owned(),
                address.target_ref.name.clone(),
                address.node_name.clone(),
                if is_ready { "yes" } else { "no" }.to_owned(),
            ]);
        }
    }
    doc.field(0, "Addresses", format!("{ready} ready, {} not ready", pods - ready));
    if !rows.is_empty() {
        let header = ["Address", "Protocol", "Port", "Pod", "Node", "Ready"];
        doc.block(2, &table(&header, &rows));
    }
    event_table(&mut doc, events, now);
    doc.finish()
}
