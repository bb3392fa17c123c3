//! Where the credentials are: `--config`, `$WHARF_CONFIG`, `~/.config/wharf/config.yaml`. Read once a run.
//!
//! Invariant: an error names the file and the remedy, and never shows the file's content.

use std::path::{Path, PathBuf};

use proto::credentials::Credentials;

use crate::{env::Env, error::Error};

/// The file to read: flag, then variable, then the home directory's.
pub fn path(flag: Option<&Path>, env: &Env) -> Result<PathBuf, Error> {
    if let Some(path) = flag {
        return Ok(path.to_owned());
    }
    if let Some(path) = env.var("WHARF_CONFIG") {
        return Ok(PathBuf::from(path));
    }
    env.var("HOME")
        .map(|home| Path::new(home).join(".config/wharf/config.yaml"))
        .ok_or_else(|| Error::Refused("no credentials: give --config FILE or set WHARF_CONFIG".into()))
}

/// Reads `admin.yaml` (or its JSON form).
pub fn load(path: &Path) -> Result<Credentials, Error> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| {
        let remedy = "; give --config FILE or set WHARF_CONFIG (`wharf-coordinator init` writes admin.yaml into its data directory)";
        let remedy = if e.kind() == std::io::ErrorKind::NotFound { remedy } else { "" };
        Error::Refused(format!("credentials {shown}: {e}{remedy}"))
    })?;
    let credentials: Credentials =
        serde_saphyr::from_str_with_options(&text, serde_saphyr::options! { with_snippet: false }).map_err(|e| {
            let (place, problem) = crate::yaml::words(&e);
            let place = place.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
            Error::Refused(format!("credentials {shown}{place}: {problem}"))
        })?;
    if credentials.coordinators.is_empty() {
        return Err(Error::Refused(format!(
            "credentials {shown}: coordinators: at least one HOST:PORT is required"
        )));
    }
    Ok(credentials)
}
