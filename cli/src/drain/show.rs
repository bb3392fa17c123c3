//! Progress of a drain for people, on stderr: on a terminal a table that is drawn anew in its place, elsewhere a line for
//! each change. Owned by a wait.
//!
//! Invariant: what an operator must know stands above the table and stays there; a table that does not fit is cut, and
//! never wraps, so that it can be taken back.

use std::{io::Write, time::Duration};

use proto::wire::DrainView;
use tokio::time::Instant;

use super::page::{self, Changes};
use crate::{output::clean, session::Session};

/// Between two drawings of a table in which only times change.
const REDRAW: Duration = Duration::from_secs(1);

enum Mode {
    /// For programs.
    Silent,
    Lines,
    Table,
}

pub struct Progress {
    mode: Mode,
    changes: Changes,
    /// With when it came.
    last: Option<(DrainView, Instant)>,
    /// Lines of the table that stand on the terminal.
    drawn: usize,
}

impl Progress {
    pub fn new(wanted: bool, session: &Session<'_>) -> Self {
        let mode = match (wanted, session.env.stderr_is_terminal) {
            (false, _) => Mode::Silent,
            (true, true) => Mode::Table,
            (true, false) => Mode::Lines,
        };
        Self {
            mode,
            changes: Changes::new(&session.namespace),
            last: None,
            drawn: 0,
        }
    }

    pub fn view(&mut self, view: &DrainView, session: &mut Session<'_>) {
        let changed = self.changes.to(view);
        self.last = Some((view.clone(), Instant::now()));
        match self.mode {
            Mode::Silent => {}
            Mode::Lines => changed.into_iter().for_each(|c| session.note(&c.text)),
            Mode::Table => {
                let lasting = changed.into_iter().filter(|c| c.lasting).map(|c| clean(&c.text) + "\n");
                self.draw(&lasting.collect::<String>(), session);
            }
        }
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str, session: &mut Session<'_>) {
        match self.mode {
            Mode::Silent | Mode::Lines => session.note(text),
            Mode::Table => self.draw(&(clean(text) + "\n"), session),
        }
    }

    /// When it is to be drawn again.
    pub async fn tick(&self) {
        match (&self.mode, &self.last) {
            (Mode::Table, Some(_)) => tokio::time::sleep(REDRAW).await,
            _ => std::future::pending().await,
        }
    }

    pub fn again(&mut self, session: &mut Session<'_>) {
        self.draw("", session);
    }

    /// Takes the table back: what follows says all.
    pub fn finish(&mut self, session: &mut Session<'_>) {
        self.last = None;
        if self.drawn > 0 {
            self.draw("", session);
        }
    }

    fn draw(&mut self, lasting: &str, session: &mut Session<'_>) {
        let block = match &self.last {
            Some((view, at)) => {
                let gone = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
                page::standing(view, view.now_ms.saturating_add(gone))
            }
            None => String::new(),
        };
        let back = match self.drawn {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\r\u{1b}[J"),
        };
        // Without wrapping: a line of the table is a line of the terminal.
        let text = if block.is_empty() {
            format!("{back}{lasting}")
        } else {
            format!("{back}{lasting}\u{1b}[?7l{block}\u{1b}[?7h")
        };
        // What cannot be shown is no reason to fail.
        let _ = session.env.stderr.write_all(text.as_bytes());
        let _ = session.env.stderr.flush();
        self.drawn = block.lines().count();
    }
}
