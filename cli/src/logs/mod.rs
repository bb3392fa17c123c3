//! `wharf logs`: what containers wrote.
//!
//! | file | what it is |
//! |---|---|
//! | `reader` | one log to its end, through breaks |
//! | `lines` | PURE: times taken off, what was shown before a break left out |
//! | `writer` | stdout, which may be full for long |
//!
//! Invariant: the bytes are the containers' own; whatever else there is to say goes to stderr.

mod lines;
mod reader;
mod writer;

use proto::{
    model::{Kind, Object, Pod},
    wire,
};
use tokio::{sync::mpsc, task::JoinSet};

use self::{
    lines::Lines,
    reader::{Event, Reader},
    writer::Writer,
};
use crate::{
    args::LogsArgs,
    client::Query,
    error::{Error, Refusals},
    get,
    received::Received,
    session::Session,
    target::{Reference, Targets},
};

/// Lines of each container, when there may be many and none were asked for.
const TAIL_OF_MANY: u32 = 10;
/// Messages between the readers and the screen.
const EVENTS: usize = 16;

/// One container.
struct Source {
    pod: String,
    container: String,
}

pub async fn run(args: &LogsArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let tail = tail(args)?;
    let pods = pods(args, session).await?;
    let sources = sources(args, &pods, session)?;
    if args.follow && sources.len() > args.max_log_requests {
        return Err(Error::Usage(format!(
            "{} logs would be followed at once, and --max-log-requests allows {}; raise it, or choose fewer",
            sources.len(),
            args.max_log_requests
        )));
    }
    let mut readers = Vec::with_capacity(sources.len());
    let (events, told) = mpsc::channel(EVENTS);
    let since_ms = args.since.map_or(0, |ago| {
        let now_ms = u64::try_from(session.now().0).unwrap_or_default().saturating_mul(1000);
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        // 0 would be all.
        now_ms.saturating_sub(ago_ms).max(1)
    });
    let several = sources.len() > 1;
    for Source { pod, container } in sources {
        let prefix = if args.prefix {
            format!("[pod/{pod}/{container}] ")
        } else {
            String::new()
        };
        readers.push(Reader {
            client: session.client.clone(),
            times: session.env.times,
            request: wire::LogsRequest {
                namespace: session.namespace.clone(),
                pod,
                container,
                follow: args.follow,
                tail_lines: tail,
                since_ms,
                previous: args.previous,
                timestamps: true,
                container_id: String::new(),
            },
            lines: Lines::new(args.timestamps, prefix),
            whole_lines: args.prefix || (args.follow && several),
            events: events.clone(),
        });
    }
    drop(events);
    show(readers, args.follow, told, session).await
}

/// Shows what the readers bring: one after the other, or all at once when they are followed.
async fn show(
    readers: Vec<Reader>,
    at_once: bool,
    mut told: mpsc::Receiver<Event>,
    session: &mut Session<'_>,
) -> Result<(), Error> {
    let interrupt = session.env.interrupt.clone();
    let stdout = std::mem::replace(&mut session.env.stdout, Box::new(std::io::sink()));
    let writer = Writer::start(stdout)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(read(readers, at_once));
    let shown = async {
        loop {
            let event = tokio::select! {
                event = told.recv() => event,
                () = writer.failed() => return,
            };
            match event {
                Some(Event::Bytes(bytes)) => {
                    if !writer.write(bytes).await {
                        return;
                    }
                }
                Some(Event::Note(note)) => session.note(&note),
                None => return,
            }
        }
    };
    tokio::select! {
        () = shown => {}
        // What is not written yet stays so; the thread that may hang in it ends with the process.
        () = interrupt.clone() => return Err(Error::Interrupted(String::new())),
    }
    // Readers that nobody listens to end.
    drop(told);
    let written = tokio::select! {
        written = writer.finish() => written,
        () = interrupt => return Err(Error::Interrupted(String::new())),
    };
    if let Some(stdout) = written.0 {
        session.env.stdout = stdout;
    }
    written.1?;
    match tasks.join_next().await {
        Some(Ok(result)) => result,
        Some(Err(e)) => Err(Error::Refused(format!("a reader of logs failed: {e}"))),
        None => Ok(()),
    }
}

