//! The command line: what clap parses, and the help, which ends in two examples for every command. What all
//! commands share is here; the arguments of each are beside it, in one file for those that read, those that write,
//! drains, rolling updates, holds, tokens, the cluster as a whole, and its coordinators.
//!
//! Invariant: nothing here reads the process's environment; variables come from [`Env`].

mod cluster;
mod coordinators;
mod drain;
mod hold;
mod read;
mod rollout;
mod token;
mod write;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, ColorChoice, Parser, Subcommand, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, StringValueParser, TypedValueParser},
};
use proto::model::Kind;

pub use self::{cluster::*, coordinators::*, drain::*, hold::*, read::*, rollout::*, token::*, write::*};
use crate::{env::Env, node::NodeCommand, status::StatusFormat};

/// Operates a Wharfinger fleet.
#[derive(Debug, Parser)]
#[command(
    name = "wharf",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Examples:\n  wharf get nodes -o wide\n  wharf apply -f web.yaml"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// Credentials, as `wharf-coordinator init` wrote them [variable: WHARF_CONFIG; default:
    /// ~/.config/wharf/config.yaml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Namespace [variable: WHARF_NAMESPACE; default: that of the credentials, else `default`]
    #[arg(short, long, global = true, value_name = "NS", help_heading = "Global options")]
    pub namespace: Option<String>,
    /// Why you change something; ends in the audit record (`wharf audit`)
    #[arg(long, global = true, value_name = "TEXT", help_heading = "Global options")]
    pub reason: Option<String>,
    /// How long one call may take, e.g. 30s; 0: for ever [variable: WHARF_REQUEST_TIMEOUT; default: 30s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration, help_heading = "Global options")]
    pub request_timeout: Option<Duration>,
    /// Colours in messages and help; `auto`: on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub color: Color,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Get(GetArgs),
    Describe(DescribeArgs),
    Events(EventsArgs),
    Logs(LogsArgs),
    Apply(ApplyArgs),
    Create(CreateArgs),
    Replace(ReplaceArgs),
    Patch(PatchArgs),
    Diff(DiffArgs),
    Delete(DeleteArgs),
    Scale(ScaleArgs),
    Label(LabelArgs),
    Annotate(AnnotateArgs),
    Taint(TaintArgs),
    Wait(WaitArgs),
    Cordon(CordonArgs),
    Uncordon(UncordonArgs),
    Drain(DrainArgs),
    RollingUpdate(RollingUpdateArgs),
    #[command(subcommand)]
    Rollout(RolloutCommand),
    #[command(subcommand)]
    Set(SetCommand),
    #[command(subcommand)]
    Hold(HoldCommand),
    #[command(subcommand)]
    Node(NodeCommand),
    #[command(subcommand)]
    Token(TokenCommand),
    Status(StatusArgs),
    #[command(subcommand)]
    Cluster(ClusterCommand),
    #[command(subcommand)]
    Settings(SettingsCommand),
    Freeze(FreezeArgs),
    Unfreeze(UnfreezeArgs),
    Audit(AuditArgs),
    Completion(CompletionArgs),
    Version(VersionArgs),
}

/// Given to every command that writes.
#[derive(Clone, Copy, Debug, Args)]
pub struct DryRun {
    /// Let the coordinator check it, change nothing; `client` and `server` mean the same, `none` is off
    #[arg(
        long = "dry-run",
        value_name = "MODE",
        num_args = 0..=1,
        require_equals = true,
        default_value = "none",
        default_missing_value = "server",
        hide_default_value = true,
        value_parser = PossibleValuesParser::new(["none", "client", "server"]).map(|mode| mode != "none"),
        hide_possible_values = true
    )]
    pub on: bool,
}

impl DryRun {
    /// What a result line ends in.
    pub fn suffix(self) -> &'static str {
        if self.on { " (dry run)" } else { "" }
    }
}

