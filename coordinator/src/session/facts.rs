//! An agent's facts about its host, checked and made into the record that is stored. Called by `stream`.
//!
//! Invariant: pure; whatever an agent sends, the record is bounded and holds neither identity nor labels.

use proto::{
    model::{NodeAddress, NodeInfo, NodeStatus, Quantity, ResourceList, Unmanaged, UnmanagedContainer, labels},
    wire::{NodeFacts, ResourceAmounts},
};

use crate::world::record::FactsRecord;

const TEXT: usize = 256;
const REASON: usize = 1024;
const ADDRESSES: usize = 16;
const CAPABILITIES: usize = 64;
/// A million CPUs, an exbibyte, a hundred thousand pods: beyond any host.
const MAX: ResourceAmounts = ResourceAmounts {
    cpu_milli: 1_000_000_000,
    memory: 1 << 60,
    ephemeral_storage: 1 << 60,
    pods: 100_000,
};

/// The record of `facts`; the error says which field is out of bounds.
pub fn record(facts: &NodeFacts, capabilities: &[String]) -> Result<FactsRecord, String> {
    let capacity = amounts("capacity", facts.capacity.as_ref())?;
    let allocatable = amounts("allocatable", facts.allocatable.as_ref())?;
    for (name, part, whole) in [
        ("cpu", allocatable.cpu_milli, capacity.cpu_milli),
        ("memory", allocatable.memory, capacity.memory),
        (
            "ephemeral-storage",
            allocatable.ephemeral_storage,
            capacity.ephemeral_storage,
        ),
        ("pods", allocatable.pods, capacity.pods),
    ] {
        if part > whole {
            return Err(format!(
                "allocatable {name} ({part}) is more than the capacity ({whole})"
            ));
        }
    }
    for (name, text) in [
        ("hostname", &facts.hostname),
        ("operating_system", &facts.operating_system),
        ("os_image", &facts.os_image),
        ("kernel_version", &facts.kernel_version),
        ("architecture", &facts.architecture),
        ("docker_version", &facts.docker_version),
        ("agent_version", &facts.agent_version),
        ("boot_id", &facts.boot_id),
        ("machine_id", &facts.machine_id),
    ] {
        if text.len() > TEXT || text.chars().any(char::is_control) {
            return Err(format!("{name} is longer than {TEXT} bytes or has control characters"));
        }
    }
    if capabilities.len() > CAPABILITIES || capabilities.iter().any(|c| labels::check_dns_subdomain(c).is_err()) {
        return Err(format!(
            "capabilities are more than {CAPABILITIES} or not all lower-case words"
        ));
    }
    Ok(FactsRecord {
        status: NodeStatus {
            capacity: resources(&capacity),
            allocatable: resources(&allocatable),
            conditions: Vec::new(),
            holds: Vec::new(),
            addresses: addresses(facts)?,
            node_info: Some(NodeInfo {
                machine_id: facts.machine_id.clone(),
                boot_id: facts.boot_id.clone(),
                kernel_version: facts.kernel_version.clone(),
                os_image: facts.os_image.clone(),
                operating_system: facts.operating_system.clone(),
                architecture: facts.architecture.clone(),
                container_runtime_version: runtime(&facts.docker_version),
                kubelet_version: facts.agent_version.clone(),
            }),
            // Stored by itself, and put beside these when they are shown.
            hardware: None,
            unmanaged: None,
        },
        hostname: facts.hostname.clone(),
        docker_ready: facts.docker_ready,
        docker_reason: if facts.docker_ready {
            String::new()
        } else {
            line(&facts.docker_reason, REASON)
        },
        capabilities: capabilities.to_vec(),
        unmanaged: unmanaged(facts),
    })
}

/// What is more or longer than it may be is cut: these are the words of others' containers.
fn unmanaged(facts: &NodeFacts) -> Option<Unmanaged> {
    let told = facts.unmanaged.iter().take(Unmanaged::MOST);
    let containers: Vec<_> = told
        .map(|c| UnmanagedContainer {
            name: line(&c.name, TEXT),
            image: line(&c.image, TEXT),
            state: line(&c.state, TEXT),
        })
        .collect();
    let count = facts
        .unmanaged_count
        .max(u32::try_from(containers.len()).unwrap_or(u32::MAX));
    (count > 0).then_some(Unmanaged { count, containers })
}

fn amounts(what: &str, given: Option<&ResourceAmounts>) -> Result<ResourceAmounts, String> {
    let given = *given.ok_or_else(|| format!("{what} is missing"))?;
    let fits = given.cpu_milli <= MAX.cpu_milli
        && given.memory <= MAX.memory
        && given.ephemeral_storage <= MAX.ephemeral_storage
        && given.pods <= MAX.pods;
    if fits {
        Ok(given)
    } else {
        Err(format!("{what} is beyond what any host has"))
    }
}

fn resources(amounts: &ResourceAmounts) -> ResourceList {
    ResourceList::from([
        ("cpu".to_owned(), Quantity::from_milli(amounts.cpu_milli)),
        ("memory".to_owned(), Quantity::from_bytes(amounts.memory)),
        (
            "ephemeral-storage".to_owned(),
            Quantity::from_bytes(amounts.ephemeral_storage),
        ),
        ("pods".to_owned(), Quantity::from_units(amounts.pods)),
    ])
}

fn addresses(facts: &NodeFacts) -> Result<Vec<NodeAddress>, String> {
    let good = |a: &String| a.parse::<std::net::IpAddr>().is_ok() || labels::check_dns_subdomain(a).is_ok();
    if facts.addresses.len() > ADDRESSES || !facts.addresses.iter().all(good) {
        return Err(format!(
            "addresses are more than {ADDRESSES} or not all addresses or host names"
        ));
    }
    let of = |kind: &str, address: &String| NodeAddress {
        kind: kind.to_owned(),
        address: address.clone(),
    };
    let mut all: Vec<_> = facts.addresses.iter().map(|a| of("InternalIP", a)).collect();
    if !facts.hostname.is_empty() {
        all.push(of("Hostname", &facts.hostname));
    }
    Ok(all)
}

fn runtime(version: &str) -> String {
    if version.is_empty() || version.contains("://") {
        version.to_owned()
    } else {
        format!("docker://{version}")
    }
}

/// At most `most` bytes of `text` on one line.
pub fn line(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
