//! `wharf taint`.
//!
//! As `label`: every node is looked at before the first is changed; then one patch a node, made for the version that
//! was looked at, and made anew where others changed it meanwhile.
//!
//! Invariant: all taints of one node change together or none does; a value is overwritten only where the user says so.

use std::fmt;

use proto::model::{
    Kind, Taint, TaintEffect,
    labels::{check_label_key, check_label_value},
    parse,
};
use serde_json::{Value, json};

use crate::{
    amend::amend,
    args::TaintArgs,
    error::{Error, Refusals},
    received::Received,
    report::Report,
    select::{self, Chosen},
    session::Session,
};

pub async fn run(args: &TaintArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let is_change = |w: &String| w.contains(':') || w.ends_with('-');
    let (targets, words) = args
        .words
        .split_at(args.words.iter().position(is_change).unwrap_or(args.words.len()));
    let changes = words
        .iter()
        .map(|word| Change::parse(word))
        .collect::<Result<Vec<_>, _>>()?;
    check(&changes)?;
    let mut refusals = Refusals::default();
    let nodes = match select::choose(targets, &[], &args.which, session).await? {
        Chosen::Found(found) => found,
        Chosen::Named(named) => {
            let mut nodes = Vec::new();
            for target in named {
                if target.kind != Kind::Node {
                    let what =
                        format!("{target}: only nodes have taints, e.g. wharf taint node n1 key=value:NoSchedule");
                    return Err(Error::Usage(what));
                }
                let node = session.client.get(&target).await;
                nodes.extend(refusals.keep(node)?);
            }
            nodes
        }
    };
    if let Some(other) = nodes.iter().find(|n| n.kind != Kind::Node) {
        return Err(Error::Usage(format!("{}: only nodes have taints", other.reference())));
    }
    for node in &nodes {
        refusals.keep(wanted(&changes, args.overwrite, node))?;
    }
    // Nothing was changed yet.
    refusals.finish()?;
    let mut report = Report::new(args.output, args.dry_run);
    for node in nodes {
        let result = one(&changes, args, node, session).await;
        if !report.take(result, session)? {
            break;
        }
    }
    report.finish(session)
}

async fn one(
    changes: &[Change],
    args: &TaintArgs,
    node: Received,
    session: &mut Session<'_>,
) -> Result<(Received, &'static str), Error> {
    let target = node.reference();
    let change = |node: &Received| {
        let after = wanted(changes, args.overwrite, node)?;
        Ok((after != present(node)?).then(|| json!({"spec": {"taints": written(&after)}})))
    };
    let (node, done) = amend(node, args.dry_run.on, session, change).await?;
    let (before, after) = (present(&node)?, wanted(changes, args.overwrite, &node)?);
    let missing = changes.iter().filter(|c| !before.iter().any(|t| c.concerns(t)));
    for change in missing.filter(|c| matches!(c, Change::Remove { .. })) {
        session.note(&format!("{target}: taint {change} not found"));
    }
    let word = match changes.iter().any(|c| matches!(c, Change::Put(_))) {
        _ if after == before => "not changed",
        true => "tainted",
        false => "untainted",
    };
    Ok((done, word))
}

#[derive(Debug)]
enum Change {
    Put(Taint),
    /// No effect: every one.
    Remove {
        key: String,
        effect: Option<TaintEffect>,
    },
}

