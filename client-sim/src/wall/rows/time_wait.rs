//! TIME_WAIT: who has it, for how long, and when it gives its place away.
//!
//! Each stage compares the server's model with what the kernel itself keeps in the namespace.
//!
//! Invariant: no column waits for longer than [`PAST_60_S`].

use std::thread;
use std::time::Duration;

use netns::Counters;

use crate::scrape::Metrics;
use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, commas};
use crate::wall::stage::{Launch, Served, Stage};
use crate::wall::user::{Crowd, Refusal, SOON, User, source};

/// Places of the table.
const PLACES: u64 = 600;
/// Connections that have just been closed.
const CLOSED: u64 = 400;
/// Users that want in after that.
const ASKED: u64 = 400;
/// Windows' TcpTimedWaitDelay.
const WINDOWS_DELAY_MS: u64 = 240_000;
/// A delay that a demonstration can wait for; Windows' least is 30 s.
const SHORT_DELAY_MS: u64 = 1_000;

fn waiting(metrics: &Metrics) -> u64 {
    metrics.get("tcb_entries{state=\"time_wait\"}")
}

/// So many users come and leave again, one after the other.
fn churn(served: &Served, cycles: u64, leave: impl Fn(User)) -> Crowd {
    let mut crowd = Crowd::default();
    for _ in 0..cycles {
        match User::arrive(served.address, source(0), SOON) {
            Ok(user) => leave(user),
            refused => crowd.note(refused),
        }
    }
    crowd
}

/// What both count after the same closes.
fn side_by_side(side: &mut Side, served: &Served, metrics: &Metrics) -> Result<(u64, u64), Trouble> {
    let (server, client) = netns::time_wait(served.address.port())?;
    side.fact("model", format!("{} in TIME_WAIT at the server", commas(waiting(metrics))));
    side.fact(
        "kernel",
        format!("{} at the server's port, {} at the clients'", commas(server), commas(client)),
    );
    Ok((server, client))
}

/// Places are held for the delay after a close; and by whom depends on who closed first.
pub fn time_wait(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "a network namespace of its own; {PLACES} TCBs, TIME_WAIT included; {CLOSED} connections just closed"
        ),
        moved_by: vec![
            format!("tcb.time_wait_delay_ms = {SHORT_DELAY_MS} (Windows: TcpTimedWaitDelay, 30 s at least)"),
            "clients that close first: the closer pays".into(),
            "tcb.time_wait_counts = false, as it is on Linux".into(),
        ],
        notes: vec![
            "The kernel's own 60 s are fixed, and its entries are apart from its sockets; the delay moves the \
             model only."
                .into(),
        ],
        ..Outcome::default()
    };
    // A port for each column, so that the kernel's entries can be told apart.
    let launch = |port: u16, delay_ms: u64| Launch {
        port: Some(port),
        ..Launch::with(&[("tcb.capacity", PLACES), ("tcb.time_wait_delay_ms", delay_ms)])
            .and("tcb.time_wait_counts", true)
    };

    let windows = launch(8081, WINDOWS_DELAY_MS);
    outcome.doctor = doctor::predict(stage, "time-wait", &windows, CLOSED + ASKED);
    let mut side = Side::new("the server closes first", format!("delay {} s", WINDOWS_DELAY_MS / 1000));
    let served = stage.serve(&windows)?;
    churn(&served, CLOSED, User::say_goodbye);
    let metrics = served.metrics_when(SOON, |metrics| waiting(metrics) == CLOSED)?;
    let (server, _) = side_by_side(&mut side, &served, &metrics)?;
    outcome.claim(
        waiting(&metrics) == CLOSED && server == CLOSED,
        format!("model and kernel agree on {CLOSED}: {} and {server}", waiting(&metrics)),
    );
    let forecast = doctor::maximum_of(stage, &windows, served.pid());
    come(&served, &mut side);
    outcome.hold("users beside those in TIME_WAIT", forecast, side.admitted);
    outcome.claim(
        side.admitted == PLACES - CLOSED,
        format!("only the places left are given: {}", side.admitted),
    );
    outcome.sides.push(side);
    served.stop()?;

    let mut side = Side::new("the server closes first, short delay", format!("delay {SHORT_DELAY_MS} ms"));
    let served = stage.serve(&launch(8082, SHORT_DELAY_MS))?;
    churn(&served, CLOSED, User::say_goodbye);
    thread::sleep(Duration::from_millis(SHORT_DELAY_MS));
    let metrics = served.metrics_when(SOON, |metrics| waiting(metrics) == 0)?;
    let (kept, _) = side_by_side(&mut side, &served, &metrics)?;
    outcome.claim(
        waiting(&metrics) == 0 && kept == CLOSED,
        format!("the model has let go of all, the kernel of none: {} and {kept}", waiting(&metrics)),
    );
    come(&served, &mut side);
    outcome.claim(side.admitted == ASKED, format!("all {ASKED} get in: {}", side.admitted));
    outcome.sides.push(side);
    served.stop()?;

    let mut side = Side::new("the clients close first", format!("delay {} s", WINDOWS_DELAY_MS / 1000));
    let served = stage.serve(&launch(8083, WINDOWS_DELAY_MS))?;
    churn(&served, CLOSED, User::walk_out);
    let metrics = served.settle()?;
    let (server, client) = side_by_side(&mut side, &served, &metrics)?;
    outcome.claim(
        waiting(&metrics) == 0 && server == 0 && client >= CLOSED,
        format!("the clients have it: model {}, kernel {client} at the clients'", waiting(&metrics)),
    );
    come(&served, &mut side);
    outcome.claim(side.admitted == ASKED, format!("all {ASKED} get in: {}", side.admitted));
    outcome.sides.push(side);
    served.stop()?;
    Ok(outcome)
}

