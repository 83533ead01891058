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
