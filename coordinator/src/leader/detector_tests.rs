//! When a standby takes over, by what it saw.

use proptest::prelude::*;

use super::*;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const RULES: Rules = Rules {
    gone: ms(200),
    silent: ms(1000),
    silent_answered: ms(600),
    stale: ms(1500),
    uneasy: ms(150),
    vouch: ms(150),
    stagger: ms(0),
};

const TERM: u64 = 40;

fn look(term: u64, coordinator: &str, beat: u64) -> Look {
    let record = TermRecord {
        incarnation: "inc".into(),
        nonce: format!("nonce-{term}"),
        holder: format!("{coordinator}:1"),
        coordinator: coordinator.into(),
        address: format!("{coordinator}:7443"),
    };
    Look {
        term: Some((term, record)),
        beat,
    }
}

/// A standby named `b` that looks every so often; the store answers within 2 ms.
struct Bench {
    detector: Detector,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self {
            detector: Detector::new("b", RULES),
            now: ms(10_000),
        }
    }

    fn look(&mut self, look: Look) {
        let asked = self.now;
        self.now += ms(2);
        self.detector.looked(asked, self.now, look);
    }

    /// Looks that all see the same, every 25 ms until `left` has passed or the verdict is there; the time it took.
    fn watch(&mut self, seen: &Look, left: Duration) -> (Duration, Verdict) {
        let began = self.now;
        while self.now - began < left {
            self.now += ms(23);
            self.look(seen.clone());
            let verdict = self.verdict();
            if verdict != Verdict::Wait {
                return (self.now - began, verdict);
            }
        }
        (left, Verdict::Wait)
    }

    fn verdict(&self) -> Verdict {
        self.detector.verdict(self.now)
    }

    fn heard(&mut self, link: Link) {
        self.detector.heard(Heard {
            term: TERM,
            link,
            since: self.now,
        });
    }

    /// A led cluster that was just seen to beat.
    fn led(link: Link) -> (Self, Look) {
        let mut bench = Self::new();
        bench.heard(link);
        let seen = look(TERM, "a", 1);
        bench.look(seen.clone());
        assert_eq!(bench.verdict(), Verdict::Wait);
        (bench, seen)
    }
}

fn reason(verdict: &Verdict) -> Option<Reason> {
    match verdict {
        Verdict::TakeOver { reason, .. } => Some(*reason),
        Verdict::Wait | Verdict::Twin { .. } => None,
    }
}

#[test]
fn each_link_has_its_time() {
    let table = [
        (Link::Reset, Reason::Gone, 200),
        (Link::Refused, Reason::Gone, 200),
        (Link::Silent, Reason::Silent, 1000),
        (Link::Up, Reason::Stale, 1500),
        (Link::Unknown, Reason::Stale, 1500),
    ];
    for (link, why, after) in table {
        let (mut bench, seen) = Bench::led(link);
        let (took, verdict) = bench.watch(&seen, ms(5000));
        assert!(took >= ms(after) && took < ms(after + 60), "{link:?}: {took:?}");
        let expected = Verdict::TakeOver {
            over: Some(TERM),
            reason: why,
            former: Former::Held {
                beat: 1,
                since: ms(10_002),
            },
        };
        assert_eq!(verdict, expected, "{link:?}");
    }
}

#[test]
fn who_beats_is_not_gone_whatever_the_link_says() {
    for link in [Link::Reset, Link::Refused, Link::Silent, Link::Up, Link::Unknown] {
        let (mut bench, _) = Bench::led(link);
        for beat in 2..100 {
            let (_, verdict) = bench.watch(&look(TERM, "a", beat), ms(150));
            assert_eq!(verdict, Verdict::Wait, "{link:?}");
        }
    }
}

#[test]
fn a_store_that_is_away_makes_nobody_look_gone() {
    for link in [Link::Reset, Link::Silent, Link::Up] {
        let (mut bench, seen) = Bench::led(link);
        bench.watch(&seen, ms(100));
        for _ in 0..10 {
            bench.now += ms(500);
            bench.detector.failed();
            assert_eq!(bench.verdict(), Verdict::Wait, "{link:?}: nothing is decided meanwhile");
        }
        // Back again, and the beat is the old one: its writer gets the whole time anew.
        bench.look(seen.clone());
        assert_eq!(bench.verdict(), Verdict::Wait, "{link:?}");
        let after = match link {
            Link::Reset => 200,
            // It was heard of neither way for long before.
            Link::Silent => 600,
            _ => 1500,
        };
        let (took, verdict) = bench.watch(&seen, ms(5000));
        assert!(reason(&verdict).is_some());
        assert!(took >= ms(after) && took < ms(after + 60), "{link:?}: {took:?}");
    }
}

