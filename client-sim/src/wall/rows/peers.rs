//! Peers that do not behave: those that vanish without a word, and those that never read.
//!
//! Invariant: what a peer leaves unread, and how long it is waited for, is bounded here.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{BPF_K, BPF_RET};
use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use socket2::{SockFilter, SockRef};

use crate::scrape::Metrics;
use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, bytes, commas};
use crate::wall::stage::{Launch, Served, Stage};
use crate::wall::user::{Crowd, SOON, User, socket, source};

/// Peers whose cable is cut: what is sent to them is not answered.
const CUT: u64 = 40;
/// Peers whose machine has started anew: what is sent to them is answered with a reset.
const REBOOTED: u64 = 20;
/// Time after which no acknowledgement is delayed any more (40 ms, 200 ms at most).
const ACKNOWLEDGED: Duration = Duration::from_millis(300);
/// Time in which the dead must be found, or not.
const WATCHED: Duration = Duration::from_secs(9);

/// The ways in which a server looks for the dead.
const WATCHES: [(&str, &[(&str, u64)]); 4] = [
    (
        "nobody asks",
        &[("keepalive.tcp_idle_s", 0), ("keepalive.ws_ping_interval_s", 0), ("keepalive.user_timeout_ms", 0)],
    ),
    (
        "TCP keep-alive",
        &[
            ("keepalive.tcp_idle_s", 2),
            ("keepalive.tcp_interval_s", 1),
            ("keepalive.tcp_probes", 2),
            ("keepalive.ws_ping_interval_s", 0),
        ],
    ),
    (
        "WebSocket ping",
        &[
            ("keepalive.tcp_idle_s", 0),
            ("keepalive.user_timeout_ms", 0),
            ("keepalive.ws_ping_interval_s", 2),
            ("keepalive.ws_pong_timeout_s", 2),
        ],
    ),
    (
        "STOMP heart-beat",
        &[("keepalive.tcp_idle_s", 0), ("keepalive.ws_ping_interval_s", 0), ("keepalive.user_timeout_ms", 0)],
    ),
];

/// The dead are held for ever where nobody asks, and found by each way of asking.
pub fn keep_alive(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "a network namespace of its own; {CUT} peers stop answering (their sockets drop what comes, as \
             after a cut cable), {REBOOTED} are gone without a FIN (closed under TCP_REPAIR: a reset answers)"
        ),
        moved_by: vec![
            "keepalive.tcp_idle_s, tcp_interval_s, tcp_probes (Windows: KeepAliveTime)".into(),
            "keepalive.ws_ping_interval_s, ws_pong_timeout_s".into(),
            "heart-beats in the client's CONNECT".into(),
        ],
        ..Outcome::default()
    };
    let mut watched = Vec::new();
    for (port, (title, keys)) in (8081..).zip(WATCHES) {
        let launch = Launch {
            port: Some(port),
            ..Launch::with(keys).and("tcb.capacity", 1000).and("shutdown.timeout_ms", 500)
        };
        if outcome.doctor.is_none() {
            outcome.doctor = doctor::predict(stage, "keep-alive", &launch, CUT + REBOOTED);
        }
        let served = stage.serve(&launch)?;
        let beats = title == "STOMP heart-beat";
        let kept = vanish(&served, if beats { "1000,0" } else { "0,0" })?;
        watched.push((title, keys, served, kept));
    }
    let start = Instant::now();
    for (title, keys, served, kept) in watched {
        let left = WATCHED.saturating_sub(start.elapsed());
        let open = |metrics: &Metrics| metrics.get("connections_open").saturating_sub(1);
        let metrics = if title == "nobody asks" {
            thread::sleep(left);
            served.metrics()?
        } else {
            served.metrics_when(left, |metrics| open(metrics) == 0)?
        };
        let held = open(&metrics);
        let mut side = Side::new(title, limit(keys));
        (side.asked, side.admitted) = (CUT + REBOOTED, CUT + REBOOTED);
        if held > 0 {
            side.symptom(format!("{held} dead connections held after {} s, for ever", WATCHED.as_secs()));
        }
        side.fact("still held", commas(held));
        side.fact("found by", found(&metrics, held));
        if title == "nobody asks" {
            outcome.claim(held == CUT + REBOOTED, format!("without asking all dead are held: {held}"));
        } else {
            let by: u64 = metrics.labelled("dead_peers_total").iter().map(|(_, count)| count).sum();
            outcome.claim(held == 0, format!("{title} finds them all: {held} are left"));
            outcome.claim(by >= CUT, format!("and each that was cut is counted by what found it: {by}"));
        }
        outcome.sides.push(side);
        drop(kept);
        served.stop()?;
    }
    Ok(outcome)
}

