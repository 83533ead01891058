//! The probe against recorded machines, and against files that hold anything at all.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::procfs::Why;

fn recorded(name: &str) -> Snapshot {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/procfs").join(name);
    Snapshot::read(&Tree::recorded(root))
}

#[test]
fn a_small_vm_is_read() {
    let vm = recorded("small-vm");
    assert_eq!(
        vm.limits,
        Ok(ProcessLimits {
            files_soft: Some(1024),
            files_hard: Some(4096),
            threads_soft: Some(3842),
            address_space_soft: None,
            data_soft: None,
        })
    );
    assert_eq!(vm.machine(), Ok(Machine::new(1, 4096, 1_004_584 * 1024)));
    assert_eq!(vm.conntrack, Ok(Used { limit: 7680, used: 61 }));
    assert_eq!(vm.is_tracking, Some(true));
    assert_eq!(vm.ipv4.reserved_ports, Ok(vec![33_000..=33_000, 40_000..=40_099]));
    assert_eq!(vm.group_memory, Ok(vec![]), "all of its groups are unlimited");
    assert_eq!(vm.group_pids.as_ref().unwrap()[0].limit, 2536);
    let counters = vm.counters.as_ref().unwrap();
    assert_eq!(counters["ListenOverflows"], 12);
    assert_eq!(counters["CurrEstab"], 14);
    assert_eq!(counters["nf_conntrack:drop"], 2 * 10, "hexadecimal, summed over the cores");
    assert_eq!(counters["memory.events:max"], 0, "failcnt of version 1");
    let listeners = vm.listeners.as_ref().unwrap();
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1:8080", "0.0.0.0:22", "[::]:80"], "connections are no listeners");
    assert_eq!(listeners[2].queued, 3);
    // Only root may read the sizes, and old kernels do not tell the size of their table.
    let unreadable: Vec<_> = vm.unreadable().iter().map(|error| error.path.as_str()).collect();
    assert_eq!(unreadable, ["/proc/slabinfo"]);
    assert_eq!(vm.kernel_bytes_each(), (4096, false));
}

#[test]
fn a_host_of_64_cores_is_read() {
    let host = recorded("host-64-cores");
    assert_eq!(host.cores, Ok(64));
    assert_eq!(host.machine().unwrap().fd_limit, 1_048_576);
    assert!(host.conntrack.as_ref().unwrap_err().is_absent());
    assert_eq!(host.kernel_bytes_each(), (2368 + 832 + 192 + 192 + 128, true));
    assert_eq!(host.group_pids.as_ref().unwrap()[0].directory, "/sys/fs/cgroup/system.slice/tcbchat.service");
    assert_eq!(host.sockstat.unwrap().time_wait, 9120);
    assert_eq!(host.threads, Ok(2118));
}

#[test]
fn containers_of_both_versions_are_read() {
    let two = recorded("container-v2");
    let group = &two.group_memory.as_ref().unwrap()[0];
    assert_eq!((group.directory.as_str(), group.limit), ("/sys/fs/cgroup", 512 << 20));
    assert_eq!(group.used, Some(16 << 20), "pages of files are not in use");
    assert_eq!(two.machine().unwrap().memory_bytes, 512 << 20);
    assert_eq!(two.limits.as_ref().unwrap().threads_soft, None);
    assert_eq!(two.ipv4.ehash_entries, Ok(524_288), "the host's table, which a container sees below zero");
    assert_eq!(two.counters.as_ref().unwrap()["memory.events:max"], 3);

    let one = recorded("container-v1");
    let group = &one.group_memory.as_ref().unwrap()[0];
    assert_eq!((group.directory.as_str(), group.limit), ("/sys/fs/cgroup/memory", 16 << 30));
    assert_eq!(group.used, Some(768 << 20));
    assert_eq!(one.group_pids, Ok(vec![]));
}