/// Runs the readers; one that is refused does not end the others.
async fn read(readers: Vec<Reader>, at_once: bool) -> Result<(), Error> {
    let mut refusals = Refusals::default();
    if !at_once {
        for reader in readers {
            refusals.keep(reader.run().await)?;
        }
        return refusals.finish();
    }
    let mut tasks: JoinSet<_> = readers.into_iter().map(Reader::run).collect();
    while let Some(ended) = tasks.join_next().await {
        let result = ended.map_err(|e| Error::Refused(format!("a reader of logs failed: {e}")));
        refusals.keep(result.and_then(|r| r))?;
    }
    refusals.finish()
}

/// `None`: all.
fn tail(args: &LogsArgs) -> Result<Option<u32>, Error> {
    match args.tail {
        Some(-1) => Ok(None),
        Some(lines) => u32::try_from(lines)
            .map(Some)
            .map_err(|_| Error::Usage(format!("--tail {lines}: a number of lines, or -1 for all"))),
        None => Ok(args.selector.is_some().then_some(TAIL_OF_MANY)),
    }
}

/// The pods whose logs are wanted, by name.
async fn pods(args: &LogsArgs, session: &mut Session<'_>) -> Result<Vec<Pod>, Error> {
    let mut query = Query {
        kind: Kind::Pod,
        namespace: session.namespace.clone(),
        labels: String::new(),
        fields: String::new(),
    };
    let Some(target) = &args.target else {
        query.labels = args.selector.clone().unwrap_or_default();
        let found = session.client.list(&query).await?.0;
        if found.is_empty() {
            let note = get::nothing_found([Kind::Pod].into_iter(), false, session);
            session.note(&note);
        }
        return sorted(&found);
    };
    let reference = named(target, session)?;
    let object = session.client.get(&reference).await?;
    if reference.kind == Kind::Pod {
        return sorted(&[object]);
    }
    let mut found = sorted(&session.client.list(&query).await?.0)?;
    found.retain(|pod| pod.metadata.owner_references.iter().any(|o| o.uid == object.uid));
    if found.is_empty() {
        return Err(Error::Refused(format!(
            "{} {:?} has no pods; see: wharf describe {reference}",
            reference.kind.plural(),
            reference.name
        )));
    }
    Ok(found)
}

fn sorted(found: &[Received]) -> Result<Vec<Pod>, Error> {
    let mut pods = Vec::with_capacity(found.len());
    for object in found {
        if let Object::Pod(pod) = object.object()? {
            pods.push(pod);
        }
    }
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(pods)
}

/// `NAME` is a pod's.
fn named(target: &str, session: &Session<'_>) -> Result<Reference, Error> {
    let words = [target.to_owned()];
    let (kind, name) = match target.contains('/') {
        false if target.is_empty() => return Err(Error::Usage("the name of the pod is empty".into())),
        false => (Kind::Pod, target.to_owned()),
        true => match Targets::parse(&words)? {
            Targets::Named(mut named) if named.len() == 1 => named.remove(0),
            _ => return Err(Error::Usage(format!("{target:?} is not KIND/NAME"))),
        },
    };
    if !matches!(kind, Kind::Pod | Kind::ReplicationController | Kind::DaemonSet) {
        return Err(Error::Usage(format!(
            "{target:?}: {} write no logs; name a pod, or a controller as rc/NAME or ds/NAME",
            kind.plural()
        )));
    }
    Ok(Reference {
        kind,
        namespace: session.namespace_for(kind),
        name,
    })
}

/// The containers of the pods that are meant.
fn sources(args: &LogsArgs, pods: &[Pod], session: &mut Session<'_>) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    for pod in pods {
        let names: Vec<&str> = pod.spec.containers.iter().map(|c| c.name.as_str()).collect();
        let chosen = match &args.container {
            Some(container) => vec![container.as_str()],
            None if args.all_containers => names,
            None => {
                let first: Vec<&str> = names.first().copied().into_iter().collect();
                if let ([first], true) = (first.as_slice(), names.len() > 1) {
                    session.note(&format!(
                        "pod/{}: container {first} of {}; choose with -c, or take --all-containers",
                        pod.metadata.name,
                        names.join(", ")
                    ));
                }
                first
            }
        };
        sources.extend(chosen.into_iter().map(|container| Source {
            pod: pod.metadata.name.clone(),
            container: container.to_owned(),
        }));
    }
    Ok(sources)
}
