//! `wharf get`, but for `-w`, which is [`crate::watch`].

use std::fmt::Write as _;

use proto::model::{Kind, Object, Pod};

use crate::{
    args::GetArgs,
    client::{Query, not_found},
    error::{Error, Refusals},
    files,
    output::{self, Format},
    printers::{self, Context, Options, count_pods},
    received::Received,
    select,
    session::Session,
    sort::SortBy,
    table::Table,
    target::{Reference, Targets},
    watch::{self, Watched},
};

/// `get all`: what a workload consists of.
const ALL: [Kind; 3] = [Kind::Pod, Kind::ReplicationController, Kind::DaemonSet];

/// What is asked for.
enum Asked {
    Kinds(Vec<Kind>),
    Named(Vec<Reference>),
}

pub async fn run(args: &GetArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let asked = asked(args, session)?;
    let sort = args.sort_by.as_deref().map(SortBy::parse).transpose()?;
    if args.watch {
        return watch(args, &asked, sort.as_ref(), session).await;
    }
    let mut refusals = Refusals::default();
    let mut found: Vec<(Kind, Vec<Received>)> = Vec::new();
    let mut revision = None;
    match &asked {
        Asked::Kinds(kinds) => {
            for kind in kinds {
                let query = query(args, *kind, session);
                let list = session.client.list(&query).await;
                let (objects, at) = refusals.keep(list)?.map_or((Vec::new(), None), |(o, at)| (o, Some(at)));
                revision = at.or(revision);
                found.push((*kind, objects));
            }
        }
        Asked::Named(named) => {
            for target in named {
                let object = session.client.find(target).await;
                let Some(object) = refusals.keep(object)? else { continue };
                if object.is_none() && !args.ignore_not_found {
                    refusals.push(not_found(target.kind, &target.name));
                }
                match found.iter_mut().find(|(kind, _)| *kind == target.kind) {
                    Some((_, objects)) => objects.extend(object),
                    None => found.push((target.kind, object.into_iter().collect())),
                }
            }
        }
    }
    let mut unsorted = Ok(());
    let mut sorted = false;
    for (_, objects) in found.iter_mut().filter(|(_, objects)| !objects.is_empty()) {
        match arrange(objects, sort.as_ref()) {
            Ok(()) => sorted = true,
            // A field that one kind lacks may be what the other has.
            Err(e) => unsorted = Err(e),
        }
    }
    if !sorted {
        unsorted?;
    }
    match args.output {
        None | Some(Format::Wide) => tables(args, session, &asked, &found, &mut refusals).await?,
        Some(format) => {
            let single = matches!(&asked, Asked::Named(named) if named.len() == 1);
            let revision = revision.filter(|_| found.len() == 1);
            let objects: Vec<Received> = found.into_iter().flat_map(|(_, objects)| objects).collect();
            let text = match (format, objects.as_slice()) {
                // The refusal says it all; an empty list would say that there is nothing.
                (Format::Json | Format::Yaml, []) if single || !refusals.is_empty() => String::new(),
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

fn asked(args: &GetArgs, session: &mut Session<'_>) -> Result<Asked, Error> {
    let asked = match args.targets.split_first() {
        _ if !args.filename.is_empty() => Asked::Named(files::references(&args.filename, session)?),
        Some((all, rest)) if all == "all" => {
            if !rest.is_empty() {
                return Err(Error::Usage(
                    "`all` has no names; it is pods, replicationcontrollers and daemonsets".into(),
                ));
            }
            Asked::Kinds(ALL.to_vec())
        }
        _ => match Targets::parse(&args.targets)? {
            Targets::Kinds(kinds) => Asked::Kinds(kinds),
            Targets::Named(named) => Asked::Named(select::references(named, session)),
        },
    };
    let by_name = matches!(asked, Asked::Named(_));
    if by_name && (args.selector.is_some() || args.field_selector.is_some() || args.node.is_some()) {
        return Err(Error::Usage("a name and a selector cannot be given together".into()));
    }
    if by_name && args.all_namespaces {
        return Err(Error::Usage(
            "a name and --all-namespaces cannot be given together".into(),
        ));
    }
    if let (Some(_), Asked::Kinds(kinds)) = (&args.node, &asked)
        && kinds[..] != [Kind::Pod]
    {
        return Err(Error::Usage(
            "--node selects pods only; e.g. wharf get pods --node n1".into(),
        ));
    }
    Ok(asked)
}

async fn watch(args: &GetArgs, asked: &Asked, sort: Option<&SortBy>, session: &mut Session<'_>) -> Result<(), Error> {
    let watched = match asked {
        Asked::Kinds(kinds) => match kinds[..] {
            [kind] => Watched {
                query: query(args, kind, session),
                one: None,
            },
            _ => return Err(Error::Usage("-w shows one kind at a time".into())),
        },
        Asked::Named(named) => match &named[..] {
            [one] => Watched {
                query: Query {
                    kind: one.kind,
                    namespace: one.namespace.clone(),
                    labels: String::new(),
                    fields: format!("metadata.name={}", one.name),
                },
                one: Some(one).filter(|_| !args.ignore_not_found),
            },
            _ => return Err(Error::Usage("-w shows one object, or all of a kind".into())),
        },
    };
    watch::run(args, &watched, sort, session).await
}

/// Puts objects of one kind in order: the user's, else for events that of time, about which names say nothing.
pub fn arrange(objects: &mut Vec<Received>, sort: Option<&SortBy>) -> Result<(), Error> {
    match sort {
        Some(sort) => sort.sort(objects)?,
        None if objects.first().is_some_and(|o| o.kind == Kind::Event) => {
            objects.sort_by_cached_key(|o| match o.object() {
                Ok(Object::Event(event)) => Some(printers::event_order(&event)),
                _ => None,
            });
        }
        None => {}
    }
    Ok(())
}

/// What to list of a kind.
fn query(args: &GetArgs, kind: Kind, session: &Session<'_>) -> Query {
    let node = args.node.as_ref().map(|node| format!("spec.nodeName={node}"));
    let fields: Vec<String> = args.field_selector.iter().cloned().chain(node).collect();
    Query {
        kind,
        namespace: if args.all_namespaces {
            String::new()
        } else {
            session.namespace_for(kind)
        },
        labels: args.selector.clone().unwrap_or_default(),
        fields: fields.join(","),
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
            Err(e) if e.is_refusal() => None,
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
    asked: &Asked,
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
    if text.is_empty() && refusals.is_empty() && matches!(asked, Asked::Kinds(_)) {
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
