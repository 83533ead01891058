//! The simulator as a user runs it, against a stub server that can be told to misbehave: what is right
//! passes, and each thing that is wrong is found, counted and named.

mod stub;

use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::Value;
use stub::Fault;

/// Runs the simulator; its exit code and its JSON.
fn simulate(address: SocketAddr, args: &[&str]) -> (i32, Value, Output) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_client-sim"))
        .args(args)
        .args(["--url", &format!("ws://{address}/ws"), "--timeout", "5", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&json).unwrap_or_else(|_| "null".to_owned());
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap(), output)
}

const CHAT: &[&str] = &[
    "chat",
    "--connections",
    "60",
    "--room-size",
    "20",
    "--rate",
    "1000",
    "--duration",
    "0.3",
    "--hold",
    "0",
    "--drain",
    "1",
];

fn chat(fault: Fault, more: &[&str]) -> (i32, Value) {
    let (code, report, output) = simulate(stub::start(fault), &[CHAT, more].concat());
    eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (code, report)
}

fn faults(report: &Value) -> (u64, u64, u64, u64) {
    let count = |name: &str| report["chat"][name].as_u64().unwrap();
    (count("lost"), count("duplicated"), count("out_of_order"), count("corrupted"))
}

/// The server is stopped while 600 are connected: with time it ends each in order, without any it resets who is left, and
/// both are ends that were promised. With 37 in a turn, the farewell takes several turns.
#[test]
fn a_server_that_is_stopped_lets_everybody_go() {
    let dir = tempfile::tempdir().unwrap();
    for (timeout_ms, everybody_in_order) in [("60000", true), ("0", false)] {
        let json = dir.path().join(timeout_ms);
        let output = Command::new(env!("CARGO_BIN_EXE_client-sim"))
            .args(["hold", "--connections", "600", "--hold", "0.2", "--spawn-server", "--stop-server"])
            .args(["--server-arg=--reactors=3", "--json"])
            .arg(&json)
            .env("TCBCHAT_SHUTDOWN_TIMEOUT_MS", timeout_ms)
            .env("TCBCHAT_WEBSOCKET_CLOSE_TIMEOUT_MS", "60000")
            .env("TCBCHAT_TURN_FAREWELLS_MAX", "37")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
        let count = |name: &str| report["leaving"][name].as_u64().unwrap();
        assert_eq!((report["leaving"]["how"].as_str(), count("connections")), (Some("server-stop"), 600));
        assert_eq!(count("in_order") + count("cut_off"), 600, "{}", report["leaving"]);
        assert!(!everybody_in_order || count("cut_off") == 0, "{}", report["leaving"]);
        assert!(report["leaving"]["server_said"].as_str().unwrap().contains("every connection has ended"));
        assert_eq!(report["failures"], Value::Array(Vec::new()));
    }
}

