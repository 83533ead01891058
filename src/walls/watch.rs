//! The watch: which wall is being hit right now, by the kernel's counters and by the server's own.
//!
//! Two readings some seconds apart are compared. Only counters that a wall moves when it turns something
//! away are looked at; that one stands above zero says nothing, since nobody knows when it rose. The kernel's belong
//! to the network namespace (and the control group) of the caller: the doctor must run where the server does. What
//! the server itself refuses, the kernel does not know; so the server is asked, and its descriptors are counted.
//!
//! Invariant: a counter that was not read both times, or went back, has no delta; and what was not seen is said.

use super::probe::Counters;
use super::running::{Running, Silence};
use crate::metrics;

/// A counter that rises when a wall turns something away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The counter's name.
    pub counter: &'static str,
    /// The wall's row of the catalogue.
    pub row: &'static str,
    /// The wall's id in the forecast.
    pub wall: &'static str,
    /// What one more of it means.
    pub meaning: &'static str,
}

macro_rules! watched {
    ( $( $counter:literal, $row:literal, $wall:literal, $meaning:literal; )+ ) => {
        &[ $( Watched { counter: $counter, row: $row, wall: $wall, meaning: $meaning } ),+ ]
    };
}

/// What is watched.
pub const WATCHED: &[Watched] = watched! {
    "ListenOverflows", "backlog", "somaxconn", "a complete connection found the accept queue full";
    "ListenDrops", "backlog", "somaxconn", "a SYN or a complete connection was dropped at a listener";
    "TCPReqQFullDrop", "half-open", "syn-backlog", "a SYN was dropped: too many half-open, and no SYN cookies";
    "TCPReqQFullDoCookies", "half-open", "syn-backlog", "a SYN was answered with a cookie: too many half-open";
    "TCPTimeWaitOverflow", "time-wait-max", "tw-buckets", "a TIME_WAIT record was not kept";
    "TCPMemoryPressures", "buffers", "tcp-mem", "all TCP buffers together went above the pressure mark";
    "TCPAbortOnMemory", "buffers", "tcp-mem", "a connection was aborted for want of memory";
    "PruneCalled", "buffers", "tcp-mem", "a receive buffer was full and had to be pruned";
    "RcvPruned", "buffers", "tcp-mem", "received data was dropped to free a receive buffer";
    "OfoPruned", "buffers", "tcp-mem", "data out of order was dropped to free a receive buffer";
    "TCPRcvQDrop", "buffers", "tcp-mem", "data was dropped because the receive queue had no room";
    "TCPBacklogDrop", "buffers", "tcp-mem", "a segment was dropped because its socket was busy";
    "TCPWqueueTooBig", "buffers", "tcp-mem", "a send buffer was too full to split";
    "TCPAbortOnTimeout", "keep-alive", "keep-alive", "a connection was given up: its peer did not answer";
    "nf_conntrack:drop", "nat", "conntrack", "the firewall dropped a packet: its table was full";
    "nf_conntrack:early_drop", "nat", "conntrack", "the firewall forgot a connection to make room";
    "nf_conntrack:insert_failed", "nat", "conntrack", "the firewall could not remember a connection";
    "memory.events:max", "app-limits", "cgroup-memory", "the control group ran into its memory limit";
    "pids.events:max", "app-limits", "cgroup-pids", "the control group was refused a thread";
};

/// How far a counter rose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delta {
    /// The counter.
    pub watched: &'static Watched,
    /// Its value at first.
    pub before: u64,
    /// Its value after the wait.
    pub after: u64,
}

impl Delta {
    /// How far it rose.
    pub fn rise(&self) -> u64 {
        self.after - self.before
    }
}

/// The rows of the server's own refusals, by the section of the bound that refuses.
const ROW_OF_SECTION: &[(&str, &str)] =
    &[("tcb", "tcb-table"), ("handshake", "half-open"), ("memory", "app-limits")];
/// The row of every other bound: bytes and messages of those who are connected.
const ROW_OF_OTHERS: &str = "buffers";