#[test]
fn a_store_that_answers_now_and_then_vouches_for_little() {
    let (mut bench, seen) = Bench::led(Link::Up);
    // Each look hangs for a second and is answered: at most 150 ms of each count.
    for _ in 0..9 {
        let asked = bench.now;
        bench.now += ms(1000);
        bench.detector.looked(asked, bench.now, seen.clone());
        assert_eq!(bench.verdict(), Verdict::Wait);
    }
    // The same where this process stood still.
    let (mut bench, seen) = Bench::led(Link::Reset);
    bench.now += ms(60_000);
    bench.look(seen);
    assert_eq!(bench.verdict(), Verdict::Wait);
}

#[test]
fn a_silent_link_counts_from_when_it_was_last_heard() {
    let (mut bench, seen) = Bench::led(Link::Up);
    bench.watch(&seen, ms(900));
    bench.heard(Link::Silent);
    let (took, verdict) = bench.watch(&seen, ms(5000));
    // The beat is stale before the silence is long.
    assert_eq!(reason(&verdict), Some(Reason::Stale));
    assert!(took < ms(660), "{took:?}");
}

#[test]
fn a_link_says_nothing_of_another_term() {
    let (mut bench, seen) = Bench::led(Link::Refused);
    bench.watch(&seen, ms(100));
    let next = look(TERM + 1, "c", 2);
    let (took, verdict) = bench.watch(&next, ms(5000));
    assert_eq!(reason(&verdict), Some(Reason::Stale));
    assert!(took >= ms(1500), "{took:?}");
}

#[test]
fn who_never_was_is_not_waited_for() {
    let mut bench = Bench::new();
    assert_eq!(bench.verdict(), Verdict::Wait, "nothing was seen yet");
    bench.look(Look::default());
    let first = Verdict::TakeOver {
        over: None,
        reason: Reason::First,
        former: Former::Released,
    };
    assert_eq!(bench.verdict(), first);
    let mut bench = Bench::new();
    bench.look(look(TERM, "", 0));
    assert_eq!(reason(&bench.verdict()), Some(Reason::Unheld));
}

#[test]
fn an_earlier_process_of_our_name_is_not_waited_for_and_a_later_one_is_a_twin() {
    let mut bench = Bench::new();
    bench.look(look(TERM, "b", 5));
    let over = Verdict::TakeOver {
        over: Some(TERM),
        reason: Reason::OwnName,
        former: Former::Held {
            beat: 5,
            since: bench.now,
        },
    };
    assert_eq!(bench.verdict(), over);
    // Somebody else was first.
    bench.detector.lost();
    assert_eq!(bench.verdict(), Verdict::Wait, "look again first");
    bench.look(look(TERM + 1, "c", 5));
    assert_eq!(bench.verdict(), Verdict::Wait);
    bench.look(look(TERM + 2, "b", 6));
    let twin = Verdict::Twin {
        term: TERM + 2,
        holder: "b:1".into(),
    };
    assert_eq!(bench.verdict(), twin);
}

#[test]
fn an_attempt_with_an_unknown_outcome_is_made_again_not_resumed() {
    let (mut bench, seen) = Bench::led(Link::Reset);
    bench.watch(&seen, ms(500));
    bench.detector.unresolved();
    assert_eq!(bench.verdict(), Verdict::Wait, "look first");
    bench.look(look(TERM + 1, "b", 1));
    assert_eq!(reason(&bench.verdict()), Some(Reason::OwnName));
    // The same where it shows only later…
    let (mut bench, seen) = Bench::led(Link::Up);
    bench.detector.unresolved();
    bench.look(seen.clone());
    bench.watch(&seen, ms(100));
    bench.look(look(TERM, "a", 2));
    bench.look(look(TERM + 1, "b", 2));
    assert_eq!(reason(&bench.verdict()), Some(Reason::OwnName));
    // …and where another term began, ours did not.
    let (mut bench, _) = Bench::led(Link::Up);
    bench.detector.unresolved();
    bench.look(look(TERM + 1, "c", 2));
    bench.look(look(TERM + 2, "b", 2));
    assert!(matches!(bench.verdict(), Verdict::Twin { .. }));
}

