//! `wharf-coordinator etcd-config`: all files of an etcd cluster's hosts, made in one directory to be copied from.
//! Called by `main`.
//!
//! | file | what it is |
//! |---|---|
//! | [`member`] | `NAME=ADDRESS`, and what is refused |
//! | [`files`] | the text of the files |
//! | [`certs`] | etcd's own authority |
//! | [`place`] | directories whole or not at all |
//!
//! Invariant: a key or file that is there is never replaced unless asked to, and the authority never; what a failed run
//! made, it removes.

mod certs;
pub(crate) mod files;
mod member;
mod place;

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Args;
use proto::{
    files::{FileError, file_error, write_private},
    ids::hex,
    model::labels::quoted,
};
use serde::{Deserialize, Serialize};

use self::{
    certs::{EtcdCa, Purpose},
    files::{COORDINATOR, Site},
    member::{Member, check_distinct},
    place::{STAGING, Staging},
};
use crate::ca::{
    issue::IssueError,
    secret::{SecretError, random},
};

#[derive(Clone, Debug, Args)]
pub struct EtcdConfigArgs {
    /// A member and where the others and the coordinators reach it, e.g. etcd1=10.0.0.1; once for each.
    #[arg(long = "member", value_name = "NAME=ADDRESS", required = true)]
    pub members: Vec<String>,
    /// Directory to make the files in; a later run with the same one adds a member.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Port for the coordinators [default: 2379].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub client_port: Option<u16>,
    /// Port for the members among themselves [default: 2380].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_port: Option<u16>,
    /// Text that tells this etcd cluster from others [default: a random one].
    #[arg(long, value_name = "TEXT")]
    pub token: Option<String>,
    /// A member that was removed from the cluster and is not to be named any more.
    #[arg(long = "gone", value_name = "NAME")]
    pub gone: Vec<String>,
    /// Where each host will keep its files; {member} stands for the member's name.
    #[arg(long, value_name = "DIR", default_value = "/etc/wharf/etcd")]
    pub install_dir: String,
    /// Where each host will keep etcd's data; {member} stands for the member's name.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/etcd/{member}")]
    pub etcd_data_dir: String,
    /// Life of the certificates, in days.
    #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=7300))]
    pub days: u32,
    /// Make files anew that are there; never the authority.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum EtcdConfigError {
    /// What was asked for is wrong in itself.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// `OUT/ca/members.json`: what earlier runs made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    token: String,
    client_port: u16,
    peer_port: u16,
    members: Vec<Member>,
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    record: Record,
    /// Members whose files are made, with their state.
    make: Vec<Member>,
    state: &'static str,
    /// Names of those whose files are left as they are.
    kept: Vec<String>,
}

/// What was made, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdConfigReport {
    /// Each a line.
    pub done: Vec<String>,
    /// Each a sentence.
    pub warnings: Vec<String>,
}

const CA: &str = "ca";
const RECORD: &str = "members.json";
const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const SNIPPET: &str = "coordinator.toml";

