//! The digest over a node's assignments. Computed by the agent over its ledger and by the coordinator over
//! what the node should run; equal means that nothing needs to be sent.

use std::collections::BTreeMap;

use ring::digest::{Context, SHA256};

/// One assignment as both ends know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item<'a> {
    pub uid: &'a str,
    pub spec_hash: &'a str,
    /// [`marks`] of it.
    pub marks: String,
    /// A stop entry with this grace was accepted.
    pub stop: Option<u32>,
}

/// Hash over a pod's labels and annotations, lower-case hex; independent of their order.
pub fn marks<'a>(
    labels: impl IntoIterator<Item = (&'a String, &'a String)>,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> String {
    let mut context = Context::new(&SHA256);
    for map in [
        labels.into_iter().collect::<BTreeMap<_, _>>(),
        annotations.into_iter().collect(),
    ] {
        count(&mut context, map.len());
        for (key, value) in map {
            text(&mut context, key);
            text(&mut context, value);
        }
    }
    crate::ids::hex(context.finish().as_ref())
}

fn count(context: &mut Context, n: usize) {
    context.update(&u64::try_from(n).unwrap_or(u64::MAX).to_be_bytes());
}

/// With its length, so that no two sequences of texts look the same.
fn text(context: &mut Context, text: &str) {
    count(context, text.len());
    context.update(text.as_bytes());
}

/// Lower-case hex; independent of the items' order. Of a pod being stopped spec, labels and annotations do not
/// count: one end may never have seen them, and they change nothing any more.
pub fn assignments<'a>(items: impl IntoIterator<Item = Item<'a>>) -> String {
    let mut items: Vec<_> = items.into_iter().collect();
    items.sort_unstable();
    let mut context = Context::new(&SHA256);
    for Item {
        uid,
        spec_hash,
        marks,
        stop,
    } in items
    {
        let wish = if stop.is_some() { ["", ""] } else { [spec_hash, &marks] };
        text(&mut context, uid);
        for part in wish {
            text(&mut context, part);
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
            marks: String::new(),
            stop: None,
        };
        let b = Item {
            uid: "b",
            spec_hash: "1",
            marks: String::new(),
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
            assignments([a.clone(), other]),
            assignments([Item { marks: "m".into(), ..a }]),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(!all[..i].contains(x));
        }
        let never_seen = Item {
            spec_hash: "",
            marks: "m".into(),
            ..stopped.clone()
        };
        assert_eq!(assignments([stopped]), assignments([never_seen]));
    }

    #[test]
    fn marks_are_of_keys_and_values_each_on_its_side() {
        let map = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let of = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| {
            let (labels, annotations) = (map(labels), map(annotations));
            marks(
                labels.iter().map(|(k, v)| (k, v)),
                annotations.iter().map(|(k, v)| (k, v)),
            )
        };
        assert_eq!(of(&[("a", "1"), ("b", "2")], &[]), of(&[("b", "2"), ("a", "1")], &[]));
        let all = [
            of(&[], &[]),
            of(&[("a", "1")], &[]),
            of(&[], &[("a", "1")]),
            of(&[("a1", "")], &[]),
            of(&[("a", "1")], &[("a", "1")]),
            of(&[("a", "1"), ("b", "2")], &[]),
        ];
        for (i, x) in all.iter().enumerate() {
            assert!(!all[..i].contains(x), "{i}");
        }
    }
}
