//! What a container does before its stop signal, and how long a pod serves on after it left its Endpoints. The
//! model's part of stopping in order: the agent runs `preStop`, the coordinator counts the drain.
//!
//! Invariant: an annotation that passed [`check_drain`] is read by [`endpoint_drain`].

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::probe::{Exec, HttpGet};

/// Annotation of a pod: how long it serves on after it left its Endpoints, e.g. `10s`; goes before the setting.
pub const ENDPOINT_DRAIN: &str = "wharfinger.io/endpoint-drain";

/// Annotation of a controller or its pods: `true`: a drain or an update stops a pod before it starts the next one.
pub const STOP_FIRST: &str = "wharfinger.io/stop-first";

/// Longest drain that a pod may ask for.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lifecycle {
    /// Done before the stop signal; its time counts into the grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Hook>,
}

impl Lifecycle {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Exactly one of the three is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hook {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<Exec>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleep: Option<Sleep>,
}

/// For people: `exec [nginx -s quit]`.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { exec: Some(exec), .. } => write!(f, "exec {exec}"),
            Self {
                http_get: Some(get), ..
            } => write!(f, "http-get {get}"),
            Self { sleep: Some(sleep), .. } => write!(f, "sleep {}s", sleep.seconds),
            _ => f.write_str("unknown"),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sleep {
    pub seconds: i64,
}

/// Whether the text is a drain; the error says what would be one.
pub fn check_drain(text: &str) -> Result<Duration, String> {
    let drain = humantime::parse_duration(text.trim()).ok();
    drain
        .filter(|d| *d <= LONGEST_DRAIN && d.subsec_nanos() % 1_000_000 == 0)
        .ok_or_else(|| format!("{text:?} must be a time from 0s to 1h, e.g. 10s or 500ms"))
}

/// Whether these annotations ask for the old pod's stop before the new one's start.
pub fn stop_first(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(STOP_FIRST).is_some_and(|v| v == "true")
}

/// Whether the text says yes or no; the error says what would.
pub fn check_stop_first(text: &str) -> Result<(), String> {
    match text {
        "true" | "false" => Ok(()),
        _ => Err(format!("must be \"true\" or \"false\", is {text:?}")),
    }
}

/// The drain that a pod's annotations ask for.
pub fn endpoint_drain(annotations: &BTreeMap<String, String>) -> Option<Duration> {
    check_drain(annotations.get(ENDPOINT_DRAIN)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_a_time_up_to_an_hour() {
        for (text, ms) in [("0s", 0), ("500ms", 500), (" 10s", 10_000), ("1h", 3_600_000)] {
            assert_eq!(check_drain(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "-1s", "61m", "1us", "soon"] {
            let error = check_drain(text).expect_err("refused");
            assert!(error.contains("from 0s to 1h"), "{error}");
        }
        assert_eq!(check_stop_first("true"), Ok(()));
        assert_eq!(
            check_stop_first("yes"),
            Err("must be \"true\" or \"false\", is \"yes\"".into())
        );
        let stops = |text: &str| stop_first(&BTreeMap::from([(STOP_FIRST.to_owned(), text.to_owned())]));
        assert_eq!(
            (stops("true"), stops("false"), stop_first(&BTreeMap::new())),
            (true, false, false)
        );
        let annotations = |text: &str| BTreeMap::from([(ENDPOINT_DRAIN.to_owned(), text.to_owned())]);
        assert_eq!(endpoint_drain(&annotations("2s")), Some(Duration::from_secs(2)));
        assert_eq!(endpoint_drain(&annotations("soon")), None);
        assert_eq!(endpoint_drain(&BTreeMap::new()), None);
    }

    #[test]
    fn hooks_for_people() {
        for (json, words) in [
            (r#"{"exec":{"command":["nginx","-s","quit"]}}"#, "exec [nginx -s quit]"),
            (r#"{"httpGet":{"path":"/bye","port":80}}"#, "http-get http://:80/bye"),
            (r#"{"sleep":{"seconds":3}}"#, "sleep 3s"),
        ] {
            let hook: Hook = serde_json::from_str(json).expect("a hook");
            assert_eq!(hook.to_string(), words);
            assert_eq!(serde_json::to_string(&hook).expect("text"), json);
        }
    }
}
