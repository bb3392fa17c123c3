//! What Freeze and Unfreeze change in a given world. Called by `settings` through `write`; `plan::gc` ends a freeze whose
//! time is over.
//!
//! Invariant: pure; a freeze always has a reason and who made it.

use proto::{
    model::Time,
    reason,
    wire::{self, FreezeRequest},
};
use serde_json::json;

use super::{errors::ApiError, settings::Single, write::Decision};
use crate::{
    store::{Change, Expect, keys},
    world::{
        World,
        record::{FreezeRecord, encode},
    },
};

/// Longest freeze that ends by itself, milliseconds.
const LONGEST: u64 = 400 * 24 * 3_600_000;

/// A Freeze, read and checked.
pub struct Freezing {
    by: String,
    reason: String,
    for_ms: u64,
}

impl Freezing {
    pub fn new(caller: &str, message: &FreezeRequest) -> Result<Self, ApiError> {
        let reason = reason::check(&message.reason).map_err(|what| bad("reason", &what))?;
        if reason.is_empty() {
            return Err(bad("reason", "required: whoever finds the fleet frozen must learn why"));
        }
        if message.for_ms > LONGEST {
            return Err(bad(
                "for_ms",
                "must be at most 400 days; leave it out to freeze until unfreeze",
            ));
        }
        Ok(Self {
            by: caller.to_owned(),
            reason: reason.to_owned(),
            for_ms: message.for_ms,
        })
    }

    pub fn reason(&self) -> &str {
        &self.reason
    }

    pub fn decide(&self, world: &World, now_ms: u64) -> Decision<Single> {
        let old = world.freeze.as_ref();
        // Whole seconds are stored: it never ends before its time.
        let until = (self.for_ms > 0).then(|| Time::from_millis(now_ms.saturating_add(self.for_ms + 999)));
        let record = FreezeRecord {
            by: self.by.clone(),
            reason: self.reason.clone(),
            since: old.map_or_else(|| Time::from_millis(now_ms), |old| old.value.since),
            until,
        };
        let mut changes = Vec::new();
        if old.is_none_or(|old| *old.value != record) {
            let expect = old.map_or(Expect::Absent, |old| Expect::At(old.rv));
            changes.push(Change::put(keys::FREEZE, expect, encode(&record)));
        }
        Decision {
            before: old.map(|old| json!(&*old.value)),
            after: Some(json!(record)),
            ..Decision::new(changes, Single::Freeze(Some(record)))
        }
    }
}

/// Unfreeze.
pub fn end(world: &World) -> Decision<Single> {
    let old = world.freeze.as_ref();
    let changes = old.map(|old| Change::delete(keys::FREEZE, Expect::At(old.rv)));
    Decision {
        before: old.map(|old| json!(&*old.value)),
        ..Decision::new(changes.into_iter().collect(), Single::Freeze(None))
    }
}

pub fn to_wire(record: &FreezeRecord) -> wire::Freeze {
    let ms = |time: Time| u64::try_from(time.0).unwrap_or(0).saturating_mul(1000);
    wire::Freeze {
        by: record.by.clone(),
        reason: record.reason.clone(),
        since_ms: ms(record.since),
        until_ms: record.until.map_or(0, ms),
    }
}

fn bad(field: &str, what: &str) -> ApiError {
    ApiError::BadRequest(format!("freeze: {field}: {what}"))
}
