//! Who may open a WebSocket, once the opening handshake is right, or a stream of bare STOMP: where there is a place, pages of which
//! sites, whether through a proxy, and who is banned; and on whose account the connection is from then on.
//!
//! The rules are [`handshake`]'s. Here they are asked, counted and answered.
//!
//! Invariant: a connection gets its client's name before it is open, or never. Who is told no is answered at once.

use crate::conn::Phase;
use crate::conn::handshake::{self, Reach, Speaker};
use crate::message::origin::Holder;
use crate::shard::Shard;
use crate::time::Tick;
use crate::wire::http::{HttpError, Request};

impl Shard {
    /// Whether there is a place for one who comes now.
    pub(super) fn has_place(&mut self, index: u32, is_head: bool, now: Tick) -> bool {
        let error = if self.farewell.is_some() {
            &HttpError::SHUTTING_DOWN
        } else if self.connections.phase(index) != Phase::Refused {
            return true;
        } else if self.connections.is_above_share(index) {
            &HttpError::ABOVE_SHARE
        } else {
            &HttpError::TABLE_FULL
        };
        self.turn_away(index, error, Some(self.env.limits.handshake.retry_after_s), is_head, now);
        false
    }

    /// Whether an opening handshake may be answered 101. If not, it is answered, and the connection ends.
    pub(super) fn may_open(
        &mut self,
        index: u32,
        request: &Request<'_>,
        speaker: Speaker,
        now: Tick,
    ) -> bool {
        let limits = &self.env.limits;
        let is_proxied = speaker.is_proxied(request);
        if limits.reach == Reach::ThisMachine {
            let is_foreign = || request.header("host").is_some_and(handshake::is_known_elsewhere);
            let error = if is_proxied {
                Some(HttpError::PROXIED)
            } else {
                is_foreign().then_some(HttpError::FOREIGN_HOST)
            };
            if let Some(error) = error {
                self.counters.refused_proxied_total += 1;
                self.note_unopened(index, error.reason, now);
                self.turn_away(index, &error, None, false, now);
                return false;
            }
        }
        // Without a proxy nobody's address is asked for.
        let peer = || self.peer(index).map(|peer| peer.ip());
        let is_believed = is_proxied && speaker.is_believed(&limits.trusted_proxies, peer);
        if let Err(seen) = handshake::check_origin(request, is_believed, &limits.origins) {
            self.counters.refused_origins_total += 1;
            let detail = format!("Its origin is \"{seen}\".");
            self.note_unopened(index, &format!("{} {detail}", HttpError::ORIGIN.reason), now);
            self.turn_away_for(index, &HttpError::ORIGIN, &detail, None, false, now);
            return false;
        }
        if is_believed
            && let Some(client) =
                handshake::client_of(request.hops(limits.client_header), &limits.trusted_proxies)
        {
            self.connections.name_client(index, client);
        }
        self.admits_unbanned(index, now)
    }

    /// Whether a stream of bare STOMP may begin. Pages cannot open one: what a browser sends first is no STOMP frame.
    pub(super) fn may_open_bare(&mut self, index: u32, speaker: Speaker, now: Tick) -> bool {
        if self.env.limits.reach == Reach::ThisMachine && speaker != Speaker::Peer {
            self.counters.refused_proxied_total += 1;
            self.note_unopened(index, HttpError::PROXIED.reason, now);
            self.turn_away(index, &HttpError::PROXIED, None, false, now);
            return false;
        }
        self.admits_unbanned(index, now)
    }

    fn admits_unbanned(&mut self, index: u32, now: Tick) -> bool {
        let Some(reason) = self.ban_of_address(index) else { return true };
        let reason = reason.to_owned();
        self.counters.refused_banned_total += 1;
        self.turn_away_for(index, &HttpError::BANNED, &reason, None, false, now);
        false
    }

    /// Whether the client's address may have one connection more.
    pub(super) fn admits_address(&mut self, index: u32, is_head: bool, now: Tick) -> bool {
        let max = self.env.limits.handshake.connections_per_address_max;
        let is_admitted = max == 0
            || match self.holder(index) {
                Holder::Session(..) => true,
                address => self.addresses.enter(index, address, max),
            };
        if !is_admitted {
            self.counters.refused_address_quota_total += 1;
            self.note_unopened(index, HttpError::ADDRESS_QUOTA.reason, now);
            let retry_after_s = Some(self.env.limits.handshake.retry_after_s);
            self.turn_away(index, &HttpError::ADDRESS_QUOTA, retry_after_s, is_head, now);
        }
        is_admitted
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::conn::pending::Pending;
    use crate::mesh::Mesh;
    use crate::metrics::ShardMetrics;
    use crate::shard::{ShardLimits, ShardSetup, Site};
    use crate::tcb::{FourTuple, TableConfig, TcbTable};
    use crate::wire::framing::Framing;
    use crate::wire::http::{ClientHeader, OriginPattern};

    const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 80);
    /// Trusted: what is inside is written `10.…`, and `2001:db8:1:…`.
    const TRUSTED: [&str; 2] = ["10.0.0.0/8", "2001:db8:1::/48"];

