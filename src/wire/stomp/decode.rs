//! STOMP frames out of a growing buffer.
//!
//! The caller keeps the bytes; the decoder keeps where it is, so that nothing is looked at twice however
//! slowly the bytes come, and 24 bytes at most.
//!
//! Invariant: what is refused is refused at the first byte that makes it wrong or too long, judged by the
//! bytes before it alone. So the answer is the same for every cut of the input.

use super::header::{Escapes, check_line};
use super::{Command, StompError, StompFrame, Version};
use crate::limits;

/// What is at the front of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// Nothing complete yet: call again when there are more bytes.
    Need,
    /// EOLs between frames: a heart-beat, or the line end that some clients send after each frame. It is
    /// `consumed` bytes long.
    HeartBeat {
        /// Bytes to take off the front of the buffer.
        consumed: usize,
    },
    /// A whole frame, `consumed` bytes long.
    Frame {
        /// The frame.
        stomp_frame: StompFrame<'a>,
        /// Bytes to take off the front of the buffer.
        consumed: usize,
    },
}

/// Where the decoder is inside the frame at the front of the buffer. The default is at its begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Decoder {
    /// Bytes that were looked at and need not be again.
    scanned: u32,
    /// Where the line begins that is being read.
    line: u32,
    /// Where the body begins, once that is known; 0 inside the head.
    body: u32,
    content_length: Option<u32>,
    headers: u16,
    /// `None` before the end of the first line.
    command: Option<Command>,
    /// Whether an `accept-version` header came, the mark of a CONNECT that is not of 1.0.
    accept_version: bool,
}

const _: () = assert!(size_of::<Decoder>() <= 24);

/// One line at the front of a buffer.
enum Line<'a> {
    Whole { content: &'a [u8], consumed: usize },
    Partial,
}

