//! The forecast against recorded machines: the lowest wall, the numbers, and commands that do what they say.

use std::path::{Path, PathBuf};

use super::*;
use crate::config::procfs::Tree;
use crate::config::settings::Settings;
use crate::walls::catalogue;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/procfs").join(name)
}

fn snapshot(name: &str) -> Snapshot {
    Snapshot::read(&Tree::recorded(root(name)))
}

fn config() -> Config {
    Config::from(&Settings::new())
}

fn forecast(name: &str, connections: u32) -> Forecast {
    Forecast::new(&snapshot(name), &config(), connections)
}

fn commands(forecast: &Forecast, id: &str) -> Vec<String> {
    let fix = forecast.wall(id).and_then(|wall| wall.fix.as_ref());
    fix.map(|fix| fix.now.clone()).unwrap_or_default()
}

#[test]
fn a_million_on_tables_of_twenty_thousand_names_the_descriptors_and_the_servers_own_answer() {
    let forecast = forecast("container-v1", 1_000_000);
    assert_eq!(forecast.lowest, Bound { connections: 20_000 - 256, wall: "fd-table" });
    let first = &forecast.walls[0];
    assert_eq!((first.id, first.verdict, first.fix.as_ref()), ("fd-table", Verdict::Passed, None));
    assert!(first.effect.contains("53 reactors with a private table each"), "{}", first.effect);
    assert_eq!(first.headroom(), Some(20_000 - 1_000_256));
    assert!(forecast.fits(), "{:?}", forecast.in_the_way());
    assert_eq!(forecast.maximum.wall, "file-max");
    assert!((2_400_000..2_466_183 - 2_208).contains(&forecast.maximum.connections), "{:?}", forecast.maximum);
    assert!(forecast.walls.iter().all(|wall| wall.kind == Kind::Behaviour || wall.fix.is_none()));
}

#[test]
fn the_same_without_private_tables_needs_a_higher_limit() {
    let mut snapshot = snapshot("container-v1");
    snapshot.private_tables = Some(false);
    let forecast = Forecast::new(&snapshot, &config(), 1_000_000);
    assert_eq!(forecast.in_the_way().map(|wall| wall.id), Some("fd-table"));
    assert_eq!(forecast.maximum, Bound { connections: 20_000 - 256, wall: "fd-table" });
    assert_eq!(commands(&forecast, "fd-table"), ["prlimit --pid $$ --nofile=1000256:1000256"]);
}

#[test]
fn reactors_that_were_asked_for_are_what_moves() {
    let mut config = config();
    config.reactors.count = 2;
    let forecast = Forecast::new(&snapshot("container-v1"), &config, 50_000);
    assert_eq!(commands(&forecast, "fd-table"), ["tcbchat serve --reactors 3"]);
    assert_eq!(forecast.maximum.wall, "fd-table");
}

#[test]
fn a_small_vm_stops_at_its_firewall() {
    let forecast = forecast("small-vm", 50_000);
    assert_eq!(forecast.lowest, Bound { connections: 3840, wall: "fd-table" });
    assert_eq!(forecast.maximum, Bound { connections: 7680 - 61, wall: "conntrack" });
    assert_eq!(forecast.in_the_way().map(|wall| wall.id), Some("conntrack"));
    // 50,061, rounded up.
    assert_eq!(commands(&forecast, "conntrack"), ["sysctl -w net.netfilter.nf_conntrack_max=50176"]);
    let fix = forecast.wall("conntrack").and_then(|wall| wall.fix.as_ref()).unwrap();
    assert_eq!(fix.stay[0].file, "/etc/sysctl.d/60-tcbchat.conf");
    assert_eq!(fix.stay[0].lines, ["net.netfilter.nf_conntrack_max = 50176"]);
    // The backlog is felt; the other settings are not touched.
    assert_eq!(commands(&forecast, "somaxconn"), ["sysctl -w net.core.somaxconn=4096"]);
    let moved: Vec<_> = forecast.walls.iter().filter(|wall| wall.fix.is_some()).map(|wall| wall.id).collect();
    assert_eq!(moved, ["conntrack", "tcp-mem", "somaxconn"]);
}

#[test]
fn reserved_ports_take_exactly_their_number() {
    let forecast = forecast("small-vm", 1_000);
    assert_eq!(forecast.wall("reserved-ports").and_then(|wall| wall.limit), Some(101));
    assert_eq!(forecast.wall("user-ports").and_then(|wall| wall.limit), Some(28_232 - 101));
}

#[test]
fn a_container_stops_at_its_memory() {
    let forecast = forecast("container-v2", 200_000);
    // 512 MiB less 20 in use and four reactors' buffers, at 4,096 + 512 bytes each.
    let fixed = 4 * (64 * 1024 + 1024 * 1024);
    let expected = ((512_u64 << 20) - (20 << 20) - fixed) / 4608;
    assert_eq!(forecast.maximum, Bound { connections: expected, wall: "cgroup-memory" });
    assert_eq!(forecast.lowest, forecast.maximum);
    let command = &commands(&forecast, "cgroup-memory")[0];
    assert!(command.starts_with("docker update --memory="), "{command}");
    assert_eq!(forecast.memory.kernel_bytes, 200_000 * 4096);
    assert!(!forecast.memory.is_kernel_read);
}

#[test]
fn a_large_host_has_room_for_a_million_and_is_left_alone() {
    let forecast = forecast("host-64-cores", 1_000_000);
    assert!(forecast.fits());
    assert_eq!(forecast.walls[0].id, "fd-table");
    assert!(forecast.walls.iter().all(|wall| wall.fix.is_none()), "never raise everything");
    assert_eq!(forecast.maximum, Bound { connections: 16_777_214, wall: "tcb-capacity" });
    // A queue that is full at this moment is told.
    assert!(forecast.wall("conntrack").is_some_and(|wall| wall.effect.contains("not loaded")));
}

