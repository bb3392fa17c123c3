//! Whole command lines against a coordinator in this process: output, exit status, and what was sent.

mod errors;
mod fake;
mod node;
mod read;
mod watch;
mod write;
