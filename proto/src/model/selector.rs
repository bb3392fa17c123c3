//! Label and field selectors as written on a command line. Used by the coordinator for List and Watch.

use std::collections::BTreeMap;

use super::labels::{check_label_key, check_label_value};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("selector `{selector}`: {problem}")]
pub struct SelectorError {
    pub selector: String,
    pub problem: String,
}

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k`; all must hold. Empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    /// Holds too where the key is absent, as in Kubernetes.
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl LabelSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let fail = |problem: String| SelectorError {
            selector: text.to_owned(),
            problem,
        };
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text).map_err(&fail)? {
            requirements.push(Requirement::parse(part.trim()).map_err(&fail)?);
        }
        Ok(Self(requirements))
    }

    /// Every pair must be there.
    pub fn of_map(map: &BTreeMap<String, String>) -> Self {
        Self(
            map.iter()
                .map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()]))
                .collect(),
        )
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|r| match r {
            Requirement::In(k, vs) => labels.get(k).is_some_and(|v| vs.contains(v)),
            Requirement::NotIn(k, vs) => labels.get(k).is_none_or(|v| !vs.contains(v)),
            Requirement::Exists(k) => labels.contains_key(k),
            Requirement::Absent(k) => !labels.contains_key(k),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Requirement {
    fn parse(part: &str) -> Result<Self, String> {
        let key = |k: &str| check_label_key(k.trim()).map(|()| k.trim().to_owned());
        let value = |v: &str| check_label_value(v.trim()).map(|()| v.trim().to_owned());
        if part.is_empty() {
            return Err("an empty requirement between commas".to_owned());
        }
        if let Some((left, list)) = part.split_once('(') {
            let list = list.strip_suffix(')').ok_or("a list must end with `)`")?;
            let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
            let (name, operator) = left
                .trim()
                .rsplit_once(char::is_whitespace)
                .ok_or("expected `KEY in (…)` or `KEY notin (…)`")?;
            return match operator {
                "in" => Ok(Self::In(key(name)?, values)),
                "notin" => Ok(Self::NotIn(key(name)?, values)),
                other => Err(format!("unknown operator `{other}`; use in or notin")),
            };
        }
        if let Some((k, v)) = part.split_once("!=") {
            return Ok(Self::NotIn(key(k)?, vec![value(v)?]));
        }
        if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
            return Ok(Self::In(key(k)?, vec![value(v)?]));
        }
        match part.strip_prefix('!') {
            Some(k) => Ok(Self::Absent(key(k)?)),
            None => Ok(Self::Exists(key(part)?)),
        }
    }
}

fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
        if !(0..=1).contains(&depth) {
            return Err("parentheses do not match".to_owned());
        }
    }
    if depth != 0 {
        return Err("parentheses do not match".to_owned());
    }
    parts.push(&text[start..]);
    Ok(parts)
}

/// `path=value,path!=value`; which paths a kind has is checked by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(pub Vec<(String, bool, String)>);

impl FieldSelector {
    /// `(path, equal, value)`; `supported` lists the paths of the kind.
    pub fn parse(text: &str, supported: &[&str]) -> Result<Self, SelectorError> {
        let fail = |problem: String| SelectorError {
            selector: text.to_owned(),
            problem,
        };
        let mut out = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (path, equal, value) = if let Some((p, v)) = part.split_once("!=") {
                (p, false, v)
            } else if let Some((p, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (p, true, v)
            } else {
                return Err(fail(format!("`{part}` is not PATH=VALUE or PATH!=VALUE")));
            };
            let path = path.trim();
            if !supported.contains(&path) {
                return Err(fail(format!(
                    "field `{path}` cannot be selected by; use {}",
                    supported.join(", ")
                )));
            }
            out.push((path.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self(out))
    }

    /// `get` returns the object's value at a path.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|(path, equal, value)| (get(path) == value) == *equal)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn selects() {
        let l = labels(&[("a", "b"), ("zone", "north")]);
        for (selector, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a=c", false),
            ("a!=c", true),
            ("x!=c", true),
            ("zone in (north, south)", true),
            ("zone notin (north)", false),
            ("a", true),
            ("!a", false),
            ("!x", true),
            ("a=b,zone in (north,south),!x", true),
        ] {
            assert_eq!(
                LabelSelector::parse(selector).map(|s| s.matches(&l)),
                Ok(expected),
                "{selector}"
            );
        }
    }

    #[test]
    fn refuses() {
        for selector in [
            "a=b,",
            "a in north",
            "a in (b",
            "a like (b)",
            "=b",
            "a=b c",
            "(a)",
            "a in (b))",
            "ä=b",
        ] {
            assert!(LabelSelector::parse(selector).is_err(), "{selector}");
        }
        assert!(FieldSelector::parse("spec.x=1", &["metadata.name"]).is_err());
        assert!(FieldSelector::parse("metadata.name", &["metadata.name"]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = LabelSelector::parse(&text);
            let _ = FieldSelector::parse(&text, &["metadata.name"]);
        }
    }
}
