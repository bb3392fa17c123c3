//! The cluster's settings: the one table of what can be set while it runs, with units, bounds and defaults.
//! Read by planners, sessions and the api through `World::settings`; set through `api` (`wharf settings`).
//!
//! Invariant: whatever the store holds, reading gives a value within bounds: what cannot be read is the default.

use std::{collections::BTreeMap, time::Duration};

use super::record::SettingsRecord;

/// What a setting counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Typed as `500ms`, `2s`, `5m`; held as milliseconds.
    Time,
    Count,
    /// 0 to 100; typed as `55%` or `55`.
    Percent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub unit: Unit,
    pub default: u64,
    pub least: u64,
    pub most: u64,
    /// One sentence.
    pub about: &'static str,
}

const fn time(name: &'static str, default_ms: u64, least_ms: u64, about: &'static str) -> Setting {
    Setting {
        name,
        unit: Unit::Time,
        default: default_ms,
        least: least_ms,
        most: 400 * 24 * 3_600_000,
        about,
    }
}

const fn percent(name: &'static str, default: u64, about: &'static str) -> Setting {
    Setting {
        name,
        unit: Unit::Percent,
        default,
        least: 1,
        most: 100,
        about,
    }
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;

pub const HEARTBEAT: Setting = time(
    "heartbeat",
    2 * SECOND,
    10,
    "Period of an agent's heartbeat; three of them in silence make a node Unreachable.",
);
pub const AGENT_DOWN_AFTER: Setting = time(
    "agent-down-after",
    2 * SECOND,
    0,
    "How long an agent whose connection closed may take to come back before its node is NotReady (AgentDown).",
);
pub const AGENT_RESTART: Setting = time(
    "agent-restart",
    30 * SECOND,
    0,
    "How long an agent that stopped in good order may take to come back before its node is NotReady.",
);
pub const REPLACE_UNREACHABLE_AFTER: Setting = time(
    "replace-unreachable-after",
    60 * SECOND,
    0,
    "How long a node is Unreachable before its pods are started elsewhere; tolerationSeconds of a pod goes before it.",
);
pub const REPLACE_AGENT_DOWN_AFTER: Setting = time(
    "replace-agent-down-after",
    5 * MINUTE,
    0,
    "How long a node's agent is down before its pods are started elsewhere; tolerationSeconds of a pod goes before it.",
);
pub const BRAKE_SHARE: Setting = percent(
    "brake-share",
    10,
    "Share of the nodes, at least one, whose pods may be started elsewhere within a brake-period.",
);
pub const BRAKE_PERIOD: Setting = time("brake-period", MINUTE, 1, "Period over which brake-share counts.");
pub const BRAKE_STOP: Setting = percent(
    "brake-stop",
    55,
    "Share of the nodes that is lost at which nothing is started elsewhere any more, if more than two are lost.",
);
pub const READY_AFTER: Setting = time(
    "ready-after",
    5 * SECOND,
    0,
    "How long a container without a readiness probe must have run to be Ready.",
);
pub const ENDPOINT_DRAIN: Setting = time(
    "endpoint-drain",
    5 * SECOND,
    0,
    "How long a pod with ports runs on after it left its Endpoints, before its stop signal.",
);
pub const DRAIN_DEADLINE: Setting = time(
    "drain-deadline",
    60 * MINUTE,
    SECOND,
    "How long a drain may take before its --on-deadline happens, where it is not begun with a --deadline.",
);
pub const DRAIN_PARALLEL: Setting = Setting {
    name: "drain-parallel",
    unit: Unit::Count,
    default: 8,
    least: 1,
    most: 1000,
    about: "Pods of a node that a drain moves at a time.",
};
pub const DRAIN_REPLACEMENT_TIMEOUT: Setting = time(
    "drain-replacement-timeout",
    10 * MINUTE,
    SECOND,
    "How long a pod that is started in the place of a drained one may take to be Ready before it is given up.",
);
pub const EVENT_KEEP: Setting = time(
    "event-keep",
    72 * 60 * MINUTE,
    SECOND,
    "How long an event is kept after its last occurrence.",
);
pub const AUDIT_KEEP: Setting = time(
    "audit-keep",
    400 * 24 * 60 * MINUTE,
    MINUTE,
    "How long audit entries are kept.",
);

pub const BACKUP_EVERY: Setting = time(
    "backup-every",
    24 * 60 * MINUTE,
    0,
    "How often the active coordinator writes a backup into its data directory; 0s: never.",
);
pub const BACKUP_KEEP: Setting = Setting {
    name: "backup-keep",
    unit: Unit::Count,
    default: 7,
    least: 1,
    most: 1000,
    about: "Scheduled backups that are kept; older ones go.",
};

/// All there are, by name.
pub const ALL: [&Setting; 17] = [
    &AGENT_DOWN_AFTER,
    &AGENT_RESTART,
    &AUDIT_KEEP,
    &BACKUP_EVERY,
    &BACKUP_KEEP,
    &BRAKE_PERIOD,
    &BRAKE_SHARE,
    &BRAKE_STOP,
    &DRAIN_DEADLINE,
    &DRAIN_PARALLEL,
    &DRAIN_REPLACEMENT_TIMEOUT,
    &ENDPOINT_DRAIN,
    &EVENT_KEEP,
    &HEARTBEAT,
    &READY_AFTER,
    &REPLACE_AGENT_DOWN_AFTER,
    &REPLACE_UNREACHABLE_AFTER,
];

/// By name.
pub fn find(name: &str) -> Option<&'static Setting> {
    ALL.into_iter().find(|s| s.name == name)
}

