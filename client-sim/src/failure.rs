//! What can go wrong with a simulated client, sorted into classes that a report can count.
//!
//! A class answers "which wall was hit?"; the detail of the first failure of each class is kept as an
//! example. Nothing here decides whether a run has failed: that is the verdict's job.
//!
//! Invariant: the name of a class is stable; scripts read it from the JSON report.

use std::collections::BTreeMap;
use std::{fmt, io};

use serde::Serialize;

/// A class of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// ECONNREFUSED: nobody listens, or the backlog is full and the kernel is told to say so.
    ConnectRefused,
    /// EADDRNOTAVAIL: no free local port for this source and destination.
    AddressNotAvailable,
    /// EMFILE or ENFILE: no file descriptor.
    NoDescriptors,
    /// The TCP connection did not come about in time.
    ConnectTimeout,
    /// The HTTP answer to the upgrade did not come in time.
    UpgradeTimeout,
    /// CONNECTED did not come in time.
    ConnectedTimeout,
    /// A receipt (of SUBSCRIBE, SEND or DISCONNECT) did not come in time.
    ReceiptTimeout,
    /// A client did not get its own message in time.
    EchoTimeout,
    /// The close handshake or the end of the connection did not come in time.
    CloseTimeout,
    /// The upgrade was answered with this HTTP status.
    Http(u16),
    /// The upgrade was answered with 101, but not as RFC 6455 demands.
    UpgradeRefused,
    /// The server sent a STOMP ERROR.
    StompError,
    /// The server started the close handshake with this code (1005 for none).
    ClosedByServer(u16),
    /// The server ended the connection without a close handshake.
    EndOfStream,
    /// ECONNRESET or EPIPE.
    Reset,
    /// Nothing was heard for more than twice the agreed heart-beat interval.
    HeartBeatMissed,
    /// The server broke the rules of WebSocket or STOMP.
    Protocol,
    /// Any other error of the socket.
    Io,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::ConnectRefused => "connect-refused",
            Self::AddressNotAvailable => "address-not-available",
            Self::NoDescriptors => "no-descriptors",
            Self::ConnectTimeout => "connect-timeout",
            Self::UpgradeTimeout => "upgrade-timeout",
            Self::ConnectedTimeout => "connected-timeout",
            Self::ReceiptTimeout => "receipt-timeout",
            Self::EchoTimeout => "echo-timeout",
            Self::CloseTimeout => "close-timeout",
            Self::Http(status) => return write!(f, "http-{status}"),
            Self::UpgradeRefused => "upgrade-refused",
            Self::StompError => "stomp-error",
            Self::ClosedByServer(code) => return write!(f, "closed-by-server-{code}"),
            Self::EndOfStream => "end-of-stream",
            Self::Reset => "reset",
            Self::HeartBeatMissed => "heart-beat-missed",
            Self::Protocol => "protocol",
            Self::Io => "io",
        };
        f.write_str(name)
    }
}

/// One failure: its class and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class.
    pub kind: Kind,
    /// What was seen, for a person.
    pub detail: String,
}

impl Failure {
    /// A failure of a class, with what was seen.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Sorts an error of a socket into its class.
    pub fn from_io(error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => Kind::ConnectRefused,
            io::ErrorKind::AddrNotAvailable => Kind::AddressNotAvailable,
            // EADDRINUSE is how bind() with an explicit source reports exhausted ports.
            io::ErrorKind::AddrInUse => Kind::AddressNotAvailable,
            io::ErrorKind::TimedOut => Kind::ConnectTimeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Kind::Reset
            }
            _ => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Kind::NoDescriptors,
                _ => Kind::Io,
            },
        };
        Self::new(kind, error.to_string())
    }
}

/// Failures counted by class.
#[derive(Debug, Clone, Default)]
pub struct Tally(BTreeMap<Kind, Entry>);

#[derive(Debug, Clone)]
struct Entry {
    count: u64,
    example: String,
}

/// One class of a [`Tally`], as the report shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Name of the class.
    pub class: String,
    /// How many failures fell into it.
    pub count: u64,
    /// What the first of them saw.
    pub example: String,
}

impl Tally {
    /// Counts one failure.
    pub fn add(&mut self, failure: Failure) {
        self.add_many(failure, 1);
    }

    /// Counts `count` failures that look alike.
    pub fn add_many(&mut self, failure: Failure, count: u64) {
        if count > 0 {
            self.0.entry(failure.kind).or_insert(Entry { count: 0, example: failure.detail }).count += count;
        }
    }

    /// Takes another tally in.
    pub fn merge(&mut self, other: Self) {
        for (kind, entry) in other.0 {
            self.add_many(Failure { kind, detail: entry.example }, entry.count);
        }
    }

    /// All failures together.
    pub fn total(&self) -> u64 {
        self.0.values().map(|entry| entry.count).sum()
    }

    /// The classes, the most frequent first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> = self
            .0
            .iter()
            .map(|(kind, entry)| Row {
                class: kind.to_string(),
                count: entry.count,
                example: entry.example.clone(),
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.count));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_example_of_each_class() {
        let mut tally = Tally::default();
        tally.add(Failure::new(Kind::Http(503), "table full"));
        tally.add(Failure::new(Kind::Reset, "first"));
        tally.add(Failure::new(Kind::Reset, "second"));
        let mut other = Tally::default();
        other.add_many(Failure::new(Kind::Reset, "third"), 2);
        other.add_many(Failure::new(Kind::Io, "never"), 0);
        tally.merge(other);
        assert_eq!(tally.total(), 5);
        let rows = tally.rows();
        assert_eq!((rows[0].class.as_str(), rows[0].count, rows[0].example.as_str()), ("reset", 4, "first"));
        assert_eq!(rows[1].class, "http-503");
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn descriptors_and_ports_have_classes_of_their_own() {
        let class = |errno: rustix::io::Errno| Failure::from_io(&errno.into()).kind;
        assert_eq!(class(rustix::io::Errno::MFILE), Kind::NoDescriptors);
        assert_eq!(class(rustix::io::Errno::ADDRNOTAVAIL), Kind::AddressNotAvailable);
        assert_eq!(class(rustix::io::Errno::CONNREFUSED), Kind::ConnectRefused);
        assert_eq!(class(rustix::io::Errno::NOBUFS), Kind::Io);
    }
}
