//! A firewall in front that does not take more: the server is idle, and nobody gets in.
//!
//! Invariant: the rules are in the stage's own namespace and end with it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use netns::Counters;

use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, commas};
use crate::wall::stage::{Launch, Served, Stage};
use crate::wall::user::{Crowd, Refusal, User, source};

/// Connections that the firewall lets through.
const FEW: u64 = 200;
/// The same, raised.
const MANY: u64 = 2000;
/// Users that want in.
const ASKED: u64 = 300;
/// Time that a user waits for a SYN-ACK.
const PATIENCE: Duration = Duration::from_secs(2);
/// The table of rules.
const TABLE: &str = "tcbchat_wall";

/// `ct count over N drop` in front of the server.
pub fn nat(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "a network namespace of its own with a firewall in it: nft 'tcp dport 8080 ct state new ct count \
             over {FEW} drop'"
        ),
        moved_by: vec![
            format!("the firewall's rule: ct count over {MANY}"),
            "on a real one: sysctl -w net.netfilter.nf_conntrack_max=N, with hashsize N/4".into(),
        ],
        notes: vec![
            "nf_conntrack_max itself belongs to the host's first namespace and is not touched; a full table \
             looks the same from outside: SYNs vanish, and the server has nothing to do."
                .into(),
        ],
        ..Outcome::default()
    };
    firewall(FEW)?;
    let launch = Launch::with(&[("tcb.capacity", 2 * ASKED)]);
    outcome.doctor = doctor::predict(stage, "nat", &launch, ASKED);
    let served = stage.serve(&launch)?;
    let (few, dropped) = come(&served, FEW, &mut outcome)?;
    outcome.claim(few.admitted == FEW, format!("{FEW} get through: {}", few.admitted));
    outcome.claim(
        dropped >= ASKED - FEW,
        format!("the rule drops the others' SYNs: {dropped} packets for {} users", few.refused),
    );
    outcome.sides.push(few);

    firewall(MANY)?;
    let (many, _) = come(&served, MANY, &mut outcome)?;
    outcome.claim(many.admitted == ASKED, format!("all {ASKED} get through: {}", many.admitted));
    outcome.sides.push(many);
    served.stop()?;
    Ok(outcome)
}

fn come(served: &Served, count: u64, outcome: &mut Outcome) -> Result<(Side, u64), Trouble> {
    let mut side =
        Side::new(format!("ct count over {count}"), format!("{} connections tracked", commas(count)));
    let kernel = Counters::read()?;
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), FEW);
    let cpu_s = served.cpu_s();
    crowd.burst(served.address, source(0), ASKED - FEW, PATIENCE)?;
    let cpu_share = (served.cpu_s() - cpu_s) / PATIENCE.as_secs_f64() * 100.0;
    crowd.tell(&mut side);
    let timed_out = crowd.told(|refusal| *refusal == Refusal::NoSynAck);
    let overflows = Counters::read()?.since(&kernel, "ListenOverflows");
    let dropped = packets_dropped()?;
    if dropped > 0 {
        side.symptom(format!("dropped by the rule: {dropped} packets"));
    }
    side.fact("server", format!("{cpu_share:.1} % of a core, ListenOverflows +{overflows}"));
    outcome.claim(
        timed_out == crowd.refused() && overflows == 0,
        format!("whoever is kept out timed out, and the server's queue never overflowed: {timed_out}"),
    );
    crowd.users.into_iter().for_each(User::reset);
    Ok((side, dropped))
}

fn firewall(count: u64) -> Result<(), Trouble> {
    nft(
        &["-f", "-"],
        &format!(
            "table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{ chain input {{ type filter hook input \
             priority 0; tcp dport 8080 ct state new ct count over {count} counter drop; }}; }}\n"
        ),
    )
    .map(drop)
}

/// What the rule's counter says.
fn packets_dropped() -> Result<u64, Trouble> {
    let rules = nft(&["list", "table", "ip", TABLE], "")?;
    let packets = rules.split_once("counter packets ").and_then(|(_, rest)| rest.split_whitespace().next());
    Ok(packets.and_then(|packets| packets.parse().ok()).unwrap_or(0))
}

/// Runs nft in this namespace.
fn nft(args: &[&str], input: &str) -> Result<String, Trouble> {
    let found = ["nft", "/usr/sbin/nft", "/sbin/nft"].into_iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().ok()
    });
    let mut child = found.ok_or_else(|| {
        Trouble::Missing("there is no nft; install nftables (apt-get install nftables)".into())
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Trouble::Broken(format!("nft {}: {}", args.join(" "), text.trim())))
}
