//! A log on its way to the screen: times taken off, and what was shown before a break left out. Pure; used by
//! `reader`.
//!
//! Each line comes with when it was written. That is where a reading that broke is taken up: the log is asked for from
//! the time of the last line that was shown, and of the lines of that time as many are left out as were shown.
//!
//! Invariant: what is shown does not depend on where the log was cut into messages, nor on where it broke.

use proto::model::Time;

/// Longest time that is looked for at the beginning of a line; a line without one is shown as it is.
const LONGEST_TIME: usize = 40;

/// One log, its two streams.
#[derive(Clone, Debug)]
pub struct Lines {
    show_times: bool,
    /// Shown before each line.
    prefix: String,
    streams: [Stream; 2],
}

#[derive(Clone, Debug, Default)]
struct Stream {
    /// How far it was shown.
    shown: Mark,
    /// What is to be left out after a break, until a line comes that was not shown.
    again: Option<Again>,
    line: Line,
}

/// Lines of one time: so many whole ones, and so many bytes of the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mark {
    time: Vec<u8>,
    lines: u64,
    bytes: u64,
}

#[derive(Clone, Debug)]
struct Again {
    mark: Mark,
    /// Lines of its time that came again.
    lines: u64,
}

/// Where in a line the next byte stands.
#[derive(Clone, Debug)]
enum Line {
    /// In its time, of which this has come.
    Time(Vec<u8>),
    /// In its text.
    Shown,
    /// In its text, which was shown up to here: so many bytes more.
    Partly(u64),
    LeftOut,
}

impl Default for Line {
    fn default() -> Self {
        Self::Time(Vec::new())
    }
}

impl Lines {
    pub fn new(show_times: bool, prefix: String) -> Self {
        Self {
            show_times,
            prefix,
            streams: Default::default(),
        }
    }

    /// What to show of the next bytes.
    pub fn push(&mut self, stderr: bool, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let stream = &mut self.streams[usize::from(stderr)];
        while !bytes.is_empty() {
            if let Line::Time(time) = &mut stream.line {
                let room = LONGEST_TIME - time.len();
                let stop = bytes.iter().take(room).position(|b| matches!(b, b' ' | b'\n'));
                let (came, rest) = bytes.split_at(stop.unwrap_or(bytes.len().min(room)));
                time.extend_from_slice(came);
                if stop.is_none() && time.len() < LONGEST_TIME {
                    return out;
                }
                let time = std::mem::take(time);
                let after = rest.strip_prefix(b" ").filter(|_| stop.is_some());
                let timed = after.is_some();
                bytes = after.unwrap_or(rest);
                stream.begin(&time, timed);
                if matches!(stream.line, Line::Shown) {
                    out.extend_from_slice(self.prefix.as_bytes());
                    if self.show_times || !timed {
                        out.extend_from_slice(&time);
                    }
                    if self.show_times && timed {
                        out.push(b' ');
                    }
                }
                continue;
            }
            let end = bytes.iter().position(|b| *b == b'\n').map(|i| i + 1);
            let (text, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            bytes = rest;
            out.extend_from_slice(stream.text(text));
            if end.is_some() {
                stream.end();
            }
        }
        out
    }

    /// The log comes once more, from [`Lines::since_ms`] on.
    pub fn again(&mut self) {
        for stream in &mut self.streams {
            stream.line = Line::default();
            stream.again = (!stream.shown.time.is_empty()).then(|| Again {
                mark: stream.shown.clone(),
                lines: 0,
            });
        }
    }

    /// Time of the oldest line from which on the log is needed again, milliseconds since the Unix epoch; `None`:
    /// nothing of it was shown.
    pub fn since_ms(&self) -> Option<u64> {
        let times = self.streams.iter().filter(|s| !s.shown.time.is_empty());
        let parsed = times.filter_map(|s| Time::parse(std::str::from_utf8(&s.shown.time).ok()?));
        let seconds = parsed.min().and_then(|t| u64::try_from(t.0).ok())?;
        Some(seconds.saturating_mul(1000))
    }
}

impl Stream {
    /// A line of this time begins.
    fn begin(&mut self, time: &[u8], timed: bool) {
        self.line = match &mut self.again {
            Some(again) if timed && *time < *again.mark.time => Line::LeftOut,
            Some(again) if timed && *time == *again.mark.time && again.lines < again.mark.lines => {
                again.lines += 1;
                Line::LeftOut
            }
            Some(again) if timed && *time == *again.mark.time && again.mark.bytes > 0 => {
                let bytes = again.mark.bytes;
                self.again = None;
                Line::Partly(bytes)
            }
            _ => {
                self.again = None;
                if *time != *self.shown.time && timed {
                    self.shown = Mark {
                        time: time.to_vec(),
                        ..Mark::default()
                    };
                }
                Line::Shown
            }
        };
    }

    /// What is shown of a part of the line's text.
    fn text<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        match &mut self.line {
            Line::LeftOut | Line::Time(_) => &[],
            Line::Shown => {
                self.shown.bytes += text.len() as u64;
                text
            }
            Line::Partly(left) => {
                let known = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
                *left -= known as u64;
                if *left == 0 {
                    self.line = Line::Shown;
                }
                let new = &text[known..];
                self.shown.bytes += new.len() as u64;
                new
            }
        }
    }

    fn end(&mut self) {
        if !matches!(self.line, Line::LeftOut) {
            self.shown.lines += 1;
            self.shown.bytes = 0;
        }
        self.line = Line::default();
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
