//! STOMP 1.2 as a client needs it: frames to bytes and back.
//!
//! Written from the specification and sharing nothing with the server, so that each checks the other. It
//! reads what a server sends (CONNECTED, MESSAGE, RECEIPT, ERROR) and writes what a client sends; it keeps
//! no state and does no I/O.
//!
//! Invariant: [`decode`] looks at bytes that start at a frame boundary and never consumes part of a frame.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

/// Bytes of command and headers that are read before a frame without an end of head is given up.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One frame, borrowed from the bytes it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StompFrame<'a> {
    /// The command, as it was written.
    pub command: &'a str,
    /// The header lines, escapes untouched.
    lines: &'a str,
    /// The body, without its NUL.
    pub body: &'a [u8],
}

impl<'a> StompFrame<'a> {
    /// The first header of this name ("If a client or a server receives repeated frame header entries, only
    /// the first header entry SHOULD be used", STOMP 1.2), escapes resolved except in CONNECTED.
    pub fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        let raw = self
            .lines
            .split_terminator('\n')
            .filter_map(|line| line.strip_suffix('\r').unwrap_or(line).split_once(':'))
            .find_map(|(key, value)| (key == name).then_some(value))?;
        if self.command == "CONNECTED" || !raw.contains('\\') {
            return Some(Cow::Borrowed(raw));
        }
        Some(Cow::Owned(unescape(raw)))
    }
}

/// What [`decode`] found at the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Not a whole frame yet.
    Need,
    /// Line ends between frames: heart-beats.
    HeartBeat {
        /// Bytes to drop from the front.
        consumed: usize,
    },
    /// A whole frame.
    Frame {
        /// The frame.
        stomp_frame: StompFrame<'a>,
        /// Bytes to drop from the front.
        consumed: usize,
    },
}

/// A frame that breaks the grammar; the text names the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Decodes the first frame, or the line ends before it.
///
/// # Errors
/// The rule of STOMP 1.2 that the bytes break; the connection is of no use afterwards.
pub fn decode(buf: &[u8]) -> Result<Step<'_>, Malformed> {
    let eols = leading_line_ends(buf);
    if eols > 0 {
        return Ok(Step::HeartBeat { consumed: eols });
    }
    let Some(head) = Head::parse(buf)? else {
        if buf.len() > HEAD_BYTES_MAX {
            return Err(Malformed("head of the frame too long"));
        }
        return Ok(Step::Need);
    };
    let rest = &buf[head.bytes..];
    let body_len = match head.content_length {
        Some(len) if rest.len() <= len => return Ok(Step::Need),
        Some(len) if rest[len] != 0 => return Err(Malformed("no NUL after content-length bytes")),
        Some(len) => len,
        None => match memchr(0, rest) {
            Some(end) => end,
            None => return Ok(Step::Need),
        },
    };
    Ok(Step::Frame {
        stomp_frame: StompFrame { command: head.command, lines: head.lines, body: &rest[..body_len] },
        consumed: head.bytes + body_len + 1,
    })
}

struct Head<'a> {
    command: &'a str,
    lines: &'a str,
    content_length: Option<usize>,
    bytes: usize,
}

impl<'a> Head<'a> {
    fn parse(buf: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let Some(command_end) = memchr(b'\n', buf) else { return Ok(None) };
        let command = text(trim_cr(&buf[..command_end]))?;
        let lines_start = command_end + 1;
        let mut at = lines_start;
        let mut content_length = None;
        loop {
            let Some(len) = memchr(b'\n', &buf[at..]) else { return Ok(None) };
            let line = trim_cr(&buf[at..at + len]);
            if line.is_empty() {
                let lines = text(&buf[lines_start..at])?;
                return Ok(Some(Self { command, lines, content_length, bytes: at + len + 1 }));
            }
            let colon = memchr(b':', line).ok_or(Malformed("header line without a colon"))?;
            if content_length.is_none() && &line[..colon] == b"content-length" {
                let number = text(&line[colon + 1..])?;
                content_length =
                    Some(number.trim().parse().map_err(|_| Malformed("content-length is not a number"))?);
            }
            at += len + 1;
        }
    }
}

