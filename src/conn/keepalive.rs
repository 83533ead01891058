//! Heart-beats (STOMP 1.2, Heart-beating) as a function of time: what is due, and when to look again.
//!
//! A connection has one timer, and it is lazy: traffic only notes when it happened, and the timer asks here
//! when it fires.

use crate::time::Tick;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// A heart-beat must go out now; look again at the deadline.
    Beat(Tick),
    /// The peer promised to be heard and was not for this many ticks.
    Dead(u32),
    /// Look again at the deadline.
    Wait(Tick),
    /// No heart-beats were agreed.
    Never,
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

/// What is due for a connection with these agreed intervals (ticks) to and from the client.
pub fn due(beat_out: Option<u32>, beat_in: Option<u32>, sent: Tick, heard: Tick, now: Tick) -> Due {
    let silent = now.since(heard);
    if let Some(interval) = beat_in
        && silent >= dead_after(interval)
    {
        return Due::Dead(silent);
    }
    let dead_at = beat_in.map(|interval| Tick(heard.0.saturating_add(dead_after(interval))));
    match (beat_out.map(beat_after), dead_at) {
        (None, None) => Due::Never,
        (None, Some(dead_at)) => Due::Wait(dead_at),
        (Some(after), dead_at) => {
            let sooner = |beat_at: Tick| dead_at.map_or(beat_at, |dead_at| dead_at.min(beat_at));
            if now.since(sent) >= after {
                Due::Beat(sooner(Tick(now.0.saturating_add(after))))
            } else {
                Due::Wait(sooner(Tick(sent.0.saturating_add(after))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_silent_peer_at_one_second_is_dead_within_five() {
        assert!(dead_after(10) * Tick::MILLIS <= 5000);
        assert_eq!(due(None, Some(10), Tick(0), Tick(0), Tick(29)), Due::Wait(Tick(30)));
        assert_eq!(due(None, Some(10), Tick(0), Tick(0), Tick(30)), Due::Dead(30));
    }

    #[test]
    fn without_heart_beats_nothing_is_ever_due() {
        assert_eq!(due(None, None, Tick(0), Tick(0), Tick(1_000_000)), Due::Never);
    }

    proptest! {
        #[test]
        fn beats_keep_the_promise_and_the_timer_moves_on(out in 10u32..1000, now in 0u32..100_000) {
            // However late the timer fires, the next look is in the future and before the interval ends.
            match due(Some(out), None, Tick(0), Tick(0), Tick(now)) {
                Due::Beat(next) => prop_assert!(next.0 > now && next.0 < now + out),
                Due::Wait(next) => prop_assert!(next.0 > now && next.0 < out),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