    struct NoSite;

    impl Site for NoSite {
        fn answer(&self, _: &Request<'_>, _: SocketAddr, _: &mut Vec<u8>) {}
    }

    fn shard(limits: ShardLimits) -> Shard {
        Shard::new(ShardSetup {
            id: 0,
            limits: Arc::new(limits),
            connections_max: 10,
            is_echo_enabled: true,
            mesh: Arc::new(Mesh::new(vec![Box::new(|| {})])),
            pending: Arc::new(Pending::new(10)),
            tcbs: Arc::new(TcbTable::new(TableConfig::sized(10, 1))),
            metrics: Arc::new(ShardMetrics::default()),
            site: Arc::new(NoSite),
            authenticator: None,
            bans: Arc::default(),
            logins: Arc::default(),
            addresses: Arc::default(),
            audience: Arc::default(),
            seed: 1,
            started_s: 1,
            now: Tick(0),
        })
    }

    fn behind_proxies(client_header: Option<ClientHeader>) -> ShardLimits {
        ShardLimits {
            trusted_proxies: TRUSTED.iter().map(|network| network.parse().unwrap()).collect(),
            reach: Reach::Anywhere,
            client_header,
            ..ShardLimits::default()
        }
    }

    fn handshake(path: &str, lines: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: chat.example.com\r\n{lines}Upgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    }

    /// What becomes of a connection of this peer that says this: whether it is open, and the client's address.
    fn say(shard: &mut Shard, tuple: FourTuple, said: &str) -> (bool, Option<IpAddr>) {
        let key = shard.open(tuple, Framing::WebSocket, Tick(0)).unwrap();
        shard.receive(key, &mut said.as_bytes().to_vec(), Tick(0));
        let is_open = matches!(shard.connections.phase(key.index), Phase::Stomp | Phase::Echo);
        let client = shard.connections.account_of(key.index, &shard.env.limits.trusted_proxies);
        shard.check();
        (is_open, client)
    }

    fn say_from(limits: ShardLimits, peer: &str, said: &str) -> (bool, Option<IpAddr>) {
        let peer = SocketAddr::new(peer.parse().unwrap(), 40_000);
        say(&mut shard(limits), FourTuple::new(LOCAL, peer), said)
    }

