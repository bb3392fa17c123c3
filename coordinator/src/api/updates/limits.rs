//! How an update may go, as a request says it. Pure; called by the service.
//!
//! Invariant: what is not said is as it is, or by default; nothing that could never go on is taken.

use proto::{model::IntOrPercent, wire};

use crate::{
    api::errors::ApiError,
    world::updates::{OnFailure, UpdateLimits},
};

/// Longest time, ms.
const LONGEST_MS: u64 = 400 * 24 * 3_600_000;

/// What was given of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    max_surge: Option<IntOrPercent>,
    max_unavailable: Option<IntOrPercent>,
    period: Option<u32>,
    timeout: Option<u32>,
    on_failure: Option<OnFailure>,
    pause_after: Option<IntOrPercent>,
}

impl Limits {
    /// Errors: INVALID_ARGUMENT.
    pub fn new(given: Option<&wire::UpdateLimits>) -> Result<Self, ApiError> {
        let Some(given) = given else {
            return Ok(Self::default());
        };
        let limits = Self {
            max_surge: share("max_surge", &given.max_surge)?,
            max_unavailable: share("max_unavailable", &given.max_unavailable)?,
            period: given.period_ms.map(|ms| seconds("period_ms", ms)).transpose()?,
            timeout: given.timeout_ms.map(|ms| seconds("timeout_ms", ms)).transpose()?,
            on_failure: match given.on_failure.as_str() {
                "" => None,
                "pause" => Some(OnFailure::Pause),
                "rollback" => Some(OnFailure::Rollback),
                other => {
                    return Err(bad("on_failure", &format!("must be pause or rollback, is {other:?}")));
                }
            },
            pause_after: share("pause_after", &given.pause_after)?,
        };
        if limits.timeout == Some(0) {
            return Err(bad(
                "timeout_ms",
                "must be more than 0: a step that may take no time always fails",
            ));
        }
        let nothing = |share: Option<IntOrPercent>| share.is_some_and(|s| s.of(100) == 0);
        if nothing(limits.max_surge) && limits.max_unavailable.is_none_or(|m| m.of(100) == 0) {
            return Err(bad(
                "max_surge",
                "is 0, and no pod may be missed (max_unavailable): nothing could ever be replaced; allow one of the two",
            ));
        }
        if nothing(limits.pause_after) {
            return Err(bad("pause_after", "must be more than 0"));
        }
        Ok(limits)
    }

    /// Whether it is to pause at another point than was asked for before.
    pub fn pauses_anew(&self, present: &UpdateLimits) -> bool {
        self.pause_after.is_some() && self.pause_after != present.pause_after
    }

    /// With what was given instead of what is there.
    pub fn over(&self, present: &UpdateLimits) -> UpdateLimits {
        UpdateLimits {
            max_surge: self.max_surge.unwrap_or(present.max_surge),
            max_unavailable: self.max_unavailable.unwrap_or(present.max_unavailable),
            period: self.period.unwrap_or(present.period),
            timeout: self.timeout.unwrap_or(present.timeout),
            on_failure: self.on_failure.unwrap_or(present.on_failure),
            pause_after: self.pause_after.or(present.pause_after),
        }
    }
}

fn share(field: &str, text: &str) -> Result<Option<IntOrPercent>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    match IntOrPercent::parse(text) {
        Some(share) if share.of(100) >= 0 => Ok(Some(share)),
        _ => Err(bad(
            field,
            &format!("must be a number of pods or a percentage, such as 1 or 25%, is {text:?}"),
        )),
    }
}

/// Stored times have whole seconds; a part of one counts as one.
fn seconds(field: &str, ms: u64) -> Result<u32, ApiError> {
    if ms > LONGEST_MS {
        return Err(bad(field, "must be at most 400 days"));
    }
    Ok(u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX))
}

fn bad(field: &str, what: &str) -> ApiError {
    ApiError::BadRequest(format!("rolling update: {field}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(surge: &str, missed: &str) -> wire::UpdateLimits {
        wire::UpdateLimits {
            max_surge: surge.into(),
            max_unavailable: missed.into(),
            ..wire::UpdateLimits::default()
        }
    }

    #[test]
    fn what_is_given_goes_over_what_is_there() {
        let present = UpdateLimits::default();
        assert_eq!(Limits::new(None).unwrap().over(&present), present);
        let given = wire::UpdateLimits {
            period_ms: Some(1),
            timeout_ms: Some(61_000),
            on_failure: "rollback".into(),
            pause_after: "10%".into(),
            ..wire("25%", "1")
        };
        let expected = UpdateLimits {
            max_surge: IntOrPercent::Percent(25),
            max_unavailable: IntOrPercent::Int(1),
            period: 1,
            timeout: 61,
            on_failure: OnFailure::Rollback,
            pause_after: Some(IntOrPercent::Percent(10)),
        };
        assert_eq!(Limits::new(Some(&given)).unwrap().over(&present), expected);
        assert_eq!(Limits::new(Some(&wire("", ""))).unwrap().over(&expected), expected);
    }

    #[test]
    fn what_could_never_go_on_or_means_nothing_is_refused() {
        let refused = |given: wire::UpdateLimits| Limits::new(Some(&given)).unwrap_err().to_string();
        for (given, words) in [
            (wire("x", ""), "max_surge: must be a number of pods or a percentage"),
            (wire("-1", ""), "max_surge: must be"),
            (wire("1", "5 %"), "max_unavailable: must be"),
            (wire("0", ""), "max_surge: is 0, and no pod may be missed"),
            (wire("0", "0%"), "max_surge: is 0"),
            (
                wire::UpdateLimits {
                    on_failure: "panic".into(),
                    ..wire("", "")
                },
                "on_failure: must be pause or rollback, is \"panic\"",
            ),
            (
                wire::UpdateLimits {
                    timeout_ms: Some(0),
                    ..wire("", "")
                },
                "timeout_ms: must be more than 0",
            ),
            (
                wire::UpdateLimits {
                    pause_after: "0".into(),
                    ..wire("", "")
                },
                "pause_after: must be more than 0",
            ),
            (
                wire::UpdateLimits {
                    period_ms: Some(u64::MAX),
                    ..wire("", "")
                },
                "period_ms: must be at most 400 days",
            ),
        ] {
            let said = refused(given);
            assert!(said.contains(words), "{said}");
        }
        assert!(Limits::new(Some(&wire("0", "1"))).is_ok());
    }
}
