//! Admission by the measured memory of the control group.
//!
//! The kernel ends a process whose group is out of memory, and everybody who is connected with it. What connections
//! cost there is mostly the kernel's own memory and differs between kernels, so no plan can promise that a capacity
//! fits. This gate looks: when the group, or one above it, uses more than a share of its limit, connections that come
//! are refused (503), and those that are there stay.
//!
//! It reads files that were opened at the start, at most once in [`LOOK_EVERY`] for all reactors together. Which
//! groups limit the process, and what the share is, it is told.
//!
//! Invariant: a reading that fails leaves the gate as it was, and a gate without groups is always open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time between two readings. At 30,000 connections a second a group grows by some 2 MB in it. The server's own ticks
/// are ten times as long.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes of `memory.stat` that are read at most: all of it.
const STAT_BYTES_MAX: usize = 16 * 1024;

/// A limit on the memory of a group, and where it is read what is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The file that holds the bytes in use.
    pub used: PathBuf,
    /// The file that tells how many of them are pages of files.
    pub stat: PathBuf,
    /// What the lines about those pages begin with (`total_` in version 1).
    pub prefix: &'static str,
    /// Bytes that the group may use.
    pub bytes: u64,
}

/// One group with its files open.
#[derive(Debug)]
struct Group {
    used: File,
    stat: File,
    names: [String; 2],
    /// Bytes from which on nobody is admitted.
    full_at: u64,
}

/// The gate that all reactors share.
#[derive(Debug)]
pub struct Gate {
    groups: Vec<Group>,
    is_full: AtomicBool,
    start: Instant,
    /// Microseconds after the start before which nobody looks.
    next_look: AtomicU64,
}

impl Gate {
    /// A gate that is never shut.
    pub fn open() -> Gate {
        Gate {
            groups: Vec::new(),
            is_full: AtomicBool::new(false),
            start: Instant::now(),
            next_look: AtomicU64::new(0),
        }
    }

    /// A gate that is shut while a group uses more than `percent` of its limit.
    ///
    /// # Errors
    /// If a group's files cannot be opened.
    pub fn new(limits: &[Limit], percent: u32) -> io::Result<Gate> {
        let group = |limit: &Limit| {
            Ok(Group {
                used: File::open(&limit.used)?,
                stat: File::open(&limit.stat)?,
                names: ["inactive_file ", "active_file "].map(|name| format!("{}{name}", limit.prefix)),
                full_at: full_at(limit.bytes, percent),
            })
        };
        Ok(Gate { groups: limits.iter().map(group).collect::<io::Result<_>>()?, ..Gate::open() })
    }

    /// Whether no connection is to be admitted at this moment.
    pub fn is_shut(&self, now: Instant) -> bool {
        if self.groups.is_empty() {
            return false;
        }
        let next = self.next_look.load(Ordering::Relaxed);
        let since = now.saturating_duration_since(self.start);
        let is_due = since.as_micros() >= u128::from(next);
        let after = u64::try_from((since + LOOK_EVERY).as_micros()).unwrap_or(u64::MAX);
        // One reactor looks; the others go by what the last one saw.
        if is_due
            && self.next_look.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.look();
        }
        self.is_full.load(Ordering::Relaxed)
    }

    fn look(&self) {
        let readings: Option<Vec<bool>> = self.groups.iter().map(Group::is_full).collect();
        let Some(readings) = readings else { return };
        let is_full = readings.contains(&true);
        if self.is_full.swap(is_full, Ordering::Relaxed) != is_full {
            if is_full {
                tracing::warn!(
                    "the control group is short of memory: connections are refused (memory.group_percent_max)"
                );
            } else {
                tracing::info!("the control group has memory again: connections are admitted");
            }
        }
    }
}

impl Group {
    /// Whether it uses too much; `None` if that cannot be read.
    fn is_full(&self) -> Option<bool> {
        let used: u64 = read(&self.used, 32)?.trim().parse().ok()?;
        if used < self.full_at {
            // The cache need not be asked for, which takes the kernel longer.
            return Some(false);
        }
        let stat = read(&self.stat, STAT_BYTES_MAX)?;
        let pages = |name: &String| {
            stat.lines().find_map(|line| line.strip_prefix(name.as_str())?.trim().parse::<u64>().ok())
        };
        let cache: u64 = self.names.iter().filter_map(pages).sum();
        Some(used.saturating_sub(cache) >= self.full_at)
    }
}

/// Bytes of a limit from which on nobody is admitted.
pub fn full_at(limit: u64, percent: u32) -> u64 {
    limit / 100 * u64::from(percent)
}

/// The whole of a small file, whose offset nobody moves: several threads read it.
fn read(file: &File, most: usize) -> Option<String> {
    let mut bytes = vec![0; most];
    let mut length = 0;
    while length < most {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(length);
    String::from_utf8(bytes).ok()
}

/// The files of a group's directory.
pub fn limit_of(directory: &Path, used: &str, prefix: &'static str, bytes: u64) -> Limit {
    Limit { used: directory.join(used), stat: directory.join("memory.stat"), prefix, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Files {
            let files = Files(tempfile::tempdir().unwrap());
            files.set(0, 0);
            files
        }

        fn set(&self, used: u64, cache: u64) {
            let write = |name: &str, text: String| std::fs::write(self.0.path().join(name), text).unwrap();
            write("memory.current", format!("{used}\n"));
            write(
                "memory.stat",
                format!("anon 1\ninactive_file {}\nactive_file {}\nsock 5\n", cache / 2, cache / 2),
            );
        }

        fn gate(&self) -> Gate {
            Gate::new(&[limit_of(self.0.path(), "memory.current", "", 1_000_000)], 85).unwrap()
        }
    }

    #[test]
    fn it_shuts_at_the_share_and_opens_below_it() {
        let files = Files::new();
        let gate = files.gate();
        let start = Instant::now();
        assert!(!gate.is_shut(start));
        files.set(850_000, 0);
        assert!(!gate.is_shut(start), "nobody looks twice at once");
        assert!(gate.is_shut(start + LOOK_EVERY));
        files.set(849_999, 0);
        assert!(!gate.is_shut(start + LOOK_EVERY * 2));
    }

    #[test]
    fn pages_of_files_are_not_in_use() {
        let files = Files::new();
        files.set(999_000, 400_000);
        assert!(!files.gate().is_shut(Instant::now()));
        files.set(999_000, 100_000);
        assert!(files.gate().is_shut(Instant::now()));
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let files = Files::new();
        files.set(900_000, 0);
        let gate = files.gate();
        let start = Instant::now();
        assert!(gate.is_shut(start));
        std::fs::write(files.0.path().join("memory.current"), "max\n").unwrap();
        assert!(gate.is_shut(start + LOOK_EVERY), "as it was");
        assert!(Gate::new(&[limit_of(Path::new("/nowhere"), "x", "", 1)], 85).is_err());
        assert!(!Gate::open().is_shut(Instant::now()));
    }
}
