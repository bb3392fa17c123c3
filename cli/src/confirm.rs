//! A name said twice before what cannot be taken back. Used by `node` and `cluster`.
//!
//! Invariant: a dry run confirms nothing and asks nothing; without a terminal nobody is asked.

use std::io::{Read as _, Write as _};

use crate::{error::Error, session::Session};

/// Longest name that is read from a terminal.
const LONGEST: usize = 300;

/// What is asked.
pub struct Twice<'a> {
    /// `node`, `member`.
    pub kind: &'a str,
    pub name: &'a str,
    /// `--yes NAME`.
    pub yes: Option<&'a str>,
    /// What will be, and what for; ends before `Its name again`.
    pub question: String,
    /// Said where nobody can be asked: what must be so. Ends before `: --yes NAME`.
    pub condition: String,
    /// `confirmed`, `removed`.
    pub done: &'a str,
}

pub fn twice(ask: &Twice<'_>, session: &mut Session<'_>) -> Result<(), Error> {
    let (said, how) = match ask.yes {
        Some(name) => (name.to_owned(), "--yes"),
        None if session.env.stdin_is_terminal => (line(ask, session)?, "the name typed"),
        None => {
            return Err(Error::Usage(format!(
                "nobody to ask: say it again, if {}: --yes {}",
                ask.condition, ask.name
            )));
        }
    };
    if said == ask.name {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{} {:?}: {how} is {said:?}, not its own; nothing was {}",
        ask.kind, ask.name, ask.done
    )))
}

/// One line from the terminal.
fn line(ask: &Twice<'_>, session: &mut Session<'_>) -> Result<String, Error> {
    let question = format!("{} Its name again, to confirm: ", ask.question);
    session.env.stderr.write_all(question.as_bytes())?;
    session.env.stderr.flush()?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LONGEST && session.env.stdin.read(&mut byte)? > 0 && byte != *b"\n" {
        line.extend(byte);
    }
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}
