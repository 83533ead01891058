//! Who may not come: logins and addresses that an operator has banned.
//!
//! Shards have all bans as one value that does not change, and get another when a ban begins or ends. So they look at no clock:
//! who keeps the list takes bans out whose time is up.
//!
//! Invariant: an address is banned by what one host has: itself, or of IPv6 its /64.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use foldhash::fast::RandomState;

/// What one host has: an IPv4 address, or a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(IpAddr);

/// The half of an IPv6 address that a host has whole.
const UPPER: u128 = u128::MAX << 64;

impl Host {
    /// The host that has this address.
    pub fn of(address: IpAddr) -> Host {
        Host(match address.to_canonical() {
            IpAddr::V6(address) if !address.is_loopback() => {
                Ipv6Addr::from_bits(address.to_bits() & UPPER).into()
            }
            address => address,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V6(address) if !address.is_loopback() => write!(f, "{address}/64"),
            address => address.fmt(f),
        }
    }
}

/// A text that names no [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHost;

impl FromStr for Host {
    type Err = NotAHost;

    /// An address, or of IPv6 an address and `/64`.
    fn from_str(text: &str) -> Result<Host, NotAHost> {
        let address = text.strip_suffix("/64").unwrap_or(text);
        match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) if address.len() < text.len() => Err(NotAHost),
            Ok(address) => Ok(Host::of(address)),
            Err(_) => Err(NotAHost),
        }
    }
}

/// All bans, each with the reason that is told.
#[derive(Debug, Default)]
pub struct Bans {
    logins: HashMap<Box<str>, Box<str>, RandomState>,
    hosts: HashMap<Host, Box<str>, RandomState>,
}

impl Bans {
    /// These bans.
    pub fn new(
        logins: impl IntoIterator<Item = (Box<str>, Box<str>)>,
        hosts: impl IntoIterator<Item = (Host, Box<str>)>,
    ) -> Bans {
        Bans { logins: logins.into_iter().collect(), hosts: hosts.into_iter().collect() }
    }

    /// Why this login is banned, if it is.
    pub fn of_login(&self, login: &str) -> Option<&str> {
        self.logins.get(login).map(|reason| &**reason)
    }

    /// Whether any address is banned.
    pub fn has_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Why this address is banned, if it is.
    pub fn of_address(&self, address: IpAddr) -> Option<&str> {
        self.hosts.get(&Host::of(address)).map(|reason| &**reason)
    }

    /// Whether nobody is banned.
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty() && self.hosts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_64() {
        for (text, shown) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::/64"),
            ("2001:db8::/64", "2001:db8::/64"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown, "{text}");
            assert_eq!(shown.parse::<Host>(), text.parse(), "{text}");
        }
        for bad in ["", "192.0.2.1/64", "192.0.2.0/24", "2001:db8::/48", "a", "192.0.2.1:80"] {
            assert_eq!(bad.parse::<Host>(), Err(NotAHost), "{bad}");
        }
    }

    #[test]
    fn a_login_is_banned_as_it_is_written_and_an_address_with_its_64() {
        let bans = Bans::new(
            [("ann".into(), "spam".into())],
            [("2001:db8::7".parse().unwrap(), "noise".into()), ("192.0.2.1".parse().unwrap(), "".into())],
        );
        assert_eq!((bans.of_login("ann"), bans.of_login("Ann")), (Some("spam"), None));
        let of = |text: &str| bans.of_address(text.parse().unwrap());
        assert_eq!((of("2001:db8::9"), of("2001:db8:0:1::7")), (Some("noise"), None));
        assert_eq!((of("::ffff:192.0.2.1"), of("192.0.2.2")), (Some(""), None));
        assert!(bans.has_hosts() && !bans.is_empty() && Bans::default().is_empty());
    }
}
