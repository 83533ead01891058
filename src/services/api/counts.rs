//! What the API counts, for the metrics.
//!
//! Invariant: each number only grows.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request, or a connection, was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No token, or a wrong one.
    Token,
    /// `api.connections_max`.
    Connections,
    /// `api.requests_max`.
    Requests,
    /// `api.request_timeout_ms`.
    Timeout,
    /// `api.body_bytes_max`.
    Body,
    /// `api.batch_messages_max`.
    Batch,
    /// `api.page_entries_max`.
    Page,
    /// `api.bans_max`.
    Bans,
    /// `api.idempotency_keys_max`: the oldest key was forgotten before its time.
    Keys,
}

impl Refusal {
    /// All, with the words that the metrics have for them.
    pub const WORDS: [(Refusal, &str); 9] = [
        (Refusal::Token, "token"),
        (Refusal::Connections, "connections"),
        (Refusal::Requests, "requests"),
        (Refusal::Timeout, "timeout"),
        (Refusal::Body, "body"),
        (Refusal::Batch, "batch"),
        (Refusal::Page, "page"),
        (Refusal::Bans, "bans"),
        (Refusal::Keys, "keys"),
    ];
}

/// See the module.
#[derive(Debug, Default)]
pub struct Counts {
    /// By the first digit of the status, from 2 on.
    answered: [AtomicU64; 4],
    published: AtomicU64,
    repeated: AtomicU64,
    refused: [AtomicU64; Refusal::WORDS.len()],
}

/// Relaxed: each number stands for itself.
const ORDER: Ordering = Ordering::Relaxed;

impl Counts {
    pub(super) fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.answered[class].fetch_add(1, ORDER);
    }

    pub(super) fn published(&self, messages: u64) {
        self.published.fetch_add(messages, ORDER);
    }

    pub(super) fn repeated(&self) {
        self.repeated.fetch_add(1, ORDER);
    }

    pub(super) fn refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, ORDER);
    }

    /// Requests that were answered, by the class of their status.
    pub fn requests(&self) -> [(&'static str, u64); 4] {
        let classes = ["2xx", "3xx", "4xx", "5xx"];
        std::array::from_fn(|at| (classes[at], self.answered[at].load(ORDER)))
    }

    /// Messages that have their place.
    pub fn published_total(&self) -> u64 {
        self.published.load(ORDER)
    }

    /// Requests that repeated one with their Idempotency-Key, and had its answer.
    pub fn repeated_total(&self) -> u64 {
        self.repeated.load(ORDER)
    }

    /// What was refused, by why.
    pub fn refusals(&self) -> [(&'static str, u64); Refusal::WORDS.len()] {
        Refusal::WORDS.map(|(why, word)| (word, self.refused[why as usize].load(ORDER)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_place_of_its_own() {
        let counts = Counts::default();
        for (at, (why, _)) in Refusal::WORDS.into_iter().enumerate() {
            assert_eq!(why as usize, at);
            (0..=at).for_each(|_| counts.refused(why));
        }
        assert!(counts.refusals().into_iter().map(|(_, count)| count).eq(1..=9));
        [200, 202, 404, 503].into_iter().for_each(|status| counts.answered(status));
        assert_eq!(counts.requests().map(|(_, count)| count), [2, 0, 1, 1]);
    }
}
