//! What an HTTP request is for: one of the WebSocket endpoints, or a page; what may stand before it; who speaks, and for
//! whom; and whether the page that asks may.
//!
//! Rules over values: nothing is answered here, and no connection is known.
//!
//! Invariant: nothing that a request says of its client or its host counts, unless who sent it is a proxy that is trusted.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::tcb::FourTuple;
use crate::wire::http::{self, HttpError, OriginPattern, Request, Upgrade, WebOrigin};
use crate::wire::proxy;

/// Hops of a request that are looked at: trusted proxies, and the client. Behind more proxies it stays unknown.
const HOPS_MAX: usize = 32;
/// Bytes of an origin that a refusal repeats: nearly as many as the longest host name has.
const ORIGIN_SHOWN_BYTES_MAX: usize = 200;

/// The chat endpoint.
pub const STOMP_PATH: &str = "/ws";
/// The endpoint for conformance suites.
pub const ECHO_PATH: &str = "/echo";

/// Where a request goes.
#[derive(Debug)]
pub enum Route {
    /// Open a STOMP WebSocket.
    Stomp(Upgrade),
    /// Open an echo WebSocket.
    Echo(Upgrade),
    /// Answer from the site.
    Site,
}

/// Decides where a request goes.
///
/// # Errors
/// The request is for a WebSocket endpoint and not a right opening handshake (RFC 6455 section 4.2.1).
pub fn route(request: &Request<'_>, is_echo_enabled: bool) -> Result<Route, HttpError> {
    match request.target {
        STOMP_PATH => Ok(Route::Stomp(http::upgrade(request)?)),
        ECHO_PATH if is_echo_enabled => {
            // No STOMP is spoken here, so no STOMP subprotocol is agreed to.
            Ok(Route::Echo(Upgrade { subprotocol: None, ..http::upgrade(request)? }))
        }
        _ => Ok(Route::Site),
    }
}

/// What stands before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// Nothing.
    Nothing,
    /// Perhaps a PROXY protocol header; it is not complete.
    Need,
    /// A PROXY protocol header.
    Header(proxy::Header),
}

/// Whether a peer is believed when it names its clients.
pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    // Who may write to a Unix socket was decided by its file.
    FourTuple::is_unix(peer.to_canonical()) || is_listed(peer, trusted)
}

/// Whether an address is a trusted proxy's. An address that somebody has written is no Unix socket.
pub fn is_listed(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// From where clients may come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reach {
    /// From this machine, and not through a proxy, behind which may be anybody.
    #[default]
    ThisMachine,
    /// From anywhere.
    Anywhere,
}

/// Whether a `Host` is one that other machines may know: through a proxy that leaves no other trace, or as a name that somebody
/// lets point to this machine (DNS rebinding). `localhost`, loopback addresses and names without a dot are none.
pub fn is_known_elsewhere(host: &str) -> bool {
    let end = host.rfind(']').map_or(0, |at| at + 1);
    let name = host[end..].rfind(':').map_or(host, |at| &host[..end + at]);
    let name = name.strip_suffix('.').unwrap_or(name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match address.parse::<IpAddr>() {
        Ok(address) => !address.to_canonical().is_loopback(),
        Err(_) => name.contains(['.', ':']) && !name.to_ascii_lowercase().ends_with(".localhost"),
    }
}

/// Who speaks HTTP on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// The connection's own peer.
    Peer,
    /// The client that a PROXY protocol header names.
    Named(SocketAddr),
    /// There is a PROXY protocol header, and it names nobody.
    Unnamed,
}

impl Speaker {
    /// Whether a request came through a proxy, as far as it shows.
    pub fn is_proxied(self, request: &Request<'_>) -> bool {
        self != Speaker::Peer || request.mark_of_proxy().is_some()
    }

    /// Whether what a request says of its client is believed: its sender is a trusted proxy. `peer` is the connection's own,
    /// which is asked for only where it matters.
    pub fn is_believed(self, trusted: &[IpNet], peer: impl FnOnce() -> Option<IpAddr>) -> bool {
        match self {
            Speaker::Peer => peer().is_some_and(|peer| is_trusted(peer, trusted)),
            Speaker::Named(client) => is_listed(client.ip(), trusted),
            Speaker::Unnamed => false,
        }
    }
}

/// The client that proxies name, the nearest hop first: the first that is no trusted proxy itself. `None` if a hop before it
/// is not known, or if there are only proxies.
pub fn client_of(hops: impl Iterator<Item = Option<IpAddr>>, trusted: &[IpNet]) -> Option<IpAddr> {
    hops.take(HOPS_MAX).map_while(|hop| hop).find(|hop| !is_listed(*hop, trusted))
}

/// Checks that the page that opens a WebSocket is this server's own, or one of `allowed`. Who sends no `Origin` is no
/// browser, and not bound by one. The host is the one of the request, or, if it `is_believed`, that of `X-Forwarded-Host`.
///
/// # Errors
/// It is neither. The text is what the request has for an origin, escaped and cut.
pub fn check_origin(
    request: &Request<'_>,
    is_believed: bool,
    allowed: &[OriginPattern],
) -> Result<(), String> {
    let mut values = request.values("origin");
    let Some(value) = values.next() else { return Ok(()) };
    if allowed.iter().any(OriginPattern::is_all) {
        return Ok(());
    }
    // RFC 6454 section 7.3: no browser sends two.
    let is_alone = values.next().is_none();
    let origin = std::str::from_utf8(value).ok().and_then(WebOrigin::parse).filter(|_| is_alone);
    // The first is the browser's.
    let forwarded = request.header_tokens("x-forwarded-host").next().filter(|_| is_believed);
    let host = forwarded.or_else(|| request.header("host"));
    let is_allowed = origin.is_some_and(|origin| {
        host.is_some_and(|host| origin.is_of_host(host))
            || allowed.iter().any(|pattern| pattern.matches(&origin))
    });
    if is_allowed { Ok(()) } else { Err(shown(request)) }
}

