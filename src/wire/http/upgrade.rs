//! The WebSocket opening handshake, seen from the server (RFC 6455 section 4.2).
//!
//! Does not look at the path, the page's origin or who the user is.
//!
//! Invariant: an [`Upgrade`] comes only of a request that every rule of section 4.2.1 lets pass.

use tungstenite::handshake::derive_accept_key;

use super::{HttpError, Request};
use crate::wire::stomp::Version;

/// The answer to an opening handshake that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// `Sec-WebSocket-Accept`.
    pub accept: String,
    /// `Sec-WebSocket-Protocol`: the newest STOMP that the client offers. `None` if it offers none; clients that
    /// offer nothing speak STOMP all the same.
    pub subprotocol: Option<&'static str>,
}

/// Checks the opening handshake.
///
/// # Errors
/// The refusal to answer with; of several, the first in the order of the checks here.
pub fn upgrade(request: &Request<'_>) -> Result<Upgrade, HttpError> {
    if request.method != "GET" {
        return Err(HttpError::UPGRADE_METHOD);
    }
    if request.http_minor == 0 {
        return Err(HttpError::UPGRADE_HTTP_1_0);
    }
    request.refuse_body()?;
    let mut upgrades = request.header_tokens("upgrade");
    let mut options = request.header_tokens("connection");
    if !upgrades.any(|token| token.eq_ignore_ascii_case("websocket"))
        || !options.any(|token| token.eq_ignore_ascii_case("upgrade"))
    {
        return Err(HttpError::UPGRADE_REQUIRED);
    }
    let mut versions = request.values("sec-websocket-version");
    match (versions.next(), versions.next()) {
        (_, Some(_)) => return Err(HttpError::VERSION_REPEATED),
        (Some(b"13"), None) => {}
        _ => return Err(HttpError::VERSION),
    }
    let mut keys = request.values("sec-websocket-key");
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key) => key,
        _ => return Err(HttpError::KEY),
    };
    let is_offered = |version: &Version| {
        request.header_tokens("sec-websocket-protocol").any(|one| one == version.subprotocol())
    };
    let subprotocol = Version::ALL.into_iter().find(is_offered).map(Version::subprotocol);
    Ok(Upgrade { accept: derive_accept_key(key), subprotocol })
}

/// Appends the 101 answer.
pub fn write_upgrade(upgrade: &Upgrade, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(upgrade.accept.as_bytes());
    if let Some(subprotocol) = upgrade.subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(subprotocol.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Whether this is 16 bytes in base64 (section 4.2.1, item 5): 22 digits and two of padding.
fn is_key(key: &[u8]) -> bool {
    let digits = key.strip_suffix(b"==").unwrap_or_default();
    digits.len() == 22
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}