/// Users come, and leave without a trace.
fn come(served: &Served, side: &mut Side) {
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(1), ASKED);
    crowd.tell(side);
    crowd.users.into_iter().for_each(User::reset);
}

/// Places of a table, scaled down from Windows' 2,000.
const SMALL_PLACES: u64 = 300;
/// MaxFreeTWTcbs, scaled down from 1,000.
const SMALL_MAX: u64 = 150;
/// Cycles of coming and leaving.
const CYCLES: u64 = 500;
/// Past the 60 s after which Windows 2000 takes a TIME_WAIT back.
const PAST_60_S: Duration = Duration::from_secs(62);

/// Churn under the three policies; and the kernel's own maximum and reuse.
pub fn time_wait_max(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "a network namespace of its own; {SMALL_PLACES} TCBs, TIME_WAIT included, delay 240 s; users come \
             and leave; the first {SMALL_PLACES} at once, the rest 62 s later"
        ),
        moved_by: vec![
            "tcb.time_wait_reuse = \"peer-differs\" (Windows Server 2003 SP1; --profile windows-2003-sp1)"
                .into(),
            "tcb.time_wait_reuse = \"older-than-60s\" (Windows 2000; --profile windows-2000)".into(),
        ],
        ..Outcome::default()
    };
    let policies = [("never", SMALL_PLACES), ("older-than-60s", SMALL_MAX), ("peer-differs", SMALL_MAX)];
    let mut playing = Vec::new();
    for (port, (policy, max)) in (8081..).zip(policies) {
        let launch = Launch {
            port: Some(port),
            ..Launch::with(&[
                ("tcb.capacity", SMALL_PLACES),
                ("tcb.time_wait_delay_ms", WINDOWS_DELAY_MS),
                ("tcb.time_wait_max", max),
            ])
            .and("tcb.time_wait_counts", true)
            .and("tcb.time_wait_reuse", policy)
        };
        if outcome.doctor.is_none() {
            outcome.doctor = doctor::predict(stage, "time-wait-max", &launch, CYCLES);
        }
        let served = stage.serve(&launch)?;
        let first = churn(&served, SMALL_PLACES, User::say_goodbye);
        playing.push((policy, max, served, first));
    }
    let start = std::time::Instant::now();
    kernel_maximum(stage, &mut outcome)?;
    kernel_reuse(stage, &mut outcome)?;
    thread::sleep(PAST_60_S.saturating_sub(start.elapsed()));

    for (policy, max, served, first) in playing {
        let then = churn(&served, CYCLES - SMALL_PLACES, User::say_goodbye);
        let mut side = Side::new(policy, format!("{SMALL_PLACES} TCBs, time_wait_max {max}"));
        let full = |refusal: &Refusal| matches!(refusal, Refusal::Http { status: 503, .. });
        let told = first.told(full) + then.told(full);
        (side.asked, side.refused) = (CYCLES, first.refused() + then.refused());
        side.admitted = CYCLES - side.refused;
        for (refusal, count) in first.refusals.iter().chain(&then.refusals) {
            side.symptom(format!("{refusal} x {count}"));
        }
        // A full table answers nobody; then what it says of itself cannot be asked for.
        if let Ok(metrics) = served.metrics() {
            side.fact("TIME_WAIT reused", commas(metrics.get("tcb_time_wait_total{event=\"reused\"}")));
            side.fact("in TIME_WAIT", commas(waiting(&metrics)));
        }
        if policy == "never" {
            outcome.claim(
                told == CYCLES - SMALL_PLACES,
                format!("under `never` the wall is hit after {SMALL_PLACES}: {told} are told 503"),
            );
        } else {
            outcome.claim(side.refused == 0, format!("under `{policy}` it is not: {} refused", side.refused));
        }
        outcome.sides.push(side);
        served.stop()?;
    }
    Ok(outcome)
}

