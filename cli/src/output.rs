//! Output formats: Kubernetes-shaped JSON and YAML, names, and text made safe for a terminal.
//!
//! Invariant: JSON and YAML show the coordinator's object as it was sent, fields unknown to this build included.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::{error::Error, received::Received};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Wide,
    Json,
    Yaml,
    Name,
}

/// Formats that show whole objects, for commands that have no table of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ObjectFormat {
    Json,
    Yaml,
    Name,
}

/// Pretty JSON, with a line end.
pub fn json(value: &Value) -> String {
    // A `Value` has string keys and finite numbers, so this cannot fail.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

pub fn yaml(value: &Value) -> Result<String, Error> {
    let mut text = serde_saphyr::to_string(value)
        .map_err(|e| Error::Refused(format!("the object cannot be shown as YAML: {e}")))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// `pod/x`.
pub fn name(object: &Received) -> String {
    format!("{}/{}", object.kind.singular(), object.name)
}

/// `kind: List` as kubectl prints it; `revision` is there when the items are true at one.
pub fn list(items: &[Received], revision: Option<u64>) -> Value {
    let items: Vec<&Value> = items.iter().map(|o| &o.json).collect();
    json!({
        "apiVersion": "v1",
        "kind": "List",
        "metadata": {"resourceVersion": revision.map_or_else(String::new, |r| r.to_string())},
        "items": items,
    })
}

/// `a=b,c=d`, or `<none>`.
pub fn pairs<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    let mut out = String::new();
    for (key, value) in map {
        let comma = if out.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{key}={value}");
    }
    or_none(out)
}

/// `text`, or `<none>` when it is empty.
pub fn or_none(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// Bytes with a binary unit and at most one decimal: `512Mi`, `15.6Gi`.
pub fn bytes(bytes: u64) -> String {
    let (mut unit, mut size) = ("", 1_u64);
    for (name, shift) in [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50)] {
        if bytes >= 1 << shift {
            (unit, size) = (name, 1 << shift);
        }
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(size / 2)) / u128::from(size);
    match tenths % 10 {
        0 => format!("{}{unit}", tenths / 10),
        tenth => format!("{}.{tenth}{unit}", tenths / 10),
    }
}

/// One line that cannot steer a terminal: line ends become spaces, other control characters `?`.
pub fn clean(text: &str) -> String {
    text.trim_end_matches(['\n', '\r'])
        .chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (n, expected) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (64 << 20, "64Mi"),
            (16_750_000_000, "15.6Gi"),
            (u64::MAX, "16384Pi"),
        ] {
            assert_eq!(bytes(n), expected);
        }
    }

    #[test]
    fn yaml_keeps_what_looks_like_another_type_a_string() {
        let value =
            json!({"a": "1", "b": "yes", "c": "null", "d": "2026-01-31T12:00:00Z", "e": ["x: y", ""], "f": "l1\nl2"});
        let text = yaml(&value).expect("written");
        let back: Value = serde_saphyr::from_str(&text).expect("read");
        assert_eq!(back, value, "{text}");
    }
}
