//! The client's ports: how many connections one address has, and what is taken out of them.
//!
//! Invariant: the range of ports is that of Windows, so that the numbers are the article's.

use std::net::IpAddr;

use crate::plan::{Machine, Plan, Wish};
use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, commas};
use crate::wall::stage::{Launch, Served, Stage};
use crate::wall::user::{Crowd, Refusal, SOON, User, source};

/// Windows' dynamic ports: 1024 to MaxUserPort.
const WINDOWS_RANGE: &str = "1024 5000";
/// How many that are.
const WINDOWS_PORTS: u64 = 3977;
/// The range with MaxUserPort at its most.
const WIDE_RANGE: &str = "1024 65534";
const RANGE: &str = "net.ipv4.ip_local_port_range";
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
/// Users that want in.
const ASKED: u64 = 5000;

/// What client-sim's plan says that one address has, in this namespace.
fn planned() -> u64 {
    let wish = Wish {
        connections: ASKED as u32,
        destination: IpAddr::from([127, 0, 0, 1]),
        server_here: true,
        threads: None,
        source_addresses: Some(1),
        room_size: 1,
    };
    u64::from(Plan::new(&wish, &Machine::read()).ports_per_address)
}

/// A side in which all come: the first share of them from the first address, the next from the second, ...
fn come(served: &Served, mut side: Side, addresses: u8) -> Result<(Side, u64), Trouble> {
    let mut crowd = Crowd::default();
    let share = ASKED.div_ceil(u64::from(addresses));
    for n in 0..addresses {
        fill(&mut crowd, served, source(n), share.min(ASKED - share * u64::from(n)));
    }
    crowd.tell(&mut side);
    let exhausted = crowd.told(is_exhausted);
    side.fact("server holds", commas(served.metrics()?.get("connections_open").saturating_sub(1)));
    // A TIME_WAIT would keep ports that are needed again.
    crowd.users.into_iter().for_each(User::reset);
    served.settle()?;
    Ok((side, exhausted))
}

fn is_exhausted(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Errno { call: "connect", errno }
        if *errno == rustix::io::Errno::ADDRNOTAVAIL.raw_os_error())
}

/// Users from one address. The first who is refused tries again after [`turn`].
fn fill(crowd: &mut Crowd, served: &Served, from: IpAddr, count: u64) {
    let come = || User::arrive(served.address, from, SOON);
    let mut has_turned = false;
    for _ in 0..count {
        let mut arrival = come();
        if !has_turned && arrival.as_ref().err().is_some_and(is_exhausted) {
            has_turned = true;
            turn(crowd, come);
            arrival = come();
        }
        crowd.note(arrival);
    }
}

/// Lets the user on the last port but two leave and come again.
///
/// The kernel searches the range in steps of two, from where it found the last port, and over an even number
/// of ports: of an odd range it looks at the first only when it begins there. It does after it has given
/// the last but two.
fn turn(crowd: &mut Crowd, come: impl Fn() -> Result<User, Refusal>) {
    let last = Machine::read().port_range.end().saturating_sub(2);
    let port = |user: &User| user.stream().local_addr().map_or(0, |address| address.port());
    if let Some(at) = crowd.users.iter().position(|user| port(user) == last) {
        crowd.users.swap_remove(at).reset();
        crowd.note(come());
    }
}

/// 3,977 connections from one address, and not one more.
pub fn user_ports(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!("a network namespace of its own, sysctl {RANGE}='{WINDOWS_RANGE}' in it"),
        moved_by: vec![
            "client-sim hold --source-addresses 2 (each address has all the ports again)".into(),
            format!("sysctl -w {RANGE}='{WIDE_RANGE}' (Windows: MaxUserPort = 65534)"),
        ],
        ..Outcome::default()
    };
    netns::sysctl(RANGE, WINDOWS_RANGE)?;
    let launch = Launch::with(&[("tcb.capacity", 2 * ASKED)]);
    outcome.doctor = doctor::predict(stage, "user-ports", &launch, ASKED);
    let forecast = doctor::left(stage, &launch, "user-ports");
    let served = stage.serve(&launch)?;

    let ports = planned();
    let (one, exhausted) =
        come(&served, Side::new("one source address", format!("{} ports", commas(ports))), 1)?;
    outcome.hold("ports of one address", forecast, one.admitted);
    outcome
        .claim(one.admitted == WINDOWS_PORTS, format!("one address has 3,977 connections: {}", one.admitted));
    outcome.claim(exhausted == ASKED - WINDOWS_PORTS, format!("all others see EADDRNOTAVAIL: {exhausted}"));
    outcome.claim(ports == one.admitted, format!("client-sim had planned {ports}"));

    let (two, _) =
        come(&served, Side::new("two source addresses", format!("2 x {} ports", commas(ports))), 2)?;
    outcome.claim(two.admitted == ASKED, format!("two addresses carry {ASKED}: {}", two.admitted));

    netns::sysctl(RANGE, WIDE_RANGE)?;
    let (wide, _) =
        come(&served, Side::new("one address, wider range", format!("{} ports", commas(planned()))), 1)?;
    outcome.claim(wide.admitted == ASKED, format!("the wider range carries {ASKED}: {}", wide.admitted));
    outcome.sides = vec![one, two, wide];
    served.stop()?;
    Ok(outcome)
}

/// Reserved ports are missing from the maximum, one for one.
pub fn reserved_ports(stage: &Stage) -> Result<Outcome, Trouble> {
    const LIST: &str = "2000-2499,3000";
    const COUNT: u64 = 501;
    let mut outcome = Outcome {
        stage: format!(
            "a network namespace of its own, sysctl {RANGE}='{WINDOWS_RANGE}' {RESERVED}='{LIST}' in it"
        ),
        moved_by: vec![format!("sysctl -w {RESERVED}='' (or more source addresses)")],
        ..Outcome::default()
    };
    netns::sysctl(RANGE, WINDOWS_RANGE)?;
    netns::sysctl(RESERVED, LIST)?;
    let launch = Launch::with(&[("tcb.capacity", 2 * ASKED)]);
    outcome.doctor = doctor::predict(stage, "reserved-ports", &launch, ASKED);
    let forecast = doctor::left(stage, &launch, "user-ports");
    let served = stage.serve(&launch)?;

    let run = |title: String| -> Result<(Side, u64), Trouble> {
        let ports = planned();
        let (mut side, _) = come(&served, Side::new(title, format!("{} ports", commas(ports))), 1)?;
        side.fact("planned", commas(ports));
        Ok((side, ports))
    };
    let (reserved, planned_reserved) = run(format!("{COUNT} ports reserved"))?;
    outcome.hold("ports of one address that are not reserved", forecast, reserved.admitted);
    netns::sysctl(RESERVED, "")?;
    let (free, planned_free) = run("none reserved".into())?;
    outcome.claim(
        planned_free - planned_reserved == COUNT,
        format!("the plan drops by exactly {COUNT}: {planned_free} to {planned_reserved}"),
    );
    outcome.claim(
        reserved.admitted == planned_reserved,
        format!("the kernel gives what was planned: {}", reserved.admitted),
    );
    outcome.claim(free.admitted == planned_free, format!("and without reservation, too: {}", free.admitted));
    outcome.sides = vec![reserved, free];
    served.stop()?;
    Ok(outcome)
}
