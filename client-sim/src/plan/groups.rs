//! What the control groups of this process leave it: memory, and threads.
//!
//! A limit of any group above counts as well as the own one's, in both versions of control groups (version 1 has a
//! hierarchy for each controller, version 2 one for all). A group without a limit is passed over, and so is a file that
//! cannot be read: refusing a run for a missing file would be worse than to try it.
//!
//! Invariant: what is left is never more than any of the limits.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Version 1 writes "no limit" as the largest number of pages, in bytes. Anything near it is no limit.
const UNLIMITED: u64 = 1 << 62;

/// What the tightest group has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Room {
    /// The limit.
    pub(super) limit: u64,
    /// How much of it is left.
    pub(super) left: u64,
    /// The file with its limit.
    pub(super) file: PathBuf,
}

/// What is left of the memory, in bytes. Pages of files that the kernel can drop are left, too.
pub(super) fn memory(root: &Path) -> Option<Room> {
    tightest(root, "memory", |group, is_v1| {
        let names = if is_v1 {
            ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"]
        } else {
            ["memory.max", "memory.current", "inactive_file"]
        };
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let droppable = stat.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == names[2]).then(|| value.trim().parse::<u64>().ok())?
        });
        let used = number(&group.join(names[1]))?.saturating_sub(droppable.unwrap_or(0));
        Some((group.join(names[0]), used))
    })
}

/// How many more threads may be started.
pub(super) fn threads(root: &Path) -> Option<Room> {
    tightest(root, "pids", |group, _| Some((group.join("pids.max"), number(&group.join("pids.current"))?)))
}

/// The least that any group has left; `of` gives the file of a group's limit, and what is used of it.
fn tightest(
    root: &Path,
    controller: &str,
    of: impl Fn(&Path, bool) -> Option<(PathBuf, u64)>,
) -> Option<Room> {
    let text = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let rooms = directories(root, &text, controller).into_iter().filter_map(|(group, is_v1)| {
        let (file, used) = of(&group, is_v1)?;
        let limit = number(&file).filter(|limit| *limit < UNLIMITED)?;
        Some(Room { limit, left: limit.saturating_sub(used), file })
    });
    rooms.min_by_key(|room| room.left)
}

/// The groups that a controller may limit, each with whether it is of version 1, from the own one upwards.
fn directories(root: &Path, text: &str, controller: &str) -> Vec<(PathBuf, bool)> {
    let mut directories = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let is_v1 = !controllers.is_empty();
        if is_v1 && !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        let mut base = root.join("sys/fs/cgroup");
        if is_v1 {
            base.push(controller);
        }
        // A name comes from a file; it must not lead out of the hierarchy.
        let group: PathBuf =
            Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        directories.extend(group.ancestors().map(|above| (base.join(above), is_v1)));
    }
    directories
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    #[test]
    fn the_tightest_group_above_counts_and_what_can_be_dropped_is_left() {
        let tree = tree(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "5\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/memory.current", "700\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 300\ninactive_file 400\n"),
        ]);
        let room = memory(tree.path()).unwrap();
        assert_eq!((room.left, room.file), (700, tree.path().join("sys/fs/cgroup/a/memory.max")));
        assert_eq!(threads(tree.path()), None);
    }

    #[test]
    fn both_versions_are_read() {
        let tree = tree(&[
            ("proc/self/cgroup", "8:pids:/\n4:cpu,memory:/box\n0::/\n"),
            ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1024\n"),
            ("sys/fs/cgroup/pids/pids.max", "100\n"),
            ("sys/fs/cgroup/pids/pids.current", "140\n"),
        ]);
        assert_eq!(memory(tree.path()).unwrap().left, 3072);
        assert_eq!(threads(tree.path()).unwrap().left, 0, "more than the limit is used");
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_hierarchy() {
        let tree = tree(&[("proc/self/cgroup", "0::/../../etc\n"), ("etc/memory.max", "1\n")]);
        assert_eq!(memory(tree.path()), None);
    }
}
