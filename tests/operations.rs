//! What an operator reads and installs, compared with the code: the tables of `docs/OPERATIONS.md`, the alert
//! rules and the service's configuration.
//!
//! The tables between `<!-- begin: NAME -->` and `<!-- end: NAME -->` are printed by the code. After a change
//! of a key or a metric, `UPDATE_DOCS=1 cargo test --test operations` writes them anew.

#[path = "support/generated.rs"]
mod generated;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tcbchat::config::keys::{self, Key};
use tcbchat::config::settings::Sources;
use tcbchat::metrics::{CATALOGUE, Kind};
use tcbchat::ops::metrics::{PREFIX, SERVER};

/// Bounds that refuse nothing, each with what it does instead.
const NO_REFUSAL: &[(&str, &str)] = &[
    ("websocket.close_timeout_ms", "ends a connection that is closing already"),
    ("stomp.heart_beat_max_ms", "is agreed on with the client"),
    ("keepalive.user_timeout_ms", "is counted as dead_peers_total, mechanism tcp_user_timeout"),
    ("outbound.kernel_unsent_bytes_max", "makes bytes wait here and not in the kernel"),
    ("buffers.reactor_bytes_kept_max", "gives memory back"),
    ("rooms.flush_delay_us", "delays, and refuses nothing"),
    ("rooms.prefetch_max", "makes a message wait for an ACK"),
    ("history.page_bytes_max", "sends the rest later"),
    ("turn.accepts_max", "puts work off to the next turn"),
    ("turn.read_bytes_max", "puts work off to the next turn"),
    ("turn.timers_max", "puts work off to the next turn"),
    ("turn.farewells_max", "puts work off to the next turn"),
    ("turn.room_members_max", "puts work off to the next turn"),
    ("turn.members_max", "puts work off to the next turn"),
    ("tcb.time_wait_max", "is counted as tcb_time_wait_total, event overflowed"),
    ("log.queue_bytes_max", "is counted as log_lines_lost_total"),
    ("shutdown.timeout_ms", "ends the process"),
    ("api.connections_max", "is counted as api_refused_total, reason connections"),
    ("api.requests_max", "is counted as api_refused_total, reason requests"),
    ("api.request_timeout_ms", "is counted as api_refused_total, reason timeout"),
    ("api.body_bytes_max", "is counted as api_refused_total, reason body"),
    ("api.batch_messages_max", "is counted as api_refused_total, reason batch"),
    ("api.page_entries_max", "is counted as api_refused_total, reason page"),
    ("api.idempotency_keys_max", "is counted as api_refused_total, reason keys"),
    ("api.bans_max", "is counted as api_refused_total, reason bans"),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compare(name: &str, expected: &str) {
    generated::compare("operations", "OPERATIONS.md", name, &format!("\n{}\n\n", expected.trim()));
}

/// All parts in one test, because each may write the same file.
#[test]
fn the_tables_of_the_documentation_are_those_of_the_code() {
    compare("configuration", &configuration());
    compare("refusals", &refusals());
    compare("metrics", &metrics());
}

fn configuration() -> String {
    let mut text = String::new();
    for (section, about) in keys::SECTIONS {
        write!(text, "### `[{section}]`\n\n{about}\n\n").unwrap();
        text.push_str("| key | default | allowed | meaning |\n|---|---|---|---|\n");
        for key in keys::catalogue().iter().filter(|key| key.section == *section) {
            let default = key.default().map_or("unset".into(), |value| format!("`{value}`"));
            let Key { name, doc, .. } = key;
            let allowed = key.allowed().replace('"', "`");
            writeln!(text, "| `{name}` | {default} | {allowed} | {doc} |").unwrap();
        }
        text.push('\n');
    }
    text
}

fn refusals() -> String {
    let mut text = String::from("| bounds | counter | what happens |\n|---|---|---|\n");
    for metric in CATALOGUE.iter().filter(|metric| !metric.bounds.is_empty()) {
        let bounds: Vec<_> = metric.bounds.iter().map(|bound| format!("`{bound}`")).collect();
        writeln!(text, "| {} | `{PREFIX}{}` | {} |", bounds.join(", "), metric.name, metric.help).unwrap();
    }
    text
}

fn metrics() -> String {
    let kind = |kind| match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let mut text = String::from("| name | kind | label | meaning |\n|---|---|---|---|\n");
    for family in CATALOGUE.chunk_by(|one, next| one.name == next.name) {
        let metric = &family[0];
        let (name, kind) = (metric.name, kind(metric.kind));
        let label = metric.label.map(|(label, _)| format!("`{label}` ")).unwrap_or_default();
        writeln!(text, "| `{PREFIX}{name}` | {kind} | {label}| {} |", metric.help).unwrap();
    }
    for metric in SERVER {
        let (name, kind) = (metric.name, kind(metric.kind));
        let label = metric.label.map(|label| format!("`{label}` ")).unwrap_or_default();
        writeln!(text, "| `{PREFIX}{name}` | {kind} | {label}| {} |", metric.help).unwrap();
    }
    text
}

#[test]
fn every_bound_that_refuses_has_its_counter() {
    let counted: BTreeSet<&str> = CATALOGUE.iter().flat_map(|metric| metric.bounds).copied().collect();
    for bound in &counted {
        let (section, name) = bound.split_once('.').expect("section.key");
        assert!(keys::find(section, name).is_some(), "{bound} is no key");
    }
    for key in keys::catalogue() {
        let path = key.path();
        let is_bound =
            key.name.ends_with("_max") || key.name.ends_with("timeout_ms") || path == "tcb.capacity";
        let excused = NO_REFUSAL.iter().any(|(bound, _)| *bound == path);
        if is_bound || excused {
            assert_ne!(counted.contains(path.as_str()), excused, "{path}: counted, or excused here");
        }
    }
}

#[test]
fn alert_rules_use_metrics_that_exist_and_miss_no_refusal() {
    let rules = read(&root().join("deploy/prometheus/tcbchat-alerts.yml"));
    let expressions: String =
        rules.lines().filter(|line| line.trim_start().starts_with("expr:")).collect::<Vec<_>>().join("\n");
    let used: BTreeSet<&str> = expressions
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter_map(|word| word.strip_prefix(PREFIX))
        .collect();
    let known: BTreeSet<&str> =
        CATALOGUE.iter().map(|metric| metric.name).chain(SERVER.iter().map(|metric| metric.name)).collect();
    assert_eq!(used.difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new(), "no such metrics");
    for metric in CATALOGUE.iter().filter(|metric| !metric.bounds.is_empty()) {
        assert!(used.contains(metric.name), "no alert for {}", metric.name);
    }
}

#[test]
fn the_services_configuration_is_valid() {
    let file = Some(root().join("deploy/tcbchat.toml"));
    tcbchat::config::load(&Sources { file, ..Sources::default() }).unwrap();
}
