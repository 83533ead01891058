//! The head of a request.
//!
//! The grammar is httparse's; what HTTP demands beyond grammar of every request is checked here, what a
//! WebSocket handshake demands in [`upgrade`](super::upgrade).
//!
//! Invariant: the answer depends on the first `head_bytes_max` bytes alone.

use std::mem::MaybeUninit;

use httparse::{Header, Status};

use super::HttpError;
use crate::limits;

/// Header fields that a [`Scratch`] has room for: the top of the range of `handshake.headers_max`.
pub const HEADERS_CEILING: usize = 256;

/// Fields that proxies add, and what the names of others begin with.
const MARKS_OF_PROXIES: &[&str] = &[
    "Forwarded",
    "X-Real-IP",
    "Via",
    "CF-Connecting-IP",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "CDN-Loop",
];
const X_FORWARDED: &[u8] = b"X-Forwarded-";

/// Room for the header fields of one request while it is looked at: 8 KiB, of which a request touches what it has fields for.
#[derive(Debug)]
pub struct Scratch<'b>([MaybeUninit<Header<'b>>; HEADERS_CEILING]);

impl Scratch<'_> {
    /// Empty room.
    pub const fn new() -> Self {
        Scratch([const { MaybeUninit::uninit() }; HEADERS_CEILING])
    }
}

impl Default for Scratch<'_> {
    fn default() -> Self {
        Scratch::new()
    }
}

/// The head of one request, borrowed from the bytes it was read from.
#[derive(Debug)]
pub struct Request<'a> {
    /// As sent: methods are case-sensitive.
    pub method: &'a str,
    /// The path, as sent, beginning with `/`.
    pub target: &'a str,
    /// What follows the first `?` of the target.
    pub query: Option<&'a str>,
    /// The minor version of HTTP/1: 0 or 1.
    pub http_minor: u8,
    headers: &'a [Header<'a>],
}

impl<'a> Request<'a> {
    /// The value of the first field of this name, whatever its case, if that is UTF-8.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The members of a comma-separated list, over all fields of this name (RFC 9110 section 5.6.1). Empty
    /// members and values that are not UTF-8 are left out.
    pub fn header_tokens(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.values(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .map(|token| token.trim_matches([' ', '\t']))
            .filter(|token| !token.is_empty())
    }

    /// Refuses a request with a body, since no path reads one.
    ///
    /// # Errors
    /// [`HttpError::BODY`], or [`HttpError::CONTENT_LENGTH`] if it cannot be told whether there is one.
    pub fn refuse_body(&self) -> Result<(), HttpError> {
        if self.values("transfer-encoding").next().is_some() {
            return Err(HttpError::BODY);
        }
        let mut lengths = self.values("content-length");
        let Some(length) = lengths.next() else {
            return Ok(());
        };
        // RFC 9112 section 6.3, item 5.
        let is_number = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
        if !is_number || lengths.any(|other| other != length) {
            return Err(HttpError::CONTENT_LENGTH);
        }
        if length.iter().any(|&digit| digit != b'0') { Err(HttpError::BODY) } else { Ok(()) }
    }

    /// The name of a field that a proxy has added, if there is one: `Forwarded`, `X-Forwarded-*`, `X-Real-IP` or `Via`. A
    /// request with one of them did not come from the socket's peer.
    pub fn mark_of_proxy(&self) -> Option<&'a str> {
        self.headers.iter().map(|header| header.name).find(|name| is_mark_of_proxy(name))
    }

    /// The values of all fields of this name.
    pub fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }
}

/// Whether a field of this name is one that proxies add: `Forwarded`, `X-Forwarded-*`, `X-Real-IP` or `Via`.
pub fn is_mark_of_proxy(name: &str) -> bool {
    let start = name.as_bytes().get(..X_FORWARDED.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(X_FORWARDED))
        || MARKS_OF_PROXIES.iter().any(|mark| name.eq_ignore_ascii_case(mark))
}

/// Parses the request head at the front of `buf`. `None`: it is not complete yet. Returns the request and the
/// length of its head; what follows in `buf` belongs to the protocol that the connection is upgraded to. Every
/// call reads from the begin: a head is short, and nearly always comes whole.
///
/// # Errors
/// The refusal to answer with. Garbage is refused at its first wrong byte, not at the end of a line.
pub fn parse<'h, 'b: 'h>(
    buf: &'b [u8],
    limits: &limits::Handshake,
    scratch: &'h mut Scratch<'b>,
) -> Result<Option<(Request<'h>, usize)>, HttpError> {
    let head_bytes_max = limits.head_bytes_max as usize;
    let headers_max = (limits.headers_max as usize).min(HEADERS_CEILING);
    let window = &buf[..buf.len().min(head_bytes_max)];
    let mut parsed = httparse::Request::new(&mut []);
    let head_bytes = match parsed.parse_with_uninit_headers(window, &mut scratch.0[..headers_max]) {
        Ok(Status::Complete(head_bytes)) => head_bytes,
        Ok(Status::Partial) if buf.len() >= head_bytes_max => return Err(HttpError::HEAD_BYTES),
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::HEADERS),
        Err(httparse::Error::Version) => return Err(HttpError::HTTP_VERSION),
        Err(_) => return Err(HttpError::MALFORMED),
    };
    let (Some(method), Some(target), Some(http_minor)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(HttpError::MALFORMED);
    };
    let path = origin_form(target).ok_or(HttpError::TARGET)?;
    let (target, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let request = Request { method, target, query, http_minor, headers: parsed.headers };
    let hosts = request.values("host").count();
    if hosts > 1 || (hosts == 0 && http_minor == 1) {
        return Err(HttpError::HOST);
    }
    Ok(Some((request, head_bytes)))
}

/// Path and query of a request target. RFC 9112 section 3.2.2: "a server MUST accept the absolute-form",
/// although clients send it to proxies only.
fn origin_form(target: &str) -> Option<&str> {
    if target.contains('#') {
        return None;
    }
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !["http", "https", "ws", "wss"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return None;
    }
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('/') => Some(&rest[at..]),
        // An authority with no path stands for `/`; with a query, there is no slice to say so.
        Some(_) => None,
        None => Some("/"),
    }
}
