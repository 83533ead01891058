//! Whether a peer is alive, as a function of time: heart-beats (STOMP 1.2, Heart-beating) and WebSocket pings
//! (RFC 6455 section 5.5.2): what is due, and when to look again.
//!
//! A connection has one timer, and it is lazy: traffic only notes when it happened, and the timer asks here
//! when it fires. The kernel's own mechanisms (TCP keep-alive and user timeout) need no timer here; this module
//! only names them.
//!
//! Silence that has lasted too long makes a peer suspect and no more: this module knows nothing of sockets. What
//! decides then is in [`suspects`](crate::conn::suspects).
//!
//! Invariant: the next look is in the future, so that a timer never fires twice in a tick.

use crate::limits;
use crate::time::Tick;

/// What can find out that a peer is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// The kernel's probes of a silent connection were not answered (RFC 9293 section 3.8.4).
    TcpKeepAlive,
    /// What was sent was not acknowledged, or not taken, within `keepalive.user_timeout_ms` (RFC 5482).
    TcpUserTimeout,
    /// The same, until the kernel's own patience was over (`net.ipv4.tcp_retries2`).
    TcpRetransmission,
    /// A WebSocket ping was not answered.
    WsPing,
    /// The heart-beats that the client promised did not come.
    StompHeartBeat,
}

impl Mechanism {
    /// The name that documentation, metrics and logs use.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::TcpKeepAlive => "tcp_keep_alive",
            Mechanism::TcpUserTimeout => "tcp_user_timeout",
            Mechanism::TcpRetransmission => "tcp_retransmission",
            Mechanism::WsPing => "ws_ping",
            Mechanism::StompHeartBeat => "stomp_heart_beat",
        }
    }
}

/// What a connection's life shows by: intervals in ticks, `None` where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rhythm {
    /// The server has promised a beat this often.
    pub beat_out: Option<u32>,
    /// The client has.
    pub beat_in: Option<u32>,
    /// The client is pinged when it was silent for so long; not if it has promised beats.
    pub ping: Option<Ping>,
}

/// How a client is pinged, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Silence after which it is.
    pub after: u32,
    /// Time to answer.
    pub answer_within: u32,
}

impl Ping {
    /// As configured; `None` if pings are off.
    pub fn configured(limits: &limits::KeepAlive) -> Option<Ping> {
        // Both are at most a day (`limits.rs`).
        let ticks = |seconds: u32| seconds * (1000 / Tick::MILLIS);
        (limits.ws_ping_interval_s > 0).then(|| Ping {
            after: ticks(limits.ws_ping_interval_s),
            answer_within: ticks(limits.ws_pong_timeout_s),
        })
    }
}

/// When a connection was last active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Bytes were handed to the socket.
    pub sent: Tick,
    /// Bytes came.
    pub heard: Tick,
    /// The last ping was sent. It is unanswered if nothing was heard since.
    pub pinged: Tick,
    /// The first of the pings that are unanswered was sent; the same as `pinged` if there is one, or none.
    pub pinged_first: Tick,
    /// The server was back, the last time that it was away: silence before that proves nothing.
    pub back: Tick,
}

impl Activity {
    /// Whether a ping waits for its answer.
    pub fn is_pinged(&self) -> bool {
        self.pinged > self.heard
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The peer lives, as far as is known.
    Alive {
        /// A heart-beat must go out now.
        beat: bool,
        /// A ping must.
        ping: bool,
        /// When to look again; `None`: never.
        next: Option<Tick>,
    },
    /// The peer had to be heard and was not: the socket must be asked before it is called dead.
    Suspect(Suspicion),
}

/// A peer that was silent for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suspicion {
    /// What it has missed.
    pub by: Mechanism,
    /// Ticks for which nothing was heard.
    pub silent: u32,
    /// Ticks that it has to show itself once nothing holds it up.
    pub patience: u32,
    /// A heart-beat must go out now: until the verdict the server keeps its own promise.
    pub beat: bool,
    /// When the next heart-beat may be due; `None`: never.
    pub next_beat: Option<Tick>,
}

