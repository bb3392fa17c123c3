//! How far a pull is, from the engine's lines about each layer. Fed by [`super::pull`], read by the worker. Pure.
//!
//! Invariant: what is shown of a layer never shrinks, and a layer that the host has already counts for nothing.

use std::collections::HashMap;

/// Bytes of each layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    layers: HashMap<String, Layer>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layer {
    current: u64,
    total: u64,
    unpacking: bool,
}

impl Progress {
    /// One line of the engine: the layer, what it does, and bytes if it tells them.
    pub(super) fn note(&mut self, layer: &str, status: &str, current: Option<i64>, total: Option<i64>) {
        let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        match status {
            "Downloading" => {
                let known = self.layers.entry(layer.to_owned()).or_default();
                known.total = known.total.max(bytes(total));
                known.current = known.current.max(bytes(current)).min(known.total);
            }
            "Verifying Checksum" | "Download complete" | "Extracting" | "Pull complete" => {
                if let Some(known) = self.layers.get_mut(layer) {
                    known.current = known.total;
                    known.unpacking |= matches!(status, "Extracting" | "Pull complete");
                }
            }
            _ => {}
        }
    }

    /// `pulling app:1: 34 of 80 MB`. The engine tells a layer's size only once it fetches it, so the total may rise.
    pub(super) fn words(&self, reference: &str) -> String {
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).fold(0, u64::saturating_add);
        let (current, total) = (sum(|l| l.current), sum(|l| l.total));
        if total == 0 {
            return format!("pulling {reference}");
        }
        if current == total && self.layers.values().any(|l| l.unpacking) {
            return format!("unpacking {reference}");
        }
        let (unit, name) = if total < 10_000_000 {
            (1_000, "kB")
        } else {
            (1_000_000, "MB")
        };
        format!(
            "pulling {reference}: {} of {} {name}",
            current / unit,
            total.div_ceil(unit)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up_and_never_shrink() {
        let mut progress = Progress::default();
        let mut note = |layer: &str, status: &str, current, total| {
            progress.note(layer, status, current, total);
            progress.words("app:1")
        };
        for (layer, status, current, total, words) in [
            ("1", "Pulling from app", None, None, "pulling app:1"),
            ("a", "Pulling fs layer", None, None, "pulling app:1"),
            ("z", "Already exists", None, None, "pulling app:1"),
            (
                "a",
                "Downloading",
                Some(4_000_000),
                Some(60_000_000),
                "pulling app:1: 4 of 60 MB",
            ),
            (
                "b",
                "Downloading",
                Some(10_000_000),
                Some(19_999_999),
                "pulling app:1: 14 of 80 MB",
            ),
            // The engine began anew.
            (
                "a",
                "Downloading",
                Some(1),
                Some(60_000_000),
                "pulling app:1: 14 of 80 MB",
            ),
            ("b", "Download complete", None, None, "pulling app:1: 23 of 80 MB"),
            (
                "b",
                "Extracting",
                Some(5),
                Some(19_999_999),
                "pulling app:1: 23 of 80 MB",
            ),
            ("a", "Download complete", None, None, "unpacking app:1"),
        ] {
            assert_eq!(note(layer, status, current, total), words, "{layer} {status}");
        }
    }

    #[test]
    fn small_and_senseless_amounts() {
        let mut progress = Progress::default();
        progress.note("a", "Downloading", Some(-5), Some(-1));
        assert_eq!(progress.words("i"), "pulling i");
        progress.note("a", "Downloading", Some(5_000), Some(2_500));
        assert_eq!(progress.words("i"), "pulling i: 2 of 3 kB");
        progress.note("b", "Downloading", Some(i64::MAX), Some(i64::MAX));
        progress.note("c", "Downloading", Some(i64::MAX), Some(i64::MAX));
        progress.note("d", "Downloading", Some(i64::MAX), Some(i64::MAX));
        assert!(progress.words("i").starts_with("pulling i"), "no overflow");
    }
}