impl Change {
    /// `KEY[=VALUE]:EFFECT`, `KEY[=VALUE]:EFFECT-` or `KEY-`.
    fn parse(word: &str) -> Result<Self, Error> {
        let bad = |problem: String| Error::Usage(format!("{word:?}: {problem}"));
        let (text, removes) = match word.strip_suffix('-') {
            Some(text) => (text, true),
            None => (word, false),
        };
        let (left, effect) = match text.rsplit_once(':') {
            Some((left, effect)) => {
                let found = TaintEffect::ALL.into_iter().find(|e| e.as_str() == effect);
                let known = || TaintEffect::ALL.map(TaintEffect::as_str).join(", ");
                let found = found.ok_or_else(|| bad(format!("{effect:?} is no effect; use {}", known())))?;
                (left, Some(found))
            }
            None => (text, None),
        };
        let (key, value) = left.split_once('=').unwrap_or((left, ""));
        check_label_key(key).map_err(bad)?;
        check_label_value(value).map_err(bad)?;
        let (key, value) = (key.to_owned(), value.to_owned());
        match (removes, effect) {
            (true, effect) => Ok(Self::Remove { key, effect }),
            (false, Some(effect)) => Ok(Self::Put(Taint {
                key,
                value,
                effect,
                time_added: None,
            })),
            (false, None) => Err(bad(
                "is no KEY=VALUE:EFFECT and no KEY-; write the nodes before the changes".to_owned(),
            )),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Put(taint) => &taint.key,
            Self::Remove { key, .. } => key,
        }
    }

    fn effect(&self) -> Option<TaintEffect> {
        match self {
            Self::Put(taint) => Some(taint.effect),
            Self::Remove { effect, .. } => *effect,
        }
    }

    /// Whether the taint is the one that it puts or removes, whatever its value.
    fn concerns(&self, taint: &Taint) -> bool {
        self.key() == taint.key && self.effect().is_none_or(|e| e == taint.effect)
    }
}

/// `dedicated:NoSchedule`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect() {
            Some(effect) => write!(f, "{}:{effect}", self.key()),
            None => f.write_str(self.key()),
        }
    }
}

/// Refuses no change at all, and two of one taint.
fn check(changes: &[Change]) -> Result<(), Error> {
    if changes.is_empty() {
        return Err(Error::Usage(
            "nothing to change: give KEY=VALUE:EFFECT to set a taint, KEY:EFFECT- or KEY- to remove it".to_owned(),
        ));
    }
    for (i, change) in changes.iter().enumerate() {
        let twice = changes.iter().take(i).any(|other| {
            let effects = (other.effect(), change.effect());
            other.key() == change.key() && (effects.0.is_none() || effects.1.is_none() || effects.0 == effects.1)
        });
        if twice {
            return Err(Error::Usage(format!("taint {change} is changed twice; say it once")));
        }
    }
    Ok(())
}

fn present(node: &Received) -> Result<Vec<Taint>, Error> {
    match node.json["spec"].get("taints") {
        None => Ok(Vec::new()),
        Some(taints) => parse::typed(taints.clone()).map_err(|e| Error::Refused(format!("{}: {e}", node.reference()))),
    }
}

/// The node's taints as they should be. Errors: values that would be overwritten.
fn wanted(changes: &[Change], overwrite: bool, node: &Received) -> Result<Vec<Taint>, Error> {
    let mut taints = present(node)?;
    let mut others = Vec::new();
    for change in changes {
        let Change::Put(new) = change else {
            taints.retain(|t| !change.concerns(t));
            continue;
        };
        match taints.iter_mut().find(|t| t.replaces(new)) {
            None => taints.push(new.clone()),
            Some(old) if old.value == new.value => {}
            Some(old) if overwrite => *old = new.clone(),
            Some(old) => others.push(format!("taint {change}: it is {:?}, not {:?}", old.value, new.value)),
        }
    }
    if others.is_empty() {
        return Ok(taints);
    }
    let (name, others) = (&node.name, others.join("; "));
    let what = format!("node {name:?}: {others}; give --overwrite to change it");
    Err(Error::Refused(what))
}

/// As a patch has them; their times are the coordinator's.
fn written(taints: &[Taint]) -> Value {
    let one = |t: &Taint| {
        let mut taint = json!({"key": t.key, "effect": t.effect.as_str()});
        if !t.value.is_empty() {
            taint["value"] = json!(t.value);
        }
        taint
    };
    match taints {
        [] => Value::Null,
        taints => taints.iter().map(one).collect(),
    }
}
