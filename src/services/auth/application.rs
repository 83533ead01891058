//! Asks the application who a client is: one POST for each CONNECT, to a URL of its own.
//!
//! The request is JSON: what the client says, its address, and headers. The answer is JSON, too: 200 says who it is, 401 or
//! 403 that it is refused and perhaps why. Anything else, and no answer in time, is the application's fault and not the
//! client's: sessions that are connected do not notice.
//!
//! Invariant: a question takes `auth.http_timeout_ms` at most, and [`ANSWER_BYTES_MAX`] of memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use crate::auth::principal::is_login;
use crate::auth::{Accepted, Credentials, Principal, Refusal, Verdict};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Characters of a reason that a client is shown.
const REASON_MAX: usize = 200;

/// See the module.
#[derive(Debug)]
pub struct Application {
    url: Box<str>,
    agent: Agent,
    /// When the log last said that it does not answer.
    complained: Mutex<Option<Instant>>,
}

/// What is asked.
#[derive(Serialize)]
struct Asked<'a> {
    login: Option<&'a str>,
    passcode: Option<&'a str>,
    token: Option<&'a str>,
    address: Option<IpAddr>,
    headers: BTreeMap<&'a str, &'a str>,
}

/// Who it is.
#[derive(Deserialize)]
struct Answered {
    login: Box<str>,
    #[serde(default)]
    roles: Vec<Box<str>>,
    #[serde(default)]
    claims: BTreeMap<Box<str>, serde_json::Value>,
    /// Seconds since 1970.
    expires: Option<u64>,
    /// Seconds from now on.
    expires_in: Option<u64>,
}

/// Why it is refused.
#[derive(Default, Deserialize)]
struct Refused {
    #[serde(default)]
    reason: Option<String>,
}

impl Application {
    /// The application at this URL, which is asked for `timeout` at most.
    pub fn new(url: &str, timeout: Duration) -> Application {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
            .build();
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .max_redirects(0)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("tcbchat/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Application { url: url.into(), agent: config.new_agent(), complained: Mutex::new(None) }
    }

    /// Asks who it is, and waits for the answer. Claims of these names are kept; `now_s` is in seconds since 1970.
    pub fn verify(&self, credentials: &Credentials, claims: &[Box<str>], now_s: u64) -> Verdict {
        let headers = credentials.headers.iter().rev().map(|(name, value)| (&**name, &**value)).collect();
        let asked = Asked {
            login: credentials.login.as_deref(),
            passcode: credentials.passcode.as_deref(),
            token: credentials.token.as_deref(),
            address: credentials.address,
            headers,
        };
        match self.ask(&asked) {
            Ok((200, body)) => self.accepted(&body, claims, now_s),
            Ok((401 | 403, body)) => Verdict::Refused(refused(&body)),
            Ok((status, _)) => self.unavailable(&format!("it answered {status}")),
            Err(error) => self.unavailable(&error.to_string()),
        }
    }

    fn ask(&self, asked: &Asked<'_>) -> Result<(u16, Vec<u8>), ureq::Error> {
        // Whole, so that it has a Content-Length: small servers know no chunks.
        let body = serde_json::to_vec(asked).map_err(|error| ureq::Error::Io(error.into()))?;
        let mut response = self.agent.post(&*self.url).content_type("application/json").send(&body)?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok((response.status().as_u16(), body))
    }

    fn accepted(&self, body: &[u8], claims: &[Box<str>], now_s: u64) -> Verdict {
        let answered: Answered = match serde_json::from_slice(body) {
            Ok(answered) => answered,
            // What is wrong with it may cite it: the place is enough.
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                return self
                    .unavailable(&format!("its answer is not understood: line {line}, column {column}"));
            }
        };
        if !is_login(&answered.login) {
            return self.unavailable(
                "the login that it answered is empty, too long, has blanks at its ends, or characters that are not seen",
            );
        }
        let named = answered.claims.into_iter().filter(|(name, _)| claims.contains(name));
        let claims = named.filter_map(|(name, value)| Some((name, text_of(value)?)));
        let expires_in = answered.expires_in.map(|seconds| now_s.saturating_add(seconds));
        let expires_s = [answered.expires, expires_in].into_iter().flatten().min();
        if expires_s.is_some_and(|at| at <= now_s) {
            return Verdict::Refused(Refusal::Expired);
        }
        let principal = Principal::new(answered.login, answered.roles, claims);
        Verdict::Accepted(Accepted { principal, expires_s })
    }

    /// The client is told that it may try again; the operator is told why.
    fn unavailable(&self, why: &str) -> Verdict {
        let mut complained = self.complained.lock();
        if complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *complained = Some(Instant::now());
            tracing::warn!(
                url = without_secrets(&self.url),
                why,
                "the application does not say who clients are"
            );
        }
        Verdict::Refused(Refusal::Unavailable)
    }
}

/// A claim's value, if it is one that rules can compare.
fn text_of(value: serde_json::Value) -> Option<Box<str>> {
    match value {
        serde_json::Value::String(text) => Some(text.into()),
        serde_json::Value::Number(number) => Some(number.to_string().into()),
        serde_json::Value::Bool(is_so) => Some(is_so.to_string().into()),
        _ => None,
    }
}

