//! Whether the values fit each other.
//!
//! Each value alone is inside its range by the time it gets here. What is compared here are bounds that
//! would make each other useless or unreachable, with the reason in the message. Values are read from
//! [`Settings`], so that a message can say where both sides came from.
//!
//! Invariant: the defaults fit each other; a unit test checks it.

use super::keys::Value;
use super::settings::{Origin, Settings};
use super::{Problem, addresses, destinations, rules};
use crate::net::address::Address;
use crate::services;

/// The longest header of a WebSocket frame from a server (RFC 6455, section 5.2): 2 bytes and a 64-bit length.
const WS_FRAME_HEADER_BYTES_MAX: u64 = 10;
/// Bytes of the header lines that the server adds to a MESSAGE (`message-id`, `ack`, `content-length`), its
/// command line and its NUL, rounded up. The subscription id comes on top.
const MESSAGE_OVERHEAD_BYTES: u64 = 256;
/// A byte of a header grows to at most two when it is escaped (STOMP 1.2, "Value Encoding").
const ESCAPE_GROWTH: u64 = 2;

/// Compares the settings with each other; what does not fit is added to `problems`.
pub(super) fn check(settings: &Settings, problems: &mut Vec<Problem>) {
    let mut checker = Checker { settings, problems };
    checker.open_mode();
    checker.modes();
    checker.rules();
    checker.stomp();
    checker.websocket();
    checker.outbound();
    checker.memory();
    checker.api();
    checker.listen();
}

struct Checker<'a> {
    settings: &'a Settings,
    problems: &'a mut Vec<Problem>,
}

