//! Every key of the configuration: its section, its meaning, its default and its permitted values.
//!
//! The numbers come from [`crate::limits`]; the keys that are not numbers are declared here. Reading a
//! configuration, printing one and documenting it all go through [`catalogue`], so none of the three can
//! know a key that the others do not. No file is read here. `domain` has what a key may be, `words` what words stand for.
//!
//! Invariant: sections are contiguous in the catalogue, no key is there twice, and every default is a
//! value that the key itself accepts.

mod domain;
mod words;

use std::sync::LazyLock;

use super::profile;
use crate::limits::{self, Spec};

pub use domain::{Domain, Key, Value};
pub use words::{
    AUTH_MODES, CLIENT_HEADERS, Goodbye, LogFormat, LogLevel, MetricsAccess, REFUSALS, ReadyLine,
    TIME_WAIT_REUSE, of_word,
};

/// What every environment variable of the configuration starts with.
pub const ENVIRONMENT_PREFIX: &str = "TCBCHAT_";

/// The sections in the order of the file, each with what it is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("profile", "A named set of values for keys of which nothing else is said."),
    ("listen", "Where clients connect."),
    ("http", "What is believed of requests."),
    ("auth", "Who may connect."),
    ("reactors", "Threads and their descriptor tables."),
    ("tcb", "The table of TCP control blocks: every connection in every state."),
    ("handshake", "From accept to the end of the opening handshake and CONNECT."),
    ("websocket", "WebSocket framing on /ws."),
    ("keepalive", "How peers that vanish without a word are found."),
    ("stomp", "STOMP frames and sessions."),
    ("rate", "How fast clients may publish."),
    ("outbound", "What waits to be sent to a connection that reads slowly."),
    ("buffers", "Leases for incomplete input."),
    ("rooms", "Topics and queues."),
    ("history", "What rooms keep for who comes later."),
    ("mesh", "Mailboxes between reactors."),
    ("turn", "Work in one turn of a reactor's loop."),
    ("echo", "The /echo endpoint for conformance suites."),
    ("ops", "What the server tells about itself."),
    ("api", "The HTTP API for an application's own programs and for operators."),
    ("log", "Messages on standard error."),
    ("memory", "What the server does before the kernel ends it for want of memory."),
    ("drain", "From SIGTERM to the last goodbye."),
    ("shutdown", "The end of the process."),
];

/// Every key, sorted by section in the order of [`SECTIONS`].
pub fn catalogue() -> &'static [Key] {
    static CATALOGUE: LazyLock<Vec<Key>> = LazyLock::new(|| {
        let mut keys = keys_without_number();
        keys.extend(limits::specs().into_iter().map(Key::from));
        let place = |key: &Key| SECTIONS.iter().position(|(section, _)| *section == key.section);
        // Stable: inside a section, the keys that are not numbers come first, then the order of `limits`.
        keys.sort_by_key(place);
        keys
    });
    &CATALOGUE
}

/// The key of a path such as `stomp.body_bytes_max`.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    catalogue().iter().find(|key| key.section == section && key.name == name)
}

impl From<Spec> for Key {
    fn from(spec: Spec) -> Self {
        Self {
            section: spec.section,
            name: spec.key,
            doc: one_paragraph(spec.doc),
            domain: Domain::Number { default: spec.default, range: spec.range },
        }
    }
}

