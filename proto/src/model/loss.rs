//! What a pod's annotations say of the loss of its node. Checked by `validate` where they are written, read by
//! the coordinator's planners and by the agent.
//!
//! Invariant: pure; what an older object holds and cannot be read counts as the careful choice: a singleton, not
//! stopped by itself, its data kept.

use std::{collections::BTreeMap, time::Duration};

use super::PodSpec;

/// `true`: at no time do two of it run; its end is seen before another one starts.
pub const SINGLETON: &str = "wharfinger.io/singleton";
/// The agent stops it so long after it last heard of a coordinator.
pub const STOP_AFTER_DISCONNECT: &str = "wharfinger.io/stop-after-disconnect";
/// What happens to a pod that was replaced when its node is back.
pub const ON_RETURN: &str = "wharfinger.io/on-return";
/// Whether a pod with a writable hostPath volume may be replaced on another host.
pub const LOCAL_DATA: &str = "wharfinger.io/local-data";

/// Least `stop-after-disconnect`: an idle session hears of its coordinator every few seconds.
const LEAST_DISCONNECT: Duration = Duration::from_secs(10);
const MOST_DISCONNECT: Duration = Duration::from_secs(24 * 3600);

/// See the module's head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossPolicy {
    pub singleton: bool,
    pub stop_after_disconnect: Option<Duration>,
    /// Its data on a lost host are given up.
    pub discards_data: bool,
}

impl LossPolicy {
    /// From the pod's annotations, asked for by key.
    pub fn of<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            singleton: annotation(SINGLETON).is_some_and(|v| v != "false"),
            stop_after_disconnect: annotation(STOP_AFTER_DISCONNECT).and_then(|v| humantime::parse_duration(v).ok()),
            discards_data: annotation(LOCAL_DATA) == Some("discard"),
        }
    }
}

/// The annotations that cannot be used, each with what would be right.
pub fn check(annotations: &BTreeMap<String, String>) -> Vec<(&'static str, String)> {
    let mut wrong = Vec::new();
    let mut one_of = |key: &'static str, allowed: &[&str], why: &str| {
        if let Some(value) = annotations.get(key)
            && !allowed.contains(&value.as_str())
        {
            let choice: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
            wrong.push((key, format!("must be {}, is {value:?}{why}", choice.join(" or "))));
        }
    };
    one_of(SINGLETON, &["true", "false"], "");
    one_of(LOCAL_DATA, &["stay", "discard"], "");
    one_of(
        ON_RETURN,
        &["stop"],
        ": a pod that was replaced is stopped when its node is back, for its replacement runs",
    );
    if let Some(value) = annotations.get(STOP_AFTER_DISCONNECT) {
        let fits = humantime::parse_duration(value).is_ok_and(|d| (LEAST_DISCONNECT..=MOST_DISCONNECT).contains(&d));
        if !fits {
            wrong.push((
                STOP_AFTER_DISCONNECT,
                format!("must be a time from 10s to 24h, e.g. 30s, is {value:?}"),
            ));
        }
    }
    wrong
}

/// Those of `annotations` that mean something on a pod alone, not on the object that makes it.
pub fn misplaced(annotations: &BTreeMap<String, String>) -> impl Iterator<Item = &'static str> {
    [SINGLETON, STOP_AFTER_DISCONNECT, ON_RETURN, LOCAL_DATA]
        .into_iter()
        .filter(|key| annotations.contains_key(*key))
}

/// Name of a volume in which the pod may have written on its host.
pub fn local_data(spec: &PodSpec) -> Option<&str> {
    let on_host = spec.volumes.iter().filter(|v| v.host_path.is_some());
    let mut names = on_host.map(|v| v.name.as_str());
    names.find(|name| {
        let mut mounts = spec.containers.iter().flat_map(|c| &c.volume_mounts);
        mounts.any(|m| m.name == *name && !m.read_only)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Container, HostPathVolume, Volume, VolumeMount};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_would_be_right() {
        let good = map(&[
            (SINGLETON, "true"),
            (STOP_AFTER_DISCONNECT, "30s"),
            (ON_RETURN, "stop"),
            (LOCAL_DATA, "discard"),
        ]);
        assert_eq!(check(&good), []);
        for (key, value, says) in [
            (SINGLETON, "yes", "must be \"true\" or \"false\", is \"yes\""),
            (LOCAL_DATA, "", "must be \"stay\" or \"discard\", is \"\""),
            (
                ON_RETURN,
                "keep",
                "must be \"stop\", is \"keep\": a pod that was replaced",
            ),
            (STOP_AFTER_DISCONNECT, "30", "from 10s to 24h, e.g. 30s, is \"30\""),
            (STOP_AFTER_DISCONNECT, "9s", "from 10s"),
            (STOP_AFTER_DISCONNECT, "2days", "to 24h"),
        ] {
            let wrong = check(&map(&[(key, value)]));
            assert_eq!(wrong.len(), 1, "{key}={value}");
            assert!(wrong[0].0 == key && wrong[0].1.contains(says), "{wrong:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_the_careful_choice() {
        let policy = |pairs: &[(&str, &str)]| {
            let map = map(pairs);
            LossPolicy::of(|key| map.get(key).map(String::as_str))
        };
        assert_eq!(policy(&[]), LossPolicy::default());
        let odd = policy(&[(SINGLETON, "1"), (STOP_AFTER_DISCONNECT, "soon"), (LOCAL_DATA, "drop")]);
        let careful = LossPolicy {
            singleton: true,
            ..LossPolicy::default()
        };
        assert_eq!(odd, careful);
        let plain = policy(&[
            (SINGLETON, "false"),
            (STOP_AFTER_DISCONNECT, "1m"),
            (LOCAL_DATA, "discard"),
        ]);
        let expected = LossPolicy {
            singleton: false,
            stop_after_disconnect: Some(Duration::from_secs(60)),
            discards_data: true,
        };
        assert_eq!(plain, expected);
    }

    #[test]
    fn only_a_writable_mount_of_a_host_path_is_local_data() {
        let volume = |name: &str, host: bool| Volume {
            name: name.into(),
            host_path: host.then(HostPathVolume::default),
            ..Volume::default()
        };
        let mount = |name: &str, read_only| VolumeMount {
            name: name.into(),
            read_only,
            ..VolumeMount::default()
        };
        let spec = |mounts: Vec<VolumeMount>| PodSpec {
            volumes: vec![volume("tmp", false), volume("logs", true), volume("data", true)],
            containers: vec![Container {
                volume_mounts: mounts,
                ..Container::default()
            }],
            ..PodSpec::default()
        };
        assert_eq!(local_data(&spec(vec![mount("tmp", false), mount("logs", true)])), None);
        let writes = spec(vec![mount("logs", true), mount("data", false)]);
        assert_eq!(local_data(&writes), Some("data"));
    }
}
