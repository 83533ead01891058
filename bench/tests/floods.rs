//! `bench footprint --logins`, `bench logins`, `bench password-flood` and `bench publish-flood` as a user runs them, small.

mod support;

use serde_json::Value;
use support::{bench, bench_anywhere, read};

/// Runs a measurement that says where it runs: its JSON, and what it has printed.
fn measured(line: &str) -> (Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("json");
    let output = bench(20_000, line, &[("--json", &json)]);
    assert!(output.status.success(), "{output:?}");
    (read(&json), String::from_utf8(output.stdout).unwrap())
}

fn number(round: &Value, name: &str) -> f64 {
    round[name].as_f64().unwrap_or_else(|| panic!("no {name} in {round}"))
}

/// The only round of each side, by the name of the field that tells them apart.
fn sides<'a, const N: usize>(report: &'a Value, field: &str, names: [&str; N]) -> [&'a Value; N] {
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), N, "{report}");
    names.map(|name| rounds.iter().find(|round| round[field] == name).unwrap())
}

fn all_goals_are_measured(report: &Value, count: usize) {
    let goals = report["goals"].as_array().unwrap();
    assert_eq!(goals.len(), count, "{report}");
    assert!(goals.iter().all(|goal| goal["is_reached"].is_boolean()), "{report}");
}

#[test]
fn the_footprint_of_logins_is_measured_beside_open_mode() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("json");
    let output =
        bench_anywhere(20_000, "footprint --logins --connections 300 --hold 0.2", &[("--json", &json)]);
    assert!(output.status.success(), "{output:?}");
    let report = read(&json);
    assert_eq!(report["schema"], "tcbchat.footprint-logins/1");
    let runs = report["runs"].as_array().unwrap();
    let names: Vec<_> = runs.iter().map(|run| run["logins"].as_str().unwrap()).collect();
    assert_eq!(names, ["open", "shared", "own"]);
    assert!(runs.iter().all(|run| number(run, "user_bytes") > 0.0), "{report}");
    all_goals_are_measured(&report, 2);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("\n| a login each | "), "{said}");
}

#[test]
fn each_kind_of_proof_has_its_price() {
    let (report, said) = measured("logins --tokens 40 --passwords 10 --rounds 1");
    assert_eq!(report["schema"], "tcbchat.logins/1");
    let [eddsa, hs256, argon2id] = sides(&report, "proof", ["ed-dsa", "hs256", "argon2id"]);
    assert_eq!([eddsa, hs256, argon2id].map(|round| number(round, "clients")), [40.0, 40.0, 10.0]);
    for round in [eddsa, hs256, argon2id] {
        let [check, server] = ["check_us", "server_us"].map(|name| number(round, name));
        assert!(check > 0.0 && server > 0.0, "{report}");
    }
    // A hashing is made to cost milliseconds.
    assert!(number(argon2id, "check_us") > 1_000.0, "{report}");
    assert!(said.contains("\n| EdDSA | 40 | "), "{said}");
}

#[test]
fn guesses_are_hashed_beside_those_who_bring_tokens() {
    let (report, said) = measured("password-flood --rate 20 --duration 1 --warm-up 0.5 --rounds 1");
    assert_eq!(report["schema"], "tcbchat.password-flood/1");
    let [nothing, flood, of_each] = sides(&report, "beside", ["nothing", "flood", "flood-of-each"]);
    for round in [nothing, flood, of_each] {
        assert_eq!(number(round, "clients"), 20.0);
        let [p50, p99, most] = ["p50_ms", "p99_ms", "max_ms"].map(|name| number(round, name));
        assert!(0.0 < p50 && p50 <= p99 && p99 <= most, "{report}");
    }
    assert_eq!(["guesses", "hashed", "put_off"].map(|name| number(nothing, name)), [0.0; 3]);
    assert!(number(flood, "guesses") >= 20.0 && number(flood, "hashed") > 0.0, "{report}");
    assert!(number(of_each, "guesses") > number(flood, "guesses"), "{report}");
    all_goals_are_measured(&report, 2);
    assert!(said.contains("\n| 20 guesses a second from 50 addresses | 20 | "), "{said}");
}

#[test]
fn a_flooder_is_measured_with_and_without_a_rate() {
    let (report, said) = measured("publish-flood --rooms 5 --rate 50 --members 3 --duration 1 --rounds 1");
    assert_eq!(report["schema"], "tcbchat.publish-flood/1");
    let [nothing, flooder, rated] = sides(&report, "beside", ["nothing", "flooder", "rated-flooder"]);
    for round in [nothing, flooder, rated] {
        let [p50, p99, most] = ["p50_ms", "p99_ms", "max_ms"].map(|name| number(round, name));
        assert!(0.0 < p50 && p50 <= p99 && p99 <= most, "{report}");
        assert_eq!(number(round, "cut_off"), 0.0, "{report}");
    }
    let floods = [nothing, flooder, rated].map(|round| number(round, "flood_per_s"));
    assert!(floods[0] == 0.0 && 0.0 < floods[2] && floods[2] < floods[1], "{report}");
    all_goals_are_measured(&report, 3);
    assert!(said.contains("\n| a flooder | "), "{said}");
}
