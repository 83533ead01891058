//! The TCB table: its places, and the chains of its index.
//!
//! Invariant: the number of users is exact; a bound that is off by one is not shown.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::scrape::Metrics;
use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, commas};
use crate::wall::stage::{Launch, Stage};
use crate::wall::user::{Crowd, Refusal, SOON, User, source};

/// TCBs of Windows Server 2003.
const TCBS: u64 = 2000;
/// Connections that have just been closed.
const CLOSED: u64 = 500;
/// The users of the article's reader, who could not connect any more "after about 1500".
const USERS: u64 = TCBS - CLOSED;
/// Users without that table.
const MANY: u64 = 50_000;

/// The 1,500 wall, and 50,000 past it.
pub fn tcb_table(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: "this machine's loopback; the wall is the server's own".into(),
        moved_by: vec![
            "tcbchat serve --profile linux (or tcb.capacity, tcb.time_wait_counts = false)".into(),
        ],
        notes: vec![
            "Windows ignores MaxFreeTcbs since Vista and Server 2008; the profile is a reconstruction of what \
             was before. The article's reader never says which of several walls his 1,500 were."
                .into(),
        ],
        ..Outcome::default()
    };
    windows(stage, &mut outcome)?;
    linux(stage, &mut outcome)?;
    Ok(outcome)
}

fn windows(stage: &Stage, outcome: &mut Outcome) -> Result<(), Trouble> {
    let launch = Launch { profile: Some("windows-2003"), ..Launch::default() };
    outcome.doctor = doctor::predict(stage, "tcb-table", &launch, TCBS);
    let served = stage.serve(&launch)?;
    let capacity = served.metrics()?.get("tcb_capacity");
    let mut past = Crowd::default();
    past.queue(served.address, source(1), CLOSED);
    let came = past.admitted();
    past.users.into_iter().for_each(User::say_goodbye);
    let time_wait = |metrics: &Metrics| metrics.get("tcb_entries{state=\"time_wait\"}");
    let before = served.metrics_when(SOON, |metrics| time_wait(metrics) == CLOSED)?;

    let forecast = doctor::maximum_of(stage, &launch, served.pid());
    let mut side = Side::new("--profile windows-2003", format!("{} TCBs", commas(capacity)));
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), capacity);
    crowd.tell(&mut side);
    let first_told = crowd.refusals.first().map(|(refusal, _)| refusal.to_string()).unwrap_or_default();
    let told = crowd.told(|refusal| matches!(refusal, Refusal::Http { status: 503, .. }));
    drop(crowd);
    let after = served.settle()?;
    side.fact("in TIME_WAIT", format!("{} just closed by the server", commas(time_wait(&before))));
    side.fact("refused total", commas(after.get("tcb_refused_total")));
    outcome.claim(capacity == TCBS, format!("the profile has {TCBS} TCBs: {capacity}"));
    outcome.claim(
        came == CLOSED && time_wait(&before) == CLOSED,
        format!("{CLOSED} of them are in TIME_WAIT: {}", time_wait(&before)),
    );
    outcome.hold("users beside those in TIME_WAIT", forecast, side.admitted);
    outcome.claim(side.admitted == USERS, format!("exactly {USERS} users are admitted: {}", side.admitted));
    outcome.claim(
        told == capacity - USERS,
        format!("user {} and all after it are refused with the reason ({first_told}): {told}", USERS + 1),
    );
    outcome.sides.push(side);
    served.stop()
}

fn linux(stage: &Stage, outcome: &mut Outcome) -> Result<(), Trouble> {
    let file = std::env::temp_dir().join(format!("client-sim-wall-{}.json", std::process::id()));
    let held = hold_with_server(&stage.binary, &file);
    let report = held.and_then(|()| Ok(std::fs::read_to_string(&file)?));
    // Nothing else reads it, and a file that was not written need not be removed.
    drop(std::fs::remove_file(&file));
    let report: serde_json::Value =
        serde_json::from_str(&report?).map_err(|error| format!("the report of hold: {error}"))?;
    let count = |name: &str| report["connections"][name].as_u64().unwrap_or(0);
    let mut side = Side::new("--profile linux", format!("tcb.capacity {}+", commas(MANY)));
    (side.asked, side.admitted, side.refused) = (count("asked"), count("ready"), count("failed"));
    side.fact("in TIME_WAIT", "not in the table");
    let held = &report["memory"]["held"];
    let bytes =
        |name: &str| held[name].as_f64().map_or_else(|| "?".to_owned(), |bytes| format!("{bytes:.0}"));
    side.fact(
        "bytes each",
        format!(
            "{} user + {} kernel, at the server",
            bytes("server_user_bytes"),
            bytes("kernel_slab_bytes_per_end")
        ),
    );
    side.fact("set up in", format!("{:.1} s", report["connections"]["set_up_s"].as_f64().unwrap_or(0.0)));
    outcome.claim(side.admitted == MANY, format!("{MANY} users are admitted: {}", side.admitted));
    outcome.sides.push(side);
    Ok(())
}

