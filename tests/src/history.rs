//! Whether what clients saw of some registers could have been seen if each call had taken effect at one moment between
//! its begin and its answer: linearizability. Used by tests that break a cluster while clients write.
//!
//! Every answered call says at which version it took effect, and versions only rise, so that the order to check is given:
//! it must agree with real time, and each read must show the write of its version. A call without an answer may have
//! taken effect at any later time, or never.
//!
//! Invariant: pure; a history that is accepted is linearizable in the order of its versions.

use std::{collections::BTreeMap, time::Duration};

/// One call on one register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub client: usize,
    pub key: usize,
    pub begun: Duration,
    pub op: Op,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// No two writes of a history write the same value.
    Write { value: u64, outcome: Outcome },
    /// Answered reads only; a read without an answer says nothing.
    Read { seen: Seen, answered: Duration },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done {
        version: u64,
        answered: Duration,
    },
    /// It was said that nothing was done.
    Refused,
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub version: u64,
    /// `None`: nobody had written.
    pub value: Option<u64>,
}

/// What cannot be, in words; empty: it could have been.
pub fn check(calls: &[Call]) -> Vec<String> {
    let mut keys: Vec<usize> = calls.iter().map(|c| c.key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().flat_map(|key| check_key(calls, key)).collect()
}

/// A call with a version, as a moment between two times.
struct Point<'c> {
    call: &'c Call,
    version: u64,
    answered: Duration,
}

fn check_key(calls: &[Call], key: usize) -> Vec<String> {
    let of_key = || calls.iter().filter(|c| c.key == key);
    let mut wrong = Vec::new();
    // Which write a version shows: those that were answered, and those that a read showed.
    let mut writes: BTreeMap<u64, u64> = BTreeMap::new();
    let mut points = Vec::new();
    for call in of_key() {
        match &call.op {
            Op::Write {
                value,
                outcome: Outcome::Done { version, answered },
            } => {
                if let Some(other) = writes.insert(*version, *value) {
                    wrong.push(format!(
                        "key {key}: {value} and {other} were both written at version {version}"
                    ));
                }
                points.push(Point {
                    call,
                    version: *version,
                    answered: *answered,
                });
            }
            Op::Write { .. } => {}
            Op::Read { seen, answered } => points.push(Point {
                call,
                version: seen.version,
                answered: *answered,
            }),
        }
    }
    for call in of_key() {
        let Op::Read { seen, .. } = &call.op else { continue };
        let Some(value) = seen.value else {
            if let Some((version, value)) = writes.range(..=seen.version).next_back() {
                wrong.push(format!(
                    "key {key}: nothing was read at version {}, {value} was written at {version}",
                    seen.version
                ));
            }
            continue;
        };
        match writes.get(&seen.version) {
            Some(written) if *written == value => {}
            Some(written) => wrong.push(format!(
                "key {key}: {value} was read at version {}, {written} was written there",
                seen.version
            )),
            // Of a write without an answer: from now on it has one.
            None => match of_key().find(|c| matches!(&c.op, Op::Write { value: v, .. } if *v == value)) {
                Some(Call {
                    op:
                        Op::Write {
                            outcome: Outcome::Unknown,
                            ..
                        },
                    begun,
                    ..
                }) => {
                    if *begun > answered(call) {
                        wrong.push(format!("key {key}: {value} was read before its write began"));
                    }
                    writes.insert(seen.version, value);
                }
                Some(_) => wrong.push(format!(
                    "key {key}: {value} was read at version {}, which is not where it was written",
                    seen.version
                )),
                None => wrong.push(format!("key {key}: {value} was read and never written")),
            },
        }
    }
    // No value at two versions: what was repeated was done once.
    let mut by_value: BTreeMap<u64, u64> = BTreeMap::new();
    for (version, value) in &writes {
        if let Some(other) = by_value.insert(*value, *version) {
            wrong.push(format!(
                "key {key}: {value} was written twice, at versions {other} and {version}"
            ));
        }
    }
    // Real time: whatever was answered before a call began has a lower version, or the same if either only read.
    points.sort_by_key(|p| p.answered);
    let mut begun: Vec<&Point<'_>> = points.iter().collect();
    begun.sort_by_key(|p| p.call.begun);
    let mut answered = points.iter().peekable();
    // The highest version answered so far, and the highest written.
    let (mut seen, mut written) = (0, 0);
    for point in begun {
        while let Some(earlier) = answered.next_if(|p| p.answered < point.call.begun) {
            seen = seen.max(earlier.version);
            if matches!(earlier.call.op, Op::Write { .. }) {
                written = written.max(earlier.version);
            }
        }
        let late = match point.call.op {
            Op::Write { .. } => point.version <= seen,
            Op::Read { .. } => point.version < seen,
        };
        if late {
            wrong.push(format!(
                "key {key}: client {} began at {:?} and was answered with version {}, after version {seen} had been answered{}",
                point.call.client,
                point.call.begun,
                point.version,
                if written == seen { " to its writer" } else { "" }
            ));
        }
    }
    wrong
}