/// How far one of the server's refusals rose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The name in `/metrics`, without the prefix.
    pub counter: &'static str,
    /// The row of the catalogue.
    pub row: &'static str,
    /// What is counted.
    pub meaning: &'static str,
    /// By how much it rose.
    pub rise: u64,
}

/// What was seen of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// It told its numbers both times.
    Told {
        /// Its process.
        pid: u32,
        /// Refusals that were compared.
        compared: usize,
        /// Those that rose.
        refused: Vec<Refused>,
    },
    /// It was found, and did not tell.
    Silent {
        /// Its process.
        pid: u32,
        /// Why, in words.
        why: String,
        /// Whether that is because it refuses whoever comes.
        is_full: bool,
    },
    /// None was found, or none could be chosen.
    Unseen {
        /// Why, in words.
        why: String,
    },
}

/// A descriptor table of the server that was full at a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FullTable {
    /// The server's process.
    pub pid: u32,
    /// Descriptors that are open.
    pub open: u64,
    /// Descriptors that it may hold.
    pub limit: u64,
}

/// Two readings of the counters compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// Seconds between the readings.
    pub seconds: f64,
    /// The counters that were read both times, in the order of [`WATCHED`].
    pub deltas: Vec<Delta>,
    /// What the server itself refused.
    pub server: Server,
    /// Its tables without room.
    pub full_tables: Vec<FullTable>,
}

/// What no reading on this machine can show.
pub const BLIND: &str =
    "limits elsewhere: a firewall, proxy or NAT router in front, and those of the clients";

/// The server's refusals as the page of numbers names them.
fn refusals() -> impl Iterator<Item = (&'static metrics::Metric, &'static str)> {
    let row = |metric: &metrics::Metric| {
        if metric.name == "accept_errors_total" {
            return Some("connections");
        }
        let section = metric.bounds.first()?.split('.').next()?;
        let row = ROW_OF_SECTION.iter().find(|(name, _)| *name == section);
        Some(row.map_or(ROW_OF_OTHERS, |(_, row)| row))
    };
    metrics::CATALOGUE.iter().filter_map(move |metric| Some((metric, row(metric)?)))
}

impl Server {
    /// Compares what a server told before and after.
    pub fn new(before: &Running, after: &Running) -> Self {
        let pid = after.pid;
        let (before, after) = match (&before.numbers, &after.numbers) {
            (Ok(before), Ok(after)) => (before, after),
            (Err(why), _) | (_, Err(why)) => {
                return Self::Silent { pid, why: why.to_string(), is_full: *why == Silence::Full };
            }
        };
        let (mut compared, mut refused) = (0, Vec::new());
        for (metric, row) in refusals() {
            let (Some(before), Some(after)) = (before.get(metric.name), after.get(metric.name)) else {
                continue;
            };
            compared += 1;
            let rise = after.saturating_sub(*before);
            if rise > 0 {
                refused.push(Refused { counter: metric.name, row, meaning: metric.help, rise });
            }
        }
        Self::Told { pid, compared, refused }
    }
}

