//! The timing wheel with a million keys.

use std::hint::black_box;

use tcbchat::time::{Tick, Wheel};

use crate::scattered;

/// Keys of a wheel.
pub const KEYS: u32 = 1_000_000;
/// `turn.timers_max` of the server.
pub const BUDGET: usize = 4_096;
/// 10 s, as a heart-beat.
pub const AHEAD: u32 = 100;

/// All keys armed, each at what `deadline` says.
pub fn armed(mut deadline: impl FnMut(u32) -> u32) -> Wheel {
    let mut wheel = Wheel::with_capacity(Tick(0), KEYS as usize);
    for key in 0..KEYS {
        wheel.arm(key, Tick(deadline(key)));
    }
    wheel
}

/// All keys armed, at deadlines spread over [`AHEAD`].
#[must_use]
pub fn armed_ahead() -> Wheel {
    let mut deadline = scattered(AHEAD);
    armed(|_| 1 + deadline())
}

/// Gives one key of a wheel another deadline, all of them within `range` ticks.
pub fn arm_again(range: u32) -> impl FnMut() {
    let mut deadline = scattered(range);
    let mut wheel = armed(|_| 1 + deadline());
    let mut key = scattered(KEYS);
    move || wheel.arm(key(), Tick(1 + deadline()))
}

/// The same in two steps.
pub fn cancel_and_arm(range: u32) -> impl FnMut() {
    let mut deadline = scattered(range);
    let mut wheel = armed(|_| 1 + deadline());
    let mut key = scattered(KEYS);
    move || {
        let key = key();
        black_box(wheel.cancel(key));
        wheel.arm(key, Tick(1 + deadline()));
    }
}

/// Fires everything that is due at `now`, in turns of the server's budget.
pub fn expire(wheel: &mut Wheel, now: Tick, fired: &mut Vec<u32>) {
    while wheel.expire(now, BUDGET, fired) {
        fired.clear();
    }
}