    #[test]
    fn a_client_is_whom_trusted_proxies_name() {
        let [proxy, other] = ["10.0.0.1", "192.0.2.1"];
        for (peer, before, lines, expected) in [
            (other, "", "X-Forwarded-For: 203.0.113.7\r\n", Some(other)),
            (other, "", "Forwarded: for=203.0.113.7\r\n", Some(other)),
            (proxy, "", "", None),
            (proxy, "", "X-Forwarded-For: 203.0.113.7\r\n", Some("203.0.113.7")),
            (proxy, "", "Forwarded: for=203.0.113.7\r\n", Some("203.0.113.7")),
            (proxy, "", "X-Forwarded-For: 203.0.113.9, 203.0.113.7\r\n", Some("203.0.113.7")),
            (proxy, "", "X-Forwarded-For: 203.0.113.7, 10.0.0.2\r\n", Some("203.0.113.7")),
            (
                proxy,
                "",
                "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: [2001:db8:2::7]:1, 2001:db8:1::1\r\n",
                Some("2001:db8:2::7"),
            ),
            (proxy, "", "X-Forwarded-For: 203.0.113.7, unknown\r\n", None),
            (proxy, "", "X-Forwarded-For: 203.0.113.7, unknown, 10.0.0.2\r\n", None),
            (proxy, "", "X-Forwarded-For: 10.0.0.3, 10.0.0.2\r\n", None),
            // What a client writes is no Unix socket.
            (proxy, "", "X-Forwarded-For: 203.0.113.9, 0.0.0.7\r\n", Some("0.0.0.7")),
            (proxy, "", "X-Real-IP: 203.0.113.7\r\n", None),
            ("2001:db8:1::5", "", "X-Forwarded-For: 203.0.113.7\r\n", Some("203.0.113.7")),
            // A client that a balancer names may not name another,
            (proxy, "PROXY TCP4 203.0.113.7 10.0.0.1 1 80\r\n", "", Some("203.0.113.7")),
            (
                proxy,
                "PROXY TCP4 203.0.113.7 10.0.0.1 1 80\r\n",
                "X-Forwarded-For: 203.0.113.9\r\n",
                Some("203.0.113.7"),
            ),
            // a proxy that it names may,
            (
                proxy,
                "PROXY TCP4 10.0.0.2 10.0.0.1 1 80\r\n",
                "X-Forwarded-For: 203.0.113.7\r\n",
                Some("203.0.113.7"),
            ),
            (proxy, "PROXY TCP4 10.0.0.2 10.0.0.1 1 80\r\n", "", None),
            // and nobody whom it cannot name.
            (proxy, "PROXY UNKNOWN\r\n", "X-Forwarded-For: 203.0.113.9\r\n", None),
            (
                proxy,
                "PROXY TCP4 0.0.0.7 10.0.0.1 1 80\r\n",
                "X-Forwarded-For: 203.0.113.9\r\n",
                Some("0.0.0.7"),
            ),
        ] {
            for path in ["/ws", "/echo"] {
                let said = [before, &handshake(path, lines)].concat();
                let expected = expected.map(|client| client.parse().unwrap());
                assert_eq!(say_from(behind_proxies(None), peer, &said), (true, expected), "{peer} {said}");
            }
        }
        // 31 proxies and the client are as many hops as are looked at.
        for (proxies, expected) in [(31, Some("203.0.113.7")), (32, None)] {
            let lines = format!("X-Forwarded-For: 203.0.113.7{}\r\n", ", 10.0.0.2".repeat(proxies));
            let expected = expected.map(|client| client.parse().unwrap());
            let said = handshake("/ws", &lines);
            assert_eq!(say_from(behind_proxies(None), proxy, &said), (true, expected), "{proxies}");
        }
        let both = handshake("/ws", "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.7\r\n");
        let found = say_from(behind_proxies(Some(ClientHeader::Forwarded)), proxy, &both);
        assert_eq!(found, (true, Some("203.0.113.7".parse().unwrap())));
    }

    #[test]
    fn the_quota_of_an_address_counts_whom_a_proxy_names() {
        let mut limits = behind_proxies(None);
        limits.handshake.connections_per_address_max = 1;
        let mut shard = shard(limits);
        let mut ports = 1..;
        let mut is_open = |client: &str| {
            let peer = SocketAddr::new("10.0.0.1".parse().unwrap(), ports.next().unwrap());
            let said = handshake("/ws", &format!("X-Forwarded-For: 203.0.113.9, {client}\r\n"));
            say(&mut shard, FourTuple::new(LOCAL, peer), &said).0
        };
        assert!(is_open("203.0.113.7"));
        assert!(!is_open("203.0.113.7:4711"), "it is the same client");
        assert!(is_open("203.0.113.8"));
    }

    #[test]
    fn a_unix_socket_is_a_trusted_proxy() {
        let mut shard = shard(ShardLimits { reach: Reach::Anywhere, ..ShardLimits::default() });
        let named = handshake("/ws", "X-Forwarded-For: 203.0.113.9, 203.0.113.7\r\n");
        let expected = Some("203.0.113.7".parse().unwrap());
        assert_eq!(say(&mut shard, FourTuple::unix(7), &named), (true, expected));
        assert_eq!(say(&mut shard, FourTuple::unix(8), &handshake("/ws", "")), (true, None));
    }

