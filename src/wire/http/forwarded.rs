//! Whom proxies name in a request: the hops of `X-Forwarded-For` and of `Forwarded` (RFC 7239), from the last.
//!
//! Each proxy adds its own client at the end. So the last hops are those that the nearest proxies vouch for, and the first
//! ones are whatever the client wrote. Who is believed is decided above.
//!
//! Invariant: a hop is read from its own bytes and those behind it. What a client writes before a proxy's part cannot
//! change how that part is read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Request;

/// Bytes of a hop that can be an address with a port, and more: an IPv6 address has 39, in brackets.
const HOP_BYTES_MAX: usize = 64;

/// The header field in which proxies name their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
}

impl<'a> Request<'a> {
    /// The hops of a request, the nearest first; `None` for one that names no address (`unknown`, a pseudonym, nonsense).
    /// Of both header fields, `X-Forwarded-For` is read if it is there, unless `header` says which.
    pub fn hops(&self, header: Option<ClientHeader>) -> impl Iterator<Item = Option<IpAddr>> {
        let header = header.unwrap_or_else(|| {
            let has_x = self.values("x-forwarded-for").next().is_some();
            if has_x { ClientHeader::XForwardedFor } else { ClientHeader::Forwarded }
        });
        let name = match header {
            ClientHeader::XForwardedFor => "x-forwarded-for",
            ClientHeader::Forwarded => "forwarded",
        };
        let elements = self.values(name).rev().flat_map(move |value| {
            let is_quoting = header == ClientHeader::Forwarded;
            FromEnd { rest: Some(value), separator: b',', is_quoting }
        });
        elements.map(move |element| match header {
            ClientHeader::XForwardedFor => address(element?),
            ClientHeader::Forwarded => forwarded_for(element?),
        })
    }
}

/// The parts of a list from its end, split at a separator that is in no quoted string (RFC 9110 section 5.6.4). `None` and
/// then no more if quotes do not come in pairs.
struct FromEnd<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
    is_quoting: bool,
}

impl<'a> Iterator for FromEnd<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let mut is_quoted = false;
        for (at, byte) in rest.iter().enumerate().rev() {
            match byte {
                b'"' if self.is_quoting => {
                    let escapes = rest[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
                    match (is_quoted, escapes % 2 == 1) {
                        // The string goes on.
                        (true, true) => {}
                        (false, true) => return Some(None),
                        (_, false) => is_quoted = !is_quoted,
                    }
                }
                byte if *byte == self.separator && !is_quoted => {
                    self.rest = Some(&rest[..at]);
                    return Some(Some(&rest[at + 1..]));
                }
                _ => {}
            }
        }
        Some((!is_quoted).then_some(rest))
    }
}

/// The address that an element of `Forwarded` has for its `for` (RFC 7239 section 4).
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut node = None;
    for pair in (FromEnd { rest: Some(element), separator: b';', is_quoting: true }) {
        let pair = pair?.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_at(memchr::memchr(b'=', pair)?);
        // "Each parameter MUST NOT occur more than once per field-value."
        if name.eq_ignore_ascii_case(b"for") && node.replace(&value[1..]).is_some() {
            return None;
        }
    }
    let node = node?;
    // What is an address needs no escapes.
    address(node.strip_prefix(b"\"").and_then(|node| node.strip_suffix(b"\"")).unwrap_or(node))
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = hop.trim_ascii();
    if hop.len() > HOP_BYTES_MAX {
        return None;
    }
    let hop = std::str::from_utf8(hop).ok()?;
    let address = if let Ok(address) = hop.parse::<IpAddr>() {
        address
    } else if let Some(rest) = hop.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(address.into())?
    } else {
        let (address, port) = hop.split_once(':')?;
        let address: Ipv4Addr = address.parse().ok()?;
        is_port(port).then_some(address.into())?
    };
    Some(address.to_canonical())
}

