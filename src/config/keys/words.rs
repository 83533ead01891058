//! The words that keys take, and what each stands for.
//!
//! Where another module has a type for it, the words are a list of pairs; else they are declared with a type of their own.
//!
//! Invariant: the words of such a list are those that the catalogue permits, in its order (a test of [`super`] holds it).

use crate::auth::Mode;
use crate::message::fault::Refusals;
use crate::tcb::time_wait::Reuse;
use crate::wire::http::ClientHeader;

/// Declares an enum whose variants are the words of a key.
macro_rules! words {
    ( $( $(#[$meta:meta])* $name:ident { $( $(#[$doc:meta])* $variant:ident = $word:literal, )+ } )+ ) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[$doc])* $variant, )+ }

        impl $name {
            /// The words that the configuration uses.
            pub const WORDS: &'static [&'static str] = &[ $( $word, )+ ];

            /// The word of a variant.
            pub fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }

            /// The variant of a word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $( $word => Some(Self::$variant), )+ _ => None }
            }
        }
    )+ };
}

/// The words of `tcb.time_wait_reuse`, which the TCB table has a type for.
pub const TIME_WAIT_REUSE: &[(&str, Reuse)] =
    &[("never", Reuse::Never), ("older-than-60s", Reuse::OlderThan60s), ("peer-differs", Reuse::PeerDiffers)];

/// The words of `http.client_header`.
pub const CLIENT_HEADERS: &[(&str, ClientHeader)] =
    &[("x-forwarded-for", ClientHeader::XForwardedFor), ("forwarded", ClientHeader::Forwarded)];

/// The words of `stomp.refusals`.
pub const REFUSALS: &[(&str, Refusals)] = &[("error", Refusals::Error), ("message", Refusals::Message)];

/// The words of `auth.mode`.
pub const AUTH_MODES: &[(&str, Mode)] =
    &[("open", Mode::Open), ("users", Mode::Users), ("jwt", Mode::Jwt), ("http", Mode::Http)];

/// What a word of such a list stands for.
pub fn of_word<T: Copy>(words: &[(&str, T)], word: Option<&str>) -> Option<T> {
    words.iter().find(|(known, _)| Some(*known) == word).map(|(_, value)| *value)
}

words! {
    /// `ops.metrics`: who is answered on `/metrics`.
    MetricsAccess {
        /// Callers on this machine that did not come through a proxy.
        Loopback = "loopback",
        /// Everyone.
        All = "all",
        /// Nobody.
        Off = "off",
    }
    /// `log.level`: the least important messages that are logged.
    LogLevel {
        /// Nothing.
        Off = "off",
        /// What ends the process or loses data.
        Error = "error",
        /// What an operator should look at.
        Warn = "warn",
        /// Start, readiness, stop.
        Info = "info",
        /// Every connection.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
    /// `log.format`: how messages are written.
    LogFormat {
        /// Lines for people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
    /// `drain.goodbye`: what clients are told at the end.
    Goodbye {
        /// Close code 1001.
        GoingAway = "going-away",
        /// Close code 1012.
        Restart = "restart",
    }
    /// `log.ready_line`: what standard output says when the server is ready.
    ReadyLine {
        /// A line in the format of the log.
        AsLog = "as-log",
        /// A line for people, whatever the format of the log.
        Text = "text",
        /// Nothing.
        Off = "off",
    }
}
