//! Web origins (RFC 6454): the site whose page opens a WebSocket, as the browser says it in `Origin`.
//!
//! No page can change what its browser says there, and no program is bound by it. An origin is compared with the host that
//! was asked for and with patterns of the configuration. What follows is decided above.
//!
//! Invariant: a text that is not exactly one origin is of no host, and only `*` matches it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of a host name, and of one of its labels (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// A host: a name or an IPv4 address, of which browsers write one text; or an IPv6 address, which has many.
#[derive(Debug, Clone, Copy)]
enum Host<'a> {
    Name(&'a str),
    V6(Ipv6Addr),
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Host::Name(one), Host::Name(other)) => one.eq_ignore_ascii_case(other),
            (Host::V6(one), Host::V6(other)) => one == other,
            _ => false,
        }
    }
}

impl<'a> Host<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[') {
            return address.strip_suffix(']')?.parse().ok().map(Host::V6);
        }
        // The dot of the root names the same host.
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        (name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label)).then_some(Host::Name(name))
    }
}

/// Host and port of an authority. User information is part of neither: `http://a@b` has no host here.
fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let end = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end);
    if port.is_empty() { Some((host, None)) } else { Some((host, Some(port.strip_prefix(':')?))) }
}

fn parse_port(digits: &str) -> Option<u16> {
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { digits.parse().ok().filter(|port| *port > 0) } else { None }
}

fn parse_authority(text: &str) -> Option<(Host<'_>, Option<u16>)> {
    let (host, port) = split_port(text)?;
    let port = port.map(|digits| parse_port(digits).ok_or(())).transpose().ok()?;
    Some((Host::parse(host)?, port))
}

/// RFC 3986 section 3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("https") {
        Some(443)
    } else if scheme.eq_ignore_ascii_case("http") {
        Some(80)
    } else {
        None
    }
}

/// The origin of a page: scheme, host and port.
#[derive(Debug, Clone, Copy)]
pub struct WebOrigin<'a> {
    scheme: &'a str,
    host: Host<'a>,
    /// The one that is said, else the scheme's.
    port: Option<u16>,
}

impl<'a> WebOrigin<'a> {
    /// Reads the value of an `Origin` header field (RFC 6454 section 6.2). `None` for `null`, which is the origin of pages
    /// that must not be known, and for anything with a path, user information or a second origin in it.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        if !is_scheme(scheme) {
            return None;
        }
        if is_file(scheme, authority) {
            return Some(WebOrigin { scheme, host: Host::Name(""), port: None });
        }
        let (host, port) = parse_authority(authority)?;
        Some(WebOrigin { scheme, host, port: port.or_else(|| default_port(scheme)) })
    }

    /// Whether the page comes from the host that a `Host` header field names. Its scheme is not compared: a server behind
    /// TLS does not know it. So the default ports of both schemes are one, said or not.
    pub fn is_of_host(&self, host: &str) -> bool {
        let Some(default) = default_port(self.scheme) else { return false };
        parse_authority(host).is_some_and(|(host, port)| {
            let is_default = self.port == Some(default) && matches!(port, None | Some(80 | 443));
            host == self.host && (is_default || (port.is_some() && port == self.port))
        })
    }
}

/// Browsers say `file://` for a page that is a local file. It has no host.
fn is_file(scheme: &str, authority: &str) -> bool {
    authority.is_empty() && scheme.eq_ignore_ascii_case("file")
}

/// Why a text is no pattern of origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadOriginPattern {
    /// No `scheme://`.
    Scheme,
    /// `null`.
    Null,
    /// `ws://` or `wss://`.
    WebSocket,
    /// Something behind host and port, be it a slash.
    Path,
    /// A host that browsers do not write so.
    Host,
    /// No port from 1 to 65535.
    Port,
    /// A `*` where none can be.
    Wildcard,
}