impl Decoder {
    /// Looks at the front of `buf`, which is at a frame boundary and holds what it held at the last call, and
    /// more. After [`Step::HeartBeat`] and [`Step::Frame`] the decoder is at the begin of the next frame, and
    /// expects `consumed` bytes to be gone.
    ///
    /// `version` is the negotiated one; before CONNECT any will do, since CONNECT is read alike in all.
    ///
    /// # Errors
    /// The rule or bound that was broken. There is no next frame boundary then: the stream is at its end.
    #[inline]
    pub fn decode<'a>(
        &mut self,
        buf: &'a [u8],
        version: Version,
        limits: &limits::Stomp,
    ) -> Result<Step<'a>, StompError> {
        let command = match self.command {
            Some(command) => command,
            None => {
                let beats = leading_eols(buf);
                if beats > 0 {
                    *self = Decoder::default();
                    return Ok(Step::HeartBeat { consumed: beats });
                }
                match self.command_line(buf)? {
                    Some(command) => command,
                    None => return Ok(Step::Need),
                }
            }
        };
        let mut lines = None;
        if self.body == 0 {
            lines = self.header_lines(buf, command, version, limits)?;
            if lines.is_none() {
                return Ok(Step::Need);
            }
        }
        let Some(end) = self.body_end(buf, command, limits)? else {
            return Ok(Step::Need);
        };
        let lines = match lines {
            Some(lines) => lines,
            // They were complete before the body was.
            None => header_lines_of(&buf[..self.body as usize], command)?,
        };
        let stomp_frame =
            StompFrame::new(command, version, lines, &buf[self.body as usize..end], self.accept_version);
        *self = Decoder::default();
        Ok(Step::Frame { stomp_frame, consumed: end + 1 })
    }

    /// Bytes of the whole frame, from its first to its NUL, once its `content-length` is known.
    pub fn needs(&self) -> Option<usize> {
        let content_length = self.content_length.filter(|_| self.body > 0)?;
        Some(self.body as usize + content_length as usize + 1)
    }

    /// Whether the frame under way ends with the first NUL that comes, which may be the next frame's if its own is
    /// missing.
    pub fn awaits_nul(&self) -> bool {
        self.body > 0 && self.content_length.is_none()
    }

    /// Panics if the decoder is in a state that it cannot get into after `buf` was not enough. For tests.
    pub fn check(&self, buf: &[u8]) {
        let (line, scanned, body) = (self.line as usize, self.scanned as usize, self.body as usize);
        assert!(line <= scanned && scanned <= buf.len(), "{self:?}");
        if self.command.is_none() {
            assert!(line == 0 && body == 0 && self.content_length.is_none() && self.headers == 0, "{self:?}");
        } else {
            assert_eq!(buf[line - 1], b'\n', "a line begins behind another");
        }
        if body > 0 {
            assert_eq!(body, line, "the body begins behind the blank line");
            assert!(self.needs().is_none_or(|bytes| bytes > buf.len()), "all that is needed was there");
        }
    }

    fn command_line(&mut self, buf: &[u8]) -> Result<Option<Command>, StompError> {
        match self.line(buf, Command::BYTES_MAX, StompError::UnknownCommand)? {
            Line::Partial => Ok(None),
            Line::Whole { content, consumed } => {
                let command = Command::from_bytes(content).ok_or(StompError::UnknownCommand)?;
                self.line = consumed as u32;
                self.scanned = self.line;
                self.command = Some(command);
                Ok(Some(command))
            }
        }
    }

    /// Goes on over header lines; all of them when the blank line was found and the body begins.
    #[inline]
    fn header_lines<'a>(
        &mut self,
        buf: &'a [u8],
        command: Command,
        version: Version,
        limits: &limits::Stomp,
    ) -> Result<Option<&'a str>, StompError> {
        let escapes = Escapes::of(command, version);
        loop {
            let head_left = limits.head_bytes_max.saturating_sub(self.line) as usize;
            let is_connect = matches!(command, Command::Connect | Command::Stomp);
            let (header_max, header_too_long) = if is_connect {
                (limits.connect_header_bytes_max as usize, StompError::connect_header_too_long(limits))
            } else {
                (limits.header_bytes_max as usize, StompError::header_too_long(limits))
            };
            let (line_max, too_long) = if head_left < header_max {
                (head_left, StompError::head_too_long(limits))
            } else {
                (header_max, header_too_long)
            };
            let (content, consumed) = match self.line(buf, line_max, too_long)? {
                Line::Partial => return Ok(None),
                Line::Whole { content, consumed } => (content, consumed),
            };
            self.line = consumed as u32;
            self.scanned = self.line;
            if content.is_empty() {
                let lines = header_lines_of(&buf[..consumed], command)?;
                self.body = self.line;
                return Ok(Some(lines));
            }
            if u32::from(self.headers) >= limits.headers_max {
                return Err(StompError::too_many_headers(limits));
            }
            self.headers += 1;
            let colon = check_line(content, escapes)?;
            self.note_header(&content[..colon], &content[colon + 1..], command, version, limits)?;
        }
    }

    /// The two headers that decide how the frame itself is read.
    #[inline]
    fn note_header(
        &mut self,
        name: &[u8],
        value: &[u8],
        command: Command,
        version: Version,
        limits: &limits::Stomp,
    ) -> Result<(), StompError> {
        if name == b"content-length" && self.content_length.is_none() {
            let trim = version == Version::V10 || command.is_never_escaped();
            let value = if trim { value.trim_ascii() } else { value };
            let length = parse_length(value).ok_or(StompError::ContentLength)?;
            if length > 0 && !command.may_have_body() {
                return Err(StompError::BodyNotAllowed);
            }
            if length > u64::from(limits.body_bytes_max) {
                return Err(StompError::body_too_long(limits));
            }
            self.content_length = Some(length as u32);
        } else if name == b"accept-version" {
            self.accept_version = true;
        }
        Ok(())
    }

    /// Where the NUL is that ends the frame, if it has come.
    #[inline]
    fn body_end(
        &mut self,
        buf: &[u8],
        command: Command,
        limits: &limits::Stomp,
    ) -> Result<Option<usize>, StompError> {
        let body = self.body as usize;
        if let Some(content_length) = self.content_length {
            let end = body + content_length as usize;
            return match buf.get(end) {
                None => Ok(None),
                Some(0) => Ok(Some(end)),
                Some(_) => {
                    let is_cut = memchr::memmem::find(&buf[body..end], "\u{fffd}".as_bytes()).is_some();
                    Err(if is_cut { StompError::CharacterCut } else { StompError::NulMissing })
                }
            };
        }
        let (body_max, too_long) = if command.may_have_body() {
            (limits.body_bytes_max as usize, StompError::body_too_long(limits))
        } else {
            (0, StompError::BodyNotAllowed)
        };
        let window = buf.len().min(body + body_max + 1);
        let scanned = self.scanned as usize;
        match memchr::memchr(0, &buf[scanned..window]) {
            Some(found) => Ok(Some(scanned + found)),
            None if window - body > body_max => Err(too_long),
            None => {
                self.scanned = window as u32;
                Ok(None)
            }
        }
    }

    /// The line that begins at `self.line`, if it is complete. Its content is what comes before LF or CR LF
    /// (STOMP 1.2, "Augmented BNF": EOL is `[CR] LF`; earlier versions know LF alone, and their clients send
    /// both), and may be `max` bytes long.
    #[inline]
    fn line<'a>(&mut self, buf: &'a [u8], max: usize, too_long: StompError) -> Result<Line<'a>, StompError> {
        let start = self.line as usize;
        let scanned = self.scanned as usize;
        // The content, CR and LF: no need to look further.
        let window = buf.len().min(start + max + 2);
        let found = memchr::memchr2(b'\n', 0, &buf[scanned..window]).map(|at| scanned + at);
        let end = found.unwrap_or(window);
        let content = &buf[start..end];
        let content = content.strip_suffix(b"\r").unwrap_or(content);
        if content.len() > max {
            return Err(too_long);
        }
        match found {
            None => {
                self.scanned = window as u32;
                Ok(Line::Partial)
            }
            Some(end) if buf[end] == 0 => Err(StompError::NulInHead),
            Some(end) => Ok(Line::Whole { content, consumed: end + 1 }),
        }
    }
}

