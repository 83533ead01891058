//! STOMP frames appended to a buffer.
//!
//! Knows how headers are escaped, not which ones a frame needs.
//!
//! Invariant: what is appended is one whole frame that [`Decoder`](super::Decoder) reads back; no name or
//! value can end a line or the head.

use super::header::{Escapes, may_have_special};
use super::{Command, Version};

/// One STOMP frame being written. It is complete after [`body`](Encoder::body) or
/// [`finish`](Encoder::finish), which take it.
///
/// ```
/// use tcbchat::wire::stomp::{Command, Encoder, Version};
///
/// let mut out = Vec::new();
/// Encoder::new(&mut out, Command::Receipt, Version::V12).header("receipt-id", "a:1").finish();
/// assert_eq!(out, b"RECEIPT\nreceipt-id:a\\c1\n\n\0");
/// ```
#[must_use = "a frame is complete after body() or finish()"]
#[derive(Debug)]
pub struct Encoder<'o> {
    out: &'o mut Vec<u8>,
    escapes: Escapes,
}

impl<'o> Encoder<'o> {
    /// Begins a frame. `version` is that of the peer.
    pub fn new(out: &'o mut Vec<u8>, command: Command, version: Version) -> Self {
        out.extend_from_slice(command.as_str().as_bytes());
        out.push(b'\n');
        Encoder { out, escapes: Escapes::of(command, version) }
    }

    /// One header. Characters that the frame has no way to write become spaces (see `docs/PROTOCOL.md`).
    pub fn header(self, name: &str, value: &str) -> Self {
        self.escapes.write(name, true, self.out);
        self.out.push(b':');
        self.escapes.write(value, false, self.out);
        self.out.push(b'\n');
        self
    }

    /// One header whose name is a word of STOMP's: it needs no escapes, which is not looked at again.
    #[inline]
    pub fn known(self, name: &'static str, value: &str) -> Self {
        debug_assert!(is_plain(name.as_bytes()), "{name}");
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b':');
        self.escapes.write(value, false, self.out);
        self.out.push(b'\n');
        self
    }

    /// The same, and neither does the value: ASCII such as a number, a version or an id of ours.
    #[inline]
    pub fn plain(self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        debug_assert!(is_plain(name.as_bytes()) && is_plain(value), "{name}: {value:?}");
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b':');
        self.out.extend_from_slice(value);
        self.out.push(b'\n');
        self
    }

    /// One header whose value is numbers with something between them, a character of ASCII that needs no escape.
    pub fn numbers(self, name: &'static str, numbers: &[u32], between: u8) -> Self {
        debug_assert!(is_plain(name.as_bytes()) && is_plain(&[between]), "{name}: {between}");
        self.out.extend_from_slice(name.as_bytes());
        let mut before = b':';
        for number in numbers {
            self.out.push(before);
            self.out.extend_from_slice(itoa::Buffer::new().format(*number).as_bytes());
            before = between;
        }
        self.out.push(b'\n');
        self
    }

    /// Header lines that are escaped for this version already, each with its LF.
    pub fn raw_lines(self, lines: &[u8]) -> Self {
        debug_assert!(lines.is_empty() || lines.ends_with(b"\n"), "lines without their end");
        self.out.extend_from_slice(lines);
        self
    }

    /// Ends the frame with a body; its length goes before it, as the last header, unless it is empty. STOMP
    /// 1.2, "Header content-length": frames with a body SHOULD have one, and a body with a NUL needs it.
    pub fn body(self, body: &[u8]) {
        self.out.reserve(body.len() + 2);
        let out = self.head(body.len());
        out.extend_from_slice(body);
        out.push(0);
    }

    /// Ends the head of a frame whose body has `bytes` bytes. The body and the NUL behind it must follow.
    pub fn head(self, bytes: usize) -> &'o mut Vec<u8> {
        let mut length = itoa::Buffer::new();
        let this = if bytes == 0 { self } else { self.plain("content-length", length.format(bytes)) };
        this.out.push(b'\n');
        this.out
    }

    /// Ends the frame without a body.
    pub fn finish(self) {
        self.out.extend_from_slice(b"\n\0");
    }
}

/// Whether a name or value is written as it is in every version.
fn is_plain(text: &[u8]) -> bool {
    text.is_ascii() && !may_have_special(text)
}
