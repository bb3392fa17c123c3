//! Kinds and names as written on the command line: `pods`, `po,rc`, `pod x y`, `pod/x rc/y`.
//!
//! Invariant: a name is never empty, so that no request means more objects than the user named.

use std::fmt;

use proto::model::{Kind, parse::hint};

use crate::error::Error;

/// One object, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    pub kind: Kind,
    /// Empty for kinds without one.
    pub namespace: String,
    pub name: String,
}

/// `pod/x`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.singular(), self.name)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Targets {
    /// Everything of these kinds.
    Kinds(Vec<Kind>),
    /// In the order given.
    Named(Vec<(Kind, String)>),
}

impl Targets {
    pub fn parse(words: &[String]) -> Result<Self, Error> {
        let Some((first, rest)) = words.split_first() else {
            return Err(Error::Usage("which kind? e.g. pods".into()));
        };
        if first.contains('/') {
            let named = words.iter().map(|w| slash(w)).collect::<Result<_, _>>()?;
            return Ok(Self::Named(named));
        }
        let mut kinds = Vec::new();
        for kind in first.split(',') {
            let kind = self::kind(kind)?;
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if rest.is_empty() {
            return Ok(Self::Kinds(kinds));
        }
        if let Some(word) = rest.iter().find(|w| w.contains('/')) {
            return Err(Error::Usage(format!(
                "{word:?}: write KIND NAME... or KIND/NAME..., not both"
            )));
        }
        let pairs = kinds.iter().flat_map(|k| rest.iter().map(|n| (*k, n)));
        let named = pairs.map(|(k, n)| Ok((k, name(k, n)?))).collect::<Result<_, Error>>()?;
        Ok(Self::Named(named))
    }

    /// The kinds, each once, in the order of their first mention.
    pub fn kinds(&self) -> Vec<Kind> {
        match self {
            Self::Kinds(kinds) => kinds.clone(),
            Self::Named(named) => {
                let mut kinds = Vec::new();
                for (kind, _) in named {
                    if !kinds.contains(kind) {
                        kinds.push(*kind);
                    }
                }
                kinds
            }
        }
    }
}

/// A kind by any of its names.
pub fn kind(text: &str) -> Result<Kind, Error> {
    Kind::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL
            .iter()
            .flat_map(|k| [k.singular(), k.plural(), k.short()])
            .collect();
        let known: Vec<String> = Kind::ALL
            .iter()
            .map(|k| format!("{} ({})", k.plural(), k.short()))
            .collect();
        Error::Usage(format!(
            "unknown kind {text:?}; known: {}{}",
            known.join(", "),
            hint(text, &names)
        ))
    })
}

fn slash(word: &str) -> Result<(Kind, String), Error> {
    match word.split_once('/') {
        Some((kind_text, name_text)) if !name_text.contains('/') => {
            let kind = kind(kind_text)?;
            Ok((kind, name(kind, name_text)?))
        }
        _ => Err(Error::Usage(format!("{word:?} is not KIND/NAME"))),
    }
}

fn name(kind: Kind, text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Err(Error::Usage(format!("the name of the {} is empty", kind.singular())));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Targets, String> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Targets::parse(&words).map_err(|e| e.to_string())
    }

    #[test]
    fn all_ways_to_name_things() {
        use Kind::{Pod, ReplicationController as Rc};
        assert_eq!(parse(&["po,rc,pods"]), Ok(Targets::Kinds(vec![Pod, Rc])));
        assert_eq!(
            parse(&["Pod", "a", "b"]),
            Ok(Targets::Named(vec![(Pod, "a".into()), (Pod, "b".into())]))
        );
        let mixed = parse(&["rc/a", "po/b", "rc/c"]);
        assert_eq!(
            mixed,
            Ok(Targets::Named(vec![
                (Rc, "a".into()),
                (Pod, "b".into()),
                (Rc, "c".into())
            ]))
        );
        assert_eq!(mixed.map(|t| t.kinds()), Ok(vec![Rc, Pod]));
    }

    #[test]
    fn and_ways_not_to() {
        for (words, expected) in [
            (
                &["pdos"][..],
                "unknown kind \"pdos\"; known: nodes (no), namespaces (ns), replicationcontrollers (rc), daemonsets (ds), \
                 pods (po), poddisruptionbudgets (pdb), endpoints (ep), events (ev); did you mean `pods`?",
            ),
            (&["pods,"], "unknown kind \"\""),
            (&["pod", "a/b"], "\"a/b\": write KIND NAME"),
            (&["pod/a", "b"], "\"b\" is not KIND/NAME"),
            (&["pod/a/b"], "\"pod/a/b\" is not KIND/NAME"),
            (&["pod/"], "the name of the pod is empty"),
            (&["pod", ""], "the name of the pod is empty"),
        ] {
            let error = parse(words).expect_err("refused");
            assert!(error.starts_with(expected), "{words:?}: {error}");
        }
    }
}
