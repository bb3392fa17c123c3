//! The command `wharf`: hands the process's arguments, streams and environment to the library and exits with
//! its status.

use std::process::ExitCode;

fn main() -> ExitCode {
    proto::program::install_tls_provider();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: the runtime cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut env = wharf::Env::of_process();
    ExitCode::from(runtime.block_on(wharf::run(std::env::args_os(), &mut env)))
}
