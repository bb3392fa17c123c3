//! What `wharf-agent` does beside running the agent: options, logging, signals, exit status. Called by `main`,
//! which hands in how identity, engine and host are made ([`Wiring`]).
//!
//! Invariant: exit status 0 done, 1 refused or failed, 2 usage; an error is one line on stderr.

use std::{io::Write as _, path::Path, process::ExitCode, sync::Arc};

use clap::Parser as _;
use futures::future::BoxFuture;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use crate::{
    AgentError, Config,
    config::{Cli, Command, Options, RunArgs, data_dir},
    facts::HostFacts,
    join::Join,
    leave, lock,
    runtime::Runtime,
    settings::Settings,
    status,
};

/// The agent's surroundings, made from the options.
pub struct Wiring {
    pub join: Join,
    pub runtime: Arc<dyn Runtime>,
    pub facts: Arc<dyn HostFacts>,
    /// Runs beside the agent and is dropped with it: renewal of the certificate.
    pub beside: BoxFuture<'static, ()>,
}

/// Makes the surroundings: loads the identity or joins with the token, which may take until a coordinator is
/// there. The data directory is locked. Dropped when the agent is told to stop meanwhile.
pub type Wire = fn(Arc<Options>) -> BoxFuture<'static, Result<Wiring, AgentError>>;

/// The program.
pub fn main(wire: Wire) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors; clap knows.
            let code = if e.use_stderr() { 2 } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
    let env = |name: &str| std::env::var(name).ok();
    match cli.command {
        Command::Status(args) => match status::text(&data_dir(args.data_dir, env, None)) {
            Ok(text) => {
                // A closed pipe is the reader's choice.
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(why) => fail(&AgentError::Refused(why)),
        },
        Command::Leave(args) => match take_leave(&data_dir(args.data_dir, env, None), args.force) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Command::Run(args) => match run(*args, wire) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
    }
}

fn fail(error: &AgentError) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(match error {
        AgentError::Usage(_) => 2,
        AgentError::Lock(_) | AgentError::Ledger(_) | AgentError::Refused(_) | AgentError::Task(_) => 1,
    })
}

fn take_leave(data_dir: &Path, force: bool) -> Result<(), AgentError> {
    proto::program::install_tls_provider();
    let left = block_on(leave::leave(data_dir, force, &Settings::default()))??;
    for warning in left.warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    let _ = std::io::stdout().write_all(left.text.as_bytes());
    Ok(())
}

fn block_on<F: Future>(future: F) -> Result<F::Output, AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| AgentError::Refused(format!("cannot start the runtime: {e}")))?;
    Ok(runtime.block_on(future))
}

fn run(args: RunArgs, wire: Wire) -> Result<(), AgentError> {
    proto::program::install_tls_provider();
    proto::program::init_logging();
    proto::program::forbid_core_dumps();
    if args.token.is_some() {
        tracing::warn!("--token can be seen by others on this host (ps): prefer --token-file or WHARF_TOKEN");
    }
    let options = Arc::new(Options::load(args, |name| std::env::var(name).ok())?);
    block_on(serve(options, wire))?
}

async fn serve(options: Arc<Options>, wire: Wire) -> Result<(), AgentError> {
    let shutdown = CancellationToken::new();
    let lock = lock::lock(&options.data_dir)?;
    let signalled = signals(shutdown.clone())?;
    let look_again = Arc::new(Notify::new());
    let hung_up = hangups(look_again.clone())?;
    let agent = async {
        let Wiring {
            join,
            runtime,
            facts,
            beside,
        } = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            wired = wire(options.clone()) => wired?,
        };
        let config = Config {
            data_dir: options.data_dir.clone(),
            lock: Some(lock),
            disk: None,
            join,
            settings: options.settings.clone(),
            metrics_listen: options.metrics_listen,
            look_again,
        };
        let agent = Box::pin(crate::run(config, runtime, facts, shutdown.clone()));
        let beside = async {
            beside.await;
            // Without renewals the agent still runs until its certificate ends.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = agent => result,
            () = beside => Ok(()),
        }
    };
    tokio::select! {
        result = agent => result,
        () = signalled => Ok(()),
        () = hung_up => Ok(()),
    }
}

/// Each SIGHUP has the host looked at again, for an operator who has just changed a disk. Never ends.
fn hangups(look_again: Arc<Notify>) -> Result<impl Future<Output = ()>, AgentError> {
    let mut hangup = signal(SignalKind::hangup()).map_err(not_listening)?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: looks at this host's hardware again");
            look_again.notify_one();
        }
        std::future::pending().await
    })
}

fn not_listening(error: std::io::Error) -> AgentError {
    AgentError::Refused(format!("cannot listen for signals: {error}"))
}

/// Cancels at the first SIGTERM or SIGINT; ends only at the second one, for the impatient.
fn signals(shutdown: CancellationToken) -> Result<impl Future<Output = ()>, AgentError> {
    let mut term = signal(SignalKind::terminate()).map_err(not_listening)?;
    let mut int = signal(SignalKind::interrupt()).map_err(not_listening)?;
    Ok(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            shutdown.cancel();
        }
    })
}
