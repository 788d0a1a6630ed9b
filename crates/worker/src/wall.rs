//! The second wall: what this process gives up before it runs anybody's code, so that a guest that escapes from its sandbox meets
//! another one.
//!
//! ```text
//!  main thread ──> no new privileges ──> Landlock ──> seccomp ──> every other thread is begun behind them
//! ```
//!
//! - **No new privileges:** no program that this process could start would run as another user.
//! - **Landlock:** files can be changed below the folders of this worker only, and read there and where the system keeps its
//!   libraries, certificates and resolver. Nothing can be executed, no port be listened at but that of the health server, and no other
//!   process be signalled. Older kernels have less of it.
//! - **seccomp:** system calls that no worker needs are refused: those that start programs, look into other processes, mount, load
//!   kernel modules, change users or clocks, make raw sockets.
//!
//! What is refused answers "permission denied", so that a library that tries something finds another way.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::failure::Fatal;

/// How much the wall matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Demand {
    /// As much as this kernel has.
    Auto,
    /// All parts, or the worker does not start.
    Require,
    /// None.
    Off,
}

/// What must stay possible.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// Folders that are read and written.
    pub(crate) written: Vec<PathBuf>,
    /// Files and folders that are read.
    pub(crate) read: Vec<PathBuf>,
    /// The port that is listened at, if one is.
    pub(crate) listens: Option<u16>,
}

/// What stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wall {
    /// The version of Landlock's interface that is in force; 0 if it is not.
    pub(crate) landlock: u32,
    /// Whether system calls are filtered.
    pub(crate) seccomp: bool,
}

impl Wall {
    /// For people and labels.
    pub(crate) fn describe(self) -> &'static str {
        match (self.landlock > 0, self.seccomp) {
            (true, true) => "landlock-seccomp",
            (true, false) => "landlock",
            (false, true) => "seccomp",
            (false, false) => "none",
        }
    }
}

/// Raises what is demanded around the calling thread and all that it begins from now on: call it before there are others.
pub(crate) fn raise(demand: Demand, needs: &Needs) -> Result<Wall, Fatal> {
    if demand == Demand::Off {
        return Ok(Wall::default());
    }
    let wall = parts::raise(needs)?;
    if demand == Demand::Require && !(wall.landlock > 0 && wall.seccomp) {
        return Err(Fatal::WallMissing { found: wall.describe() });
    }
    Ok(wall)
}

#[cfg(target_os = "linux")]
mod parts {
    //! The parts that Linux has.

