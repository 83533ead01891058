//! `bench growth` and `bench reactors` as a user runs them, small: what they measure, and what they refuse.

#[path = "../../tests/support/skipped.rs"]
#[allow(dead_code, reason = "this run's list is shown by another target")]
mod skipped;

mod support;

use std::thread;

use serde_json::Value;
use support::{bench, read};

#[test]
fn growth_measures_each_size_and_the_base_with_as_many_threads() {
    let directory = tempfile::tempdir().unwrap();
    let [json, markdown, svg] = ["json", "md", "svg"].map(|name| directory.path().join(name));
    // In tables of 600 descriptors 600 connections take more threads than 200 do, on both sides.
    let output = bench(
        600,
        "growth --connections 200,600 --base 200 --rounds 1 --duration 0.3 --hold 0.3 --in-flight 4",
        &[("--json", &json), ("--markdown", &markdown), ("--svg", &svg)],
    );
    assert!(output.status.success(), "{output:?}");

    let report = read(&json);
    assert_eq!((&report["schema"], &report["refused"]), (&"tcbchat.growth/1".into(), &Value::Array(vec![])));
    let rows = report["rows"].as_array().unwrap();
    let kinds: Vec<_> = rows
        .iter()
        .map(|row| (row["connections"].as_u64().unwrap(), row["kind"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, [(200, "planned"), (600, "planned"), (600, "same-clients"), (600, "same-threads")]);
    let number = |row: usize, name: &str| rows[row]["rounds"][0][name].as_f64().unwrap();
    for row in 0..rows.len() {
        assert!(number(row, "deliveries") > 0.0 && number(row, "cpu_us_per_delivery") > 0.0, "{report}");
    }
    assert!(number(1, "reactors") > number(0, "reactors"), "{report}");
    assert_eq!(number(2, "reactors"), number(0, "reactors"));
    assert_eq!(number(3, "reactors"), number(1, "reactors"));
    assert_eq!([0, 1, 2, 3].map(|row| number(row, "threads")), [1.0, 2.0, 2.0, 2.0]);
    assert!(rows[1]["to_same_threads"]["median"].as_f64().unwrap() > 0.0);

    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, std::fs::read_to_string(&markdown).unwrap());
    assert!(said.contains("\n| 600 | "), "{said}");
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));
}

#[test]
fn growth_has_a_larger_table_where_the_kernel_s_is_small_for_a_size() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("json");
    let line = "growth --connections 200,300 --base 200 --rounds 1 --duration 0.2 --hold 0.1 --in-flight 2";
    // What is started in the thread has the thread's namespace.
    let output = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            netns::enter_with_connection_buckets(512)?;
            Ok(bench(20_000, line, &[("--json", &json)]))
        });
        thread.join().unwrap()
    });
    let output = match output {
        Ok(output) => output,
        Err(netns::Error::Missing(reason)) => return skipped::note(reason),
        Err(error) => panic!("{error}"),
    };
    assert!(output.status.success(), "{output:?}");
    let report = read(&json);
    let rows: Vec<_> = report["rows"].as_array().unwrap().iter().collect();
    let seen: Vec<_> =
        rows.iter().map(|row| (row["kind"].as_str().unwrap(), row["buckets"].as_u64())).collect();
    let expected = [("planned", 512), ("planned", 512), ("larger-table", 2048), ("same-table", 2048)];
    assert_eq!(seen, expected.map(|(kind, buckets)| (kind, Some(buckets))), "{report}");
    assert!(rows[2]["to_same_table"]["median"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn growth_names_what_does_not_fit_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("json");
    // One message in flight is too few for two threads of clients, and a million too many for the server's tables.
    let output = bench(
        600,
        "growth --connections 200,600,1000000 --base 200 --rounds 2 --duration 0.1 --hold 0.1 --in-flight 1",
        &[("--json", &json)],
    );
    assert!(output.status.success(), "{output:?}");
    let report = read(&json);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!((rows.len(), rows[0]["rounds"].as_array().unwrap().len()), (1, 2));
    let refused = report["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 2, "{report}");
    assert!(refused[0]["reason"].as_str().unwrap().contains("--in-flight 2"), "{report}");
    assert!(
        refused[1]["reason"].as_str().unwrap().contains("tcb.capacity = 1000000 does not fit"),
        "{report}"
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("1,000,000 connections were not tried: "), "{said}");
}

#[test]
fn a_base_that_is_not_measured_is_refused() {
    let output = bench(600, "growth --connections 200,400", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--base 10000"), "{output:?}");
}

#[test]
fn two_reactors_are_measured_against_one() {
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("json");
    let output = bench(20_000, "reactors --rounds 1 --workloads 1x1000-w1", &[("--json", &json)]);
    assert!(output.status.success(), "{output:?}");
    let report = read(&json);
    assert_eq!(report["schema"], "tcbchat.reactors/1");
    let row = &report["rows"][0];
    let reactors = ["one", "two"].map(|side| row[side][0]["reactors"].as_u64().unwrap());
    assert_eq!((row["workload"].as_str().unwrap(), reactors), ("1x1000-w1", [1, 2]));
    assert!(row["ratio"]["median"].as_f64().unwrap() > 0.0, "{report}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("\n| 1x1000-w1 | "));
}
