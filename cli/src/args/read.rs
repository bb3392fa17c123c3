//! The arguments of the commands that change nothing: get, describe, events, logs, diff, wait, completion, version.
//!
//! Invariant: as of [`super`].

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, ValueHint};

use super::{KindOrName, Which, duration};
use crate::{
    output::Format,
    wait::{Goal, goal},
};

/// Show objects in a table, or as JSON, YAML or names
///
/// KIND is nodes (no), pods (po), replicationcontrollers (rc), daemonsets (ds), namespaces (ns), poddisruptionbudgets
/// (pdb), endpoints (ep) or events (ev); several with commas; `all` is pods and controllers.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf get rc,pods -o wide\n  wharf get pods -A --node n1 --sort-by=.metadata.name"
)]
pub struct GetArgs {
    /// KIND[,KIND...] [NAME...], or KIND/NAME...
    #[arg(required_unless_present = "filename", value_name = "KIND", value_parser = KindOrName, hide_possible_values = true)]
    pub targets: Vec<String>,
    /// The objects that this file names, `-` for stdin, or those of a directory; may be repeated
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath, conflicts_with = "targets")]
    pub filename: Vec<PathBuf>,
    /// Objects of every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels, e.g. `app=web,tier!=test`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Only objects with these fields, e.g. `status.phase=Running`, `spec.nodeName=n1`
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// Only pods of this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Sort by a field, e.g. `.metadata.creationTimestamp`, `{.status.capacity.memory}`
    #[arg(long, value_name = "PATH")]
    pub sort_by: Option<String>,
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
    /// A name that is not there is no failure
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Go on showing changes until Ctrl-C
    #[arg(short, long)]
    pub watch: bool,
}

/// Show everything about an object, with what belongs to it and its events
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf describe pod web-x2k4p\n  wharf describe node n1")]
pub struct DescribeArgs {
    /// KIND [NAME...], or KIND/NAME...; all of the kind without a name
    #[arg(required_unless_present = "filename", value_name = "KIND", value_parser = KindOrName, hide_possible_values = true)]
    pub targets: Vec<String>,
    /// The objects that this file names, `-` for stdin, or those of a directory; may be repeated
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::AnyPath, conflicts_with = "targets")]
    pub filename: Vec<PathBuf>,
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

/// Show what `wharf apply` would change, as a unified diff
///
/// The coordinator checks and completes each object without storing it. Left out of the diff are the status, what
/// only the coordinator writes, and apply's own annotation.
///
/// Exit status: 0 no difference, 1 differences, more than 1 an error.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf diff -f web.yaml\n  wharf diff -f web.yaml -f db.yaml")]
pub struct DiffArgs {
    /// YAML or JSON file, `-` for stdin, or a directory of them; may be repeated
    #[arg(short, long, required = true, value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub filename: Vec<PathBuf>,
}

/// Wait until objects are in a condition, are there, or are gone
///
/// A controller is Ready when all the pods desired of it are there and ready. Exit status 3 when the time ends first;
/// the work goes on.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf wait rc/web --for condition=Ready\n  wharf wait pods -l app=web --for delete --timeout 2m"
)]
pub struct WaitArgs {
    /// KIND/NAME..., KIND NAME..., or KIND with -l or --all
    #[arg(required = true, value_name = "KIND", value_parser = KindOrName, hide_possible_values = true)]
    pub targets: Vec<String>,
    /// `condition=TYPE[=STATUS]` (STATUS is True when left out), `create` or `delete`
    #[arg(long = "for", value_name = "WHAT", value_parser = goal)]
    pub goal: Goal,
    #[command(flatten)]
    pub which: Which,
    /// How long to wait; 0: look once
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub timeout: Duration,
}

/// Show what containers wrote, stdout and stderr together
///
/// Of a pod with several containers the first one is shown unless -c or --all-containers says otherwise. Several pods
/// (-l, rc/NAME or ds/NAME) are shown one after the other, or together with -f. -f ends when the container does; it goes on when
/// a coordinator or an agent restarts. Only what the Docker host still keeps can be shown: the newest 30 MB of a
/// container, and of its restarts the last one.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf logs web-x2k4p --tail 20 --timestamps\n  wharf logs -l app=web --since 5m --prefix"
)]
pub struct LogsArgs {
    /// A pod, as NAME or pod/NAME, or all pods of a controller, as rc/NAME or ds/NAME
    #[arg(
        value_name = "POD",
        required_unless_present = "selector",
        conflicts_with = "selector"
    )]
    pub target: Option<String>,
    /// The pods with these labels, e.g. `app=web,tier!=test`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// This container
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_containers")]
    pub container: Option<String>,
    /// Every container of the pod
    #[arg(long)]
    pub all_containers: bool,
    /// Go on until the container ends, or Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// The last so many lines; -1: all [default: all; 10 of each container with -l]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Only what was written in this time, e.g. 90s, 5m, 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// What the container wrote before its last restart
    #[arg(short, long)]
    pub previous: bool,
    /// Before each line, when it was written
    #[arg(long)]
    pub timestamps: bool,
    /// Before each line, its pod and container
    #[arg(long)]
    pub prefix: bool,
    /// Most logs that -f follows at once
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub max_log_requests: usize,
}

/// Print the script by which a shell completes commands, kinds and flags
///
/// bash: put `source <(wharf completion bash)` into ~/.bashrc. zsh: write it to a file `_wharf` in a directory of
/// $fpath. fish: write it to ~/.config/fish/completions/wharf.fish.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  wharf completion bash\n  wharf completion fish")]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: CompletionShell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    Bash,
    Zsh,
    Fish,
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