    #[test]
    fn without_a_word_on_who_may_connect_proxies_are_refused() {
        let trusted_proxies = behind_proxies(None).trusted_proxies;
        let limits = || ShardLimits { trusted_proxies: trusted_proxies.clone(), ..ShardLimits::default() };
        for (before, lines, is_proxied) in [
            ("", "", false),
            ("", "Origin: http://chat.example.com\r\n", false),
            ("", "X-Forward: a\r\nX-Real: b\r\nVias: c\r\n", false),
            ("", "Forwarded: for=192.0.2.1\r\n", true),
            ("", "fORWARDED:\r\n", true),
            ("", "X-Forwarded-For: 192.0.2.1\r\n", true),
            ("", "x-forwarded-proto: \u{ff}\r\n", true),
            ("", "X-Forwarded-Anything: a\r\n", true),
            ("", "X-Real-IP: 192.0.2.1\r\n", true),
            ("", "Via: 1.1 proxy\r\n", true),
            ("PROXY TCP4 203.0.113.7 10.0.0.1 1 80\r\n", "", true),
            ("PROXY UNKNOWN\r\n", "", true),
        ] {
            for path in ["/ws", "/echo"] {
                for peer in ["10.0.0.1", "127.0.0.1"] {
                    // Whom nobody trusts may send no such header at all.
                    if peer == "127.0.0.1" && !before.is_empty() {
                        continue;
                    }
                    let said =
                        [before, &handshake(path, lines).replace("chat.example.com", "localhost")].concat();
                    assert_eq!(say_from(limits(), peer, &said).0, !is_proxied, "{said}");
                    let meant = ShardLimits { reach: Reach::Anywhere, ..limits() };
                    assert!(say_from(meant, peer, &said).0, "{said}");
                }
            }
        }
        let mut shard = shard(limits());
        let said = handshake("/ws", "Via: 1.1 proxy\r\n");
        assert!(!say(&mut shard, FourTuple::new(LOCAL, "127.0.0.1:1".parse().unwrap()), &said).0);
        assert_eq!((shard.counters.refused_proxied_total, shard.counters.handshakes_failed_total), (1, 1));
        assert_eq!(shard.counters.refused_origins_total, 0);
        // As a name of the network it may be reached from anywhere.
        assert!(!say_from(limits(), "127.0.0.1", &handshake("/ws", "")).0);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let own = "Origin: https://chat.example.com\r\n";
        let other = "Origin: https://evil.com\r\n";
        let forwarded = "X-Forwarded-Host: public.example.com, inner\r\nX-Forwarded-Host: chat.example.com\r\n\
                         Origin: https://public.example.com\r\n";
        for (origins, peer, lines, expected) in [
            (&[][..], "192.0.2.1", "", true),
            (&[], "192.0.2.1", own, true),
            (&[], "192.0.2.1", other, false),
            (&[], "192.0.2.1", "Origin: null\r\n", false),
            (&[], "192.0.2.1", "Origin:\r\n", false),
            (&[], "192.0.2.1", "Origin: \u{ff}\r\n", false),
            (&[], "192.0.2.1", &[own, own].concat(), false),
            (&[], "192.0.2.1", &[own, other].concat(), false),
            (&["https://evil.com"], "192.0.2.1", other, true),
            (&["https://evil.com"], "192.0.2.1", own, true),
            (&["https://evil.com"], "192.0.2.1", &[other, other].concat(), false),
            (&["https://a.com", "https://*.b.com"], "192.0.2.1", "Origin: https://x.b.com\r\n", true),
            (&["*"], "192.0.2.1", "Origin: null\r\n", true),
            (&["*"], "192.0.2.1", &[other, own].concat(), true),
            // Only a trusted proxy says which host the browser asked for.
            (&[], "192.0.2.1", forwarded, false),
            (&[], "10.0.0.1", forwarded, true),
            (
                &[],
                "10.0.0.1",
                "X-Forwarded-Host: public.example.com\r\nOrigin: https://chat.example.com\r\n",
                false,
            ),
        ] {
            let limits = ShardLimits {
                origins: origins.iter().map(|text| OriginPattern::parse(text).unwrap()).collect(),
                ..behind_proxies(None)
            };
            for path in ["/ws", "/echo"] {
                let is_open = say_from(limits.clone(), peer, &handshake(path, lines)).0;
                assert_eq!(is_open, expected, "{origins:?} {peer} {lines}");
            }
        }
        let mut shard = shard(behind_proxies(None));
        let tuple = FourTuple::new(LOCAL, "192.0.2.1:1".parse().unwrap());
        assert!(!say(&mut shard, tuple, &handshake("/ws", other)).0);
        assert_eq!((shard.counters.refused_origins_total, shard.counters.handshakes_failed_total), (1, 1));
    }

    /// Lines by which somebody may try to be another: right ones, and what is near them.
    fn lies() -> impl Strategy<Value = String> {
        let name = prop::sample::select(
            &[
                "X-Forwarded-For",
                "x-forwarded-for",
                "Forwarded",
                "X-Real-IP",
                "X-Forwarded-Host",
                "Via",
                "True-Client-IP",
            ][..],
        );
        let value = prop_oneof![
            prop::sample::select(
                &[
                    "203.0.113.66",
                    "10.0.0.66",
                    "203.0.113.66, 10.0.0.66",
                    "for=203.0.113.66",
                    "for=\"203.0.113.66",
                    "[::1]",
                    "for=203.0.113.66;x=\"",
                    "unknown",
                    "",
                    ",",
                    "10.0.0.66,",
                    "0.0.0.66",
                    "\\",
                    "for=10.0.0.66, for=_a",
                ][..],
            )
            .prop_map(str::to_owned),
            "[ -~]{0,30}",
        ];
        let line = (name, value).prop_map(|(name, value)| format!("{name}: {value}\r\n"));
        prop::collection::vec(line, 0..4).prop_map(|lines| lines.concat())
    }

