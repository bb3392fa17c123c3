//! Whole command lines against a coordinator in this process: output, exit status, and what was sent.

mod apply;
mod cluster;
mod completion;
mod errors;
mod examples;
mod fake;
mod fake_record;
mod logs;
mod mark;
mod node;
mod patch;
mod read;
mod running;
mod status;
mod wait;
mod watch;
mod write;
