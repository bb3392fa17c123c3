//! The coordinators of a cluster, as one of them told last, and which answered last: a file beside the credentials.
//! Read with them, written by the client.
//!
//! Invariant: a hint and nothing more. It is believed for its own cluster only, what stands in the credentials stays
//! among the addresses, and a file that cannot be read or written is no error.

use std::path::{Path, PathBuf};

use proto::{credentials::Credentials, files};
use serde::{Deserialize, Serialize};

/// Of a reply: the session addresses of all coordinators, separated by commas.
pub const HEADER: &str = "wharf-coordinators";

/// Most addresses that are believed.
const MOST: usize = 16;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    cluster: String,
    coordinators: Vec<String>,
    /// Where a call was answered last.
    answered: String,
}

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Known {
    path: PathBuf,
    content: Content,
}

impl Known {
    /// What lies beside the credentials in `config`.
    pub fn beside(config: &Path, credentials: &Credentials) -> Self {
        let mut name = config.file_name().unwrap_or_default().to_owned();
        name.push(".coordinators");
        let path = config.with_file_name(name);
        let read = std::fs::read(&path).ok();
        let content = read.and_then(|bytes| serde_json::from_slice::<Content>(&bytes).ok());
        let ours = content.filter(|c| c.cluster == credentials.cluster);
        let content = ours.unwrap_or_else(|| Content {
            cluster: credentials.cluster.clone(),
            ..Content::default()
        });
        Self { path, content }
    }

    /// The addresses to try, the one that answered last first, then those of the credentials, then what was told.
    pub fn order(&self, own: &[String]) -> Vec<String> {
        let told = &self.content.coordinators;
        let known = |address: &&String| own.contains(address) || told.contains(address);
        let first = Some(&self.content.answered).filter(known);
        let mut all = Vec::new();
        for address in first.into_iter().chain(own).chain(told) {
            if !all.contains(address) {
                all.push(address.clone());
            }
        }
        all
    }

    /// Takes in what a reply from `address` told (its [`HEADER`]); whether the list is another one now.
    pub fn learn(&mut self, address: &str, told: Option<&str>) -> bool {
        let before = self.content.clone();
        if let Some(told) = told {
            let told = told
                .split(',')
                .map(str::trim)
                .filter(|a| a.contains(':') && !a.starts_with(':'));
            self.content.coordinators = told.take(MOST).map(str::to_owned).collect();
        }
        // Where there is but one there is nothing to remember.
        if self.content.coordinators.len() > 1 {
            self.content.answered = address.to_owned();
        }
        if self.content == before {
            return false;
        }
        if let Ok(bytes) = serde_json::to_vec(&self.content) {
            // The directory may be another's.
            let _ = files::write_private(&self.path, &bytes);
        }
        self.content.coordinators != before.coordinators
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(cluster: &str) -> Credentials {
        Credentials {
            coordinators: vec!["a:1".into()],
            cluster: cluster.into(),
            ca: String::new(),
            certificate: String::new(),
            key: String::new(),
            namespace: None,
        }
    }

    fn order(known: &Known) -> Vec<String> {
        known.order(&["a:1".to_owned()])
    }

    #[test]
    fn what_was_told_is_remembered_for_its_cluster_and_the_one_that_answered_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("admin.yaml");
        let mut known = Known::beside(&config, &credentials("c"));
        assert_eq!(order(&known), ["a:1"]);
        // One coordinator: nothing is written.
        assert!(!known.learn("a:1", None));
        assert!(!dir.path().join("admin.yaml.coordinators").exists());

        assert!(known.learn("a:1", Some("b:1, c:1,a:1,:9,x")));
        assert!(!known.learn("c:1", Some("b:1,c:1,a:1")));
        let again = Known::beside(&config, &credentials("c"));
        assert_eq!(order(&again), ["c:1", "a:1", "b:1"]);
        assert_eq!(order(&Known::beside(&config, &credentials("other"))), ["a:1"]);
        // A coordinator that left is forgotten, the credentials' own is not.
        assert!(known.learn("c:1", Some("b:1,c:1")));
        assert_eq!(order(&known), ["c:1", "a:1", "b:1"]);
        // One that answered and is no coordinator any more.
        assert!(known.learn("b:1", Some("b:1,d:1")));
        assert!(known.learn("b:1", Some("d:1,e:1")));
        assert_eq!(order(&known), ["a:1", "d:1", "e:1"]);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("admin.yaml");
        for content in ["", "{", "[]", "{\"cluster\": 1}"] {
            std::fs::write(dir.path().join("admin.yaml.coordinators"), content).unwrap();
            assert_eq!(order(&Known::beside(&config, &credentials("c"))), ["a:1"], "{content}");
        }
        let nowhere = dir.path().join("gone/admin.yaml");
        let mut known = Known::beside(&nowhere, &credentials("c"));
        assert!(known.learn("a:1", Some("a:1,b:1")));
        assert_eq!(order(&known), ["a:1", "b:1"]);
    }
}