/// `tcp_max_tw_buckets`: past it, the kernel skips TIME_WAIT and counts that.
fn kernel_maximum(stage: &Stage, outcome: &mut Outcome) -> Result<(), Trouble> {
    const MAX: u64 = 1000;
    const NAME: &str = "net.ipv4.tcp_max_tw_buckets";
    let served = stage.serve(&Launch::with(&[("tcb.capacity", 1000)]))?;
    // The policies' connections are among the kernel's; those of this server come on top.
    let (already, _) = all_time_wait()?;
    netns::sysctl(NAME, &MAX.to_string())?;
    let before = Counters::read()?;
    churn(&served, 300, User::say_goodbye);
    let skipped = Counters::read()?.since(&before, "TCPTimeWaitOverflow");
    netns::sysctl(NAME, "65536")?;
    served.stop()?;
    outcome.claim(
        skipped > 0 && skipped <= 300,
        format!("{NAME}={MAX} with {already} already there: TCPTimeWaitOverflow +{skipped} of 300"),
    );
    outcome.notes.push(format!(
        "The kernel's own maximum: with {NAME}={MAX} and {already} already there, 300 more closes gave \
         TCPTimeWaitOverflow +{skipped}: those skip TIME_WAIT."
    ));
    Ok(())
}

/// Sockets in TIME_WAIT at the ports of the policies' servers, and how many servers those are.
fn all_time_wait() -> Result<(u64, u64), Trouble> {
    let mut sum = 0;
    for port in 8081..8084 {
        sum += netns::time_wait(port)?.0;
    }
    Ok((sum, 3))
}

/// `tcp_tw_reuse`: whether a client may take a port back that is in TIME_WAIT.
fn kernel_reuse(stage: &Stage, outcome: &mut Outcome) -> Result<(), Trouble> {
    const PORTS: u64 = 200;
    const MORE: u64 = 50;
    netns::sysctl("net.ipv4.ip_local_port_range", "20000 20199")?;
    netns::sysctl("net.ipv4.tcp_tw_reuse", "0")?;
    let served = stage.serve(&Launch::with(&[("tcb.capacity", 1000)]))?;
    let refused = churn(&served, PORTS + MORE, User::walk_out);
    netns::sysctl("net.ipv4.tcp_tw_reuse", "1")?;
    // RFC 7323: a timestamp must have passed since the last segment; the kernel asks for a second.
    thread::sleep(Duration::from_millis(1500));
    let reused = churn(&served, MORE, User::walk_out);
    served.stop()?;
    outcome.claim(
        refused.refused() == MORE && reused.refused() == 0,
        format!("tcp_tw_reuse: {} refused without it, {} with it", refused.refused(), reused.refused()),
    );
    let words = refused.refusals.first().map(|(refusal, _)| refusal.to_string()).unwrap_or_default();
    outcome.notes.push(format!(
        "The kernel's own reuse, clients closing first, {PORTS} ports: tcp_tw_reuse=0 {words} x {}; \
         tcp_tw_reuse=1 none in {MORE}.",
        refused.refused()
    ));
    Ok(())
}
