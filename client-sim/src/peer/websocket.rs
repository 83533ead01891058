//! WebSocket messages through tungstenite, with one context for all the quiet connections of a thread.
//!
//! A `WebSocketContext` takes some 300 bytes and a read buffer. A connection that is open and at the end of
//! a message has nothing to keep in one: any context in the same state serves. So [`Shared`] holds one per
//! thread, is given whole messages only ([`whole_messages`] finds where they end), and each call leaves it as
//! clean as it was. A connection gets a context of its own only for the close handshake.
//!
//! Invariant: between two calls the context of a [`Shared`] is open, at the end of a message, and has
//! nothing to send.

use std::io::{self, Cursor, Read, Write};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Error, Message};

use crate::failure::{Failure, Kind};

/// The largest message that a simulated client takes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Buffers of a context. Small, because tungstenite clears as much of it before each read.
const BUFFER_BYTES: usize = 4096;

fn new_context() -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketContext::new(Role::Client, Some(config))
}

/// What a peer said, as far as STOMP is not concerned.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A text or binary message.
    Data(&'a [u8]),
    /// The server starts or answers the close handshake.
    Close {
        /// The code, 1005 when there was none.
        code: u16,
        /// The reason, often empty.
        reason: &'a str,
    },
}

/// One context for all the connections of a thread that are not closing.
#[derive(Debug)]
pub struct Shared {
    context: WebSocketContext,
}

impl Shared {
    /// A clean context.
    pub fn new() -> Self {
        Self { context: new_context() }
    }

    /// Reads whole messages (see [`whole_messages`]) and hands each to `on`; answers to pings, and to a
    /// close, are appended to `out`.
    ///
    /// # Errors
    /// The rule of RFC 6455 that the server broke, or what `on` returned.
    pub fn read(
        &mut self,
        whole: &[u8],
        out: &mut Vec<u8>,
        on: &mut impl FnMut(Item<'_>, &mut Vec<u8>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let done = read(&mut self.context, whole, out, on);
        if !matches!(done, Ok(Heard::Open)) {
            self.context = new_context();
        }
        done.map(drop)
    }

    /// Appends a text message.
    ///
    /// # Errors
    /// Only if tungstenite refuses to write to memory.
    pub fn write_text(&mut self, text: &str, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.write(Message::text(text), out)
    }

    /// Appends a message.
    fn write(&mut self, message: Message, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.context.write(&mut Pipe { input: &[], out }, message).map_err(protocol)
    }
}

/// The close handshake of one connection.
#[derive(Debug)]
pub struct Closing {
    context: WebSocketContext,
}

impl Closing {
    /// Starts it: appends a close frame with code 1000.
    ///
    /// # Errors
    /// Only if tungstenite refuses to write to memory.
    pub fn start(out: &mut Vec<u8>) -> Result<Self, Failure> {
        let mut context = new_context();
        let frame = tungstenite::protocol::CloseFrame { code: 1000.into(), reason: "".into() };
        context.close(&mut Pipe { input: &[], out }, Some(frame)).map_err(protocol)?;
        Ok(Self { context })
    }

