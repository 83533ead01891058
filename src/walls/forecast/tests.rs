//! The forecast against recorded machines: the lowest wall, the numbers, and commands that do what they say.

use std::path::{Path, PathBuf};

use super::*;
use crate::config::procfs::{Tree, Version};
use crate::config::settings::Settings;
use crate::walls::catalogue;
use crate::walls::probe::Privileges;
use crate::walls::running::Silence;

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/procfs").join(name)
}

fn snapshot(name: &str) -> Snapshot {
    Snapshot::read(&Tree::recorded(root(name)))
}

fn config() -> Config {
    Config::from(&Settings::new())
}

fn asked(snapshot: &Snapshot, config: &Config, connections: u32) -> Forecast {
    Forecast::new(&Question { snapshot, config, running: None, connections: Some(connections) })
}

/// Of a server that is given the capacity.
fn with_capacity(snapshot: &Snapshot, capacity: u32) -> Forecast {
    let mut config = config();
    config.tcb.limits.capacity = capacity;
    Forecast::new(&Question { snapshot, config: &config, running: None, connections: None })
}

fn forecast(name: &str, connections: u32) -> Forecast {
    with_capacity(&snapshot(name), connections)
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
    assert_eq!(forecast.possible.wall, "file-max");
    assert!(
        (2_400_000..2_466_183 - 2_208).contains(&forecast.possible.connections),
        "{:?}",
        forecast.possible
    );
    assert!(forecast.walls.iter().all(|wall| wall.kind == Kind::Behaviour || wall.fix.is_none()));
}

#[test]
fn the_same_without_private_tables_needs_a_higher_limit() {
    let mut snapshot = snapshot("container-v1");
    snapshot.private_tables = Some(false);
    let forecast = with_capacity(&snapshot, 1_000_000);
    let refusal = forecast.start.as_ref().unwrap_err();
    assert!(refusal.reason.contains("unshare(CLONE_FILES) fails"), "{refusal:?}");
    assert_eq!(forecast.maximum, Bound { connections: 0, wall: "fd-table" });
    assert_eq!(forecast.in_the_way().map(|wall| wall.id), Some("fd-table"));
    assert_eq!(forecast.possible, Bound { connections: 20_000 - 256, wall: "fd-table" });
    assert_eq!(commands(&forecast, "fd-table"), ["prlimit --pid $$ --nofile=1000256:1000256"]);
}

#[test]
fn reactors_that_were_asked_for_are_what_moves() {
    let mut config = config();
    config.reactors.count = 2;
    config.tcb.limits.capacity = 50_000;
    let forecast = asked(&snapshot("container-v1"), &config, 50_000);
    assert_eq!(commands(&forecast, "fd-table"), ["tcbchat serve --reactors 3"]);
    assert_eq!(forecast.possible.wall, "fd-table");
}

#[test]
fn a_small_vm_stops_at_its_firewall() {
    let forecast = forecast("small-vm", 50_000);
    assert_eq!(forecast.lowest, Bound { connections: 3840, wall: "fd-table" });
    assert_eq!(forecast.possible, Bound { connections: 7680 - 61, wall: "conntrack" });
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
    let forecast = forecast("container-v2", 400_000);
    // 85 % of 512 MiB, less 16 in use, the process and what two more reactors of the plan add.
    let plan_reactors = 4_u64;
    let fixed = 2_100 * 1024 + (plan_reactors - 2) * 100 * 1024;
    let each = snapshot("container-v2").group_kernel_bytes_each(Version::V2) + 208;
    let expected = ((512_u64 << 20) / 100 * 85 - (16 << 20) - fixed) / each;
    assert_eq!(forecast.possible, Bound { connections: expected, wall: "cgroup-memory" });
    assert_eq!(forecast.lowest, forecast.possible);
    let command = &commands(&forecast, "cgroup-memory")[0];
    assert!(command.starts_with("docker update --memory="), "{command}");
    assert_eq!(forecast.memory.kernel_bytes, 400_000 * 4096);
    assert!(!forecast.memory.is_kernel_read);
}

