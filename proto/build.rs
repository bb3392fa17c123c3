//! Compiles `wharfinger/v1/*.proto` with protox, so that a clone needs no protoc. Writes the descriptor set
//! that reflection serves.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 12] = [
    "wharfinger/v1/agent.proto",
    "wharfinger/v1/enrol.proto",
    "wharfinger/v1/peer.proto",
    "wharfinger/v1/cluster.proto",
    "wharfinger/v1/resources.proto",
    "wharfinger/v1/admin.proto",
    "wharfinger/v1/holds.proto",
    "wharfinger/v1/drains.proto",
    "wharfinger/v1/updates.proto",
    "wharfinger/v1/logs.proto",
    "wharfinger/v1/settings.proto",
    "wharfinger/v1/audit.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("wharfinger.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Token texts, passphrases and the cluster's secret must not reach a log by way of Debug.
        .skip_debug([
            "EnrolRequest",
            "CreateTokenReply",
            "JoinCoordinatorRequest",
            "JoinCoordinatorReply",
            "BackupRequest",
        ])
        // A repeat is known by a hash over the request's encoding, which must be the same each time.
        .btree_map(".wharfinger.v1.SetSettingsRequest.set")
        .compile_fds(descriptors)?;
    Ok(())
}
