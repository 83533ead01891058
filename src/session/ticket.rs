//! What an upgrade says of its client, kept until the CONNECT that it belongs to.
//!
//! A browser cannot add headers to a WebSocket, but it sends cookies; programs send `Authorization`; a token in the query is
//! for clients that can do neither. CONNECT may say more, and what it says goes first.
//!
//! Invariant: a ticket says something; there is none for an upgrade that does not.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use crate::auth::Credentials;
use crate::wire::http::Request;
use crate::wire::stomp::StompFrame;

/// Where credentials are looked for, beside the headers `login`, `passcode` and `Authorization`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The cookie that has a token.
    pub cookie: Option<Box<str>>,
    /// The parameter of the query that has a token.
    pub query: Option<Box<str>>,
    /// Headers of the upgrade that are passed on, in lower case.
    pub upgrade_headers: Box<[Box<str>]>,
    /// Whether all headers of CONNECT are passed on.
    pub connect_headers: bool,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    token: Option<Box<str>>,
    headers: Box<[(Box<str>, Box<str>)]>,
}

/// What a CONNECT says of its client.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// The header `login`, if it is not empty.
    pub login: Option<&'a str>,
    /// The header `passcode`.
    pub passcode: Option<&'a str>,
    /// The header `Authorization`.
    pub authorization: Option<&'a str>,
}

impl Ticket {
    /// What an upgrade says; `None` if it says nothing that is looked for.
    pub fn of(request: &Request<'_>, sources: &Sources) -> Option<Box<Ticket>> {
        let bearer = request.header("authorization").and_then(bearer);
        let cookie = || sources.cookie.as_deref().and_then(|name| cookie(request, name));
        let query = || sources.query.as_deref().and_then(|name| parameter(request.query?, name));
        let token = bearer.or_else(cookie).map(Cow::Borrowed).or_else(query);
        let passed_on = sources.upgrade_headers.iter();
        let headers: Box<[_]> =
            passed_on.filter_map(|name| Some((name.clone(), request.header(name)?.into()))).collect();
        let ticket = Ticket { token: token.map(|token| token.into()), headers };
        (ticket.token.is_some() || !ticket.headers.is_empty()).then(|| Box::new(ticket))
    }

    /// Bytes that the ticket holds.
    pub fn weight(&self) -> u64 {
        let headers =
            self.headers.iter().map(|(name, value)| name.len() + value.len() + 2 * size_of::<Box<str>>());
        let token = self.token.as_ref().map_or(0, |token| token.len());
        (size_of::<Ticket>() + token + headers.sum::<usize>()) as u64
    }

    /// What CONNECT and the upgrade say together. Who is at the other end is for the shard to add.
    pub fn redeem(
        ticket: Option<Box<Ticket>>,
        said: Said<'_>,
        connect_frame: &StompFrame<'_>,
        sources: &Sources,
    ) -> Credentials {
        let (kept, headers) = ticket.map_or_else(Default::default, |ticket| (ticket.token, ticket.headers));
        let mut headers = headers.into_vec();
        if sources.connect_headers {
            let said = connect_frame.headers().map(|(name, value)| ((*name).into(), (*value).into()));
            headers.extend(said);
        }
        let said_token: Option<Box<str>> = said.authorization.and_then(bearer).map(Into::into);
        // A cookie may be there unasked: who says a passcode means that.
        let kept = kept.filter(|_| said.passcode.is_none());
        Credentials {
            login: said.login.map(Into::into),
            passcode: said.passcode.map(Into::into),
            token: said_token.or(kept),
            headers: headers.into(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The first cookie of this name (RFC 6265 section 5.4).
fn cookie<'a>(request: &Request<'a>, name: &str) -> Option<&'a str> {
    let cookies = request.header("cookie")?.split(';');
    let mut named = cookies.filter_map(|pair| pair.trim().split_once('=')).filter(|(key, _)| *key == name);
    named.next().map(|(_, value)| value.trim_matches('"')).filter(|value| !value.is_empty())
}

/// The first parameter of this name, with its escapes decoded; `None` too if they are broken.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    if !value.contains('%') {
        return Some(value).filter(|value| !value.is_empty()).map(Cow::Borrowed);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut left = value.bytes();
    while let Some(byte) = left.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => bytes.push((digit(left.next())? * 16 + digit(left.next())?) as u8),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Handshake, Stomp};
    use crate::wire::http;
    use crate::wire::stomp::{Decoder, Step, Version};

