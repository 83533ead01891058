//! Just enough of HTTP, WebSocket and STOMP to tell what a well-behaved client wants. Nothing is checked.
//!
//! Invariant: what is returned as used is whole.

use tungstenite::handshake::derive_accept_key;

/// What every client is told for CONNECT: no heart-beats.
pub const CONNECTED: &[u8] = b"\x81\x27CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0";
/// The first part of every message id, as long as tcbchat's is: the same message has to take the same bytes, because
/// a receiver's TCP decides by bytes when to acknowledge, and on loopback the sender's CPU takes that in.
pub const LIFE: &[u8] = b"00000000f1000000-";
/// The answer to a close frame.
pub const CLOSE: &[u8] = b"\x88\x02\x03\xe8";

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// CONNECT
    Connect,
    /// SUBSCRIBE
    Subscribe,
    /// SEND
    Send,
    /// DISCONNECT
    Disconnect,
}

/// One WebSocket frame from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound<'a> {
    /// A heart-beat, a pong.
    Nothing,
    /// The close handshake begins.
    Close,
    /// One STOMP frame; what it does not have is empty.
    Stomp {
        /// What it wants.
        command: Command,
        /// The room.
        destination: &'a [u8],
        /// The receipt asked for.
        receipt: &'a [u8],
        /// All after the head, without the NUL.
        body: &'a [u8],
    },
}

/// The length of an upgrade request, and its answer.
pub fn upgrade(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let name = b"\r\nSec-WebSocket-Key: ";
    let start = memchr::memmem::find(bytes, name)? + name.len();
    let key = &bytes[start..start + memchr::memchr(b'\r', &bytes[start..])?];
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Protocol: v12.stomp\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key)
    );
    Some((head, answer.into_bytes()))
}

/// The first frame, unmasked in place, and its length with the header.
pub fn frame(bytes: &mut [u8]) -> Option<(usize, Inbound<'_>)> {
    let (first, len) = (*bytes.first()?, usize::from(*bytes.get(1)? & 0x7f));
    let (mask_at, len): (usize, usize) = match len {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        short => (2, short),
    };
    let start = mask_at + 4;
    let end = start.checked_add(len)?;
    let mask: [u8; 4] = bytes.get(mask_at..start)?.try_into().ok()?;
    let payload = bytes.get_mut(start..end)?;
    let word = u64::from_ne_bytes([mask, mask].concat().try_into().ok()?);
    let mut words = payload.chunks_exact_mut(8);
    for chunk in &mut words {
        let value = u64::from_ne_bytes((&*chunk).try_into().ok()?) ^ word;
        chunk.copy_from_slice(&value.to_ne_bytes());
    }
    words.into_remainder().iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    let inbound = match first & 0x0f {
        8 => Inbound::Close,
        1 | 2 => stomp(payload),
        _ => Inbound::Nothing,
    };
    Some((end, inbound))
}

fn stomp(payload: &[u8]) -> Inbound<'_> {
    let command = match payload {
        [b'C', ..] => Command::Connect,
        [b'S', b'U', ..] => Command::Subscribe,
        [b'S', ..] => Command::Send,
        [b'D', ..] => Command::Disconnect,
        _ => return Inbound::Nothing,
    };
    let head = memchr::memmem::find(payload, b"\n\n").unwrap_or(payload.len());
    let header = |name: &[u8]| {
        let Some(at) = memchr::memmem::find(&payload[..head], name) else { return &[][..] };
        let value = &payload[at + name.len()..head];
        &value[..memchr::memchr(b'\n', value).unwrap_or(value.len())]
    };
    let destination = match command {
        Command::Subscribe | Command::Send => header(b"\ndestination:"),
        _ => &[],
    };
    let body = payload.get(head + 2..payload.len().saturating_sub(1)).unwrap_or_default();
    Inbound::Stomp { command, destination, receipt: header(b"\nreceipt:"), body }
}

/// RECEIPT.
pub fn receipt(id: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + 24 + id.len());
    message(&[b"RECEIPT\nreceipt-id:", id, b"\n\n\0"], &mut out);
    out
}

/// Appends one text frame made of parts.
pub fn message(parts: &[&[u8]], out: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x81);
    if len < 126 {
        out.push(len as u8);
    } else if len < 65_536 {
        out.push(126);
        out.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![0x81];
        if payload.len() < 126 {
            out.push(0x80 | payload.len() as u8);
        } else {
            out.push(0x80 | 126);
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    #[test]
    fn a_send_is_taken_apart() {
        let body = [b'.'; 200];
        let payload =
            [b"SEND\ndestination:/topic/a\ncontent-length:200\nreceipt:7\n\n", &body[..], b"\0"].concat();
        let mut bytes = masked(&payload);
        let whole = bytes.len();
        assert_eq!(frame(&mut bytes[..whole - 1]), None);
        let mut bytes = masked(&payload);
        let (used, inbound) = frame(&mut bytes).unwrap();
        assert_eq!(used, whole);
        let (destination, receipt) = (&b"/topic/a"[..], &b"7"[..]);
        assert_eq!(inbound, Inbound::Stomp { command: Command::Send, destination, receipt, body: &body });
    }

    #[test]
    fn what_a_client_says_besides() {
        assert_eq!(frame(&mut masked(b"\n")).unwrap().1, Inbound::Nothing);
        assert_eq!(frame(&mut [0x88, 0x80, 0, 0, 0, 0]).unwrap(), (6, Inbound::Close));
        let disconnect =
            Inbound::Stomp { command: Command::Disconnect, destination: b"", receipt: b"1", body: b"" };
        assert_eq!(frame(&mut masked(b"DISCONNECT\nreceipt:1\n\n\0")).unwrap().1, disconnect);
    }

    #[test]
    fn lengths_of_what_is_said_are_right() {
        assert_eq!(usize::from(CONNECTED[1]) + 2, CONNECTED.len());
        let mut out = Vec::new();
        message(&[&[b'a'; 300]], &mut out);
        assert_eq!((out.len(), &out[..4]), (304, &[0x81, 126, 1, 44][..]));
        assert_eq!(receipt(b"9"), b"\x81\x17RECEIPT\nreceipt-id:9\n\n\0");
    }
}
