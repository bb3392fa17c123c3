//! The program `wharf-agent`: the agent on a real host.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::program::main(agent::wiring::wire)
}
