//! Compiles `proto/` with protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/agent.proto", "proto/controller.proto", "proto/join.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    // `bytes::Bytes` for entry bodies: encoded once, shared by every session that sends them.
    prost_build::Config::new()
        .bytes([".selvedge.agent.v1.Upsert.body"])
        .compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