impl Watch {
    /// Compares two readings of the kernel's counters, and adds what was seen of the server.
    pub fn new(before: &Counters, after: &Counters, seconds: f64, server: Server) -> Self {
        let delta = |watched: &'static Watched| {
            let (before, after) = (*before.get(watched.counter)?, *after.get(watched.counter)?);
            (after >= before).then_some(Delta { watched, before, after })
        };
        Self { seconds, deltas: WATCHED.iter().filter_map(delta).collect(), server, full_tables: Vec::new() }
    }

    /// Notes the tables of a server that have no room at this moment.
    pub fn note_tables(&mut self, server: &Running) {
        let Some(limit) = server.fd_limit else { return };
        let full = server.tables.iter().filter(|open| **open >= limit);
        self.full_tables.extend(full.map(|open| FullTable { pid: server.pid, open: *open, limit }));
    }

    /// The counters that rose.
    pub fn rises(&self) -> impl Iterator<Item = &Delta> {
        self.deltas.iter().filter(|delta| delta.rise() > 0)
    }

    /// The rows of the catalogue that are being hit, each once, in the order of [`WATCHED`].
    pub fn hit(&self) -> Vec<&'static str> {
        let mut rows = Vec::new();
        let of_kernel = self.rises().map(|delta| delta.watched.row);
        let of_server: Vec<&'static str> = match &self.server {
            Server::Told { refused, .. } => refused.iter().map(|refused| refused.row).collect(),
            Server::Silent { is_full: true, .. } => vec!["tcb-table"],
            Server::Silent { .. } | Server::Unseen { .. } => Vec::new(),
        };
        let of_tables = self.full_tables.iter().map(|_| "connections");
        for row in of_kernel.chain(of_server).chain(of_tables) {
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walls::catalogue;

    fn counters(pairs: &[(&str, u64)]) -> Counters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    fn unseen() -> Server {
        Server::Unseen { why: "nobody listens".into() }
    }

    fn running(numbers: &[(&str, u64)], open: u64) -> Running {
        Running {
            pid: 7,
            address: ([127, 0, 0, 1], 1).into(),
            is_configured: true,
            reactors: 1,
            fd_limit: Some(200),
            tables: vec![open],
            numbers: Ok(counters(numbers)),
        }
    }

    /// The kernel knows nothing of a 503; the server does.
    #[test]
    fn what_the_server_refuses_is_a_wall_that_is_hit() {
        let before = running(&[("refused_table_full_total", 5), ("bytes_sent_total", 1)], 10);
        let after = running(&[("refused_table_full_total", 705), ("bytes_sent_total", 9)], 10);
        let watch = Watch::new(&Counters::new(), &Counters::new(), 4.0, Server::new(&before, &after));
        assert_eq!(watch.hit(), ["tcb-table"]);
        let Server::Told { compared: 1, refused, .. } = &watch.server else { panic!("{watch:?}") };
        assert_eq!((refused[0].counter, refused[0].rise), ("refused_table_full_total", 700));
    }

    #[test]
    fn a_full_table_is_a_wall_that_is_hit_also_when_nobody_answers() {
        let mut silent = running(&[], 200);
        silent.numbers = Err(crate::walls::running::Silence::Other("no answer".into()));
        let server = Server::new(&running(&[], 10), &silent);
        let mut watch = Watch::new(&Counters::new(), &Counters::new(), 4.0, server);
        watch.note_tables(&silent);
        assert_eq!(watch.hit(), ["connections"]);
        assert!(matches!(&watch.server, Server::Silent { why, .. } if why == "no answer"));
    }

    #[test]
    fn every_refusal_of_the_server_belongs_to_a_wall() {
        assert!(refusals().count() > 10);
        for (metric, row) in refusals() {
            assert!(catalogue::row(row).is_some(), "{}: {row}", metric.name);
        }
    }

    #[test]
    fn every_watched_counter_belongs_to_a_wall() {
        for watched in WATCHED {
            assert!(catalogue::row(watched.row).is_some(), "{}", watched.counter);
        }
    }

    #[test]
    fn what_rose_names_its_wall_and_what_stood_high_does_not() {
        let before = counters(&[("ListenOverflows", 5), ("TCPTimeWaitOverflow", 900), ("PruneCalled", 3)]);
        let after = counters(&[("ListenOverflows", 17), ("TCPTimeWaitOverflow", 900), ("TCPRcvQDrop", 1)]);
        let watch = Watch::new(&before, &after, 5.0, unseen());
        assert_eq!(watch.hit(), ["backlog"]);
        let rises: Vec<_> = watch.rises().map(|delta| (delta.watched.counter, delta.rise())).collect();
        assert_eq!(rises, [("ListenOverflows", 12)]);
        assert_eq!(watch.deltas.len(), 2, "read both times");
    }

    #[test]
    fn a_counter_that_went_back_says_nothing() {
        let watch =
            Watch::new(&counters(&[("ListenDrops", 9)]), &counters(&[("ListenDrops", 2)]), 1.0, unseen());
        assert!(watch.deltas.is_empty());
    }
}
