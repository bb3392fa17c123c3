//! The three-way merge of `apply`: what the file says now, what it said when it was last applied, and the object.
//!
//! A field of the file wins. A field that was applied and is no longer in the file is removed. Any other field stays.
//! Lists of named items merge item by item, other lists are replaced. Maps with free keys (labels, annotations,
//! selectors, amounts) and lists of named items lose only what was applied, also where the file leaves them out as a
//! whole; any other field that the file gives up is removed whole, so that no half of it stays.
//!
//! Invariant: pure; merging the result again changes nothing.

use proto::model::{
    Kind,
    fields::{MergeKey, merge_key},
};
use serde_json::{Map, Value};

/// The object as it should be. `last` is null where the object was never applied.
pub fn three_way(kind: Kind, last: &Value, file: &Value, live: &Value) -> Value {
    Merge { kind }.value("", last, file, live)
}

struct Merge {
    kind: Kind,
}

impl Merge {
    fn value(&self, path: &str, last: &Value, file: &Value, live: &Value) -> Value {
        match (file, live) {
            (Value::Object(file), Value::Object(live)) => Value::Object(self.map(path, last, file, live)),
            (Value::Array(file), Value::Array(live)) => self.list(path, last, file, live),
            (file, _) => file.clone(),
        }
    }

    fn map(
        &self,
        path: &str,
        last: &Value,
        file: &Map<String, Value>,
        live: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut merged = Map::new();
        for (key, old) in live {
            let (path, last) = (below(path, key), &last[key]);
            let kept = match file.get(key) {
                Some(new) => Some(self.value(&path, last, new, old)),
                None if last.is_null() => Some(old.clone()),
                None => self.given_up(&path, last, old),
            };
            if let Some(kept) = kept {
                merged.insert(key.clone(), kept);
            }
        }
        for (key, new) in file {
            if !live.contains_key(key) {
                merged.insert(key.clone(), new.clone());
            }
        }
        merged
    }

    /// What stays of a field that was applied and is in the file no more.
    fn given_up(&self, path: &str, last: &Value, live: &Value) -> Option<Value> {
        let rest = match live {
            Value::Object(live) if has_free_keys(path) => Value::Object(self.map(path, last, &Map::new(), live)),
            Value::Array(live) if merge_key(self.kind, path).is_some() => self.list(path, last, &[], live),
            _ => return None,
        };
        let empty = match &rest {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        (!empty).then_some(rest)
    }

    fn list(&self, path: &str, last: &Value, file: &[Value], live: &[Value]) -> Value {
        let Some(key) = merge_key(self.kind, path) else {
            return file.to_vec().into();
        };
        let last = last.as_array().map_or(&[][..], Vec::as_slice);
        let (Some(file_names), Some(live_names), Some(last_names)) =
            (names(key, file), names(key, live), names(key, last))
        else {
            // Items without a name, or two of one: nothing says which is which.
            return file.to_vec().into();
        };
        let find = |list: &[Name], name: &Name| list.iter().position(|n| n == name);
        let merged = |i: usize| {
            let name = &file_names[i];
            match find(&live_names, name) {
                Some(at) => {
                    let before = find(&last_names, name).map_or(&Value::Null, |l| &last[l]);
                    self.value(path, before, &file[i], &live[at])
                }
                None => file[i].clone(),
            }
        };
        let (mut out, mut order) = (Vec::new(), Vec::new());
        for (at, name) in live_names.iter().enumerate() {
            if let Some(i) = find(&file_names, name) {
                out.push(merged(i));
                order.push(i);
            } else if find(&last_names, name).is_none() {
                out.push(live[at].clone());
            }
        }
        // Order can matter, as that of variables does: where the object's is not the file's, the file's wins.
        if order.iter().copied().eq(0..order.len()) {
            out.extend((order.len()..file.len()).map(merged));
        } else {
            let others = live_names
                .iter()
                .enumerate()
                .filter(|(_, name)| find(&file_names, name).is_none() && find(&last_names, name).is_none());
            out = (0..file.len())
                .map(merged)
                .chain(others.map(|(at, _)| live[at].clone()))
                .collect();
        }
        out.into()
    }
}

/// The values of an item's keys.
type Name = Vec<Value>;

/// Every item's name; `None` where one has none or two have the same.
fn names(key: MergeKey, list: &[Value]) -> Option<Vec<Name>> {
    let mut names: Vec<Name> = Vec::with_capacity(list.len());
    for item in list {
        let name = key.of(item)?;
        if names.contains(&name) {
            return None;
        }
        names.push(name);
    }
    Some(names)
}

fn has_free_keys(path: &str) -> bool {
    let field = path.rsplit('.').next().unwrap_or(path);
    matches!(
        field,
        "labels" | "annotations" | "nodeSelector" | "selector" | "limits" | "requests"
    )
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
