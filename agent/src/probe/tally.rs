//! When findings in a row become a verdict. PURE. Called by [`super::watch`] for each finding.
//!
//! Invariant: one finding of the other kind begins the count anew; what was not learned changes nothing.

use proto::model::Probe;

/// The answer to one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Good,
    /// In words that follow `probe failed: `.
    Bad(String),
    /// Nothing was learned of the container.
    Unknown,
}

/// What to make of a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// A threshold is reached: it is well, or it is not.
    pub verdict: Option<bool>,
    /// Worth telling people: the first failure in a row, another one than before, or the one that decides.
    pub tell: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Tally {
    successes: u32,
    failures: u32,
    last: Option<Finding>,
    in_row: u32,
}

impl Tally {
    pub fn new(probe: &Probe) -> Self {
        Self {
            successes: probe.successes(),
            failures: probe.failures(),
            last: None,
            in_row: 0,
        }
    }

    pub fn count(&mut self, finding: Finding) -> Judged {
        let good = match finding {
            Finding::Good => true,
            Finding::Bad(_) => false,
            Finding::Unknown => return Judged::default(),
        };
        let same = self.last.as_ref().is_some_and(|last| (*last == Finding::Good) == good);
        self.in_row = if same { self.in_row.saturating_add(1) } else { 1 };
        let needed = if good { self.successes } else { self.failures };
        let news = self.last.as_ref() != Some(&finding) || self.in_row == needed;
        let tell = match &finding {
            Finding::Bad(words) if news => Some(words.clone()),
            _ => None,
        };
        self.last = Some(finding);
        Judged {
            verdict: (self.in_row >= needed).then_some(good),
            tell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` good, `-` bad, `?` unknown → `R` well, `N` not, `.` no verdict.
    fn verdicts(successes: i32, failures: i32, findings: &str) -> String {
        let mut tally = Tally::new(&Probe {
            success_threshold: successes,
            failure_threshold: failures,
            ..Probe::default()
        });
        let judge = |finding| match tally.count(finding).verdict {
            Some(true) => 'R',
            Some(false) => 'N',
            None => '.',
        };
        findings
            .chars()
            .map(|c| match c {
                '+' => Finding::Good,
                '-' => Finding::Bad("no".into()),
                _ => Finding::Unknown,
            })
            .map(judge)
            .collect()
    }

    #[test]
    fn thresholds() {
        for (successes, failures, findings, expected) in [
            (0, 0, "+", "R"),
            (0, 0, "--", ".."),
            (0, 0, "----+", "..NNR"),
            (0, 0, "--+--+---", "..R..R..N"),
            (1, 1, "+-+-", "RNRN"),
            (3, 2, "++-+++--+", ".....R.N."),
            // What was not learned neither counts nor interrupts.
            (2, 3, "+?+-?-?-?", "..R....N."),
        ] {
            assert_eq!(verdicts(successes, failures, findings), expected, "{findings}");
        }
    }

    #[test]
    fn people_hear_what_is_new() {
        let mut tally = Tally::new(&Probe::default());
        let mut tell = |finding| tally.count(finding).tell;
        let bad = |words: &str| Finding::Bad(words.into());
        assert_eq!(tell(bad("500")), Some("500".into()));
        assert_eq!(tell(bad("500")), None);
        assert_eq!(tell(bad("500")), Some("500".into()), "it decides");
        assert_eq!(tell(bad("500")), None);
        assert_eq!(tell(bad("refused")), Some("refused".into()));
        assert_eq!(tell(Finding::Unknown), None);
        assert_eq!(tell(Finding::Good), None);
        assert_eq!(tell(bad("refused")), Some("refused".into()));
    }
}
