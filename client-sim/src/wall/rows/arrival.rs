//! Before a connection is a user: the kernel's queue of connections, and the server's of handshakes.
//!
//! Invariant: what decides is a counter or a number of sockets, never how long something took.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use netns::Counters;
use rustix::process::Signal;

use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, commas};
use crate::wall::stage::{Launch, Served, Stage};
use crate::wall::user::{Crowd, SOON, User, socket, source};

/// Connects at once.
const BURST: u64 = 200;
/// How long the server does not get to accept, as in a garbage collection.
const PAUSE: Duration = Duration::from_millis(700);
/// The backlog of Windows Professional, and of Windows Server.
const PROFESSIONAL: u64 = 5;
const SERVER: u64 = 200;

/// A burst over a backlog of 5, and over one of 200.
pub fn backlog(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "a network namespace of its own; {BURST} connects at once while the server is paused for {} ms \
             (SIGSTOP), as a garbage collection would",
            PAUSE.as_millis()
        ),
        moved_by: vec![
            format!("listen.backlog = {SERVER}"),
            "sysctl -w net.core.somaxconn=4096 (it caps what listen() asks for)".into(),
        ],
        ..Outcome::default()
    };
    for (backlog, somaxconn) in [(PROFESSIONAL, 4096), (SERVER, PROFESSIONAL), (SERVER, 4096)] {
        netns::sysctl("net.core.somaxconn", &somaxconn.to_string())?;
        let launch =
            Launch::with(&[("listen.backlog", backlog), ("reactors.count", 1), ("tcb.capacity", 2 * BURST)]);
        if somaxconn == PROFESSIONAL {
            outcome.doctor = doctor::predict(stage, "backlog", &launch, BURST);
        }
        let served = stage.serve(&launch)?;
        let (mut side, overflows) = burst(&served, &mut outcome)?;
        let queue = backlog.min(somaxconn);
        side.title = match (backlog, somaxconn) {
            (PROFESSIONAL, _) => "the backlog of Professional".into(),
            (_, PROFESSIONAL) => "the backlog of Server, capped".into(),
            _ => "the backlog of Server".into(),
        };
        side.limit = format!("listen.backlog {backlog}, somaxconn {somaxconn}");
        // Linux takes one more than the backlog: the queue is full when its length *exceeds* it.
        outcome.claim(
            side.admitted == BURST.min(queue + 1),
            format!("backlog {queue}: {} of {BURST} are queued", side.admitted),
        );
        outcome.claim(
            overflows >= side.refused && (overflows > 0) == (side.refused > 0),
            format!("ListenOverflows counts the others: +{overflows} for {}", side.refused),
        );
        outcome.sides.push(side);
        served.stop()?;
    }
    Ok(outcome)
}

/// Connects at once while the server is paused; then all of them get in, late.
fn burst(served: &Served, outcome: &mut Outcome) -> Result<(Side, u64), Trouble> {
    let before = Counters::read()?;
    served.pause()?;
    let start = Instant::now();
    let mut arriving = Vec::new();
    for _ in 0..BURST {
        let socket = socket(source(0))?;
        socket.set_nonblocking(true)?;
        // EINPROGRESS: what comes of it is seen below.
        drop(socket.connect(&served.address.into()));
        arriving.push(socket);
    }
    thread::sleep(PAUSE.saturating_sub(start.elapsed()));
    let queued = arriving.iter().filter(|socket| socket.peer_addr().is_ok()).count() as u64;
    let after = Counters::read()?;
    served.signal(Signal::CONT)?;

    let mut crowd = Crowd::default();
    let mut slowest = Duration::ZERO;
    for socket in arriving {
        while socket.peer_addr().is_err() && start.elapsed() < SOON && socket.take_error()?.is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        socket.set_nonblocking(false)?;
        crowd.note(User::enter(TcpStream::from(socket), served.address, SOON, "0,0"));
        slowest = slowest.max(start.elapsed());
    }
    let overflows = after.since(&before, "ListenOverflows");
    let mut side = Side { asked: BURST, admitted: queued, refused: BURST - queued, ..Side::default() };
    if overflows > 0 {
        side.symptom(format!(
            "SYNs dropped: ListenOverflows +{}, ListenDrops +{}",
            commas(overflows),
            commas(after.since(&before, "ListenDrops"))
        ));
    }
    side.fact(
        "last one in",
        format!("after {} ms (SYNs are repeated after 1 s)", commas(slowest.as_millis() as u64)),
    );
    outcome.claim(
        crowd.admitted() == BURST,
        format!("in the end the kernel's repeated SYNs bring all in: {}", crowd.admitted()),
    );
    Ok((side, overflows))
}

