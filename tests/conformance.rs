//! The Autobahn test suite's cases against `/echo`, driven by `kosoku`.
//!
//! The suite is the judge of the WebSocket layer on a real socket; `permessage-deflate`, which the server
//! does not offer, is what it reports as not implemented (sections 12 and 13).
//!
//! Invariant: every one of the 517 cases has been run, and none has failed.

mod support;

use std::time::Duration;

use serde_json::Value;
use support::{Server, peer};

/// Cases of the suite; fewer in the report would be a run that was cut short.
const CASES: usize = 517;
/// A run takes seconds; section 9 moves 16 MiB messages in small fragments, which debug builds feel.
const TIME_MAX: Duration = Duration::from_secs(400);

#[test]
fn no_autobahn_case_fails_on_one_reactor() {
    run_suite("1");
}

#[test]
fn no_autobahn_case_fails_on_three_reactors() {
    run_suite("3");
}

fn run_suite(reactors: &str) {
    let Some(mut kosoku) = peer::python_program("kosoku") else { return };
    let reports = tempfile::tempdir().expect("a folder for the report");
    let server = Server::start(&["--echo", "--reactors", reactors]);
    // The exit code is of no use: it counts what is not implemented as failed.
    let (status, output) = peer::finish(
        kosoku.args(["--parallelism", "8", "--outdir"]).arg(reports.path()).arg(server.ws_url("/echo")),
        TIME_MAX,
    );
    let index = std::fs::read_to_string(reports.path().join("index.json"))
        .unwrap_or_else(|error| panic!("no report ({error}); kosoku ended with {status}:\n{output}"));
    assert_none_failed(&serde_json::from_str(&index).expect("the report is JSON"));
}

/// The report is an object of agents, each an object of cases.
fn assert_none_failed(index: &Value) {
    let agents = index.as_object().expect("an object of agents");
    let cases: Vec<_> = agents.values().filter_map(Value::as_object).flatten().collect();
    assert_eq!(cases.len(), CASES, "cases in the report");
    let failed: Vec<_> = cases
        .into_iter()
        .filter(|(id, case)| !is_passed(id, case))
        .map(|(id, case)| format!("{id}: {} / close {}", case["behavior"], case["behaviorClose"]))
        .collect();
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

fn is_passed(id: &str, case: &Value) -> bool {
    let of = |key: &str| case[key].as_str().unwrap_or_default();
    let is_compression = id.starts_with("12.") || id.starts_with("13.");
    match of("behavior") {
        "UNIMPLEMENTED" => is_compression,
        "OK" | "NON-STRICT" | "INFORMATIONAL" => matches!(of("behaviorClose"), "OK" | "INFORMATIONAL"),
        _ => false,
    }
}