impl Setting {
    /// A value as typed. The error names the unit and the bounds.
    pub fn parse(&self, text: &str) -> Result<u64, String> {
        let text = text.trim();
        let value = match self.unit {
            Unit::Time => humantime::parse_duration(text)
                .ok()
                .and_then(|d| u64::try_from(d.as_millis()).ok()),
            Unit::Count => text.parse().ok(),
            Unit::Percent => text.strip_suffix('%').unwrap_or(text).trim_end().parse().ok(),
        };
        let bounds = || format!("from {} to {}", self.show(self.least), self.show(self.most));
        match value {
            None => Err(match self.unit {
                Unit::Time => format!("must be a time {}, e.g. {}", bounds(), self.show(self.default)),
                Unit::Count => format!("must be a whole number {}", bounds()),
                Unit::Percent => format!("must be a percentage {}", bounds()),
            }),
            Some(value) if (self.least..=self.most).contains(&value) => Ok(value),
            Some(_) => Err(format!("must be {}", bounds())),
        }
    }

    /// As it would be typed.
    pub fn show(&self, value: u64) -> String {
        match self.unit {
            Unit::Time => humantime::format_duration(Duration::from_millis(value)).to_string(),
            Unit::Count => value.to_string(),
            Unit::Percent => format!("{value}%"),
        }
    }
}

/// What is set. A view of the `settings` record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    set: BTreeMap<&'static str, u64>,
}

impl Settings {
    /// Unknown names and unreadable values, which a newer release may have written, count as not set.
    pub fn of(record: &SettingsRecord) -> Self {
        let known = record.iter().filter_map(|(name, text)| {
            let setting = find(name)?;
            Some((setting.name, setting.parse(text).ok()?))
        });
        Self { set: known.collect() }
    }

    /// What an operator set.
    pub fn given(&self, setting: &Setting) -> Option<u64> {
        self.set.get(setting.name).copied()
    }

    /// What holds: what is set, else the default.
    pub fn get(&self, setting: &Setting) -> u64 {
        self.given(setting).unwrap_or(setting.default)
    }

    /// [`Settings::get`] of a time.
    pub fn time(&self, setting: &Setting) -> Duration {
        Duration::from_millis(self.get(setting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_unique_and_defaults_within_bounds() {
        assert!(ALL.windows(2).all(|w| w[0].name < w[1].name));
        for setting in ALL {
            assert_eq!(
                setting.parse(&setting.show(setting.default)),
                Ok(setting.default),
                "{setting:?}"
            );
        }
    }

    #[test]
    fn the_documents_table_is_this_one() {
        let text = include_str!("../../../docs/operate.md");
        let rows: Vec<[&str; 3]> = text
            .lines()
            .skip_while(|line| !line.starts_with("| Setting |"))
            .skip(2)
            .map_while(|line| line.strip_prefix("| `")?.strip_suffix(" |"))
            .filter_map(|row| row.splitn(3, " | ").collect::<Vec<_>>().try_into().ok())
            .collect();
        let shown: Vec<_> = rows
            .iter()
            .map(|[name, _, about]| (name.trim_end_matches('`'), *about))
            .collect();
        assert_eq!(shown, ALL.map(|s| (s.name, s.about)), "docs/operate.md");
        for (setting, [_, default, _]) in ALL.into_iter().zip(rows) {
            assert_eq!(
                setting.parse(default),
                Ok(setting.default),
                "docs/operate.md, {}",
                setting.name
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_the_default() {
        let record = [
            ("heartbeat", "soon"),
            ("brake-share", "0"),
            ("ready-after", "0s"),
            ("novel", "1"),
        ];
        let settings = Settings::of(&record.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(settings.time(&HEARTBEAT), Duration::from_secs(2));
        assert_eq!(settings.get(&BRAKE_SHARE), 10);
        assert_eq!(settings.given(&READY_AFTER), Some(0));
    }

    #[test]
    fn a_refusal_names_unit_and_bounds() {
        assert_eq!(BRAKE_STOP.parse("101%"), Err("must be from 1% to 100%".into()));
        assert_eq!(
            HEARTBEAT.parse("2"),
            Err("must be a time from 10ms to 1year 1month 4days 7h 26m 24s, e.g. 2s".into())
        );
    }
}
