//! The port plan: source addresses x ephemeral ports.
//!
//! A connection is known by its 4-tuple, so one source address has, towards one destination and port, as
//! many connections as there are ephemeral ports (`ip_local_port_range` less `ip_local_reserved_ports`).
//! All of 127.0.0.0/8 is local on Linux: for a loopback destination more source addresses are free to take.
//! For any other destination the kernel chooses the address, and there is one.
//!
//! Invariant: addresses x ports is at least the connections asked for, or there is a shortage.

use std::net::{IpAddr, Ipv4Addr};

use super::{Machine, Shortage, Wish};

/// Share of the ports of an address that is planned for, in percent. The kernel looks for a free port by
/// trying one after the other from a random start, every second one first; and the ports are shared with connections of
/// others and with TIME_WAIT. Addresses cost nothing, so only half of those every second ones are taken.
const FILL_PERCENT: u64 = 25;

/// Addresses that a plan may take: 127.1.0.1 upwards, `x.y.0.0` and broadcast-like ends left out.
const SOURCES_MAX: u64 = 250 * 250;

pub(super) struct Ports {
    pub(super) per_address: u32,
    pub(super) sources: Vec<IpAddr>,
    pub(super) shortage: Option<Shortage>,
}

impl Ports {
    pub(super) fn plan(wish: &Wish, machine: &Machine) -> Self {
        let per_address = ports_per_address(machine);
        let connections = u64::from(wish.connections);
        let many = matches!(wish.destination, IpAddr::V4(v4) if v4.is_loopback());
        let comfortable = (u64::from(per_address) * FILL_PERCENT / 100).max(1);
        let count = if many {
            wish.source_addresses.map_or(connections.div_ceil(comfortable), u64::from).clamp(1, SOURCES_MAX)
        } else {
            1
        };
        let available = count * u64::from(per_address);
        Self {
            per_address,
            sources: if many { (0..count).map(source).collect() } else { Vec::new() },
            shortage: (available < connections).then(|| Shortage {
                what: "local ports (source addresses x ephemeral ports)",
                needed: connections,
                available,
                remedy: remedy(wish, machine, many, comfortable),
            }),
        }
    }
}

fn remedy(wish: &Wish, machine: &Machine, many: bool, comfortable: u64) -> String {
    let connections = u64::from(wish.connections);
    if many {
        return format!("--source-addresses {}", connections.div_ceil(comfortable));
    }
    let widest = 65_535 - 1024 + 1;
    if connections <= widest && *machine.port_range.start() > 1024 {
        "sysctl -w net.ipv4.ip_local_port_range='1024 65535'".to_owned()
    } else {
        "another machine for part of the clients: one address has no more ports".to_owned()
    }
}

/// Ephemeral ports that are not reserved.
fn ports_per_address(machine: &Machine) -> u32 {
    let range = &machine.port_range;
    let reserved: u32 = machine
        .reserved_ports
        .iter()
        .map(|reserved| {
            let first = (*reserved.start()).max(*range.start());
            let last = (*reserved.end()).min(*range.end());
            u32::from(last).saturating_add(1).saturating_sub(u32::from(first))
        })
        .sum();
    (u32::from(*range.end()) + 1).saturating_sub(u32::from(*range.start())).saturating_sub(reserved)
}

fn source(n: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 1, (n / 250) as u8, (n % 250 + 1) as u8))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{machine, wish};
    use super::*;

    #[test]
    fn reserved_ports_inside_the_range_are_subtracted_exactly() {
        let machine =
            Machine { reserved_ports: vec![30_000..=32_777, 40_000..=40_000, 60_999..=65_000], ..machine() };
        assert_eq!(ports_per_address(&machine), 28_232 - 10 - 1 - 1);
    }

    #[test]
    fn one_address_with_windows_ports_is_refused_and_the_way_out_is_named() {
        let machine = Machine { port_range: 1024..=5000, ..machine() };
        let wish = Wish { source_addresses: Some(1), ..wish(5000) };
        let ports = Ports::plan(&wish, &machine);
        let shortage = ports.shortage.unwrap();
        assert_eq!((shortage.needed, shortage.available), (5000, 3977));
        assert_eq!(shortage.remedy, "--source-addresses 6");
        let more = Ports::plan(&Wish { source_addresses: None, ..wish }, &machine);
        assert!(more.shortage.is_none());
        assert_eq!(more.sources.len(), 6);
    }

    #[test]
    fn a_remote_destination_has_one_source() {
        let wish = Wish { destination: "192.0.2.1".parse().unwrap(), server_here: false, ..wish(30_000) };
        let ports = Ports::plan(&wish, &machine());
        assert!(ports.sources.is_empty());
        assert!(ports.shortage.unwrap().remedy.contains("1024 65535"));
    }

    #[test]
    fn the_loopback_of_ipv6_has_one_address() {
        let wish = Wish { destination: "::1".parse().unwrap(), ..wish(100_000) };
        let ports = Ports::plan(&wish, &machine());
        assert!(ports.shortage.unwrap().remedy.contains("another machine"));
    }

    #[test]
    fn sources_are_distinct_and_plain() {
        let all: std::collections::HashSet<_> = (0..1000).map(source).collect();
        assert_eq!(all.len(), 1000);
        assert_eq!(source(0), "127.1.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(source(250), "127.1.1.1".parse::<IpAddr>().unwrap());
    }
}
