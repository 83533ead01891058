//! Sums that panic rather than wrap.

use std::fmt;
use std::marker::PhantomData;

/// What an [`Account`] counts.
pub trait Counted {
    /// Its name and unit, for the message of the panic: `bytes of queues`.
    const NAME: &'static str;
}

/// A sum that panics, in release builds as well, rather than wrap: a wrong sum is a bug, and a bound that is kept by a
/// wrong sum is none. It takes eight bytes; `N` says what it counts, so that two of them are not confused.
pub struct Account<N> {
    sum: u64,
    counted: PhantomData<fn() -> N>,
}

impl<N: Counted> Account<N> {
    /// An account with nothing on it.
    pub const fn new() -> Self {
        Account { sum: 0, counted: PhantomData }
    }

    /// What is on it.
    pub const fn get(&self) -> u64 {
        self.sum
    }

    /// Whether nothing is on it.
    pub const fn is_zero(&self) -> bool {
        self.sum == 0
    }

    /// Puts `amount` on it.
    ///
    /// # Panics
    /// When the sum exceeds [`u64::MAX`].
    #[inline]
    #[track_caller]
    pub fn add(&mut self, amount: u64) {
        match self.sum.checked_add(amount) {
            Some(sum) => self.sum = sum,
            None => panic!("{}: {} and {amount} more exceed u64", N::NAME, self.sum),
        }
    }

    /// Takes `amount` off it.
    ///
    /// # Panics
    /// When less than that is on it.
    #[inline]
    #[track_caller]
    pub fn remove(&mut self, amount: u64) {
        match self.sum.checked_sub(amount) {
            Some(sum) => self.sum = sum,
            None => panic!("{}: {amount} are taken off {}", N::NAME, self.sum),
        }
    }
}

impl<N: Counted> Default for Account<N> {
    fn default() -> Self {
        Account::new()
    }
}

impl<N: Counted> fmt::Debug for Account<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.sum, N::NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Apples;

    impl Counted for Apples {
        const NAME: &'static str = "apples";
    }

    #[test]
    fn an_account_takes_eight_bytes_and_keeps_a_sum() {
        let mut account = Account::<Apples>::new();
        assert_eq!(size_of_val(&account), 8);
        account.add(5);
        account.remove(3);
        assert_eq!(account.get(), 2);
        account.remove(2);
        assert!(account.is_zero());
    }

    #[test]
    #[should_panic(expected = "apples: 3 are taken off 2")]
    fn an_account_does_not_go_below_nothing() {
        let mut account = Account::<Apples>::new();
        account.add(2);
        account.remove(3);
    }

    #[test]
    #[should_panic(expected = "apples: 18446744073709551615 and 1 more exceed u64")]
    fn an_account_does_not_wrap() {
        let mut account = Account::<Apples>::new();
        account.add(u64::MAX);
        account.add(1);
    }
}
