//! Takes out of an object what has no effect here, and says what cannot be. Called by
//! [`parse`](crate::model::parse) before the typed reading, and by what checks a part of an object.
//!
//! Invariant: total and idempotent; what it leaves has no field that the model's types lack.

use std::fmt::Write;

use serde_json::Value;

use super::{Field, Fields, Rule, Shape, find, of};
use crate::model::{
    FieldError, Kind,
    parse::{UNSUPPORTED_WORDS, hint},
};

/// How many fields a warning names.
const NAMED: usize = 5;

#[derive(Debug, Default)]
pub struct Stripped {
    /// Paths that are not supported or do not exist. They are taken out too, so that the rest can be read.
    pub errors: Vec<FieldError>,
    /// Paths of what was taken out because it has no effect, in the object's order.
    pub without_effect: Vec<String>,
}

/// Strips an object of `kind`, or a part of one from its root down, such as a patch. A field that is null is a field
/// left out.
pub fn strip(kind: Kind, object: &mut Value) -> Stripped {
    let mut stripped = Stripped::default();
    stripped.fields(of(kind), object, &mut String::new());
    stripped
}

/// One line on all that has no effect; none where there is nothing to say.
pub fn warning(without_effect: &[String]) -> Option<String> {
    let (named, more) = without_effect.split_at(without_effect.len().min(NAMED));
    if named.is_empty() {
        return None;
    }
    let mut text = format!("no effect here, left out: {}", named.join(", "));
    if !more.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, " and {} more", more.len());
    }
    Some(text)
}

impl Stripped {
    fn fields(&mut self, fields: Fields, value: &mut Value, path: &mut String) {
        // Another type is the typed reading's to refuse.
        let Value::Object(map) = value else { return };
        map.retain(|name, value| {
            let length = path.len();
            if length > 0 {
                path.push('.');
            }
            path.push_str(name);
            let keep = match find(fields, name) {
                Some(field) => self.field(field, value, path),
                None => {
                    let known: Vec<_> = fields.iter().map(|f| f.name).collect();
                    self.fail(path, format!("unknown field{}", hint(name, &known)))
                }
            };
            path.truncate(length);
            keep
        });
    }

    /// Whether to keep it.
    fn field(&mut self, field: &Field, value: &mut Value, path: &mut String) -> bool {
        if value.is_null() {
            return false;
        }
        match field.rule {
            Rule::Acted => {
                self.inner(field.shape, value, path);
                true
            }
            Rule::Ours | Rule::Idle => self.idle(path),
            Rule::IdleIf(holds) | Rule::ActedUnless(holds) if holds(value) => self.idle(path),
            Rule::ActedUnless(_) => {
                self.inner(field.shape, value, path);
                true
            }
            Rule::IdleIf(_) | Rule::Unsupported => self.fail(path, UNSUPPORTED_WORDS.to_owned()),
        }
    }

    fn inner(&mut self, shape: Shape, value: &mut Value, path: &mut String) {
        match (shape, value) {
            (Shape::Object(fields), value) => self.fields(fields, value, path),
            (Shape::Items(fields, _), Value::Array(items)) => {
                let length = path.len();
                for (i, item) in items.iter_mut().enumerate() {
                    // As above.
                    let _ = write!(path, "[{i}]");
                    self.fields(fields, item, path);
                    path.truncate(length);
                }
            }
            (Shape::Map, Value::Object(map)) => map.retain(|_, v| !v.is_null()),
            _ => {}
        }
    }

    fn idle(&mut self, path: &str) -> bool {
        self.without_effect.push(path.to_owned());
        false
    }

    fn fail(&mut self, path: &str, message: String) -> bool {
        self.errors.push(FieldError::new(path, message));
        false
    }
}
