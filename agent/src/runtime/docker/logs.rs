//! A container's output as the engine keeps it. Called by the trait's `logs`.
//!
//! Invariant: the engine is read no faster than the stream is polled; each entry has the time that the engine gave it.

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures::StreamExt as _;
use jiff::Timestamp;

use super::{DockerRuntime, errors::Problem, short};
use crate::runtime::{LogEntry, LogQuery, LogStream, RuntimeError};

impl DockerRuntime {
    pub(super) async fn open_log(&self, query: &LogQuery) -> Result<LogStream, RuntimeError> {
        let doing = format!("log of {}", short(&query.id));
        let own = self
            .own(&query.id)
            .await
            .map_err(|p| p.into_error(&self.endpoint, &doing))?;
        let theirs = |o: &crate::runtime::Owner| (&o.uid, &o.container) == (&query.uid, &query.container);
        if !own.is_some_and(|info| theirs(&info.owner)) {
            return Err(RuntimeError::NoSuchContainer(short(&query.id).to_owned()));
        }
        let tail = query.tail.map_or_else(|| "all".to_owned(), |n| n.to_string());
        // The engine takes whole seconds; what is before `since` within its second is left out here.
        let since = query
            .since
            .map_or(0, |t| i32::try_from(t.as_second()).unwrap_or(i32::MAX));
        let options = LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .follow(query.follow)
            .timestamps(true)
            .tail(&tail)
            .since(since.max(0))
            .build();
        let (endpoint, from) = (self.endpoint.clone(), query.since);
        let entries = self.client()?.logs(&query.id, Some(options)).map(move |output| {
            let output = output.map_err(|e| Problem::from(e).into_error(&endpoint, &doing))?;
            entry(&output).ok_or_else(|| {
                RuntimeError::Unavailable(format!(
                    "{endpoint}: unreadable answer to {doing}: a line without a time"
                ))
            })
        });
        let wanted = move |entry: &Result<LogEntry, RuntimeError>| {
            let early = matches!((entry, from), (Ok(entry), Some(from)) if entry.at < from);
            std::future::ready(!early)
        };
        Ok(entries.filter(wanted).boxed())
    }
}

/// The engine cuts lines into parts of this size.
const PART: usize = 16 << 10;

/// `TIME TEXT`. Docker 20.10 leaves out the line end behind the last part of a line that it cut; that part is the only
/// one that is shorter than the others.
fn entry(output: &LogOutput) -> Option<LogEntry> {
    let bytes: &[u8] = output.as_ref();
    let space = bytes.iter().position(|b| *b == b' ')?;
    let (time, text) = bytes.split_at(space);
    let mut text = text.get(1..).unwrap_or_default().to_vec();
    if !text.ends_with(b"\n") && text.len() < PART {
        text.push(b'\n');
    }
    Some(LogEntry {
        at: std::str::from_utf8(time).ok()?.parse::<Timestamp>().ok()?,
        stderr: matches!(output, LogOutput::StdErr { .. }),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_its_time_and_the_rest() {
        let out = |message: &'static str| LogOutput::StdOut {
            message: message.into(),
        };
        let read = entry(&out("2026-01-31T12:00:00.000000001Z a b\n")).expect("a line");
        assert_eq!((read.text.as_slice(), read.stderr), (&b"a b\n"[..], false));
        assert_eq!(read.at.subsec_nanosecond(), 1);
        // The last part of a line that was cut, of any bytes.
        let read = entry(&LogOutput::StdErr {
            message: b"2026-01-31T12:00:00Z \xff\xfe".as_slice().into(),
        });
        let read = read.expect("a line");
        assert_eq!((read.text.as_slice(), read.stderr), (&b"\xff\xfe\n"[..], true));
        let part = format!("2026-01-31T12:00:00Z {}", "x".repeat(PART));
        let read = entry(&LogOutput::StdOut { message: part.into() }).expect("a part");
        assert_eq!(read.text.len(), PART, "a line goes on behind a whole part");
        for bad in ["", "2026-01-31T12:00:00Z", "yesterday x\n", " x"] {
            assert_eq!(entry(&out(bad)), None, "{bad:?}");
        }
    }
}
