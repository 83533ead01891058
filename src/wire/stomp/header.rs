//! A decoded STOMP frame and its header lines; escapes and their undoing.
//!
//! Header lines stay as they were sent; a name or value is decoded when somebody asks for it, and costs an
//! allocation only if an escape is in it.
//!
//! Invariant: the lines of a [`StompFrame`] have passed [`check_line`], so reading them cannot fail.

use std::borrow::Cow;

use super::{Command, StompError, Version};

/// Which characters of header names and values are written as escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// None: STOMP 1.0, and CONNECT and CONNECTED in every version.
    None,
    /// `\n`, `\c`, `\\`: STOMP 1.1.
    V11,
    /// `\r` too: STOMP 1.2.
    V12,
}

impl Escapes {
    pub(super) fn of(command: Command, version: Version) -> Escapes {
        match version {
            _ if command.is_never_escaped() => Escapes::None,
            Version::V10 => Escapes::None,
            Version::V11 => Escapes::V11,
            Version::V12 => Escapes::V12,
        }
    }

    /// The character that backslash and `code` stand for.
    fn decode(self, code: u8) -> Option<char> {
        match (self, code) {
            (Escapes::V11 | Escapes::V12, b'n') => Some('\n'),
            (Escapes::V11 | Escapes::V12, b'c') => Some(':'),
            (Escapes::V11 | Escapes::V12, b'\\') => Some('\\'),
            (Escapes::V12, b'r') => Some('\r'),
            _ => None,
        }
    }

    /// What stands on the wire for `special`. A character that the version has no way to write becomes a
    /// space: it must not end the line, nor the name.
    fn encode(self, special: u8, in_name: bool) -> &'static [u8] {
        match (self, special) {
            (Escapes::None, b'\\') => b"\\",
            (Escapes::None, b':') if !in_name => b":",
            (Escapes::None, _) => b" ",
            (_, b'\\') => b"\\\\",
            (_, b':') => b"\\c",
            (_, b'\n') => b"\\n",
            (Escapes::V12, b'\r') => b"\\r",
            (Escapes::V11, _) => b" ",
            // NUL, the last of the specials, has no escape in any version; it would end the frame.
            (Escapes::V12, _) => b" ",
        }
    }

    /// Appends `text` as a header name or value.
    #[inline]
    pub(super) fn write(self, text: &str, in_name: bool, out: &mut Vec<u8>) {
        let mut rest = text.as_bytes();
        if !may_have_special(rest) {
            return out.extend_from_slice(rest);
        }
        while let Some(at) = rest.iter().position(|&byte| is_special(byte)) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(self.encode(rest[at], in_name));
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
    }

    /// Undoes the escapes of a text that [`check_line`] has passed.
    #[inline]
    fn read(self, text: &str) -> Cow<'_, str> {
        if self == Escapes::None || memchr::memchr(b'\\', text.as_bytes()).is_none() {
            return Cow::Borrowed(text);
        }
        let mut plain = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('\\') {
            plain.push_str(before);
            // Checked: one of the codes, all of them one byte long, comes next.
            plain.extend(after.bytes().next().and_then(|code| self.decode(code)));
            rest = after.get(1..).unwrap_or_default();
        }
        plain.push_str(rest);
        Cow::Owned(plain)
    }
}

/// Bytes that cannot stand for themselves in some version's header.
const fn is_special(byte: u8) -> bool {
    matches!(byte, 0 | b'\n' | b'\r' | b':' | b'\\')
}

/// Whether some byte is special, or another control character: eight bytes at a time, since nearly every
/// header of every message written is free of them.
#[inline]
pub(super) fn may_have_special(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(8);
    let mut last = [b' '; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    let words = words.map(|word| word.try_into().unwrap_or_default());
    words.chain([last]).any(|word| has_special(u64::from_ne_bytes(word)))
}

/// Whether one of eight bytes is a colon, a backslash or below 14, which line ends and NUL are.
#[inline]
const fn has_special(word: u64) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    // A byte below `n` borrows from its top bit when `n` is taken off, if that bit was not set before.
    const fn below(word: u64, n: u64) -> u64 {
        word.wrapping_sub(ONES * n) & !word & TOPS
    }
    let colon = below(word ^ (ONES * b':' as u64), 1);
    let backslash = below(word ^ (ONES * b'\\' as u64), 1);
    (below(word, 14) | colon | backslash) != 0
}

/// Checks one header line, without its EOL: a name, a colon, a value, and in both only escapes that are
/// defined. STOMP 1.2, "Value Encoding": "Undefined escape sequences [...] MUST be treated as a fatal protocol
/// error". Returns where the colon is.
#[inline]
pub(super) fn check_line(line: &[u8], escapes: Escapes) -> Result<usize, StompError> {
    // Names are so short that a call would take longer.
    let colon = match line.iter().position(|&byte| byte == b':') {
        None | Some(0) => return Err(StompError::HeaderMalformed),
        Some(colon) => colon,
    };
    if escapes == Escapes::None {
        return Ok(colon);
    }
    let mut at = 0;
    while let Some(found) = memchr::memchr2(b'\\', b'\r', &line[at..]) {
        at += found;
        if line[at] == b'\r' {
            // 1.2 makes a carriage return part of the EOL or escapes it; in 1.1 it is a character.
            if escapes == Escapes::V12 {
                return Err(StompError::CarriageReturn);
            }
            at += 1;
        } else {
            let code = line.get(at + 1).copied().unwrap_or_default();
            escapes.decode(code).ok_or(StompError::UndefinedEscape)?;
            at += 2;
        }
    }
    Ok(colon)
}

