//! The labels of a node that are the coordinator's own: set as its host joins, from the node's name and from what the
//! host states of itself. Called by [`super::enrol`]; [`super::tokens`] and `api` keep others from writing them.
//!
//! Invariant: one writer. What a host states becomes a label only if it is one of a closed set of words, so that an agent
//! chooses among them and writes nothing of its own.

use std::collections::BTreeMap;

use proto::model::labels::quoted;

pub const ARCH: &str = "kubernetes.io/arch";
pub const HOSTNAME: &str = "kubernetes.io/hostname";
pub const OS: &str = "kubernetes.io/os";

/// All of them.
pub const OWN: [&str; 3] = [ARCH, HOSTNAME, OS];

/// As image manifests name them.
const ARCHITECTURES: [&str; 7] = ["386", "amd64", "arm", "arm64", "ppc64le", "riscv64", "s390x"];
const SYSTEMS: [&str; 1] = ["linux"];

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// A node's own labels. What its host does not state, or states in a word that is not known, is left out; the latter is
/// logged.
pub fn own(name: &str, architecture: &str, operating_system: &str) -> Labels {
    let mut labels = Labels::from([(HOSTNAME.to_owned(), name.to_owned())]);
    for (key, stated, known) in [
        (ARCH, architecture, &ARCHITECTURES[..]),
        (OS, operating_system, &SYSTEMS),
    ] {
        if known.contains(&stated) {
            labels.insert(key.to_owned(), stated.to_owned());
        } else if !stated.is_empty() {
            tracing::warn!(
                node = name,
                "no label {key}: the host states {}, which is none of {}",
                quoted(stated),
                known.join(", ")
            );
        }
    }
    labels
}

/// Puts a node's own labels in the place of those that it has.
pub fn renew(labels: &mut Labels, own: &Labels) {
    labels.retain(|key, _| !OWN.contains(&key.as_str()));
    labels.extend(own.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(labels: &Labels) -> Vec<(&str, &str)> {
        labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }

    #[test]
    fn a_host_chooses_among_known_words_and_writes_none_of_its_own() {
        for arch in ARCHITECTURES {
            let labels = own("n1", arch, "linux");
            assert_eq!(pairs(&labels), [(ARCH, arch), (HOSTNAME, "n1"), (OS, "linux")]);
        }
        let long = "amd64".repeat(1000);
        for unknown in ["", "x86_64", "AMD64", "amd64 ", "windows", "a\nb", "-", &long] {
            let labels = own("n1", unknown, unknown);
            assert_eq!(pairs(&labels), [(HOSTNAME, "n1")], "{unknown:?}");
        }
        // Each for itself, and neither in the other's place.
        assert_eq!(pairs(&own("n1", "arm64", "")), [(ARCH, "arm64"), (HOSTNAME, "n1")]);
        assert_eq!(pairs(&own("n1", "linux", "arm64")), [(HOSTNAME, "n1")]);
    }

    #[test]
    fn what_a_host_states_no_more_goes_and_the_labels_of_others_stay() {
        let mut labels = own("n1", "amd64", "linux");
        labels.insert("zone".into(), "a".into());
        renew(&mut labels, &own("n1", "arm64", ""));
        assert_eq!(pairs(&labels), [(ARCH, "arm64"), (HOSTNAME, "n1"), ("zone", "a")]);
    }
}
