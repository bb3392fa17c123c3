//! `wharf-coordinator`: reads the command line and calls the library.

use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use coordinator::{
    config::{Cli, Command, Config, RunArgs},
    error::Error,
    run::{self, Coordinator},
    store::sqlite::{SqliteOptions, SqliteStore},
};

fn main() -> ExitCode {
    proto::program::install_tls_provider();
    let Cli { command } = Cli::parse();
    proto::program::init_logging();
    let result = match command {
        Command::Run(args) => run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<(), Error> {
    let check = args.check_config;
    let config = args.load()?;
    if check {
        println!("the configuration is valid");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Task {
            task: "the runtime",
            problem: e.to_string(),
        })?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Error> {
    if !config.data_dir.is_dir() {
        // Opening a store would make a mistyped directory.
        return Err(Error::NoCluster(config.data_dir.display().to_string()));
    }
    // The whole file is checked before anything else goes on; nothing else is waiting yet.
    let store = Arc::new(SqliteStore::open(&config.data_dir, SqliteOptions::default())?);
    let coordinator = Coordinator::start(config, store.clone()).await?;
    let result = coordinator.run(run::asked_to_end()).await;
    store.close().await;
    result
}
