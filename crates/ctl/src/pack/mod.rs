//! `ctl pack`: builds, installs, shows and uninstalls packs.

mod source;

use std::path::PathBuf;

use busbar_api::{PackChange, PackList, PackOutcome, PackReply, PackView};
use clap::{Args, Subcommand};

use crate::client::{Client, encode};
use crate::failure::Failure;
use crate::render::{Output, counted, line, pairs, table};

/// How many digits of a digest people see.
const DIGITS: usize = 12;

#[derive(Debug, Subcommand)]
pub(crate) enum PackCommand {
    /// Make an archive of a pack's folder; the modules must be built. Needs no stack.
    Build(BuildArgs),
    /// Install packs: show what each means, then do it.
    Install(InstallArgs),
    /// List the packs that are installed.
    List,
    /// Show a pack and what it owns.
    Show(PackArgs),
    /// Take a pack away, with everything that it brought.
    Uninstall(PackArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The folder with the pack.yaml.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where the archive goes. Default: <id>-<version>.tgz, here.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// An archive, the folder of a pack, or the http(s) address of an archive; several are installed one after another.
    #[arg(value_name = "FILE|DIR|URL", required = true)]
    sources: Vec<String>,
    /// Only show what it would mean.
    #[arg(long)]
    dry_run: bool,
    /// Replace another release of the pack.
    #[arg(long)]
    upgrade: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// The pack.
    id: String,
}

pub(crate) fn run(
    command: &PackCommand,
    stack: impl FnOnce() -> Result<Client, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        PackCommand::Build(args) => build(args),
        PackCommand::Install(args) => install(args, &stack()?, output),
        PackCommand::List => list(&stack()?, output),
        PackCommand::Show(args) => show(args, &stack()?, output),
        PackCommand::Uninstall(args) => uninstall(args, &stack()?, output),
    }
}

fn build(args: &BuildArgs) -> Result<(), Failure> {
    let pack = source::gather(&args.dir)?;
    let metadata = &pack.manifest.metadata;
    let file = args.file.clone().unwrap_or_else(|| format!("{}-{}.tgz", metadata.id, metadata.version).into());
    source::write(&file, &pack)?;
    line(&format!("{}  {} {}, sha256:{}", file.display(), metadata.id, metadata.version, pack.digest))
}

fn install(args: &InstallArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    args.sources.iter().try_for_each(|source| install_one(source, args, client, output))
}

fn install_one(source: &str, args: &InstallArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let archive = source::archive(source)?;
    let ask = |dry_run: bool| -> Result<PackReply, Failure> {
        client.install_pack(&format!("/api/v1/packs?dry_run={dry_run}&upgrade={}", args.upgrade), &archive)
    };
    let planned = ask(true)?;
    if args.dry_run || planned.outcome == PackOutcome::Unchanged {
        return output.show_next(&planned, || format!("{}{}", plan(&planned), told(&planned)));
    }
    if !output.is_json() {
        line(&plan(&planned))?;
    }
    let reply = ask(false)?;
    output.show_next(&reply, || told(&reply))
}

fn uninstall(args: &PackArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let reply: PackReply = client.delete_for(&path(&args.id))?;
    output.show(&reply, || format!("{}{}", plan(&reply), told(&reply)))
}

fn list(client: &Client, output: &Output) -> Result<(), Failure> {
    let packs: PackList = client.get("/api/v1/packs")?;
    let row = |pack: &PackView| {
        let owns = counted(pack.owns.len() as u64, "part");
        let when = pack.installed_at.clone();
        vec![pack.id.clone(), pack.version.clone(), pack.state.clone(), owns, when, pack.installed_by.clone(), pack.title.clone()]
    };
    let header = ["ID", "VERSION", "STATE", "OWNS", "INSTALLED", "BY", "TITLE"];
    output.show(&packs, || table(&header, packs.items.iter().map(row)))
}

fn show(args: &PackArgs, client: &Client, output: &Output) -> Result<(), Failure> {
    let pack: PackView = client.get(&path(&args.id))?;
    output.show(&pack, || {
        let facts = pairs([
            ("id", pack.id.clone()),
            ("version", pack.version.clone()),
            ("state", pack.state.clone()),
            ("title", pack.title.clone()),
            ("description", pack.description.clone()),
            ("digest", format!("sha256:{}", pack.digest)),
            ("installed", format!("{} by {}", pack.installed_at, pack.installed_by)),
        ]);
        let owns = pack.owns.iter().map(|part| vec![part.kind.clone(), part.name.clone(), short(&part.sha256)]);
        format!("{facts}\n{}", table(&["KIND", "NAME", "SHA256"], owns))
    })
}

fn path(id: &str) -> String {
    format!("/api/v1/packs/{}", encode(id))
}

fn plan(reply: &PackReply) -> String {
    let row =
        |change: &PackChange| vec![change.action.to_string(), change.kind.clone(), change.name.clone(), short(&change.sha256)];
    table(&["ACTION", "KIND", "NAME", "SHA256"], reply.plan.iter().map(row)) + "\n"
}

fn told(reply: &PackReply) -> String {
    let before = reply.replaces.as_ref().map(|version| format!(" (was {version})")).unwrap_or_default();
    format!("{} {}: {}{before}", reply.id, reply.version, reply.outcome)
}

fn short(sha256: &str) -> String {
    sha256.chars().take(DIGITS).collect()
}
