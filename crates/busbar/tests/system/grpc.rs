//! The gRPC interface as an independent client sees it: Python's `grpcio`, which learns everything by reflection.
//!
//! The client stands in `grpc/client.py`; `tools/test grpc` installs what it needs and says where in `BUSBAR_TEST_GRPCIO`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Dev, DevOptions, source_pack};

fn dev(args: &[String]) -> Dev {
    Dev::start_with(DevOptions { workers: 1, packs: vec![source_pack("smoke")], args: args.to_vec(), ..DevOptions::default() })
}

/// Runs the client against a stack, and shows what it said where it was not content.
fn run_client(dev: &Dev, root: Option<&Path>) {
    let packages =
        std::env::var_os("BUSBAR_TEST_GRPCIO").expect("BUSBAR_TEST_GRPCIO names the folder of grpcio: run tools/test grpc");
    let output = Command::new("python3")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/grpc/client.py"))
        .arg(dev.endpoints.grpc.as_ref().expect("an address"))
        .args(root)
        .env("PYTHONPATH", packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("BUSBAR_API_KEY", &dev.endpoints.api_key)
        .output()
        .expect("python3");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("everything is as it should be"), "{}\n{said}", output.status);
}

#[test]
#[ignore = "needs Python's grpcio: tools/test grpc"]
fn grpcio_finds_everything_by_reflection() {
    run_client(&dev(&[]), None);
}

#[test]
#[ignore = "needs Python's grpcio: tools/test grpc"]
fn grpcio_finds_everything_by_reflection_through_tls() {
    let dir = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&certificate, pair.cert.pem()).unwrap();
    fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
    let set = |name: &str, path: &Path| ["--set".to_owned(), format!("grpc.{name}={}", path.display())];
    let args = [set("tls_certificate_file", &certificate), set("tls_key_file", &key)].concat();
    run_client(&dev(&args), Some(&certificate));
}
