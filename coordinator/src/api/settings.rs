//! Show, Set, Freeze, Unfreeze: what holds for the whole cluster. Mounted by the listener.
//!
//! Invariant: Set changes all that it names or nothing; what is stored is a value within its bounds.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use proto::{
    model::{Time, labels::quoted, parse::hint},
    wire::{
        self, FreezeReply, FreezeRequest, SetSettingsReply, SetSettingsRequest, ShowSettingsReply, ShowSettingsRequest,
        UnfreezeRequest,
    },
};
use serde_json::{Value, json};
use tonic::{Extensions, Request, Response, Status};

use super::{
    Api,
    errors::ApiError,
    freeze::{self, Freezing},
    write::{Decision, Outcome, Subject, Ticket, now_ms},
};
use crate::{
    ca::authorizer::Attributes,
    plan::health,
    store::{Change, Expect, keys},
    world::{
        World,
        record::{FreezeRecord, SettingsRecord, encode},
        settings::{ALL, Setting, find},
    },
};

/// Values that this coordinator was started with, by name: they hold for what is not set.
pub type Started = BTreeMap<&'static str, u64>;

/// What is there once in a cluster.
#[derive(Clone, Debug)]
pub enum Single {
    Settings,
    /// As it is after the change.
    Freeze(Option<FreezeRecord>),
}

impl Subject for Single {
    fn names(&self) -> [&str; 4] {
        match self {
            Self::Settings => [keys::SETTINGS, "", "", ""],
            Self::Freeze(_) => [keys::FREEZE, "", "", ""],
        }
    }

    fn path(&self) -> String {
        let [name, ..] = self.names();
        name.to_owned()
    }
}

pub struct SettingsService {
    pub(super) api: Arc<Api>,
    pub(super) started: Started,
}

#[async_trait]
impl wire::settings_server::Settings for SettingsService {
    async fn show(&self, request: Request<ShowSettingsRequest>) -> Result<Response<ShowSettingsReply>, Status> {
        self.admit(request.extensions(), "get", "")?;
        Ok(Response::new(self.api.hub.read(|world| ShowSettingsReply {
            settings: ALL.into_iter().map(|s| self.shown(world, s)).collect(),
            freeze: world.freeze.as_ref().map(|f| freeze::to_wire(&f.value)),
            brake: brake_words(world, Time::now()),
        })))
    }

    async fn set(&self, request: Request<SetSettingsRequest>) -> Result<Response<SetSettingsReply>, Status> {
        let message = request.get_ref();
        let caller = self.admit(request.extensions(), "update", "")?;
        let ticket =
            Ticket::new(caller, "set", message.dry_run, &message.request_id, message)?.because(request.metadata())?;
        let outcome = self.api.write(&ticket, |world| self.decide(world, message)).await?;
        let changed = match outcome {
            Outcome::Done(decision) | Outcome::Unchanged(decision) => decision.result,
            Outcome::Repeat(repeat) => repeat.record.result,
        };
        let changed = changed.split_terminator(',').map(str::to_owned).collect();
        Ok(Response::new(SetSettingsReply { changed }))
    }

    async fn freeze(&self, request: Request<FreezeRequest>) -> Result<Response<FreezeReply>, Status> {
        let message = request.get_ref();
        let caller = self.admit(request.extensions(), "update", "freeze")?;
        let freezing = Freezing::new(&caller, message)?;
        let ticket = Ticket::new(caller, "freeze", message.dry_run, &message.request_id, message)?
            .because(request.metadata())?
            .with_reason(freezing.reason());
        let outcome = self
            .api
            .write(&ticket, |world| Ok(freezing.decide(world, now_ms())))
            .await?;
        Ok(Response::new(self.frozen(outcome)))
    }

    async fn unfreeze(&self, request: Request<UnfreezeRequest>) -> Result<Response<FreezeReply>, Status> {
        let message = request.get_ref();
        let caller = self.admit(request.extensions(), "update", "freeze")?;
        let ticket = Ticket::new(caller, "unfreeze", message.dry_run, &message.request_id, message)?
            .because(request.metadata())?;
        let outcome = self.api.write(&ticket, |world| Ok(freeze::end(world))).await?;
        Ok(Response::new(self.frozen(outcome)))
    }
}

impl SettingsService {
    fn admit(&self, extensions: &Extensions, verb: &str, subresource: &str) -> Result<String, Status> {
        let action = Attributes {
            verb,
            resource: "settings",
            subresource,
            ..Attributes::default()
        };
        self.api.admit(extensions, &action)
    }