/// Windows XP's bound of half-open connections.
const PENDING: u64 = 10;
/// Connections of one address that may be in their handshake.
const PENDING_EACH: u64 = 4;
/// Milliseconds of a handshake where that is the knob.
const TIMEOUT_MS: u64 = 500;
/// Honest users.
const HONEST: u64 = 30;

/// Clients that never finish their handshake starve the honest ones, until something bounds them.
pub fn half_open(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "this machine's loopback; {PENDING} clients of one address send half a request and wait, then \
             {HONEST} honest users of another come"
        ),
        moved_by: vec![
            format!("handshake.pending_per_address_max = {PENDING_EACH}"),
            format!("handshake.timeout_ms = {TIMEOUT_MS}"),
        ],
        notes: vec![
            "Windows limits the connects that go out; a server meets the same wall from the other side. \
             client-sim bounds its own with --max-half-open."
                .into(),
        ],
        ..Outcome::default()
    };
    let base =
        || Launch::with(&[("reactors.count", 1), ("tcb.capacity", 1000), ("handshake.pending_max", PENDING)]);

    outcome.doctor = doctor::predict(stage, "half-open", &base(), PENDING + HONEST);
    let served = stage.serve(&base())?;
    let (mut side, slow) = starve(&served, Duration::ZERO, "10 handshakes at once")?;
    drop(slow);
    let refused = served.settle()?.get("refused_pending_total");
    side.fact("server counts", format!("refused_pending_total +{refused}"));
    side.fact("server logs", served.logged("4226").map_or_else(|| "nothing".into(), |line| message(&line)));
    outcome.claim(
        side.admitted == 0 && refused >= HONEST,
        format!("nobody honest gets in: {} do, {refused} are refused", side.admitted),
    );
    outcome.sides.push(side);
    served.stop()?;

    let served = stage.serve(&base().and("handshake.pending_per_address_max", PENDING_EACH))?;
    let (mut side, slow) = starve(&served, Duration::ZERO, "and 4 of one address")?;
    drop(slow);
    let counted = served.settle()?.get("refused_pending_per_address_total");
    let event = served.logged("4226").map(|line| message(&line)).unwrap_or_default();
    side.fact("server counts", format!("refused_pending_per_address_total +{counted}"));
    side.fact("server logs", &event);
    outcome.claim(
        side.admitted == HONEST && counted == PENDING - PENDING_EACH,
        format!("all honest ones get in: {}; {counted} slow ones are refused", side.admitted),
    );
    outcome.claim(event.contains("pending_per_address_max"), format!("the server logs it: {event}"));
    outcome.sides.push(side);
    served.stop()?;

    let served = stage.serve(&base().and("handshake.timeout_ms", TIMEOUT_MS))?;
    let wait = Duration::from_millis(2 * TIMEOUT_MS);
    let (mut side, slow) = starve(&served, wait, &format!("and {TIMEOUT_MS} ms each"))?;
    drop(slow);
    let timeouts = served.settle()?.get("handshake_timeouts_total");
    side.fact("server counts", format!("handshake_timeouts_total +{timeouts}"));
    outcome.claim(
        side.admitted == HONEST && timeouts == PENDING,
        format!("all honest ones get in: {}; {timeouts} slow ones were cut off", side.admitted),
    );
    outcome.sides.push(side);
    served.stop()?;
    Ok(outcome)
}

/// The slow ones first, the honest ones after `wait`.
fn starve(served: &Served, wait: Duration, limit: &str) -> Result<(Side, Vec<TcpStream>), Trouble> {
    let mut slow = Vec::new();
    for _ in 0..PENDING {
        let socket = socket(source(9))?;
        socket.connect(&served.address.into())?;
        let mut stream = TcpStream::from(socket);
        // One that is refused at once may find the connection gone.
        drop(stream.write_all(b"GET /ws HTTP/1.1\r\nHost: slow\r\n"));
        slow.push(stream);
    }
    // The server counts a connection when it accepts it, which is soon and cannot be asked for here.
    thread::sleep(Duration::from_millis(200) + wait);
    let mut side = Side::new(limit, format!("handshake.pending_max {PENDING}"));
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), HONEST);
    crowd.tell(&mut side);
    Ok((side, slow))
}

/// A line of the log from its message on.
fn message(line: &str) -> String {
    line.find("event").map_or(line, |at| &line[at..]).trim().to_owned()
}
