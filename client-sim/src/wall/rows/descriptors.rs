//! Descriptors: EMFILE as the kernel gives it, the refusal that comes before it, and the way around it.
//!
//! Invariant: only limits of own processes are lowered, and only soft ones that can be raised again.

use std::thread;
use std::time::Duration;

use rustix::process::Resource;

use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, commas};
use crate::wall::stage::{Launch, Stage};
use crate::wall::user::{Crowd, Refusal, SOON, source};

/// Descriptors of one table.
const LIMIT: u64 = 512;
/// What a capacity that fits into them leaves (`reactors.fd_reserve`).
const RESERVE: u64 = 256;
/// Users that want in.
const ASKED: u64 = 700;
/// Time that users wait who are not accepted.
const PATIENCE: Duration = Duration::from_millis(2500);
/// A second at the wall, in which the server must not spin.
const AT_THE_WALL: Duration = Duration::from_secs(1);
/// `accept` is tried again ten times a second; twice that is still far from a spin.
const ERRORS_PER_S_MAX: u64 = 20;

/// EMFILE on accept, 503 before it, and private tables past it.
pub fn connections(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!("this machine's loopback; {LIMIT} descriptors for each table of the server's process"),
        moved_by: vec![
            "tcbchat serve --capacity N (a capacity past the table's limit gets several reactors, each with a \
             table of its own)"
                .into(),
            "ulimit -n N, or LimitNOFILE= in the unit".into(),
        ],
        ..Outcome::default()
    };
    lowered(stage, &mut outcome)?;
    refused(stage, &mut outcome)?;
    private(stage, &mut outcome)?;
    Ok(outcome)
}

/// A limit lowered under a running server, which had planned for more.
fn lowered(stage: &Stage, outcome: &mut Outcome) -> Result<(), Trouble> {
    let launch = Launch::with(&[("tcb.capacity", 2000), ("reactors.count", 1)]);
    let served = stage.serve(&launch)?;
    let before = served.set_limit(Resource::Nofile, LIMIT)?;
    let free = LIMIT - served.descriptors_open()?;
    let forecast = doctor::maximum_of(stage, &launch, served.pid());
    let mut side =
        Side::new("lowered under a server that had planned for more", format!("ulimit -n {LIMIT}"));

    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), free);
    crowd.burst(served.address, source(0), ASKED - free, PATIENCE)?;
    // Those who gave up are still in the kernel's queue, and no descriptor is free: accept goes on failing.
    let cpu = served.cpu_s();
    thread::sleep(AT_THE_WALL);
    let cpu_share = (served.cpu_s() - cpu) / AT_THE_WALL.as_secs_f64() * 100.0;
    crowd.tell(&mut side);
    let unanswered = crowd.told(|refusal| matches!(refusal, Refusal::NoAnswer { .. }));

    served.set_limit(Resource::Nofile, before)?;
    let mut back = Crowd::default();
    back.queue(served.address, source(0), ASKED - side.admitted);
    let metrics = served.metrics()?;
    let errors = metrics.get("accept_errors_total");
    let log = served.logged("accept failed").unwrap_or_default();
    let is_emfile = log.contains("os error 24");
    side.symptoms.insert(0, format!("EMFILE at accept() in the server, accept_errors_total +{errors}"));
    side.fact("CPU at the wall", format!("{cpu_share:.1} % of a core: no spin"));
    side.fact("limit raised again", format!("{} of {} get in", back.admitted(), ASKED - side.admitted));
    outcome.hold("users of the server whose limit was lowered", forecast, side.admitted);
    outcome.claim(is_emfile, format!("the server's accept says EMFILE: {}", log.trim()));
    outcome.claim(
        side.admitted.abs_diff(free) <= 1,
        format!("{free} descriptors were free, {} users got in", side.admitted),
    );
    outcome.claim(unanswered > 0, format!("{unanswered} were connected by the kernel and heard nothing"));
    let most = (PATIENCE + AT_THE_WALL + SOON).as_secs() * ERRORS_PER_S_MAX;
    outcome.claim(
        (1..=most).contains(&errors),
        format!("accept is retried, and does not spin: {errors} errors"),
    );
    outcome.claim(cpu_share < 20.0, format!("{cpu_share:.1} % of a core at the wall"));
    outcome.claim(back.refused() == 0, format!("with the limit raised {} more get in", back.admitted()));
    outcome.sides.push(side);
    drop((crowd, back));
    served.stop()
}

/// A capacity that fits into the limit: refused in HTTP, before the kernel has to.
fn refused(stage: &Stage, outcome: &mut Outcome) -> Result<(), Trouble> {
    let capacity = LIMIT - RESERVE;
    let launch = Launch {
        ulimit: Some(format!("-n {LIMIT}")),
        ..Launch::with(&[("tcb.capacity", capacity), ("reactors.count", 1)])
    };
    outcome.doctor = doctor::predict(stage, "connections", &launch, ASKED);
    let forecast = doctor::maximum(stage, &launch);
    let served = stage.serve(&launch)?;
    let limit = format!("ulimit -n {LIMIT}, tcb.capacity {capacity}");
    let mut side = Side::new("one table, capacity planned within it", limit);
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), ASKED);
    crowd.tell(&mut side);
    let told =
        crowd.told(|refusal| matches!(refusal, Refusal::Http { status: 503, retry_after: Some(_), .. }));
    drop(crowd);
    let errors = served.settle()?.get("accept_errors_total");
    side.fact("accept errors", commas(errors));
    outcome.hold("users of one table", forecast, side.admitted);
    outcome.claim(side.admitted == capacity, format!("the capacity is admitted: {}", side.admitted));
    outcome.claim(
        told == ASKED - capacity,
        format!("every other is told 503 with Retry-After: {told} of {}", ASKED - capacity),
    );
    outcome.claim(errors == 0, format!("accept never failed: {errors} errors"));
    outcome.sides.push(side);
    served.stop()
}

/// The same limit, and more connections than a table holds.
fn private(stage: &Stage, outcome: &mut Outcome) -> Result<(), Trouble> {
    let launch = Launch { ulimit: Some(format!("-n {LIMIT}")), ..Launch::with(&[("tcb.capacity", ASKED)]) };
    let forecast = doctor::maximum(stage, &launch);
    let served = stage.serve(&launch)?;
    let reactors = served.metrics()?.get("reactors");
    let limit = format!("ulimit -n {LIMIT}, tcb.capacity {ASKED}");
    let mut side = Side::new("the same limit, a table for each reactor", limit);
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), ASKED);
    crowd.tell(&mut side);
    drop(crowd);
    side.fact("accept errors", commas(served.settle()?.get("accept_errors_total")));
    side.fact("reactors", reactors.to_string());
    outcome.hold("users of a table for each reactor", forecast, side.admitted);
    outcome.claim(
        side.admitted == ASKED && ASKED > LIMIT,
        format!("{} connections in a process whose limit is {LIMIT}", side.admitted),
    );
    outcome.sides.push(side);
    served.stop()
}