/// A number, or a pseudonym (RFC 7239 section 6). It is not looked at.
fn is_port(text: &str) -> bool {
    let name = text.strip_prefix('_');
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        Some(name) => !name.is_empty() && name.bytes().all(is_name),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::Handshake;
    use crate::wire::http::{Scratch, parse};

    /// The hops of a request with these header lines.
    fn hops(lines: &[&str], header: Option<ClientHeader>) -> Vec<Option<IpAddr>> {
        let head = format!("GET /ws HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", lines.join("\r\n"));
        let limits = Handshake { head_bytes_max: 65_536, ..Handshake::default() };
        let mut scratch = Scratch::new();
        let (request, _) = parse(head.as_bytes(), &limits, &mut scratch).unwrap().unwrap();
        request.hops(header).collect()
    }

    fn shown(hops: &[Option<IpAddr>]) -> String {
        let shown = hops.iter().map(|hop| hop.map_or("-".to_owned(), |address| address.to_string()));
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn hops_are_read_from_the_last() {
        for (lines, expected) in [
            (&["X-Forwarded-For: 192.0.2.1"][..], "192.0.2.1"),
            (&["x-forwarded-for: 192.0.2.1, 192.0.2.2,192.0.2.3"], "192.0.2.3 192.0.2.2 192.0.2.1"),
            (&["X-Forwarded-For: 192.0.2.1", "A: b", "X-Forwarded-For: 192.0.2.2"], "192.0.2.2 192.0.2.1"),
            (&["X-Forwarded-For: 192.0.2.1:4711"], "192.0.2.1"),
            (&["X-Forwarded-For: 2001:DB8::1"], "2001:db8::1"),
            (&["X-Forwarded-For: [2001:db8::1]"], "2001:db8::1"),
            (&["X-Forwarded-For: [2001:db8::1]:4711"], "2001:db8::1"),
            (&["X-Forwarded-For: ::ffff:192.0.2.1, [::ffff:192.0.2.2]:1"], "192.0.2.2 192.0.2.1"),
            (&["X-Forwarded-For: unknown"], "-"),
            (&["X-Forwarded-For: 192.0.2.1, unknown, 192.0.2.3"], "192.0.2.3 - 192.0.2.1"),
            (&["X-Forwarded-For:"], "-"),
            (&["X-Forwarded-For: 192.0.2.1,"], "- 192.0.2.1"),
            (&["X-Forwarded-For: 192.0.2.1, unix:"], "- 192.0.2.1"),
            (&["X-Forwarded-For: \"192.0.2.1"], "-"),
            (&["Forwarded: for=192.0.2.60"], "192.0.2.60"),
            (&["Forwarded: For=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60"),
            (&["Forwarded: proto=https ; for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["Forwarded: for=192.0.2.43, for=\"[2001:db8::1]\""], "2001:db8::1 192.0.2.43"),
            (&["Forwarded: for=192.0.2.43", "forwarded: for=198.51.100.17"], "198.51.100.17 192.0.2.43"),
            (&["Forwarded: for=192.0.2.43:80"], "192.0.2.43"),
            (&["Forwarded: for=\"192.0.2.43:_port\";"], "192.0.2.43"),
            (&["Forwarded: for=unknown, for=_hidden, for=\"_SEVKISEK\""], "- - -"),
            (&["Forwarded: proto=https"], "-"),
            (&["Forwarded: for"], "-"),
            (&["Forwarded: for=192.0.2.1;for=192.0.2.2"], "-"),
            (&["Forwarded: for=192.0.2.1;x=\"a,b;for=192.0.2.9\""], "192.0.2.1"),
            (&["Forwarded: for=192.0.2.1;x=\"a\\\", for=192.0.2.9\""], "192.0.2.1"),
            // The same within quotes that begin before a proxy's part.
            (&["Forwarded: for=192.0.2.9;x=\", for=192.0.2.1"], "192.0.2.1 -"),
            (&["Forwarded: for=192.0.2.9;x=\", for=\"[2001:db8::1]\""], "2001:db8::1 -"),
            (&["Forwarded: for=192.0.2.9\\, for=\"[2001:db8::1]\""], "2001:db8::1 -"),
            (&["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.9"], "192.0.2.1"),
            (&["A: b"], ""),
        ] {
            assert_eq!(shown(&hops(lines, None)), expected, "{lines:?}");
        }
        let both = ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.9"];
        assert_eq!(shown(&hops(&both, Some(ClientHeader::Forwarded))), "192.0.2.9");
        assert_eq!(shown(&hops(&both, Some(ClientHeader::XForwardedFor))), "192.0.2.1");
        assert_eq!(shown(&hops(&both[1..], Some(ClientHeader::XForwardedFor))), "");
    }

    #[test]
    fn what_is_no_address() {
        for hop in [
            "",
            "192.0.2",
            "192.0.2.256",
            "192.0.2.01",
            "0x7f.0.0.1",
            "192.0.2.1:",
            "192.0.2.1:123456",
            "192.0.2.1:8o",
            "192.0.2.1:_",
            "192.0.2.1 192.0.2.2",
            "[192.0.2.1]",
            "[2001:db8::1",
            "[2001:db8::1]4711",
            "[2001:db8::1]:",
            "2001:db8::1]",
            "fe80::1%eth0",
            "2001:db8::g",
            "localhost",
            "http://192.0.2.1",
            "\u{661}92.0.2.1",
        ] {
            assert_eq!(address(hop.as_bytes()), None, "{hop}");
        }
        assert_eq!(address(format!("{}192.0.2.1", "0".repeat(100)).as_bytes()), None);
        assert_eq!(address(&[0xff, 0xfe]), None);
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u16; 8]>().prop_map(IpAddr::from)]
    }

    /// An address as proxies write it.
    fn written(header: ClientHeader, address: IpAddr, port: Option<u16>) -> String {
        let text = match (address, port) {
            (address, None) if header == ClientHeader::XForwardedFor => address.to_string(),
            (IpAddr::V4(address), None) => address.to_string(),
            (IpAddr::V6(address), None) => format!("[{address}]"),
            (address, Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        };
        match header {
            ClientHeader::XForwardedFor => text,
            ClientHeader::Forwarded if text.contains(':') => format!("for=\"{text}\""),
            ClientHeader::Forwarded => format!("proto=https;for={text}"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Whatever stands before it, in its line or in others, what proxies have written is read as they meant it.
        #[test]
        fn what_comes_before_a_proxys_part_does_not_change_it(
            before in r#"[ -~]{0,40}"#,
            is_own_line in any::<bool>(),
            is_forwarded in any::<bool>(),
            named in prop::collection::vec((any_address(), any::<Option<u16>>()), 1..4),
        ) {
            let (header, name) = if is_forwarded {
                (ClientHeader::Forwarded, "Forwarded")
            } else {
                (ClientHeader::XForwardedFor, "X-Forwarded-For")
            };
            let part: Vec<String> =
                named.iter().map(|(address, port)| written(header, *address, *port)).collect();
            let part = part.join(", ");
            let lines = if is_own_line {
                vec![format!("{name}: {before}"), format!("{name}: {part}")]
            } else {
                vec![format!("{name}: {before}, {part}")]
            };
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let expected: Vec<_> =
                named.iter().rev().map(|(address, _)| Some(address.to_canonical())).collect();
            let found = hops(&lines, Some(header));
            prop_assert_eq!(&found[..expected.len()], &expected);
        }
    }
}