fn leading_line_ends(buf: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match buf.get(at) {
            Some(b'\n') => at += 1,
            Some(b'\r') if buf.get(at + 1) == Some(&b'\n') => at += 2,
            _ => return at,
        }
    }
}

fn trim_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("head of the frame is not UTF-8"))
}

fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('c') => out.push(':'),
            Some('\\') => out.push('\\'),
            // An undefined escape is shown as it came: the text is only for a person's eyes.
            other => out.extend(std::iter::once('\\').chain(other)),
        }
    }
    out
}

/// Appends a frame. Header values are escaped as STOMP 1.2 demands, CONNECT's are not.
pub fn encode(out: &mut Vec<u8>, command: &str, headers: &[(&str, &str)], body: &[u8]) {
    out.extend_from_slice(command.as_bytes());
    out.push(b'\n');
    for (name, value) in headers {
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        if command == "CONNECT" {
            out.extend_from_slice(value.as_bytes());
        } else {
            escape(out, value);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    out.extend_from_slice(body);
    out.push(0);
}

fn escape(out: &mut Vec<u8>, value: &str) {
    for byte in value.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b':' => out.extend_from_slice(b"\\c"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(bytes: &[u8]) -> (StompFrame<'_>, usize) {
        match decode(bytes) {
            Ok(Step::Frame { stomp_frame, consumed }) => (stomp_frame, consumed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_a_message_with_nul_in_its_body() {
        let bytes = b"MESSAGE\nsubscription:0\ncontent-length:3\nmessage-id:7\n\na\0b\0rest";
        let (stomp_frame, consumed) = frame(bytes);
        assert_eq!(stomp_frame.command, "MESSAGE");
        assert_eq!(stomp_frame.header("message-id").as_deref(), Some("7"));
        assert_eq!(stomp_frame.header("absent"), None);
        assert_eq!(stomp_frame.body, b"a\0b");
        assert_eq!(&bytes[consumed..], b"rest");
    }

    #[test]
    fn first_of_repeated_headers_wins_and_crlf_is_a_line_end() {
        let (stomp_frame, _) = frame(b"ERROR\r\nmessage:one\\c two\r\nmessage:three\r\n\r\n\0");
        assert_eq!(stomp_frame.header("message").as_deref(), Some("one: two"));
    }

    #[test]
    fn connected_is_not_unescaped() {
        let (stomp_frame, _) = frame(b"CONNECTED\nserver:a\\cb\n\n\0");
        assert_eq!(stomp_frame.header("server").as_deref(), Some("a\\cb"));
    }

    #[test]
    fn names_the_broken_rule() {
        assert_eq!(decode(b"MESSAGE\nno colon\n\n\0"), Err(Malformed("header line without a colon")));
        assert_eq!(
            decode(b"MESSAGE\ncontent-length:1\n\nab\0"),
            Err(Malformed("no NUL after content-length bytes"))
        );
        assert!(decode(b"MESSAGE\ncontent-length:x\n\nab\0").is_err());
        assert!(decode(&vec![b'A'; HEAD_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn heart_beats_are_counted_in_one_step() {
        assert_eq!(decode(b"\n\r\n\nMESSAGE"), Ok(Step::HeartBeat { consumed: 4 }));
        assert_eq!(decode(b"\r"), Ok(Step::Need));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            value in "[ -~\\n\\r:\\\\]{0,40}",
            body in proptest::collection::vec(1u8..=255, 0..64),
        ) {
            let mut bytes = Vec::new();
            encode(&mut bytes, "MESSAGE", &[("x", &value)], &body);
            let (stomp_frame, consumed) = frame(&bytes);
            prop_assert_eq!(consumed, bytes.len());
            prop_assert_eq!(stomp_frame.header("x").unwrap(), value.as_str());
            prop_assert_eq!(stomp_frame.body, &body[..]);
            for cut in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..cut]), Ok(Step::Need));
            }
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Step::Frame { consumed, .. } | Step::HeartBeat { consumed }) = decode(&bytes) {
                prop_assert!(consumed <= bytes.len());
            }
        }
    }
}
