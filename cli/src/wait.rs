//! Waits until objects are in a condition, are there, or are gone: `wharf wait`, and the end of `delete`.
//!
//! Invariant: a wait changes nothing, outlives a restart of the coordinator, and ends with what it saw last.

use std::time::Duration;

use proto::model::Kind;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    args::WaitArgs,
    client::{Query, not_found},
    error::{Error, Refusals},
    follow::{Follow, Patience, Step},
    received::Received,
    select::{self, Chosen},
    session::Session,
    target::Reference,
};

/// What to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    Gone,
    Present,
    Condition { kind: String, status: String },
}

/// `condition=Ready`, `condition=Ready=False`, `create`, `delete`.
pub fn goal(text: &str) -> Result<Goal, String> {
    match text {
        "delete" => return Ok(Goal::Gone),
        "create" => return Ok(Goal::Present),
        _ => {}
    }
    let condition = text
        .strip_prefix("condition=")
        .map(|c| c.split_once('=').unwrap_or((c, "True")));
    match condition {
        Some((kind, status)) if !kind.is_empty() && !status.is_empty() => Ok(Goal::Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
        }),
        _ => Err("expected condition=TYPE, condition=TYPE=STATUS, create or delete".to_owned()),
    }
}

impl Goal {
    fn words(&self) -> String {
        match self {
            Self::Gone => "it to go".to_owned(),
            Self::Present => "it to be there".to_owned(),
            Self::Condition { kind, status } if status.eq_ignore_ascii_case("true") => format!("condition {kind}"),
            Self::Condition { kind, status } => format!("condition {kind}={status}"),
        }
    }

    /// `uid`: only this object counts, not a successor of its name.
    fn judge(&self, target: &Reference, uid: Option<&str>, found: Option<&Received>) -> Verdict {
        let same = found.filter(|o| uid.is_none_or(|uid| uid == o.uid));
        match (self, same) {
            (Self::Gone, None) => Verdict::Met,
            (Self::Gone, Some(o)) if o.json["metadata"]["deletionTimestamp"].is_null() => {
                Verdict::NotYet("it is there".to_owned())
            }
            (Self::Gone, Some(_)) => Verdict::NotYet("it is being deleted".to_owned()),
            (Self::Present, Some(_)) => Verdict::Met,
            (Self::Present, None) => Verdict::NotYet("it is not there".to_owned()),
            (Self::Condition { .. }, None) if uid.is_none() => Verdict::Failed(not_found(target.kind, &target.name)),
            (Self::Condition { .. }, None) => Verdict::Failed(Error::Refused(format!(
                "{} {:?}: it was deleted during the wait for {}",
                target.kind.singular(),
                target.name,
                self.words()
            ))),
            (Self::Condition { kind, status }, Some(o)) => condition(&o.json, kind, status),
        }
    }
}

enum Verdict {
    Met,
    /// What is seen instead.
    NotYet(String),
    Failed(Error),
}

fn condition(json: &Value, kind: &str, status: &str) -> Verdict {
    let conditions = json.pointer("/status/conditions").and_then(Value::as_array);
    let conditions = conditions.map_or(&[][..], Vec::as_slice);
    let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
    let Some(found) = conditions.iter().find(|c| text(c, "type").eq_ignore_ascii_case(kind)) else {
        let known: Vec<String> = conditions.iter().map(|c| text(c, "type")).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Verdict::NotYet(format!("it has no condition {kind} (it has: {known})"));
    };
    if text(found, "status").eq_ignore_ascii_case(status) {
        return Verdict::Met;
    }
    let why: Vec<String> = ["reason", "message"]
        .iter()
        .map(|f| text(found, f))
        .filter(|t| !t.is_empty())
        .collect();
    let why = if why.is_empty() {
        String::new()
    } else {
        format!(", {}", why.join(": "))
    };
    Verdict::NotYet(format!("{} is {}{why}", text(found, "type"), text(found, "status")))
}

/// One object that is waited for.
pub struct Waiting {
    pub target: Reference,
    /// Known from the start, or from when it was seen first.
    pub uid: Option<String>,
    /// What was seen last.
    pub seen: String,
}

