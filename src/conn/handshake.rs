//! What an HTTP request is for: one of the WebSocket endpoints, or a page; and what may stand before it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::tcb::FourTuple;
use crate::wire::http::{self, HttpError, Request, Upgrade};
use crate::wire::proxy;

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
    let peer = peer.to_canonical();
    // Who may write to a Unix socket was decided by its file.
    FourTuple::is_unix(peer) || trusted.iter().any(|network| network.contains(&peer))
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
