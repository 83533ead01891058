//! What must hold of the parser of requests and of the answers for every input. Shared by the fuzz target, the
//! replay of its corpus and the property tests.
//!
//! Invariant: these functions panic exactly when the codec is wrong.

use std::net::IpAddr;

use tcbchat::limits::Handshake;
use tcbchat::wire::http::{
    HEADERS_CEILING, HttpError, OriginPattern, Request, Scratch, Upgrade, WebOrigin, parse, upgrade,
    write_error, write_upgrade,
};

/// What a request was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub head_bytes: usize,
    pub target: String,
    pub query: Option<String>,
    pub upgrade: Result<Upgrade, HttpError>,
    pub hops: Vec<Option<IpAddr>>,
}

/// Small enough for small inputs to go past.
pub fn small_limits() -> Handshake {
    Handshake { head_bytes_max: 512, headers_max: 8, ..Handshake::default() }
}

/// One input of the fuzzer.
pub fn run(data: &[u8]) {
    check(data, &Handshake::default());
    check(data, &small_limits());
}

/// Everything that must hold of a request that begins with `bytes`.
pub fn check(bytes: &[u8], limits: &Handshake) {
    let whole = answer(bytes, limits);
    let byte_by_byte =
        (0..=bytes.len()).map(|end| answer(&bytes[..end], limits)).find(|one| *one != Ok(None));
    assert_eq!(byte_by_byte.unwrap_or(Ok(None)), whole, "the answer as soon as there is one");
    match &whole {
        Ok(None) => assert!(bytes.len() < limits.head_bytes_max as usize, "waiting past the bound"),
        Ok(Some(answer)) => {
            assert!(answer.head_bytes <= bytes.len().min(limits.head_bytes_max as usize));
            assert!(answer.target.starts_with('/'));
            match &answer.upgrade {
                Ok(upgrade) => {
                    assert_eq!(upgrade.accept.len(), 28, "20 bytes in base64");
                    let mut out = Vec::new();
                    write_upgrade(upgrade, &mut out);
                    assert_eq!(status(&out), (101, out.len()));
                }
                Err(error) => check_error(error),
            }
        }
        Err(error) => check_error(error),
    }
}

/// The first answer to `bytes`, if there is one yet.
pub fn answer(bytes: &[u8], limits: &Handshake) -> Result<Option<Answer>, HttpError> {
    let mut scratch = Scratch::new();
    Ok(parse(bytes, limits, &mut scratch)?.map(|(request, head_bytes)| {
        check_origins(&request);
        Answer {
            head_bytes,
            target: request.target.to_owned(),
            query: request.query.map(str::to_owned),
            upgrade: upgrade(&request),
            hops: request.hops(None).collect(),
        }
    }))
}

/// What is read as an origin is the origin of its own host, and, read as a pattern, matches itself.
fn check_origins(request: &Request<'_>) {
    for value in request.values("origin") {
        let Ok(text) = std::str::from_utf8(value) else { continue };
        let origin = WebOrigin::parse(text);
        if let (Some(origin), Some((scheme, host))) = (origin, text.split_once("://")) {
            let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
            assert_eq!(origin.is_of_host(host), is_web, "{text}");
        }
        if let (Some(origin), Ok(pattern)) = (origin, OriginPattern::parse(text)) {
            assert!(pattern.matches(&origin), "{text}");
            assert_eq!(OriginPattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }
}

fn check_error(error: &HttpError) {
    assert!(HttpError::ALL.contains(error), "not in the catalogue: {error}");
    let mut out = Vec::new();
    write_error(error, Some(5), false, &mut out);
    assert_eq!(status(&out), (error.status, out.len() - error.reason.len() - 1));
}

/// Status and length of the head of an answer.
fn status(bytes: &[u8]) -> (u16, usize) {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_CEILING];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => (response.code.unwrap_or_default(), head_bytes),
        other => panic!("not an answer: {other:?}"),
    }
}