fn answered(call: &Call) -> Duration {
    match &call.op {
        Op::Read { answered, .. } => *answered,
        Op::Write { .. } => Duration::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn write(begun: u64, value: u64, outcome: Outcome) -> Call {
        Call {
            client: 0,
            key: 0,
            begun: ms(begun),
            op: Op::Write { value, outcome },
        }
    }

    fn done(begun: u64, answered: u64, value: u64, version: u64) -> Call {
        write(
            begun,
            value,
            Outcome::Done {
                version,
                answered: ms(answered),
            },
        )
    }

    fn read(begun: u64, answered: u64, version: u64, value: Option<u64>) -> Call {
        let seen = Seen { version, value };
        Call {
            client: 1,
            key: 0,
            begun: ms(begun),
            op: Op::Read {
                seen,
                answered: ms(answered),
            },
        }
    }

    #[test]
    fn what_can_be_is_accepted() {
        let fine = [
            vec![],
            vec![
                done(0, 10, 1, 5),
                read(11, 12, 5, Some(1)),
                done(13, 20, 2, 6),
                read(14, 15, 5, Some(1)),
                read(21, 22, 6, Some(2)),
            ],
            // Together in time: any order.
            vec![done(0, 10, 1, 6), done(0, 10, 2, 5), read(1, 9, 5, Some(2))],
            // Of one without an answer: seen or not, but once seen it stays.
            vec![
                done(0, 1, 1, 5),
                write(2, 2, Outcome::Unknown),
                read(3, 4, 5, Some(1)),
                read(5, 6, 7, Some(2)),
                read(7, 8, 7, Some(2)),
            ],
            vec![read(0, 1, 0, None), done(2, 3, 1, 5)],
        ];
        for history in fine {
            assert_eq!(check(&history), Vec::<String>::new(), "{history:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_told() {
        let bad = [
            // A read that misses an acknowledged write.
            (
                vec![done(0, 1, 1, 5), done(2, 3, 2, 6), read(4, 5, 5, Some(1))],
                "after version 6 had been answered to its writer",
            ),
            (vec![done(0, 1, 1, 5), read(4, 5, 0, None)], "after version 5"),
            // A write that is lost, its place taken by a later one.
            (vec![done(0, 1, 1, 6), done(2, 3, 2, 5)], "after version 6"),
            // Two reads that go back.
            (
                vec![
                    done(0, 9, 1, 5),
                    done(0, 9, 2, 6),
                    read(1, 2, 6, Some(2)),
                    read(3, 4, 5, Some(1)),
                ],
                "after version 6",
            ),
            (
                vec![write(0, 1, Outcome::Refused), read(2, 3, 5, Some(1))],
                "not where it was written",
            ),
            (vec![read(2, 3, 5, Some(1))], "never written"),
            (
                vec![write(5, 1, Outcome::Unknown), read(2, 3, 5, Some(1))],
                "before its write began",
            ),
            // Done twice.
            (
                vec![done(0, 1, 1, 5), read(2, 3, 7, Some(1))],
                "not where it was written",
            ),
            (
                vec![
                    write(0, 1, Outcome::Unknown),
                    read(2, 3, 5, Some(1)),
                    read(4, 5, 7, Some(1)),
                ],
                "written twice",
            ),
            (vec![done(0, 1, 1, 5), done(0, 1, 2, 5)], "both written at version 5"),
            (vec![done(0, 1, 1, 5), read(2, 3, 5, None)], "nothing was read"),
        ];
        for (history, expected) in bad {
            let said = check(&history).join("\n");
            assert!(said.contains(expected), "{expected}: {said:?}: {history:?}");
        }
    }
}