#[test]
fn garbage_is_unreadable_and_never_zero() {
    let garbage = recorded("garbage");
    for error in garbage.unreadable() {
        assert!(matches!(error.why, Why::Malformed(_)), "{error}");
    }
    assert!(garbage.unreadable().len() > 15, "{:?}", garbage.unreadable());
    assert!(garbage.limits.is_err() && garbage.cores.is_err() && garbage.memory.is_err());
    assert_eq!(garbage.listeners, Ok(vec![]));
    assert_eq!(garbage.group_memory, Ok(vec![]), "a group named .. leads nowhere");
}

#[test]
fn nothing_at_all_is_unreadable() {
    let directory = tempfile::tempdir().unwrap();
    let nothing = Snapshot::read(&Tree::recorded(directory.path()));
    assert!(nothing.unreadable().iter().all(|error| error.is_absent()));
    assert_eq!(nothing.machine_or_default().fd_limit, NR_OPEN_DEFAULT);
}

#[test]
fn this_machine_can_be_read() {
    let live = Snapshot::live();
    for reading in [&live.nr_open, &live.threads_max, &live.somaxconn] {
        assert!(*reading.as_ref().unwrap() > 0);
    }
    assert!(live.limits.is_ok() && live.memory.is_ok() && live.counters.is_ok());
    assert!(live.private_tables.is_some());
    // Of listeners that the kernel was asked for, the maximum is known.
    let told = live.listeners.unwrap();
    assert!(told.iter().all(|listener| listener.queued_max.is_some()), "{told:?}");
}

/// All files that the trees have, without the tree's name.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/procfs");
    let mut files = Vec::new();
    for name in ["small-vm", "host-64-cores", "container-v2", "container-v1"] {
        let tree = root.join(name);
        let mut directories = vec![tree.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    files.push(path.strip_prefix(&tree).unwrap().to_owned());
                }
            }
        }
    }
    files.sort();
    files.dedup();
    files
}

/// Words that the kernel's files are made of, so that generated ones get past the first check.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "TcpExt:",
        "Tcp:",
        "TCP:",
        "ListenDrops",
        "inuse",
        "tw",
        "mem",
        "max",
        "-1",
        "0",
        "1",
        "7",
        "unlimited",
        "18446744073709551615",
        "99999999999999999999",
        "MemTotal:",
        "MemAvailable:",
        "kB",
        "0A",
        "0100007F:1F90",
        "00000000:00000001",
        "0-3",
        "0-4294967295",
        "Cpus_allowed_list:",
        "Max open files",
        "Max processes",
        "0::/a",
        "4:memory,pids:/b",
        "TCP",
        "filp",
        "1/2",
        "drop",
        "65535",
        "inactive_file",
        "\n",
        "\n",
        "\t",
        ":",
        ",",
        "-",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80),
        prop::collection::vec(words, 0..24).prop_map(|words| words.join(" ").into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The forecast and both reports are made, too: no number that can be read may break them.
    #[test]
    fn no_content_of_any_file_panics(contents in prop::collection::vec(content(), 60)) {
        let directory = tempfile::tempdir().unwrap();
        for (file, content) in files().iter().zip(contents.iter().cycle()) {
            let path = directory.path().join(file);
            // A file of one tree may be a directory of another.
            if path.parent().is_some_and(|parent| std::fs::create_dir_all(parent).is_ok()) && !path.is_dir() {
                std::fs::write(path, content).unwrap();
            }
        }
        let snapshot = Snapshot::read(&Tree::recorded(directory.path()));
        let config = crate::config::Config::from(&crate::config::settings::Settings::new());
        let question = crate::walls::forecast::Question {
            snapshot: &snapshot, config: &config, running: None, connections: Some(50_000),
        };
        let forecast = crate::walls::forecast::Forecast::new(&question);
        let examination = crate::walls::report::Examination {
            snapshot: &snapshot,
            forecast: &forecast,
            running: None,
            watch: None,
        };
        prop_assert!(!crate::walls::report::text(&examination).is_empty());
        prop_assert!(!crate::walls::report::json::json(&examination).is_empty());
    }
}
