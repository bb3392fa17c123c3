//! What a lease allows, and what a new term waits for.

use super::*;

const LIMITS: Limits = Limits {
    read: ms(200),
    margin: ms(20),
    demote: ms(1000),
};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_lease_counts_from_the_newest_beat_that_was_acknowledged() {
    let mut lease = Lease::new(LIMITS, ms(5000));
    assert_eq!((lease.readable_until(), lease.ends_at()), (ms(5180), ms(6000)));
    lease.acknowledged(ms(5200));
    assert_eq!((lease.readable_until(), lease.ends_at()), (ms(5380), ms(6200)));
    // A late answer to an older beat shortens nothing.
    lease.acknowledged(ms(5100));
    assert_eq!((lease.readable_until(), lease.ends_at()), (ms(5380), ms(6200)));
}

#[test]
fn a_new_term_waits_until_no_older_one_is_read_under() {
    let held = Former::Held {
        beat: 7,
        since: ms(1000),
    };
    let table = [
        ("nobody reads", Former::Released, ms(1001), None, ms(1001)),
        ("the beat is old", held, ms(1900), Some(7), ms(1900)),
        ("just old enough", held, ms(1200), Some(7), ms(1200)),
        ("not old enough", held, ms(1050), Some(7), ms(1200)),
        ("a beat came in between", held, ms(1900), Some(8), ms(2100)),
        ("not known whether one came", held, ms(1900), None, ms(2100)),
    ];
    for (name, former, answered, last, expected) in table {
        assert_eq!(former.clear_at(&LIMITS, answered, last), expected, "{name}");
    }
}

#[test]
fn no_lease_outlives_the_wait_of_who_takes_over() {
    // The old one sends a beat, which the store takes somewhere in between; the new one sees it first at `seen`, or
    // never, and begins its term at `begun`, answered at `answered`.
    for sent in (0..400).step_by(20) {
        for taken in (sent..sent + 100).step_by(20) {
            for begun in (taken..taken + 500).step_by(20) {
                for seen in (taken..begun + 60).step_by(20) {
                    let answered = begun + 20;
                    let lease = Lease::new(LIMITS, ms(sent));
                    // Seen before the term began, or only by the look after it.
                    let beat = if seen <= begun { 2 } else { 1 };
                    let since = if seen <= begun { seen } else { taken.saturating_sub(300) };
                    let former = Former::Held { beat, since: ms(since) };
                    let clear = former.clear_at(&LIMITS, ms(answered), Some(2));
                    assert!(
                        lease.readable_until() < clear,
                        "sent {sent}, taken {taken}, seen {seen}, begun {begun}: {lease:?} {clear:?}"
                    );
                }
            }
        }
    }
}