/// Makes the files. `now_ms`: since the Unix epoch.
pub fn run(args: &EtcdConfigArgs, now_ms: u64) -> Result<EtcdConfigReport, EtcdConfigError> {
    let given = check(args)?;
    let out = &args.out;
    let mut staging = Staging::begin(out).map_err(|e| begin_error(out, &e))?;
    let known = read_record(out)?;
    let ca = match &known {
        Some(_) => Some(read_ca(out)?),
        None => None,
    };
    let fresh = format!("wharf-{}", hex(&random::<4>()?));
    let plan = plan(args, given, known.clone(), &fresh)?;
    if known.is_none() {
        refuse_unknown(out, &plan, args.force)?;
    }
    let new_ca = ca.is_none();
    let ca = match ca {
        Some(ca) => ca,
        None => EtcdCa::generate(&plan.record.token, now_ms)?,
    };
    make(&mut staging, args, &plan, &ca, now_ms)?;
    let record = serde_json::to_string_pretty(&plan.record)
        .map_err(|e| EtcdConfigError::Refused(format!("{RECORD} cannot be written: {e}")))?;
    let stage = |e: io::Error| file_error(out, e);
    if new_ca {
        staging.write(CA, CA_CERTIFICATE, &ca.certificate).map_err(stage)?;
        staging.write(CA, CA_KEY, &ca.key_pem()).map_err(stage)?;
        staging.write(CA, RECORD, &record).map_err(stage)?;
    }
    let finish = || {
        if keeps_coordinator(args, &plan) {
            let text = site(args, &plan).coordinator_toml();
            write_private(&out.join(COORDINATOR).join(SNIPPET), text.as_bytes())?;
        }
        if new_ca {
            return Ok(());
        }
        write_private(&out.join(CA).join(RECORD), record.as_bytes())
    };
    staging.place(finish).map_err(stage)?;
    Ok(report(args, &plan))
}

/// What can be judged by the command line alone.
fn check(args: &EtcdConfigArgs) -> Result<Vec<Member>, EtcdConfigError> {
    let usage = |flag: &str, what: String| EtcdConfigError::Usage(format!("--{flag}: {what}"));
    let members: Vec<Member> = args
        .members
        .iter()
        .map(|text| text.parse().map_err(|what| usage("member", what)))
        .collect::<Result<_, _>>()?;
    check_distinct(&members).map_err(|what| usage("member", what))?;
    if let Some(token) = &args.token {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if token.is_empty() || token.len() > 63 || !token.chars().all(plain) {
            let what = format!("{} is not 1 to 63 of letters, digits, '-', '_' and '.'", quoted(token));
            return Err(usage("token", what));
        }
    }
    for (flag, dir) in [
        ("install-dir", &args.install_dir),
        ("etcd-data-dir", &args.etcd_data_dir),
    ] {
        let bare = dir.replace("{member}", "m");
        // Neither systemd nor a shell reads more into these.
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.+@".contains(c);
        if !bare.starts_with('/') || !bare.chars().all(plain) || bare.trim_end_matches('/').is_empty() {
            let what = format!(
                "{} is not an absolute path of letters, digits and /-_.+@, with {{member}} for the member's name",
                quoted(dir)
            );
            return Err(usage(flag, what));
        }
    }
    Ok(members)
}

fn begin_error(out: &Path, error: &io::Error) -> EtcdConfigError {
    let staging = out.join(STAGING);
    if error.kind() == io::ErrorKind::AlreadyExists && staging.exists() {
        return EtcdConfigError::Refused(format!(
            "{}: another run is at work, or one was interrupted: then move what ends in .old in it back to its name in {}, remove it, and run again",
            staging.display(),
            out.display()
        ));
    }
    file_error(out, error).into()
}

fn read_record(out: &Path) -> Result<Option<Record>, EtcdConfigError> {
    let path = out.join(CA).join(RECORD);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| file_error(&path, format!("damaged ({e}); put back the undamaged file")).into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error(&path, e).into()),
    }
}

fn read_ca(out: &Path) -> Result<EtcdCa, EtcdConfigError> {
    let read = |name: &str| {
        let path = out.join(CA).join(name);
        std::fs::read_to_string(&path).map_err(|e| file_error(&path, format!("{e}; put back the file")))
    };
    let (certificate, key) = (read(CA_CERTIFICATE)?, read(CA_KEY)?);
    EtcdCa::read(&certificate, &key)
        .map_err(|e| file_error(&out.join(CA).join(CA_KEY), format!("{e}; put back the undamaged files")).into())
}

