//! The program `wharf-agent`: chooses the real identity, engine and host for [`agent::program`].

use std::{process::ExitCode, sync::Arc};

use agent::{
    AgentError,
    config::Options,
    program::{self, Wiring},
};
use futures::future::BoxFuture;

fn main() -> ExitCode {
    program::main(wire)
}

/// The parts of a real host.
fn wire(_options: Arc<Options>) -> BoxFuture<'static, Result<Wiring, AgentError>> {
    Box::pin(async {
        Err(AgentError::Refused(
            "this build has no engine and no way to join".into(),
        ))
    })
}