    fn sources() -> Sources {
        Sources {
            cookie: Some("session".into()),
            query: Some("access_token".into()),
            upgrade_headers: ["cookie".into()].into(),
            connect_headers: false,
        }
    }

    fn ticket(target: &str, headers: &str, sources: &Sources) -> Option<Box<Ticket>> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let mut scratch = http::Scratch::default();
        let parsed = http::parse(head.as_bytes(), &Handshake::default(), &mut scratch);
        let (request, _) = parsed.expect("it is right").expect("it is whole");
        Ticket::of(&request, sources)
    }

    fn token(target: &str, headers: &str) -> Option<String> {
        ticket(target, headers, &sources()).and_then(|ticket| ticket.token).map(Into::into)
    }

    #[test]
    fn a_token_is_in_the_header_else_in_the_cookie_else_in_the_query() {
        let table = [
            ("/ws", "", None),
            ("/ws", "Authorization: Bearer a.b.c\r\n", Some("a.b.c")),
            ("/ws", "authorization: bearer   a.b.c\r\n", Some("a.b.c")),
            ("/ws", "Authorization: Basic abc\r\n", None),
            ("/ws", "Authorization: Bearer\r\n", None),
            ("/ws", "Cookie: a=1; session=x.y.z; session=2\r\n", Some("x.y.z")),
            ("/ws", "Cookie: session=\"x\"\r\n", Some("x")),
            ("/ws", "Cookie: mysession=x; session=\r\n", None),
            ("/ws?access_token=q", "", Some("q")),
            ("/ws?a=1&access_token=q%2Br", "", Some("q+r")),
            ("/ws?access_token=q%2", "", None),
            ("/ws?access_token=q%ff", "", None),
            ("/ws?access_tokens=q", "", None),
            ("/ws?access_token=q", "Cookie: session=c\r\n", Some("c")),
            ("/ws?access_token=q", "Cookie: session=c\r\nAuthorization: Bearer h\r\n", Some("h")),
        ];
        for (target, headers, expected) in table {
            assert_eq!(token(target, headers).as_deref(), expected, "{target} {headers}");
        }
    }

    #[test]
    fn what_is_not_looked_for_is_not_kept() {
        let none = Sources::default();
        assert_eq!(ticket("/ws?access_token=q", "Cookie: session=c\r\n", &none), None);
        let kept = ticket("/ws", "Cookie: a=1\r\nX-Other: 2\r\n", &sources()).expect("there is a cookie");
        assert_eq!(*kept.headers, [("cookie".into(), "a=1".into())]);
        assert!(kept.weight() > 9);
    }

    #[test]
    fn what_connect_says_goes_before_what_the_upgrade_said() {
        let frame = b"CONNECT\naccept-version:1.2\nx-tenant:t\n\n\0";
        let step = Decoder::default().decode(frame, Version::V12, &Stomp::default());
        let Ok(Step::Frame { stomp_frame, .. }) = step else { panic!("{step:?}") };
        let redeem = |said| {
            let kept = ticket("/ws", "Authorization: Bearer kept\r\n", &sources());
            Ticket::redeem(kept, said, &stomp_frame, &Sources { connect_headers: true, ..sources() })
        };
        let credentials = redeem(Said { login: Some("ann"), ..Said::default() });
        assert_eq!((credentials.login.as_deref(), credentials.token.as_deref()), (Some("ann"), Some("kept")));
        assert!(credentials.headers.iter().any(|(name, value)| (&**name, &**value) == ("x-tenant", "t")));
        let credentials = redeem(Said { authorization: Some("Bearer said"), ..Said::default() });
        assert_eq!(credentials.token.as_deref(), Some("said"));
        // A cookie that is there unasked does not stand in for a wrong passcode.
        let credentials = redeem(Said { passcode: Some("secret"), ..Said::default() });
        assert_eq!((credentials.passcode.as_deref(), credentials.token), (Some("secret"), None));
    }
}