#[test]
fn a_large_host_has_room_for_a_million_and_is_left_alone() {
    let forecast = forecast("host-64-cores", 1_000_000);
    assert!(forecast.fits());
    let ids: Vec<_> = forecast.walls.iter().map(|wall| wall.id).take(2).collect();
    assert_eq!(ids, ["tcb-capacity", "fd-table"]);
    assert!(forecast.walls.iter().all(|wall| wall.fix.is_none()), "never raise everything");
    assert_eq!(forecast.possible, Bound { connections: 16_777_214, wall: "tcb-capacity" });
    // A queue that is full at this moment is told.
    assert!(forecast.wall("conntrack").is_some_and(|wall| wall.effect.contains("not loaded")));
}

#[test]
fn a_service_is_moved_by_its_manager() {
    let mut snapshot = snapshot("host-64-cores");
    let group = &mut snapshot.group_pids.as_mut().unwrap()[0];
    (group.limit, group.used) = (70, Some(69));
    let forecast = with_capacity(&snapshot, 1_000_000);
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
    let forecast = asked(&snapshot("host-64-cores"), &config, 2000);
    assert_eq!(forecast.maximum, Bound { connections: 1500, wall: "tcb-capacity" });
    assert_eq!(forecast.possible, Bound { connections: 16_777_214, wall: "tcb-capacity" });
    assert_eq!(commands(&forecast, "tcb-capacity"), ["tcbchat serve --capacity 2000"]);
    assert_eq!(with_capacity(&snapshot("host-64-cores"), 1500).connections, 1500);
}

#[test]
fn a_firewall_that_tracks_nothing_is_no_wall() {
    let mut snapshot = snapshot("small-vm");
    snapshot.is_tracking = Some(false);
    let forecast = with_capacity(&snapshot, 50_000);
    assert_eq!(forecast.wall("conntrack").map(|wall| wall.verdict), Some(Verdict::Fits));
    assert!(forecast.fits(), "{:?}", forecast.in_the_way());
}

/// What `serve` does with the defaults, not what could be had.
#[test]
fn the_maximum_is_where_the_configured_server_stops() {
    let snapshot = snapshot("container-v1");
    let config = config();
    let question = Question { snapshot: &snapshot, config: &config, running: None, connections: None };
    let forecast = Forecast::new(&question);
    let plan = question.start().unwrap();
    assert_eq!(forecast.maximum, Bound { connections: plan.tcb.capacity.into(), wall: "tcb-capacity" });
    assert!(forecast.maximum.connections < 39_000, "two tables: {:?}", forecast.maximum);
    assert!(forecast.possible.connections > 2_400_000, "{:?}", forecast.possible);
    assert!(forecast.fits());
    let many = asked(&snapshot, &config, 1_000_000);
    assert_eq!(many.in_the_way().map(|wall| wall.id), Some("tcb-capacity"));
    assert_eq!(commands(&many, "tcb-capacity"), ["tcbchat serve --capacity 1000000"]);
}

/// A server of two reactors with so many connections, and so many places in TIME_WAIT.
fn running(open: u64, waiting: u64, capacity: u64) -> Running {
    let numbers = [
        ("tcb_entries{state=\"half_open\"}", 1),
        ("tcb_entries{state=\"established\"}", open),
        ("tcb_entries{state=\"closing\"}", 0),
        ("tcb_in_use", open + waiting + 1),
        ("tcb_capacity", capacity),
    ];
    Running {
        pid: 77,
        address: ([127, 0, 0, 1], 8080).into(),
        is_configured: true,
        reactors: 2,
        fd_limit: Some(20_000),
        tables: vec![open + 40],
        numbers: Ok(numbers.map(|(name, value)| (name.to_owned(), value)).into()),
    }
}

