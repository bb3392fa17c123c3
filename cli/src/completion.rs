//! `wharf completion`: the script by which a shell completes commands, kinds and flags.
//!
//! Invariant: needs no credentials and no coordinator.

use std::fmt::Write as _;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::{
    args::{Cli, CompletionArgs, CompletionShell},
    env::Env,
    error::Error,
};

pub fn run(args: &CompletionArgs, env: &mut Env) -> Result<(), Error> {
    Ok(env.stdout.write_all(&script(args.shell))?)
}

fn script(shell: CompletionShell) -> Vec<u8> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    let generator = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    generate(generator, &mut command, name, &mut text);
    if shell == CompletionShell::Fish {
        text.extend(fish_words(&command).into_bytes());
    }
    text
}

/// The generator knows only flags for fish: here are the words, such as kinds, that a command begins with.
fn fish_words(command: &clap::Command) -> String {
    let mut text = String::new();
    for sub in command.get_subcommands() {
        for arg in sub.get_positionals() {
            let values: Vec<String> = arg
                .get_possible_values()
                .iter()
                .map(|v| v.get_name().to_owned())
                .collect();
            if !values.is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(
                    text,
                    "complete -c wharf -n \"__fish_wharf_using_subcommand {}\" -f -a \"{}\"",
                    sub.get_name(),
                    values.join(" ")
                );
            }
        }
    }
    text
}
