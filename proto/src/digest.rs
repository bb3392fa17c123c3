//! The digest over a node's assignments. Computed by the agent over its ledger and by the coordinator over
//! what the node should run; equal means that nothing needs to be sent.

use ring::digest::{Context, SHA256};

/// One assignment as both ends know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item<'a> {
    pub uid: &'a str,
    pub spec_hash: &'a str,
    /// A stop entry with this grace was accepted.
    pub stop: Option<u32>,
}

/// Lower-case hex; independent of the items' order. The spec of a pod being stopped does not count: one end
/// may never have seen it, and it changes nothing any more.
pub fn assignments<'a>(items: impl IntoIterator<Item = Item<'a>>) -> String {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort_unstable();
    let mut context = Context::new(&SHA256);
    for Item { uid, spec_hash, stop } in items {
        for part in [uid, if stop.is_some() { "" } else { spec_hash }] {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.update(&stop.map_or(u64::MAX, u64::from).to_be_bytes());
    }
    crate::ids::hex(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_content_does() {
        let a = Item {
            uid: "a",
            spec_hash: "1",
            stop: None,
        };
        let b = Item {
            uid: "b",
            spec_hash: "1",
            stop: None,
        };
        assert_eq!(assignments([a.clone(), b.clone()]), assignments([b.clone(), a.clone()]));
        let stopped = Item {
            stop: Some(30),
            ..b.clone()
        };
        let other = Item {
            spec_hash: "2",
            ..b.clone()
        };
        let all = [
            assignments([]),
            assignments([a.clone()]),
            assignments([a.clone(), b]),
            assignments([a.clone(), stopped.clone()]),
            assignments([a, other]),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(!all[..i].contains(x));
        }
        let never_seen = Item {
            spec_hash: "",
            ..stopped.clone()
        };
        assert_eq!(assignments([stopped]), assignments([never_seen]));
    }
}
