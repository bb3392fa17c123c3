//! The operator's command. [`run`] is all of it: `main` gives it the process's surroundings, tests give it
//! their own.
//!
//! | module | what it is |
//! |---|---|
//! | [`args`] | the command line, its help and examples |
//! | [`env`] | what a run sees of the outside: streams, variables, clock, network |
//! | [`error`] | the exit statuses and which failure has which |
//! | [`config`] | where the credentials are |
//! | [`client`] | calls to the coordinators, with retry and failover |
//! | `session` | what every command has at hand |
//! | [`manifest`], `yaml` | files of objects, read strictly with their places |
//! | `target` | kinds and names on the command line |
//! | `get`, `watch`, `describe`, `create`, `delete`, `scale`, `node`, `token`, `version` | one command each |
//! | [`output`], `table`, [`printers`], [`age`] | how things are shown |
//!
//! Invariant: data goes to stdout, everything else to stderr; nothing is written to disk.

pub mod age;
pub mod args;
pub mod client;
pub mod config;
mod create;
mod delete;
mod describe;
pub mod env;
pub mod error;
mod events;
mod get;
pub mod manifest;
mod node;
pub mod output;
pub mod printers;
mod received;
mod scale;
mod session;
mod table;
mod target;
mod token;
mod version;
mod watch;
mod yaml;

use std::{ffi::OsString, io::Write};

use clap::{CommandFactory, FromArgMatches};

pub use env::{Env, Times};
pub use error::Error;

use crate::{
    args::{Cli, Command, TokenCommand},
    session::Session,
};

/// Runs one command line (`args[0]` is the program's name) and returns its exit status: 0 done, 1 refused or
/// failed, 2 usage, 3 a wait timed out while the work goes on, 4 no coordinator reachable or no leader, 130
/// interrupted.
pub async fn run(args: impl IntoIterator<Item = OsString>, env: &mut Env) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let color = args::color(&args, env);
    let parsed = Cli::command()
        .color(color.for_clap())
        .try_get_matches_from(&args)
        .and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            let text = e.render();
            let text = if color.is_on() {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            // Nothing better can be done when even this cannot be written.
            let _ = if e.use_stderr() {
                env.stderr.write_all(text.as_bytes())
            } else {
                env.stdout.write_all(text.as_bytes())
            };
            return u8::try_from(e.exit_code()).unwrap_or(error::USAGE);
        }
    };
    // On the heap: the largest command decides its size.
    let result = Box::pin(dispatch(&cli, env, color.is_on())).await;
    let flushed = env.stdout.flush().map_err(Error::from);
    match result.and(flushed) {
        Ok(()) => error::DONE,
        Err(e) if e.is_closed_pipe() => error::DONE,
        Err(e) => {
            e.report(&mut env.stderr, color.is_on());
            e.exit_code()
        }
    }
}

async fn dispatch(cli: &Cli, env: &mut Env, color: bool) -> Result<(), Error> {
    if let Command::Version(args) = &cli.command {
        return version::run(args, &cli.global, env, color).await;
    }
    let mut session = Session::open(&cli.global, env, color)?;
    let session = &mut session;
    match &cli.command {
        Command::Get(args) => get::run(args, session).await,
        Command::Describe(args) => describe::run(args, session).await,
        Command::Events(args) => events::run(args, session).await,
        Command::Create(args) => create::run(args, session).await,
        Command::Delete(args) => delete::run(args, session).await,
        Command::Scale(args) => scale::run(args, session).await,
        Command::Node(command) => node::run(command, session).await,
        Command::Token(TokenCommand::Create(args)) => token::create(args, session).await,
        Command::Token(TokenCommand::List(args)) => token::list(args, session).await,
        Command::Token(TokenCommand::Revoke(args)) => token::revoke(args, session).await,
        // Handled above: it needs no credentials.
        Command::Version(_) => Ok(()),
    }
}
