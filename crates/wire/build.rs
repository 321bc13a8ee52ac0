//! Generates the protobuf and gRPC types. The compiler of `.proto` files is a Rust crate: nothing has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["sled.proto"], ["proto"])?;
    tonic_prost_build::configure().build_transport(false).bytes(".sled.v1.VocabularyChunk.data").compile_fds(files)?;
    Ok(())
}
