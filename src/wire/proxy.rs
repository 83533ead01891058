//! The PROXY protocol, versions 1 and 2: what a load balancer says of the client before the client's own bytes.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, cited by section. Reads a header and keeps nothing; who
//! may send one is decided above. TLVs (section 2.2) are passed over.
//!
//! Invariant: the result depends on the bytes of the header alone, however they are split: a header that is complete is
//! read the same with anything behind it, and one that is not is never taken for another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What version 1 begins with (section 2.1).
const V1: &[u8] = b"PROXY ";
/// The longest version 1 header, its CR and LF included (section 2.1).
const V1_BYTES_MAX: usize = 107;
/// What version 2 begins with (section 2.2).
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header before its addresses (section 2.2).
const V2_FIXED_BYTES: usize = 16;

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Something else.
    Other,
    /// So few bytes that it may become a header.
    Open,
    /// A header of version 1.
    V1,
    /// A header of version 2.
    V2,
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client's address; `None` if the sender speaks for itself (`LOCAL`: a health check), or does not know
    /// (`UNKNOWN`), and the connection's own address counts.
    pub client: Option<SocketAddr>,
    /// Bytes of the header.
    pub bytes: usize,
}

/// A header that breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Tells what a connection begins with.
pub fn begin(bytes: &[u8]) -> Begin {
    let meets = |signature: &[u8]| {
        let length = bytes.len().min(signature.len());
        (bytes[..length] == signature[..length]).then_some(length == signature.len())
    };
    match (meets(V1), meets(V2)) {
        (Some(true), _) => Begin::V1,
        (_, Some(true)) => Begin::V2,
        (None, None) => Begin::Other,
        _ => Begin::Open,
    }
}

/// Reads the header that `bytes` begin with; `None` while it is not complete. To be asked when [`begin`] says that it is one.
///
/// # Errors
/// It breaks the protocol, which cannot be mended: what follows is not understood either.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    match begin(bytes) {
        Begin::V1 => parse_v1(bytes),
        Begin::V2 => parse_v2(bytes),
        Begin::Open => Ok(None),
        Begin::Other => Err(Malformed),
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\r', window) else {
        return if window.len() == V1_BYTES_MAX { Err(Malformed) } else { Ok(None) };
    };
    match window.get(end + 1) {
        Some(b'\n') => {}
        None if window.len() < V1_BYTES_MAX => return Ok(None),
        _ => return Err(Malformed),
    }
    let line = std::str::from_utf8(&window[V1.len()..end]).map_err(|_| Malformed)?;
    Ok(Some(Header { client: client_v1(line)?, bytes: end + 2 }))
}

fn client_v1(line: &str) -> Result<Option<SocketAddr>, Malformed> {
    // Section 2.1: whatever follows UNKNOWN must be ignored.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(None);
    }
    let mut fields = line.split(' ');
    let mut next = || fields.next().ok_or(Malformed);
    let (family, source, destination) = (next()?, next()?, next()?);
    let (source_port, destination_port) = (port(next()?)?, port(next()?)?);
    if fields.next().is_some() {
        return Err(Malformed);
    }
    let ip = |text: &str| -> Result<IpAddr, Malformed> {
        match family {
            "TCP4" => text.parse().map(IpAddr::V4).map_err(|_| Malformed),
            "TCP6" => text.parse().map(IpAddr::V6).map_err(|_| Malformed),
            _ => Err(Malformed),
        }
    };
    // The destination is this side, which is known; but it must be there, and be right.
    let (source, _) = (ip(source)?, (ip(destination)?, destination_port));
    Ok(Some(SocketAddr::new(source, source_port)))
}

/// Section 2.1: a decimal number from 0 to 65535.
fn port(text: &str) -> Result<u16, Malformed> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { text.parse().map_err(|_| Malformed) } else { Err(Malformed) }
}

fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let Some(&version_and_command) = bytes.get(12) else { return Ok(None) };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed),
    };
    let Some(&[family, high, low]) = bytes.get(13..V2_FIXED_BYTES) else { return Ok(None) };
    let addresses_bytes = usize::from(u16::from_be_bytes([high, low]));
    let needed = match family {
        0x11 => 12,
        0x21 => 36,
        // Unspecified, and Unix sockets: no address that counts here.
        0x00 | 0x31 => 0,
        // Datagrams, and what is not assigned.
        _ if !is_local => return Err(Malformed),
        _ => 0,
    };
    if addresses_bytes < needed && !is_local {
        return Err(Malformed);
    }
    let end = V2_FIXED_BYTES + addresses_bytes;
    let Some(addresses) = bytes.get(V2_FIXED_BYTES..end) else { return Ok(None) };
    let client = match family {
        _ if is_local => None,
        0x11 => {
            let ip = <[u8; 4]>::try_from(&addresses[..4]).map_err(|_| Malformed)?;
            let port = u16::from_be_bytes([addresses[8], addresses[9]]);
            Some((Ipv4Addr::from(ip), port).into())
        }
        0x21 => {
            let ip = <[u8; 16]>::try_from(&addresses[..16]).map_err(|_| Malformed)?;
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Some((Ipv6Addr::from(ip), port).into())
        }
        _ => None,
    };
    Ok(Some(Header { client, bytes: end }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [V2, &[0x20 | command, family], &length, addresses].concat()
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    /// Headers, with the client that each names.
    fn headers() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let v4 = [192, 0, 2, 7, 192, 0, 2, 1, 156, 64, 0, 80];
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[32..].copy_from_slice(&[156, 64, 0, 80]);
        let with_tlv = [&v4[..], &[0x04, 0, 2, 0, 0]].concat();
        let longest = format!("PROXY TCP6 {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":"));
        let unknown = format!("PROXY UNKNOWN {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":"));
        assert_eq!(unknown.len(), V1_BYTES_MAX);
        vec![
            (b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\r\n".to_vec(), address("192.0.2.7:40000")),
            (b"PROXY TCP6 2001:db8::7 ::1 1 0\r\n".to_vec(), address("[2001:db8::7]:1")),
            (longest.into_bytes(), address("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (unknown.into_bytes(), None),
            (v2(1, 0x11, &v4), address("192.0.2.7:40000")),
            (v2(1, 0x11, &with_tlv), address("192.0.2.7:40000")),
            (v2(1, 0x21, &v6), address("[2001:db8::]:40000")),
            (v2(0, 0x00, &[]), None),
            (v2(0, 0x11, &v4), None),
            (v2(1, 0x00, &[]), None),
            (v2(1, 0x31, &[b'/'; 216]), None),
        ]
    }

    #[test]
    fn headers_are_read_whatever_follows() {
        for (header, client) in headers() {
            for rest in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"\xff\0"] {
                let bytes = [&header, rest].concat();
                let expected = Header { client, bytes: header.len() };
                assert_eq!(parse(&bytes), Ok(Some(expected)), "{}", header.escape_ascii());
            }
        }
    }

    #[test]
    fn any_begin_of_a_header_is_waited_for() {
        for (header, _) in headers() {
            for length in 0..header.len() {
                assert_eq!(parse(&header[..length]), Ok(None), "{} of {}", length, header.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 107]].concat();
        for bytes in [
            &b"PROXY TCP4 192.0.2.7 192.0.2.1 40000\r\n"[..],
            b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 80 9\r\n",
            b"PROXY TCP4  192.0.2.7 192.0.2.1 40000 80\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 +4000 80\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 65536 80\r\n",
            b"PROXY TCP4 ::1 ::1 40000 80\r\n",
            b"PROXY TCP6 192.0.2.7 192.0.2.1 40000 80\r\n",
            b"PROXY UDP4 192.0.2.7 192.0.2.1 40000 80\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 80\r \n",
            b"PROXY \xff\r\n",
            &long,
            b"GET / HTTP/1.1\r\n\r\n",
            &v2(2, 0x11, &[0; 12]),
            &v2(1, 0x12, &[0; 12]),
            &v2(1, 0x11, &[0; 11]),
            &v2(1, 0x21, &[0; 35]),
            &[V2, &[0x11]].concat(),
        ] {
            assert_eq!(parse(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_begin_tells() {
        for (bytes, expected) in [
            (&b""[..], Begin::Open),
            (b"P", Begin::Open),
            (b"PROXY", Begin::Open),
            (b"PROXY ", Begin::V1),
            (b"POST / HTTP/1.1", Begin::Other),
            (b"\r\n", Begin::Open),
            (b"\r\nGET", Begin::Other),
            (b"\r\n\r\n\0\r\nQUIT\n", Begin::V2),
            (b"GET", Begin::Other),
        ] {
            assert_eq!(begin(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    /// Bytes that are near a header: one of the right ones, with some of its bytes changed, cut, or lengthened.
    fn nearly() -> impl Strategy<Value = Vec<u8>> {
        let change = (any::<proptest::sample::Index>(), any::<u8>());
        let changes = proptest::collection::vec(change, 0..4);
        let rest = proptest::collection::vec(any::<u8>(), 0..40);
        (0..headers().len(), changes, rest).prop_map(|(which, changes, rest)| {
            let mut bytes = headers()[which].0.clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(rest);
            bytes
        })
    }

    proptest! {
        /// However the bytes arrive, the verdict comes once and stays.
        #[test]
        fn any_split_gives_the_same_verdict(bytes in prop_oneof![nearly(), proptest::collection::vec(any::<u8>(), 0..300)]) {
            let whole = parse(&bytes);
            for length in 0..bytes.len() {
                match parse(&bytes[..length]) {
                    Ok(None) => {}
                    verdict => {
                        prop_assert_eq!(verdict, whole);
                        break;
                    }
                }
            }
            if let Ok(Some(header)) = whole {
                prop_assert!(header.bytes <= bytes.len());
                prop_assert_eq!(parse(&bytes[..header.bytes]), whole, "it needs no more than it says");
            }
        }
    }
}
