//! What a compiling child gives up before it reads a byte of a stranger's: files, network, other processes, and most of what
//! it could ask the kernel for. Some of it not every system has; what holds is told to the parent, and by it to the operator.

use std::collections::BTreeMap;
use std::ffi::OsString;

use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde::Serialize;

/// What holds a compiling child, beside its limits of memory and time and that it can open no file and no socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// No path can be read, made, changed or removed (Landlock).
    pub paths: bool,
    /// Its network is its own, and has nothing in it (a namespace).
    pub network: bool,
    /// The kernel refuses it calls about files, sockets, processes and mounts (seccomp).
    pub calls: bool,
}

impl Confinement {
    pub(crate) const fn to_byte(self) -> u8 {
        self.paths as u8 | (self.network as u8) << 1 | (self.calls as u8) << 2
    }

    pub(crate) const fn from_byte(byte: u8) -> Self {
        Self { paths: byte & 1 != 0, network: byte & 2 != 0, calls: byte & 4 != 0 }
    }

    /// What does not hold, for people.
    #[must_use]
    pub fn missing(self) -> Vec<&'static str> {
        let all = [
            (self.paths, "paths (Landlock)"),
            (self.network, "a network of its own (user namespaces)"),
            (self.calls, "calls (seccomp)"),
        ];
        all.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect()
    }
}

/// Gives up what compiling does not need. Limits that cannot be set end the child: better no code than code from a
/// compiler at large.
pub(crate) fn confine(args: &[OsString]) -> Result<Confinement, String> {
    let number = |name: &str, otherwise: u64| -> Result<u64, String> {
        let Some(text) = args.iter().find_map(|arg| arg.to_str()?.strip_prefix(name)) else {
            return Ok(otherwise);
        };
        text.parse().map_err(|_| format!("`{name}{text}` is no number"))
    };
    let memory = number("--memory-bytes=", crate::defaults::COMPILE_MEMORY_BYTES_MAX)?;
    let cpu = number("--cpu-seconds=", crate::defaults::COMPILE_CPU_SECONDS_MAX)?;
    let network = leave_network();
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("ask to end with the parent: {error}"))?;
    let paths = leave_paths();
    let limits = [
        (Resource::As, memory),
        (Resource::Cpu, cpu),
        (Resource::Core, 0),
        (Resource::Fsize, 0),
        // No file and no socket can be opened from here on; the three pipes stay.
        (Resource::Nofile, 0),
    ];
    for (resource, value) in limits {
        // At the most that a process may ever have, the kernel kills without a word; one second before, it says why.
        let maximum = if resource == Resource::Cpu { value.saturating_add(1) } else { value };
        let limit = Rlimit { current: Some(value), maximum: Some(maximum) };
        setrlimit(resource, limit).map_err(|error| format!("limit {resource:?} to {value}: {error}"))?;
    }
    Ok(Confinement { paths, network, calls: leave_calls() })
}

/// A network of its own, with nothing in it. Not every system allows it to everybody; that no socket can be opened
/// holds without.
#[expect(
    deprecated,
    reason = "unsafe only with flags that split what threads share; this process has one thread"
)]
fn leave_network() -> bool {
    use rustix::thread::{UnshareFlags, unshare};
    unshare(UnshareFlags::NEWNET).is_ok() || unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET).is_ok()
}

/// A ruleset without a rule: every path is refused, for whatever is to be done with it.
fn leave_paths() -> bool {
    const NEWEST: ABI = ABI::V6;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)));
    let restricted = ruleset.and_then(Ruleset::create).and_then(landlock::RulesetCreated::restrict_self);
    restricted.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

/// Refuses calls that need no descriptor to do harm, and those by which a sandbox is left.
fn leave_calls() -> bool {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else { return false };
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        REFUSED.iter().map(|&call| (call, Vec::new())).collect();
    // EPERM, so that a library that only asks goes on.
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let program =
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).and_then(BpfProgram::try_from);
    program.is_ok_and(|program| seccompiler::apply_filter(&program).is_ok())
}

const REFUSED: &[libc::c_long] = &[
    // Sockets.
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    // Paths.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_removexattr,
    libc::SYS_chroot,
    libc::SYS_chdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    // Other processes, and other kernels' doors.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_kill,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];
