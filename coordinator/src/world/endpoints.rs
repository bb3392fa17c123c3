//! Where a controller's pods can be reached now, derived from pods and nodes. Called by the views for the API, and
//! by `http` for load balancers and Prometheus.
//!
//! Invariant: an address that is ready belongs to a pod that says Ready, is not being stopped, and whose node is
//! Ready; a stop entry or a lost node takes it out with the very commit that says so. Nothing of it is stored.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    ids,
    model::{
        EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Kind, ObjectMeta, ObjectReference, OwnerReference,
        host_port,
    },
};

use super::{ControllerState, Key, NodeState, PodState, Touched, World};
use crate::store::Rv;

/// Addresses that have the same ports: ready ones, and the others.
type Sorted = BTreeMap<Vec<EndpointPort>, (Vec<EndpointAddress>, Vec<EndpointAddress>)>;

impl World {
    /// The endpoints of one controller, which have its name and labels. While it is under a rolling update, those of the
    /// other side are among them: who follows either name reaches what serves.
    pub fn endpoints(&self, key: &Key, state: &ControllerState) -> Endpoints {
        let mut sorted = Sorted::new();
        for (key, pod) in self.pods_of_both(&state.rc.metadata.uid) {
            if let Some(node) = self.nodes.get(&pod.record.node)
                && !pod.stopping()
                && !pod.phase().is_final()
            {
                let ready = pod.ready() && node.is_ready();
                for (address, ports) in reached_at(key, pod, node) {
                    let (good, bad) = sorted.entry(ports).or_default();
                    if ready { good } else { bad }.push(address);
                }
            }
        }
        let subsets = sorted
            .into_iter()
            .map(|(ports, (mut addresses, mut not_ready_addresses))| {
                addresses.sort_unstable();
                not_ready_addresses.sort_unstable();
                EndpointSubset {
                    addresses,
                    not_ready_addresses,
                    ports,
                }
            });
        Endpoints {
            subsets: subsets.collect(),
            metadata: ObjectMeta {
                resource_version: self.endpoints_version(state).to_string(),
                ..metadata(key, state)
            },
        }
    }

    /// When they last changed, as far as is known.
    pub(super) fn endpoints_version(&self, state: &ControllerState) -> Rv {
        state.touched.max(self.loaded)
    }

    /// Touches the endpoints of the controllers that have pods on this node.
    pub(super) fn touch_endpoints(&mut self, node: &str, touched: &mut Vec<Touched>) {
        let owners = self.pods_on(node).filter_map(|(_, pod)| pod.record.owner.as_ref());
        let uids = owners.flat_map(|o| [Some(o.uid.as_str()), self.partner(&o.uid)]);
        let keys = uids.flatten().filter_map(|uid| self.controllers_by_uid.get(uid));
        let keys: BTreeSet<Key> = keys.cloned().collect();
        for key in keys {
            if let Some(controller) = self.controllers.get_mut(&key) {
                controller.touched = controller.touched.max(self.rv);
            }
            touched.push(Touched::Endpoints(key));
        }
    }
}

impl World {
    /// Touches the endpoints of the controller with this uid.
    pub(super) fn touch_endpoints_of(&mut self, uid: &str, rv: Rv, touched: &mut Vec<Touched>) {
        let Some(key) = self.controllers_by_uid.get(uid).cloned() else {
            return;
        };
        if let Some(controller) = self.controllers.get_mut(&key) {
            controller.touched = controller.touched.max(rv);
        }
        touched.push(Touched::Endpoints(key));
    }
}

impl NodeState {
    /// All of a node that endpoints show.
    pub(super) fn face(&self) -> (bool, String) {
        (self.is_ready(), self.address().to_owned())
    }
}

/// Each address of the pod with the ports that it has there. Only host ports count: what is bound inside the node's
/// own container network cannot be reached from elsewhere.
fn reached_at(key: &Key, pod: &PodState, node: &NodeState) -> Vec<(EndpointAddress, Vec<EndpointPort>)> {
    let mut by_ip: BTreeMap<&str, Vec<EndpointPort>> = BTreeMap::new();
    for (port, host_port) in host_port::bound(&pod.template_record().spec, &pod.record.ports) {
        let ip = match port.host_ip.as_str() {
            "" | "0.0.0.0" | "::" => node.address(),
            one => one,
        };
        if !ip.is_empty() {
            by_ip.entry(ip).or_default().push(EndpointPort {
                name: port.name.clone(),
                port: host_port,
                protocol: port.protocol,
            });
        }
    }
    let one = |(ip, mut ports): (&str, Vec<EndpointPort>)| {
        ports.sort_unstable();
        let address = EndpointAddress {
            ip: ip.to_owned(),
            node_name: pod.record.node.clone(),
            target_ref: ObjectReference {
                kind: Kind::Pod.name().to_owned(),
                namespace: key.0.clone(),
                name: key.1.clone(),
                uid: pod.record.uid.clone(),
            },
        };
        (address, ports)
    };
    by_ip.into_iter().map(one).collect()
}

fn metadata(key: &Key, state: &ControllerState) -> ObjectMeta {
    let rc = &state.rc.metadata;
    ObjectMeta {
        name: key.1.clone(),
        namespace: key.0.clone(),
        uid: ids::derived_uid("endpoints", &rc.uid),
        creation_timestamp: rc.creation_timestamp,
        labels: rc.labels.clone(),
        owner_references: vec![OwnerReference {
            api_version: Kind::ReplicationController.api_version().into(),
            kind: Kind::ReplicationController.name().into(),
            name: key.1.clone(),
            uid: rc.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }],
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
