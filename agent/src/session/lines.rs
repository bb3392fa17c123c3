//! Entries of a log as the bytes that a reader gets: gathered into messages, with times where lines begin. Pure; used
//! by `pipes`.
//!
//! Invariant: without times the bytes are those that the container wrote; with them, a time stands at the beginning of
//! each line and nowhere else, however the engine cut the line into parts.

use crate::runtime::LogEntry;

/// What is to be sent, in order.
pub(super) struct Lines {
    timestamps: bool,
    /// Runs of bytes of one stream each.
    runs: Vec<(bool, Vec<u8>)>,
    len: usize,
    /// The line under way on stdout, on stderr, has begun.
    begun: [bool; 2],
}

impl Lines {
    pub(super) fn new(timestamps: bool) -> Self {
        Self {
            timestamps,
            runs: Vec::new(),
            len: 0,
            begun: [false; 2],
        }
    }

    pub(super) fn push(&mut self, entry: &LogEntry) {
        let begun = &mut self.begun[usize::from(entry.stderr)];
        let mut bytes = Vec::with_capacity(entry.text.len() + 32);
        if self.timestamps && !*begun {
            bytes.extend(format!("{:.9} ", entry.at).into_bytes());
        }
        bytes.extend(&entry.text);
        *begun = !entry.text.ends_with(b"\n");
        self.len += bytes.len();
        match self.runs.last_mut() {
            Some((stderr, run)) if *stderr == entry.stderr => run.append(&mut bytes),
            _ => self.runs.push((entry.stderr, bytes)),
        }
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All that waits, in pieces of at most `most` bytes.
    pub(super) fn take(&mut self, most: usize) -> Vec<(bool, Vec<u8>)> {
        self.len = 0;
        let runs = std::mem::take(&mut self.runs);
        let pieces = runs.into_iter().flat_map(|(stderr, run)| {
            let pieces: Vec<_> = run.chunks(most.max(1)).map(|piece| (stderr, piece.to_vec())).collect();
            pieces
        });
        pieces.collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn entry(second: i64, stderr: bool, text: &str) -> LogEntry {
        LogEntry {
            at: Timestamp::new(second, 5).expect("a time"),
            stderr,
            text: text.into(),
        }
    }

    fn text(pieces: &[(bool, Vec<u8>)], stderr: bool) -> String {
        let of = pieces.iter().filter(|(s, _)| *s == stderr);
        of.map(|(_, p)| String::from_utf8_lossy(p)).collect()
    }

    #[test]
    fn times_stand_where_lines_begin() {
        let mut lines = Lines::new(true);
        // A long line in parts, with one of the other stream between them.
        for e in [
            entry(0, false, "one\n"),
            entry(1, false, "long "),
            entry(2, true, "oops\n"),
            entry(1, false, "line\n"),
            entry(3, false, "\n"),
        ] {
            lines.push(&e);
        }
        let pieces = lines.take(1000);
        assert_eq!(
            text(&pieces, false),
            "1970-01-01T00:00:00.000000005Z one\n1970-01-01T00:00:01.000000005Z long line\n1970-01-01T00:00:03.000000005Z \n"
        );
        assert_eq!(text(&pieces, true), "1970-01-01T00:00:02.000000005Z oops\n");
        assert!(lines.take(1000).is_empty() && lines.len() == 0);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_piece_is_too_long(
            all in proptest::collection::vec((any::<bool>(), "[a-c\n]{0,9}"), 0..20), most in 1_usize..12,
        ) {
            let mut lines = Lines::new(false);
            all.iter().for_each(|(stderr, t)| lines.push(&entry(0, *stderr, t)));
            prop_assert_eq!(lines.len(), all.iter().map(|(_, t)| t.len()).sum::<usize>());
            let pieces = lines.take(most);
            prop_assert!(pieces.iter().all(|(_, p)| p.len() <= most));
            for stream in [false, true] {
                let wrote: String = all.iter().filter(|(s, _)| *s == stream).map(|(_, t)| t.as_str()).collect();
                prop_assert_eq!(text(&pieces, stream), wrote);
            }
        }
    }
}