#[test]
fn what_a_running_server_holds_is_subtracted() {
    let (snapshot, config) = (snapshot("host-64-cores"), config());
    let of = |running: &Running, connections| {
        Forecast::new(&Question { snapshot: &snapshot, config: &config, running: Some(running), connections })
    };
    // The 1,500 wall, counted in all.
    let waits = of(&running(0, 500, 2000), None);
    assert_eq!(waits.maximum, Bound { connections: 1500, wall: "tcb-capacity" });
    // With 300 connections it is the same in all, and 1,200 on top.
    assert_eq!(of(&running(300, 500, 2000), None).maximum.connections, 1500);
    let more = of(&running(300, 500, 2000), Some(1201));
    assert_eq!((more.maximum.connections, more.fits()), (1200, false));
    assert_eq!(commands(&more, "tcb-capacity"), ["tcbchat serve --capacity 2001"]);
    assert!(of(&running(300, 500, 2000), Some(1200)).fits());
    // Its tables are its own, whatever a new server would get.
    let mut full = running(300, 0, 2000);
    full.fd_limit = Some(350);
    let full = of(&full, Some(100));
    assert_eq!(full.maximum, Bound { connections: 10, wall: "fd-table" });
    assert!(commands(&full, "fd-table")[0].starts_with("prlimit --pid 77 --nofile="));
}

#[test]
fn a_full_server_takes_nobody_more() {
    let (snapshot, config) = (snapshot("host-64-cores"), config());
    let mut full = running(0, 0, 0);
    full.numbers = Err(Silence::Full);
    let question =
        Question { snapshot: &snapshot, config: &config, running: Some(&full), connections: Some(10) };
    assert_eq!(Forecast::new(&question).maximum, Bound { connections: 0, wall: "tcb-capacity" });
}

/// Arrays double, so a limit of the process's memory is met in steps. The steps are those that were measured.
#[test]
fn limits_of_the_process_stop_it_in_steps() {
    let mut snapshot = snapshot("host-64-cores");
    let mut config = config();
    (config.reactors.count, config.tcb.limits.capacity) = (2, 15_000);
    let mut of = |data| {
        snapshot.limits.as_mut().unwrap().data_soft = Some(data);
        let question = Question { snapshot: &snapshot, config: &config, running: None, connections: None };
        Forecast::new(&question)
    };
    let near = |forecast: &Forecast, seen: u64| {
        let error = forecast.maximum.connections.abs_diff(seen) * 100 / seen;
        assert!(forecast.maximum.wall == "data-limit" && error <= 5, "{:?}, not {seen}", forecast.maximum);
    };
    near(&of(9_290_000), 4_166);
    near(&of(9_790_000), 7_991);
    assert_eq!(of(12_000_000).maximum.wall, "tcb-capacity");
    let refusal = of(7_000_000).start.unwrap_err();
    assert!(refusal.reason.contains("RLIMIT_DATA leaves 7000000 bytes"), "{refusal:?}");
}

/// A socket that is accepted is charged since Linux 6.12, and in version 2 of control groups only.
#[test]
fn what_a_group_is_charged_depends_on_the_kernel() {
    let mut snapshot = snapshot("host-64-cores");
    let mut of = |release: &str, version| {
        snapshot.release = Ok(release.to_owned());
        snapshot.group_kernel_bytes_each(version)
    };
    assert_eq!(of("6.1.0-18-amd64", Version::V2), 832 + 192 + 192 + 128 + 138);
    assert_eq!(of("6.12.9", Version::V2), 1_482 + 2_368 + 8);
    assert_eq!(of("6.18.44-fc", Version::V1), 1_482);
    snapshot.measured_bytes_each = Some(2_000);
    assert_eq!(snapshot.group_kernel_bytes_each(Version::V1), 2_000);
}

/// When a peer that vanished is found follows from this server's keys, not from the kernel's defaults.
#[test]
fn the_keep_alive_forecast_is_of_the_servers_own_times() {
    let snapshot = snapshot("host-64-cores");
    let of = |change: &dyn Fn(&mut Config)| {
        let mut config = config();
        change(&mut config);
        let wall = asked(&snapshot, &config, 1).wall("keep-alive").cloned().unwrap();
        (wall.limit, wall.effect)
    };
    let (idle_s, effect) = of(&|_| {});
    assert_eq!(idle_s, Some(120 + 4 * 30));
    assert!(effect.contains("after 924 s or more"), "{effect}");
    let (idle_s, effect) = of(&|config| {
        (config.keepalive.ws_ping_interval_s, config.keepalive.user_timeout_ms) = (40, 60_000);
    });
    assert_eq!(idle_s, Some(40 + 10));
    assert!(effect.contains("given up after 60 s"), "{effect}");
    assert_eq!(of(&|config| config.keepalive.tcp_idle_s = 0).0, None);
}