impl Waiting {
    pub fn new(target: Reference, uid: Option<String>) -> Self {
        Self {
            target,
            uid,
            seen: "nothing seen yet".to_owned(),
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing is left to wait for.
    Done,
    TimedOut,
    Interrupted,
}

/// A wait's bounds and manners.
pub struct Wait<'a> {
    pub goal: &'a Goal,
    /// None: for ever. Zero: look once.
    pub timeout: Option<Duration>,
    /// A coordinator has answered this command before.
    pub known: bool,
    /// Say of each object when it is so.
    pub announce: bool,
}

pub async fn run(args: &WaitArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut waiting: Vec<Waiting> = match select::choose(&args.targets, &[], &args.which, session).await? {
        Chosen::Named(named) => named.into_iter().map(|target| Waiting::new(target, None)).collect(),
        Chosen::Found(found) => {
            let found = found.into_iter();
            found.map(|o| Waiting::new(o.reference(), Some(o.uid))).collect()
        }
    };
    let wait = Wait {
        goal: &args.goal,
        timeout: Some(args.timeout),
        known: false,
        announce: true,
    };
    let mut refusals = Refusals::default();
    let end = wait.run(&mut waiting, &mut refusals, session).await?;
    match end {
        End::Done => {}
        End::TimedOut => {
            for w in &waiting {
                let (kind, name) = (w.target.kind.singular(), &w.target.name);
                refusals.push(Error::TimedOut(format!(
                    "{kind} {name:?}: no longer waiting for {} after {}; last seen: {}; see `wharf describe {kind} {name}`",
                    args.goal.words(),
                    humantime::format_duration(args.timeout),
                    w.seen
                )));
            }
        }
        End::Interrupted => {
            let what = match &waiting[..] {
                [one] => one.target.to_string(),
                more => format!("{} objects", more.len()),
            };
            refusals.push(Error::Interrupted(format!(
                "no longer waiting for {what}; nothing is undone by that"
            )));
        }
    }
    refusals.finish()
}

impl Wait<'_> {
    /// Takes each object out of `waiting` once it is as it should be, or can no longer become so, which is a refusal.
    pub async fn run(
        &self,
        waiting: &mut Vec<Waiting>,
        refusals: &mut Refusals,
        session: &mut Session<'_>,
    ) -> Result<End, Error> {
        let interrupt = session.env.interrupt.clone();
        let once = self.timeout == Some(Duration::ZERO);
        let deadline = self.timeout.filter(|t| !t.is_zero()).map(|t| Instant::now() + t);
        let expired = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = self.all(waiting, once, refusals, session) => {
                result?;
                Ok(if waiting.is_empty() { End::Done } else { End::TimedOut })
            }
            () = expired => Ok(End::TimedOut),
            () = interrupt => Ok(End::Interrupted),
        }
    }

    async fn all(
        &self,
        waiting: &mut Vec<Waiting>,
        once: bool,
        refusals: &mut Refusals,
        session: &mut Session<'_>,
    ) -> Result<(), Error> {
        let mut groups: Vec<(Kind, String)> = Vec::new();
        for w in waiting.iter() {
            let group = (w.target.kind, w.target.namespace.clone());
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        for (kind, namespace) in groups {
            let query = query(kind, &namespace, waiting);
            let (client, times) = (session.client.clone(), session.env.times);
            let mut follow = Follow::new(client, query, times, Patience::Endless, self.known);
            let ours = |w: &Waiting| w.target.kind == kind && w.target.namespace == namespace;
            while waiting.iter().any(ours) {
                match follow.next().await? {
                    Step::All(objects) => {
                        let find = |w: &Waiting| objects.iter().find(|o| o.name == w.target.name);
                        self.look(waiting, |w| ours(w).then(|| find(w)), refusals, session)?;
                        if once {
                            break;
                        }
                    }
                    Step::Put(object) => {
                        let about = |w: &Waiting| (ours(w) && w.target.name == object.name).then_some(Some(&object));
                        self.look(waiting, about, refusals, session)?;
                    }
                    Step::Gone(object) => {
                        let about = |w: &Waiting| {
                            let it = w.target.name == object.name && w.uid.as_ref().is_none_or(|u| *u == object.uid);
                            (ours(w) && it).then_some(None)
                        };
                        self.look(waiting, about, refusals, session)?;
                    }
                    Step::Broken(why) => session.note(&format!("watch: {why}; going on")),
                }
            }
        }
        Ok(())
    }

    /// Judges those that `about` says something of: the object, or that it is not there.
    fn look<'o>(
        &self,
        waiting: &mut Vec<Waiting>,
        about: impl Fn(&Waiting) -> Option<Option<&'o Received>>,
        refusals: &mut Refusals,
        session: &mut Session<'_>,
    ) -> Result<(), Error> {
        let mut met = String::new();
        waiting.retain_mut(|w| {
            let Some(found) = about(w) else { return true };
            let verdict = self.goal.judge(&w.target, w.uid.as_deref(), found);
            if let (None, Some(found)) = (&w.uid, found) {
                w.uid = Some(found.uid.clone());
            }
            match verdict {
                Verdict::Met => {
                    met.push_str(&format!("{} condition met\n", w.target));
                    return false;
                }
                Verdict::NotYet(seen) => w.seen = seen,
                Verdict::Failed(error) => {
                    refusals.push(error);
                    return false;
                }
            }
            true
        });
        if self.announce && !met.is_empty() {
            session.out(&met)?;
        }
        Ok(())
    }
}

/// One object by name; several by all of their kind, so that one watch serves them.
fn query(kind: Kind, namespace: &str, waiting: &[Waiting]) -> Query {
    let mut ours = waiting
        .iter()
        .filter(|w| w.target.kind == kind && w.target.namespace == namespace);
    let fields = match (ours.next(), ours.next()) {
        (Some(one), None) => format!("metadata.name={}", one.target.name),
        _ => String::new(),
    };
    Query {
        kind,
        namespace: namespace.to_owned(),
        labels: String::new(),
        fields,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals() {
        let of = |kind: &str, status: &str| Goal::Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
        };
        for (text, expected) in [
            ("delete", Goal::Gone),
            ("create", Goal::Present),
            ("condition=Ready", of("Ready", "True")),
            ("condition=Ready=false", of("Ready", "false")),
        ] {
            assert_eq!(goal(text), Ok(expected));
        }
        for bad in [
            "",
            "Ready",
            "condition=",
            "condition=Ready=",
            "condition",
            "deleted",
            "jsonpath={.a}",
        ] {
            assert!(goal(bad).is_err(), "{bad}");
        }
    }
}
