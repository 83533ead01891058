//! The name of a TCP connection: local address and port, remote address and port.
//!
//! Invariant: two tuples are equal exactly if they name the same connection, whichever address family the
//! listening socket speaks: an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2) is kept as IPv4.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

const _: () = assert!(size_of::<FourTuple>() == 16);

/// Local and remote end of a TCP connection.
///
/// 16 bytes for IPv4, which a dual-stack listener's clients mostly are; IPv6 ends are in a box of 44 more, so
/// that they do not widen every [TCB](super). The flow label of IPv6 is not part of a connection's name and
/// is dropped; the scope of a link-local address is, and is kept.
///
/// ```
/// use tcbchat::tcb::FourTuple;
///
/// let local = "[::ffff:192.0.2.1]:80".parse().unwrap();
/// let remote = "[::ffff:198.51.100.7]:50000".parse().unwrap();
/// let tuple = FourTuple::new(local, remote);
/// assert_eq!(tuple.remote(), "198.51.100.7:50000".parse().unwrap());
/// assert_eq!(tuple.to_string(), "192.0.2.1:80 <- 198.51.100.7:50000");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct FourTuple(Ends);

#[derive(Clone, PartialEq, Eq)]
enum Ends {
    V4 { local: Ipv4Addr, remote: Ipv4Addr, local_port: u16, remote_port: u16 },
    V6(Box<EndsV6>),
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct EndsV6 {
    local: Ipv6Addr,
    remote: Ipv6Addr,
    local_scope: u32,
    remote_scope: u32,
    local_port: u16,
    remote_port: u16,
}

impl FourTuple {
    /// The connection between these ends.
    #[must_use]
    pub fn new(local: SocketAddr, remote: SocketAddr) -> FourTuple {
        FourTuple(match (local.ip().to_canonical(), remote.ip().to_canonical()) {
            (IpAddr::V4(local_ip), IpAddr::V4(remote_ip)) => Ends::V4 {
                local: local_ip,
                remote: remote_ip,
                local_port: local.port(),
                remote_port: remote.port(),
            },
            (local_ip, remote_ip) => Ends::V6(Box::new(EndsV6 {
                local: to_v6(local_ip),
                remote: to_v6(remote_ip),
                local_scope: scope(local),
                remote_scope: scope(remote),
                local_port: local.port(),
                remote_port: remote.port(),
            })),
        })
    }

    /// The name of the `number`th connection over a Unix socket, which has no addresses: ends in 0.0.0.0/8, which no
    /// packet comes from (RFC 1122 section 3.2.1.3). The numbers come again after 2^40.
    #[must_use]
    pub fn unix(number: u64) -> FourTuple {
        FourTuple(Ends::V4 {
            local: Ipv4Addr::UNSPECIFIED,
            remote: Ipv4Addr::from_bits((number >> 16) as u32 & 0x00ff_ffff),
            local_port: 0,
            remote_port: number as u16,
        })
    }

    /// Whether this is the peer's end of a connection over a Unix socket.
    #[must_use]
    pub fn is_unix(peer: IpAddr) -> bool {
        matches!(peer, IpAddr::V4(ip) if ip.octets()[0] == 0)
    }

    /// What stands for an address where it counts how much is on its account: of IPv6 the upper half, because a host has a
    /// whole /64. `None` for loopback addresses, behind which a proxy may be, and for Unix sockets.
    #[must_use]
    pub fn account(address: IpAddr) -> Option<u64> {
        match address.to_canonical() {
            IpAddr::V4(address) => account_v4(address),
            IpAddr::V6(address) => account_v6(address),
        }
    }

    /// The account of the peer's address.
    #[must_use]
    pub fn remote_account(&self) -> Option<u64> {
        match &self.0 {
            Ends::V4 { remote, .. } => account_v4(*remote),
            Ends::V6(ends) => FourTuple::account(ends.remote.into()),
        }
    }

    /// This side's address and port.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        match &self.0 {
            Ends::V4 { local, local_port, .. } => (*local, *local_port).into(),
            Ends::V6(ends) => from_v6(ends.local, ends.local_port, ends.local_scope),
        }
    }

    /// The peer's address and port.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        match &self.0 {
            Ends::V4 { remote, remote_port, .. } => (*remote, *remote_port).into(),
            Ends::V6(ends) => from_v6(ends.remote, ends.remote_port, ends.remote_scope),
        }
    }
}

