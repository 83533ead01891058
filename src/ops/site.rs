//! The pages: the chat page with its parts, `/healthz`, `/readyz` and `/metrics`.
//!
//! Everything is embedded in the binary. Requests for other paths and with other methods are refused here;
//! the WebSocket endpoints are not, they never get here.
//!
//! Invariant: every answer carries the header fields of `SECURITY`, closes its connection, and is as long as it says.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::metrics::{Format, Metrics};
use crate::auth::Mode;
use crate::tcb::FourTuple;
use crate::wire::http::{HttpError, Request, write_page};

/// Header fields of every answer: only what this server serves runs on its pages, only its own WebSocket is
/// connected to, no other site shows the pages in a frame or learns where a reader came from.
const SECURITY: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];

const TEXT: &str = "text/plain; charset=utf-8";

/// Who is answered on `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFor {
    /// Callers on this machine that did not come through a proxy.
    Loopback,
    /// Everyone.
    All,
    /// Nobody.
    Nobody,
}

/// One way in which somebody at the chat page can prove who he is. The page offers those that it is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A login and its password.
    Password,
    /// A token.
    Token,
    /// What the browser sends without being asked: a cookie of the same site.
    Browser,
    /// Nothing: who says nothing is let in, and is nobody.
    Nothing,
}

impl Proof {
    /// The ways that these modes leave, each once; none if everybody is who he says. `has_cookie`: a cookie may have a token.
    pub fn of(modes: &[Mode], has_cookie: bool) -> Vec<Proof> {
        if modes == [Mode::Open] {
            return Vec::new();
        }
        let has = |mode| modes.contains(&mode);
        let ways = [
            (Proof::Password, has(Mode::Users) || has(Mode::Http)),
            (Proof::Token, has(Mode::Jwt) || has(Mode::Http)),
            (Proof::Browser, has(Mode::Http) || (has(Mode::Jwt) && has_cookie)),
            (Proof::Nothing, has(Mode::Open)),
        ];
        ways.into_iter().filter(|(_, is_there)| *is_there).map(|(proof, _)| proof).collect()
    }

    /// What the page calls it.
    fn word(self) -> &'static str {
        match self {
            Proof::Password => "password",
            Proof::Token => "token",
            Proof::Browser => "browser",
            Proof::Nothing => "nothing",
        }
    }
}

/// Where the chat page is told of [`Proof`]s.
const PROOFS_PLACE: &str = r#"<meta name="proofs" content="">"#;

/// The chat page, which offers these ways to sign in.
fn chat_page(proofs: &[Proof]) -> Vec<u8> {
    let words: Vec<&str> = proofs.iter().map(|proof| proof.word()).collect();
    let told = PROOFS_PLACE.replace("\"\"", &format!("\"{}\"", words.join(" ")));
    include_str!("../web/index.html").replacen(PROOFS_PLACE, &told, 1).into_bytes()
}

/// Whether clients should be sent here, for `/readyz`.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    const STARTING: u8 = 0;
    const READY: u8 = 1;
    const STOPPING: u8 = 2;

    /// All reactors listen.
    pub fn ready(&self) {
        self.0.store(Self::READY, Ordering::Relaxed);
    }

    /// The end has been ordered.
    pub fn stopping(&self) {
        self.0.store(Self::STOPPING, Ordering::Relaxed);
    }

    fn ask(&self) -> Result<(), HttpError> {
        match self.0.load(Ordering::Relaxed) {
            Self::STARTING => Err(HttpError::STARTING),
            Self::READY => Ok(()),
            _ => Err(HttpError::SHUTTING_DOWN),
        }
    }
}

/// A page that does not change while the server runs.
#[derive(Debug)]
struct Page {
    path: &'static str,
    content_type: &'static str,
    body: Cow<'static, [u8]>,
    /// Names these bytes, so that a browser that has them needs no others (RFC 9110 section 8.8.3).
    etag: String,
}

impl Page {
    fn new(path: &'static str, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        let body = body.into();
        // Not keyed: two servers of one build name the page alike.
        let mut hasher = DefaultHasher::new();
        hasher.write(&body);
        Self { path, content_type, body, etag: format!("\"{:016x}\"", hasher.finish()) }
    }

    /// Whether the caller has this page. RFC 9110 section 13.1.2: comparison is weak, `*` is any.
    fn is_known_to(&self, request: &Request<'_>) -> bool {
        let mut known = request.header_tokens("If-None-Match");
        known.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag)
    }
}

/// Answers plain HTTP requests.
#[derive(Debug)]
pub struct Site {
    pages: Vec<Page>,
    metrics: Metrics,
    metrics_for: MetricsFor,
    readiness: Arc<Readiness>,
    retry_after_s: u32,
}

