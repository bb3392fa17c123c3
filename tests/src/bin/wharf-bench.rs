//! What `make bench` runs; see `harness::bench`.

fn main() {
    harness::bench::main();
}