/// Whether bytes begin with a whole head: a command of clients, at least one header, and the blank line.
pub fn begins_with_head(bytes: &[u8]) -> bool {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map_while(|line| {
        let line = line.strip_suffix(b"\n")?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    });
    let is_command = lines.next().and_then(Command::from_bytes).is_some_and(Command::is_of_clients);
    let mut headers = 0;
    is_command
        && lines
            .find_map(|line| match memchr::memchr(b':', line) {
                _ if line.is_empty() => Some(headers > 0),
                None | Some(0) => Some(false),
                Some(_) => {
                    headers += 1;
                    None
                }
            })
            .unwrap_or(false)
}

/// Bytes of whole EOLs at the front of `buf`.
#[inline]
fn leading_eols(buf: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &buf[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            _ => return at,
        }
    }
}

/// The header lines of a complete head, from behind the command's line, as text.
#[inline]
fn header_lines_of(head: &[u8], command: Command) -> Result<&str, StompError> {
    let eol = command.as_str().len();
    let lines = eol + if head[eol] == b'\r' { 2 } else { 1 };
    let lines = std::str::from_utf8(&head[lines..]).map_err(|_| StompError::HeadNotUtf8)?;
    // The blank line.
    let lines = lines.strip_suffix('\n').unwrap_or(lines);
    Ok(lines.strip_suffix('\r').unwrap_or(lines))
}

/// A number in decimal digits; one that no bound could hold is a large one.
fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}