/// The URL without what may be secret in it: a user, a password, a query.
pub fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// The application's own words, if it has any.
fn refused(body: &[u8]) -> Refusal {
    let Refused { reason } = serde_json::from_slice(body).unwrap_or_default();
    match reason.filter(|reason| !reason.trim().is_empty()) {
        Some(reason) => {
            let shown: String =
                reason.chars().filter(|letter| !letter.is_control()).take(REASON_MAX).collect();
            Refusal::Said(shown.into())
        }
        None => Refusal::WRONG,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            login: Some("ann".into()),
            passcode: Some("secret".into()),
            token: None,
            headers: [("cookie".into(), "a=1".into()), ("x".into(), "2".into())].into(),
            address: "192.0.2.1".parse().ok(),
        }
    }

    /// An application that answers one question by these bytes. Returns what it was asked, and the verdict.
    fn asked(answer: &'static str) -> (String, Verdict) {
        asked_of(&credentials(), answer)
    }

    fn asked_of(credentials: &Credentials, answer: &'static str) -> (String, Verdict) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let url = format!("http://{}/who", listener.local_addr().expect("it has one"));
        let application = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody asks");
            let mut request = Vec::new();
            let mut part = [0; 4096];
            while !request.ends_with(b"}") {
                let count = stream.read(&mut part).expect("it is read");
                assert!(count > 0, "the request is whole");
                request.extend_from_slice(&part[..count]);
            }
            if !answer.is_empty() {
                stream.write_all(answer.as_bytes()).expect("it is written");
            } else {
                // It thinks for longer than it is asked for.
                thread::sleep(Duration::from_millis(500));
            }
            String::from_utf8(request).expect("JSON is text")
        });
        let asker = Application::new(&url, Duration::from_millis(200));
        let verdict = asker.verify(credentials, &["team".into(), "level".into()], 1_000);
        (application.join().expect("it ends"), verdict)
    }

    fn answer(status: &str, body: &str) -> &'static str {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").leak()
    }

    #[test]
    fn the_application_says_who_it_is() {
        let body =
            r#"{"login":"Ann","roles":["b","a"],"claims":{"team":"red","no":"x","level":3},"expires_in":60}"#;
        let (request, verdict) = asked(answer("200 OK", body));
        assert!(request.starts_with("POST /who HTTP/1.1\r\n"), "{request}");
        let said = request.split("\r\n\r\n").nth(1).expect("it has a body");
        let said: serde_json::Value = serde_json::from_str(said).expect("it is JSON");
        assert_eq!((&said["login"], &said["passcode"]), (&"ann".into(), &"secret".into()));
        assert_eq!((&said["address"], &said["headers"]["cookie"]), (&"192.0.2.1".into(), &"a=1".into()));
        assert!(said["token"].is_null());
        let Verdict::Accepted(Accepted { principal, expires_s }) = verdict else { panic!("{verdict:?}") };
        assert_eq!((&*principal.login, expires_s), ("Ann", Some(1_060)));
        assert!(principal.has_role("a") && principal.has_role("b"));
        assert_eq!((principal.claim("team"), principal.claim("level")), (Some("red"), Some("3")));
        assert_eq!(principal.claims.len(), 2);
    }

    #[test]
    fn an_address_that_nobody_knows_is_null() {
        let nowhere = Credentials { address: None, ..credentials() };
        let (request, _) = asked_of(&nowhere, answer("200 OK", r#"{"login":"ann"}"#));
        assert!(request.contains(r#""address":null"#), "{request}");
    }

    #[test]
    fn the_application_refuses_in_its_own_words_or_in_ours() {
        let refused = |status, body| asked(answer(status, body)).1;
        let said = refused("403 Forbidden", r#"{"reason":"your account\r\nis locked"}"#);
        assert_eq!(said, Verdict::Refused(Refusal::Said("your accountis locked".into())));
        for body in ["", "no", r#"{"reason":" "}"#, r#"{"reason":7}"#] {
            assert_eq!(refused("401 Unauthorized", body), Verdict::Refused(Refusal::WRONG), "{body}");
        }
        let over = refused("200 OK", r#"{"login":"ann","expires":999}"#);
        assert_eq!(over, Verdict::Refused(Refusal::Expired));
    }

    #[test]
    fn what_is_no_answer_is_nobodys_failure() {
        let huge = format!("{{\"login\":\"{}\"}}", "a".repeat(100_000));
        let answers = [
            answer("500 Internal Server Error", "{}"),
            answer("302 Found", "{}"),
            answer("200 OK", "{}"),
            answer("200 OK", r#"{"login":""}"#),
            answer("200 OK", r#"{"login":7}"#),
            answer("200 OK", r#"{"login":"a\u0000"}"#),
            answer("200 OK", &huge),
            "nonsense\r\n\r\n",
            // It does not answer in time.
            "",
        ];
        for answer in answers {
            let (_, verdict) = asked(answer);
            assert_eq!(
                verdict,
                Verdict::Refused(Refusal::Unavailable),
                "{}",
                &answer[..answer.len().min(80)]
            );
        }
        assert_eq!(
            without_secrets("https://me:secret@app.example:8/a/b?key=secret#x"),
            "https://app.example:8/a/b"
        );
        let nobody = Application::new("http://127.0.0.1:9/", Duration::from_millis(200));
        assert_eq!(nobody.verify(&credentials(), &[], 0), Verdict::Refused(Refusal::Unavailable));
    }
}