fn keys_without_number() -> Vec<Key> {
    let key = |section, name, domain, doc: &str| Key { section, name, doc: one_paragraph(doc), domain };
    let word = |default, allowed| Domain::Word { default, allowed };
    vec![
        key(
            "profile",
            "name",
            word(Some(profile::DEFAULT), profile::NAMES),
            "\"linux\" leaves all defaults as they are. The others are reconstructions, from documents, of the limits
             that other systems had.",
        ),
        key(
            "listen",
            "address",
            Domain::Addresses { default: Some("127.0.0.1:8080") },
            "Addresses that the server listens on, IPv4 or IPv6; or Unix sockets, for a proxy on this machine: their files are
             for the owner and the group, and whoever may connect is believed like a proxy of http.trusted_proxies.",
        ),
        key(
            "listen",
            "stomp",
            Domain::Addresses { default: None },
            "Addresses for STOMP over plain TCP, without WebSocket, for programs: server-side STOMP libraries and Spring's broker
             relay. IPv4 or IPv6, or Unix sockets. Unset: there is none. Logins, passwords and messages travel as they are:
             listen on loopback or in a network of your own, or put TLS in front.",
        ),
        key(
            "http",
            "trusted_proxies",
            Domain::Networks,
            "Proxies that are believed when they name their clients, by a PROXY protocol header (version 1 or 2) or in the
             request (http.client_header): what clients share is counted for the client that is named. If the client of a
             PROXY header is in this list itself, its request may name the next. Name only proxies that add to these fields
             or remove them: behind others, clients could name themselves. Proxies need not name anybody; their own handshakes
             are not bounded by handshake.pending_per_address_max. A PROXY header from anybody else is answered 400, and
             other fields from anybody else are ignored.",
        ),
        key(
            "http",
            "client_header",
            word(None, &["x-forwarded-for", "forwarded"]),
            "The header field in which http.trusted_proxies name their clients. The last address in it that is not one of
             theirs is the client's. Unset: X-Forwarded-For, or Forwarded where there is none. Set it to \"forwarded\" if your
             proxies write that and let a client's X-Forwarded-For pass.",
        ),
        key(
            "http",
            "origins",
            Domain::Origins,
            "Sites whose pages may open a WebSocket, beside those that come from the server's own host: that is the one in Host,
             or in X-Forwarded-Host from http.trusted_proxies. A browser says of which site a page is (Origin), and any other is
             answered 403. Who sends no Origin is no browser, and is let in.",
        ),
        key(
            "auth",
            "mode",
            Domain::Words { allowed: &["open", "users", "jwt", "http"] },
            "Who decides who a client is. The first that the credentials are for decides. \"users\": a file of logins and passwords
             (auth.users_file). \"jwt\": tokens, in the passcode or as a Bearer (auth.keys_file). \"http\": the application is asked (auth.http_url).
             \"open\" alone accepts every login with every passcode; it is what an unset mode means as long as all addresses are
             loopback ones. On any other address the server starts only if a mode is said, and who comes through a proxy is
             answered 403 until one is. At the end of a list \"open\" lets in whoever says nothing of himself, without a login.",
        ),
        key(
            "auth",
            "users_file",
            Domain::Path,
            "Logins with argon2id hashes of their passwords and with roles; `tcbchat passwd FILE LOGIN` writes it. It is read
             at the start and on SIGHUP.",
        ),
        key(
            "auth",
            "keys_file",
            Domain::Path,
            "Keys that verify tokens: public keys as PEM, or a JWKS, in which a shared secret is an \"oct\". Each verifies the
             algorithm that its \"alg\" names, else those of its kind. It is read at the start and on SIGHUP.",
        ),
        key(
            "auth",
            "issuer",
            Domain::Text { default: None, meaning: "a text, as tokens have it" },
            "What the `iss` of a token must be. Unset: anything, or nothing.",
        ),
        key(
            "auth",
            "audience",
            Domain::Text { default: None, meaning: "a text, as tokens have it" },
            "What the `aud` of a token must be, or contain. Unset: anything, or nothing. Then tokens that the same issuer has made
             for other services are good here, too.",
        ),
        key(
            "auth",
            "login_claim",
            Domain::Text { default: Some("sub"), meaning: "the name of a claim, or a path such as \"user.name\"" },
            "The claim of a token that is the login: a text of 1 to 255 bytes.",
        ),
        key(
            "auth",
            "roles_claim",
            Domain::Text { default: Some("roles"), meaning: "the name of a claim, or a path such as \"realm_access.roles\"" },
            "The claim of a token that lists the roles: a list of texts, or one text with spaces between. A token need not
             have it.",
        ),
        key(
            "auth",
            "token_cookie",
            Domain::Text { default: None, meaning: "the name of a cookie" },
            "The cookie of the upgrade that has a token. Unset: none. With a cookie, see http.origins: any page can open a
             connection that has it.",
        ),
        key(
            "auth",
            "token_query",
            Domain::Text { default: None, meaning: "the name of a parameter" },
            "The parameter of the upgrade's URL that has a token. Unset: none. It is never logged here; a proxy may log it.",
        ),
        key(
            "auth",
            "http_url",
            Domain::Url { example: "http://127.0.0.1:3000/chat/login" },
            "Where the application says who a client is, for the mode \"http\".",
        ),
        key(
            "auth",
            "http_headers",
            Domain::Text { default: Some("cookie"), meaning: "names of headers, with commas between" },
            "Headers of the upgrade that the application is told, beside those of CONNECT.",
        ),
        key(
            "auth",
            "token_expiry_required",
            Domain::Switch { default: true },
            "Whether a token without `exp` is refused. Its session would never end by itself.",
        ),
        key(
            "stomp",
            "refusals",
            word(Some("error"), &["error", "message"]),
            "How a frame is refused that is right in itself: \"error\" ends the session by an ERROR; \"message\" says the same in
             a MESSAGE to its /user/queue/errors, sends no RECEIPT, and the session goes on. PROTOCOL.md has the list of what
             that is: what rules forbid, a full queue, an UNSUBSCRIBE of what is not subscribed.",
        ),
        key(
            "tcb",
            "time_wait_reuse",
            word(Some("never"), &["never", "older-than-60s", "peer-differs"]),
            "When a TIME_WAIT record is given up before its delay is over: \"never\"; those older than 60
             seconds when the records are full; or those of another peer than the one that connects.",
        ),
        key(
            "tcb",
            "time_wait_counts",
            Domain::Switch { default: false },
            "Whether a connection in TIME_WAIT takes a place of the capacity, as it does on Windows.",
        ),
        key(
            "rooms",
            "flush_delay_destinations",
            Domain::Patterns { default: "/topic/*" },
            "Rooms that rooms.flush_delay_us is for: topics and user destinations, one each or, with a * at the end,
             all that begin so. While that is 0, none is delayed.",
        ),
        key(
            "echo",
            "enabled",
            Domain::Switch { default: false },
            "Whether /echo returns every WebSocket message unchanged.",
        ),
        key(
            "ops",
            "metrics",
            word(Some("loopback"), MetricsAccess::WORDS),
            "Who is answered on /metrics. \"loopback\" are callers on this machine whose request carries no
             trace of a proxy; a proxy that leaves no trace makes all its callers local ones, so close the
             path there or choose \"off\".",
        ),
        key(
            "api",
            "listen",
            Domain::Addresses { default: None },
            "Addresses of the HTTP API, IPv4 or IPv6. Unset: there is none. Who has its token may do everything, and the token
             travels as it is: listen on loopback, or put TLS in front.",
        ),
        key(
            "api",
            "token_file",
            Domain::Path,
            "The token that every request to the API must have, as `Authorization: Bearer`: one line of 16 to 4096 characters.
             It is read at the start and on SIGHUP.",
        ),
        key(
            "api",
            "bans_file",
            Domain::Path,
            "Where bans are kept over a restart. The server writes it anew, as a whole, whenever a ban begins or ends, so its
             folder must be writable. Unset: a restart forgets them.",
        ),
        key("log", "level", word(Some("info"), LogLevel::WORDS), "The least important messages logged."),
        key(
            "log",
            "format",
            word(Some("text"), LogFormat::WORDS),
            "Lines for people, or one JSON object per line. JSON holds for everything that is written to standard
             error, from the first line to the last, and for the ready line on standard output.",
        ),
        key(
            "log",
            "ready_line",
            word(Some("as-log"), ReadyLine::WORDS),
            "What standard output says when the server is ready: a line in the format of the log, one for people
             whatever that format is, or nothing.",
        ),
        key(
            "drain",
            "goodbye",
            word(Some("going-away"), Goodbye::WORDS),
            "The close code after SIGTERM: \"going-away\" is 1001; \"restart\" is 1012, for clients that tell a
             restart from an end.",
        ),
    ]
}