#[test]
fn a_service_is_moved_by_its_manager() {
    let mut snapshot = snapshot("host-64-cores");
    let group = &mut snapshot.group_pids.as_mut().unwrap()[0];
    (group.limit, group.used) = (70, Some(69));
    let forecast = Forecast::new(&snapshot, &config(), 1_000_000);
    assert_eq!(forecast.in_the_way().map(|wall| wall.id), Some("cgroup-pids"));
    assert_eq!(
        commands(&forecast, "cgroup-pids"),
        ["systemctl set-property --runtime tcbchat.service TasksMax=1024"]
    );
}

#[test]
fn the_configured_capacity_is_a_wall() {
    let mut config = config();
    config.tcb.limits.capacity = 1500;
    let forecast = Forecast::new(&snapshot("host-64-cores"), &config, 2000);
    assert_eq!(forecast.maximum, Bound { connections: 1500, wall: "tcb-capacity" });
    assert_eq!(commands(&forecast, "tcb-capacity"), ["tcbchat serve --capacity 2000"]);
    assert_eq!(connections_configured(&snapshot("host-64-cores"), &config), 1500);
}

#[test]
fn a_firewall_that_tracks_nothing_is_no_wall() {
    let mut snapshot = snapshot("small-vm");
    snapshot.is_tracking = Some(false);
    let forecast = Forecast::new(&snapshot, &config(), 50_000);
    assert_eq!(forecast.wall("conntrack").map(|wall| wall.verdict), Some(Verdict::Fits));
    assert!(forecast.fits(), "{:?}", forecast.in_the_way());
}

#[test]
fn garbage_stops_nothing_and_says_so() {
    let forecast = forecast("garbage", 1_000_000);
    assert!(forecast.fits());
    assert_eq!(forecast.wall("fd-table").map(|wall| wall.verdict), Some(Verdict::Unreadable));
    assert_eq!(forecast.lowest.wall, "tcb-capacity");
}

/// The maximum is the border: it fits, and one more does not.
#[test]
fn the_maximum_fits_and_the_next_one_does_not() {
    for name in ["small-vm", "container-v2", "container-v1"] {
        let most = forecast(name, 1).maximum;
        let at = u32::try_from(most.connections).unwrap();
        assert!(forecast(name, at).fits(), "{name}: {at}");
        let next = forecast(name, at + 1);
        assert_eq!(next.in_the_way().map(|wall| wall.id), Some(most.wall), "{name}");
    }
}

/// Carries out every command that sets a value of the kernel, on a copy of the tree, until nothing is in the
/// way but what no such command moves.
#[test]
fn the_commands_do_what_they_say() {
    for (name, connections) in [("small-vm", 100_000), ("container-v1", 4_000_000)] {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&root(name), copy.path());
        let tree = Tree::recorded(copy.path());
        let before = Forecast::new(&Snapshot::read(&tree), &config(), connections);
        let mut moved = Vec::new();
        for wall in &before.walls {
            for command in wall.fix.iter().flat_map(|fix| &fix.now) {
                let Some((key, value)) =
                    command.strip_prefix("sysctl -w ").and_then(|set| set.split_once('='))
                else {
                    continue;
                };
                set(copy.path(), key, value.trim_matches('"'));
                moved.push(wall.id);
            }
        }
        assert!(!moved.is_empty(), "{name}");
        let after = Forecast::new(&Snapshot::read(&tree), &config(), connections);
        for id in moved {
            let wall = after.wall(id).unwrap();
            assert!(
                matches!(wall.verdict, Verdict::Fits | Verdict::Tight | Verdict::Passed),
                "{name}: {wall:?}"
            );
            assert_eq!(wall.fix, None, "{name}: {id}");
        }
    }
}

/// Sets a value as the kernel would, where it shows it in two files, in both.
fn set(root: &Path, key: &str, value: &str) {
    let path = root.join("proc/sys").join(key.replace('.', "/"));
    assert!(path.is_file(), "{key} is no value of the kernel");
    std::fs::write(path, format!("{value}\n")).unwrap();
    if key == "fs.file-max" {
        let files = root.join("proc/sys/fs/file-nr");
        let text = std::fs::read_to_string(&files).unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        std::fs::write(&files, format!("{}\t{}\t{value}\n", words[0], words[1])).unwrap();
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_row_of_the_catalogue_has_a_wall_and_every_wall_a_row() {
    let forecast = forecast("host-64-cores", 1000);
    for row in catalogue::ROWS {
        assert!(forecast.walls.iter().any(|wall| wall.row == row.id), "{}", row.id);
    }
    for (at, wall) in forecast.walls.iter().enumerate() {
        assert!(catalogue::row(wall.row).is_some(), "{}", wall.id);
        assert!(!wall.effect.is_empty(), "{}", wall.id);
        assert!(forecast.walls[..at].iter().all(|other| other.id != wall.id), "{}", wall.id);
    }
    for watched in crate::walls::watch::WATCHED {
        assert_eq!(
            forecast.wall(watched.wall).map(|wall| wall.row),
            Some(watched.row),
            "{}",
            watched.counter
        );
    }
}

#[test]
fn numbers_are_grouped_by_thousands() {
    for (number, text) in [(0_i64, "0"), (999, "999"), (1000, "1,000"), (-980_256, "-980,256")] {
        assert_eq!(Grouped(number).to_string(), text);
    }
    assert_eq!(Grouped(u64::MAX).to_string(), "18,446,744,073,709,551,615");
}