/// Ticks after the last byte sent at which a beat goes out: early enough to arrive within the interval, by a
/// quarter of it but no more than a second.
fn beat_after(interval: u32) -> u32 {
    (interval - (interval / 4).min(1000 / Tick::MILLIS)).max(1)
}

/// Ticks of silence after which a peer that promised a beat every `interval` is dead: it may miss one, and be
/// late by a second.
pub fn dead_after(interval: u32) -> u32 {
    interval * 2 + 1000 / Tick::MILLIS
}

/// What is due at `now`.
pub fn due(rhythm: Rhythm, activity: Activity, now: Tick) -> Due {
    let Activity { sent, heard, pinged, pinged_first, back } = activity;
    let silent = now.since(heard);
    // Saturates where the clock does.
    let later = |from: Tick, ticks: u32| Tick(from.0.saturating_add(ticks));
    let mut beat = false;
    let next_beat = rhythm.beat_out.map(beat_after).map(|after| {
        beat = now.since(sent) >= after;
        later(if beat { now } else { sent }, after)
    });
    let suspect = |by, patience| Due::Suspect(Suspicion { by, silent, patience, beat, next_beat });

    let mut ping = false;
    let listen = match (rhythm.beat_in, rhythm.ping) {
        (Some(interval), _) => {
            let patience = dead_after(interval);
            let since = heard.max(back);
            if now.since(since) >= patience {
                return suspect(Mechanism::StompHeartBeat, patience);
            }
            Some(later(since, patience))
        }
        (None, Some(Ping { after, answer_within })) => {
            let is_pinged = activity.is_pinged();
            let waiting_since = pinged_first.max(back);
            if is_pinged && now.since(waiting_since) >= answer_within {
                return suspect(Mechanism::WsPing, answer_within);
            }
            let last = pinged.max(heard);
            ping = now.since(last) >= after;
            let next_ping = later(if ping { now } else { last }, after);
            // The time to answer begins with the first ping that has no answer, however late that was sent.
            let answer_by = match (is_pinged, ping) {
                (true, _) => Some(later(waiting_since, answer_within)),
                (false, true) => Some(later(now, answer_within)),
                (false, false) => None,
            };
            Some(answer_by.map_or(next_ping, |answer_by| answer_by.min(next_ping)))
        }
        (None, None) => None,
    };
    Due::Alive { beat, ping, next: listen.into_iter().chain(next_beat).min() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUIET: Activity =
        Activity { sent: Tick(0), heard: Tick(0), pinged: Tick(0), pinged_first: Tick(0), back: Tick(0) };
    const PING: Ping = Ping { after: 50, answer_within: 20 };

    fn waits(next: u32) -> Due {
        Due::Alive { beat: false, ping: false, next: Some(Tick(next)) }
    }

    fn pings(next: u32) -> Due {
        Due::Alive { beat: false, ping: true, next: Some(Tick(next)) }
    }

    fn suspect(by: Mechanism, silent: u32, patience: u32) -> Due {
        Due::Suspect(Suspicion { by, silent, patience, beat: false, next_beat: None })
    }

    #[test]
    fn a_silent_peer_at_one_second_is_suspect_within_five() {
        assert!(dead_after(10) * Tick::MILLIS <= 5000);
        let rhythm = Rhythm { beat_in: Some(10), ..Rhythm::default() };
        assert_eq!(due(rhythm, QUIET, Tick(29)), waits(30));
        assert_eq!(due(rhythm, QUIET, Tick(30)), suspect(Mechanism::StompHeartBeat, 30, 30));
    }

    #[test]
    fn a_suspect_is_owed_the_beats_that_were_promised() {
        let rhythm = Rhythm { beat_in: Some(10), beat_out: Some(40), ping: None };
        let at = |now, sent| match due(rhythm, Activity { sent: Tick(sent), ..QUIET }, Tick(now)) {
            Due::Suspect(Suspicion { beat, next_beat: Some(next), .. }) => (beat, next),
            other => panic!("{other:?}"),
        };
        assert_eq!(at(31, 30), (false, Tick(60)));
        assert_eq!(at(31, 1), (true, Tick(61)));
    }

    #[test]
    fn silence_before_the_server_was_back_proves_nothing() {
        let back = Activity { back: Tick(1000), ..QUIET };
        let beats = Rhythm { beat_in: Some(10), ..Rhythm::default() };
        assert_eq!(due(beats, back, Tick(1000)), waits(1030));
        assert_eq!(due(beats, back, Tick(1030)), suspect(Mechanism::StompHeartBeat, 1030, 30));
        // Pings are late already, and go out at once; what they wait for begins again.
        let rhythm = Rhythm { ping: Some(PING), ..Rhythm::default() };
        assert_eq!(due(rhythm, back, Tick(1000)), pings(1020));
        let pinged = Activity { pinged: Tick(60), pinged_first: Tick(60), ..back };
        assert_eq!(due(rhythm, pinged, Tick(1000)), pings(1020));
        let pinged = Activity { pinged: Tick(1000), ..pinged };
        assert_eq!(due(rhythm, pinged, Tick(1019)), waits(1020));
        assert_eq!(due(rhythm, pinged, Tick(1020)), suspect(Mechanism::WsPing, 1020, 20));
    }

    #[test]
    fn with_nothing_agreed_nothing_is_ever_due() {
        let never = Due::Alive { beat: false, ping: false, next: None };
        assert_eq!(due(Rhythm::default(), QUIET, Tick(1_000_000)), never);
    }

    #[test]
    fn a_ping_goes_out_after_the_silence_and_waits_for_any_answer() {
        let rhythm = Rhythm { ping: Some(PING), ..Rhythm::default() };
        assert_eq!(due(rhythm, QUIET, Tick(49)), waits(50));
        // However late the timer fires: the time to answer begins with the ping.
        for now in [50, 51, 5000] {
            assert_eq!(due(rhythm, QUIET, Tick(now)), pings(now + 20));
        }
        let pinged = Activity { pinged: Tick(60), pinged_first: Tick(60), ..QUIET };
        assert_eq!(due(rhythm, pinged, Tick(79)), waits(80));
        assert_eq!(due(rhythm, pinged, Tick(80)), suspect(Mechanism::WsPing, 80, 20));
        // An answer in the tick of the ping counts, and the silence begins anew.
        let answered = Activity { heard: Tick(60), ..pinged };
        assert_eq!(due(rhythm, answered, Tick(80)), waits(110));
    }

    #[test]
    fn an_interval_is_kept_when_the_answer_may_take_longer() {
        let ping = Ping { after: 20, answer_within: 100 };
        let rhythm = Rhythm { ping: Some(ping), ..Rhythm::default() };
        // Who answers is pinged again after each interval of silence.
        let answered = Activity { heard: Tick(20), pinged: Tick(20), pinged_first: Tick(20), ..QUIET };
        assert_eq!(due(rhythm, answered, Tick(39)), waits(40));
        assert_eq!(due(rhythm, answered, Tick(40)), pings(60));
        // Who does not is as well, and its time runs from the first of these pings.
        let mut activity = QUIET;
        let mut sent = Vec::new();
        let mut now = Tick(20);
        let silent = loop {
            match due(rhythm, activity, now) {
                Due::Alive { ping, next, .. } => {
                    if ping {
                        let is_first = !activity.is_pinged();
                        activity.pinged = now;
                        activity.pinged_first = if is_first { now } else { activity.pinged_first };
                        sent.push(now.0);
                    }
                    now = next.expect("pings are on");
                }
                Due::Suspect(suspicion) => break suspicion.silent,
            }
        };
        assert_eq!((sent, silent), (vec![20, 40, 60, 80, 100], 120));
    }

    #[test]
    fn who_promised_beats_is_not_pinged() {
        let rhythm = Rhythm { beat_in: Some(100), ping: Some(PING), beat_out: None };
        assert_eq!(due(rhythm, QUIET, Tick(60)), waits(210));
        // Who only asked for beats is.
        let rhythm = Rhythm { beat_in: None, ping: Some(PING), beat_out: Some(40) };
        let both = Due::Alive { beat: true, ping: true, next: Some(Tick(80)) };
        assert_eq!(due(rhythm, QUIET, Tick(60)), both);
    }

    #[test]
    fn pings_are_configured_in_seconds() {
        let mut limits = limits::KeepAlive::default();
        assert_eq!(Ping::configured(&limits), None);
        limits.ws_ping_interval_s = 5;
        limits.ws_pong_timeout_s = 2;
        assert_eq!(Ping::configured(&limits), Some(PING));
    }

    proptest! {
        #[test]
        fn beats_keep_the_promise_and_the_timer_moves_on(
            out in 10u32..1000,
            ping in proptest::option::of((1u32..1000, 1u32..1000)),
            pinged in 0u32..1000,
            before in 0u32..1000,
            now in 0u32..100_000,
        ) {
            let ping = ping.map(|(after, answer_within)| Ping { after, answer_within });
            let rhythm = Rhythm { beat_out: Some(out), beat_in: None, ping };
            let pinged = Tick(pinged.min(now));
            let pinged_first = Tick(pinged.0.saturating_sub(before).max(pinged.0.min(1)));
            let activity = Activity { pinged, pinged_first, ..QUIET };
            // However late the timer fires, the next look is in the future and before the interval ends.
            match due(rhythm, activity, Tick(now)) {
                Due::Alive { beat: true, next: Some(next), .. } => {
                    prop_assert!(next.0 > now && next.0 < now + out);
                }
                Due::Alive { beat: false, next: Some(next), .. } => {
                    prop_assert!(next.0 > now && next.0 < out);
                }
                Due::Suspect(Suspicion { by, silent, patience, beat, next_beat }) => {
                    prop_assert_eq!((by, silent), (Mechanism::WsPing, now));
                    prop_assert_eq!(patience, ping.unwrap().answer_within);
                    prop_assert!(now - pinged_first.0 >= patience);
                    let next = next_beat.unwrap();
                    let from = if beat { now } else { 0 };
                    prop_assert!(next.0 > now && next.0 < from + out);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn an_interval_of_silence_never_ends_without_a_ping(
            after in 1u32..100,
            answer_within in 1u32..100,
            late in proptest::collection::vec(0u32..5, 1..200),
        ) {
            let rhythm = Rhythm { ping: Some(Ping { after, answer_within }), ..Rhythm::default() };
            let (mut activity, mut due_at) = (QUIET, Tick(after));
            for late in late {
                let now = Tick(due_at.0 + late);
                match due(rhythm, activity, now) {
                    Due::Alive { ping, next, .. } => {
                        if ping {
                            activity.pinged_first =
                                if activity.is_pinged() { activity.pinged_first } else { now };
                            activity.pinged = now;
                        }
                        due_at = next.unwrap();
                        prop_assert!(due_at > now && due_at.0 <= activity.pinged.0 + after);
                        prop_assert!(due_at.0 <= activity.pinged_first.0 + answer_within);
                    }
                    Due::Suspect(Suspicion { silent, .. }) => {
                        prop_assert!(now.since(activity.pinged_first) >= answer_within);
                        prop_assert_eq!(silent, now.since(activity.heard));
                        // It is heard after all.
                        activity.heard = now;
                        due_at = Tick(now.0 + after);
                        activity.pinged = now;
                        activity.pinged_first = now;
                    }
                }
            }
        }
    }
}