    use std::collections::BTreeMap;
    use std::path::Path;

    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, Ruleset, RulesetAttr as _,
        RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
    };
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch, apply_filter,
    };

    use super::{Needs, Wall};
    use crate::failure::Fatal;

    /// The newest interface whose features are asked for; an older kernel gives what it has.
    const NEWEST: ABI = ABI::V6;
    /// Where the system keeps what any process needs: libraries that are loaded late, certificates, the resolver, time zones, what is
    /// known of processors and of this process. What is absent is left out.
    const SYSTEM: [&str; 14] = [
        "/etc",
        "/usr",
        "/lib",
        "/lib64",
        "/sys/fs/cgroup",
        "/sys/devices/system/cpu",
        "/proc/self",
        "/proc/meminfo",
        "/proc/cpuinfo",
        "/proc/sys",
        "/run/systemd/resolve",
        "/run/NetworkManager",
        "/dev/null",
        "/dev/urandom",
    ];
    /// Numbers of the calls that only exist in the x32 form, which this bit marks.
    #[cfg(target_arch = "x86_64")]
    const X32: std::ops::RangeInclusive<i64> = 512..=547;
    #[cfg(target_arch = "x86_64")]
    const X32_BIT: i64 = 0x4000_0000;

    pub(super) fn raise(needs: &Needs) -> Result<Wall, Fatal> {
        rustix::thread::set_no_new_privs(true).map_err(|error| Fatal::Wall(Box::new(error)))?;
        let landlock = restrict_files(needs).map_err(|error| Fatal::Wall(Box::new(error)))?;
        // Last: the calls of Landlock are not among those that are refused, but those that come after need none of either.
        let seccomp = restrict_calls().map_err(|error| Fatal::Wall(Box::new(error)))?;
        Ok(Wall { landlock, seccomp })
    }

    /// Returns the version of the interface that is in force.
    fn restrict_files(needs: &Needs) -> Result<u32, RulesetError> {
        let all = AccessFs::from_all(NEWEST);
        let special = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock | AccessFs::MakeFifo;
        let write: BitFlags<AccessFs> = all & !(special | AccessFs::IoctlDev);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let system = SYSTEM.iter().map(Path::new).chain(needs.read.iter().map(AsRef::as_ref));
        let mut rules = Ruleset::default()
            .handle_access(all)?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(system, read))?
            .add_rules(path_beneath_rules(&needs.written, write))?;
        if let Some(port) = needs.listens {
            rules = rules.add_rule(NetPort::new(port, AccessNet::BindTcp))?;
        }
        let status = rules.restrict_self()?;
        Ok(match (status.ruleset, status.landlock) {
            (RulesetStatus::NotEnforced, _) => 0,
            (_, LandlockStatus::Available { effective_abi, .. }) => effective_abi as u32,
            // It is in force, whatever it calls itself.
            _ => 1,
        })
    }

    /// Whether the filter is in force: not on processors that the library does not know, or kernels that have none.
    fn restrict_calls() -> Result<bool, seccompiler::Error> {
        let Ok(processor) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(false) };
        let filter = |rules, answer: libc::c_int| -> Result<BpfProgram, BackendError> {
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(answer.unsigned_abs()), processor)?.try_into()
        };
        let refused = refused_calls().and_then(|rules| filter(rules, libc::EPERM));
        // Its flags are in memory, where no filter can look: libraries go on with `clone`, whose flags can be seen.
        let unseen = filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS);
        for program in [refused.map_err(seccompiler::Error::Backend)?, unseen.map_err(seccompiler::Error::Backend)?] {
            match apply_filter(&program) {
                Err(seccompiler::Error::Seccomp(_) | seccompiler::Error::Prctl(_)) => return Ok(false),
                other => other?,
            }
        }
        Ok(true)
    }

    type Rules = BTreeMap<i64, Vec<SeccompRule>>;

    /// An empty list means always.
    fn refused_calls() -> Result<Rules, BackendError> {
        let mut rules: Rules = always_refused().into_iter().map(|call| (call, Vec::new())).collect();
        rules.insert(libc::SYS_clone, vec![new_process()?]);
        rules.insert(libc::SYS_socket, vec![unusual_family()?, raw_socket()?]);
        rules.insert(libc::SYS_kill, vec![another_process()?]);
        #[cfg(target_arch = "x86_64")]
        {
            let doubles: Vec<_> = rules.iter().map(|(call, rules)| (call | X32_BIT, rules.clone())).collect();
            rules.extend(doubles);
            rules.extend(X32.flat_map(|call| [(call, Vec::new()), (call | X32_BIT, Vec::new())]));
        }
        Ok(rules)
    }

    fn condition(argument: u8, operator: SeccompCmpOp, value: libc::c_int) -> Result<SeccompCondition, BackendError> {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::from(value.cast_unsigned()))
    }

    /// A thread is a clone within its process.
    fn new_process() -> Result<SeccompRule, BackendError> {
        let mask = u64::from(libc::CLONE_THREAD.cast_unsigned());
        SeccompRule::new(vec![condition(0, SeccompCmpOp::MaskedEq(mask), 0)?])
    }

    /// Everything but the two Internet protocols, local sockets, and the kernel's table of addresses, which the resolver reads.
    fn unusual_family() -> Result<SeccompRule, BackendError> {
        let usual = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
        SeccompRule::new(usual.into_iter().map(|family| condition(0, SeccompCmpOp::Ne, family)).collect::<Result<_, _>>()?)
    }

    fn raw_socket() -> Result<SeccompRule, BackendError> {
        // The kernel's table of addresses is read through one.
        let other = condition(0, SeccompCmpOp::Ne, libc::AF_NETLINK)?;
        SeccompRule::new(vec![other, condition(1, SeccompCmpOp::MaskedEq(0xf), libc::SOCK_RAW)?])
    }

    fn another_process() -> Result<SeccompRule, BackendError> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        SeccompRule::new(vec![condition(0, SeccompCmpOp::Ne, own)?])
    }

    fn always_refused() -> Vec<i64> {
        let mut calls = vec![
            // Programs, and what other processes hold.
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_process_madvise,
            libc::SYS_pidfd_getfd,
            libc::SYS_pidfd_send_signal,
            libc::SYS_kcmp,
            // The kernel itself.
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
            libc::SYS_reboot,
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_io_uring_setup,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_request_key,
            libc::SYS_syslog,
            libc::SYS_quotactl,
            libc::SYS_acct,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_personality,
            // Another view of the machine.
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_open_tree,
            libc::SYS_move_mount,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_mount_setattr,
            libc::SYS_name_to_handle_at,
            libc::SYS_open_by_handle_at,
            // Other users, another name, another time.
            libc::SYS_setuid,
            libc::SYS_setgid,
            libc::SYS_setreuid,
            libc::SYS_setregid,
            libc::SYS_setresuid,
            libc::SYS_setresgid,
            libc::SYS_setfsuid,
            libc::SYS_setfsgid,
            libc::SYS_setgroups,
            libc::SYS_capset,
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_adjtimex,
            libc::SYS_clock_adjtime,
        ];
        #[cfg(target_arch = "x86_64")]
        calls.extend([
            libc::SYS_fork,
            libc::SYS_vfork,
            libc::SYS_iopl,
            libc::SYS_ioperm,
            libc::SYS_modify_ldt,
            libc::SYS_kexec_file_load,
        ]);
        calls
    }
}