#[test]
fn a_term_given_up_is_begun_anew_at_once_if_we_had_acted_under_it() {
    let mut bench = Bench::new();
    bench.look(Look::default());
    bench.detector.won();
    bench.detector.given_up("nonce-40", true);
    assert_eq!(bench.verdict(), Verdict::Wait, "look first");
    bench.look(look(TERM, "b", 3));
    let again = Verdict::TakeOver {
        over: Some(TERM),
        reason: Reason::Again,
        former: Former::Released,
    };
    assert_eq!(bench.verdict(), again);
    // Where we could not, others get their turn.
    let mut bench = Bench::new();
    bench.look(Look::default());
    bench.detector.won();
    bench.detector.given_up("nonce-40", false);
    let ours = look(TERM, "b", 3);
    bench.look(ours.clone());
    let (took, verdict) = bench.watch(&ours, ms(5000));
    assert!(took >= ms(3000) && reason(&verdict) == Some(Reason::Again), "{took:?}");
}

#[test]
fn a_hand_over_is_taken_at_once_even_unseen_and_no_older_one() {
    let (mut bench, _) = Bench::led(Link::Up);
    for term in [TERM, TERM + 1] {
        bench.detector.handed_over(term);
        let expected = Verdict::TakeOver {
            over: Some(term),
            reason: Reason::HandedOver,
            former: Former::Released,
        };
        assert_eq!(bench.verdict(), expected);
    }
    bench.detector.handed_over(TERM - 1);
    assert_eq!(bench.verdict(), Verdict::Wait);
    // One that was refused is not tried again.
    bench.detector.handed_over(TERM);
    bench.detector.lost();
    bench.look(look(TERM, "a", 2));
    assert_eq!(bench.verdict(), Verdict::Wait);
}

#[test]
fn it_looks_more_often_in_trouble_and_just_when_one_look_can_decide() {
    let pace = |bench: &Bench| bench.detector.pace(ms(100), ms(25));
    let (mut bench, seen) = Bench::led(Link::Up);
    assert_eq!(pace(&bench), ms(100));
    bench.watch(&seen, ms(180));
    assert_eq!(pace(&bench), ms(25), "a beat is missing");
    bench.look(look(TERM, "a", 2));
    assert_eq!(pace(&bench), ms(100));
    bench.detector.failed();
    assert_eq!(pace(&bench), ms(100), "the store is away: no hurry helps it");
    let (mut bench, seen) = Bench::led(Link::Reset);
    assert_eq!(pace(&bench), ms(25));
    bench.watch(&seen, ms(180));
    let last = pace(&bench);
    assert!(last < ms(25), "{last:?}");
    bench.now += last;
    bench.look(seen);
    assert_eq!(reason(&bench.verdict()), Some(Reason::Gone));
}

#[test]
fn the_stagger_comes_on_top() {
    let (mut bench, seen) = Bench::led(Link::Reset);
    bench.detector.rules.stagger = ms(100);
    let (took, _) = bench.watch(&seen, ms(5000));
    assert!(took >= ms(300) && took < ms(360), "{took:?}");
}

proptest! {
    /// Whatever was seen in whatever order: without a look that was answered, at least the shortest time after it
    /// was first seen, nobody who leads under another name is taken for gone.
    #[test]
    fn nobody_is_gone_sooner_than_the_shortest_time(
        steps in proptest::collection::vec((0u8..6, 0u64..400, 0u64..3), 1..60),
    ) {
        let mut bench = Bench::new();
        bench.look(look(TERM, "a", 0));
        let (mut shown, mut since) = ((TERM, 0), bench.now);
        let mut failed = false;
        for (what, wait, n) in steps {
            bench.now += ms(wait);
            match what {
                0 => bench.heard([Link::Reset, Link::Silent, Link::Up][n as usize]),
                1 => {
                    bench.detector.failed();
                    failed = true;
                }
                _ => {
                    // Mostly the same again.
                    let beat = if what == 2 { shown.1 + n } else { shown.1 };
                    bench.look(look(TERM, "a", beat));
                    if beat != shown.1 || failed {
                        since = bench.now;
                    }
                    failed = false;
                    shown = (TERM, beat);
                }
            }
            if bench.verdict() != Verdict::Wait {
                prop_assert!(!failed);
                prop_assert!(bench.now - since >= RULES.gone, "{:?}", bench.now - since);
                break;
            }
        }
    }
}