/// One STOMP frame, borrowed from the bytes it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StompFrame<'a> {
    /// The command.
    pub command: Command,
    /// Header lines with their EOLs, up to the blank line.
    lines: &'a str,
    /// The body, without the NUL that ends the frame.
    pub body: &'a [u8],
    /// As which the lines must be read: [`Escapes::None`] too where there is none in them.
    escapes: Escapes,
    trim: bool,
}

impl<'a> StompFrame<'a> {
    pub(super) fn new(
        command: Command,
        version: Version,
        lines: &'a str,
        body: &'a [u8],
        accept_version: bool,
    ) -> Self {
        // STOMP 1.0 writes `login: <username>`, 1.1 and 1.2 forbid trimming. A CONNECT that offers no version
        // is one of 1.0.
        let opens = matches!(command, Command::Connect | Command::Stomp);
        let trim = if opens { !accept_version } else { version == Version::V10 };
        // One look at the whole head, so that each reading of a name or value need not look.
        let has_escapes = memchr::memchr(b'\\', lines.as_bytes()).is_some();
        let escapes = if has_escapes { Escapes::of(command, version) } else { Escapes::None };
        StompFrame { command, lines, body, escapes, trim }
    }

    /// The value of the first header of this name; STOMP 1.2, "Repeated Header Entries": the first wins.
    pub fn header(&self, name: &str) -> Option<Cow<'a, str>> {
        let [value] = self.values([name]);
        value
    }

    /// The values of several headers, as [`header`](Self::header) finds them, in one walk over the lines.
    #[inline]
    pub fn values<const N: usize>(&self, names: [&str; N]) -> [Option<Cow<'a, str>>; N] {
        let mut values = [const { None }; N];
        let mut headers = self.headers();
        while let Some((raw_name, raw_value)) = headers.next_raw() {
            let name = self.escapes.read(raw_name);
            for (value, wanted) in values.iter_mut().zip(names) {
                if value.is_none() && name == wanted {
                    *value = Some(self.escapes.read(raw_value));
                }
            }
        }
        values
    }

    /// All headers in their order, repeated ones too.
    pub fn headers(&self) -> Headers<'a> {
        Headers { rest: self.lines, escapes: self.escapes, trim: self.trim }
    }
}

/// The headers of a [`StompFrame`].
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a str,
    escapes: Escapes,
    trim: bool,
}

impl<'a> Headers<'a> {
    /// The next name and value as they stand on the wire, to be [read](Self::read).
    #[inline]
    pub(super) fn next_raw(&mut self) -> Option<(&'a str, &'a str)> {
        let end = memchr::memchr(b'\n', self.rest.as_bytes())?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        let line = line.strip_suffix('\r').unwrap_or(line);
        let colon = line.bytes().position(|byte| byte == b':')?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        Some((name, if self.trim { value.trim_matches(BLANK) } else { value }))
    }

    /// A name or value as it is meant.
    #[inline]
    pub(super) fn read(&self, raw: &'a str) -> Cow<'a, str> {
        self.escapes.read(raw)
    }
}

/// What 1.0 trims off a value; line ends are not there, and other white space is part of it.
const BLANK: [char; 2] = [' ', '\t'];

impl<'a> Iterator for Headers<'a> {
    type Item = (Cow<'a, str>, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.next_raw()?;
        Some((self.escapes.read(name), self.escapes.read(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_each_version() {
        let text = "a:b\\c\nd\re";
        for (escapes, value, name) in [
            (Escapes::None, "a:b\\c d e", "a b\\c d e"),
            (Escapes::V11, "a\\cb\\\\c\\nd e", "a\\cb\\\\c\\nd e"),
            (Escapes::V12, "a\\cb\\\\c\\nd\\re", "a\\cb\\\\c\\nd\\re"),
        ] {
            for (expected, in_name) in [(value, false), (name, true)] {
                let mut out = Vec::new();
                escapes.write(text, in_name, &mut out);
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{escapes:?} {in_name}");
            }
        }
        assert_eq!(Escapes::V12.read("a\\cb\\\\c\\nd\\re"), text);
        assert_eq!(Escapes::V11.read("plain"), "plain");
        assert_eq!(Escapes::None.read("\\c"), "\\c");
    }

    #[test]
    fn specials_are_seen_wherever_they_stand() {
        for byte in 0..=255u8 {
            for len in 1..20 {
                for at in 0..len {
                    let mut bytes = vec![b'x'; len];
                    bytes[at] = byte;
                    assert_eq!(may_have_special(&bytes), byte < 14 || is_special(byte), "{byte} at {at}");
                }
            }
        }
        assert!(!may_have_special(b""));
    }

    #[test]
    fn lines_that_are_refused() {
        for (line, escapes, error) in [
            ("no colon", Escapes::V12, StompError::HeaderMalformed),
            (":no name", Escapes::V12, StompError::HeaderMalformed),
            ("", Escapes::None, StompError::HeaderMalformed),
            ("a:\\t", Escapes::V12, StompError::UndefinedEscape),
            ("a:\\", Escapes::V12, StompError::UndefinedEscape),
            ("a:\\r", Escapes::V11, StompError::UndefinedEscape),
            ("a\\x:b", Escapes::V11, StompError::UndefinedEscape),
            ("a:b\rc", Escapes::V12, StompError::CarriageReturn),
        ] {
            assert_eq!(check_line(line.as_bytes(), escapes), Err(error), "{line:?}");
        }
        for (line, escapes) in [
            ("a:b:c", Escapes::V12),
            ("a:", Escapes::V12),
            ("a:\\\\t", Escapes::V12),
            ("a:b\rc", Escapes::V11),
            ("a:\\t", Escapes::None),
        ] {
            assert_eq!(check_line(line.as_bytes(), escapes), Ok(1), "{line:?}");
        }
    }
}
