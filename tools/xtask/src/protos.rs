//! `cargo xtask protos`: generates the committed Rust code of `proto/`, messages into `protocol` and services into `rpc`.

use std::error::Error;
use std::path::Path;

use protox::prost::Message as _;
use protox::prost_reflect::DescriptorPool;

use crate::schema;

/// Every file of the contract, CAP's first.
const FILES: &[&str] = &[
    "cordum/agent/v1/buspacket.proto",
    "cordum/agent/v1/job.proto",
    "cordum/agent/v1/heartbeat.proto",
    "cordum/agent/v1/alert.proto",
    "cordum/agent/v1/handshake.proto",
    "cordum/agent/v1/safety.proto",
    "busbar/v1/job.proto",
    "busbar/v1/scheduler.proto",
    "busbar/v1/kernel.proto",
    "busbar/v1/config.proto",
    "busbar/v1/workflow.proto",
    "busbar/v1/gateway.proto",
    "cordum/v1/api.proto",
];

/// What clients of the gateway may ask for by reflection: these files and what they import.
const REFLECTED: &[&str] = &["busbar/v1/gateway.proto", "cordum/v1/api.proto"];

/// What to do with the generated code.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Write nothing; fail when what is committed differs.
    #[arg(long)]
    check: bool,
}

const MESSAGES: &str = "crates/protocol/src/generated";
const SERVICES: &str = "crates/rpc/src/generated";

/// Runs the subcommand, from the root of the repository.
///
/// # Errors
/// What [`generate`] says, and with `--check` the first file that differs.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if !arguments.check {
        return generate(&root.join("proto"), &root.join(MESSAGES), &root.join(SERVICES));
    }
    let scratch = root.join("target/protos");
    for folder in [MESSAGES, SERVICES] {
        std::fs::create_dir_all(scratch.join(folder))?;
    }
    generate(&root.join("proto"), &scratch.join(MESSAGES), &scratch.join(SERVICES))?;
    for folder in [MESSAGES, SERVICES] {
        for entry in std::fs::read_dir(scratch.join(folder))? {
            let name = Path::new(folder).join(entry?.file_name());
            if std::fs::read(scratch.join(&name))? != std::fs::read(root.join(&name)).unwrap_or_default() {
                return Err(format!("{} is not what proto/ gives: run `cargo xtask protos`", name.display()).into());
            }
        }
    }
    Ok(())
}

/// Writes one file per package into `messages`, with the table of CAP's messages beside them, the gRPC stubs of the same names into `services`, and beside these
/// `reflected.bin`, the descriptors that reflection tells.
///
/// # Errors
/// A contract file that does not compile, or a folder that cannot be written.
fn generate(proto: &Path, messages: &Path, services: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, [proto])?;
    std::fs::create_dir_all(messages)?;
    std::fs::create_dir_all(services)?;
    prost_build::Config::new()
        // Ordered maps give the same bytes for the same message; `Bytes` shares a payload instead of copying it.
        .btree_map(["."])
        .bytes(["."])
        .out_dir(messages)
        .compile_fds(descriptors.clone())?;
    let pool = DescriptorPool::from_file_descriptor_set(descriptors.clone())?;
    std::fs::write(messages.join("cap_schema.rs"), schema::table(&pool)?)?;
    tonic_prost_build::configure()
        .build_transport(false)
        .extern_path(".cordum.agent.v1", "::busbar_protocol::cap")
        .extern_path(".busbar.v1", "::busbar_protocol::busbar")
        .extern_path(".cordum.v1", "::busbar_protocol::cordum_api")
        .out_dir(services)
        .compile_fds(descriptors)?;
    std::fs::write(services.join("reflected.bin"), protox::compile(REFLECTED, [proto])?.encode_to_vec())?;
    Ok(())
}