fn account_v4(address: Ipv4Addr) -> Option<u64> {
    (!matches!(address.octets()[0], 0 | 127)).then(|| address.to_bits().into())
}

fn account_v6(address: Ipv6Addr) -> Option<u64> {
    (!address.is_loopback()).then(|| (address.to_bits() >> 64) as u64 | 1 << 63)
}

fn to_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn from_v6(ip: Ipv6Addr, port: u16, scope: u32) -> SocketAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (ip, port).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    }
}

fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

impl Hash for FourTuple {
    /// Two words for IPv4, where a derived implementation would feed six pieces to the hasher.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Ends::V4 { local, remote, local_port, remote_port } => {
                state.write_u64(u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits()));
                state.write_u32(u32::from(*local_port) << 16 | u32::from(*remote_port));
            }
            Ends::V6(ends) => ends.hash(state),
        }
    }
}

impl fmt::Display for FourTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <- {}", self.local(), self.remote())
    }
}

impl fmt::Debug for FourTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use proptest::prelude::*;

    use super::*;

    fn tuple(local: &str, remote: &str) -> FourTuple {
        FourTuple::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    #[test]
    fn accounts_are_addresses_and_halves_and_no_loopback() {
        let of = |text: &str| FourTuple::account(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!([of("127.0.0.1"), of("::1"), of("::ffff:127.9.9.9"), of("0.0.0.7")], [None; 4]);
        for remote in ["192.0.2.1:5", "[2001:db8::1]:5", "127.0.0.1:5", "[::1]:5"] {
            let remote: SocketAddr = remote.parse().unwrap();
            let local = if remote.is_ipv4() { "192.0.2.9:80" } else { "[2001:db8::9]:80" };
            let tuple = FourTuple::new(local.parse().unwrap(), remote);
            assert_eq!(tuple.remote_account(), FourTuple::account(remote.ip()));
        }
    }

    #[test]
    fn connections_over_unix_sockets_have_names_of_their_own() {
        let mut seen = std::collections::HashSet::new();
        for number in [0, 1, 0xffff, 0x1_0000, 0xff_ffff_ffff] {
            let tuple = FourTuple::unix(number);
            assert!(FourTuple::is_unix(tuple.remote().ip()), "{tuple}");
            assert!(seen.insert(tuple));
        }
        assert!(!FourTuple::is_unix("127.0.0.1".parse().unwrap()));
        assert!(!FourTuple::is_unix("::1".parse().unwrap()));
    }

    #[test]
    fn mapped_addresses_are_the_ipv4_addresses_they_map() {
        let mapped = tuple("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.2]:5000");
        let plain = tuple("10.0.0.1:80", "10.0.0.2:5000");
        assert_eq!(mapped, plain);
        let hasher = RandomState::new();
        assert_eq!(hasher.hash_one(&mapped), hasher.hash_one(&plain));
        assert!(matches!(mapped.0, Ends::V4 { .. }));
    }

    #[test]
    fn every_part_of_the_name_counts() {
        let names = [
            tuple("10.0.0.1:80", "10.0.0.2:5000"),
            tuple("10.0.0.1:81", "10.0.0.2:5000"),
            tuple("10.0.0.1:80", "10.0.0.2:5001"),
            tuple("10.0.0.2:80", "10.0.0.1:5000"),
            tuple("[::1]:80", "[::2]:5000"),
            tuple("[fe80::1%1]:80", "[fe80::2%1]:5000"),
            tuple("[fe80::1%2]:80", "[fe80::2%2]:5000"),
            tuple("10.0.0.1:80", "[::2]:5000"),
        ];
        for (i, a) in names.iter().enumerate() {
            for (j, b) in names.iter().enumerate() {
                assert_eq!(a == b, i == j, "{a} and {b}");
            }
        }
        assert_eq!(names[6].remote(), "[fe80::2%2]:5000".parse().unwrap());
        assert_eq!(names[7].local(), "10.0.0.1:80".parse().unwrap());
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
    }

    proptest! {
        #[test]
        fn the_ends_come_out_as_they_went_in(local in address(), remote in address()) {
            let tuple = FourTuple::new(local, remote);
            let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
            prop_assert_eq!((tuple.local(), tuple.remote()), (canonical(local), canonical(remote)));
            prop_assert_eq!(&tuple, &FourTuple::new(tuple.local(), tuple.remote()));
        }
    }
}