/// The text with every run of white space as one space.
fn one_paragraph(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_in_order_and_without_repetition() {
        let keys = catalogue();
        let mut sections: Vec<_> = keys.iter().map(|key| key.section).collect();
        sections.dedup();
        assert_eq!(sections, SECTIONS.iter().map(|(section, _)| *section).collect::<Vec<_>>());
        for (at, key) in keys.iter().enumerate() {
            assert!(
                !keys[..at].iter().any(|other| other.environment_name() == key.environment_name()),
                "{} is there twice",
                key.path()
            );
        }
    }

    #[test]
    fn every_key_accepts_its_own_default() {
        for key in catalogue() {
            let Some(default) = key.default() else { continue };
            let text = default.to_string().replace(['"', '[', ']'], "");
            assert_eq!(key.text(&text), Some(default), "{}", key.path());
        }
    }

    #[test]
    fn origins_are_refused_by_the_item() {
        let origins = find("http", "origins").unwrap();
        let all = "https://chat.example.com, https://*.example.com:8443,HTTP://localhost:*";
        let expected =
            "[\"https://chat.example.com\", \"https://*.example.com:8443\", \"http://localhost:*\"]";
        assert_eq!(origins.text(all).unwrap().to_string(), expected);
        assert_eq!(origins.text("*").unwrap().to_string(), "[\"*\"]");
        assert_eq!(origins.text(""), Some(Value::Origins(Vec::new())));
        for (bad, item, reason) in [
            ("https://a, wss://a", "wss://a", "can match no page: pages have https:// or http://"),
            ("*,https://a", "*", "allows all, so it must be alone"),
            ("https://a,https://a", "https://a", "is there twice"),
            ("https://a,https://A:443", "https://A:443", "is there twice"),
        ] {
            assert_eq!(origins.text(bad), None, "{bad}");
            assert_eq!(origins.wrong_item(bad.split(',').map(str::trim)), Some((item, reason)));
        }
    }

    #[test]
    fn words_and_variants_agree() {
        for word in LogLevel::WORDS {
            assert!(LogLevel::from_word(word).is_some());
        }
        let Domain::Word { allowed, .. } = find("tcb", "time_wait_reuse").unwrap().domain else {
            unreachable!()
        };
        assert_eq!(TIME_WAIT_REUSE.iter().map(|(word, _)| *word).collect::<Vec<_>>(), allowed);
        let Domain::Word { allowed, .. } = find("http", "client_header").unwrap().domain else {
            unreachable!()
        };
        assert_eq!(CLIENT_HEADERS.iter().map(|(word, _)| *word).collect::<Vec<_>>(), allowed);
        let Domain::Word { allowed, .. } = find("stomp", "refusals").unwrap().domain else { unreachable!() };
        assert_eq!(REFUSALS.iter().map(|(word, _)| *word).collect::<Vec<_>>(), allowed);
        let Domain::Words { allowed } = find("auth", "mode").unwrap().domain else { unreachable!() };
        assert_eq!(AUTH_MODES.iter().map(|(word, _)| *word).collect::<Vec<_>>(), allowed);
        assert!(of_word(AUTH_MODES, Some("shut")).is_none());
    }

    #[test]
    fn texts_of_flags_and_environment() {
        let capacity = find("tcb", "capacity").unwrap();
        assert_eq!(capacity.text("50_000"), Some(Value::Number(50_000)));
        for bad in ["-1", "", "1e3", "16777215", "5 0"] {
            assert_eq!(capacity.text(bad), None, "{bad}");
        }
        let address = find("listen", "address").unwrap();
        assert_eq!(
            address.text("127.0.0.1:1, [::1]:2").unwrap().to_string(),
            "[\"127.0.0.1:1\", \"[::1]:2\"]"
        );
        for bad in ["localhost:80", "", "127.0.0.1", "127.0.0.1:1,127.0.0.1:1"] {
            assert_eq!(address.text(bad), None, "{bad}");
        }
        assert_eq!(find("echo", "enabled").unwrap().text("yes"), None);
        let delayed = find("rooms", "flush_delay_destinations").unwrap();
        assert_eq!(delayed.text("/topic/a, /user/*").unwrap().to_string(), "[\"/topic/a\", \"/user/*\"]");
        let mode = find("auth", "mode").unwrap();
        assert_eq!(mode.text("jwt, users").unwrap().to_string(), "[\"jwt\", \"users\"]");
        for bad in ["", "shut", "jwt,jwt", "jwt,", "JWT"] {
            assert_eq!(mode.text(bad), None, "{bad}");
        }
        assert_eq!(mode.wrong_item(["jwt", "jwt"]), Some(("jwt", "is there twice")));
        let audience = find("auth", "audience").unwrap();
        assert_eq!(audience.text("a \"b\" \\ c,d").unwrap().to_string(), r#""a \"b\" \\ c,d""#);
        assert_eq!((audience.text(""), audience.text("a\nb")), (None, None));
        let file = find("auth", "users_file").unwrap();
        assert_eq!(file.text("/etc/a b").unwrap(), Value::Path("/etc/a b".into()));
        assert_eq!(file.text(""), None);
        for bad in ["", "/queue/*", "/topic/*/a", "/topic/a,/topic/a"] {
            assert_eq!(delayed.text(bad), None, "{bad}");
        }
    }
}