/// The server itself, started by the simulator, which builds it first: both ends of every promise at once.
#[test]
fn the_real_server_passes_every_scenario() {
    let dir = tempfile::tempdir().unwrap();
    let scenarios: &[&[&str]] = &[
        &["hold", "--connections", "600", "--hold", "0.2"],
        &["chat", "--connections", "600", "--rate", "300", "--duration", "1", "--receipts", "--hold", "0"],
        &["churn", "--rate", "300", "--duration", "1", "--message"],
        &["herd", "--connections", "600", "--hold", "0"],
    ];
    for (at, scenario) in scenarios.iter().enumerate() {
        let json = dir.path().join(format!("{at}.json"));
        let output = Command::new(env!("CARGO_BIN_EXE_client-sim"))
            .args(*scenario)
            .args(["--spawn-server", "--server-arg=--reactors=3", "--json"])
            .arg(&json)
            .output()
            .unwrap();
        assert!(output.status.success(), "{scenario:?}: {output:?}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
        assert_eq!(report["connections"]["failed"], 0, "{scenario:?}");
        assert_eq!(report["connections"]["closed_by_client_first"], 0, "{scenario:?}");
        if scenario[0] == "chat" {
            assert_eq!(report["chat"]["deliveries_received"], 300 * 100);
            assert_eq!(report["chat"]["receipts_received"], 300);
        }
    }
}

#[test]
fn hold_connects_subscribes_and_leaves() {
    let (code, report, output) =
        simulate(stub::start(Fault::None), &["hold", "--connections", "80", "--hold", "0.5"]);
    assert_eq!(code, 0, "{output:?}");
    let connections = &report["connections"];
    assert_eq!(connections["ready"], 80);
    assert_eq!(connections["failed"], 0);
    assert_eq!(connections["closed_by_server_first"], 80, "the server ends the connection (RFC 6455, 7.1.1)");
    assert_eq!(connections["set_up_ms"]["count"], 80);
    assert!(report["memory"]["held"]["simulator_user_bytes"].is_number());
    assert!(String::from_utf8_lossy(&output.stdout).contains("80 asked, 80 ready, 0 failed"));
}

#[test]
fn a_correct_server_passes_the_chat_on_one_thread_and_on_several() {
    for threads in ["1", "3", "7"] {
        let (code, report) = chat(Fault::None, &["--threads", threads, "--receipts"]);
        assert_eq!(code, 0);
        assert_eq!(report["chat"]["messages_sent"], 300);
        assert_eq!(report["chat"]["deliveries_received"], 300 * 20);
        assert_eq!(report["chat"]["receipts_received"], 300);
        assert_eq!(report["chat"]["latency_ms"]["count"], 300 * 20);
        assert_eq!(faults(&report), (0, 0, 0, 0));
    }
}

#[test]
fn a_window_is_filled_again_only_when_every_member_has_the_message() {
    let window = [
        "chat",
        "--connections",
        "60",
        "--room-size",
        "20",
        "--duration",
        "0.5",
        "--hold",
        "0",
        "--drain",
        "1",
        "--window",
        "2",
    ];
    let (code, report, output) =
        simulate(stub::start(Fault::None), &[&window[..], &["--threads", "3", "--receipts"]].concat());
    assert_eq!(code, 0, "{output:?}");
    let sent = report["chat"]["messages_sent"].as_u64().unwrap();
    assert!(sent > 3 * 2, "{sent} messages");
    assert_eq!(report["chat"]["deliveries_received"], sent * 20);
    assert_eq!((&report["chat"]["window"], &report["chat"]["rate_asked_per_s"]), (&2.into(), &Value::Null));
    assert!(report["chat"]["cpu"]["simulator_s"].as_f64().unwrap() > 0.0);

    // The third and the sixth message of each room do not reach one member: then the window is full for good.
    let (code, report, output) = simulate(stub::start(Fault::Lose(3)), &window);
    assert_eq!(code, 1, "{output:?}");
    assert_eq!(
        (&report["chat"]["messages_sent"], &report["chat"]["lost"]),
        (&(3 * 6).into(), &(3 * 2).into())
    );

    // One at a time: the first that gets lost is the third of the first room, after two of each.
    let (code, report, output) =
        simulate(stub::start(Fault::Lose(3)), &[&window[..], &["--in-flight", "1"]].concat());
    assert_eq!(code, 1, "{output:?}");
    assert_eq!((&report["chat"]["messages_sent"], &report["chat"]["lost"]), (&7.into(), &1.into()));
    assert_eq!(report["chat"]["in_flight_max"], 1);

    let too_few = [&window[..], &["--threads", "3", "--in-flight", "2"]].concat();
    let (code, _, output) = simulate(stub::start(Fault::None), &too_few);
    assert_eq!(code, 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--in-flight 3"), "{output:?}");

    let (code, _, output) = simulate(stub::start(Fault::None), &[&window[..], &["--threads", "7"]].concat());
    assert_eq!(code, 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("on one thread"), "{output:?}");
}

#[test]
fn a_window_over_more_tables_than_divide_the_rooms_says_what_would_do() {
    // Three tables and no fewer for 1,000 connections, with up to 160 descriptors inherited.
    const PREFIX: &str = "ulimit -n 580 && exec \"$0\" \"$@\"";
    let refused = |more: &[&str]| {
        let output = Command::new("sh")
            .args(["-c", PREFIX, env!("CARGO_BIN_EXE_client-sim"), "chat"])
            // Nobody listens there, and it does not come to that.
            .args([
                "--url",
                "ws://127.0.0.1:1/ws",
                "--window",
                "1",
                "--max-failures",
                "10000",
                "--timeout",
                "1",
            ])
            .args(["--duration", "0", "--hold", "0"])
            .args(more)
            .output()
            .unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["--connections", "1000"]);
    assert!(said.contains("as many as it takes with 580 descriptors each, share a room"), "{said}");
    let advice = said.trim().rsplit_once("try: --connections ").expect("an advice").1;
    assert!(!refused(&["--connections", advice]).contains("share a room"), "{advice}");

    let said = refused(&["--connections", "1800", "--room-size", "600"]);
    assert!(said.contains("try: a smaller --room-size"), "{said}");
}

#[test]
fn losses_are_counted_exactly() {
    let (code, report) = chat(Fault::Lose(10), &[]);
    assert_eq!(code, 1);
    // Three rooms share 300 messages by chance; every tenth of a room is lost for one member.
    let (lost, duplicated, disordered, corrupted) = faults(&report);
    assert!((27..=30).contains(&lost), "{lost}");
    assert_eq!((duplicated, disordered, corrupted), (0, 0, 0));
    assert_eq!(report["chat"]["subscribers_affected"], 3);
    assert_eq!(report["chat"]["deliveries_received"].as_u64().unwrap(), 6000 - lost);
}

#[test]
fn duplicates_are_counted_exactly() {
    let (code, report) = chat(Fault::Repeat(10), &[]);
    let (lost, duplicated, disordered, corrupted) = faults(&report);
    assert_eq!((code, lost, disordered, corrupted), (1, 0, 0, 0));
    assert!((27..=30).contains(&duplicated), "{duplicated}");
}

#[test]
fn disorder_is_found() {
    let (code, report) = chat(Fault::Swap(10), &[]);
    let (_, duplicated, disordered, corrupted) = faults(&report);
    assert_eq!((code, duplicated, corrupted), (1, 0, 0));
    // The last message of a room may be held back for ever; that is a loss, not disorder.
    assert!((24..=30).contains(&disordered), "{disordered}");
}

#[test]
fn disorder_between_threads_is_found() {
    // One room over several threads: each thread sees one order, and they differ.
    let more = ["--room-size", "60", "--threads", "60"];
    let (code, report) = chat(Fault::Swap(10), &more);
    assert_eq!(code, 1);
    assert_eq!(report["chat"]["rooms_in_two_orders"], 1);
}

#[test]
fn damage_is_found() {
    let (code, report) = chat(Fault::Damage(50), &[]);
    assert_eq!(code, 1);
    assert!(faults(&report).3 >= 4 * 20, "{report:?}");
}

#[test]
fn forgotten_receipts_are_failures() {
    let (code, report) = chat(Fault::ForgetReceipts, &["--receipts"]);
    assert_eq!(code, 1);
    assert_eq!(report["failures"][0]["class"], "receipt-timeout");
    assert_eq!(report["failures"][0]["count"], 300);
}

#[test]
fn a_full_server_is_named() {
    let (code, report, _) =
        simulate(stub::start(Fault::Full), &["hold", "--connections", "10", "--hold", "0"]);
    assert_eq!(code, 1);
    assert_eq!(report["failures"][0]["class"], "http-503");
    assert_eq!(report["failures"][0]["count"], 10);
    assert!(report["failures"][0]["example"].as_str().unwrap().contains("table full"));
    let (code, ..) = simulate(
        stub::start(Fault::Full),
        &["hold", "--connections", "10", "--hold", "0", "--max-failures", "10"],
    );
    assert_eq!(code, 0, "as many failures as were accepted");
}

#[test]
fn other_refusals_have_their_own_class() {
    let hold = |fault| {
        let (code, report, _) =
            simulate(stub::start(fault), &["hold", "--connections", "20", "--hold", "0.2"]);
        let failure = &report["failures"][0];
        (code, failure["class"].as_str().unwrap().to_owned(), failure["count"].as_u64().unwrap())
    };
    assert_eq!(hold(Fault::Error(4)), (1, "stomp-error".to_owned(), 5));
    assert_eq!(hold(Fault::HangUp(4)), (1, "end-of-stream".to_owned(), 5));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // A server that is not there is no failure of each client.
    let (code, report, output) = simulate(closed, &["hold", "--connections", "5", "--hold", "0"]);
    assert_eq!((code, report), (3, Value::Null));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("there is no server at ws://127.0.0.1:"), "{said}");
}

#[test]
fn a_threshold_of_latency_decides_the_exit_code() {
    let (code, report) = chat(Fault::None, &["--max-p99", "0.001"]);
    assert_eq!(code, 1);
    assert!(report["verdict"]["reasons"][0].as_str().unwrap().starts_with("p99"));
}

#[test]
fn churn_counts_cycles_and_who_closed_first() {
    let churn = ["churn", "--rate", "200", "--duration", "1", "--population", "50", "--message"];
    let (code, report, output) = simulate(stub::start(Fault::None), &churn);
    assert_eq!(code, 0, "{output:?}");
    assert_eq!(report["churn"]["cycles_done"], 200);
    assert_eq!(report["churn"]["messages_sent"], 200);
    assert_eq!(report["connections"]["closed_by_server_first"], 200);
    let drop = ["churn", "--rate", "200", "--duration", "0.5", "--leave", "drop"];
    let (code, report, _) = simulate(stub::start(Fault::None), &drop);
    assert_eq!((code, report["connections"]["closed_by_client_first"].as_u64()), (0, Some(100)));
}

#[test]
fn herd_connects_all_at_once() {
    let (code, report, _) =
        simulate(stub::start(Fault::None), &["herd", "--connections", "100", "--hold", "0"]);
    assert_eq!((code, report["connections"]["ready"].as_u64()), (0, Some(100)));
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_tried() {
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let (code, report, output) =
        simulate(nowhere, &["hold", "--connections", "60000", "--source-addresses", "1"]);
    assert_eq!((code, report), (2, Value::Null));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("60000 needed"), "{text}");
    assert!(text.contains("try: --source-addresses"), "{text}");
}

#[test]
fn a_wrong_command_line_is_code_2_and_a_missing_server_code_3() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_client-sim")).args(args).output().unwrap();
        output.status.code().unwrap()
    };
    assert_eq!(run(&["hold", "--connections", "0"]), 2);
    assert_eq!(run(&["hold", "--url", "wss://127.0.0.1/ws"]), 2);
    assert_eq!(run(&["hold", "--spawn-server", "/nonexistent/tcbchat"]), 3);
}