impl Site {
    /// The site of a server. `proofs`: how people at the chat page may sign in. `retry_after_s`: what those are told who are
    /// to come back later.
    pub fn new(
        proofs: &[Proof],
        metrics: Metrics,
        metrics_for: MetricsFor,
        readiness: Arc<Readiness>,
        retry_after_s: u32,
    ) -> Self {
        let script = "text/javascript; charset=utf-8";
        let pages = vec![
            Page::new("/", "text/html; charset=utf-8", chat_page(proofs)),
            Page::new("/app.js", script, include_bytes!("../web/app.js")),
            Page::new("/author.js", script, include_bytes!("../web/author.js")),
            Page::new("/log.js", script, include_bytes!("../web/log.js")),
            Page::new("/signin.js", script, include_bytes!("../web/signin.js")),
            Page::new("/stomp.js", script, include_bytes!("../web/stomp.js")),
            Page::new("/style.css", "text/css; charset=utf-8", include_bytes!("../web/style.css")),
            Page::new("/icon.svg", "image/svg+xml", include_bytes!("../web/icon.svg")),
        ];
        Self { pages, metrics, metrics_for, readiness, retry_after_s }
    }

    /// Appends the whole answer to a request from `peer`.
    pub fn answer(&self, request: &Request<'_>, peer: SocketAddr, out: &mut Vec<u8>) {
        let mut answer = Answer { head_only: request.method == "HEAD", out };
        if let Err(refusal) = self.try_answer(request, peer, &mut answer) {
            answer.refuse(&refusal, self.retry_after_s);
        }
    }

    fn try_answer(
        &self,
        request: &Request<'_>,
        peer: SocketAddr,
        answer: &mut Answer<'_>,
    ) -> Result<(), HttpError> {
        let page = self.pages.iter().find(|page| page.path == request.target);
        let is_metrics = request.target == "/metrics" && self.metrics_for != MetricsFor::Nobody;
        if page.is_none() && !is_metrics && !matches!(request.target, "/healthz" | "/readyz") {
            return Err(HttpError::NOT_FOUND);
        }
        if !matches!(request.method, "GET" | "HEAD" | "OPTIONS") {
            return Err(HttpError::PAGE_METHOD);
        }
        request.refuse_body()?;
        if request.method == "OPTIONS" {
            // RFC 9110 section 9.3.7. Old balancers check health so.
            answer.head_only = true;
            answer.write(204, TEXT, b"", &[("Allow", "GET, HEAD, OPTIONS")]);
            return Ok(());
        }

        if let Some(page) = page {
            // Kept by the browser, asked for each time: a new server's page is seen at once.
            let caching = [("ETag", page.etag.as_str()), ("Cache-Control", "no-cache")];
            let known = page.is_known_to(request);
            // RFC 9110 section 8.6: the length that a 304 tells is that of the page.
            answer.head_only |= known;
            answer.write(if known { 304 } else { 200 }, page.content_type, &page.body, &caching);
        } else if is_metrics {
            let local = is_local(request, peer);
            if self.metrics_for == MetricsFor::Loopback && !local {
                return Err(HttpError::METRICS_FORBIDDEN);
            }
            let format = Format::of(request.header_tokens("accept"));
            let scrape = self.metrics.scrape(local, format);
            let caching = [("Cache-Control", "no-store"), ("Vary", "Accept")];
            answer.write(200, format.content_type(), scrape.as_bytes(), &caching);
        } else if request.target == "/readyz" {
            self.readiness.ask()?;
            answer.write(200, TEXT, b"ready\n", &[("Cache-Control", "no-store")]);
        } else {
            // Whoever reads this was served by a reactor that turns; a reactor that panics ends the process.
            answer.write(200, TEXT, b"ok\n", &[("Cache-Control", "no-store")]);
        }
        Ok(())
    }
}

impl crate::shard::Site for Site {
    fn answer(&self, request: &Request<'_>, peer: SocketAddr, out: &mut Vec<u8>) {
        Site::answer(self, request, peer, out);
    }
}

/// Whether the caller is on this machine and, as far as the request shows, not a proxy.
fn is_local(request: &Request<'_>, peer: SocketAddr) -> bool {
    let ip = peer.ip().to_canonical();
    (ip.is_loopback() || FourTuple::is_unix(ip)) && request.mark_of_proxy().is_none()
}

/// One answer on its way out.
struct Answer<'a> {
    head_only: bool,
    out: &'a mut Vec<u8>,
}

