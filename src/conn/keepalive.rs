//! Whether a peer is alive, as a function of time: heart-beats (STOMP 1.2, Heart-beating) and WebSocket pings
//! (RFC 6455 section 5.5.2): what is due, and when to look again.
//!
//! A connection has one timer, and it is lazy: traffic only notes when it happened, and the timer asks here
//! when it fires. The kernel's own mechanisms (TCP keep-alive and user timeout) need no timer here; this module
//! only names them.
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
        let ticks = |seconds: u32| seconds.saturating_mul(1000 / Tick::MILLIS);
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
    /// A ping was sent. It is unanswered if nothing was heard since.
    pub pinged: Tick,
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
    /// The peer had to be heard and was not.
    Dead {
        /// What found it.
        by: Mechanism,
        /// Ticks for which nothing was heard.
        silent: u32,
    },
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
    let Activity { sent, heard, pinged } = activity;
    let silent = now.since(heard);
    let later = |from: Tick, ticks: u32| Tick(from.0.saturating_add(ticks));
    let (mut beat, mut ping) = (false, false);

    let listen = match (rhythm.beat_in, rhythm.ping) {
        (Some(interval), _) => {
            if silent >= dead_after(interval) {
                return Due::Dead { by: Mechanism::StompHeartBeat, silent };
            }
            Some(later(heard, dead_after(interval)))
        }
        (None, Some(Ping { answer_within, .. })) if pinged > heard => {
            if now.since(pinged) >= answer_within {
                return Due::Dead { by: Mechanism::WsPing, silent };
            }
            Some(later(pinged, answer_within))
        }
        (None, Some(Ping { after, answer_within })) => {
            ping = silent >= after;
            Some(if ping { later(now, answer_within) } else { later(heard, after) })
        }
        (None, None) => None,
    };
    let speak = rhythm.beat_out.map(beat_after).map(|after| {
        beat = now.since(sent) >= after;
        later(if beat { now } else { sent }, after)
    });
    Due::Alive { beat, ping, next: listen.into_iter().chain(speak).min() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUIET: Activity = Activity { sent: Tick(0), heard: Tick(0), pinged: Tick(0) };
    const PING: Ping = Ping { after: 50, answer_within: 20 };

    fn waits(next: u32) -> Due {
        Due::Alive { beat: false, ping: false, next: Some(Tick(next)) }
    }

    #[test]
    fn a_silent_peer_at_one_second_is_dead_within_five() {
        assert!(dead_after(10) * Tick::MILLIS <= 5000);
        let rhythm = Rhythm { beat_in: Some(10), ..Rhythm::default() };
        assert_eq!(due(rhythm, QUIET, Tick(29)), waits(30));
        let dead = Due::Dead { by: Mechanism::StompHeartBeat, silent: 30 };
        assert_eq!(due(rhythm, QUIET, Tick(30)), dead);
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
            let pinging = Due::Alive { beat: false, ping: true, next: Some(Tick(now + 20)) };
            assert_eq!(due(rhythm, QUIET, Tick(now)), pinging);
        }
        let pinged = Activity { pinged: Tick(60), ..QUIET };
        assert_eq!(due(rhythm, pinged, Tick(79)), waits(80));
        let dead = Due::Dead { by: Mechanism::WsPing, silent: 80 };
        assert_eq!(due(rhythm, pinged, Tick(80)), dead);
        // An answer in the tick of the ping counts, and the silence begins anew.
        let answered = Activity { heard: Tick(60), ..pinged };
        assert_eq!(due(rhythm, answered, Tick(80)), waits(110));
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
            now in 0u32..100_000,
        ) {
            let ping = ping.map(|(after, answer_within)| Ping { after, answer_within });
            let rhythm = Rhythm { beat_out: Some(out), beat_in: None, ping };
            let activity = Activity { pinged: Tick(pinged.min(now)), ..QUIET };
            // However late the timer fires, the next look is in the future and before the interval ends.
            match due(rhythm, activity, Tick(now)) {
                Due::Alive { beat: true, next: Some(next), .. } => {
                    prop_assert!(next.0 > now && next.0 < now + out);
                }
                Due::Alive { beat: false, next: Some(next), .. } => {
                    prop_assert!(next.0 > now && next.0 < out);
                }
                Due::Dead { by, silent } => {
                    prop_assert_eq!((by, silent), (Mechanism::WsPing, now));
                    prop_assert!(now - pinged >= ping.unwrap().answer_within);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