impl BadOriginPattern {
    /// What is wrong with the pattern, as the end of a sentence that begins with it.
    pub fn reason(self) -> &'static str {
        match self {
            BadOriginPattern::Scheme => "has no scheme: write https:// or http:// before the host",
            BadOriginPattern::Null => {
                "is an origin that every page can take on: it would allow all, as \"*\" says"
            }
            BadOriginPattern::WebSocket => "can match no page: pages have https:// or http://",
            BadOriginPattern::Path => {
                "can match no page: an origin ends behind host and port, without a slash"
            }
            BadOriginPattern::Host => {
                "can match no page: browsers write no such host (ASCII names, as xn-- where needed; IPv4 in four numbers; \
                 IPv6 in brackets)"
            }
            BadOriginPattern::Port => "can match no page: a port is a number from 1 to 65535, or *",
            BadOriginPattern::Wildcard => {
                "has a * that stands neither for all, nor for a host, its first labels, or a port"
            }
        }
    }
}

/// Origins that may open a WebSocket: all (`*`), or those of a scheme, a host and a port. The host may be `*`, or begin with
/// `*.` for all below it, and the port may be `*`.
///
/// ```
/// use tcbchat::wire::http::{OriginPattern, WebOrigin};
///
/// let pattern = OriginPattern::parse("https://*.example.com").unwrap();
/// assert!(pattern.matches(&WebOrigin::parse("https://chat.example.com").unwrap()));
/// assert!(!pattern.matches(&WebOrigin::parse("https://example.com").unwrap()));
/// assert!(!pattern.matches(&WebOrigin::parse("https://chat.example.com:8443").unwrap()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern(Pages);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pages {
    All,
    Of { scheme: Box<str>, hosts: Hosts, ports: Ports },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    Name(Box<str>),
    /// Those with labels before this name.
    Below(Box<str>),
    V6(Ipv6Addr),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ports {
    All,
    /// `None` for a scheme without a default.
    One(Option<u16>),
}

impl OriginPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is none, or could match no page.
    pub fn parse(text: &str) -> Result<Self, BadOriginPattern> {
        if text == "*" {
            return Ok(OriginPattern(Pages::All));
        }
        if text.eq_ignore_ascii_case("null") {
            return Err(BadOriginPattern::Null);
        }
        let (scheme, authority) = text.split_once("://").ok_or(BadOriginPattern::Scheme)?;
        if !is_scheme(scheme) {
            return Err(BadOriginPattern::Scheme);
        }
        let scheme = scheme.to_ascii_lowercase().into_boxed_str();
        if matches!(&*scheme, "ws" | "wss") {
            return Err(BadOriginPattern::WebSocket);
        }
        if is_file(&scheme, authority) {
            return Ok(OriginPattern(Pages::Of {
                scheme,
                hosts: Hosts::Name("".into()),
                ports: Ports::One(None),
            }));
        }
        if authority.contains(['/', '?', '#']) {
            return Err(BadOriginPattern::Path);
        }
        let (host, port) = split_port(authority).ok_or(BadOriginPattern::Host)?;
        let ports = match port {
            None => Ports::One(default_port(&scheme)),
            Some("*") => Ports::All,
            Some(digits) => Ports::One(Some(parse_port(digits).ok_or(BadOriginPattern::Port)?)),
        };
        Ok(OriginPattern(Pages::Of { hosts: Hosts::parse(host)?, scheme, ports }))
    }

    /// Whether it matches everything, what is no origin included.
    pub fn is_all(&self) -> bool {
        self.0 == Pages::All
    }

    /// Whether pages of this origin are meant.
    pub fn matches(&self, origin: &WebOrigin<'_>) -> bool {
        let Pages::Of { scheme, hosts, ports } = &self.0 else { return true };
        let is_port = match ports {
            Ports::All => true,
            Ports::One(port) => *port == origin.port,
        };
        is_port && scheme.eq_ignore_ascii_case(origin.scheme) && hosts.have(origin.host)
    }
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, BadOriginPattern> {
        if text == "*" {
            return Ok(Hosts::All);
        }
        let (is_below, name) = match text.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, text),
        };
        if name.contains('*') {
            return Err(BadOriginPattern::Wildcard);
        }
        match Host::parse(name) {
            Some(Host::V6(address)) if !is_below => Ok(Hosts::V6(address)),
            Some(Host::Name(name)) if is_below && !ends_in_number(name) => Ok(Hosts::Below(lower(name))),
            Some(Host::Name(name))
                if !is_below && (!ends_in_number(name) || name.parse::<Ipv4Addr>().is_ok()) =>
            {
                Ok(Hosts::Name(lower(name)))
            }
            _ => Err(BadOriginPattern::Host),
        }
    }

    fn have(&self, host: Host<'_>) -> bool {
        match (self, host) {
            (Hosts::All, _) => true,
            (Hosts::Name(own), Host::Name(name)) => own.eq_ignore_ascii_case(name),
            (Hosts::Below(own), Host::Name(name)) => {
                let labels = name.len().checked_sub(own.len()).and_then(|at| name.split_at_checked(at));
                labels.is_some_and(|(labels, end)| labels.ends_with('.') && own.eq_ignore_ascii_case(end))
            }
            (Hosts::V6(own), Host::V6(address)) => *own == address,
            _ => false,
        }
    }
}

