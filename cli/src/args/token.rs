//! The arguments of `wharf token`.
//!
//! Invariant: as of [`super`].

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{DryRun, duration, pair};
use crate::output::{Format, ObjectFormat};

/// Make, list and revoke the tokens by which hosts and coordinators join
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:\n  wharf token create --uses 3 --ttl 2h\n  wharf token list")]
pub enum TokenCommand {
    Create(TokenCreateArgs),
    List(TokenListArgs),
    Revoke(TokenRevokeArgs),
}

/// Make a token and print the command that joins a host, or another coordinator, with it
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wharf token create --uses 50 --ttl 30m --label zone=north\n  wharf token create --role coordinator"
)]
pub struct TokenCreateArgs {
    /// What joins with it
    #[arg(long, value_name = "ROLE", value_parser = ["agent", "coordinator"], default_value = "agent")]
    pub role: String,
    /// How many hosts or coordinators may join with it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub uses: u32,
    /// How long it lives
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub ttl: Duration,
    /// Label of the hosts that join with it; may be repeated; not of coordinators
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
    /// Only for the node of this name; if it exists, its host comes back under it, and its old identity is revoked
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Addresses for the join command instead of those that the coordinator gives
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub coordinators: Vec<String>,
    /// Print the token only
    #[arg(short, long, conflicts_with = "output")]
    pub quiet: bool,
    #[command(flatten)]
    pub dry_run: DryRun,
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
    #[command(flatten)]
    pub dry_run: DryRun,
}
