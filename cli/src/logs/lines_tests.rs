//! What is shown of a log, however it is cut and wherever it breaks.

use proptest::prelude::*;

use super::*;

/// Second and nanosecond, stream, text.
type Entry = (u32, bool, String);

fn time(at: u32) -> String {
    // Few times, so that lines share them; two a second.
    format!("2026-01-31T12:00:{:02}.{:09}Z", at / 2, 7 + at % 2 * 500_000_000)
}

/// A log as it comes over the wire.
fn log(entries: &[Entry]) -> Vec<(bool, Vec<u8>)> {
    entries
        .iter()
        .map(|(at, stderr, text)| (*stderr, format!("{} {text}\n", time(*at)).into_bytes()))
        .collect()
}

/// What a container wrote on one stream.
fn text(entries: &[Entry], stderr: bool) -> String {
    let of = entries.iter().filter(|e| e.1 == stderr);
    of.map(|(.., text)| format!("{text}\n")).collect()
}

#[test]
fn times_and_prefix_stand_before_lines() {
    let all = [(0, false, "one".to_owned()), (1, false, String::new())];
    for (times, prefix, expected) in [
        (false, "", "one\n\n".to_owned()),
        (true, "", format!("{} one\n{} \n", time(0), time(1))),
        (true, "[p] ", format!("[p] {} one\n[p] {} \n", time(0), time(1))),
    ] {
        let mut lines = Lines::new(times, prefix.to_owned());
        let out: Vec<u8> = log(&all).iter().flat_map(|(s, b)| lines.push(*s, b)).collect();
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
    assert_eq!(Lines::new(false, String::new()).since_ms(), None);
}

#[test]
fn a_line_without_a_time_is_shown_as_it_is() {
    let long = format!("{}\n", "x".repeat(3 * LONGEST_TIME));
    for odd in ["\n", "word\n", long.as_str()] {
        let mut lines = Lines::new(false, String::new());
        let out: Vec<u8> = odd.as_bytes().iter().flat_map(|b| lines.push(false, &[*b])).collect();
        assert_eq!(String::from_utf8_lossy(&out), odd);
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_doubled_over_breaks(
        mut all in proptest::collection::vec((0_u32..6, any::<bool>(), "[ab ]{0,5}"), 0..12),
        breaks in proptest::collection::vec(0_usize..400, 0..4),
        cut in 1_usize..20,
    ) {
        all.sort_by_key(|e| e.0);
        let mut lines = Lines::new(false, String::new());
        let mut out = [Vec::new(), Vec::new()];
        let mut read = |lines: &mut Lines, mut most: usize| {
            // As the agent would: from the second that is asked for.
            let from = lines.since_ms().unwrap_or_default();
            let first = |at: u32| u64::try_from(Time::parse(&time(at)).expect("a time").0).expect("late") * 1000;
            let wanted: Vec<Entry> = all.iter().filter(|e| first(e.0) >= from).cloned().collect();
            for (stderr, bytes) in log(&wanted) {
                for piece in bytes.chunks(cut) {
                    let piece = &piece[..piece.len().min(most)];
                    most -= piece.len();
                    out[usize::from(stderr)].extend(lines.push(stderr, piece));
                }
            }
        };
        for at in breaks {
            read(&mut lines, at);
            lines.again();
        }
        read(&mut lines, usize::MAX);
        for stderr in [false, true] {
            prop_assert_eq!(String::from_utf8_lossy(&out[usize::from(stderr)]), text(&all, stderr));
        }
    }
}
