//! The HTTP answers to requests that are not served, each with its status and one sentence of reason.
//!
//! Does not decide when; the pages' own answers are elsewhere.
//!
//! Invariant: [`HttpError::ALL`] holds every answer of the server that is not 101 or a page; the table in
//! `docs/PROTOCOL.md` is compared with it.

use std::fmt;

/// A refusal. Compare with the constants to tell which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpError {
    /// The status code, 4xx or 5xx.
    pub status: u16,
    /// The body, one sentence for the person who debugs the client.
    pub reason: &'static str,
    /// Header fields that the status asks for, besides those of every answer.
    pub headers: &'static [(&'static str, &'static str)],
}

/// RFC 9110 section 15.5.22: a 426 MUST name the protocol; section 7.8: and `Connection` names `Upgrade`.
const UPGRADE: &[(&str, &str)] = &[("Upgrade", "websocket"), ("Connection", "Upgrade")];

/// RFC 6455 section 4.4: the versions that this server speaks.
const UPGRADE_VERSION: &[(&str, &str)] =
    &[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")];

/// RFC 9110 section 15.5.6: a 405 MUST name the methods.
const ALLOW_GET: &[(&str, &str)] = &[("Allow", "GET")];
const ALLOW_READ: &[(&str, &str)] = &[("Allow", "GET, HEAD, OPTIONS")];

/// Declares the answers once: name, status, reason, header fields.
macro_rules! errors {
    ($( $(#[doc = $doc:literal])+ $name:ident = $status:literal, $reason:literal, $headers:expr; )+) => {
        impl HttpError {
            $( $(#[doc = $doc])+
            pub const $name: HttpError = HttpError { status: $status, reason: $reason, headers: $headers }; )+

            /// Every refusal, in the order of the documentation.
            pub const ALL: &'static [HttpError] = &[ $( HttpError::$name, )+ ];
        }
    };
}

errors! {
    /// Not HTTP.
    MALFORMED = 400, "The request is not well-formed HTTP.", &[];
    /// The target is not a path nor an `http` URL (RFC 9112 section 3.2).
    TARGET = 400, "The request target must be a path.", &[];
    /// RFC 9112 section 3.2: not exactly one `Host` in HTTP/1.1.
    HOST = 400, "The request must have one Host header field.", &[];
    /// RFC 9112 section 6.3: a `Content-Length` that is no number, or two that differ.
    CONTENT_LENGTH = 400, "The Content-Length header field is not a number.", &[];
    /// RFC 6455 section 4.2.1: not exactly one key of 16 bytes in base64.
    KEY = 400, "The request must have one Sec-WebSocket-Key header field: 16 bytes in base64.", &[];
    /// RFC 6455 section 11.3.5: more than one version in the request.
    VERSION_REPEATED = 400, "The Sec-WebSocket-Version header field must not be repeated.", &[];
    /// A PROXY protocol header, from an address that is not to be believed.
    PROXY_UNTRUSTED = 400, "The connection begins with a PROXY protocol header, and its sender is not in http.trusted_proxies.", &[];
    /// A PROXY protocol header, broken.
    PROXY_MALFORMED = 400, "The PROXY protocol header is not well-formed.", &[];
    /// `/metrics`, asked for from elsewhere.
    METRICS_FORBIDDEN = 403, "Metrics are for callers on this machine: see ops.metrics.", &[];
    /// Nobody has said who may connect, and the request came through a proxy.
    PROXIED = 403, "The request came through a proxy, and auth.mode is not set: everyone could log in under any name. Set auth.mode, to \"open\" if that is meant.", &[];
    /// Nobody has said who may connect, and the request asks for a host that others know.
    FOREIGN_HOST = 403, "The Host is no name of this machine for itself, and auth.mode is not set: everyone could log in under any name. Set auth.mode, to \"open\" if that is meant.", &[];
    /// An operator has banned the client's address. A second sentence says why.
    BANNED = 403, "The address is banned.", &[];
    /// The page that opens the WebSocket is of another site. A second sentence says which.
    ORIGIN = 403, "The page is of another site than this server, and http.origins does not list it.", &[];
    /// No such path.
    NOT_FOUND = 404, "There is nothing at this path.", &[];
    /// RFC 6455 section 4.1: the opening handshake is a GET.
    UPGRADE_METHOD = 405, "A WebSocket handshake must use GET.", ALLOW_GET;
    /// Pages are only read.
    PAGE_METHOD = 405, "This path can only be read.", ALLOW_READ;
    /// The request head did not come in time.
    REQUEST_TIMEOUT = 408, "The request head did not arrive within handshake.timeout_ms.", &[];
    /// A request body, of any length.
    BODY = 413, "Requests must not have a body.", &[];
    /// RFC 9110 section 7.8: an Upgrade in HTTP/1.0 has to be ignored.
    UPGRADE_HTTP_1_0 = 426, "A WebSocket handshake must use HTTP/1.1.", UPGRADE;
    /// RFC 6455 section 4.2.1, items 3 and 4: no `Upgrade: websocket`, or no `Connection: Upgrade`.
    UPGRADE_REQUIRED = 426, "This path speaks WebSocket: send Upgrade: websocket and Connection: Upgrade.", UPGRADE;
    /// RFC 6455 section 4.4: another version of the protocol, or none named.
    VERSION = 426, "This path speaks WebSocket version 13.", UPGRADE_VERSION;
    /// RFC 6585 section 4.
    ADDRESS_QUOTA = 429, "Your address has handshake.connections_per_address_max connections.", &[];
    /// The head is too long.
    HEAD_BYTES = 431, "The request head is longer than handshake.head_bytes_max.", &[];
    /// Too many header fields.
    HEADERS = 431, "The request has more header fields than handshake.headers_max.", &[];
    /// The TCB table is full.
    TABLE_FULL = 503, "The server is at its capacity of connections.", &[];
    /// Few places are left, and those who come from the peer's address have more than those.
    ABOVE_SHARE = 503, "Your address has its share of the server's connections.", &[];
    /// Upgrades that wait for their CONNECT say too much of their clients.
    CREDENTIALS = 503, "Too many tokens wait for a CONNECT: see handshake.credentials_bytes_max.", &[];
    /// All who are connected are told to go; so is who comes.
    SHUTTING_DOWN = 503, "The server is shutting down.", &[];
    /// Not every reactor listens yet.
    STARTING = 503, "The server is starting.", &[];
    /// Not HTTP/1.0 nor HTTP/1.1.
    HTTP_VERSION = 505, "The server speaks HTTP/1.1.", &[];
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

impl std::error::Error for HttpError {}
