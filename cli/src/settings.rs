//! `wharf settings`.
//!
//! Invariant: what is typed is checked by the coordinator alone, so that one table says what settings there are.

use proto::{
    model::{labels::quoted, parse::hint},
    wire,
};
use serde_json::{Value, json};

use crate::{
    args::{DryRun, SettingsCommand, SettingsShowArgs},
    error::Error,
    output::{self, Format},
    session::Session,
    table,
};

pub async fn run(command: &SettingsCommand, session: &mut Session<'_>) -> Result<(), Error> {
    match command {
        SettingsCommand::Show(args) => show(args, session).await,
        SettingsCommand::Set(args) => {
            let names: Vec<&str> = args.values.iter().map(|(name, _)| name.as_str()).collect();
            let request = wire::SetSettingsRequest {
                set: args.values.iter().cloned().collect(),
                ..wire::SetSettingsRequest::default()
            };
            if request.set.len() < names.len() {
                return Err(Error::Usage("a setting is named twice; leave one".into()));
            }
            change(request, &names, "set", args.dry_run, session).await
        }
        SettingsCommand::Unset(args) => {
            let names: Vec<&str> = args.names.iter().map(String::as_str).collect();
            let request = wire::SetSettingsRequest {
                unset: args.names.clone(),
                ..wire::SetSettingsRequest::default()
            };
            change(request, &names, "unset", args.dry_run, session).await
        }
    }
}

async fn change(
    request: wire::SetSettingsRequest,
    names: &[&str],
    done: &str,
    dry_run: DryRun,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let request = wire::SetSettingsRequest {
        dry_run: dry_run.on,
        ..request
    };
    let changed = session.client.set_settings(request).await?;
    for name in names {
        if changed.iter().any(|c| c == name) {
            session.out(&format!("setting/{name} {done}{}\n", dry_run.suffix()))?;
        } else {
            session.out(&format!("setting/{name} unchanged\n"))?;
        }
    }
    Ok(())
}

async fn show(args: &SettingsShowArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let mut all = session.client.show_settings().await?.settings;
    if let Some(name) = &args.name {
        let known: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
        if !known.contains(&name.as_str()) {
            return Err(Error::Refused(format!(
                "settings {} not found{}",
                quoted(name),
                hint(name, &known)
            )));
        }
        all.retain(|s| s.name == *name);
    }
    let objects = || match (&args.name, all.as_slice()) {
        (Some(_), [one]) => object(one),
        _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""},
            "items": all.iter().map(object).collect::<Vec<_>>()}),
    };
    let text = match args.output {
        Some(Format::Json) => output::json(&objects()),
        Some(Format::Yaml) => output::yaml(&objects())?,
        Some(Format::Name) => all.iter().map(|s| format!("setting/{}\n", s.name)).collect(),
        Some(Format::Wide) => settings_table(&all, true),
        None => settings_table(&all, false),
    };
    session.out(&text)
}

fn settings_table(settings: &[wire::Setting], wide: bool) -> String {
    let mut header = vec!["NAME", "VALUE", "DEFAULT", "SET"];
    header.extend(wide.then_some("ABOUT"));
    let rows: Vec<Vec<String>> = settings
        .iter()
        .map(|s| {
            let set = if s.set { "yes" } else { "no" };
            let mut row = vec![s.name.clone(), s.value.clone(), s.default_value.clone(), set.to_owned()];
            row.extend(wide.then(|| s.about.clone()));
            row
        })
        .collect();
    table::table(&header, &rows)
}

fn object(setting: &wire::Setting) -> Value {
    json!({
        "apiVersion": "wharfinger.io/v1",
        "kind": "Setting",
        "metadata": {"name": setting.name},
        "value": setting.value,
        "default": setting.default_value,
        "set": setting.set,
        "about": setting.about,
    })
}
