//! The headers that a sender chose, on their way from its SEND to every subscriber's MESSAGE.
//!
//! They are kept as header lines escaped for 1.2, the only version that can write everything, and turned
//! into an older version's when a subscriber needs that. Which headers the server adds is the session's
//! business.
//!
//! Invariant: kept lines can be put into a 1.2 frame as they are: escaped, ended by LF, no name twice.

use std::net::IpAddr;

use super::header::Escapes;
use super::{Command, StompFrame, Version};

/// Declares a list of names, and what tells whether a name is one of them: by its length first, which tells most apart.
macro_rules! names {
    ($(#[$meta:meta])* $list:ident, $is_one:ident: $($name:literal),+ $(,)?) => {
        $(#[$meta])*
        pub const $list: &[&str] = &[$($name),+];

        #[inline]
        fn $is_one(name: &str) -> bool {
            matches!(name, $($name)|+)
        }
    };
}

names! {
    /// Headers of a SEND that are not passed on: those about the SEND itself, those that the server sets in the
    /// MESSAGE, and those that could be mistaken for the server's word.
    SERVER_HEADERS, is_listed:
    "ack",
    "content-length",
    "destination",
    "epoch",
    "login",
    "marker",
    "message-id",
    "passcode",
    "receipt",
    "receipt-id",
    "redelivered",
    "sender",
    "sender-address",
    "sender-session",
    "sequence",
    "subscription",
    "timestamp",
    "transaction",
}

/// The header of a question that says where its answer goes. In messages for the application only the server says it, so that
/// no client can have a program answer somewhere else; elsewhere it is a header as others.
pub const REPLY_TO: &str = "reply-to";

/// Whether a name is one of [`SERVER_HEADERS`], or may become one on its way: many clients cut blanks off the ends of names,
/// and [`transcode_lines`] writes a blank for what an older version cannot write.
pub fn is_server_header(name: &str) -> bool {
    is_listed(without_blanks(name))
}

/// Whether a name is the server's in a message for the application alone, or may become so.
fn is_app_header(name: &str) -> bool {
    without_blanks(name) == REPLY_TO
}

/// A name as receivers may read it.
fn without_blanks(name: &str) -> &str {
    let is_plain = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    // Nearly all names begin and end with a letter, and every SEND has some.
    let has_plain_ends = is_plain(name.as_bytes().first()) && is_plain(name.as_bytes().last());
    if has_plain_ends { name } else { name.trim_matches(is_blank_of_name) }
}

/// Whether a character at the end of a header's name is, or may become, one that receivers cut off.
pub fn is_blank_of_name(c: char) -> bool {
    // U+FEFF is a blank in JavaScript, and not in Unicode. Java cuts off all that is below U+0021, Python some of it. NUL, which no
    // frame can have, is written as a blank.
    c.is_whitespace() || c.is_control() || matches!(c, '\u{feff}' | ':')
}

/// Appends the headers of a SEND that are passed on, as lines escaped for 1.2: all but [`SERVER_HEADERS`], and for the
/// application [`REPLY_TO`], in their order, of repeated ones the first (STOMP 1.2, "SEND": "any user defined headers" are
/// passed). Those of a SUBSCRIBE, which asks the application, are the same without its `id`.
pub fn user_header_lines(stomp_frame: &StompFrame<'_>, is_for_app: bool, out: &mut Vec<u8>) {
    let start = out.len();
    let is_question = stomp_frame.command == Command::Subscribe;
    let is_app_only = |name: &str| is_app_header(name) || (is_question && without_blanks(name) == "id");
    let mut headers = stomp_frame.headers();
    while let Some((name, value)) = headers.next_raw() {
        let name = headers.read(name);
        if is_server_header(&name) || (is_for_app && is_app_only(&name)) {
            continue;
        }
        let line = out.len();
        Escapes::V12.write(&name, true, out);
        out.push(b':');
        // Escaped alike, equal names are equal bytes.
        let (earlier, name) = out[start..].split_at(line - start);
        if earlier.split_inclusive(|&byte| byte == b'\n').any(|earlier| earlier.starts_with(name)) {
            out.truncate(line);
            continue;
        }
        Escapes::V12.write(&headers.read(value), false, out);
        out.push(b'\n');
    }
}

/// Appends a header that a program of the operator's chose for a message, as such a line. `false`, and nothing is appended, if
/// it could be one of [`SERVER_HEADERS`] ([`is_server_header`]), for the application [`REPLY_TO`], or has no name. Names differ
/// for whoever calls it several times.
pub fn own_header_line(name: &str, value: &str, is_for_app: bool, out: &mut Vec<u8>) -> bool {
    if name.is_empty() || is_server_header(name) || (is_for_app && is_app_header(name)) {
        return false;
    }
    Escapes::V12.write(name, true, out);
    out.push(b':');
    Escapes::V12.write(value, false, out);
    out.push(b'\n');
    true
}

/// Appends what the server says of a message, as such lines: who sent it, if that was proved, and when it was accepted.
pub fn server_header_lines(sender: Option<&str>, timestamp_ms: u64, out: &mut Vec<u8>) {
    if let Some(sender) = sender {
        out.extend_from_slice(b"sender:");
        Escapes::V12.write(sender, false, out);
        out.push(b'\n');
    }
    out.extend_from_slice(b"timestamp:");
    out.extend_from_slice(itoa::Buffer::new().format(timestamp_ms).as_bytes());
    out.push(b'\n');
}

/// Appends what the application is told of a sender beside that, as such lines: its session, and its address if it has one.
pub fn whence_lines(session: [u32; 3], address: Option<IpAddr>, out: &mut Vec<u8>) {
    let [shard, index, generation] = session;
    let mut lines = format!("sender-session:{shard}-{index}-{generation}\n");
    if let Some(address) = address {
        // Of an IPv6 address the colons are escaped.
        lines += &format!("sender-address:{}\n", address.to_string().replace(':', "\\c"));
    }
    out.extend_from_slice(lines.as_bytes());
}

/// Appends header lines that are escaped for 1.2, as the version `to` writes them. What that version has no
/// way to write becomes a space.
pub fn transcode_lines(lines_v12: &[u8], to: Version, out: &mut Vec<u8>) {
    if to == Version::V12 || memchr::memchr(b'\\', lines_v12).is_none() {
        out.extend_from_slice(lines_v12);
        return;
    }
    let mut in_name = true;
    let mut bytes = lines_v12.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => in_name = false,
            b'\n' => in_name = true,
            _ => {}
        }
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let code = bytes.next();
        match (to, code) {
            (Version::V10, Some(b'\\')) => out.push(b'\\'),
            (Version::V10, Some(b'c')) if !in_name => out.push(b':'),
            (Version::V11, Some(code @ (b'\\' | b'c' | b'n'))) => out.extend([b'\\', code]),
            _ => out.push(b' '),
        }
    }
}
