//! YAML (and JSON, which is a part of it) as a tree that knows where each key and value stands. Used by
//! [`crate::manifest`], which turns field paths of the model's errors into lines and columns.
//!
//! Invariant: scalars keep the type they are written with (`1` is no string, `"1"` no number), and a key
//! appears once in its map.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Line and column, from 1.
pub type Place = (u64, u64);

#[derive(Debug)]
pub struct Node {
    pub tree: Tree,
    pub at: Place,
}

#[derive(Debug)]
pub enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub struct Entry {
    pub key: String,
    pub key_at: Place,
    pub value: Node,
}

/// Deepest nesting: twice that of the deepest export, and well below what the stack of a thread bears.
const MAX_DEPTH: usize = 32;

/// Most values in one document: thousands of objects as kubectl exports them.
const MAX_VALUES: usize = 500_000;

/// Most values that aliases add to a file.
const MAX_ALIASED: usize = 100_000;

/// Reads every document that is not empty, or what is wrong with it and where. `yes`, `on` and `n` are strings, as in
/// YAML 1.2. After an error of syntax there is no further document.
pub fn documents(text: &str) -> Vec<Result<Node, (Option<Place>, String)>> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIASED },
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_VALUES,
            max_events: 3 * MAX_VALUES,
        },
    };
    let mut bytes = text.as_bytes();
    let read = serde_saphyr::read_with_options(&mut bytes, options);
    read.map(|document| document.map_err(|e| words(&e))).collect()
}

/// The place and the problem of a parser's error, without its own mention of the place.
pub fn words(error: &serde_saphyr::Error) -> (Option<Place>, String) {
    let place = error.location().map(place);
    (place, bound(error).unwrap_or_else(|| problem(error, place.is_some())))
}

/// A limit of [`documents`] that a file exceeds.
fn bound(error: &serde_saphyr::Error) -> Option<String> {
    use serde_saphyr::{Error as E, budget::BudgetBreach as B};
    let deep = || format!("nested more than {MAX_DEPTH} levels deep");
    match error {
        E::Budget { breach, .. } => Some(match breach {
            B::Depth { .. } => deep(),
            B::Aliases { .. } | B::Anchors { .. } | B::AliasAnchorRatio { .. } | B::MergeKeys { .. } => {
                "has too many anchors, aliases or merge keys; write it out".to_owned()
            }
            B::RecordedAnchorEvents { .. } | B::RecordedAnchorBytes { .. } => {
                "an anchor holds too much; write it out".to_owned()
            }
            _ => format!("one document holds too much; at most {MAX_VALUES} values"),
        }),
        E::AliasReplayLimitExceeded { .. }
        | E::AliasExpansionLimitExceeded { .. }
        | E::AliasReplayStackDepthExceeded { .. }
        | E::AliasReplayCounterOverflow { .. } => Some(format!(
            "its aliases stand for more than {MAX_ALIASED} values; write it out"
        )),
        E::AliasError { error, .. } => bound(error),
        // The scanner's own words, for brackets and braces.
        _ => error.to_string().starts_with("recursion limit exceeded").then(deep),
    }
}

fn problem(error: &serde_saphyr::Error, placed: bool) -> String {
    let text = error.to_string();
    let text = match text.rfind(" at line ") {
        Some(end) if placed => &text[..end],
        _ => &text,
    };
    // The parser names its own option here, which is of no use to a user.
    let text = text.split(", set DuplicateKeyPolicy").next().unwrap_or(text);
    let text = text.replace("duplicate mapping key: ", "duplicate key: ");
    text.split('\n').next().unwrap_or_default().to_owned()
}

fn place(location: serde_saphyr::Location) -> Place {
    (location.line(), location.column())
}

impl Node {
    pub fn to_json(&self) -> Value {
        match &self.tree {
            Tree::Null => Value::Null,
            Tree::Bool(b) => Value::Bool(*b),
            Tree::Number(n) => Value::Number(n.clone()),
            Tree::String(s) => Value::String(s.clone()),
            Tree::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Tree::Map(entries) => {
                let pairs = entries.iter().map(|e| (e.key.clone(), e.value.to_json()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }

    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match &self.tree {
            Tree::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }

    /// Where `path` (`spec.containers[0].image`) stands: its key if `at_key`, else its value; where the path is
    /// not there, the nearest part of it that is.
    pub fn locate(&self, path: &str, at_key: bool) -> Place {
        let (mut node, mut found, mut rest) = (self, self.at, path);
        while let Some((key_at, next, after)) = node.step(rest) {
            (node, rest) = (next, after);
            let last = rest.is_empty();
            found = if last && at_key { key_at } else { next.at };
        }
        found
    }

    fn step<'n, 'p>(&'n self, path: &'p str) -> Option<(Place, &'n Self, &'p str)> {
        match &self.tree {
            Tree::Map(entries) => {
                let entry = &entries[longest(entries, path)?];
                Some((entry.key_at, &entry.value, after(path, entry.key.len())))
            }
            Tree::List(items) => {
                let (i, rest) = index(path)?;
                items.get(i).map(|n| (n.at, n, rest))
            }
            _ => None,
        }
    }
}

/// The entry whose key begins `path`; keys may hold dots, so the longest one wins.
fn longest(entries: &[Entry], path: &str) -> Option<usize> {
    let begins = |key: &str| {
        path.strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let candidates = entries.iter().enumerate().filter(|(_, e)| begins(&e.key));
    candidates.max_by_key(|(_, e)| e.key.len()).map(|(i, _)| i)
}

fn after(path: &str, length: usize) -> &str {
    let rest = path.get(length..).unwrap_or_default();
    rest.strip_prefix('.').unwrap_or(rest)
}

/// `[3].rest` → (3, `rest`).
fn index(path: &str) -> Option<(usize, &str)> {
    let (number, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((number.parse().ok()?, rest.strip_prefix('.').unwrap_or(rest)))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(d)?;
        Ok(Self {
            at: place(spanned.referenced),
            tree: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> de::Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Tree, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Tree, E> {
        Ok(Tree::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Tree, E> {
        Ok(Tree::Number(v.into()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Tree, E> {
        let number = Number::from_f64(v).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Tree::Number(number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Tree, E> {
        Ok(Tree::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Tree, E> {
        Ok(Tree::String(v))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push(Entry {
                key_at: place(key.referenced),
                key: key.value,
                value,
            });
        }
        Ok(Tree::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_keys_values_and_what_is_missing() {
        let text = "a: 1\n---\n# two\nlabels:\n  x.y/z: 1\n  x: 2\nlist:\n- b:\n    c: [1, 2]\n";
        let docs = documents(text);
        let doc = docs[1].as_ref().expect("parses");
        for (path, key, value) in [
            ("", (4, 1), (4, 1)),
            ("labels.x", (6, 3), (6, 6)),
            ("labels.x.y/z", (5, 3), (5, 10)),
            ("list[0].b.c[1]", (9, 12), (9, 12)),
            ("list[0].b.missing.d", (9, 5), (9, 5)),
            ("list[7]", (8, 3), (8, 3)),
            ("nothing", (4, 1), (4, 1)),
        ] {
            assert_eq!(
                (doc.locate(path, true), doc.locate(path, false)),
                (key, value),
                "{path}"
            );
        }
    }
}
