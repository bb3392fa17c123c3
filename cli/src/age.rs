//! Ages as kubectl shows them: two units at most, coarser the older. Used by every table.
//!
//! Invariant: pure.

use proto::model::Time;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const YEAR: u64 = 365 * DAY;

/// Age of `then` at `now`, e.g. `5s`, `3m10s`, `2h5m`, `4d`; `<unknown>` without a time.
pub fn since(then: Option<Time>, now: Time) -> String {
    then.map_or_else(|| "<unknown>".to_owned(), |t| duration(now.since(t)))
}

/// `seconds` in kubectl's manner.
pub fn duration(seconds: u64) -> String {
    let two = |value: u64, unit: u64, name: &str, sub: u64, sub_name: &str| match value % unit / sub {
        0 => format!("{}{name}", value / unit),
        rest => format!("{}{name}{rest}{sub_name}", value / unit),
    };
    match seconds {
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s, MINUTE, "m", 1, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s, HOUR, "h", MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s, DAY, "d", HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s, YEAR, "y", DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubectl() {
        for (seconds, expected) in [
            (0, "0s"),
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (190, "3m10s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_799, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 5 * MINUTE + 59, "3h5m"),
            (8 * HOUR, "8h"),
            (47 * HOUR, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3 * HOUR, "2d3h"),
            (8 * DAY + HOUR, "8d"),
            (729 * DAY, "729d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + 9 * DAY, "2y9d"),
            (8 * YEAR + 9 * DAY, "8y"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
        assert_eq!(since(None, Time(0)), "<unknown>");
        assert_eq!(since(Some(Time(10)), Time(4)), "0s", "a clock ahead of ours");
    }
}
