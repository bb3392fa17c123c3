//! Failures and their exit statuses. Every command returns [`Error`]; [`crate::run`] reports it.
//!
//! Invariant: a failure is reported once, one line each, as `error: …` on stderr; with `-o json` or `-o yaml` as a
//! Kubernetes `Status` each.

use std::io::{self, Write};

use crate::{
    output::{self, clean},
    status::{Reason, StatusFormat, status},
};

pub const DONE: u8 = 0;
pub const REFUSED: u8 = 1;
pub const USAGE: u8 = 2;
pub const TIMED_OUT: u8 = 3;
pub const UNREACHABLE: u8 = 4;
pub const INTERRUPTED: u8 = 130;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A check of ours said no.
    #[error("{0}")]
    Refused(String),
    /// The coordinator said no.
    #[error("{message}")]
    Answered { reason: Reason, message: String },
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A wait ended before what it waited for; the work goes on.
    #[error("{0}")]
    TimedOut(String),
    /// No coordinator answered, or none leads.
    #[error("{0}")]
    Unreachable(String),
    /// Ctrl-C during a wait; says what goes on, or nothing where nothing does.
    #[error("{0}")]
    Interrupted(String),
    #[error("stdout cannot be written: {0}")]
    Output(#[from] io::Error),
    /// Ctrl-C during a wait for work that goes on; what to do was said.
    #[error("the work goes on")]
    GoesOn,
    /// What `status` found; the page itself says it.
    #[error("not all is well")]
    NotWell,
    /// What `diff` found; the diff itself says it.
    #[error("there are differences")]
    Differences,
    #[error("{} errors", .0.len())]
    Several(Vec<Error>),
}

impl Error {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Answered { .. } | Self::Output(_) | Self::Differences | Self::NotWell => REFUSED,
            Self::Usage(_) => USAGE,
            Self::TimedOut(_) | Self::GoesOn => TIMED_OUT,
            Self::Unreachable(_) => UNREACHABLE,
            Self::Interrupted(_) => INTERRUPTED,
            Self::Several(errors) => errors.iter().map(Self::exit_code).max().unwrap_or(REFUSED),
        }
    }

    /// The reader of our output went away, as `head` does: not a failure.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Something said no to one object; others may fare better.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Answered { .. })
    }

    /// The object is not as it was when it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Answered {
                reason: Reason::Conflict,
                ..
            }
        )
    }

    /// Writes one line an error; with a format for programs, one `Status` each.
    pub fn report(&self, to: &mut dyn Write, color: bool, format: StatusFormat) {
        match self {
            Self::Several(errors) => errors.iter().for_each(|e| e.report(to, color, format)),
            Self::Differences | Self::NotWell | Self::GoesOn => {}
            Self::Interrupted(goes_on) if goes_on.is_empty() => {}
            other => {
                let line = clean(&other.to_string());
                let text = match format {
                    StatusFormat::Line if color => format!("\u{1b}[1;31merror:\u{1b}[0m {line}"),
                    StatusFormat::Line => format!("error: {line}"),
                    StatusFormat::Json => status(self.reason(), &line).to_string(),
                    StatusFormat::Yaml => {
                        let yaml = output::yaml(&status(self.reason(), &line)).unwrap_or(line);
                        format!("---\n{}", yaml.trim_end())
                    }
                };
                // Nothing better can be done when stderr is gone.
                let _ = writeln!(to, "{text}");
            }
        }
    }

    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(_) | Self::Usage(_) => Some(Reason::BadRequest),
            Self::Answered { reason, .. } => Some(*reason),
            Self::TimedOut(_) => Some(Reason::Timeout),
            Self::Unreachable(_) => Some(Reason::ServiceUnavailable),
            Self::Output(_) => Some(Reason::InternalError),
            Self::Interrupted(_) | Self::Differences | Self::NotWell | Self::GoesOn | Self::Several(_) => None,
        }
    }
}

/// Goes on after refusals, so that one bad name does not hide the others.
#[derive(Debug, Default)]
pub struct Refusals(Vec<Error>);

impl Refusals {
    /// The value, or `None` after a refusal, which is kept. Anything worse than a refusal ends the command.
    pub fn keep<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_refusal() => {
                self.0.push(e);
                Ok(None)
            }
            Err(e) => {
                let mut all = std::mem::take(&mut self.0);
                if all.is_empty() {
                    return Err(e);
                }
                all.push(e);
                Err(Error::Several(all))
            }
        }
    }

    /// Keeps one more error, whatever it is.
    pub fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn finish(mut self) -> Result<(), Error> {
        match self.0.len() {
            0 => Ok(()),
            1 => self.0.pop().map_or(Ok(()), Err),
            _ => Err(Error::Several(self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_an_error_and_the_worst_status() {
        let error = Error::Several(vec![
            Error::Refused("pods \"a\" not found".into()),
            Error::Unreachable("two\nlines".into()),
        ]);
        let mut text = Vec::new();
        error.report(&mut text, false, StatusFormat::Line);
        assert_eq!(
            String::from_utf8_lossy(&text),
            "error: pods \"a\" not found\nerror: two lines\n"
        );
        assert_eq!(error.exit_code(), UNREACHABLE);
        for format in [StatusFormat::Json, StatusFormat::Yaml] {
            let mut text = Vec::new();
            error.report(&mut text, true, format);
            let text = String::from_utf8_lossy(&text);
            let documents: Vec<serde_json::Value> = match format {
                StatusFormat::Json => text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect(),
                _ => serde_saphyr::from_multiple(&text).expect("YAML"),
            };
            let reasons: Vec<_> = documents.iter().map(|d| &d["reason"]).collect();
            assert_eq!(reasons, ["BadRequest", "ServiceUnavailable"], "{text}");
        }
    }

    #[test]
    fn refusals_are_kept_and_what_is_worse_ends_at_once() {
        let mut refusals = Refusals::default();
        assert!(matches!(refusals.keep(Ok(1)), Ok(Some(1))));
        assert!(matches!(refusals.keep::<()>(Err(Error::Refused("a".into()))), Ok(None)));
        let end = refusals.keep::<()>(Err(Error::Unreachable("b".into())));
        assert!(matches!(end, Err(Error::Several(all)) if all.len() == 2));
        assert!(refusals.finish().is_ok());
    }
}
