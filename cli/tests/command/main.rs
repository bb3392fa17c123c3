//! Whole command lines against a coordinator in this process: output, exit status, and what was sent.

mod apply;
mod backup;
mod budgets;
mod cluster;
mod completion;
mod coordinators;
mod daemons;
mod drain;
mod errors;
mod examples;
mod fake;
mod fake_record;
mod hold;
mod logs;
mod mark;
mod node;
mod patch;
mod read;
mod restore;
mod rollout;
mod running;
mod status;
mod taint;
mod wait;
mod watch;
mod write;