/// The keys of a column, as a person reads them.
fn limit(keys: &[(&str, u64)]) -> String {
    let on: Vec<String> = keys
        .iter()
        .filter(|(_, value)| *value > 0)
        .map(|(key, value)| format!("{} {value}", key.rsplit('.').next().unwrap_or(key)))
        .collect();
    if on.is_empty() { "none by the server".into() } else { on.join(", ") }
}

/// What the server says found the dead, and how many showed themselves by a reset.
fn found(metrics: &Metrics, held: u64) -> String {
    let mut by = metrics.labelled("dead_peers_total");
    by.retain(|(_, count)| *count > 0);
    let counted: u64 = by.iter().map(|(_, count)| count).sum();
    let mut words: Vec<String> = by.iter().map(|(mechanism, count)| format!("{mechanism} {count}")).collect();
    let reset = (CUT + REBOOTED).saturating_sub(held + counted);
    if reset > 0 {
        words.push(format!("a reset in answer {reset}"));
    }
    if words.is_empty() { "nobody".into() } else { words.join(", ") }
}

/// Users who come and vanish; the cut ones' sockets must be kept, deaf and dumb.
fn vanish(served: &Served, heart_beat: &str) -> Result<Vec<User>, Trouble> {
    let mut users = Vec::new();
    for _ in 0..CUT + REBOOTED {
        let socket = socket(source(0))?;
        socket.connect(&served.address.into())?;
        let user = User::enter(TcpStream::from(socket), served.address, SOON, heart_beat);
        users.push(user.map_err(|refusal| refusal.to_string())?);
    }
    // What the server has sent must be acknowledged: else it is retransmission that finds the dead.
    thread::sleep(ACKNOWLEDGED);
    for user in users.drain(CUT as usize..) {
        // In this mode a close says nothing to the peer (the kernel's tcp_close()).
        setsockopt(user.stream(), TcpRepair, &1)
            .map_err(|error| Trouble::Missing(format!("TCP_REPAIR: {error}; it takes CAP_NET_ADMIN")))?;
    }
    users.iter().try_for_each(cut)?;
    Ok(users)
}

/// Lets the kernel drop whatever comes for this socket, before TCP sees it: nothing is acknowledged.
fn cut(user: &User) -> Result<(), Trouble> {
    let drop_all = SockFilter::new((BPF_RET | BPF_K) as u16, 0, 0, 0);
    Ok(SockRef::from(user.stream()).attach_filter(&[drop_all])?)
}

/// Subscribers that never read.
const DEAF: u64 = 20;
/// Messages to them, and their size.
const MESSAGES: u64 = 3000;
const MESSAGE_BYTES: u64 = 16 * 1024;
/// Messages between two receipts: the publisher does not run ahead of the server.
const RECEIPT_EVERY: u64 = 50;
/// A mark that is never reached.
const NO_MARK: u64 = 1 << 32;
/// A mark that holds a few dozen of the messages.
const MARK: u64 = 2 << 20;
/// What all messages are together.
const PUBLISHED: u64 = MESSAGES * MESSAGE_BYTES;

/// Unread messages pile up in the server, unless a mark stops them.
pub fn buffers(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "a network namespace of its own; {DEAF} subscribers of one room never read, {} are published there",
            bytes(PUBLISHED)
        ),
        moved_by: vec![
            format!("outbound.bytes_max = {MARK} (the server's own queue)"),
            "sysctl -w net.ipv4.tcp_wmem='4096 16384 65536' (the kernel's, in front of it)".into(),
        ],
        notes: vec![
            "A message is encoded once for all its readers, so what is queued for each is counted many times and \
             held once."
                .into(),
        ],
        ..Outcome::default()
    };
    outcome.doctor = doctor::predict(stage, "buffers", &unread(NO_MARK), DEAF);
    let sides = [
        ("no mark", NO_MARK, None),
        ("a mark", MARK, None),
        ("a mark, small kernel buffers", MARK, Some("4096 16384 65536")),
    ];
    let mut kernel_bytes = Vec::new();
    for (title, mark, wmem) in sides {
        if let Some(wmem) = wmem {
            netns::sysctl("net.ipv4.tcp_wmem", wmem)?;
        }
        let (side, grown, kernel, cut_off) = deaf(stage, title, mark, wmem)?;
        if mark == NO_MARK {
            outcome.claim(
                grown > PUBLISHED / 2 && cut_off == 0,
                format!("without a mark the server grows by what is published: {}", bytes(grown)),
            );
        } else {
            outcome.claim(
                grown < PUBLISHED / 4 && cut_off == DEAF,
                format!("with it the server stays small ({}) and cuts off {cut_off}", bytes(grown)),
            );
        }
        kernel_bytes.push(kernel);
        outcome.sides.push(side);
    }
    outcome.claim(
        kernel_bytes[2] < kernel_bytes[1],
        format!(
            "a smaller tcp_wmem takes less of the kernel: {} < {}",
            bytes(kernel_bytes[2]),
            bytes(kernel_bytes[1])
        ),
    );
    Ok(outcome)
}