/// A first run must not touch what others made.
fn refuse_unknown(out: &Path, plan: &Plan, force: bool) -> Result<(), EtcdConfigError> {
    let members = plan.make.iter().map(|m| m.name.as_str());
    for (name, replaceable) in members.map(|m| (m, true)).chain([(COORDINATOR, true), (CA, false)]) {
        let path = out.join(name);
        if path.symlink_metadata().is_ok() && !(force && replaceable) {
            let remedy = if replaceable {
                "choose another --out, or --force to replace it"
            } else {
                "choose another --out"
            };
            return Err(EtcdConfigError::Refused(format!(
                "{} already exists and is none of an earlier run; {remedy}",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Pure: what a run does on what earlier ones made.
fn plan(
    args: &EtcdConfigArgs,
    given: Vec<Member>,
    known: Option<Record>,
    fresh: &str,
) -> Result<Plan, EtcdConfigError> {
    let refused = |what: String| Err(EtcdConfigError::Refused(what));
    let Some(known) = known else {
        if let Some(name) = args.gone.first() {
            return refused(format!(
                "--gone {name}: no earlier run is on record in {}",
                args.out.display()
            ));
        }
        let record = Record {
            token: args.token.clone().unwrap_or_else(|| fresh.to_owned()),
            client_port: args.client_port.unwrap_or(2379),
            peer_port: args.peer_port.unwrap_or(2380),
            members: given.clone(),
        };
        check_ports(&record)?;
        return Ok(Plan {
            record,
            make: given,
            state: "new",
            kept: Vec::new(),
        });
    };
    for name in &args.gone {
        if !known.members.iter().any(|m| m.name == *name) {
            return refused(format!("--gone {name}: no member of that name is on record"));
        }
        if given.iter().any(|m| m.name == *name) {
            return refused(format!(
                "{name} is given by --member and by --gone: leave out one of them"
            ));
        }
    }
    let mut record = known.clone();
    record.members.retain(|m| !args.gone.contains(&m.name));
    // All again, as they were: the set-up is made anew.
    let all = args.force && args.gone.is_empty() && {
        let names = |members: &[Member]| {
            let mut names: Vec<String> = members.iter().map(|m| m.name.clone()).collect();
            names.sort();
            names
        };
        names(&given) == names(&known.members)
    };
    for (flag, given, was) in [
        (
            "client-port",
            args.client_port.map(|p| p.to_string()),
            known.client_port.to_string(),
        ),
        (
            "peer-port",
            args.peer_port.map(|p| p.to_string()),
            known.peer_port.to_string(),
        ),
        ("token", args.token.clone(), known.token.clone()),
    ] {
        if let Some(given) = given.filter(|given| *given != was && !all) {
            return refused(format!(
                "--{flag} is {given} and was {was}: name all members and --force to set the cluster up anew, or leave it out"
            ));
        }
    }
    record.token = args.token.clone().unwrap_or(record.token);
    record.client_port = args.client_port.unwrap_or(record.client_port);
    record.peer_port = args.peer_port.unwrap_or(record.peer_port);
    check_ports(&record)?;
    let (mut make, mut kept, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for member in given {
        match record.members.iter_mut().find(|m| m.name == member.name) {
            Some(was) if was.host != member.host && !args.force => {
                return refused(format!(
                    "member {} is on record as {}, not {}: --force to change it",
                    member.name, was.host, member.host
                ));
            }
            Some(was) if args.force => {
                *was = member.clone();
                make.push(member);
            }
            Some(_) => kept.push(member.name),
            None => {
                added.push(member.name.clone());
                record.members.push(member.clone());
                make.push(member);
            }
        }
    }
    if let [first, second, ..] = added.as_slice() {
        return refused(format!(
            "{first} and {second} are both new: etcd takes one new member at a time; add {first}, start it, then add {second}"
        ));
    }
    check_distinct(&record.members).map_err(EtcdConfigError::Refused)?;
    Ok(Plan {
        record,
        make,
        state: if all { "new" } else { "existing" },
        kept,
    })
}

fn check_ports(record: &Record) -> Result<(), EtcdConfigError> {
    if record.client_port == record.peer_port {
        return Err(EtcdConfigError::Usage(format!(
            "--client-port and --peer-port are both {}: choose two",
            record.client_port
        )));
    }
    Ok(())
}

/// Writes the files of a plan into the staging directory.
fn make(
    staging: &mut Staging,
    args: &EtcdConfigArgs,
    plan: &Plan,
    ca: &EtcdCa,
    now_ms: u64,
) -> Result<(), EtcdConfigError> {
    let site = site(args, plan);
    let out = &args.out;
    let mut write = |dir: &str, name: &str, text: &str| {
        staging
            .write(dir, name, text)
            .map_err(|e| file_error(&out.join(dir).join(name), e))
    };
    for member in &plan.make {
        let dir = member.name.as_str();
        write(dir, CA_CERTIFICATE, &ca.certificate)?;
        for (name, purpose) in [("server", Purpose::Server), ("peer", Purpose::Peer)] {
            let pair = ca.issue(purpose, Some(member), args.days, now_ms)?;
            write(dir, &format!("{name}.crt"), &pair.certificate)?;
            write(dir, &format!("{name}.key"), &pair.key)?;
        }
        write(dir, "etcd.env", &site.env(member, plan.state))?;
    }
    if keeps_coordinator(args, plan) {
        return Ok(());
    }
    let pair = ca.issue(Purpose::Client, None, args.days, now_ms)?;
    write(COORDINATOR, CA_CERTIFICATE, &ca.certificate)?;
    write(COORDINATOR, "client.crt", &pair.certificate)?;
    write(COORDINATOR, "client.key", &pair.key)?;
    write(COORDINATOR, SNIPPET, &site.coordinator_toml())?;
    Ok(())
}

/// Of the coordinators' directory only the list of endpoints changes.
fn keeps_coordinator(args: &EtcdConfigArgs, plan: &Plan) -> bool {
    plan.state == "existing" && !args.force && args.out.join(COORDINATOR).is_dir()
}

fn site<'a>(args: &'a EtcdConfigArgs, plan: &'a Plan) -> Site<'a> {
    Site {
        members: &plan.record.members,
        token: &plan.record.token,
        client_port: plan.record.client_port,
        peer_port: plan.record.peer_port,
        install_dir: &args.install_dir,
        data_dir: &args.etcd_data_dir,
    }
}

fn report(args: &EtcdConfigArgs, plan: &Plan) -> EtcdConfigReport {
    let site = site(args, plan);
    let out = args.out.display();
    let mut done = Vec::new();
    for member in &plan.make {
        done.push(format!(
            "{}: copy {out}/{} to {} on {}, readable by etcd's user alone ({})",
            member.name,
            member.name,
            site.installed(&member.name),
            member.host,
            plan.state
        ));
    }
    done.extend(
        plan.kept
            .iter()
            .map(|name| format!("{name}: {out}/{name} is kept as it is")),
    );
    done.push(format!(
        "coordinators: copy {out}/{COORDINATOR} to {} on each, and its coordinator.toml into their configuration",
        site.installed(COORDINATOR)
    ));
    done.push(format!(
        "authority: {out}/{CA} goes to no host; keep it, a later member needs it"
    ));
    if plan.state == "existing" && !plan.make.is_empty() {
        let urls: Vec<String> = plan
            .make
            .iter()
            .map(|m| format!("{}={}", m.name, m.host.url(plan.record.peer_port)))
            .collect();
        done.push(format!(
            "next: make the cluster expect {} (member add), then start etcd there with an empty data directory",
            urls.join(", ")
        ));
    } else if !plan.make.is_empty() {
        done.push("next: start etcd on all of these hosts, each with its etcd.env".to_owned());
    }
    EtcdConfigReport {
        done,
        warnings: member::warnings(&plan.record.members),
    }
}

#[cfg(test)]
#[path = "etcd_config_tests.rs"]
mod tests;
