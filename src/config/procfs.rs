//! The kernel's files below a root directory: `/` in life, a recorded tree in tests and for `--root`.
//!
//! One place that opens them, so that whoever reads a limit (the plan, the doctor) reads it in the same way
//! and says in the same words that it cannot be read. It keeps nothing and judges nothing.
//!
//! Invariant: a reading is a value that the file holds, or says which file gave none and why; no content of a
//! file panics.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Bytes of one file that are read at most: the kernel's tables of sockets have no end that is worth waiting
/// for, and everything wanted here stands at their beginning.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Control groups of version 1 write "no limit" as the largest number of pages, in bytes. Anything near it
/// is no limit of a machine.
const GROUP_UNLIMITED: u64 = 1 << 62;

/// A value, or why there is none.
pub type Reading<T> = Result<T, Unreadable>;

/// A value that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file, as an absolute path of the machine that it describes.
    pub path: String,
    /// What was in the way.
    pub why: Why,
}

/// What was in the way of a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There is no such file: the kernel has no such limit, or its module is not loaded.
    Absent,
    /// The file is not for us.
    Denied,
    /// The file does not hold what it should; what was looked for.
    Malformed(&'static str),
    /// Another failure of the operating system.
    Failed(io::ErrorKind),
}

impl Unreadable {
    /// A file without what was looked for in it.
    pub fn malformed(path: &str, wanted: &'static str) -> Self {
        Self { path: path.to_owned(), why: Why::Malformed(wanted) }
    }

    /// Whether there is no such file at all.
    pub fn is_absent(&self) -> bool {
        self.why == Why::Absent
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.why {
            Why::Absent => f.write_str("no such file"),
            Why::Denied => f.write_str("permission denied"),
            Why::Malformed(wanted) => write!(f, "no {wanted} in it"),
            Why::Failed(kind) => write!(f, "{kind}"),
        }
    }
}

impl std::error::Error for Unreadable {}

impl From<Unreadable> for io::Error {
    fn from(unreadable: Unreadable) -> Self {
        let kind = match unreadable.why {
            Why::Absent => io::ErrorKind::NotFound,
            Why::Denied => io::ErrorKind::PermissionDenied,
            Why::Malformed(_) => io::ErrorKind::InvalidData,
            Why::Failed(kind) => kind,
        };
        Self::new(kind, unreadable)
    }
}

/// The files of one machine.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// This machine.
    pub fn live() -> Self {
        Self::recorded("/")
    }

    /// A machine whose `/proc` and `/sys` were copied below `root`.
    pub fn recorded(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The text of a file; `path` starts with `/`. Bytes that are no text are replaced.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn text(&self, path: &str) -> Reading<String> {
        self.read(path).map_err(|error| Unreadable {
            path: path.to_owned(),
            why: match error.kind() {
                // A path through a file is a path to nothing.
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Why::Absent,
                io::ErrorKind::PermissionDenied => Why::Denied,
                kind => Why::Failed(kind),
            },
        })
    }

    fn read(&self, path: &str) -> io::Result<String> {
        // A control group's name comes from a file; it must not lead out of the tree.
        let inside: PathBuf =
            Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let mut bytes = Vec::new();
        File::open(self.root.join(inside))?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The one number that a file holds.
    ///
    /// # Errors
    /// If the file cannot be read, or holds anything else; the `max` of an unlimited control group is such.
    pub fn number(&self, path: &str) -> Reading<u64> {
        let text = self.text(path)?;
        text.trim().parse().map_err(|_| Unreadable::malformed(path, "number"))
    }

    /// The first `N` numbers of a file, separated by white space.
    ///
    /// # Errors
    /// If the file cannot be read, or holds fewer.
    pub fn numbers<const N: usize>(&self, path: &str) -> Reading<[u64; N]> {
        let text = self.text(path)?;
        let mut words = text.split_ascii_whitespace().map(str::parse);
        let mut numbers = [0; N];
        for number in &mut numbers {
            let Some(Ok(found)) = words.next() else { return Err(Unreadable::malformed(path, "numbers")) };
            *number = found;
        }
        Ok(numbers)
    }

    /// The numbers of all processes; none where they cannot be listed.
    pub fn processes(&self) -> Vec<u32> {
        let Ok(entries) = std::fs::read_dir(self.root.join("proc")) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// A line of `/proc/meminfo` such as `MemTotal`, in bytes.
    ///
    /// # Errors
    /// If the file cannot be read, or has no such line.
    pub fn meminfo_bytes(&self, name: &'static str) -> Reading<u64> {
        const PATH: &str = "/proc/meminfo";
        let text = self.text(PATH)?;
        let kib = text.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?.strip_prefix(':')?;
            rest.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()
        });
        kib.and_then(|kib| kib.checked_mul(1024)).ok_or(Unreadable::malformed(PATH, name))
    }

    /// The limits of one controller on this process: those of its control group and of all groups above,
    /// for both versions of control groups, from the group upwards. Groups without a limit are left out.
    ///
    /// # Errors
    /// If it cannot be read which groups the process is in.
    pub fn group_limits(&self, controller: Controller) -> Reading<Vec<GroupLimit>> {
        let groups = self.text("/proc/self/cgroup")?;
        let limit = |(directory, version): (String, Version)| {
            let [limit, used] = controller.files(version);
            let limit = self.number(&format!("{directory}/{limit}")).ok()?;
            let used = self.number(&format!("{directory}/{used}")).ok();
            (limit < GROUP_UNLIMITED).then_some(GroupLimit { directory, version, limit, used })
        };
        Ok(group_directories(&groups, controller).into_iter().filter_map(limit).collect())
    }

    /// The directories of the process's groups that a controller may limit, from the group upwards.
    ///
    /// # Errors
    /// If it cannot be read which groups the process is in.
    pub fn group_directories(&self, controller: Controller) -> Reading<Vec<(String, Version)>> {
        Ok(group_directories(&self.text("/proc/self/cgroup")?, controller))
    }
}