    /// Addresses that are no trusted proxy's, and no Unix socket's.
    fn strangers() -> impl Strategy<Value = IpAddr> {
        let any =
            prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u16; 8]>().prop_map(IpAddr::from)];
        any.prop_map(|address| address.to_canonical()).prop_filter("a proxy", |address| {
            let trusted: Vec<_> = TRUSTED.iter().map(|network| network.parse().unwrap()).collect();
            !crate::conn::handshake::is_trusted(*address, &trusted)
        })
    }

    fn headers() -> impl Strategy<Value = Option<ClientHeader>> {
        prop::sample::select(&[None, Some(ClientHeader::XForwardedFor), Some(ClientHeader::Forwarded)][..])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn a_stranger_cannot_change_its_address(
            peer in strangers(), lines in lies(), is_announced in any::<bool>(), header in headers(),
        ) {
            let before = if is_announced { "PROXY TCP4 203.0.113.66 10.0.0.1 1 80\r\n" } else { "" };
            let said = [before, &handshake("/ws", &lines)].concat();
            let tuple = FourTuple::new(LOCAL, SocketAddr::new(peer, 40_000));
            let (is_open, client) = say(&mut shard(behind_proxies(header)), tuple, &said);
            prop_assert_eq!(client, Some(peer));
            prop_assert_eq!(is_open, !is_announced, "{}", said);
        }

        /// Proxies add what they see: in a line of their own, or behind what the client wrote.
        #[test]
        fn a_stranger_behind_proxies_cannot_change_its_address(
            client in strangers(), lines in lies(), lie in "[ -~]{0,30}", is_own_line in any::<bool>(),
            is_forwarded in any::<bool>(), proxies in 0..3usize, is_announced in any::<bool>(),
        ) {
            let (name, header) = if is_forwarded {
                ("Forwarded", Some(ClientHeader::Forwarded))
            } else {
                ("X-Forwarded-For", None)
            };
            let hop = |address: IpAddr| match (is_forwarded, address) {
                (true, IpAddr::V6(address)) => format!("for=\"[{address}]:1\""),
                (true, address) => format!("for={address}"),
                (false, address) => address.to_string(),
            };
            let mut hops = vec![hop(client)];
            hops.extend((0..proxies).map(|_| hop("2001:db8:1::5".parse().unwrap())));
            let own = if is_own_line { format!("{lie}\r\n{name}: ") } else { format!("{lie}, ") };
            let lines = format!("{lines}{name}: {own}{}\r\n", hops.join(", "));
            let before = if is_announced { "PROXY TCP4 10.0.0.9 10.0.0.1 1 80\r\n" } else { "" };
            let said = [before, &handshake("/ws", &lines)].concat();
            let tuple = FourTuple::new(LOCAL, "10.0.0.1:40000".parse().unwrap());
            let found = say(&mut shard(behind_proxies(header)), tuple, &said);
            prop_assert_eq!(found, (true, Some(client)), "{}", said);
        }

        /// However the bytes come, they mean the same.
        #[test]
        fn a_cut_changes_nothing(lines in lies(), origin in "[ -~]{0,20}", cut in any::<prop::sample::Index>()) {
            let lines = format!("{lines}Origin: https://chat.example.com{origin}\r\n");
            let said = ["PROXY TCP4 10.0.0.9 10.0.0.1 1 80\r\n", &handshake("/ws", &lines)].concat();
            let tuple = FourTuple::new(LOCAL, "10.0.0.1:40000".parse().unwrap());
            let whole = say(&mut shard(behind_proxies(None)), tuple.clone(), &said);
            let mut shard = shard(behind_proxies(None));
            let key = shard.open(tuple, Framing::WebSocket, Tick(0)).unwrap();
            let (first, rest) = said.split_at(cut.index(said.len()));
            for part in [first, rest] {
                shard.receive(key, &mut part.as_bytes().to_vec(), Tick(0));
                shard.check();
            }
            let client = shard.connections.account_of(key.index, &shard.env.limits.trusted_proxies);
            prop_assert_eq!((shard.connections.phase(key.index) == Phase::Stomp, client), whole);
        }
    }
}