    fn shown(&self, world: &World, setting: &Setting) -> wire::Setting {
        let given = world.settings.given(setting);
        let unset = self.started.get(setting.name).copied().unwrap_or(setting.default);
        wire::Setting {
            name: setting.name.to_owned(),
            value: setting.show(given.unwrap_or(unset)),
            default_value: setting.show(setting.default),
            set: given.is_some(),
            about: setting.about.to_owned(),
        }
    }

    fn decide(&self, world: &World, message: &SetSettingsRequest) -> Result<Decision<Single>, ApiError> {
        let stored = world.settings_record.as_ref();
        let before: SettingsRecord = stored.map(|s| (*s.value).clone()).unwrap_or_default();
        let after = applied(&before, message)?;
        let names = before.keys().chain(after.keys()).map(String::as_str);
        let mut changed: Vec<&str> = names.filter(|name| before.get(*name) != after.get(*name)).collect();
        changed.sort_unstable();
        changed.dedup();
        let words = |record: &SettingsRecord, name: &str| record.get(name).map_or("unset", String::as_str).to_owned();
        let detail: Vec<String> = changed
            .iter()
            .map(|name| format!("{name} {} -> {}", words(&before, name), words(&after, name)))
            .collect();
        let values = |record: &SettingsRecord| -> Value {
            changed
                .iter()
                .map(|name| ((*name).to_owned(), json!(record.get(*name))))
                .collect()
        };
        let mut changes = Vec::new();
        if !changed.is_empty() {
            let expect = stored.map_or(Expect::Absent, |s| Expect::At(s.rv));
            changes.push(Change::put(keys::SETTINGS, expect, encode(&after)));
        }
        Ok(Decision {
            detail: detail.join(", "),
            before: Some(values(&before)),
            after: Some(values(&after)),
            result: changed.join(","),
            ..Decision::new(changes, Single::Settings)
        })
    }

    fn frozen(&self, outcome: Outcome<Single>) -> FreezeReply {
        let (changed, record) = match outcome {
            Outcome::Done(decision) => (true, record_of(decision)),
            Outcome::Unchanged(decision) => (!decision.changes.is_empty(), record_of(decision)),
            Outcome::Repeat(_) => (
                true,
                self.api.hub.read(|w| w.freeze.as_ref().map(|f| (*f.value).clone())),
            ),
        };
        FreezeReply {
            changed,
            freeze: record.as_ref().map(freeze::to_wire),
        }
    }
}

fn record_of(decision: Decision<Single>) -> Option<FreezeRecord> {
    match decision.object {
        Single::Freeze(record) => record,
        Single::Settings => None,
    }
}

/// The record with what the request sets and unsets. The error has every name that is wrong.
fn applied(before: &SettingsRecord, message: &SetSettingsRequest) -> Result<SettingsRecord, ApiError> {
    let mut after = before.clone();
    let mut errors = Vec::new();
    let mut set: Vec<_> = message.set.iter().collect();
    set.sort_unstable();
    for (name, text) in set {
        match find(name) {
            None => errors.push(unknown(name)),
            Some(setting) => match setting.parse(text) {
                Ok(value) => {
                    after.insert(name.clone(), setting.show(value));
                }
                Err(what) => errors.push(format!("{name}: {what}; is {}", quoted(text))),
            },
        }
    }
    for name in &message.unset {
        if message.set.contains_key(name) {
            errors.push(format!("{name}: both set and unset; leave one"));
        }
        // What a newer release set is not ours to know, but to take back.
        if after.remove(name).is_none() && find(name).is_none() {
            errors.push(unknown(name));
        }
    }
    if message.set.is_empty() && message.unset.is_empty() {
        errors.push("nothing to set or unset; name at least one, e.g. event-keep".to_owned());
    }
    if errors.is_empty() {
        return Ok(after);
    }
    Err(ApiError::BadRequest(format!("settings: {}", errors.join("; "))))
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = ALL.iter().map(|s| s.name).collect();
    let hint = match hint(name, &known) {
        none if none.is_empty() => "; wharf settings show lists them".to_owned(),
        hint => hint,
    };
    format!("no setting {}{hint}", quoted(name))
}

/// Why the brake on replacements is on, with what ends it: empty while nothing brakes.
fn brake_words(world: &World, now: Time) -> String {
    health::brake(world, now).unwrap_or_default()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
