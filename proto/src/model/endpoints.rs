//! Endpoints: where a controller's pods can be reached now. Derived by the coordinator whenever it is read; load
//! balancers and Prometheus follow it.
//!
//! Invariant: the shape is Kubernetes' v1 Endpoints; one subset holds the addresses that have the same ports.

use serde::{Deserialize, Serialize};

use super::{ObjectMeta, ObjectReference, Protocol};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Endpoints {
    pub metadata: ObjectMeta,
    pub subsets: Vec<EndpointSubset>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointSubset {
    /// Ready: send requests here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<EndpointAddress>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<EndpointAddress>,
    pub ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointAddress {
    /// Of the node, or the one that the pod's port is bound to.
    pub ip: String,
    pub node_name: String,
    /// The pod.
    pub target_ref: ObjectReference,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointPort {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Of the host.
    pub port: u16,
    pub protocol: Protocol,
}

impl EndpointAddress {
    /// `192.0.2.1:8080`, `[2001:db8::1]:8080`.
    pub fn with_port(&self, port: u16) -> String {
        let ip = &self.ip;
        if ip.contains(':') {
            format!("[{ip}]:{port}")
        } else {
            format!("{ip}:{port}")
        }
    }
}

impl Endpoints {
    /// Each address with its subset's ports and whether it is ready, in the order of the subsets.
    pub fn each(&self) -> impl Iterator<Item = (&EndpointAddress, &[EndpointPort], bool)> {
        self.subsets.iter().flat_map(|subset| {
            let ready = subset.addresses.iter().map(|a| (a, true));
            let not_ready = subset.not_ready_addresses.iter().map(|a| (a, false));
            ready
                .chain(not_ready)
                .map(|(address, ready)| (address, &*subset.ports, ready))
        })
    }
}