fn unread(mark: u64) -> Launch {
    Launch::with(&[
        ("tcb.capacity", 1000),
        ("reactors.count", 1),
        ("outbound.bytes_max", mark),
        ("outbound.lag_timeout_s", 0),
        ("outbound.high_water_bytes", mark),
        ("outbound.reactor_bytes_max", 1 << 40),
        // Longer than the run: those who are cut off are still there when it is measured.
        ("websocket.close_timeout_ms", 600_000),
    ])
}

/// One run: the side, how far the server grew, what is in the kernel's queues, and how many were cut off.
fn deaf(stage: &Stage, title: &str, mark: u64, wmem: Option<&str>) -> Result<(Side, u64, u64, u64), Trouble> {
    let served = stage.serve(&unread(mark))?;
    let mut crowd = Crowd::default();
    for _ in 0..DEAF {
        let socket = socket(source(0))?;
        socket.set_recv_buffer_size(4096)?;
        socket.connect(&served.address.into())?;
        crowd.note(User::enter(TcpStream::from(socket), served.address, SOON, "0,0"));
    }
    for user in &mut crowd.users {
        let headers = [("id", "0"), ("destination", "/topic/deaf"), ("receipt", "s")];
        user.say("SUBSCRIBE", &headers, b"").and_then(|()| user.hear("RECEIPT")).map_err(broken)?;
    }
    let resident = served.resident_bytes();
    publish(&served)?;
    let grown = served.resident_bytes().saturating_sub(resident);
    let kernel = netns::unacknowledged_bytes(served.address.port())?;
    let metrics = served.metrics()?;
    let cut_off = metrics.get("slow_consumers_total");

    let limit =
        if mark == NO_MARK { "none".to_owned() } else { format!("outbound.bytes_max {}", bytes(mark)) };
    let mut side = Side::new(title, limit);
    crowd.tell(&mut side);
    if mark == NO_MARK {
        side.symptom(format!("the server grows by {} for {DEAF} who do not read", bytes(grown)));
    }
    side.fact("server grew", format!("{} of user memory", bytes(grown)));
    side.fact(
        "kernel holds",
        format!(
            "{} in send queues{}",
            bytes(kernel),
            if wmem.is_some() { ", 64 KiB each at most" } else { "" }
        ),
    );
    side.fact("queued", format!("{} for all together", bytes(metrics.get("outbound_bytes"))));
    side.fact("cut off", format!("{cut_off} (slow_consumers_total)"));
    crowd.users.into_iter().for_each(User::reset);
    served.settle()?;
    served.stop()?;
    Ok((side, grown, kernel, cut_off))
}

fn publish(served: &Served) -> Result<(), Trouble> {
    let body = vec![b'x'; MESSAGE_BYTES as usize];
    let mut publisher =
        User::arrive(served.address, source(1), SOON).map_err(|refusal| refusal.to_string())?;
    for number in 1..=MESSAGES {
        let plain = [("destination", "/topic/deaf")];
        let asking = [("destination", "/topic/deaf"), ("receipt", "p")];
        let asks = number % RECEIPT_EVERY == 0;
        publisher.say("SEND", if asks { &asking } else { &plain }, &body).map_err(broken)?;
        if asks {
            publisher.hear("RECEIPT").map_err(broken)?;
        }
    }
    publisher.say_goodbye();
    Ok(())
}

fn broken(error: tungstenite::Error) -> Trouble {
    Trouble::Broken(format!("a user that was in: {error}"))
}
