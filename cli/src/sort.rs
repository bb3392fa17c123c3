//! `--sort-by`: a path into an object, and the order of what stands there. Called by `get`.
//!
//! Invariant: the order is total and stable; an object without the field comes first, as in kubectl.

use proto::model::{Quantity, Time};
use serde_json::Value;

use crate::{error::Error, received::Received};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortBy {
    /// As the user wrote it.
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl SortBy {
    /// `.a.b`, `{.a.b}`, `a.b`; a list item `[0]`; a key with dots as `\.` or `['x.y/z']`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = |problem: &str| {
            Error::Usage(format!(
                "--sort-by {text:?}: {problem}; write a path such as .metadata.name or .metadata.labels['a.b/c']"
            ))
        };
        let inner = match text.strip_prefix('{') {
            Some(rest) => rest.strip_suffix('}').ok_or_else(|| bad("the `}` is missing"))?,
            None => text,
        };
        let mut steps = Vec::new();
        let mut rest = inner;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (step, after) = bracket(after).ok_or_else(|| bad("in [ ] stands a number or a quoted key"))?;
                steps.push(step);
                rest = after;
                continue;
            }
            let (key, after) = key(rest.strip_prefix('.').unwrap_or(rest));
            if key.is_empty() {
                return Err(bad("a key is empty"));
            }
            steps.push(Step::Key(key));
            rest = after;
        }
        if steps.is_empty() {
            return Err(bad("it is empty"));
        }
        Ok(Self {
            text: text.to_owned(),
            steps,
        })
    }

    /// Errors: no object has the field.
    pub fn sort(&self, objects: &mut Vec<Received>) -> Result<(), Error> {
        let values: Vec<Option<String>> = objects.iter().map(|o| self.value(&o.json)).collect();
        if !values.is_empty() && values.iter().all(Option::is_none) {
            return Err(Error::Refused(format!(
                "--sort-by {:?}: no object has this field; see `-o yaml` for those that there are",
                self.text
            )));
        }
        *objects = order(&values).into_iter().map(|i| objects[i].clone()).collect();
        Ok(())
    }

    fn value(&self, json: &Value) -> Option<String> {
        let found = self.steps.iter().try_fold(json, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })?;
        match found {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// A key up to the next `.` or `[`, and what follows it.
fn key(text: &str) -> (String, &str) {
    let mut key = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => key.extend(chars.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (key, &text[i..]),
            c => key.push(c),
        }
    }
    (key, "")
}

/// `0]…` or `'x.y']…`.
fn bracket(text: &str) -> Option<(Step, &str)> {
    for quote in ['\'', '"'] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let (key, after) = quoted.split_once(quote)?;
            return Some((Step::Key(key.to_owned()), after.strip_prefix(']')?));
        }
    }
    let (index, after) = text.split_once(']')?;
    Some((Step::Index(index.parse().ok()?), after))
}

/// The indices in order: by number, time or amount where all values are such, else as text; none first.
fn order(values: &[Option<String>]) -> Vec<usize> {
    fn by<K: PartialOrd>(values: &[Option<String>], read: impl Fn(&str) -> Option<K>) -> Option<Vec<usize>> {
        let keys: Vec<Option<K>> = values
            .iter()
            .map(|v| v.as_deref().map(|text| read(text).ok_or(())).transpose())
            .collect::<Result<_, ()>>()
            .ok()?;
        let mut order: Vec<usize> = (0..keys.len()).collect();
        // Total: what cannot be compared (not a number) is not read as a number.
        order.sort_by(|a, b| keys[*a].partial_cmp(&keys[*b]).unwrap_or(std::cmp::Ordering::Equal));
        Some(order)
    }
    by(values, |text| text.parse::<f64>().ok().filter(|n| n.is_finite()))
        .or_else(|| by(values, time))
        .or_else(|| by(values, |text| Quantity::parse(text).ok()))
        .or_else(|| by(values, |text| Some(text.to_owned())))
        .unwrap_or_default()
}

fn time(text: &str) -> Option<Time> {
    serde_json::from_value(Value::from(text)).ok()
}

#[cfg(test)]
mod tests {
    use proto::{model::Kind, wire};
    use serde_json::json;

    use super::*;

    fn objects(values: &[Value]) -> Vec<Received> {
        let object = |(i, value): (usize, &Value)| wire::Object {
            name: i.to_string(),
            json: json!({"metadata": {"labels": {"a.b/c": value}}, "list": [{"v": value}]})
                .to_string()
                .into_bytes(),
            ..wire::Object::default()
        };
        let all = values.iter().enumerate().map(object);
        all.map(|o| Received::new(Kind::Pod, o).expect("JSON")).collect()
    }

    fn sorted(path: &str, values: &[Value]) -> Result<Vec<String>, String> {
        let mut all = objects(values);
        let sort = SortBy::parse(path).map_err(|e| e.to_string())?;
        sort.sort(&mut all).map_err(|e| e.to_string())?;
        Ok(all.into_iter().map(|o| o.name).collect())
    }

    #[test]
    fn numbers_times_and_amounts_sort_as_such() {
        for (values, expected) in [
            (vec![json!(10), json!(9), json!(-1), json!(9)], ["2", "1", "3", "0"]),
            (
                vec![json!("16Gi"), json!("512Mi"), json!("1"), json!("2Ti")],
                ["2", "1", "0", "3"],
            ),
            (
                vec![
                    json!("2026-01-31T12:00:00Z"),
                    json!("2026-01-31T12:30:00+02:00"),
                    json!("2025-12-31T23:59:59Z"),
                    json!("2026-01-31T12:00:00.5Z"),
                ],
                ["2", "1", "0", "3"],
            ),
            (
                vec![json!("b"), json!("10"), json!("9"), json!("a")],
                ["1", "2", "3", "0"],
            ),
            (
                vec![json!("b"), Value::Null, json!("a"), json!("NaN")],
                ["1", "3", "2", "0"],
            ),
            (
                vec![json!("5"), Value::Null, json!("4"), json!("40")],
                ["1", "2", "0", "3"],
            ),
        ] {
            for path in [
                ".list[0].v",
                "{.list[0].v}",
                r".metadata.labels.a\.b/c",
                "metadata.labels['a.b/c']",
            ] {
                assert_eq!(sorted(path, &values).expect("sorted"), expected, "{path} {values:?}");
            }
        }
    }

    #[test]
    fn a_path_that_no_object_has_is_refused_and_one_that_some_have_is_not() {
        let error = sorted(".list[1].v", &[json!(1)]).expect_err("no such item");
        assert!(
            error.starts_with("--sort-by \".list[1].v\": no object has this field"),
            "{error}"
        );
        assert_eq!(sorted(".nothing", &[]), Ok(Vec::new()), "nothing to sort");
        for bad in ["", ".", "{.a", "a..b", ".a[x]", ".a['b]", ".a.", "{}"] {
            let error = sorted(bad, &[json!(1)]).expect_err(bad);
            assert!(error.contains("write a path such as"), "{error}");
        }
    }
}
