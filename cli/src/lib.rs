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
//! | `files`, [`manifest`], `yaml` | files of objects, read strictly with their places |
//! | `target`, `select` | which objects a command line names |
//! | `get`, `watch`, `describe`, `events`, `logs`, `diff`, `wait` | one command each that reads |
//! | `apply`, `create`, `replace`, `patch`, `delete`, `scale`, `mark` (label, annotate), `hold` (cordon, uncordon, hold), `taint`, `node`, `token`, `freeze` | one command each that writes |
//! | `settings`, `audit`, `status_page` (status), `cluster` | the cluster as a whole |
//! | `completion`, `version` | one command each that needs no coordinator |
//! | `drain` | empties a node, and shows how that goes |
//! | `rollout`, `set_image` | rolling updates (rolling-update, rollout); the image of a template |
//! | `views` | how a drain or an update stands, through breaks and restarts |
//! | `amend` | one change of an object that others change too |
//! | `confirm` | a name said twice before what cannot be taken back |
//! | `follow` | changes as they come, through breaks and restarts |
//! | `sort` | the order of `--sort-by` |
//! | [`output`], `report`, `table`, [`printers`], [`age`], [`status`] | how things are shown |
//!
//! Invariant: data goes to stdout, everything else to stderr; nothing is written to disk but a backup, where it was
//! asked for.

pub mod age;
mod amend;
mod apply;
pub mod args;
mod audit;
pub mod client;
mod cluster;
mod completion;
pub mod config;
mod confirm;
mod create;
mod delete;
mod describe;
mod diff;
mod drain;
pub mod env;
pub mod error;
mod events;
mod files;
mod follow;
mod freeze;
mod get;
mod hold;
pub mod known;
mod logs;
pub mod manifest;
mod mark;
mod node;
pub mod output;
mod patch;
pub mod printers;
mod received;
mod replace;
mod report;
mod rollout;
mod scale;
mod select;
mod session;
mod set_image;
mod settings;
mod sort;
pub mod status;
mod status_page;
mod table;
mod taint;
mod target;
mod token;
mod version;
mod views;
mod wait;
mod watch;
mod yaml;

use std::{ffi::OsString, io::Write};

use clap::{CommandFactory, FromArgMatches};

pub use env::{Env, Times};
pub use error::Error;

use crate::{
    args::{Cli, Command, SetCommand, TokenCommand},
    mark::Field,
    session::Session,
    status::StatusFormat,
};

/// Runs one command line (`args[0]` is the program's name) and returns its exit status: 0 done, 1 refused or
/// failed, 2 usage, 3 a wait timed out while the work goes on, 4 no coordinator reachable or no leader, 130
/// interrupted. `diff` has 1 for differences, and 2 for what is 1 elsewhere.
pub async fn run(args: impl IntoIterator<Item = OsString>, env: &mut Env) -> u8 {
    let args: Vec<OsString> = args.into_iter().collect();
    let color = args::color(&args, env);
    let format = args::error_format(&args);
    let parsed = Cli::command()
        .color(color.for_clap())
        .try_get_matches_from(&args)
        .and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            let code = u8::try_from(e.exit_code()).unwrap_or(error::USAGE);
            if e.use_stderr() && format != StatusFormat::Line {
                Error::Usage(usage(&e)).report(&mut env.stderr, false, format);
                return code;
            }
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
            return code;
        }
    };
    // On the heap: the largest command decides its size.
    let result = Box::pin(dispatch(&cli, env, color.is_on())).await;
    let flushed = env.stdout.flush().map_err(Error::from);
    match result.and(flushed) {
        Ok(()) => error::DONE,
        Err(e) if e.is_closed_pipe() => error::DONE,
        Err(e) => {
            e.report(&mut env.stderr, color.is_on(), format);
            match (&cli.command, &e) {
                // As of diff(1): 1 says that there are differences.
                (Command::Diff(_), other) if !matches!(other, Error::Differences) => e.exit_code().max(error::USAGE),
                _ => e.exit_code(),
            }
        }
    }
}

/// What clap has to say, without its usage lines.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.split("\n\nUsage:").next().unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines
        .join(" ")
        .replace(" tip: ", "; tip: ")
        .trim_start_matches("error: ")
        .to_owned()
}

async fn dispatch(cli: &Cli, env: &mut Env, color: bool) -> Result<(), Error> {
    match &cli.command {
        Command::Version(args) => return version::run(args, &cli.global, env, color).await,
        Command::Completion(args) => return completion::run(args, env),
        _ => {}
    }
    let mut session = Session::open(&cli.global, env, color)?;
    let session = &mut session;
    match &cli.command {
        Command::Get(args) => get::run(args, session).await,
        Command::Describe(args) => describe::run(args, session).await,
        Command::Events(args) => events::run(args, session).await,
        Command::Logs(args) => logs::run(args, session).await,
        Command::Apply(args) => apply::run(args, session).await,
        Command::Create(args) => create::run(args, session).await,
        Command::Replace(args) => replace::run(args, session).await,
        Command::Patch(args) => patch::run(args, session).await,
        Command::Diff(args) => diff::run(args, session).await,
        Command::Delete(args) => delete::run(args, session).await,
        Command::Scale(args) => scale::run(args, session).await,
        Command::Label(args) => mark::run(Field::Labels, &args.marks, session).await,
        Command::Taint(args) => taint::run(args, session).await,
        Command::Annotate(args) => mark::run(Field::Annotations, &args.marks, session).await,
        Command::Wait(args) => wait::run(args, session).await,
        Command::Cordon(args) => hold::cordon(args, session).await,
        Command::Uncordon(args) => hold::uncordon(args, session).await,
        Command::Drain(args) => drain::run(args, session).await,
        Command::RollingUpdate(args) => rollout::rolling_update(args, session).await,
        Command::Rollout(command) => rollout::run(command, session).await,
        Command::Set(SetCommand::Image(args)) => set_image::run(args, session).await,
        Command::Hold(command) => hold::run(command, session).await,
        Command::Node(command) => node::run(command, session).await,
        Command::Token(TokenCommand::Create(args)) => token::create(args, session).await,
        Command::Token(TokenCommand::List(args)) => token::list(args, session).await,
        Command::Token(TokenCommand::Revoke(args)) => token::revoke(args, session).await,
        Command::Status(args) => status_page::run(args, session).await,
        Command::Cluster(command) => cluster::run(command, session).await,
        Command::Settings(command) => settings::run(command, session).await,
        Command::Freeze(args) => freeze::freeze(args, session).await,
        Command::Unfreeze(args) => freeze::unfreeze(args, session).await,
        Command::Audit(args) => audit::run(args, session).await,
        // Handled above: they need no credentials.
        Command::Completion(_) | Command::Version(_) => Ok(()),
    }
}