/// What a control group may limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Memory, in bytes, the kernel's for sockets included.
    Memory,
    /// Processes and threads.
    Pids,
}

/// The version of a hierarchy of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy for each controller.
    V1,
    /// One hierarchy for all.
    V2,
}

impl Version {
    /// What lines of `memory.stat` begin with that count the groups below, too.
    pub fn stat_prefix(self) -> &'static str {
        match self {
            Self::V1 => "total_",
            Self::V2 => "",
        }
    }
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    /// The files of a limit and of what is used of it.
    pub fn files(self, version: Version) -> [&'static str; 2] {
        match (self, version) {
            (Self::Memory, Version::V1) => ["memory.limit_in_bytes", "memory.usage_in_bytes"],
            (Self::Memory, Version::V2) => ["memory.max", "memory.current"],
            (Self::Pids, _) => ["pids.max", "pids.current"],
        }
    }
}

/// A limit of a control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupLimit {
    /// The group's directory.
    pub directory: String,
    /// The version of its hierarchy.
    pub version: Version,
    /// The limit.
    pub limit: u64,
    /// What is used of it.
    pub used: Option<u64>,
}

fn group_directories(groups: &str, controller: Controller) -> Vec<(String, Version)> {
    let mut directories = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, version) = match controllers {
            "" => ("/sys/fs/cgroup".to_owned(), Version::V2),
            list if list.split(',').any(|name| name == controller.name()) => {
                (format!("/sys/fs/cgroup/{}", controller.name()), Version::V1)
            }
            _ => continue,
        };
        let group = Path::new(path.trim_start_matches('/'));
        directories.extend(group.ancestors().map(|above| {
            let directory = Path::new(&root).join(above);
            (directory.display().to_string().trim_end_matches('/').to_owned(), version)
        }));
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of the given files.
    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = Tree::recorded(directory.path());
        (directory, tree)
    }

    #[test]
    fn a_reading_says_what_is_wrong_with_it() {
        let (_directory, tree) = tree(&[("/proc/a", "many\n"), ("/proc/b", "7\n"), ("/proc/c", "1 2\t3\n")]);
        assert_eq!(tree.number("/proc/b"), Ok(7));
        assert_eq!(tree.numbers("/proc/c"), Ok([1, 2, 3]));
        assert_eq!(tree.number("/proc/a").unwrap_err().to_string(), "/proc/a: no number in it");
        assert!(tree.numbers::<4>("/proc/c").is_err());
        let absent = tree.number("/proc/b/d").unwrap_err();
        assert!(absent.is_absent(), "{absent}");
        assert_eq!(tree.text("/proc/x").unwrap_err().to_string(), "/proc/x: no such file");
    }

    #[test]
    fn lines_of_meminfo_are_found_by_their_whole_name() {
        let (_directory, tree) = tree(&[("/proc/meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n")]);
        assert_eq!(tree.meminfo_bytes("MemTotal"), Ok(2 << 20));
        assert!(tree.meminfo_bytes("Mem").is_err());
        assert!(tree.meminfo_bytes("MemAvailable").is_err());
    }

    #[test]
    fn limits_of_all_groups_above_count() {
        let paths = |groups, controller| -> Vec<String> {
            group_directories(groups, controller).into_iter().map(|(directory, _)| directory).collect()
        };
        assert_eq!(
            paths("0::/system.slice/tcbchat.service\n", Controller::Memory),
            ["/sys/fs/cgroup/system.slice/tcbchat.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"]
        );
        let hybrid = "5:cpu,memory:/box\n2:cpuset:/\n3:pids:/\n";
        assert_eq!(paths(hybrid, Controller::Memory), ["/sys/fs/cgroup/memory/box", "/sys/fs/cgroup/memory"]);
        assert_eq!(paths(hybrid, Controller::Pids), ["/sys/fs/cgroup/pids"]);
    }

    #[test]
    fn a_group_without_a_limit_is_none() {
        let (_directory, tree) = tree(&[
            ("/proc/self/cgroup", "4:memory:/a/b\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1024\n"),
            ("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "max\n"),
        ]);
        let limits = tree.group_limits(Controller::Memory).unwrap();
        assert_eq!(limits.len(), 1, "{limits:?}");
        assert_eq!((limits[0].limit, limits[0].used), (4096, Some(1024)));
        assert_eq!(tree.group_limits(Controller::Pids), Ok(Vec::new()));
    }

    #[test]
    fn a_name_of_a_group_does_not_lead_out_of_the_tree() {
        let (_directory, tree) = tree(&[("/proc/self/cgroup", "0::/../../../../etc\n")]);
        assert!(tree.text("/../../etc/passwd").unwrap_err().is_absent());
        assert_eq!(tree.group_limits(Controller::Memory), Ok(Vec::new()));
    }
}
