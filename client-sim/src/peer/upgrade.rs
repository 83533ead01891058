//! The opening handshake of many clients: one request template, the key of each spliced in.
//!
//! tungstenite makes the request once and checks every response; in between a client holds no handshake
//! object, because its key follows from its number. Pure: bytes in, bytes out.
//!
//! Invariant: a response is accepted only if tungstenite's own client would accept it for that key.

use std::io::{self, Read, Write};

use tungstenite::HandshakeError;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::{ClientHandshake, Request, generate_request};
use tungstenite::http::HeaderValue;
use tungstenite::http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL};

use crate::failure::{Failure, Kind};

/// Bytes of a response head that are read before it is given up.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Characters of an HTTP error body that are kept as the example of a failure.
const EXAMPLE_CHARS: usize = 200;

/// The opening handshake towards one URL.
#[derive(Debug, Clone)]
pub struct Upgrade {
    request: Request,
    bytes: Vec<u8>,
    key_at: usize,
}

impl Upgrade {
    /// Prepares the request for a `ws://` URL, offering `v12.stomp`.
    ///
    /// # Errors
    /// A sentence for the user, when the URL makes no request.
    pub fn new(url: &str) -> Result<Self, String> {
        let mut request = url.into_client_request().map_err(|error| format!("{url}: {error}"))?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v12.stomp"));
        let (bytes, key) = generate_request(request.clone()).map_err(|error| format!("{url}: {error}"))?;
        let key_at = bytes
            .windows(key.len())
            .position(|window| window == key.as_bytes())
            .ok_or_else(|| format!("{url}: the request has no key"))?;
        Ok(Self { request, bytes, key_at })
    }

    /// Appends the request of one client.
    pub fn write_request(&self, client: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let at = start + self.key_at;
        out[at..at + KEY_LEN].copy_from_slice(&key(client));
    }

    /// Looks at what a client received; the length of the response head once it is whole and accepted.
    ///
    /// # Errors
    /// The HTTP status of a refusal, or the rule of RFC 6455 that the response breaks.
    pub fn read_response(&self, client: u32, received: &[u8]) -> Result<Option<usize>, Failure> {
        let Some(end) = memchr::memmem::find(received, b"\r\n\r\n") else {
            if received.len() > HEAD_BYTES_MAX {
                return Err(Failure::new(Kind::UpgradeRefused, "response head too long"));
            }
            return Ok(None);
        };
        let head = end + 4;
        let mut request = self.request.clone();
        if let Ok(value) = HeaderValue::from_bytes(&key(client)) {
            request.headers_mut().insert(SEC_WEBSOCKET_KEY, value);
        }
        let exchange = Exchange { response: &received[..head] };
        let failure = match ClientHandshake::start(exchange, request, None) {
            Err(error) => error,
            Ok(handshake) => match handshake.handshake() {
                Ok(_) => return Ok(Some(head)),
                Err(HandshakeError::Failure(error)) => error,
                Err(HandshakeError::Interrupted(_)) => {
                    return Err(Failure::new(Kind::UpgradeRefused, "response ends early"));
                }
            },
        };
        Err(match failure {
            tungstenite::Error::Http(response) => {
                let body = String::from_utf8_lossy(&received[head..]);
                let status = response.status();
                let example: String =
                    format!("{status}: {}", body.trim()).chars().take(EXAMPLE_CHARS).collect();
                Failure::new(Kind::Http(status.as_u16()), example)
            }
            other => Failure::new(Kind::UpgradeRefused, other.to_string()),
        })
    }
}

/// Length of a base64 key of 16 bytes.
const KEY_LEN: usize = 24;

/// The key of a client: 16 bytes in base64 (RFC 6455, 4.1), of which its number fills the middle. Nonces that
/// a proxy could mistake for cached ones are no concern on a test's own connections.
fn key(client: u32) -> [u8; KEY_LEN] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut key = *b"tcbchatNNNNNNNclientsA==";
    for (n, place) in key[7..14].iter_mut().enumerate() {
        *place = ALPHABET[(client as usize >> (6 * n)) & 63];
    }
    key
}

/// The stream of a handshake whose response is already here and whose request is already sent.
struct Exchange<'a> {
    response: &'a [u8],
}

impl Read for Exchange<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.response.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.response.read(buf)
    }
}

impl Write for Exchange<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tungstenite::handshake::derive_accept_key;

    use super::*;

    fn upgrade() -> Upgrade {
        Upgrade::new("ws://127.0.0.1:8080/ws").unwrap()
    }

    fn answer(client: u32, extra: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{extra}\r\n",
            derive_accept_key(&key(client))
        )
        .into_bytes()
    }

    #[test]
    fn keys_are_base64_of_16_bytes_and_differ() {
        use std::collections::HashSet;
        let keys: HashSet<_> = (0..5000).chain([u32::MAX]).map(key).collect();
        assert_eq!(keys.len(), 5001);
        let key = key(4711);
        assert!(key[..22].iter().all(u8::is_ascii_alphanumeric));
        assert_eq!(&key[21..], b"A==", "the last digit carries two bits, the rest of it is zero");
    }

    #[test]
    fn the_request_is_that_of_tungstenite_with_the_clients_key() {
        let mut out = b"before".to_vec();
        upgrade().write_request(7, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("beforeGET /ws HTTP/1.1\r\n"), "{text}");
        assert!(text.contains(&format!("Sec-WebSocket-Key: {}\r\n", std::str::from_utf8(&key(7)).unwrap())));
        assert!(text.contains("Sec-WebSocket-Protocol: v12.stomp\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_right_response_is_taken_whole_and_what_follows_is_left() {
        let mut bytes = answer(3, "Sec-WebSocket-Protocol: v12.stomp\r\n");
        let head = bytes.len();
        for cut in 0..head {
            assert_eq!(upgrade().read_response(3, &bytes[..cut]), Ok(None));
        }
        bytes.extend_from_slice(b"\x81\x01\n");
        assert_eq!(upgrade().read_response(3, &bytes), Ok(Some(head)));
    }

    #[test]
    fn refusals_are_classified() {
        let kind = |bytes: &[u8]| upgrade().read_response(3, bytes).unwrap_err();
        let busy = kind(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\r\ntable full");
        assert_eq!(busy.kind, Kind::Http(503));
        assert!(busy.detail.contains("table full"), "{busy:?}");
        let other_key = answer(4, "Sec-WebSocket-Protocol: v12.stomp\r\n");
        assert_eq!(kind(&other_key).kind, Kind::UpgradeRefused);
        assert_eq!(kind(&answer(3, "")).kind, Kind::UpgradeRefused, "no subprotocol chosen");
        assert_eq!(kind(b"SSH-2.0-OpenSSH\r\n\r\n").kind, Kind::UpgradeRefused);
        assert_eq!(kind(&vec![b'x'; HEAD_BYTES_MAX + 1]).kind, Kind::UpgradeRefused);
    }
}
