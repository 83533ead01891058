//! What an HTTP request is for: one of the WebSocket endpoints, or a page.

use crate::wire::http::{self, HttpError, Request, Upgrade};

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