    /// Reads whole messages; true once the server has answered the close. Messages that were on their way
    /// are handed on.
    ///
    /// # Errors
    /// The rule of RFC 6455 that the server broke, or what `on` returned.
    pub fn read(
        &mut self,
        whole: &[u8],
        out: &mut Vec<u8>,
        on: &mut impl FnMut(Item<'_>, &mut Vec<u8>) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        Ok(matches!(read(&mut self.context, whole, out, on)?, Heard::Close))
    }
}

enum Heard {
    Open,
    Close,
}

fn read(
    context: &mut WebSocketContext,
    whole: &[u8],
    out: &mut Vec<u8>,
    on: &mut impl FnMut(Item<'_>, &mut Vec<u8>) -> Result<(), Failure>,
) -> Result<Heard, Failure> {
    let mut pipe = Pipe { input: whole, out };
    loop {
        let message = match context.read(&mut pipe) {
            Ok(message) => message,
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Heard::Open),
            Err(error) => return Err(protocol(error)),
        };
        match message {
            Message::Text(text) => on(Item::Data(text.as_bytes()), pipe.out)?,
            Message::Binary(bytes) => on(Item::Data(&bytes), pipe.out)?,
            Message::Close(frame) => {
                // The answer to a close of the server; to one of ours there is nothing to write.
                context.flush(&mut pipe).map_err(protocol)?;
                let (code, reason) =
                    frame.as_ref().map_or((1005, ""), |frame| (u16::from(frame.code), frame.reason.as_str()));
                on(Item::Close { code, reason }, pipe.out)?;
                return Ok(Heard::Close);
            }
            // tungstenite has queued the pong; the next read, or this flush, writes it.
            Message::Ping(_) => context.flush(&mut pipe).map_err(protocol)?,
            Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

fn protocol(error: Error) -> Failure {
    Failure::new(Kind::Protocol, error.to_string())
}

/// The length of the longest prefix that ends with a whole message.
///
/// # Errors
/// A frame header that is no frame header, or announces more than a client takes.
pub fn whole_messages(bytes: &[u8]) -> Result<usize, Failure> {
    let mut whole = 0;
    let mut cursor = Cursor::new(bytes);
    let mut fragmented = false;
    while let Some((header, len)) = FrameHeader::parse(&mut cursor).map_err(protocol)? {
        if len > MESSAGE_BYTES_MAX as u64 {
            return Err(Failure::new(Kind::Protocol, format!("ws_frame of {len} bytes")));
        }
        let end = cursor.position() + len;
        if end > bytes.len() as u64 {
            break;
        }
        cursor.set_position(end);
        match header.opcode {
            OpCode::Data(_) => fragmented = !header.is_final,
            // What follows a close is of no interest, and need not be well-formed.
            OpCode::Control(Control::Close) => return Ok(end as usize),
            OpCode::Control(_) => {}
        }
        if !fragmented {
            whole = end as usize;
        }
    }
    Ok(whole)
}

/// A stream over memory: what was received, and where to write.
struct Pipe<'a> {
    input: &'a [u8],
    out: &'a mut Vec<u8>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buf)
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(shared: &mut Shared, bytes: &[u8]) -> (Vec<String>, Vec<u8>, Result<(), Failure>) {
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        let whole = match whole_messages(bytes) {
            Ok(whole) => whole,
            Err(failure) => return (seen, out, Err(failure)),
        };
        let done = shared.read(&bytes[..whole], &mut out, &mut |item, _| {
            seen.push(match item {
                Item::Data(data) => String::from_utf8_lossy(data).into_owned(),
                Item::Close { code, reason } => format!("close {code} {reason}"),
            });
            Ok(())
        });
        (seen, out, done)
    }

    #[test]
    fn a_message_ends_where_its_last_fragment_does() {
        let hello = b"\x81\x05hello";
        assert_eq!(whole_messages(hello).unwrap(), 7);
        for cut in 0..7 {
            assert_eq!(whole_messages(&hello[..cut]).unwrap(), 0);
        }
        let fragments = b"\x01\x02he\x89\x00\x80\x03llo\x81";
        assert_eq!(whole_messages(fragments).unwrap(), 4 + 2 + 5);
        assert_eq!(whole_messages(&fragments[..6]).unwrap(), 0, "a ping inside is no end");
        assert!(whole_messages(b"\x8f\x00").is_err(), "reserved opcode");
        assert!(whole_messages(b"\x82\x7f\x00\x00\x00\x10\x00\x00\x00\x00").is_err());
    }

    #[test]
    fn one_context_serves_interleaved_connections() {
        let mut shared = Shared::new();
        let mut tails = [Vec::new(), Vec::new()];
        let stream = b"\x81\x05hello\x01\x02he\x89\x01p\x80\x03llo\x82\x01!";
        let mut seen = [Vec::new(), Vec::new()];
        let mut pongs = 0;
        for byte in stream {
            for (tail, seen) in tails.iter_mut().zip(&mut seen) {
                tail.push(*byte);
                let whole = whole_messages(tail).unwrap();
                let (items, out, done) = items(&mut shared, &tail[..whole]);
                assert_eq!(done, Ok(()));
                seen.extend(items);
                pongs += usize::from(!out.is_empty());
                tail.drain(..whole);
            }
        }
        assert_eq!(seen[0], ["hello", "hello", "!"]);
        assert_eq!(seen[0], seen[1]);
        assert_eq!(pongs, 2);
    }

    #[test]
    fn a_broken_connection_does_not_spoil_the_context() {
        let mut shared = Shared::new();
        let (_, _, masked) = items(&mut shared, b"\x81\x81\x01\x02\x03\x04a");
        assert_eq!(masked.unwrap_err().kind, Kind::Protocol);
        let (_, _, utf8) = items(&mut shared, b"\x81\x01\xff");
        assert_eq!(utf8.unwrap_err().kind, Kind::Protocol);
        let (seen, _, done) = items(&mut shared, b"\x81\x01a");
        assert_eq!((seen, done), (vec!["a".to_owned()], Ok(())));
    }

    #[test]
    fn a_close_of_the_server_is_answered() {
        let mut shared = Shared::new();
        let (seen, out, done) = items(&mut shared, b"\x88\x06\x03\xe9away\x81\x01a");
        assert_eq!((seen, done), (vec!["close 1001 away".to_owned()], Ok(())));
        assert_eq!((out[0], out[1]), (0x88, 0x80 | 6), "masked close with the same body");
        let (seen, _, _) = items(&mut shared, b"\x81\x01a");
        assert_eq!(seen, ["a"]);
    }

    #[test]
    fn our_close_waits_for_its_answer_and_passes_on_what_was_under_way() {
        let mut out = Vec::new();
        let mut closing = Closing::start(&mut out).unwrap();
        assert_eq!(out[0], 0x88);
        let mut seen = Vec::new();
        let mut on = |item: Item<'_>, _: &mut Vec<u8>| {
            if let Item::Data(data) = item {
                seen.extend_from_slice(data);
            }
            Ok(())
        };
        assert_eq!(closing.read(b"\x81\x01a", &mut out, &mut on), Ok(false));
        assert_eq!(closing.read(b"\x88\x02\x03\xe8", &mut out, &mut on), Ok(true));
        assert_eq!(seen, b"a");
    }

    #[test]
    fn what_is_written_is_masked() {
        let (mut shared, mut out) = (Shared::new(), Vec::new());
        shared.write_text("hi", &mut out).unwrap();
        assert_eq!((out.len(), out[0], out[1]), (8, 0x81, 0x82));
    }
}
