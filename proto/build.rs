//! Compiles the .proto files with protox, a compiler in Rust: no `protoc` is needed.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 4] = ["alert.proto", "stock.proto", "tocsin/v1/alerts.proto", "tocsin/v1/rules.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    // Served by gRPC reflection.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
