//! `D/status.json`: what `wharf-agent status` shows. A file and not a socket, because it must tell what was true
//! last when the agent hangs or is gone too. Written by [`keep`], read by [`text`].
//!
//! Invariant: nothing depends on this file but people.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use proto::model::{ContainerState, PodStatus, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::wall_ms,
    facts::Engine,
    ledger::disk_replace,
    lock,
    session::{Contact, Role, Standing},
    settings::ms,
    worker::Shared,
};

const NAME: &str = "status.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatusFile {
    pub node: String,
    pub version: String,
    pub written_ms: u64,
    /// Empty while it answers.
    pub docker: String,
    /// Address of the open session; empty: none.
    pub coordinator: String,
    pub active: bool,
    pub last_contact_ms: u64,
    pub last_error: String,
    /// Each coordinator, where there are several.
    pub coordinators: Vec<CoordinatorLine>,
    /// Why the coordinators keep the agent in quarantine; empty: they do not.
    pub quarantine: String,
    pub term: u64,
    pub revision: u64,
    /// Statuses that no coordinator has durably yet.
    pub unreported: usize,
    pub pods: Vec<PodLine>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CoordinatorLine {
    pub address: String,
    /// `active`, `standby`; empty: no session.
    pub role: String,
    pub last_contact_ms: u64,
    pub last_error: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodLine {
    pub namespace: String,
    pub name: String,
    pub ready: String,
    pub status: String,
    pub restarts: u32,
}

/// Writes the file at the period, when it would say something new, until `stop`.
pub async fn keep(
    dir: std::path::PathBuf,
    shared: Arc<Shared>,
    contact: watch::Receiver<Contact>,
    stop: CancellationToken,
) {
    loop {
        let now = collect(&shared, &contact.borrow());
        let dir = dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&dir, &now)).await;
        if let Ok(Err(e)) = written {
            tracing::warn!("cannot write the status file: {e}");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ms(shared.settings.status_file_ms)) => {}
        }
    }
}

fn write(dir: &Path, status: &StatusFile) -> std::io::Result<()> {
    let bytes = serde_json::to_vec_pretty(status)?;
    disk_replace(dir, &dir.join(NAME), &bytes, false)
}