impl Checker<'_> {
    /// Everyone who reaches an open server can be anyone, so a reachable one must be meant.
    fn open_mode(&mut self) {
        if self.settings.words("auth.mode").is_some() {
            return;
        }
        for key in ["listen.address", "listen.stomp"] {
            let beyond: Vec<String> = addresses(self.settings, key)
                .iter()
                .filter(|address| !address.is_local())
                .map(ToString::to_string)
                .collect();
            if beyond.is_empty() {
                continue;
            }
            let text = format!(
                "{key} = {}: reachable from other machines, and everyone could log in under any name; \
                 if that is meant, say so with --open or auth.mode = \"open\"; else say who may, with auth.mode = \"users\" or \
                 \"jwt\", or listen on a loopback address",
                beyond.join(", ")
            );
            self.problems.push(Problem::new(self.settings.get(key).origin.clone(), text));
        }
    }

    /// One port has one protocol.
    fn listen(&mut self) {
        let http = addresses(self.settings, "listen.address");
        let is_picked = |address: &Address| matches!(address, Address::Tcp(address) if address.port() == 0);
        for address in addresses(self.settings, "listen.stomp") {
            if http.contains(address) && !is_picked(address) {
                let text = format!(
                    "listen.stomp: {address} is in listen.address, too, and speaks one protocol only"
                );
                let origin = self.settings.get("listen.stomp").origin.clone();
                self.problems.push(Problem::new(origin, text));
            }
        }
    }

    fn rules(&mut self) {
        if let Err(problems) = rules::compile(self.settings.rules()) {
            self.problems.extend(problems);
        }
        if let Err(problems) = destinations::compile(self.settings.destinations()) {
            self.problems.extend(problems);
        }
    }

    /// Each mode has its file, and a file that is named has its mode: whoever names one means to use it.
    fn modes(&mut self) {
        let modes = self.settings.words("auth.mode");
        let origin = self.settings.get("auth.mode").origin.clone();
        for (mode, key, what) in [
            ("users", "auth.users_file", "the file of logins and passwords, which `tcbchat passwd` writes"),
            ("jwt", "auth.keys_file", "the file of public keys as PEM, or a JWKS"),
            ("http", "auth.http_url", "the URL at which the application says who a client is"),
        ] {
            let is_named = self.settings.get(key).value.is_some();
            match modes {
                Some(modes) if modes.contains(&mode) && !is_named => {
                    let text = format!("auth.mode has \"{mode}\", and {key} is unset: name {what}");
                    self.problems.push(Problem::new(origin.clone(), text));
                }
                // Else what was meant to shut a server would leave it open.
                None if is_named => {
                    let text =
                        format!("{key} is set, and auth.mode is not: say auth.mode = \"{mode}\" to use it");
                    self.problems.push(Problem::new(self.settings.get(key).origin.clone(), text));
                }
                _ => {}
            }
        }
        if let Some([before @ .., _]) = modes
            && before.contains(&"open")
        {
            let text = "auth.mode: \"open\" lets in whoever says nothing, and has to stand last".into();
            self.problems.push(Problem::new(origin, text));
        }
        if let Some(modes) = modes
            && let Some(at) = modes.iter().position(|mode| *mode == "http")
            && modes[at + 1..].iter().any(|mode| *mode != "open")
        {
            let text =
                "auth.mode: the application has the last word, so only \"open\" may stand behind \"http\"";
            self.problems.push(Problem::new(self.settings.get("auth.mode").origin.clone(), text.into()));
        }
        if let Some(url) = self.settings.line("auth.http_url")
            && !["http://", "https://"]
                .iter()
                .any(|scheme| url.starts_with(scheme) && url.len() > scheme.len())
        {
            let url = services::auth::without_secrets(url);
            let text = format!("auth.http_url = {url:?}: it must begin with http:// or https://");
            self.problems.push(Problem::new(self.settings.get("auth.http_url").origin.clone(), text));
        }
    }

    fn stomp(&mut self) {
        self.at_most("stomp.header_bytes_max", "stomp.head_bytes_max", "a header line is part of the head");
        // The names that stand before a destination and before an id, with their colons; the longest each.
        let line = |name: &str, bytes: u64| name.len() as u64 + bytes * ESCAPE_GROWTH;
        let destination = line("destination:", self.settings.number("stomp.destination_bytes_max"));
        self.at_least("stomp.header_bytes_max", destination, "a line with the longest destination, escaped");
        let id = line("subscription:", self.settings.number("stomp.id_bytes_max"));
        self.at_least("stomp.header_bytes_max", id, "a line with the longest id, escaped");
        self.at_most(
            "history.page_bytes_max",
            "outbound.bytes_max",
            "a page must be no more than a client may leave unread",
        );
        self.at_most("stomp.heart_beat_min_ms", "stomp.heart_beat_max_ms", "they are the ends of one range");
    }

    fn websocket(&mut self) {
        self.at_most(
            "websocket.frame_bytes_max",
            "websocket.message_bytes_max",
            "a message is made of frames",
        );
        self.at_most("echo.frame_bytes_max", "echo.message_bytes_max", "a message is made of frames");
        let stomp_frame = self.stomp_frame_bytes();
        // Most clients put a STOMP frame into one WebSocket frame, and would never get a body of the
        // permitted size through.
        self.at_least("websocket.frame_bytes_max", stomp_frame, "the largest STOMP frame, head and body");
    }

    fn outbound(&mut self) {
        self.at_most("outbound.low_water_bytes", "outbound.high_water_bytes", "the marks would never part");
        self.at_most("outbound.high_water_bytes", "outbound.bytes_max", "the mark would never be reached");
        self.at_most("outbound.bytes_max", "outbound.reactor_bytes_max", "one connection must fit");
        let message = self.stomp_frame_bytes()
            + self.settings.number("stomp.head_bytes_max") * (ESCAPE_GROWTH - 1)
            + self.settings.number("stomp.id_bytes_max") * ESCAPE_GROWTH
            + MESSAGE_OVERHEAD_BYTES
            + WS_FRAME_HEADER_BYTES_MAX;
        self.at_least("outbound.bytes_max", message, "one largest MESSAGE would cut its reader off");
        let echo = self.settings.number("echo.message_bytes_max") + WS_FRAME_HEADER_BYTES_MAX;
        self.at_least("echo.outbound_bytes_max", echo, "one largest message would cut its sender off");
    }

    fn memory(&mut self) {
        let stomp_frame = self.stomp_frame_bytes();
        // Leases come in powers of two.
        self.at_least(
            "buffers.reactor_bytes_max",
            stomp_frame.next_power_of_two() + stomp_frame.next_power_of_two() / 2,
            "one largest STOMP frame, and half of it while its lease grows",
        );
        self.at_most("buffers.reactor_bytes_kept_max", "buffers.reactor_bytes_max", "it is a part of it");
        self.at_least("rooms.queue_bytes_max", stomp_frame, "a queue must hold one largest message");
        self.at_most("rooms.queue_bytes_max", "rooms.queues_bytes_max", "one queue must fit");
        let capacity = self.settings.number("tcb.capacity");
        if capacity > 0 {
            self.at_most("tcb.partitions", "tcb.capacity", "a partition holds at least one connection");
        }
    }

    /// An API that anybody could use is none.
    fn api(&mut self) {
        let origin = self.settings.get("api.listen").origin.clone();
        let Some(Value::Addresses(addresses)) = &self.settings.get("api.listen").value else {
            if self.settings.path("api.bans_file").is_some() {
                let text = "api.bans_file is set, and api.listen is not: bans are in force only with the API";
                let origin = self.settings.get("api.bans_file").origin.clone();
                self.problems.push(Problem::new(origin, text.into()));
            }
            return;
        };
        if addresses.iter().any(|address| matches!(address, Address::Unix(_))) {
            let text = "api.listen: the API listens on IP addresses only";
            self.problems.push(Problem::new(origin.clone(), text.into()));
        }
        if self.settings.path("api.token_file").is_none() {
            let text = "api.listen is set, and api.token_file is not: name the file of the token that every request must have";
            self.problems.push(Problem::new(origin, text.into()));
        }
        self.at_most("api.connections_max", "reactors.fd_reserve", "they are descriptors of that reserve");
    }

    /// Bytes of the largest STOMP frame that a client may send, its NUL included.
    fn stomp_frame_bytes(&self) -> u64 {
        self.settings.number("stomp.head_bytes_max") + self.settings.number("stomp.body_bytes_max") + 1
    }

    fn at_most(&mut self, path: &str, bound: &str, why: &str) {
        let (value, most) = (self.settings.number(path), self.settings.number(bound));
        if value > most {
            // The default was not chosen by the reader, so the other side is the one to name first.
            let (origin, other) = match (&self.settings.get(path).origin, &self.settings.get(bound).origin) {
                (Origin::Default, said) => (said, &Origin::Default),
                (said, other) => (said, other),
            };
            let text = format!("{path} = {value} is above {bound} = {most} ({other}): {why}");
            self.problems.push(Problem::new(origin.clone(), text));
        }
    }

    fn at_least(&mut self, path: &str, needed: u64, why: &str) {
        let value = self.settings.number(path);
        if value < needed {
            let text = format!("{path} = {value} is below {needed}, which the other keys ask for: {why}");
            self.problems.push(Problem::new(self.settings.get(path).origin.clone(), text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::{Flag, Sources};

    fn problems(values: &[(&str, &str)]) -> Vec<String> {
        let flag = |(key, value): &(&str, &str)| Flag {
            flag: "--set",
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        };
        let sources = Sources { flags: values.iter().map(flag).collect(), ..Sources::default() };
        let mut problems = Vec::new();
        let settings = Settings::read(&sources, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        check(&settings, &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_fit() {
        assert_eq!(problems(&[]), Vec::<String>::new());
    }

    #[test]
    fn open_mode_is_implied_on_loopback_only() {
        for loopback in ["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80", "unix:/run/x"] {
            assert_eq!(problems(&[("listen.address", loopback)]), Vec::<String>::new(), "{loopback}");
        }
        for beyond in ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "127.0.0.1:80,192.0.2.1:80"] {
            let found = problems(&[("listen.address", beyond)]);
            assert_eq!(found.len(), 1, "{beyond}: {found:?}");
            assert!(found[0].contains("--open or auth.mode = \"open\""), "{}", found[0]);
            assert_eq!(problems(&[("listen.address", beyond), ("auth.mode", "open")]), Vec::<String>::new());
        }
    }

    #[test]
    fn modes_and_their_files_belong_together() {
        let (users, keys) = (("auth.users_file", "u"), ("auth.keys_file", "k"));
        let mode = |words| ("auth.mode", words);
        for good in [
            &[mode("users"), users][..],
            &[mode("jwt,users"), users, keys],
            &[mode("users,open"), users],
            &[mode("open"), users, keys],
            &[mode("jwt,http"), keys, ("auth.http_url", "https://app.example/login")],
        ] {
            assert_eq!(problems(good), Vec::<String>::new(), "{good:?}");
        }
        let cases: &[(&[(&str, &str)], &str)] = &[
            (
                &[mode("users")],
                "--set: auth.mode has \"users\", and auth.users_file is unset: name the file of logins",
            ),
            (&[mode("users"), keys], "auth.users_file is unset"),
            (
                &[mode("jwt")],
                "--set: auth.mode has \"jwt\", and auth.keys_file is unset: name the file of public keys",
            ),
            (&[users], "--set: auth.users_file is set, and auth.mode is not: say auth.mode = \"users\""),
            (&[keys], "--set: auth.keys_file is set, and auth.mode is not: say auth.mode = \"jwt\""),
            (&[mode("open,users"), users], "\"open\" lets in whoever says nothing, and has to stand last"),
            (
                &[mode("http,users"), users, ("auth.http_url", "http://app")],
                "only \"open\" may stand behind \"http\"",
            ),
            (&[mode("http")], "auth.http_url is unset: name the URL"),
            (&[mode("http"), ("auth.http_url", "ftp://app")], "it must begin with http:// or https://"),
        ];
        for (values, expected) in cases {
            let found = problems(values);
            assert_eq!(found.len(), 1, "{values:?}: {found:?}");
            assert!(found[0].contains(expected), "{values:?}: {found:?}");
        }
    }

    #[test]
    fn an_api_has_a_token_and_bans_have_an_api() {
        let (listen, token) = (("api.listen", "127.0.0.1:8090"), ("api.token_file", "t"));
        assert_eq!(problems(&[listen, token, ("api.bans_file", "b")]), Vec::<String>::new());
        assert_eq!(problems(&[token]), Vec::<String>::new());
        for (values, expected) in [
            (&[listen][..], "--set: api.listen is set, and api.token_file is not: name the file"),
            (&[("api.bans_file", "b")], "api.bans_file is set, and api.listen is not"),
            (&[("api.listen", "unix:/run/api"), token], "on IP addresses only"),
            (
                &[listen, token, ("api.connections_max", "300")],
                "api.connections_max = 300 is above reactors.fd_reserve",
            ),
        ] {
            let found = problems(values);
            assert_eq!(found.len(), 1, "{values:?}: {found:?}");
            assert!(found[0].contains(expected), "{values:?}: {found:?}");
        }
    }

    #[test]
    fn bounds_that_defeat_each_other() {
        let cases: &[(&[(&str, &str)], &str)] = &[
            (
                &[("outbound.low_water_bytes", "300000")],
                "--set: outbound.low_water_bytes = 300000 is above outbound.high_water_bytes = 262144 (default)",
            ),
            (&[("outbound.bytes_max", "131072")], "outbound.high_water_bytes = 262144 is above"),
            (&[("outbound.reactor_bytes_max", "1048576")], "outbound.bytes_max = 4194304 is above"),
            (&[("outbound.bytes_max", "1000000")], "outbound.bytes_max = 1000000 is below"),
            (&[("websocket.message_bytes_max", "1500000")], "websocket.frame_bytes_max = 2097152 is above"),
            (&[("stomp.body_bytes_max", "4000000")], "websocket.frame_bytes_max = 2097152 is below"),
            (&[("stomp.header_bytes_max", "64")], "stomp.header_bytes_max = 64 is below"),
            (&[("stomp.heart_beat_max_ms", "1000"), ("stomp.heart_beat_min_ms", "2000")], "one range"),
            (&[("rooms.queue_bytes_max", "1024")], "rooms.queue_bytes_max = 1024 is below"),
            (
                &[("tcb.capacity", "4"), ("tcb.partitions", "8")],
                "tcb.partitions = 8 is above tcb.capacity = 4",
            ),
            (&[("echo.outbound_bytes_max", "4096")], "echo.outbound_bytes_max = 4096 is below 16777226"),
        ];
        for (values, expected) in cases {
            let found = problems(values);
            assert!(found.iter().any(|problem| problem.contains(expected)), "{values:?}: {found:#?}");
        }
    }

    #[test]
    fn a_default_is_not_blamed() {
        let found = problems(&[("outbound.reactor_bytes_max", "1048576")]);
        assert!(found[0].starts_with("--set: outbound.bytes_max = 4194304 is above"), "{}", found[0]);
    }
}
