//! The sandbox and what lies around it, and what must hold of both after every guest.

use std::convert::Infallible;
use std::error::Error;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use busbar_protocol::pointers::Sha256Hex;
use busbar_sandbox::{Artifact, Failure, Limits, Module, ModuleError, Output, Sandbox, SandboxConfig, Task, Usage};
use bytes::Bytes;
use tempfile::TempDir;

use crate::case::Case;

/// What only the host knows.
const CANARY: &str = "a canary that no guest can see";
const ARTIFACT: &str = "{\"artifact\": 1}";
/// One write, in bytes, by which output may exceed its limit before it is noticed.
const WRITE_BYTES: u64 = 1 << 20;
/// No case takes so long: its limits of time are far below.
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A sandbox with a file beside it that nobody may touch.
pub(crate) struct World {
    folder: TempDir,
    sandbox: Sandbox,
    _watch: Watch,
    alive: mpsc::Sender<u64>,
}

/// Ends the process, with the seed of the case, when a case does not end.
struct Watch;

impl World {
    pub(crate) fn new() -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("canary"), CANARY)?;
        fs::write(folder.path().join("artifact"), ARTIFACT)?;
        let config = SandboxConfig { modules_kept_max: 4, ..SandboxConfig::new(folder.path().join("scratch")) };
        let (alive, cases) = mpsc::channel();
        Ok(Self { sandbox: Sandbox::new(config)?, folder, _watch: Watch::start(cases)?, alive })
    }

    /// How it ended, in a word.
    pub(crate) fn try_out(&mut self, case: &Case) -> Outcome<&'static str> {
        self.alive.send(case.seed())?;
        let tried = catch_unwind(AssertUnwindSafe(|| self.try_unwatched(case)));
        tried.unwrap_or_else(|_| Err("it panicked".into()))
    }

    fn try_unwatched(&self, case: &Case) -> Outcome<&'static str> {
        let module = match self.load(case) {
            Ok(module) => module,
            Err(ModuleError::Invalid { .. }) => return Ok("module_invalid"),
            Err(error) => return Err(error.into()),
        };
        let first = self.run(&module, case);
        self.check(&first, &case.limits)?;
        let end = name(&first);
        if case.again && case.limits.repeatable && !depends_on_time(end) {
            let second = self.run(&module, case);
            self.check(&second, &case.limits)?;
            same(&first, &second)?;
        }
        Ok(end)
    }

    fn load(&self, case: &Case) -> Result<Module, ModuleError> {
        let digest = Sha256Hex::of(&case.wasm);
        let fetch = || Ok::<_, Infallible>(Bytes::copy_from_slice(&case.wasm));
        if case.limits.fuel > 0 { self.sandbox.load_metered(&digest, fetch) } else { self.sandbox.load(&digest, fetch) }
    }

    fn run(&self, module: &Module, case: &Case) -> Result<Output, Failure> {
        let artifacts = vec![Artifact { id: "text".to_owned(), path: self.path("artifact") }];
        let checkpoint = Some(Bytes::from_static(b"state"));
        self.sandbox.run(module, Task { artifacts, checkpoint, limits: case.limits, ..Task::new("{\"input\": true}") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn check(&self, result: &Result<Output, Failure>, limits: &Limits) -> Outcome<()> {
        let mut names = fs::read_dir(self.folder.path())?.map(|entry| Ok(entry?.file_name())).collect::<Outcome<Vec<_>>>()?;
        names.sort();
        ensure(names == ["artifact", "canary", "scratch"], || format!("beside the sandbox are {names:?}"))?;
        ensure(fs::read(self.path("canary"))? == CANARY.as_bytes(), || "the canary was changed".to_owned())?;
        ensure(fs::read(self.path("artifact"))? == ARTIFACT.as_bytes(), || "the artifact was changed".to_owned())?;
        ensure(fs::read_dir(self.path("scratch"))?.next().is_none(), || "something was left in the scratch folder".to_owned())?;
        let (usage, said) = match result {
            Ok(output) => (&output.usage, [&output.stdout, &output.stderr_tail]),
            Err(failure) => (&*failure.usage, [&failure.stdout, &failure.stderr_tail]),
        };
        ensure(name(result) != "internal", || format!("it ended with `internal`: {:?}", result.as_ref().err()))?;
        let secrets = [CANARY, "PATH=", "root:x:"];
        let told = said.iter().any(|bytes| secrets.iter().any(|secret| contains(bytes, secret.as_bytes())));
        ensure(!told, || "it has said what only the host knows".to_owned())?;
        within(usage, limits)
    }
}

fn within(usage: &Usage, limits: &Limits) -> Outcome<()> {
    let pairs = [
        ("memory_bytes", usage.memory_bytes_peak, limits.memory_bytes),
        ("table_elements", usage.table_elements, limits.table_elements),
        ("tmp_bytes", usage.tmp_bytes, limits.tmp_bytes),
        ("tmp_files", usage.tmp_files, limits.tmp_files),
        ("random_bytes", usage.random_bytes, limits.random_bytes),
        ("output_bytes", if limits.text { 0 } else { usage.output_bytes }, limits.output_bytes + WRITE_BYTES),
        ("fuel", usage.fuel, if limits.fuel == 0 { 0 } else { limits.fuel }),
    ];
    for (name, used, most) in pairs {
        ensure(used <= most, || format!("it used {used} of {most} {name}"))?;
    }
    Ok(())
}

/// What can be compared of two ends is equal.
fn same(first: &Result<Output, Failure>, second: &Result<Output, Failure>) -> Outcome<()> {
    if depends_on_time(name(second)) {
        return Ok(());
    }
    let facts = |result: &Result<Output, Failure>| match result {
        Ok(output) => (output.stdout.clone(), output.stderr_tail.clone(), output.usage.fuel, output.usage.memory_bytes_peak),
        Err(failure) => {
            (failure.stdout.clone(), failure.stderr_tail.clone(), failure.usage.fuel, failure.usage.memory_bytes_peak)
        }
    };
    ensure(name(first) == name(second) && facts(first) == facts(second), || {
        format!("it ended otherwise the second time: {first:?}\n{second:?}")
    })
}

fn depends_on_time(end: &str) -> bool {
    matches!(end, "limit_cpu" | "limit_wall")
}

fn name(result: &Result<Output, Failure>) -> &'static str {
    match result {
        Ok(_) => "succeeded",
        Err(failure) => failure.kind.code().as_str(),
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome<()> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

impl Watch {
    fn start(cases: mpsc::Receiver<u64>) -> Outcome<Self> {
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let mut last = None;
            loop {
                match cases.recv_timeout(PATIENCE) {
                    Ok(seed) => last = Some(seed),
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        eprintln!("fuzz: the guest of case {last:?} was not ended: fuzz guests --case SEED");
                        std::process::exit(1);
                    }
                }
            }
        })?;
        Ok(Self)
    }
}
