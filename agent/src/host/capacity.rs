//! How much of the host pods may use: what is given, what is read, what is kept back. Called by the probe and by
//! the command line (`--capacity`). Pure.
//!
//! Invariant: what an operator gave is both capacity and allocatable; only what was read has something kept back.

use proto::{model::Quantity, wire::ResourceAmounts};

/// What `--capacity` gave; the rest is the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes.
    pub ephemeral_storage: Option<u64>,
    pub pods: Option<u64>,
}

/// Kept back for the host's own programs, Docker and the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a CPU.
    pub cpu_milli: u64,
    /// Percent of the memory …
    pub memory_percent: u64,
    /// … but at least this many bytes, and never more than half.
    pub memory_min: u64,
}

impl Default for Reserved {
    fn default() -> Self {
        Self {
            cpu_milli: 100,
            memory_percent: 5,
            memory_min: 512 << 20,
        }
    }
}

impl Capacity {
    /// Capacity and allocatable of a node on `host`.
    pub(super) fn apply(&self, host: &ResourceAmounts, reserved: &Reserved) -> (ResourceAmounts, ResourceAmounts) {
        let memory_kept = (u128::from(host.memory) * u128::from(reserved.memory_percent) / 100)
            .max(reserved.memory_min.into())
            .min(u128::from(host.memory / 2));
        let memory_kept = u64::try_from(memory_kept).unwrap_or(host.memory / 2);
        let cpu_kept = reserved.cpu_milli.min(host.cpu_milli / 2);
        let capacity = ResourceAmounts {
            cpu_milli: self.cpu_milli.unwrap_or(host.cpu_milli),
            memory: self.memory.unwrap_or(host.memory),
            ephemeral_storage: self.ephemeral_storage.unwrap_or(host.ephemeral_storage),
            pods: self.pods.unwrap_or(host.pods),
        };
        let allocatable = ResourceAmounts {
            cpu_milli: self.cpu_milli.unwrap_or(host.cpu_milli - cpu_kept),
            memory: self.memory.unwrap_or(host.memory - memory_kept),
            ..capacity
        };
        (capacity, allocatable)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapacityError {
    #[error("capacity: `{0}` is not RESOURCE=AMOUNT, as in cpu=2,memory=2Gi")]
    Syntax(String),
    #[error("capacity: unknown resource `{0}`: use cpu, memory, ephemeral-storage or pods")]
    Unknown(String),
    #[error("capacity: {resource}: {why}")]
    Amount { resource: String, why: String },
    #[error("capacity: {0} is given twice")]
    Twice(String),
}

/// Reads `cpu=2,memory=2Gi`.
pub fn parse_capacity(text: &str) -> Result<Capacity, CapacityError> {
    let mut capacity = Capacity::default();
    for part in text.split(',').map(str::trim) {
        let (resource, amount) = part
            .split_once('=')
            .map(|(r, a)| (r.trim(), a.trim()))
            .filter(|(r, _)| !r.is_empty())
            .ok_or_else(|| CapacityError::Syntax(part.to_owned()))?;
        let slot = match resource {
            "cpu" => &mut capacity.cpu_milli,
            "memory" => &mut capacity.memory,
            "ephemeral-storage" => &mut capacity.ephemeral_storage,
            "pods" => &mut capacity.pods,
            other => return Err(CapacityError::Unknown(other.to_owned())),
        };
        let wrong = |why: String| CapacityError::Amount {
            resource: resource.to_owned(),
            why,
        };
        let quantity = Quantity::parse(amount).map_err(|e| wrong(e.to_string()))?;
        let value = if resource == "cpu" {
            quantity.milli()
        } else {
            quantity.units()
        };
        if value == 0 {
            return Err(wrong(format!("`{amount}` must be more than 0")));
        }
        if slot.replace(value).is_some() {
            return Err(CapacityError::Twice(resource.to_owned()));
        }
    }
    Ok(capacity)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn host(cpu_milli: u64, memory: u64) -> ResourceAmounts {
        ResourceAmounts {
            cpu_milli,
            memory,
            ephemeral_storage: 100 * GIB,
            pods: 110,
        }
    }

    #[test]
    fn something_is_kept_back_of_what_was_read() {
        for (memory, allocatable) in [
            (20 * GIB, 19 * GIB),
            // 5 % would be less than 512 MiB.
            (4 * GIB, 4 * GIB - (512 << 20)),
            // 512 MiB would be more than half.
            (GIB / 2, GIB / 4),
            (0, 0),
        ] {
            let (c, a) = Capacity::default().apply(&host(2000, memory), &Reserved::default());
            assert_eq!((c.memory, a.memory), (memory, allocatable));
            assert_eq!((c.cpu_milli, a.cpu_milli), (2000, 1900));
            assert_eq!((a.pods, a.ephemeral_storage), (110, 100 * GIB));
        }
    }

    #[test]
    fn what_is_given_is_taken_as_given() {
        let given = parse_capacity("cpu=1500m, memory=2Gi").unwrap();
        let (c, a) = given.apply(&host(64_000, 256 * GIB), &Reserved::default());
        assert_eq!((c.cpu_milli, a.cpu_milli), (1500, 1500));
        assert_eq!((c.memory, a.memory), (2 * GIB, 2 * GIB));
        // One of two: the other one is the host's.
        let (c, a) = parse_capacity("cpu=1")
            .unwrap()
            .apply(&host(64_000, 20 * GIB), &Reserved::default());
        assert_eq!((a.cpu_milli, c.memory, a.memory), (1000, 20 * GIB, 19 * GIB));
        assert_eq!(
            parse_capacity("pods=20,ephemeral-storage=1G").map(|c| (c.pods, c.ephemeral_storage)),
            Ok((Some(20), Some(1_000_000_000)))
        );
    }

    #[test]
    fn errors_name_the_field() {
        for (text, words) in [
            ("", "capacity: `` is not RESOURCE=AMOUNT"),
            ("cpu", "capacity: `cpu` is not RESOURCE=AMOUNT"),
            ("cpu=2,", "capacity: `` is not RESOURCE=AMOUNT"),
            ("=2", "capacity: `=2` is not RESOURCE=AMOUNT"),
            ("gpu=2", "capacity: unknown resource `gpu`"),
            ("cpu=two", "capacity: cpu: `two` is not a quantity"),
            ("memory=0", "capacity: memory: `0` must be more than 0"),
            ("memory=-1Gi", "capacity: memory: `-1Gi` must be more than 0"),
            ("cpu=1,cpu=2", "capacity: cpu is given twice"),
        ] {
            let error = parse_capacity(text).unwrap_err().to_string();
            assert!(error.starts_with(words), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = parse_capacity(&text);
        }

        #[test]
        fn allocatable_is_within_capacity(cpu in 0u64.., memory in 0u64.., percent in 0u64..=100, min in 0u64..) {
            let reserved = Reserved { cpu_milli: min, memory_percent: percent, memory_min: min };
            let (c, a) = Capacity::default().apply(&host(cpu, memory), &reserved);
            prop_assert!(a.cpu_milli <= c.cpu_milli && a.cpu_milli >= c.cpu_milli / 2);
            prop_assert!(a.memory <= c.memory && a.memory >= c.memory / 2);
        }
    }
}
