//! End to end, on real Docker, real mTLS and real SIGKILL: each fault and each bad input that the product
//! promises to bear. `make test` builds the programs and the image first.

mod attacks;
mod basics;
mod budgets;
mod containers;
mod cut_off;
mod daemons;
mod drains;
mod endpoints;
mod foreign;
mod hardware;
mod history;
mod holds;
mod hosts;
mod join;
mod kills;
mod logs;
mod losses;
mod migrate;
mod overload;
mod placement;
mod pod_spec;
mod probes;
mod quarantine;
mod record;
mod refusals;
mod restore;
mod secrets;
mod units;
mod update_faults;
mod updates;
