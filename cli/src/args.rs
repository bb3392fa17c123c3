//! The command line: what clap parses, and the help, which ends in two examples for every command.
//!
//! Invariant: nothing here reads the process's environment; variables come from [`Env`].

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, ColorChoice, Parser, Subcommand, ValueEnum};

use crate::{
    env::Env,
    node::NodeCommand,
    output::{Format, ObjectFormat},
};

/// Operates a Wharfinger fleet.
#[derive(Debug, Parser)]
#[command(
    name = "wharf",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Examples:\n  wharf get nodes -o wide\n  wharf create -f web.yaml"
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
    Create(CreateArgs),
    Delete(DeleteArgs),
    Scale(ScaleArgs),
    #[command(subcommand)]
    Node(NodeCommand),
    #[command(subcommand)]
    Token(TokenCommand),
    Version(VersionArgs),
}

/// Show objects in a table, or as JSON, YAML or names
///
/// KIND is nodes (no), pods (po), replicationcontrollers (rc), namespaces (ns) or events (ev); several with
/// commas.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf get rc,pods -o wide\n  wharf get pods -l app=web -A")]
pub struct GetArgs {
    /// KIND[,KIND...] [NAME...], or KIND/NAME...
    #[arg(required = true, value_name = "KIND")]
    pub targets: Vec<String>,
    /// Objects of every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels, e.g. `app=web,tier!=test`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Only objects with these fields, e.g. `status.phase=Running`, `spec.nodeName=n1`
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// A column with this label; repeat or separate by commas for more
    #[arg(short = 'L', long, value_name = "KEY", value_delimiter = ',')]
    pub label_columns: Vec<String>,
    /// A column with all labels
    #[arg(long)]
    pub show_labels: bool,
    /// Output format; a table when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
    /// No header
    #[arg(long)]
    pub no_headers: bool,
    /// Go on showing changes until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
}

/// Show everything about an object, with what belongs to it and its events
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf describe pod web-x2k4p\n  wharf describe node n1")]
pub struct DescribeArgs {
    /// KIND [NAME...], or KIND/NAME...; all of the kind without a name
    #[arg(required = true, value_name = "KIND")]
    pub targets: Vec<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// Show what happened, to one object or to all
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf events --for pod/web-x2k4p\n  wharf events -A -w")]
pub struct EventsArgs {
    /// Only what happened to this object
    #[arg(long = "for", value_name = "KIND/NAME")]
    pub object: Option<String>,
    /// Events of every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Output format; a table when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
    /// No header
    #[arg(long)]
    pub no_headers: bool,
    /// Go on showing new events until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
}

/// Create the objects of a file, or a namespace
///
/// Every document is checked before anything is sent: if one is bad, nothing is created.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf create -f web.yaml --dry-run\n  wharf create namespace prod")]
pub struct CreateArgs {
    /// YAML or JSON file, `-` for stdin; several documents and lists are fine; may be repeated
    #[arg(short, long, value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// `namespace NAME`
    #[arg(value_name = "KIND", conflicts_with = "filename")]
    pub words: Vec<String>,
    /// Let the coordinator check it, store nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Show the created objects
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}

/// Delete objects, and wait until they are gone
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf delete rc web\n  wharf delete pods -l app=web --grace-period 5")]
pub struct DeleteArgs {
    /// KIND NAME..., KIND/NAME..., or KIND with -l or --all
    #[arg(value_name = "KIND", required_unless_present = "filename")]
    pub targets: Vec<String>,
    /// Delete the objects of this file, `-` for stdin; may be repeated
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["targets", "selector", "all"])]
    pub filename: Vec<PathBuf>,
    /// All with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "all")]
    pub selector: Option<String>,
    /// All of the kind, in the namespace
    #[arg(long)]
    pub all: bool,
    /// Seconds from the stop signal to the kill; the pod's own when left out
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// What becomes of dependents, e.g. a controller's pods
    #[arg(long, value_name = "HOW", value_enum, default_value = "background")]
    pub cascade: Cascade,
    /// Wait until the objects are gone
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    pub wait: bool,
    /// How long to wait; 0: for ever
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    pub timeout: Duration,
    /// Let the coordinator check it, delete nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cascade {
    /// Dependents are deleted after the object
    Background,
    /// Dependents stay and lose their owner
    Orphan,
}

/// Set how many pods a controller keeps
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf scale rc web --replicas=9\n  wharf scale rc/web --current-replicas=9 --replicas=3"
)]
pub struct ScaleArgs {
    /// rc NAME..., or rc/NAME...
    #[arg(required = true, value_name = "KIND")]
    pub targets: Vec<String>,
    /// The new count
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub replicas: i32,
    /// Only if the count is this now
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub current_replicas: Option<i32>,
    /// Let the coordinator check it, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Make, list and revoke the tokens by which hosts join
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf token create --uses 3 --ttl 2h\n  wharf token list")]
pub enum TokenCommand {
    Create(TokenCreateArgs),
    List(TokenListArgs),
    Revoke(TokenRevokeArgs),
}

/// Make a token and print the command that joins a host with it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf token create\n  wharf token create --uses 50 --ttl 30m --label zone=north")]
pub struct TokenCreateArgs {
    /// What joins with it
    #[arg(long, value_name = "ROLE", value_parser = ["agent"], default_value = "agent")]
    pub role: String,
    /// How many hosts may join with it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub uses: u32,
    /// How long it lives
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub ttl: Duration,
    /// Label of the hosts that join with it; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Only for the node of this name
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Addresses for the join command instead of those that the coordinator gives
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub coordinators: Vec<String>,
    /// Print the token only
    #[arg(short, long, conflicts_with = "output")]
    pub quiet: bool,
    /// `json` or `yaml`: token and command with all their data; `name`: the token only
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<ObjectFormat>,
}

/// List the tokens, without their secrets
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf token list\n  wharf token list -o json")]
pub struct TokenListArgs {
    /// Output format; a table when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<Format>,
}

/// Make tokens useless at once; hosts that joined with them stay
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf token revoke k7x2p9\n  wharf token revoke k7x2p9 m3n8q4")]
pub struct TokenRevokeArgs {
    /// As `wharf token list` shows them
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
}

/// Show the version of this command and of the coordinator
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf version\n  wharf version --client")]
pub struct VersionArgs {
    /// Of this command only; needs no coordinator
    #[arg(long)]
    pub client: bool,
    /// Output format; lines when left out
    #[arg(short, long, value_name = "FORMAT", value_enum)]
    pub output: Option<VersionFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VersionFormat {
    Json,
    Yaml,
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
    fn every_help_ends_in_two_examples_that_parse() {
        fn check(command: &mut clap::Command) {
            let help = command.render_help().to_string();
            let (_, examples) = help.rsplit_once("Examples:\n").unwrap_or_else(|| panic!("{help}"));
            let examples: Vec<&str> = examples.lines().filter(|l| !l.is_empty()).collect();
            assert_eq!(examples.len(), 2, "{help}");
            for example in examples {
                let parsed = Cli::try_parse_from(example.split_whitespace());
                assert!(
                    parsed.is_ok(),
                    "{example}: {}",
                    parsed.err().map_or_else(String::new, |e| e.to_string())
                );
            }
            command.get_subcommands_mut().for_each(check);
        }
        check(&mut Cli::command());
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
