//! `wharf-coordinator`: reads the command line and calls the library.
//!
//! Invariant: exit status 0 done, 1 refused or failed, 2 usage; an error is one line on stderr.

use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use coordinator::{
    api,
    backup::{
        self,
        restore::RestoreOptions,
        stores::{self, MoveOptions},
    },
    config::{Backend, Cli, Command, DirArgs, InitArgs, JoinArgs, MigrateArgs, RestoreArgs, RunArgs, StoreConfig},
    error::Error,
    etcd_config::{self, EtcdConfigArgs},
    init::{self, InitOptions},
    join::{self, JoinOptions, JoinTimes},
    serve::serve,
    store::{
        Store,
        etcd::{self, EtcdStore},
        import::Import,
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
        Command::Init(args) => init(*args),
        Command::Join(args) => join(args),
        Command::AdminCredentials(args) => admin_credentials(&args),
        Command::Restore(args) => restore(*args),
        Command::Migrate(args) => migrate(&args),
        Command::EtcdConfig(args) => make_etcd_config(&args),
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
    let args = args.with_file()?;
    let own = args.advertise.is_none();
    let options = InitOptions {
        data_dir: args.dir.data_dir.clone(),
        advertise: args.advertise,
        name: args.name,
        now_ms: now_ms(),
    };
    let store = args.store.load()?;
    let open = async |dir: std::path::PathBuf| {
        Ok(match &store {
            StoreConfig::Sqlite => Arc::new(SqliteStore::open(&dir, SqliteOptions::default())?) as Arc<dyn Store>,
            StoreConfig::Etcd(etcd) => Arc::new(EtcdStore::open((**etcd).clone()).await?),
        })
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
    match &store {
        StoreConfig::Sqlite => {}
        StoreConfig::Etcd(etcd) => println!("state: {}", etcd::place(etcd)),
    }
    println!("next: wharf-coordinator run --data-dir {dir}{}", run_with(&store));
    Ok(())
}

/// What `run` is told of the store.
fn run_with(store: &StoreConfig) -> String {
    match store {
        StoreConfig::Sqlite => String::new(),
        StoreConfig::Etcd(etcd) => format!(" --store etcd --etcd-endpoints {} …", etcd.endpoints.join(",")),
    }
}

fn join(args: JoinArgs) -> Result<(), Error> {
    let own = args.advertise.is_none();
    let options = JoinOptions {
        data_dir: args.dir.data_dir.clone(),
        token: join::read_token(args.token, args.token_file.as_deref())?,
        peers: args.peers,
        name: args.name,
        advertise: args.advertise,
        enrol: args.enrol,
        now_ms: now_ms(),
        times: JoinTimes::default(),
    };
    let report = runtime()?.block_on(join::join(&options))?;
    let dir = args.dir.data_dir.display();
    println!(
        "coordinator {} of cluster {} made in {dir}",
        report.name, report.cluster
    );
    println!("coordinators: {}", report.coordinators.join(", "));
    if own {
        println!("this one's address is this host's own; --advertise names another one");
    }
    let store = match report.store.as_str() {
        "" | "etcd" => " --store etcd --etcd-endpoints URL,URL,URL".to_owned(),
        store => format!(" --store {store}"),
    };
    println!("next: wharf-coordinator run --data-dir {dir}{store}");
    println!("with the store options that the other coordinators run with");
    Ok(())
}

fn admin_credentials(args: &DirArgs) -> Result<(), Error> {
    let credentials = init::admin_credentials(&args.data_dir, now_ms())?;
    print!("{}", init::to_yaml(&credentials)?);
    Ok(())
}

fn restore(args: RestoreArgs) -> Result<(), Error> {
    let args = args.with_file()?;
    let store = args.store.load()?;
    let options = RestoreOptions {
        file: args.file,
        data_dir: args.dir.data_dir.clone(),
        passphrase_file: args.passphrase_file,
        advertise: args.advertise,
        name: args.name,
        place: match &store {
            StoreConfig::Sqlite => None,
            StoreConfig::Etcd(etcd) => Some(etcd::place(etcd)),
        },
        now_ms: now_ms(),
    };
    let open = async |dir: std::path::PathBuf| {
        Ok(match &store {
            StoreConfig::Sqlite => Arc::new(SqliteStore::open(&dir, SqliteOptions::default())?) as Arc<dyn Import>,
            StoreConfig::Etcd(etcd) => Arc::new(EtcdStore::open_to_import((**etcd).clone()).await?),
        })
    };
    let report = runtime()?.block_on(backup::restore::restore(options, open))?;
    let dir = args.dir.data_dir.display();
    println!(
        "cluster {} restored in {dir}: {} entries, as of {}, incarnation {}",
        report.cluster,
        report.entries,
        Time::from_millis(report.taken_at_ms),
        report.incarnation
    );
    if let Some(path) = report.admin_file {
        println!("admin credentials: {}", path.display());
    }
    println!("address for agents and wharf: {}", report.addresses.join(", "));
    println!(
        "next: wharf-coordinator run --data-dir {dir}{}, then wharf cluster accept-restore",
        run_with(&store)
    );
    Ok(())
}

fn migrate(args: &MigrateArgs) -> Result<(), Error> {
    let etcd = args.load()?;
    let to = match args.to {
        Backend::Sqlite => StoreConfig::Sqlite,
        Backend::Etcd => StoreConfig::Etcd(Box::new(etcd.clone())),
    };
    let options = MoveOptions {
        data_dir: args.dir.data_dir.clone(),
        etcd,
        to: args.to,
        now_ms: now_ms(),
    };
    let moved = runtime()?.block_on(stores::run(options))?;
    let report = moved.report;
    let words = if report.finished {
        "a move that was interrupted is finished"
    } else {
        "moved"
    };
    println!(
        "cluster {}: {words} from {} to {}, {} entries",
        report.cluster, moved.from, moved.to, report.entries
    );
    if let Some(path) = moved.set_aside {
        println!("what was in the data directory lies in {}", path.display());
    }
    if !report.left_out.is_empty() {
        println!(
            "coordinators that are not of this cluster any more: {}",
            report.left_out.join(", ")
        );
    }
    let dir = args.dir.data_dir.display();
    println!("next: wharf-coordinator run --data-dir {dir}{}", run_with(&to));
    Ok(())
}

fn make_etcd_config(args: &EtcdConfigArgs) -> Result<(), Error> {
    let report = etcd_config::run(args, now_ms())?;
    for warning in report.warnings {
        eprintln!("warning: {warning}");
    }
    for line in report.done {
        println!("{line}");
    }
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
