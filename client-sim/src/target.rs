//! Where the simulated clients connect to: a `ws://` URL, resolved once.
//!
//! No I/O beyond name resolution and one connect. `wss://` is refused: the simulator measures sockets, not ciphers.
//!
//! Invariant: the request path starts with `/`.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use tungstenite::http::Uri;

/// A resolved `ws://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The address that every client connects to.
    pub address: SocketAddr,
    /// The URL as it was given, for the report and the upgrade request.
    pub url: String,
    /// `host` as the STOMP CONNECT names it.
    pub host: String,
}

impl Target {
    /// Parses and resolves a URL; of several addresses the first is taken.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn resolve(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        if uri.scheme_str() != Some("ws") {
            return Err(format!("{url}: only ws:// URLs can be simulated"));
        }
        let host = uri.host().ok_or_else(|| format!("{url}: no host"))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        // A port that is none is in the authority and not in `port`.
        let has_port = uri.authority().is_some_and(|authority| {
            authority.as_str().rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
        });
        let port = match uri.port_u16() {
            Some(port) => port,
            None if has_port => return Err(format!("{url}: the port is not one of 0 to 65535")),
            None => 80,
        };
        let address = (bare, port)
            .to_socket_addrs()
            .map_err(|error| format!("{url}: {error}"))?
            .next()
            .ok_or_else(|| format!("{url}: the name has no address"))?;
        Ok(Self { address, url: url.to_owned(), host: bare.to_owned() })
    }

    /// Connects once: a server that is not there is said at once, and not as the failure of every client.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn reach(&self, most: Duration) -> Result<(), String> {
        match TcpStream::connect_timeout(&self.address, most) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("there is no server at {} ({}): {error}", self.url, self.address)),
        }
    }

    /// The endpoint `/ws` of a server on this address.
    pub fn of(address: SocketAddr) -> Self {
        Self { address, url: format!("ws://{address}/ws"), host: address.ip().to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_literals_of_both_families() {
        let v4 = Target::resolve("ws://127.0.0.1:8080/ws").unwrap();
        assert_eq!(v4.address, "127.0.0.1:8080".parse().unwrap());
        let v6 = Target::resolve("ws://[::1]:9/ws").unwrap();
        assert_eq!((v6.address, v6.host.as_str()), ("[::1]:9".parse().unwrap(), "::1"));
        assert_eq!(Target::of(v4.address), v4);
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = Target::of(listener.local_addr().unwrap());
        assert_eq!(target.reach(Duration::from_secs(20)), Ok(()));
        drop(listener);
        let error = target.reach(Duration::from_secs(20)).unwrap_err();
        assert!(error.contains(&target.url) && error.contains("refused"), "{error}");
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        assert!(Target::resolve("wss://127.0.0.1/ws").is_err());
        assert!(Target::resolve("nonsense").is_err());
        assert!(Target::resolve("http://127.0.0.1/ws").is_err());
    }
}
