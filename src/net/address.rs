//! Where the server listens: an IP address and port, or a Unix socket.
//!
//! Opens nothing. Written `127.0.0.1:8080`, `[::1]:8080` and `unix:/run/tcbchat/tcbchat.sock`.
//!
//! Invariant: the path of a Unix socket is absolute and fits into a socket address.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::wire::framing::Framing;

/// Bytes of a path in a Unix socket's address (`sun_path` of unix(7), without its NUL).
const PATH_BYTES_MAX: usize = 107;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP. A port 0 stands for one that the kernel picks.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

/// Where to listen, and what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: Address,
    /// How STOMP frames lie in what comes.
    pub framing: Framing,
}

impl fmt::Display for Endpoint {
    /// As a URL where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.framing) {
            (Address::Tcp(address), Framing::WebSocket) => write!(f, "http://{address}"),
            (Address::Tcp(address), Framing::Bare) => write!(f, "stomp://{address}"),
            (Address::Unix(_), Framing::WebSocket) => self.address.fmt(f),
            (Address::Unix(path), Framing::Bare) => write!(f, "stomp+unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether only this machine can connect. Loopback as the kernel sees it, IPv4 inside IPv6 included.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Address::Unix(_) => true,
        }
    }
}

/// It is neither IP:PORT nor `unix:` and an absolute path of at most 107 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnAddress;

impl FromStr for Address {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<Address, NotAnAddress> {
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() && path.len() <= PATH_BYTES_MAX => {
                Ok(Address::Unix(path.into()))
            }
            Some(_) => Err(NotAnAddress),
            None => text.parse().map(Address::Tcp).map_err(|_| NotAnAddress),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for text in ["127.0.0.1:80", "[::1]:0", "unix:/run/tcbchat.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(PATH_BYTES_MAX));
        for bad in ["localhost:80", "unix:", "unix:run/tcbchat.sock", "/run/tcbchat.sock", &long] {
            assert_eq!(bad.parse::<Address>(), Err(NotAnAddress), "{bad}");
        }
    }

    #[test]
    fn who_can_connect() {
        for (text, is_local) in
            [("127.9.9.9:1", true), ("[::ffff:127.0.0.1]:1", true), ("0.0.0.0:1", false), ("unix:/a", true)]
        {
            assert_eq!(text.parse::<Address>().unwrap().is_local(), is_local, "{text}");
        }
    }
}
