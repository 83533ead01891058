//! How STOMP frames lie in a connection's stream of bytes: each in a WebSocket message of its own, or one behind the other.
//!
//! STOMP 1.2 is made for any "2-way streaming network protocol such as TCP". Browsers have none but WebSocket.
//!
//! Invariant: what [`Framing::wrap`] appends is whole.

use crate::wire::ws;

/// Where STOMP frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Each in a WebSocket message, behind an opening handshake (RFC 6455).
    WebSocket,
    /// In the TCP stream itself.
    Bare,
}

impl Framing {
    /// Appends a STOMP frame, or a heart-beat, that `write` appends, but for its last `elsewhere` bytes, which must be sent next.
    ///
    /// A WebSocket message is text where the whole frame is valid UTF-8, and binary otherwise: heads always are, so it is the
    /// body that decides.
    #[inline]
    pub fn wrap(self, is_utf8: bool, elsewhere: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Framing::WebSocket => in_message(is_utf8, elsewhere, out, write),
            Framing::Bare => write(out),
        }
    }
}

fn in_message(is_utf8: bool, elsewhere: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // Room for the header of a payload of 126 to 65,535 bytes, which most STOMP frames are; for the others
    // the payload moves once.
    const USUAL: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; USUAL]);
    write(out);
    let payload = out.len() - start - USUAL;
    let kind = if is_utf8 { ws::Kind::Text } else { ws::Kind::Binary };
    let whole = (payload + elsewhere) as u64;
    let need = ws::header_len(whole);
    if need > USUAL {
        out.resize(out.len() + need - USUAL, 0);
    }
    if need != USUAL {
        out.copy_within(start + USUAL..start + USUAL + payload, start + need);
        out.truncate(start + need + payload);
    }
    ws::write_header(kind, whole, &mut out[start..start + need]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_frame_is_itself_and_a_wrapped_one_has_a_header() {
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            for elsewhere in [0, 7] {
                let payload = vec![b'x'; length];
                let [mut bare, mut wrapped] = [b"before".to_vec(), b"before".to_vec()];
                Framing::Bare.wrap(true, elsewhere, &mut bare, |out| out.extend(&payload));
                assert_eq!(bare[6..], payload);
                Framing::WebSocket.wrap(true, elsewhere, &mut wrapped, |out| out.extend(&payload));
                let header = ws::header_len((length + elsewhere) as u64);
                assert_eq!((&wrapped[..6], &wrapped[6 + header..]), (&b"before"[..], &payload[..]));
            }
        }
    }
}
