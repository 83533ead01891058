//! Shared bounds: who holds how much, and who is to give way when it gets scarce.
//!
//! [`Account`] is a number that cannot wrap. [`Holdings`] counts what each holder has of one bound of one shard, and
//! [`Shares`] what each of their sessions has, and knows the worst of them. [`admits`] is the rule by which a holder
//! gets more of a bound.
//!
//! This module refuses nothing and ends nobody: it answers questions, and its user acts. It knows no connections:
//! sessions and holders are values that can be hashed.

mod account;
mod holdings;
mod ranks;
mod shares;

pub use account::{Account, Counted};
pub use holdings::Holdings;
pub use shares::Shares;

/// Whether `total` is above three quarters of `max`. Below that, nobody is judged.
pub const fn is_scarce(total: u64, max: u64) -> bool {
    total > max - max / 4
}

/// Whether a holder that has `held` of the `total` may have `amount` more of a bound of `max`.
///
/// Until the total is above three quarters of the bound: yes. Above: if the holder then has no more than what is then
/// still free. So one holder alone stops at three quarters; the next gets half of what is left, and there is always
/// something left for one more. Where `n` holders use as much as they can from the start, each gets `max / (n + 1)`.
/// The total never exceeds the bound.
pub const fn admits(total: u64, held: u64, amount: u64, max: u64) -> bool {
    let Some(total) = total.checked_add(amount) else { return false };
    if !is_scarce(total, max) {
        return true;
    }
    match max.checked_sub(total) {
        Some(free) => held.saturating_add(amount) <= free,
        None => false,
    }
}

/// Who takes a place may always have this part of all of them.
const PLACES_PART: u64 = 256;

/// Whether a place more would be above the share of somebody who has `held` of the `taken` of `max` places: more than
/// `percent` of them are taken then, and he would have more than are free, and more than a 256th of all. Nobody is judged for
/// a first place, and nobody who has one ever loses it.
pub const fn is_above_share(taken: u64, held: u64, max: u64, percent: u32) -> bool {
    let (taken, held) = (taken.saturating_add(1), held.saturating_add(1));
    // Where nothing is free there is nothing to share.
    if taken > max || taken.saturating_mul(100) <= max.saturating_mul(percent as u64) {
        return false;
    }
    let free = max - taken;
    held > free && held > max / PLACES_PART && held > 1
}

/// Names what [`Holdings`] and [`Shares`] sum up.
#[derive(Debug)]
struct Held;

impl Counted for Held {
    const NAME: &'static str = "bytes of a shared bound";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_stops_at_three_quarters_and_each_next_one_finds_room() {
        let mut total = 0;
        let mut got = Vec::new();
        for _ in 0..7 {
            let mut held = 0;
            while admits(total, held, 1, 1_000) {
                held += 1;
                total += 1;
            }
            got.push(held);
        }
        assert_eq!(got, [750, 125, 62, 31, 16, 8, 4]);
        assert!(!admits(total, 0, 5, 1_000));
    }

    #[test]
    fn places_are_left_for_those_who_have_few() {
        let mut taken = 0;
        let mut got = Vec::new();
        for _ in 0..7 {
            let mut held = 0;
            while taken < 10_000 && !is_above_share(taken, held, 10_000, 87) {
                held += 1;
                taken += 1;
            }
            got.push(held);
        }
        assert_eq!(got, [8_700, 650, 325, 162, 81, 41, 39]);
        assert!(!is_above_share(9_999, 0, 10_000, 87) && !is_above_share(9_999, 38, 10_000, 87));
        assert!(is_above_share(9_999, 39, 10_000, 87));
        assert!(!is_above_share(9_999, 9_000, 10_000, 100), "it is switched off");
        assert!(!is_above_share(10_000, 9_000, 10_000, 87), "it is full");
        assert!(is_above_share(0, 1, 2, 0) && !is_above_share(1, 0, 2, 0));
    }

    #[test]
    fn holders_who_fill_a_bound_together_get_the_same() {
        let mut held = [0u64; 9];
        while let Some(next) = (0..9).find(|who| admits(held.iter().sum(), held[*who], 1, 1_000)) {
            // Round and round.
            let least = (0..9).min_by_key(|who| held[*who]).unwrap_or(next);
            held[least] += 1;
        }
        assert_eq!(held, [100; 9]);
    }
}