/// `client-sim hold` with a server of its own, in a process of its own: its descriptor tables are fresh.
fn hold_with_server(binary: &Path, json: &Path) -> Result<(), Trouble> {
    let mut command = hold(MANY)?;
    command.arg("--spawn-server").arg(binary);
    command.args(["--server-arg", "--profile", "--server-arg", "linux", "--hold", "1", "--json"]).arg(json);
    finish(command)
}

fn hold(connections: u64) -> Result<Command, Trouble> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["hold", "--quiet", "--no-goodbye", "--connect-rate", "20000", "--connections"])
        .arg(connections.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Ok(command)
}

fn finish(mut command: Command) -> Result<(), Trouble> {
    let output = command.stderr(Stdio::piped()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Trouble::Broken(format!("client-sim hold: {}: {}", output.status, text.trim())))
}

/// Buckets of Windows' smallest, default and largest table.
const BUCKETS: [u64; 3] = [64, 512, 65_536];
/// Time that the connections are held, in which the chains are read.
const HOLD: Duration = Duration::from_secs(2);

/// Longer chains, slower lookups: the same connections in 64, 512 and 65,536 buckets.
pub fn hash_table(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!("this machine's loopback; {} connections in one partition", commas(MANY)),
        moved_by: vec!["tcb.hash_buckets = 65536 (0 sizes it from the capacity)".into()],
        notes: vec![
            "Nothing is refused at this wall: it is paid in CPU, at every connect and every close. \
             cargo bench -p tcbchat-bench --bench tcb has the lookup alone."
                .into(),
        ],
        ..Outcome::default()
    };
    outcome.doctor = doctor::predict(stage, "hash-table", &in_buckets(BUCKETS[0]), MANY);
    let mut cost = Vec::new();
    for buckets in BUCKETS {
        let (side, micros) = chains(stage, buckets, &mut outcome)?;
        outcome.sides.push(side);
        cost.push(micros);
    }
    outcome.claim(
        cost[0] > cost[2],
        format!(
            "server CPU for each connection, longest chains against shortest: {:.1} us > {:.1} us",
            cost[0], cost[2]
        ),
    );
    outcome.sides[0].symptom(format!("{:.1} x the CPU of the shortest chains", cost[0] / cost[2]));
    Ok(outcome)
}

fn in_buckets(buckets: u64) -> Launch {
    Launch::with(&[("tcb.capacity", MANY + 64), ("tcb.hash_buckets", buckets), ("tcb.partitions", 1)])
}

fn chains(stage: &Stage, buckets: u64, outcome: &mut Outcome) -> Result<(Side, f64), Trouble> {
    let served = stage.serve(&in_buckets(buckets))?;
    let cpu_before = served.cpu_s();
    let mut command = hold(MANY)?;
    command
        .args(["--url", &format!("ws://{}/ws", served.address), "--hold", &HOLD.as_secs().to_string()])
        .args(["--server-pid", &served.pid().to_string()]);
    let clients = std::thread::spawn(move || finish(command));
    let full = |metrics: &Metrics| metrics.get("tcb_entries{state=\"established\"}") >= MANY;
    let metrics = served.metrics_when(Duration::from_secs(60), full)?;
    clients.join().map_err(|_| "a client panicked".to_owned())??;
    let closed = served.settle()?;
    let cpu_s = served.cpu_s() - cpu_before;

    let mut side = Side::new(format!("{} buckets", commas(buckets)), format!("tcb.hash_buckets {buckets}"));
    let entries: u64 = metrics.labelled("tcb_entries").iter().map(|(_, count)| count).sum();
    (side.asked, side.admitted) = (MANY, closed.get("tcb_admitted_total").min(MANY));
    side.refused = closed.get("tcb_refused_total");
    let mean = entries as f64 / buckets as f64;
    let micros = cpu_s * 1e6 / MANY as f64;
    side.fact("mean chain", format!("{mean:.1} connections behind a bucket"));
    side.fact("CPU each", format!("{micros:.1} us of the server, connect to close"));
    side.fact("chain lengths", plot(&metrics.labelled("tcb_buckets")));
    outcome.claim(full(&metrics), format!("{} connections were open in {buckets} buckets", commas(entries)));
    served.stop()?;
    Ok((side, micros))
}

/// Bars of how many buckets have a chain of each length.
fn plot(chains: &[(String, u64)]) -> String {
    const BAR: u64 = 18;
    let all: u64 = chains.iter().map(|(_, buckets)| buckets).sum();
    let bars = chains.iter().filter(|(_, buckets)| *buckets > 0).map(|(length, buckets)| {
        let bar = "#".repeat((buckets * BAR).div_ceil(all.max(1)) as usize);
        format!("{length:<2} {bar} {}", commas(*buckets))
    });
    bars.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_bar_for_each_length_that_there_is() {
        let chains = [("0".to_owned(), 30), ("1".to_owned(), 60), ("2".to_owned(), 0), ("8+".to_owned(), 1)];
        let text = plot(&chains);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("1  ####") && lines[1].ends_with(" 60"), "{text}");
        assert!(lines[2].contains("# 1"), "a bucket that is there is seen: {text}");
    }
}