impl Answer<'_> {
    fn write(&mut self, status: u16, content_type: &str, body: &[u8], headers: &[(&str, &str)]) {
        let headers = [SECURITY, headers].concat();
        write_page(status, content_type, body, self.head_only, &headers, self.out);
    }

    fn refuse(&mut self, refusal: &HttpError, retry_after_s: u32) {
        let body = format!("{}\n", refusal.reason);
        let seconds = retry_after_s.to_string();
        let mut headers = refusal.headers.to_vec();
        if refusal.status == 503 {
            headers.push(("Retry-After", &seconds));
        }
        self.write(refusal.status, TEXT, body.as_bytes(), &headers);
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Sources;
    use super::*;
    use crate::limits;
    use crate::tcb::{TableConfig, TcbTable};
    use crate::wire::http::{Scratch, parse};

    fn site(metrics_for: MetricsFor) -> Site {
        let tcbs = Arc::new(TcbTable::new(TableConfig::sized(10, 1)));
        let sources = Sources {
            shards: Vec::new(),
            tcbs,
            limits: Arc::default(),
            log: Arc::default(),
            api: Arc::default(),
        };
        Site::new(&[], Metrics::new(sources), metrics_for, Arc::default(), 7)
    }

    /// The head and the body of the answer to a request.
    fn ask(site: &Site, peer: &str, request_line: &str, headers: &str) -> (String, Vec<u8>) {
        let request = format!("{request_line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let mut scratch = Scratch::new();
        let limits = limits::Handshake::default();
        let (request, _) = parse(request.as_bytes(), &limits, &mut scratch).unwrap().unwrap();
        let mut out = Vec::new();
        site.answer(&request, peer.parse().unwrap(), &mut out);
        let end = out.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        (String::from_utf8(out[..end + 2].to_vec()).unwrap(), out[end + 4..].to_vec())
    }

    fn field<'a>(head: &'a str, name: &str) -> &'a str {
        let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {name} in {head}"))
    }

    const HERE: &str = "127.0.0.1:4000";
    const THERE: &str = "192.0.2.7:4000";

    #[test]
    fn pages_are_served_as_they_are() {
        let site = site(MetricsFor::Loopback);
        for page in &site.pages {
            let (head, body) = ask(&site, THERE, &format!("GET {}", page.path), "");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            assert_eq!(field(&head, "Content-Type"), page.content_type);
            assert_eq!(field(&head, "Content-Length"), body.len().to_string());
            assert_eq!(body, *page.body);

            let (head, body) = ask(&site, THERE, &format!("HEAD {}?x=1", page.path), "");
            assert_eq!(field(&head, "Content-Length"), page.body.len().to_string());
            assert_eq!(body, b"");
        }
    }

    #[test]
    fn every_file_of_the_page_is_served() {
        let site = site(MetricsFor::Loopback);
        let mut files = 0;
        for page in &site.pages {
            let text = String::from_utf8_lossy(&page.body);
            let is_file = |text: &&str| text.starts_with("./") && !text.contains(char::is_whitespace);
            for quoted in text.split('"').filter(is_file) {
                // Relative, so that a proxy may have the page below a path.
                let path = &quoted[1..];
                assert!(site.pages.iter().any(|page| page.path == path), "{} names {quoted}", page.path);
                files += 1;
            }
        }
        assert!(files >= 5, "{files}");
    }

    #[test]
    fn the_page_is_told_how_people_sign_in() {
        use Mode::{Http, Jwt, Open, Users};
        assert_eq!(include_str!("../web/index.html").matches(PROOFS_PLACE).count(), 1);
        let table: [(&[Mode], bool, &str); 8] = [
            (&[Open], false, ""),
            (&[Open], true, ""),
            (&[Users], true, "password"),
            (&[Jwt], false, "token"),
            (&[Jwt], true, "token browser"),
            (&[Jwt, Users], false, "password token"),
            (&[Http], false, "password token browser"),
            (&[Users, Open], false, "password nothing"),
        ];
        for (modes, has_cookie, expected) in table {
            let page = String::from_utf8(chat_page(&Proof::of(modes, has_cookie))).unwrap();
            let told = format!("<meta name=\"proofs\" content=\"{expected}\">");
            assert!(page.contains(&told), "{modes:?}: {told}");
        }
    }

    #[test]
    fn a_known_page_is_not_sent_again() {
        let site = site(MetricsFor::Loopback);
        let (head, _) = ask(&site, THERE, "GET /app.js", "");
        let etag = field(&head, "ETag");
        for known in [etag.to_owned(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            let (head, body) = ask(&site, THERE, "GET /app.js", &format!("If-None-Match: {known}\r\n"));
            assert!(head.starts_with("HTTP/1.1 304"), "{known}: {head}");
            assert_eq!(field(&head, "ETag"), etag);
            assert_ne!(field(&head, "Content-Length"), "0");
            assert_eq!(body, b"");
        }
        let (head, _) = ask(&site, THERE, "GET /app.js", "If-None-Match: \"other\"\r\n");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }

    #[test]
    fn every_answer_is_closed_and_secured() {
        let site = site(MetricsFor::Loopback);
        for line in [
            "GET /",
            "GET /healthz",
            "GET /readyz",
            "GET /metrics",
            "GET /nothing",
            "POST /",
            "HEAD /healthz",
        ] {
            let (head, _) = ask(&site, HERE, line, "");
            assert_eq!(field(&head, "Connection"), "close");
            for (name, value) in SECURITY {
                assert_eq!(field(&head, name), *value, "{line}");
            }
        }
    }

    #[test]
    fn what_is_refused() {
        let site = site(MetricsFor::Loopback);
        for (line, headers, status) in [
            ("GET /nothing", "", "404"),
            ("GET /index.html", "", "404"),
            ("POST /nothing", "", "404"),
            ("POST /", "", "405"),
            ("DELETE /metrics", "", "405"),
            ("GET /", "Content-Length: 3\r\n", "413"),
        ] {
            let (head, body) = ask(&site, HERE, line, headers);
            assert_eq!(head.split(' ').nth(1), Some(status), "{line}");
            assert_eq!(field(&head, "Content-Length"), body.len().to_string());
            assert!(body.ends_with(b".\n"));
        }
        let (head, _) = ask(&site, HERE, "POST /", "");
        assert_eq!(field(&head, "Allow"), "GET, HEAD, OPTIONS");
    }

    #[test]
    fn probes_of_balancers() {
        let site = site(MetricsFor::All);
        for page in ["/", "/healthz", "/metrics", "/readyz"] {
            let (head, body) = ask(&site, THERE, &format!("OPTIONS {page}"), "");
            assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
            assert_eq!(field(&head, "Allow"), "GET, HEAD, OPTIONS");
            assert!(!head.contains("Content-Length") && body.is_empty(), "RFC 9110 section 8.6: {head}");
        }
    }

    #[test]
    fn metrics_come_in_the_format_that_is_asked_for() {
        let site = site(MetricsFor::All);
        let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let text = "text/plain; version=0.0.4; charset=utf-8";
        for (accept, expected) in [
            ("", open),
            ("*/*", open),
            ("text/plain; version=0.0.4", text),
            ("text/plain", text),
            ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3", open),
            ("application/openmetrics-text;q=0.2, text/*;q=0.7, */*;q=0.1", text),
            ("application/openmetrics-text;q=0, */*", text),
            ("application/json", open),
        ] {
            let field_line = if accept.is_empty() { String::new() } else { format!("Accept: {accept}\r\n") };
            let (head, body) = ask(&site, THERE, "GET /metrics", &field_line);
            assert_eq!(field(&head, "Content-Type"), expected, "{accept}");
            assert_eq!(body.ends_with(b"# EOF\n"), expected == open, "{accept}");
        }
    }

    #[test]
    fn readiness_begins_and_ends() {
        let site = site(MetricsFor::Loopback);
        let status = |line| {
            let (head, body) = ask(&site, THERE, line, "");
            if head.starts_with("HTTP/1.1 503") {
                assert_eq!(field(&head, "Retry-After"), "7");
            }
            (head.split(' ').nth(1).unwrap().to_owned(), String::from_utf8(body).unwrap())
        };
        assert_eq!(status("GET /readyz"), ("503".into(), "The server is starting.\n".into()));
        site.readiness.ready();
        assert_eq!(status("GET /readyz"), ("200".into(), "ready\n".into()));
        assert_eq!(status("HEAD /readyz"), ("200".into(), String::new()));
        site.readiness.stopping();
        assert_eq!(status("GET /readyz"), ("503".into(), "The server is shutting down.\n".into()));
        assert_eq!(status("GET /healthz").0, "200");
    }

    #[test]
    fn metrics_are_for_those_that_the_configuration_names() {
        let proxied = "X-Forwarded-For: 192.0.2.9\r\n";
        for (access, peer, headers, status) in [
            (MetricsFor::Loopback, HERE, "", "200"),
            (MetricsFor::Loopback, "[::1]:9", "", "200"),
            (MetricsFor::Loopback, "[::ffff:127.0.0.1]:9", "", "200"),
            (MetricsFor::Loopback, HERE, proxied, "403"),
            (MetricsFor::Loopback, HERE, "via: 1.1 proxy\r\n", "403"),
            (MetricsFor::Loopback, HERE, "X-Forwarded-Proto: https\r\n", "403"),
            (MetricsFor::Loopback, THERE, "", "403"),
            (MetricsFor::All, THERE, "", "200"),
            (MetricsFor::All, HERE, proxied, "200"),
            (MetricsFor::Nobody, HERE, "", "404"),
        ] {
            let (head, _) = ask(&site(access), peer, "GET /metrics", headers);
            assert_eq!(head.split(' ').nth(1), Some(status), "{access:?} {peer} {headers}");
        }
    }
}
