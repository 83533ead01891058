//! `bench large-room` as a user runs it, small.

mod support;

use serde_json::Value;
use support::{bench, read};

/// A part of `bench large-room`: its rounds, of which there is one for each side.
fn large_room(part: &str, options: &str) -> (Value, String) {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("json");
    let line = format!("large-room --rounds 1 --parts {part} {options}");
    let output = bench(20_000, &line, &[("--json", &json)]);
    assert!(output.status.success(), "{output:?}");
    let report = read(&json);
    assert_eq!(report["schema"], "tcbchat.large-room/1");
    let of = |part: &str| report[part].as_array().unwrap().len();
    let rounds = ["joins", "turnover", "stalled", "resets"].map(|other| (other, of(other)));
    assert!(rounds.iter().all(|(other, count)| *count == if *other == part { 2 } else { 0 }), "{report}");
    (report, String::from_utf8(output.stdout).unwrap())
}

#[test]
fn joins_are_measured_in_a_quiet_room_and_in_one_that_is_published_to() {
    let (report, said) = large_room("joins", "--members 100 --at-once 50 --duration 0.5");
    let rounds = report["joins"].as_array().unwrap();
    let number = |round: usize, name: &str| rounds[round][name].as_f64();
    for round in [0, 1] {
        assert_eq!(number(round, "joins"), Some(51.0));
        let [p50, p99, most] =
            ["join_p50_ms", "join_p99_ms", "join_max_ms"].map(|name| number(round, name).unwrap());
        assert!(0.0 < p50 && p50 <= p99 && p99 <= most, "{report}");
        assert!(number(round, "at_once_ms").unwrap() > 0.0, "{report}");
    }
    assert_eq!(number(0, "messages"), Some(0.0));
    // A second before the first join, half a second of them, and one until the last has left.
    assert!(number(1, "messages").unwrap() >= 50.0, "{report}");
    assert!(said.contains("\n| 20 messages a second | 101 | "), "{said}");
}

#[test]
fn a_delivery_is_measured_beside_turnover_and_beside_resets() {
    for (part, options) in [("turnover", "--large-members 100"), ("resets", "--members 100")] {
        let (report, _) = large_room(part, &format!("{options} --duration 2"));
        let rounds = report[part].as_array().unwrap();
        let done: Vec<u64> = rounds.iter().map(|round| round["done"].as_u64().unwrap()).collect();
        let deliveries = |round: usize| rounds[round]["numbers"]["deliveries"].as_u64().unwrap();
        assert_eq!(done[0], 0, "{report}");
        if part == "turnover" {
            // A hundred a second, for the two seconds of the chat at least.
            assert!(done[1] >= 200, "{report}");
            assert!(deliveries(1) > deliveries(0), "guests are members, too: {report}");
        } else {
            assert_eq!(done[1], 20, "{report}");
            assert!(deliveries(1) < deliveries(0), "who has gone gets nothing more: {report}");
        }
        let goals = report["goals"].as_array().unwrap();
        let is_measured =
            |goal: &&Value| goal["measured"]["median"].as_f64().is_some_and(|ratio| ratio > 0.0);
        assert_eq!(goals.iter().filter(is_measured).count(), 1, "{report}");
    }
}

#[test]
fn members_who_do_not_read_have_everything_when_they_read_again() {
    // More than the kernel takes for them: five messages of 4 KiB a second.
    let (report, said) = large_room("stalled", "--stalled-members 20 --stall 24");
    let rounds = report["stalled"].as_array().unwrap();
    let number = |round: usize, name: &str| rounds[round][name].as_f64();
    assert_eq!([0, 1].map(|round| number(round, "messages")), [Some(121.0); 2]);
    assert!(number(1, "log_bytes").unwrap() > 20_000.0, "nobody was stalled: {report}");
    assert!(number(1, "log_bytes") > number(0, "log_bytes"), "{report}");
    assert!(number(1, "catch_up_s").unwrap() > 0.0 && number(0, "catch_up_s").is_none(), "{report}");
    assert!(said.contains("\n| stalled | 121 | "), "{said}");
}
