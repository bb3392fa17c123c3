//! `wharf version`.

use serde_json::{Map, json};

use crate::{
    args::{Global, VersionArgs, VersionFormat},
    env::Env,
    error::Error,
    output,
    session::Session,
};

/// Prints our version before it asks for the coordinator's, so that it is seen when none answers.
pub async fn run(args: &VersionArgs, global: &Global, env: &mut Env, color: bool) -> Result<(), Error> {
    let client = json!({"version": proto::VERSION});
    if args.output.is_none() {
        env.stdout
            .write_all(format!("Client Version: {}\n", proto::VERSION).as_bytes())?;
    }
    let mut all = Map::new();
    all.insert("client".to_owned(), client);
    let result = if args.client {
        Ok(())
    } else {
        coordinator(args, global, env, color, &mut all).await
    };
    match args.output {
        Some(VersionFormat::Json) => env.stdout.write_all(output::json(&all.into()).as_bytes())?,
        Some(VersionFormat::Yaml) => env.stdout.write_all(output::yaml(&all.into())?.as_bytes())?,
        None => {}
    }
    result
}

async fn coordinator(
    args: &VersionArgs,
    global: &Global,
    env: &mut Env,
    color: bool,
    all: &mut Map<String, serde_json::Value>,
) -> Result<(), Error> {
    let mut session = Session::open(global, env, color)?;
    let info = session.client.info().await?;
    if args.output.is_none() {
        return session.out(&format!(
            "Coordinator Version: {}\nCluster: {}\n",
            output::clean(&info.version),
            output::clean(&info.cluster_id)
        ));
    }
    let coordinator = json!({
        "version": info.version,
        "cluster": info.cluster_id,
        "coordinators": info.coordinators,
        "caller": info.caller,
    });
    all.insert("coordinator".to_owned(), coordinator);
    Ok(())
}
