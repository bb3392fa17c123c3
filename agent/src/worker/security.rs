//! Whom a container runs as. PURE. Called by [`super::spec`] and, for what it needs to know of the image, by the
//! pod's task.
//!
//! Invariant: with runAsNonRoot nothing starts that is not proven to run as another user than root.

use proto::model::{PodSecurityContext, SecurityContext};

/// The settings in force: the container's own before the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunAs {
    user: Option<i64>,
    group: Option<i64>,
    non_root: bool,
}

impl RunAs {
    pub(super) fn of(pod: &PodSecurityContext, own: &SecurityContext) -> Self {
        Self {
            user: own.run_as_user.or(pod.run_as_user),
            group: own.run_as_group.or(pod.run_as_group),
            non_root: own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false),
        }
    }

    /// Whether the image's own user decides something: a group alone joins that user, and runAsNonRoot judges it.
    pub(super) fn asks_image(self) -> bool {
        self.user.is_none() && (self.non_root || self.group.is_some())
    }

    /// The engine's user, empty for the image's own. `image_user` is the image's, empty for root; it is needed
    /// if [`RunAs::asks_image`]. The error says what to set.
    pub(super) fn user(self, image: &str, image_user: &str) -> Result<String, String> {
        match self.user {
            Some(0) if self.non_root => {
                Err("securityContext: runAsNonRoot is true and runAsUser is 0: set another runAsUser".into())
            }
            Some(user) => Ok(match self.group {
                Some(group) => format!("{user}:{group}"),
                None => user.to_string(),
            }),
            None if !self.asks_image() => Ok(String::new()),
            None => {
                let name = image_user.split(':').next().unwrap_or_default();
                if self.non_root {
                    proven_non_root(image, name)?;
                }
                Ok(match self.group {
                    Some(group) if name.is_empty() => format!("0:{group}"),
                    Some(group) => format!("{name}:{group}"),
                    None => String::new(),
                })
            }
        }
    }
}

fn proven_non_root(image: &str, user: &str) -> Result<(), String> {
    let remedy = "set securityContext.runAsUser";
    match user.parse::<u32>() {
        Ok(1..) => Ok(()),
        Ok(0) => Err(format!("runAsNonRoot is true and image {image} runs as root: {remedy}")),
        Err(_) if matches!(user, "" | "root") => {
            Err(format!("runAsNonRoot is true and image {image} runs as root: {remedy}"))
        }
        Err(_) => Err(format!(
            "runAsNonRoot is true and image {image} runs as user {user:?}, whose number is not known: {remedy}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_as(pod: [Option<i64>; 2], own: [Option<i64>; 2], non_root: [Option<bool>; 2]) -> RunAs {
        RunAs::of(
            &PodSecurityContext {
                run_as_user: pod[0],
                run_as_group: pod[1],
                run_as_non_root: non_root[0],
                ..PodSecurityContext::default()
            },
            &SecurityContext {
                run_as_user: own[0],
                run_as_group: own[1],
                run_as_non_root: non_root[1],
                ..SecurityContext::default()
            },
        )
    }

    #[test]
    fn the_container_s_own_settings_come_first() {
        for (pod, own, user) in [
            ([None, None], [None, None], ""),
            ([Some(5), None], [None, None], "5"),
            ([Some(5), Some(6)], [Some(7), None], "7:6"),
            ([Some(5), Some(6)], [None, Some(8)], "5:8"),
            ([None, None], [Some(0), None], "0"),
        ] {
            let run_as = run_as(pod, own, [None, None]);
            assert!(!run_as.asks_image());
            assert_eq!(run_as.user("i", ""), Ok(user.to_owned()), "{pod:?} {own:?}");
        }
    }

    #[test]
    fn a_group_alone_joins_the_image_s_user() {
        let run_as = run_as([None, Some(9)], [None, None], [None, None]);
        assert!(run_as.asks_image());
        for (image_user, user) in [
            ("", "0:9"),
            ("web", "web:9"),
            ("12", "12:9"),
            ("12:13", "12:9"),
            (":3", "0:9"),
        ] {
            assert_eq!(run_as.user("i", image_user), Ok(user.to_owned()), "{image_user}");
        }
    }

    #[test]
    fn non_root_is_proven_or_refused() {
        let only = |pod, own| run_as([None, None], [None, None], [pod, own]);
        let asked = only(Some(true), None);
        assert!(asked.asks_image());
        for good in ["1", "1000", "1000:0"] {
            assert_eq!(asked.user("i", good), Ok(String::new()), "{good}");
        }
        for bad in [
            "",
            "0",
            "00",
            "+0",
            "root",
            "0:5",
            "root:5",
            ":5",
            "web",
            "-1",
            "4294967296",
        ] {
            let error = asked.user("i:1", bad).expect_err(bad);
            assert!(error.contains("i:1") && error.contains("runAsUser"), "{error}");
        }
        // The container's own word counts.
        assert!(!only(Some(true), Some(false)).asks_image());
        assert!(only(Some(false), Some(true)).user("i", "").is_err());
        let zero = run_as([Some(0), None], [None, None], [Some(true), None]);
        assert!(zero.user("i", "5").is_err());
        assert_eq!(
            run_as([Some(3), None], [None, None], [Some(true), None]).user("i", ""),
            Ok("3".into())
        );
    }
}