/// The command for the backlog does nothing to a listener that stands.
#[test]
fn a_listener_that_runs_keeps_its_backlog() {
    let mut snapshot = snapshot("host-64-cores");
    let server = running(0, 0, 100);
    snapshot.listeners = Ok(vec![crate::walls::probe::Listener {
        address: server.address,
        queued: 0,
        queued_max: Some(128),
        inode: None,
    }]);
    let config = config();
    let question =
        Question { snapshot: &snapshot, config: &config, running: Some(&server), connections: None };
    let effect = Forecast::new(&question).wall("somaxconn").unwrap().effect.clone();
    assert!(effect.contains("listens with 128, and keeps that until it is started again"), "{effect}");
}

/// Reactors, the main thread, the one for signals and the log's: not one thread more.
#[test]
fn thread_walls_are_exact() {
    let mut snapshot = snapshot("host-64-cores");
    snapshot.threads_own = 1;
    let mut config = config();
    config.reactors.count = 8;
    let mut starts = |limit, used| {
        let group = &mut snapshot.group_pids.as_mut().unwrap()[0];
        (group.limit, group.used) = (limit, Some(used));
        let question = Question { snapshot: &snapshot, config: &config, running: None, connections: None };
        Forecast::new(&question)
    };
    assert!(starts(21, 11).start.is_ok(), "ten are others', one is the reader's");
    let short = starts(20, 11);
    assert_eq!(short.maximum, Bound { connections: 0, wall: "cgroup-pids" });
    let refusal = short.start.unwrap_err();
    assert_eq!(refusal.reason, "it cannot start its 11 threads: pids limit of the group leaves 10 threads");
    assert!(refusal.fix.is_some());
}

#[test]
fn privileges_pass_what_does_not_apply_to_them() {
    let mut snapshot = snapshot("container-v1");
    snapshot.limits.as_mut().unwrap().threads_soft = Some(1);
    let plain = with_capacity(&snapshot, 1_000);
    assert_eq!(plain.maximum.wall, "nproc");
    snapshot.privileges = Ok(Privileges { is_admin: true, exceeds_threads: true });
    let admin = with_capacity(&snapshot, 4_000_000);
    assert_eq!(admin.wall("nproc").map(|wall| wall.verdict), Some(Verdict::Fits));
    assert_eq!(admin.wall("file-max").map(|wall| wall.verdict), Some(Verdict::Passed));
}

/// What cannot be read is no wall, but a server that cannot read it does not start.
#[test]
fn garbage_starts_nothing_and_says_so() {
    let forecast = forecast("garbage", 1_000_000);
    assert!(!forecast.fits());
    assert_eq!(forecast.maximum, Bound { connections: 0, wall: "nr-open" });
    let refusal = forecast.start.as_ref().unwrap_err();
    assert!(refusal.reason.contains("/proc/sys/fs/nr_open: no number in it"), "{refusal:?}");
    assert_eq!(forecast.in_the_way(), None);
    assert_eq!(forecast.wall("fd-table").map(|wall| wall.verdict), Some(Verdict::Unreadable));
    assert_eq!(forecast.lowest.wall, "tcb-capacity");
}

/// The maximum is the border: it fits, and one more does not.
#[test]
fn the_maximum_fits_and_the_next_one_does_not() {
    for name in ["small-vm", "container-v2", "container-v1"] {
        let most = forecast(name, 1).possible;
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
        let before = with_capacity(&Snapshot::read(&tree), connections);
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
        let after = with_capacity(&Snapshot::read(&tree), connections);
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
