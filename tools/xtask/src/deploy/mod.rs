//! `cargo xtask deploy`: checks what containers are run by, without a container engine. `tools/test deploy` fetches what is needed
//! and calls this.
//!
//! ```text
//!  docker-compose config ─► compose.rs ────┐
//!  deploy/k8s, schemas ───► kubernetes/ ───┼─► environment.rs: does each role take exactly these variables? ─► findings
//!  deploy/Dockerfile ─────► recipe.rs ─────┘
//! ```

mod compose;
mod environment;
mod images;
mod kubernetes;
mod recipe;

use std::path::{Path, PathBuf};

use crate::compose::{Compose, ComposeError};

/// What `xtask deploy` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What `docker-compose config` printed.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The folder with the strict JSON schemas of one version of Kubernetes.
    #[arg(long, value_name = "DIR")]
    schemas: PathBuf,
    /// The folder with `busbar`, `worker` and `ctl`.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
    /// The version of nats-server that the tests run with.
    #[arg(long, value_name = "VERSION")]
    nats: String,
}

/// Why nothing could be checked, or what is wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {detail}", path.display())]
    Syntax { path: PathBuf, detail: String },
    #[error("{} things are wrong:\n  {}", .0.len(), .0.join("\n  "))]
    Wrong(Vec<String>),
}

fn read(path: &Path) -> Result<String, DeployError> {
    std::fs::read_to_string(path).map_err(|source| DeployError::File { path: path.to_owned(), source })
}

/// Checks everything and tells all findings at once.
pub(crate) fn run(arguments: &Arguments) -> Result<(), DeployError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let compose = Compose::read(&arguments.config)?;
    let programs = environment::Programs::new(&arguments.programs);
    let images = images::Wanted { nats: arguments.nats.clone(), ours: env!("CARGO_PKG_VERSION").to_owned() };

    let mut findings = compose::check(&compose, &images);
    let (source, example) = (read(&root.join("docker-compose.yml"))?, read(&root.join(".env.example"))?);
    findings.extend(compose::check_variables(&source, &example));
    for (name, service) in compose.services.iter().filter(|(_, service)| service.is_ours()) {
        let told = programs.check(&service.command, &service.variables());
        findings.extend(told.into_iter().map(|finding| format!("docker-compose.yml: {name}: {finding}")));
    }

    let manifests = kubernetes::Manifests::read(&root.join("deploy/k8s"))?;
    findings.extend(kubernetes::schema::check(&manifests, &arguments.schemas)?);
    findings.extend(kubernetes::rules::check(&manifests, &images));
    for pod in manifests.pods() {
        let told = match kubernetes::variables(&manifests, &pod) {
            Ok(variables) if pod.is_ours() => programs.check(&pod.command(), &variables),
            Ok(_) => Vec::new(),
            Err(missing) => missing,
        };
        findings.extend(told.into_iter().map(|finding| format!("deploy/k8s: {}: {finding}", pod.name)));
    }

    let recipe = root.join("deploy/Dockerfile");
    findings.extend(recipe::check(&read(&recipe)?, &read(&root.join("rust-toolchain.toml"))?));
    findings.extend(recipe::check_root(&read(&root.join("deploy/root-of-image"))?));
    if !findings.is_empty() {
        return Err(DeployError::Wrong(findings));
    }
    let (services, objects) = (compose.services.len(), manifests.count());
    eprintln!("deploy: {services} services, {objects} Kubernetes objects and the image's recipe are good");
    Ok(())
}