/// Whether a browser reads the name as an IPv4 address, which it then writes as four numbers (URL Standard, "ends in a
/// number").
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn lower(name: &str) -> Box<str> {
    name.to_ascii_lowercase().into_boxed_str()
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pages::Of { scheme, hosts, ports } = &self.0 else { return f.write_str("*") };
        write!(f, "{scheme}://")?;
        match hosts {
            Hosts::All => f.write_str("*")?,
            Hosts::Name(name) => f.write_str(name)?,
            Hosts::Below(name) => write!(f, "*.{name}")?,
            Hosts::V6(address) => write!(f, "[{address}]")?,
        }
        match ports {
            Ports::All => f.write_str(":*"),
            Ports::One(port) if *port == default_port(scheme) => Ok(()),
            Ports::One(port) => port.iter().try_for_each(|port| write!(f, ":{port}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_of_host(origin: &str, host: &str) -> bool {
        WebOrigin::parse(origin).is_some_and(|origin| origin.is_of_host(host))
    }

    #[test]
    fn a_page_of_the_host_itself() {
        for (origin, host) in [
            ("http://chat.example.com", "chat.example.com"),
            ("https://chat.example.com", "chat.example.com"),
            ("https://chat.example.com", "chat.example.com:443"),
            ("https://chat.example.com:443", "chat.example.com"),
            ("http://chat.example.com:80", "chat.example.com"),
            // TLS ends before the server, and whoever ends it speaks of its own port.
            ("https://chat.example.com", "chat.example.com:80"),
            ("https://chat.example.com:8443", "chat.example.com:8443"),
            ("http://localhost:8080", "localhost:8080"),
            ("https://chat.example.com:80", "chat.example.com:80"),
            ("HTTPS://Chat.EXAMPLE.com", "chat.example.COM"),
            ("https://chat.example.com.", "chat.example.com"),
            ("https://chat.example.com", "chat.example.com.:443"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://[::1]", "[0:0:0:0:0:0:0:1]"),
            ("http://[2001:DB8::A]", "[2001:db8::a]:80"),
            ("http://my_service", "my_service"),
        ] {
            assert!(is_of_host(origin, host), "{origin} {host}");
        }
    }

    #[test]
    fn pages_of_other_hosts_and_what_is_no_origin() {
        let host = "chat.example.com";
        for origin in [
            "https://evil.com",
            "https://chat.example.com.evil.com",
            "https://evilchat.example.com",
            "https://example.com",
            "https://sub.chat.example.com",
            "https://evil@chat.example.com",
            "http://chat.example.com@evil.com",
            "https://chat.example.com:pass@evil.com",
            "https://chat.example.com:8443",
            "http://chat.example.com:443",
            "https://chat.example.com:80",
            "https://chat.example.com:0",
            "https://chat.example.com:",
            "https://chat.example.com:+443",
            "https://chat.example.com:443:443",
            "https://chat.example.com..",
            "https://chat..example.com",
            "https://chat.example.com/",
            "https://chat.example.com#",
            "https://chat.example.com?",
            "https://chat.example.com\\",
            "https://chat.example.com%2eevil.com",
            "https://chat.example.com\0",
            "https://chat.example.com https://evil.com",
            "https://chat.example.com, https://evil.com",
            " https://chat.example.com",
            "https:///chat.example.com",
            "https:chat.example.com",
            "//chat.example.com",
            "chat.example.com",
            "ws://chat.example.com",
            "chrome-extension://chat.example.com",
            "://chat.example.com",
            "https://ch\u{430}t.example.com",
            "https://",
            "file://",
            "null",
            "NULL",
            "",
        ] {
            assert!(!is_of_host(origin, host), "{origin}");
        }
        for (origin, host) in [
            ("http://localhost:8080", "localhost:8081"),
            ("http://localhost:8080", "localhost"),
            ("http://localhost", "localhost:8080"),
            ("http://[::1]:8080", "[::2]:8080"),
            ("http://[::1]:8080", "::1:8080"),
            ("http://[::1", "[::1"),
            ("http://[::1]8080", "[::1]8080"),
            ("http://[fe80::1%25eth0]", "[fe80::1%25eth0]"),
            ("http://a", ""),
            ("http://", ""),
            ("https://chat.example.com", "chat.example.com, evil.com"),
            ("https://chat.example.com", "evil@chat.example.com"),
        ] {
            assert!(!is_of_host(origin, host), "{origin} {host}");
        }
        assert!(!is_of_host(&format!("http://{}", "a".repeat(64)), &"a".repeat(64)));
        assert!(!is_of_host(&format!("http://{}", ["a"; 128].join(".")), &["a"; 128].join(".")));
    }

    #[test]
    fn patterns_mean_what_they_say() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "https://chat.example.com",
                &["https://chat.example.com", "https://chat.example.com:443", "HTTPS://CHAT.example.com."],
                &[
                    "http://chat.example.com",
                    "https://chat.example.com:8443",
                    "https://a.chat.example.com",
                    "https://chat.example.com.evil.com",
                ],
            ),
            (
                "https://*.example.com",
                &["https://a.example.com", "https://a.b.EXAMPLE.com"],
                &[
                    "https://example.com",
                    "https://evilexample.com",
                    "https://.example.com",
                    "https://a.example.com.evil.com",
                    "https://a.example.com:8443",
                    "http://a.example.com",
                ],
            ),
            (
                "http://localhost:*",
                &["http://localhost", "http://localhost:5173"],
                &["https://localhost:5173", "http://localhost.evil.com:5173"],
            ),
            ("HTTPS://Example.com.:443", &["https://example.com"], &["https://example.com:444"]),
            ("http://[::1]:*", &["http://[0::1]:3000"], &["http://[::2]:3000", "http://localhost:3000"]),
            ("http://192.0.2.1", &["http://192.0.2.1"], &["http://192.0.2.10"]),
            ("https://*", &["https://a.example", "https://[::1]"], &["http://a.example", "https://a:1"]),
            ("https://*:*", &["https://a.example:1"], &["http://a.example:1"]),
            (
                "capacitor://localhost",
                &["capacitor://localhost"],
                &["http://localhost", "capacitor://localhost:1"],
            ),
            ("chrome-extension://abcdef", &["chrome-extension://abcdef"], &["chrome-extension://abcdeg"]),
            ("file://", &["file://"], &["file://a", "http://a"]),
            ("*", &["https://a.example", "file://"], &[]),
        ];
        for (pattern, matched, others) in cases {
            let parsed = OriginPattern::parse(pattern).unwrap();
            for (origin, expected) in
                matched.iter().map(|origin| (origin, true)).chain(others.iter().map(|origin| (origin, false)))
            {
                let matches = WebOrigin::parse(origin).is_some_and(|origin| parsed.matches(&origin));
                assert_eq!(matches, expected, "{pattern} {origin}");
            }
            assert_eq!(OriginPattern::parse(&parsed.to_string()), Ok(parsed), "{pattern}");
        }
    }

    #[test]
    fn what_could_match_no_page_is_no_pattern() {
        use BadOriginPattern::*;
        for (text, expected) in [
            ("", Scheme),
            ("chat.example.com", Scheme),
            ("*.example.com", Scheme),
            ("*://example.com", Scheme),
            ("://example.com", Scheme),
            ("null", Null),
            ("Null", Null),
            ("wss://chat.example.com", WebSocket),
            ("WS://chat.example.com", WebSocket),
            ("https://chat.example.com/", Path),
            ("https://chat.example.com/chat", Path),
            ("https://chat.example.com?a", Path),
            ("https://", Host),
            ("https://a b", Host),
            ("https://a@b", Host),
            ("https://.example.com", Host),
            ("https://a..b", Host),
            ("https://b\u{fc}cher.example", Host),
            ("https://1.2.3", Host),
            ("https://127.0.0.01", Host),
            ("https://0x7f.1", Host),
            ("https://a.0xff", Host),
            ("https://*.192.0.2.1", Host),
            ("https://*.[::1]", Port),
            ("https://[::1", Host),
            ("https://[::g]", Host),
            ("https://::1", Port),
            ("https://a:", Port),
            ("https://a:0", Port),
            ("https://a:65536", Port),
            ("https://a:80*", Port),
            ("https://a.*", Wildcard),
            ("https://a*.example.com", Wildcard),
            ("https://*a.example.com", Wildcard),
            ("https://*.*.example.com", Wildcard),
            ("https://**", Wildcard),
            ("**", Scheme),
        ] {
            assert_eq!(OriginPattern::parse(text), Err(expected), "{text}");
        }
    }

    /// Texts that are made of the parts of origins, in right and in wrong places.
    fn nearly() -> impl Strategy<Value = String> {
        let part = prop::sample::select(
            &[
                "https", "http", "://", ":", ".", "chat", "example", "com", "evil", "@", "/", "*", "[::1]",
                "8443", "443", "80", "%2e", " ", "null", "-", "#",
            ][..],
        );
        prop_oneof![
            prop::collection::vec(part.clone(), 0..9).prop_map(|parts| parts.concat()),
            (prop::collection::vec(part.clone(), 0..3), prop::collection::vec(part, 0..3)).prop_map(
                |(before, after)| format!("{}https://chat.example.com{}", before.concat(), after.concat())
            ),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The host is let in by few texts, which can be listed; every other text is somebody else's.
        #[test]
        fn only_the_texts_of_an_origin_are_of_its_host(text in nearly()) {
            let expected = ["https", "http"].iter().any(|scheme| {
                let port = if *scheme == "https" { ":443" } else { ":80" };
                ["", "."].iter().any(|dot| {
                    let plain = format!("{scheme}://chat.example.com{dot}");
                    text == plain || text == format!("{plain}{port}")
                })
            });
            prop_assert_eq!(is_of_host(&text, "chat.example.com"), expected, "{}", text);
            let pattern = OriginPattern::parse("https://chat.example.com").unwrap();
            let matches = WebOrigin::parse(&text).is_some_and(|origin| pattern.matches(&origin));
            prop_assert_eq!(matches, expected && text.starts_with("https:"), "{}", text);
        }

        /// A pattern without wildcards, read as an origin, is one that it matches: it is refused if there is none.
        #[test]
        fn a_pattern_can_match(text in nearly()) {
            if let Ok(pattern) = OriginPattern::parse(&text) {
                prop_assert_eq!(OriginPattern::parse(&pattern.to_string()), Ok(pattern.clone()));
                let page = pattern.to_string().replace(":*", ":1").replace("*.", "a.").replace('*', "a");
                let page = if pattern.is_all() { "https://a".to_owned() } else { page };
                prop_assert!(pattern.matches(&WebOrigin::parse(&page).unwrap()), "{}", page);
            }
        }
    }
}