/// Removes the file of a host that left.
pub fn remove(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(dir.join(NAME)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn collect(shared: &Shared, contact: &Contact) -> StatusFile {
    let ledger = shared.keeper.current();
    let mut pods: Vec<_> = shared
        .reporter
        .all()
        .iter()
        .map(|(ns, name, s)| line(ns, name, s))
        .collect();
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    StatusFile {
        node: shared.node.clone(),
        version: proto::VERSION.into(),
        written_ms: wall_ms(),
        docker: match &*shared.engine.borrow() {
            Engine::Up(_) => String::new(),
            Engine::Down(why) => why.clone(),
            Engine::Unknown => "Docker was not asked yet".into(),
        },
        coordinator: contact.address.clone().unwrap_or_default(),
        active: contact.active,
        last_contact_ms: contact.last_ms,
        last_error: contact.last_error.clone(),
        coordinators: contact.coordinators.iter().map(|(a, s)| coordinator(a, s)).collect(),
        quarantine: contact.quarantine.clone(),
        term: ledger.fence.as_ref().map_or(0, |f| f.term),
        revision: ledger.revision,
        unreported: shared.reporter.pending(),
        pods,
    }
}

fn coordinator(address: &str, standing: &Standing) -> CoordinatorLine {
    let role = match standing.role {
        Some(Role::Active) => "active",
        Some(Role::Standby) => "standby",
        None => "",
    };
    CoordinatorLine {
        address: address.to_owned(),
        role: role.into(),
        last_contact_ms: standing.last_ms,
        last_error: standing.last_error.clone(),
    }
}

fn line(namespace: &str, name: &str, status: &PodStatus) -> PodLine {
    let all = &status.container_statuses;
    let reason = all.iter().find_map(|c| match &c.state {
        ContainerState::Waiting(w) if !w.reason.is_empty() => Some(w.reason.clone()),
        _ => None,
    });
    PodLine {
        namespace: namespace.into(),
        name: name.into(),
        ready: format!("{}/{}", all.iter().filter(|c| c.ready).count(), all.len()),
        status: reason.unwrap_or_else(|| status.phase.as_str().into()),
        restarts: all.iter().map(|c| c.restart_count).sum(),
    }
}

/// The text for people; an error says why there is nothing to show.
pub fn text(dir: &Path) -> Result<String, String> {
    let path = dir.join(NAME);
    let bytes = std::fs::read(&path).map_err(|e| {
        format!(
            "no agent has run on the data directory {}: {e}; give the agent's --data-dir",
            dir.display()
        )
    })?;
    let status: StatusFile =
        serde_json::from_slice(&bytes).map_err(|e| format!("{} is damaged: {e}", path.display()))?;
    Ok(render(&status, lock::holder(dir).as_deref(), wall_ms()))
}

fn ago(then_ms: u64, now_ms: u64) -> String {
    if then_ms == 0 {
        return "never".into();
    }
    let seconds = Duration::from_secs(now_ms.saturating_sub(then_ms) / 1000);
    format!("{} ago", humantime::format_duration(seconds))
}

fn render(s: &StatusFile, holder: Option<&str>, now_ms: u64) -> String {
    let mut out = String::new();
    let agent = match holder {
        Some(holder) => format!("running ({holder})"),
        None => format!("not running; what follows was true {}", ago(s.written_ms, now_ms)),
    };
    let one = match (s.coordinator.as_str(), s.active) {
        ("", _) if s.last_error.is_empty() => "none".into(),
        ("", _) => format!("none: {}", s.last_error),
        (address, true) => format!("{address} (active)"),
        (address, false) => format!("{address} (standby)"),
    };
    let docker = if s.docker.is_empty() { "answers" } else { &s.docker };
    let contact = match s.last_contact_ms {
        0 => "never since the agent's start".into(),
        at => format!("{}, {}", Time::from_millis(at), ago(at, now_ms)),
    };
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "Node:          {}\nAgent:         {}, {agent}\nDocker:        {docker}\n{}\
         Last contact:  {contact}\nAssignments:   term {}, revision {}\nUnreported:    {}\n",
        s.node,
        s.version,
        coordinators(s, &one, now_ms),
        s.term,
        s.revision,
        s.unreported
    );
    if !s.quarantine.is_empty() {
        let _ = writeln!(out, "Quarantine:    {}", s.quarantine);
    }
    if s.pods.is_empty() {
        out.push_str("Pods:          none\n");
        return out;
    }
    let width = |header: &str, of: fn(&PodLine) -> &str| {
        s.pods.iter().map(|p| of(p).len()).max().unwrap_or(0).max(header.len())
    };
    let (ns, name, status) = (
        width("NAMESPACE", |p| &p.namespace),
        width("NAME", |p| &p.name),
        width("STATUS", |p| &p.status),
    );
    let _ = writeln!(
        out,
        "\n{:ns$}  {:name$}  READY  {:status$}  RESTARTS",
        "NAMESPACE", "NAME", "STATUS"
    );
    for p in &s.pods {
        let _ = writeln!(
            out,
            "{:ns$}  {:name$}  {:5}  {:status$}  {}",
            p.namespace, p.name, p.ready, p.status, p.restarts
        );
    }
    out
}

/// One line, or a line each where there are several.
fn coordinators(s: &StatusFile, one: &str, now_ms: u64) -> String {
    if s.coordinators.len() < 2 {
        return format!("Coordinator:   {one}\n");
    }
    let width = s.coordinators.iter().map(|c| c.address.len()).max().unwrap_or(0);
    let lines = s.coordinators.iter().enumerate().map(|(n, c)| {
        let label = if n == 0 { "Coordinators:" } else { "" };
        let state = match (c.role.as_str(), c.last_error.as_str()) {
            ("", "") => "not reached yet".to_owned(),
            ("", why) => format!("none: {why}"),
            (role, _) => format!("{role}, last heard {}", ago(c.last_contact_ms, now_ms)),
        };
        format!("{label:13}  {:width$}  {state}\n", c.address)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_and_what_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = text(dir.path()).expect_err("nothing there");
        assert!(error.contains("--data-dir") && !error.contains('\n'), "{error}");
        let status = StatusFile {
            node: "n1".into(),
            version: "0.1.0".into(),
            written_ms: 1_700_000_000_000,
            coordinator: "c1:7443".into(),
            active: true,
            last_contact_ms: 1_700_000_000_000,
            term: 3,
            revision: 9,
            pods: vec![PodLine {
                namespace: "default".into(),
                name: "web-abcde".into(),
                ready: "1/1".into(),
                status: "Running".into(),
                restarts: 2,
            }],
            ..StatusFile::default()
        };
        write(dir.path(), &status).expect("written");
        assert!(text(dir.path()).expect("shown").contains("not running"));
        let shown = render(&status, Some("pid 7"), 1_700_000_005_000);
        assert_eq!(
            shown,
            "Node:          n1\nAgent:         0.1.0, running (pid 7)\nDocker:        answers\n\
             Coordinator:   c1:7443 (active)\nLast contact:  2023-11-14T22:13:20Z, 5s ago\n\
             Assignments:   term 3, revision 9\nUnreported:    0\n\n\
             NAMESPACE  NAME       READY  STATUS   RESTARTS\ndefault    web-abcde  1/1    Running  2\n"
        );
        let away = StatusFile {
            coordinator: String::new(),
            last_error: "refused".into(),
            last_contact_ms: 0,
            pods: vec![],
            ..status
        };
        let shown = render(&away, None, 1_700_000_005_000);
        assert!(
            shown.contains("none: refused") && shown.contains("never since") && shown.contains("Pods:          none")
        );
        let line = |address: &str, role: &str, last_error: &str| CoordinatorLine {
            address: address.into(),
            role: role.into(),
            last_contact_ms: 1_700_000_002_000,
            last_error: last_error.into(),
        };
        let several = StatusFile {
            coordinators: vec![
                line("c1:7443", "standby", "silent"),
                line("c10:7443", "active", ""),
                line("c3:7443", "", "connection refused"),
            ],
            ..away
        };
        let shown = render(&several, None, 1_700_000_005_000);
        assert!(
            shown.contains(
                "Docker:        answers\n\
                 Coordinators:  c1:7443   standby, last heard 3s ago\n               \
                 c10:7443  active, last heard 3s ago\n               \
                 c3:7443   none: connection refused\nLast contact:"
            ),
            "{shown}"
        );
    }
}