/// The origins of a request, escaped and cut.
fn shown(request: &Request<'_>) -> String {
    let all = request.values("origin").collect::<Vec<_>>().join(&b", "[..]);
    let cut = &all[..all.len().min(ORIGIN_SHOWN_BYTES_MAX)];
    format!("{}{}", cut.escape_ascii(), if cut.len() < all.len() { "..." } else { "" })
}

/// Reads what stands before a request. A PROXY protocol header is believed if `peer`, the connection's own, is in one of
/// the networks; nobody has to send one.
///
/// # Errors
/// A header that is broken, or not to be believed.
pub fn announced(
    bytes: &[u8],
    trusted: &[IpNet],
    head_bytes_max: u32,
    peer: impl FnOnce() -> Option<IpAddr>,
) -> Result<Announced, HttpError> {
    match proxy::begin(bytes) {
        proxy::Begin::Other => return Ok(Announced::Nothing),
        proxy::Begin::Open => return Ok(Announced::Need),
        proxy::Begin::V1 | proxy::Begin::V2 => {}
    }
    if !peer().is_some_and(|peer| is_trusted(peer, trusted)) {
        return Err(HttpError::PROXY_UNTRUSTED);
    }
    match proxy::parse(bytes) {
        Ok(Some(header)) => Ok(Announced::Header(header)),
        // What is kept is bounded like every head.
        Ok(None) if bytes.len() >= head_bytes_max as usize => Err(HttpError::HEAD_BYTES),
        Ok(None) => Ok(Announced::Need),
        Err(proxy::Malformed) => Err(HttpError::PROXY_MALFORMED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    fn refusal(origins: &[&[u8]]) -> Option<String> {
        let mut head = b"GET /ws HTTP/1.1\r\nHost: chat.example.com\r\n".to_vec();
        for origin in origins {
            head.extend([b"Origin: ", *origin, b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        let mut scratch = http::Scratch::new();
        let (request, _) = http::parse(&head, &limits::Handshake::default(), &mut scratch).unwrap().unwrap();
        check_origin(&request, false, &[]).err()
    }

    #[test]
    fn hosts_of_this_machine_alone_are_told_from_others() {
        for (host, is_known) in [
            ("localhost", false),
            ("LOCALHOST:8080", false),
            ("chat.localhost:1", false),
            ("localhost.", false),
            ("127.0.0.1:8080", false),
            ("127.9.9.9", false),
            ("[::1]:8080", false),
            ("[::1]", false),
            ("[::ffff:127.0.0.1]:1", false),
            ("chat:8080", false),
            ("", false),
            ("chat.example.com", true),
            ("chat.example.com:443", true),
            ("com.", false),
            ("localhost.example.com", true),
            ("evil-localhost.com", true),
            ("127.0.0.1.evil.com", true),
            ("203.0.113.5", true),
            ("10.0.0.1:80", true),
            ("[2001:db8::1]:8080", true),
            ("0.0.0.0:8080", true),
        ] {
            assert_eq!(is_known_elsewhere(host), is_known, "{host}");
        }
    }

    #[test]
    fn a_refusal_shows_the_origin_escaped_and_cut() {
        let long = [b"https://", &[b'a'; 500][..]].concat();
        let shown_of_long = format!("https://{}...", "a".repeat(192));
        for (origins, expected) in [
            (&[&b"https://evil.com"[..]][..], "https://evil.com"),
            (&[b"null"], "null"),
            (&[b""], ""),
            (&[b"https://\"<b>'\t\xff\xc3\xa4"], "https://\\\"<b>\\'\\t\\xff\\xc3\\xa4"),
            (
                &[b"https://chat.example.com", b"https://evil.com"],
                "https://chat.example.com, https://evil.com",
            ),
            (&[&long], &shown_of_long),
        ] {
            assert_eq!(refusal(origins).as_deref(), Some(expected));
        }
        assert_eq!(refusal(&[]), None);
        assert_eq!(refusal(&[b"https://chat.example.com"]), None);
    }

    #[test]
    fn an_address_that_is_written_is_no_unix_socket() {
        let (unix, trusted) = ("0.0.0.7".parse().unwrap(), ["10.0.0.0/8".parse().unwrap()]);
        assert!(is_trusted(unix, &trusted) && !is_listed(unix, &trusted));
        let proxy = "::ffff:10.0.0.1".parse().unwrap();
        assert!(is_trusted(proxy, &trusted) && is_listed(proxy, &trusted));
        assert!(!Speaker::Named((unix, 1).into()).is_believed(&trusted, || None));
        assert!(Speaker::Peer.is_believed(&trusted, || Some(unix)));
        assert!(!Speaker::Peer.is_believed(&trusted, || None));
    }
}
