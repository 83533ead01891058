//! `tcbchat doctor`: the real binary on this machine and on recorded ones, and its documentation.
//!
//! The tables between `<!-- begin: NAME -->` and `<!-- end: NAME -->` of `docs/DOCTOR.md` are printed by the code;
//! `UPDATE_DOCS=1 cargo test --test doctor` writes them anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tcbchat::walls::catalogue::{ROWS, Row};
use tcbchat::walls::forecast::Verdict;
use tcbchat::walls::watch::WATCHED;

#[path = "support/generated.rs"]
mod generated;
mod support;

use support::Server;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tcbchat"))
        .arg("doctor")
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn recorded(name: &str, arguments: &[&str]) -> Output {
    let tree = root().join("tests/data/procfs").join(name).display().to_string();
    doctor(&[&["--root", &tree], arguments].concat())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn this_machine_is_judged() {
    let output = doctor(&["--capacity", "1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Maximum "), "{text}");
    assert!(
        text.contains("\nLowest wall ") && text.contains("1 (the configuration's capacity): they fit."),
        "{text}"
    );

    let report = json(&doctor(&["--capacity", "16777214", "--json"]));
    assert_eq!(report["schema"], "tcbchat.doctor/2");
    let most = report["maximum"]["connections"].as_u64().unwrap();
    assert_eq!(report["fits"].as_bool(), Some(most >= 16_777_214));
    assert!(report["walls"].as_array().unwrap().len() > 20);
}

/// A listening socket of this test is among those that the doctor sees, with the maximum of its queue.
#[test]
fn queues_of_listening_sockets_are_seen() {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listening.local_addr().unwrap().to_string();
    let report = json(&doctor(&["--json"]));
    let listeners = report["listeners"].as_array().unwrap();
    let found = listeners.iter().find(|listener| listener["address"] == address.as_str());
    let found = found.unwrap_or_else(|| panic!("{address} is not in {listeners:?}"));
    assert_eq!(found["queued"], 0);
    assert!(found["queued_max"].as_u64().is_some_and(|most| most > 0), "{found}");
}

#[test]
fn the_exit_code_is_the_answer() {
    assert_eq!(recorded("container-v1", &["--capacity", "1000000"]).status.code(), Some(0));
    // As it is configured, it takes what the cores' tables hold.
    assert_eq!(recorded("container-v1", &["--connections", "1000000"]).status.code(), Some(1));
    assert_eq!(recorded("container-v2", &["--connections", "1000000"]).status.code(), Some(1));
    assert_eq!(doctor(&["--connections", "0"]).status.code(), Some(2));
    assert_eq!(doctor(&["--capacity", "many"]).status.code(), Some(2));
    assert_eq!(doctor(&["--root", "/nowhere"]).status.code(), Some(2));
}

#[test]
fn the_configuration_that_would_be_served_is_judged() {
    let output = recorded("host-64-cores", &["--capacity", "1500", "--connections", "2000", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    assert_eq!(report["maximum"]["wall"], "tcb-capacity");
    assert_eq!(report["maximum"]["connections"], 1500);
    // Without a number of its own, the doctor judges the capacity.
    let report = json(&recorded("host-64-cores", &["--capacity", "1500", "--json"]));
    assert_eq!((report["connections"].as_u64(), report["fits"].as_bool()), (Some(1500), Some(true)));
}

/// A start below the walls warns of nothing, one above them says which.
#[test]
fn the_server_warns_of_a_wall_below_its_capacity() {
    let quiet = Server::start(&["--capacity", "100"]);
    assert!(!quiet.output().contains("lowest wall"), "{}", quiet.output());
    // Some 4,000 connections fit into this, in KiB.
    let warned = Server::start_limited("-d 9500", &["--capacity", "15000", "--reactors", "2"]);
    let output = warned.output();
    assert!(output.contains("capacity 15000 is above the lowest wall: RLIMIT_DATA"), "{output}");
}

/// Connections that a test makes at most to fill a queue.
const CONNECTS_MAX: usize = 400;

/// A queue of two that nobody accepts from overflows while the doctor watches; it names the backlog.
#[test]
fn a_wall_that_is_hit_is_named_while_it_is() {
    let listening = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listening.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listening.listen(1).unwrap();
    let address = listening.local_addr().unwrap();
    let mut watching = Command::new(env!("CARGO_BIN_EXE_tcbchat"))
        .args(["doctor", "--connections", "1", "--watch", "2", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut connecting = Vec::new();
    // Whenever the doctor takes its readings, there are connects in between.
    while watching.try_wait().unwrap().is_none() && connecting.len() < CONNECTS_MAX {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let begun = socket.connect(&address).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(rustix::io::Errno::INPROGRESS.raw_os_error()), "{begun}");
        connecting.push(socket);
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = watching.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let watch = &json(&output)["watch"];
    assert!(watch["hit"].as_array().unwrap().contains(&Value::from("backlog")), "{watch}");
    let counters = watch["counters"].as_array().unwrap();
    let overflows = counters.iter().find(|counter| counter["counter"] == "ListenOverflows").unwrap();
    assert!(overflows["delta"].as_u64().is_some_and(|delta| delta > 0), "{overflows}");
}

/// What the doctor sees of a server in two seconds in which something is done to it again and again.
fn watched(server: &Server, mut act: impl FnMut()) -> Output {
    let mut watching = Command::new(env!("CARGO_BIN_EXE_tcbchat"))
        .args(["doctor", "--watch", "2", "--json", "--pid", &server.pid().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Whenever the doctor takes its readings, something is done in between.
    while watching.try_wait().unwrap().is_none() {
        act();
        std::thread::sleep(Duration::from_millis(20));
    }
    watching.wait_with_output().unwrap()
}

/// A full table, which the kernel knows nothing of: the server is asked.
#[test]
fn the_watch_sees_what_the_server_refuses() {
    let server = Server::start(&["--capacity", "2", "--reactors", "1"]);
    let _held = [server.dial(), server.dial()];
    let output = watched(&server, || drop(server.dial()));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let watch = &json(&output)["watch"];
    assert!(watch["hit"].as_array().unwrap().contains(&Value::from("tcb-table")), "{watch}");
}

/// A limit that was lowered below what is open: nobody is accepted, and nobody answers.
#[test]
fn the_watch_sees_a_table_without_room() {
    let server = Server::start(&["--capacity", "100", "--reactors", "1"]);
    lower(&server, 8);
    let output = watched(&server, || {});
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let watch = &json(&output)["watch"];
    assert!(watch["hit"].as_array().unwrap().contains(&Value::from("connections")), "{watch}");
    assert!(watch["server"]["unseen"].as_str().is_some_and(|why| why.contains("did not answer")), "{watch}");
}

/// Lowers the descriptor limit of a server that runs.
fn lower(server: &Server, descriptors: u64) {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let limit = Rlimit { current: Some(descriptors), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(Pid::from_raw(server.pid() as i32), Resource::Nofile, limit)
        .expect("it is a process of this user");
}

/// A look costs the server nothing, in particular no place in TIME_WAIT where these count.
#[test]
fn looking_leaves_nothing_behind() {
    let server = Server::start(&["--profile", "windows-2003"]);
    let pid = server.pid().to_string();
    for _ in 0..3 {
        let report = json(&doctor(&["--pid", &pid, "--profile", "windows-2003", "--json"]));
        assert_eq!(report["running"]["time_wait"], 0, "{}", report["running"]);
        assert_eq!(report["maximum"]["connections"], 2000);
    }
}

/// What is in use of a server that runs is subtracted, and is said.
#[test]
fn a_server_that_runs_is_asked_what_it_holds() {
    let server = Server::start(&["--capacity", "50", "--reactors", "1"]);
    let held: Vec<_> = (0..20).map(|_| server.dial()).collect();
    let pid = server.pid().to_string();
    // A connection is counted when it was accepted.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    let report = loop {
        let report = json(&doctor(&["--pid", &pid, "--connections", "40", "--json"]));
        if report["running"]["connections"] == 20 || std::time::Instant::now() > end {
            break report;
        }
    };
    assert_eq!(report["running"]["connections"], 20, "{}", report["running"]);
    // Those of the test are in their handshake, as the doctor's own is.
    assert_eq!((&report["maximum"]["connections"], &report["fits"]), (&Value::from(30), &Value::from(false)));
    assert_eq!(report["is_on_top"], true);
    drop(held);
    let nobody = doctor(&["--pid", "1", "--json"]);
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
}

/// At an address where frames are bare nobody tells numbers, whichever of the addresses is found first.
#[test]
fn numbers_are_asked_for_where_http_is_spoken() {
    let stomp = ["--set", "listen.stomp=127.0.0.1:0", "--set", "listen.stomp=127.0.0.2:0"];
    for arguments in [&stomp[..2], &stomp] {
        let server = Server::start(arguments);
        let report = json(&doctor(&["--pid", &server.pid().to_string(), "--json"]));
        let running = &report["running"];
        assert_eq!(
            (&running["address"], &running["connections"]),
            (&Value::from(server.address().to_string()), &Value::from(0)),
            "{running}"
        );
    }
}

/// The paths of all keys, `[]` for the elements of an array.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(array) => array.iter().for_each(|value| keys(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

#[test]
fn the_documented_keys_are_those_of_the_json() {
    let mut printed = BTreeSet::new();
    // One that has listeners and walls in the way, and one that is watched.
    keys(&json(&recorded("small-vm", &["--connections", "3000000", "--json"])), "", &mut printed);
    keys(&json(&recorded("small-vm", &["--connections", "50000", "--json"])), "", &mut printed);
    keys(&json(&doctor(&["--watch", "1", "--json"])), "", &mut printed);
    // One that would not start, one whose server refuses, and one whose server has no descriptors left.
    keys(&json(&recorded("garbage", &["--json"])), "", &mut printed);
    let server = Server::start(&["--capacity", "2", "--reactors", "1"]);
    let held = [server.dial(), server.dial()];
    keys(&json(&watched(&server, || drop(server.dial()))), "", &mut printed);
    drop(held);
    lower(&server, 8);
    keys(&json(&watched(&server, || {})), "", &mut printed);
    let text = std::fs::read_to_string(root().join("docs/DOCTOR.md")).unwrap();
    let (_, section) = text.split_once("\n## JSON\n").expect("a section about JSON");
    let documented: BTreeSet<String> = section
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(printed, documented);
}

#[test]
fn every_verdict_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/DOCTOR.md")).unwrap();
    for verdict in
        [Verdict::Fits, Verdict::Tight, Verdict::Passed, Verdict::Below, Verdict::Notice, Verdict::Unreadable]
    {
        assert!(text.contains(&format!("| `{verdict}` |")), "{verdict}");
    }
}

#[test]
fn the_tables_of_the_documentation_are_those_of_the_code() {
    let mut walls =
        String::from("\n| id | on Windows | on Linux | keys | the question |\n|---|---|---|---|---|\n");
    for row in ROWS {
        let keys: Vec<_> = row.keys.iter().map(|key| format!("`{key}`")).collect();
        writeln!(
            walls,
            "| `{}` | {} | {} | {} | {} |",
            row.id,
            row.windows,
            row.linux,
            keys.join(", "),
            row.question
        )
        .unwrap();
    }
    let mut counters = String::from("\n| counter | wall | one more means |\n|---|---|---|\n");
    for watched in WATCHED {
        writeln!(counters, "| `{}` | `{}` | {} |", watched.counter, watched.row, watched.meaning).unwrap();
    }
    let mut limits = String::from("\n| wall | Windows | Linux | tcbchat |\n|---|---|---|---|\n");
    for Row { id, windows, linux, keys, .. } in ROWS {
        let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        writeln!(limits, "| `{id}` | {windows} | {linux} | {} |", keys.join(", ")).unwrap();
    }
    generated::compare("doctor", "LIMITS.md", "walls", &(limits + "\n"));
    generated::compare("doctor", "DOCTOR.md", "walls", &(walls + "\n"));
    generated::compare("doctor", "DOCTOR.md", "counters", &(counters + "\n"));
}

#[test]
fn every_wall_has_its_section_with_its_knobs_and_its_command() {
    let text = std::fs::read_to_string(root().join("docs/LIMITS.md")).unwrap();
    let (_, walls) = text.split_once("\n## The walls, one by one\n").expect("the walls");
    let (walls, _) = walls.split_once("\n## ").expect("more behind them");
    let sections: Vec<(&str, &str)> =
        walls.split("\n### `").skip(1).map(|section| section.split_once('`').expect("an id")).collect();
    let ids: Vec<&str> = sections.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, ROWS.iter().map(|row| row.id).collect::<Vec<_>>());
    for (row, (id, section)) in ROWS.iter().zip(sections) {
        for key in row.keys {
            assert!(section.contains(&format!("`{key}`")), "{id} says nothing of {key}");
        }
        let (prose, output) = section.split_once("```text\n").expect("the output of a run");
        assert!(prose.contains(&format!("-- wall {id}\n")), "{id} has no command");
        assert!(output.contains("\nresult        hit and passed in "), "{id} was not shown");
    }
}
