//! The walls as a user hits them: `client-sim wall` against the server itself.
//!
//! Those that take long (`LONG`) are left to `client-sim wall --all`. Where a stage needs a privilege that is
//! not there, the test is noted as skipped, and under `CI=true` it fails.

#[path = "../../tests/support/skipped.rs"]
#[allow(dead_code, reason = "this run's list is shown by another target")]
mod skipped;

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// A wall that took its privilege or a program.
const EXIT_SKIPPED: i32 = 4;
/// Walls that wait or hold for longer than a test may.
const LONG: [&str; 2] = ["hash-table", "time-wait-max"];

fn wall(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_client-sim")).arg("wall").args(args).output().unwrap()
}

fn listed() -> Vec<String> {
    let output = wall(&["--list"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect()
}

/// Plays a wall; its entry of the JSON, or `None` when it was skipped.
fn play(id: &str) -> Option<Value> {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("wall.json");
    let output = wall(&[id, "--json", json.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    let entry = report["walls"][0].clone();
    if output.status.code() == Some(EXIT_SKIPPED) {
        skipped::note(format_args!("{id}: {}", entry["played"]["reason"]));
        return None;
    }
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(entry["shown"], true, "{text}");
    Some(entry)
}

/// User bytes of the server for each connection, where the side measured them.
fn bytes_each(side: &Value) -> u64 {
    let facts = side["facts"].as_array().unwrap();
    let fact = facts.iter().find(|fact| fact["name"] == "bytes each").expect("it is measured");
    let text = fact["value"].as_str().unwrap();
    text.split_once(" user").and_then(|(bytes, _)| bytes.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

/// One after the other: two stages on one small machine would slow each other down.
#[test]
fn every_wall_is_hit_and_passed() {
    for id in listed().iter().filter(|id| !LONG.contains(&id.as_str())) {
        let Some(entry) = play(id) else { continue };
        let sides = entry["played"]["sides"].as_array().unwrap();
        assert!(sides.len() >= 2, "{id}: one side shows nothing");
        assert!(!sides[0]["symptoms"].as_array().unwrap().is_empty(), "{id}: no symptom");
        let count = |side: &Value, name: &str| side[name].as_u64().unwrap();
        for side in sides {
            assert_eq!(
                count(side, "admitted") + count(side, "refused"),
                count(side, "asked"),
                "{id}: {side}"
            );
        }
        match id.as_str() {
            "tcb-table" => {
                assert_eq!(count(&sides[0], "admitted"), 1500);
                assert_eq!(count(&sides[1], "admitted"), 50_000);
                // 180 were measured; a structure that grows, or an arena with holes, shows.
                let user = bytes_each(&sides[1]);
                assert!(user <= 240, "an idle session takes {user} bytes of the server");
            }
            "user-ports" => assert_eq!(count(&sides[0], "admitted"), 3977),
            _ => {}
        }
    }
}

#[test]
fn the_documentation_has_every_wall_and_no_other() {
    let readme = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let section = text.split_once("## The walls").expect("a section").1;
    let section = section.split("\n## ").next().unwrap();
    let documented: Vec<String> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(documented, listed());
}

#[test]
fn without_the_privilege_a_wall_is_skipped_with_a_code_of_its_own() {
    // In a user namespace that may have no further ones, nobody is privileged.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-sys_admin \
                  --inh-caps=-sys_admin --ambient-caps=-all \"$0\" wall reserved-ports --server /bin/true";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script, env!("CARGO_BIN_EXE_client-sim")])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.code() == Some(1) && text.is_empty() {
        return skipped::note("no user namespace to be unprivileged in");
    }
    assert_eq!(output.status.code(), Some(EXIT_SKIPPED), "{output:?}");
    assert!(text.contains("SKIPPED") && text.contains("root"), "{text}");
}

#[test]
fn a_wall_that_does_not_exist_is_a_usage_error() {
    assert_eq!(wall(&["berlin"]).status.code(), Some(2));
    assert_eq!(wall(&[]).status.code(), Some(2));
    assert_eq!(wall(&["nat", "--all"]).status.code(), Some(2));
}
