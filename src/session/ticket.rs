//! What an upgrade says of its client, kept until the CONNECT that it belongs to.
//!
//! A browser cannot add headers to a WebSocket, but it sends cookies; programs send `Authorization`; a token in the query is
//! for clients that can do neither. CONNECT may say more, and what it says goes first.
//!
//! Invariant: a ticket says something; there is none for an upgrade that does not.

use std::borrow::Cow;

use crate::auth::{Credentials, Secret};
use crate::message::fault::Fault;
use crate::wire::http::{self, Request};
use crate::wire::stomp::{StompFrame, is_blank_of_name};

/// Where credentials are looked for, beside the headers `login`, `passcode` and `Authorization`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// The cookie that has a token.
    pub cookie: Option<Box<str>>,
    /// The parameter of the query that has a token.
    pub query: Option<Box<str>>,
    /// Headers of the upgrade that are passed on, in lower case.
    pub upgrade_headers: Box<[Box<str>]>,
    /// Whether headers of CONNECT are passed on: those that no header of the upgrade could be taken for.
    pub connect_headers: bool,
    /// Bytes of a token.
    pub token_bytes_max: u32,
}

/// The fault of a token that is too long.
pub fn token_too_long(sources: &Sources) -> Fault {
    let max = sources.token_bytes_max;
    Fault::NotAuthenticated(format!("the token is longer than auth.token_bytes_max = {max}").into())
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    token: Option<Secret>,
    headers: Box<[(Box<str>, Secret)]>,
}

/// What a CONNECT says of its client.
#[derive(Clone, Copy, Default)]
pub struct Said<'a> {
    /// The header `login`, if it is not empty.
    pub login: Option<&'a str>,
    /// The header `passcode`, if it is not empty.
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
            passed_on.filter_map(|name| Some((name.clone(), Secret(request.header(name)?.into())))).collect();
        let ticket = Ticket { token: token.map(|token| Secret(token.into())), headers };
        (ticket.token.is_some() || !ticket.headers.is_empty()).then(|| Box::new(ticket))
    }

    /// Bytes that the ticket holds.
    pub fn weight(&self) -> u64 {
        let headers =
            self.headers.iter().map(|(name, value)| name.len() + value.0.len() + 2 * size_of::<Box<str>>());
        let token = self.token.as_ref().map_or(0, |token| token.0.len());
        (size_of::<Ticket>() + token + headers.sum::<usize>()) as u64
    }

    /// What CONNECT and the upgrade say together. Who is at the other end is for the shard to add.
    ///
    /// A header of CONNECT is not passed on if it could be taken for one of the upgrade: a proxy's word, a cookie, the host, or
    /// what is passed on of the upgrade.
    ///
    /// # Errors
    /// The token is too long.
    pub fn redeem(
        ticket: Option<Box<Ticket>>,
        said: Said<'_>,
        connect_frame: &StompFrame<'_>,
        sources: &Sources,
    ) -> Result<Credentials, Fault> {
        let (kept, headers) = ticket.map_or_else(Default::default, |ticket| (ticket.token, ticket.headers));
        let mut headers: Vec<(Box<str>, Box<str>)> =
            headers.into_iter().map(|(name, Secret(value))| (name, value)).collect();
        if sources.connect_headers {
            let said = connect_frame.headers().filter(|(name, _)| !is_of_upgrades(name, sources));
            headers.extend(said.map(|(name, value)| ((*name).into(), (*value).into())));
        }
        let said_token: Option<Box<str>> = said.authorization.and_then(bearer).map(Into::into);
        // A cookie may be there unasked: who says a passcode means that.
        let kept = kept.filter(|_| said.passcode.is_none()).map(|Secret(token)| token);
        let token = said_token.or(kept);
        if token.as_ref().is_some_and(|token| token.len() > sources.token_bytes_max as usize) {
            return Err(token_too_long(sources));
        }
        Ok(Credentials {
            login: said.login.map(Into::into),
            passcode: said.passcode.map(Into::into),
            token,
            headers: headers.into(),
            address: None,
        })
    }
}

/// Whether a header of CONNECT could be taken for one of the upgrade, by whoever cuts blanks off its name, too: for a proxy's
/// word, a cookie, the host, or what is passed on of the upgrade.
fn is_of_upgrades(name: &str, sources: &Sources) -> bool {
    let name = name.trim_matches(is_blank_of_name);
    http::is_mark_of_proxy(name)
        || ["cookie", "host"].iter().any(|of| name.eq_ignore_ascii_case(of))
        || sources.upgrade_headers.iter().any(|upgrade| upgrade.eq_ignore_ascii_case(name))
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
    use crate::wire::stomp::{Decoder, Step, Version};

    fn sources() -> Sources {
        Sources {
            cookie: Some("session".into()),
            query: Some("access_token".into()),
            upgrade_headers: ["cookie".into()].into(),
            connect_headers: false,
            token_bytes_max: 100,
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
        ticket(target, headers, &sources()).and_then(|ticket| ticket.token).map(|token| token.0.into())
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
        assert_eq!(*kept.headers, [("cookie".into(), Secret("a=1".into()))]);
        assert!(kept.weight() > 9);
        assert!(!format!("{kept:?}").contains("a=1"));
    }

    #[test]
    fn what_connect_says_goes_before_what_the_upgrade_said() {
        let frame = b"CONNECT\naccept-version:1.2\nx-tenant:t\nCookie:a=forged\ncookie :b=forged\nX-Real-IP:forged\nx-forwarded-for:forged\nhost:forged\n\n\0";
        let step = Decoder::default().decode(frame, Version::V12, &Stomp::default());
        let Ok(Step::Frame { stomp_frame, .. }) = step else { panic!("{step:?}") };
        let redeem = |said| {
            let kept = ticket("/ws", "Authorization: Bearer kept\r\n", &sources());
            Ticket::redeem(kept, said, &stomp_frame, &Sources { connect_headers: true, ..sources() }).unwrap()
        };
        let credentials = redeem(Said { login: Some("ann"), ..Said::default() });
        assert_eq!((credentials.login.as_deref(), credentials.token.as_deref()), (Some("ann"), Some("kept")));
        assert!(credentials.headers.iter().any(|(name, value)| (&**name, &**value) == ("x-tenant", "t")));
        assert!(!credentials.headers.iter().any(|(_, value)| value.contains("forged")));
        let long = format!("Bearer {}", "a".repeat(101));
        let said = Said { authorization: Some(&long), ..Said::default() };
        assert!(Ticket::redeem(None, said, &stomp_frame, &sources()).is_err());
        let credentials = redeem(Said { authorization: Some("Bearer said"), ..Said::default() });
        assert_eq!(credentials.token.as_deref(), Some("said"));
        // A cookie that is there unasked does not stand in for a wrong passcode.
        let credentials = redeem(Said { passcode: Some("secret"), ..Said::default() });
        assert_eq!((credentials.passcode.as_deref(), credentials.token), (Some("secret"), None));
    }
}
