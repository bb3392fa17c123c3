//! `wharf-coordinator`: reads the command line and calls the library.
//!
//! Invariant: exit status 0 done, 1 refused or failed, 2 usage; an error is one line on stderr.

use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use coordinator::{
    api,
    config::{Cli, Command, DirArgs, InitArgs, RunArgs},
    error::Error,
    init::{self, InitOptions},
    serve::serve,
    store::{
        Store,
        sqlite::{SqliteOptions, SqliteStore},
    },
};
use proto::model::Time;

fn main() -> ExitCode {
    proto::program::install_tls_provider();
    let Cli { command } = Cli::parse();
    proto::program::init_logging();
    proto::program::forbid_core_dumps();
    let result = match command {
        Command::Run(args) => run(*args),
        Command::Init(args) => init(args),
        Command::AdminCredentials(args) => admin_credentials(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(if e.is_usage() { 2 } else { 1 })
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
    runtime()?.block_on(serve(config))
}

fn init(args: InitArgs) -> Result<(), Error> {
    let own = args.advertise.is_none();
    let options = InitOptions {
        data_dir: args.dir.data_dir.clone(),
        advertise: args.advertise,
        name: args.name,
        now_ms: now_ms(),
    };
    let open = async |dir: std::path::PathBuf| {
        let store = SqliteStore::open(&dir, SqliteOptions::default())?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    };
    let report = runtime()?.block_on(init::init(options, vec![api::default_namespace(Time::now())], open))?;
    let dir = args.dir.data_dir.display();
    let chosen = if own {
        " (this host's own; --advertise names another one)"
    } else {
        ""
    };
    println!("cluster {} made in {dir}", report.cluster);
    println!("admin credentials: {}", report.admin_file.display());
    println!("address for agents and wharf: {}", report.addresses.join(", ") + chosen);
    println!("next: wharf-coordinator run --data-dir {dir}");
    Ok(())
}

fn admin_credentials(args: &DirArgs) -> Result<(), Error> {
    let credentials = init::admin_credentials(&args.data_dir, now_ms())?;
    print!("{}", init::to_yaml(&credentials)?);
    Ok(())
}

fn now_ms() -> u64 {
    coordinator::ca::system_clock()()
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Task {
            task: "the runtime",
            problem: e.to_string(),
        })
}