/// Which of a kind, where no names are given.
#[derive(Clone, Debug, Default, Args)]
pub struct Which {
    /// All with these labels, e.g. `app=web,tier!=test`
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "all")]
    pub selector: Option<String>,
    /// All of the kind, in the namespace
    #[arg(long)]
    pub all: bool,
}

/// Accepts any word; shells offer the kinds.
#[derive(Clone)]
struct KindOrName;

impl TypedValueParser for KindOrName {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Kind::ALL.into_iter().map(|k| PossibleValue::new(k.plural()))))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// Whether messages are coloured; settled before clap runs, which has messages of its own.
#[derive(Clone, Copy, Debug)]
pub struct ColorSetting(bool);

impl ColorSetting {
    pub fn is_on(self) -> bool {
        self.0
    }

    pub fn for_clap(self) -> ColorChoice {
        if self.0 {
            ColorChoice::Always
        } else {
            ColorChoice::Never
        }
    }
}

/// From `--color`, NO_COLOR and the terminal.
pub fn color(args: &[OsString], env: &Env) -> ColorSetting {
    let mut when = None;
    let mut words = args.iter().filter_map(|a| a.to_str()).peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        let value = word
            .strip_prefix("--color=")
            .or_else(|| (word == "--color").then(|| words.peek().copied().unwrap_or_default()));
        when = value.and_then(|v| Color::from_str(v, false).ok()).or(when);
    }
    ColorSetting(match when.unwrap_or(Color::Auto) {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => env.stderr_is_terminal && env.var("NO_COLOR").is_none(),
    })
}

/// How to write errors, from `-o`: needed before clap runs, since it finds errors too.
pub fn error_format(args: &[OsString]) -> StatusFormat {
    let mut format = StatusFormat::Line;
    let mut words = args.iter().skip(1).filter_map(|a| a.to_str()).peekable();
    while let Some(word) = words.next() {
        let value = match word {
            "--" => break,
            "-o" | "--output" => words.peek().copied(),
            word if word.starts_with("--") => word.strip_prefix("--output="),
            word => short_output(word).map(|v| {
                if v.is_empty() {
                    words.peek().copied().unwrap_or(v)
                } else {
                    v
                }
            }),
        };
        format = match value {
            Some("json") => StatusFormat::Json,
            Some("yaml") => StatusFormat::Yaml,
            Some(_) => StatusFormat::Line,
            None => format,
        };
    }
    format
}

/// `-ojson`, `-o=json`, and `-Awo json`, whose value is the next word.
fn short_output(word: &str) -> Option<&str> {
    let (flags, value) = word.strip_prefix('-')?.split_once('o')?;
    flags
        .chars()
        .all(|c| matches!(c, 'A' | 'w' | 'q'))
        .then(|| value.strip_prefix('=').unwrap_or(value))
}

/// `30s`, `1h30m`, `250ms`, or whole seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|_| "expected a duration such as 250ms, 30s, 5m or 1h30m".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    proto::model::labels::check_label_key(key)?;
    proto::model::labels::check_label_value(value)?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_format_of_errors_is_found_however_it_is_written() {
        use StatusFormat::{Json, Line, Yaml};
        for (line, expected) in [
            ("wharf get pods", Line),
            ("wharf get pods -o json", Json),
            ("wharf get pods -ojson", Json),
            ("wharf get pods -o=yaml", Yaml),
            ("wharf get pods -Awo yaml", Yaml),
            ("wharf get --output=json pods", Json),
            ("wharf get --output yaml", Yaml),
            ("wharf get pods -o json -o wide", Line),
            ("wharf label pod a --overwrite -l tool=json", Line),
            ("wharf get pods -- -o json", Line),
            ("wharf get pods -o", Line),
        ] {
            let words: Vec<OsString> = line.split(' ').map(Into::into).collect();
            assert_eq!(error_format(&words), expected, "{line}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "-1", "x", "5 parsecs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