#[cfg(not(target_os = "linux"))]
mod parts {
    //! Other systems have no such parts.

    use super::{Needs, Wall};
    use crate::failure::Fatal;

    pub(super) fn raise(_: &Needs) -> Result<Wall, Fatal> {
        Ok(Wall::default())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    /// Where the test tells its child to work.
    const FOLDER: &str = "BUSBAR_TEST_WALL_FOLDER";

    /// Where the child tells what came of it.
    const TOLD: &str = "own/told";

    /// What an attempt came to, in a word.
    fn word<T, E>(result: Result<T, E>) -> &'static str {
        result.map_or("refused", |_| "done")
    }

    /// Everything that the child tries behind the wall, with its outcome.
    fn attempts(folder: &Path) -> Vec<(&'static str, &'static str)> {
        use rustix::net::{AddressFamily, SocketType, socket};
        let (own, other) = (folder.join("own"), folder.join("other"));
        let datagram = |family, kind| word(socket(family, kind, None));
        vec![
            ("writes its own", word(fs::write(own.join("new"), "x"))),
            ("reads its own", word(fs::read(own.join("old")))),
            ("links within its own", word(fs::hard_link(own.join("old"), own.join("deeper/link")))),
            ("begins a thread", word(std::thread::Builder::new().spawn(|| ()))),
            ("reads the resolver's settings", word(fs::read("/etc/hosts"))),
            ("knows its processors", word(std::thread::available_parallelism())),
            ("makes a socket", datagram(AddressFamily::INET, SocketType::STREAM)),
            ("writes elsewhere", word(fs::write(other.join("new"), "x"))),
            ("reads elsewhere", word(fs::read(other.join("old")))),
            ("lists elsewhere", word(fs::read_dir(&other))),
            ("looks at another process", word(fs::read("/proc/1/status"))),
            ("runs a program", word(Command::new("/bin/true").status())),
            ("makes a raw socket", datagram(AddressFamily::INET, SocketType::RAW)),
            ("makes a packet socket", datagram(AddressFamily::PACKET, SocketType::DGRAM)),
            ("listens", word(TcpListener::bind("127.0.0.1:0"))),
            ("signals another process", word(rustix::process::test_kill_process(rustix::process::Pid::INIT))),
        ]
    }

    /// Not a test: the child of the one below, which runs it alone, in a process of its own.
    #[test]
    #[ignore = "the child of another test"]
    fn behind_the_wall() {
        let folder = PathBuf::from(std::env::var_os(FOLDER).expect("its parent says where"));
        let (needs, told) = (Needs { written: vec![folder.join("own")], ..Needs::default() }, folder.join(TOLD));
        // A thread of its own, as the test harness has begun others.
        let child = std::thread::spawn(move || {
            let wall = raise(Demand::Auto, &needs).expect("raised as far as it goes");
            (wall, attempts(&folder))
        });
        let (wall, attempts) = child.join().expect("no panic");
        let lines: Vec<_> = attempts.into_iter().map(|(what, outcome)| format!("{what}: {outcome}")).collect();
        let parts = format!("landlock {}, seccomp {}", wall.landlock, wall.seccomp);
        fs::write(told, format!("{parts}\n{}\n", lines.join("\n"))).expect("written");
    }

    #[test]
    fn what_an_escaped_guest_would_try_is_refused_and_what_a_worker_needs_is_not() {
        let temp = tempfile::tempdir().expect("a temp folder");
        fs::create_dir_all(temp.path().join("own/deeper")).expect("made");
        fs::create_dir(temp.path().join("other")).expect("made");
        for name in ["own/old", "other/old"] {
            fs::write(temp.path().join(name), "x").expect("written");
        }
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "wall::tests::behind_the_wall"])
            .env(FOLDER, temp.path())
            .output()
            .expect("run");
        assert!(child.status.success(), "{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
        let said = fs::read_to_string(temp.path().join(TOLD)).expect("told");
        let told = |line: &str| said.lines().any(|said| said == line);
        for needed in [
            "writes its own",
            "reads its own",
            "links within its own",
            "begins a thread",
            "reads the resolver's settings",
            "knows its processors",
            "makes a socket",
        ] {
            assert!(told(&format!("{needed}: done")), "{needed} in {said}");
        }
        let (landlock, seccomp) = (!said.starts_with("landlock 0,"), said.contains("seccomp true"));
        for refused in ["runs a program", "makes a raw socket", "makes a packet socket", "signals another process"] {
            assert!(!seccomp || told(&format!("{refused}: refused")), "{refused} in {said}");
        }
        for refused in ["writes elsewhere", "reads elsewhere", "lists elsewhere", "looks at another process", "runs a program"] {
            assert!(!landlock || told(&format!("{refused}: refused")), "{refused} in {said}");
        }
    }

    #[test]
    fn what_is_off_changes_nothing() {
        assert_eq!(raise(Demand::Off, &Needs::default()).expect("nothing to fail"), Wall::default());
        assert_eq!(Wall::default().describe(), "none");
    }
}
