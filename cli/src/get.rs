//! `wharf get`, but for `-w`, which is [`crate::watch`].

use std::fmt::Write as _;

use proto::model::{Kind, Object, Pod};

use crate::{
    args::GetArgs,
    client::Query,
    error::{Error, Refusals},
    output::{self, Format},
    printers::{self, Context, Options, count_pods},
    received::Received,
    session::Session,
    table::Table,
    target::Targets,
    watch,
};

pub async fn run(args: &GetArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let targets = Targets::parse(&args.targets)?;
    if let Targets::Named(_) = targets {
        if args.selector.is_some() || args.field_selector.is_some() {
            return Err(Error::Usage("a name and a selector cannot be given together".into()));
        }
        if args.all_namespaces {
            return Err(Error::Usage(
                "a name and --all-namespaces cannot be given together".into(),
            ));
        }
    }
    if args.watch {
        return watch::run(args, &targets, session).await;
    }
    let mut refusals = Refusals::default();
    let mut found: Vec<(Kind, Vec<Received>)> = Vec::new();
    let mut revision = None;
    for kind in targets.kinds() {
        let mut objects = Vec::new();
        match &targets {
            Targets::Kinds(_) => {
                let query = query(args, kind, session);
                let list = session.client.list(&query).await;
                if let Some((items, at)) = refusals.keep(list)? {
                    objects = items;
                    revision = Some(at);
                }
            }
            Targets::Named(named) => {
                for (_, name) in named.iter().filter(|(k, _)| *k == kind) {
                    let namespace = session.namespace_for(kind);
                    let object = session.client.get(kind, &namespace, name).await;
                    objects.extend(refusals.keep(object)?);
                }
            }
        }
        found.push((kind, objects));
    }
    match args.output {
        None | Some(Format::Wide) => tables(args, session, &found, &mut refusals).await?,
        Some(format) => {
            let single = matches!(&targets, Targets::Named(named) if named.len() == 1);
            let revision = revision.filter(|_| found.len() == 1);
            let objects: Vec<Received> = found.into_iter().flat_map(|(_, objects)| objects).collect();
            let text = match (format, objects.as_slice()) {
                // The refusal says it all.
                (Format::Json | Format::Yaml, []) if single => String::new(),
                (Format::Json, [one]) if single => output::json(&one.json),
                (Format::Yaml, [one]) if single => output::yaml(&one.json)?,
                (Format::Json, all) => output::json(&output::list(all, revision)),
                (Format::Yaml, all) => output::yaml(&output::list(all, revision))?,
                (Format::Name | Format::Wide, all) => all.iter().map(|o| output::name(o) + "\n").collect(),
            };
            session.out(&text)?;
        }
    }
    refusals.finish()
}

/// What to list of a kind.
pub fn query(args: &GetArgs, kind: Kind, session: &Session<'_>) -> Query {
    Query {
        kind,
        namespace: if args.all_namespaces {
            String::new()
        } else {
            session.namespace_for(kind)
        },
        labels: args.selector.clone().unwrap_or_default(),
        fields: args.field_selector.clone().unwrap_or_default(),
    }
}

pub fn options(args: &GetArgs, prefix: bool) -> Options {
    Options {
        wide: args.output == Some(Format::Wide),
        namespace: args.all_namespaces,
        prefix,
        label_columns: args.label_columns.clone(),
        show_labels: args.show_labels,
    }
}

/// The context of a table of `kind`; counts the pods where a column shows them. `node`: of one node only.
pub async fn context(
    session: &mut Session<'_>,
    kind: Kind,
    options: &Options,
    node: Option<&str>,
) -> Result<Context, Error> {
    let mut context = Context {
        now: session.now(),
        pods_on: None,
    };
    if kind == Kind::Node && options.wide {
        let query = Query {
            kind: Kind::Pod,
            namespace: String::new(),
            labels: String::new(),
            fields: node.map(|n| format!("spec.nodeName={n}")).unwrap_or_default(),
        };
        context.pods_on = match session.client.list(&query).await {
            Ok((pods, _)) => {
                let pods = pods.iter().map(Received::object).collect::<Result<Vec<_>, Error>>()?;
                Some(count_pods(pods.iter().filter_map(as_pod)))
            }
            // A user who may see nodes but no pods still gets the rest of the table.
            Err(Error::Refused(_)) => None,
            Err(e) => return Err(e),
        };
    }
    Ok(context)
}

fn as_pod(object: &Object) -> Option<&Pod> {
    match object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

async fn tables(
    args: &GetArgs,
    session: &mut Session<'_>,
    found: &[(Kind, Vec<Received>)],
    refusals: &mut Refusals,
) -> Result<(), Error> {
    let options = options(args, found.len() > 1);
    let mut text = String::new();
    for (kind, objects) in found.iter().filter(|(_, objects)| !objects.is_empty()) {
        let context = context(session, *kind, &options, None).await?;
        let mut typed = Vec::new();
        for object in objects {
            typed.extend(refusals.keep(object.object())?);
        }
        // The order of names says nothing about events; that of time does.
        typed.sort_by_key(|o| match o {
            Object::Event(e) => Some(printers::event_order(e)),
            _ => None,
        });
        let rows: Vec<_> = typed.iter().map(|o| printers::row(o, &options, &context)).collect();
        let blank = if text.is_empty() { "" } else { "\n" };
        let mut table = Table::default();
        let block = if args.no_headers {
            table.rows(&rows)
        } else {
            table.block(&printers::header(*kind, &options), &rows)
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "{blank}{block}");
    }
    if text.is_empty() && refusals.is_empty() {
        session.note(&nothing_found(
            found.iter().map(|(k, _)| *k),
            args.all_namespaces,
            session,
        ));
    }
    session.out(&text)
}

/// `No resources found in default namespace.`
pub fn nothing_found(mut kinds: impl Iterator<Item = Kind>, all_namespaces: bool, session: &Session<'_>) -> String {
    if all_namespaces || !kinds.any(Kind::namespaced) {
        "No resources found".to_owned()
    } else {
        format!("No resources found in {} namespace.", session.namespace)
    }
}
