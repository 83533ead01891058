//! What people read: the page fits its width, and says what matters first.

use std::path::Path;

use super::*;
use crate::config::Config;
use crate::config::procfs::Tree;
use crate::config::settings::Settings;
use crate::walls::forecast::Question;
use crate::walls::probe::Counters;

fn page(name: &str, connections: u32, watch: Option<&Watch>) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/procfs").join(name);
    let snapshot = Snapshot::read(&Tree::recorded(root));
    let config = Config::from(&Settings::new());
    let question =
        Question { snapshot: &snapshot, config: &config, running: None, connections: Some(connections) };
    text(&Examination { snapshot: &snapshot, forecast: &Forecast::new(&question), running: None, watch })
}

#[test]
fn a_page_is_a_hundred_columns_wide() {
    for name in ["small-vm", "host-64-cores", "container-v2", "container-v1", "garbage"] {
        for connections in [1, 1500, 1_000_000, CONNECTIONS_MAX] {
            let page = page(name, connections, None);
            for line in page.lines() {
                let is_command = line.starts_with("      ") || line.contains("to make it stay");
                assert!(line.chars().count() <= WIDTH || is_command, "{name}: {line}");
            }
        }
    }
}

#[test]
fn the_answer_comes_first() {
    let page = page("container-v1", 1_000_000, None);
    let head: Vec<&str> = page.lines().take(6).collect();
    assert!(head[0].starts_with("Maximum         38,"), "{page}");
    assert!(page.contains("connections: so many does serve take here with this configuration;"), "{page}");
    assert!(page.contains("Possible        2,4"), "{page}");
    assert!(page.contains("tcbchat serve --capacity 24"), "{page}");
    assert!(page.contains("Lowest wall     RLIMIT_NOFILE, 19,744 connections; this server"), "{page}");
    assert!(page.contains("1,000,000 (asked for): they do not fit: tcb.capacity stops at 38,"), "{page}");
    assert!(page.contains("\n                tcbchat serve --capacity 1000000\n"), "{page}");
}

#[test]
fn what_cannot_be_read_is_said() {
    let page = page("garbage", 1000, None);
    assert!(
        page.starts_with("Maximum         0 connections: serve does not start here: cannot read"),
        "{page}"
    );
    assert!(page.contains("\n                mount -t proc proc /proc\n"), "{page}");
    assert!(page.contains("  /proc/sys/fs/nr_open: no number in it"), "{page}");
}

#[test]
fn a_wall_that_is_hit_is_named_with_its_rate() {
    let counters = |overflows| Counters::from([("ListenOverflows".to_owned(), overflows)]);
    let unseen = || Server::Unseen { why: "nobody listens".into() };
    let page_of =
        |after| page("small-vm", 1000, Some(&Watch::new(&counters(5), &counters(after), 5.0, unseen())));
    let hit = page_of(1005);
    assert!(hit.contains("Being hit right now: backlog"), "{hit}");
    assert!(hit.contains("+1,000  200.0/s, backlog: a complete connection"), "{hit}");
    let calm = page_of(5);
    assert!(calm.contains("None of 1 counters of the kernel rose."), "{calm}");
    assert!(calm.contains("Not seen: what a server refuses, because nobody listens."), "{calm}");
    assert!(calm.contains("Never seen from here: limits elsewhere"), "{calm}");
}

#[test]
fn the_servers_warning_is_one_line_with_the_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/procfs/small-vm");
    let snapshot = Snapshot::read(&Tree::recorded(root));
    let warning_of = |capacity| {
        let mut config = Config::from(&Settings::new());
        config.tcb.limits.capacity = capacity;
        warning(&Forecast::new(&Question {
            snapshot: &snapshot,
            config: &config,
            running: None,
            connections: None,
        }))
    };
    assert_eq!(
        warning_of(50_000).as_deref(),
        Some(
            "capacity 50000 is above the lowest wall: nf_conntrack_max stops at 7619 connections; sysctl -w \
             net.netfilter.nf_conntrack_max=50176 (tcbchat doctor says more)"
        )
    );
    assert_eq!(warning_of(3000), None);
}
