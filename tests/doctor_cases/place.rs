//! A place: what limits a process that is started in it.
//!
//! Owns the way there: the control groups of a place, and what the child does between fork and exec. Every limit is a real
//! one. It ends with the process, or with [`Groups`].

// What the child does between fork and exec has no safe form.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::ANSWER_MAX;

/// The program that is asked, and held to its word.
pub fn program() -> OsString {
    std::env::var_os("TCBCHAT").unwrap_or_else(|| env!("CARGO_BIN_EXE_tcbchat").into())
}

/// Where a process is started.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// RLIMIT_NOFILE.
    pub files: Option<u64>,
    /// Descriptors that it is born with.
    pub inherited: u32,
    /// RLIMIT_DATA.
    pub data: Option<u64>,
    /// RLIMIT_AS.
    pub address_space: Option<u64>,
    /// RLIMIT_NPROC, as a user of its own.
    pub threads_of_user: Option<u64>,
    /// `unshare` is forbidden by a filter of system calls.
    pub is_sandboxed: bool,
    /// `/proc/sys` is empty.
    pub is_proc_hidden: bool,
    /// `pids.max` of its group.
    pub pids: Option<u64>,
    /// The memory limit of its group.
    pub memory: Option<u64>,
}

impl Place {
    /// The program, to be started here.
    pub fn command(&self, groups: &Groups, words: &[&str], options: &[String]) -> Command {
        let program = program();
        let mut command = Command::new(program);
        command.args(words).args(options).env_clear().stdin(Stdio::null());
        let joins: Vec<CString> = groups
            .0
            .iter()
            .map(|group| {
                CString::new(group.join("cgroup.procs").display().to_string()).expect("no NUL in a path")
            })
            .collect();
        let place = self.clone();
        // SAFETY: between fork and exec only system calls are made, on values that were made before.
        unsafe {
            command.pre_exec(move || enter(&place, &joins));
        }
        command
    }
}

/// Groups that a case has made; removed with it.
#[derive(Default)]
pub struct Groups(Vec<PathBuf>);

impl Groups {
    /// Makes those that the place needs.
    pub fn make(place: &Place) -> Result<Groups, String> {
        let mut groups = Groups::default();
        for (controller, limit, files) in [
            ("pids", place.pids, ["pids.max", "pids.max"]),
            ("memory", place.memory, ["memory.limit_in_bytes", "memory.max"]),
        ] {
            let Some(limit) = limit else { continue };
            let root = Path::new("/sys/fs/cgroup");
            let one = root.join(controller);
            let parent = if one.is_dir() { one } else { root.to_owned() };
            let group = parent.join(format!("tcbchat-case-{}", std::process::id()));
            // One that is left from a case that was killed is as good.
            if !group.is_dir() {
                fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
            }
            groups.0.push(group.clone());
            let file = files.iter().map(|file| group.join(file)).find(|file| file.exists());
            let file = file.ok_or(format!("{} does not limit {controller}", group.display()))?;
            fs::write(&file, limit.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let end = Instant::now() + ANSWER_MAX;
            // The last process in it takes a moment to be gone.
            while fs::remove_dir(group).is_err() && Instant::now() < end {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Takes this process to its place.
fn enter(place: &Place, joins: &[CString]) -> io::Result<()> {
    let done = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let limit = |resource, value: Option<u64>| match value {
        Some(value) => {
            let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
            // SAFETY: the limit is a valid structure.
            done(unsafe { libc::setrlimit(resource, &limit) })
        }
        None => Ok(()),
    };
    for join in joins {
        // SAFETY: the path and the byte live; "0" is the process that writes it.
        unsafe {
            let file = libc::open(join.as_ptr(), libc::O_WRONLY);
            done(file)?;
            done(libc::write(file, b"0".as_ptr().cast(), 1) as libc::c_int)?;
            done(libc::close(file))?;
        }
    }
    if place.is_proc_hidden {
        let (root, none, tmpfs, sys) = (c"/", c"none", c"tmpfs", c"/proc/sys");
        // SAFETY: all strings live; the mounts are those of a namespace that ends with the process.
        unsafe {
            done(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            done(libc::mount(none.as_ptr(), root.as_ptr(), std::ptr::null(), private, std::ptr::null()))?;
            done(libc::mount(none.as_ptr(), sys.as_ptr(), tmpfs.as_ptr(), 0, std::ptr::null()))?;
        }
    }
    for _ in 0..place.inherited {
        // SAFETY: standard input is open.
        done(unsafe { libc::dup(0) })?;
    }
    limit(libc::RLIMIT_NOFILE, place.files)?;
    if let Some(threads) = place.threads_of_user {
        limit(libc::RLIMIT_NPROC, Some(threads))?;
        // Nobody else's processes count for a user that there is none of.
        let user = 61_234;
        // SAFETY: this process alone changes its user.
        unsafe {
            done(libc::setgroups(0, std::ptr::null()))?;
            done(libc::setgid(user))?;
            done(libc::setuid(user))?;
        }
    }
    limit(libc::RLIMIT_DATA, place.data)?;
    limit(libc::RLIMIT_AS, place.address_space)?;
    if place.is_sandboxed {
        let step = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
        // seccomp_data begins with the number of the system call: `unshare` is answered EPERM, all others pass.
        let mut filter = [
            step(0x20, 0, 0, 0),
            step(0x15, 0, 1, libc::SYS_unshare as u32),
            step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program lives until the call returns.
        unsafe {
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            done(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program))?;
        }
    }
    Ok(())
}
