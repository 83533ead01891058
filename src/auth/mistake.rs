//! What is wrong with a file of users or of keys.
//!
//! Invariant: its text holds no part of a password hash or of a key.

use std::fmt;

/// Mistakes of one file that are told at most; who has more repairs these first.
const MISTAKES_MAX: usize = 16;

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1; 0 if it is the whole file.
    pub line: usize,
    /// What is wrong, and what is permitted.
    pub text: String,
}

impl Mistake {
    /// A mistake on a line.
    pub(super) fn on(line: usize, text: impl Into<String>) -> Mistake {
        Mistake { line, text: text.into() }
    }

    /// What was read, if nothing is wrong with it; the first mistakes otherwise.
    pub(super) fn none_of<T>(mut mistakes: Vec<Mistake>, read: T) -> Result<T, Vec<Mistake>> {
        mistakes.truncate(MISTAKES_MAX);
        if mistakes.is_empty() { Ok(read) } else { Err(mistakes) }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.text),
            line => write!(f, "line {line}: {}", self.text),
        }
    }
}
