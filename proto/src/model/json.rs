//! JSON text as a value, with what serde_json lets pass refused: a key that stands twice. Also removal by path.
//! Used by [`super::parse`].
//!
//! Invariant: total; nesting beyond serde_json's limit is an error, not an overflow.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Number, Value};

use super::FieldError;

/// What a key that stands twice is refused with.
const TWICE: &str = "stands twice; leave one";

/// Reads one value from all of `text`.
pub fn read(text: &[u8]) -> Result<Value, FieldError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let not_json = |e: serde_json::Error| FieldError::new("", format!("not JSON: {e}"));
    let value = match serde_path_to_error::deserialize::<_, Unique>(&mut deserializer) {
        Ok(Unique(value)) => value,
        Err(e) => {
            let path = e.path().to_string();
            let inner = e.into_inner();
            if !inner.is_data() {
                return Err(not_json(inner));
            }
            let text = inner.to_string();
            // The key, before serde_json's mention of the place.
            let key = text.rsplit_once(" at line ").map_or(text.as_str(), |(key, _)| key);
            let at = if path == "." || path == key || path.ends_with(&format!(".{key}")) {
                path
            } else {
                format!("{path}.{key}")
            };
            let at = if at == "." { key.to_owned() } else { at };
            return Err(FieldError::new(at, TWICE));
        }
    };
    deserializer.end().map_err(not_json)?;
    Ok(value)
}

/// A value none of whose maps has a key twice; the error's text is that key.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Visitor).map(Self)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Unique(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.contains_key(&key) {
                return Err(de::Error::custom(key));
            }
            let Unique(value) = map.next_value()?;
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }
}

/// Removes the map entry at a path as in a [`FieldError`], e.g. `spec.containers[0].name`; says whether there was
/// one. Keys may hold dots: the longest one that fits is meant.
pub fn remove(value: &mut Value, path: &str) -> bool {
    match value {
        Value::Object(map) => {
            let begins = |key: &str| {
                path.strip_prefix(key)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let Some(key) = map.keys().filter(|k| begins(k)).max_by_key(|k| k.len()).cloned() else {
                return false;
            };
            let rest = &path[key.len()..];
            if rest.is_empty() {
                return map.shift_remove(&key).is_some();
            }
            let rest = rest.strip_prefix('.').unwrap_or(rest);
            map.get_mut(&key).is_some_and(|inner| remove(inner, rest))
        }
        Value::Array(items) => {
            let Some((index, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) else {
                return false;
            };
            let item = index.parse::<usize>().ok().and_then(|i| items.get_mut(i));
            item.is_some_and(|inner| remove(inner, rest.strip_prefix('.').unwrap_or(rest)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_json_but_no_key_twice() {
        for (text, expected) in [
            (r#"{"a": [1, -1, 1.5, "x", true, null, {}], "b": {"a": 1}}"#, ""),
            (r#"{"a": 1, "a": 2}"#, "a: stands twice; leave one"),
            (
                r#"{"a": [{}, {"b.c": 1, "b.c": 1}]}"#,
                "a[1].b.c: stands twice; leave one",
            ),
            (r#"{"a": {"a": {"x": 1, "x": 2}}}"#, "a.a.x: stands twice; leave one"),
            ("{", "not JSON: EOF while parsing an object at line 1 column 1"),
            ("{} {}", "not JSON: trailing characters at line 1 column 4"),
            ("", "not JSON: EOF while parsing a value at line 1 column 0"),
        ] {
            match read(text.as_bytes()) {
                Ok(value) => {
                    assert_eq!(expected, "", "{text}");
                    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), value);
                }
                Err(e) => assert_eq!(e.to_string(), expected, "{text}"),
            }
        }
        let deep = "[".repeat(100_000);
        let error = read(deep.as_bytes()).expect_err("too deep").to_string();
        assert!(error.starts_with("not JSON: recursion limit exceeded"), "{error}");
    }

    #[test]
    fn removes_by_path() {
        let mut value = json!({"a": [{"b.c": null, "d": 1, "b": {"c": 1}}]});
        for path in ["a[0]", "a[1].d", "a[x].d", "a.d", "", "a[0].z"] {
            assert!(!remove(&mut value, path), "{path}");
        }
        assert!(remove(&mut value, "a[0].b.c"));
        assert_eq!(value, json!({"a": [{"d": 1, "b": {"c": 1}}]}));
    }
}
