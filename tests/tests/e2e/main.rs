//! End to end, on real Docker, real mTLS and real SIGKILL: each fault and each bad input that the product
//! promises to bear. `make test` builds the programs and the image first.

mod attacks;
mod basics;
mod containers;
mod foreign;
mod hardware;
mod history;
mod cut_off;
mod join;
mod kills;
mod losses;
mod overload;
mod pod_spec;
mod quarantine;
mod refusals;
mod secrets;
