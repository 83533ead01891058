//! The catalogue: the walls between a server and its connections, with their names on both systems.
//!
//! The rows are the limits that were in the way of servers on Windows 2000 to 2008, because each has a
//! descendant: Linux has something in its place, and so has this server. What a wall is on a machine is for
//! [`super::probe`] and [`super::forecast`] to say; the rows here are the same everywhere.
//!
//! Invariant: every row is in the documentation (`docs/DOCTOR.md`, `docs/LIMITS.md`), and every key that a row names is a key
//! of the configuration.

/// One wall, wherever it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its name in reports.
    pub id: &'static str,
    /// What Windows calls it, and its default there.
    pub windows: &'static str,
    /// What Linux has in its place.
    pub linux: &'static str,
    /// The keys of this server's configuration that belong to it.
    pub keys: &'static [&'static str],
    /// The question that it asks about N connections.
    pub question: &'static str,
}

/// Every wall, in the order in which a connection meets them.
pub const ROWS: &[Row] = &[
    Row {
        id: "connections",
        windows: "TcpNumConnections (16,777,214)",
        linux: "RLIMIT_NOFILE for each descriptor table, fs.nr_open, fs.file-max, fs.epoll.max_user_watches",
        keys: &["tcb.capacity", "reactors.count", "reactors.fd_reserve"],
        question: "Has every connection a descriptor, an open file and a place in an epoll set?",
    },
    Row {
        id: "user-ports",
        windows: "MaxUserPort (5000: 3,977 ports for each address)",
        linux: "net.ipv4.ip_local_port_range, for each client address, server address and server port",
        keys: &["listen.address"],
        question: "How many client addresses does it take to make so many connections?",
    },
    Row {
        id: "reserved-ports",
        windows: "ReservedPorts (none)",
        linux: "net.ipv4.ip_local_reserved_ports",
        keys: &[],
        question: "How many of the client's ports are kept for others?",
    },
    Row {
        id: "tcb-table",
        windows: "MaxFreeTcbs (1000 on XP Professional, 2000 on Server)",
        linux: "no table: slab objects, as long as there is memory; RLIMIT_DATA, RLIMIT_AS, vm.overcommit_memory",
        keys: &["tcb.capacity", "tcb.time_wait_counts"],
        question: "Has the server's own table a place for each, and the machine the memory?",
    },
    Row {
        id: "hash-table",
        windows: "MaxHashTableSize (512), NumTcbTablePartitions (four for each CPU)",
        linux: "net.ipv4.tcp_ehash_entries (boot parameter thash_entries)",
        keys: &["tcb.hash_buckets", "tcb.partitions"],
        question: "How long are the chains that a lookup walks?",
    },
    Row {
        id: "time-wait",
        windows: "TcpTimedWaitDelay (240 s)",
        linux: "60 s, compiled in; the side that closes first pays",
        keys: &["tcb.time_wait_delay_ms"],
        question: "How many closed connections are still remembered at a given rate?",
    },
    Row {
        id: "time-wait-max",
        windows: "MaxFreeTWTcbs (1000)",
        linux: "net.ipv4.tcp_max_tw_buckets, net.ipv4.tcp_tw_reuse",
        keys: &["tcb.time_wait_max", "tcb.time_wait_reuse"],
        question: "What happens when more are remembered than there is room for?",
    },
    Row {
        id: "keep-alive",
        windows: "KeepAliveTime (7,200,000 ms)",
        linux: "net.ipv4.tcp_keepalive_time, tcp_keepalive_intvl, tcp_keepalive_probes",
        keys: &[
            "keepalive.tcp_idle_s",
            "keepalive.tcp_interval_s",
            "keepalive.tcp_probes",
            "keepalive.user_timeout_ms",
            "keepalive.ws_ping_interval_s",
            "keepalive.ws_pong_timeout_s",
            "stomp.heart_beat_min_ms",
            "stomp.heart_beat_max_ms",
        ],
        question: "How long does a peer that vanished hold its place?",
    },
    Row {
        id: "buffers",
        windows: "MaxBufferredReceiveBytes, TcpWindowSize, the non-paged pool",
        linux: "net.ipv4.tcp_mem (pages, all sockets), tcp_rmem, tcp_wmem (bytes, each)",
        keys: &["outbound.bytes_max", "outbound.reactor_bytes_max", "buffers.reactor_bytes_max"],
        question: "How many connections may be busy at once?",
    },
    Row {
        id: "backlog",
        windows: "listen backlog (5 on Professional, 200 on Server)",
        linux: "net.core.somaxconn",
        keys: &["listen.backlog"],
        question: "How many may connect at once before one is accepted?",
    },
    Row {
        id: "half-open",
        windows: "half-open connects (10 on XP SP2 and Vista; event 4226)",
        linux: "net.ipv4.tcp_max_syn_backlog, net.ipv4.tcp_syncookies",
        keys: &["handshake.pending_max", "handshake.pending_per_address_max", "handshake.timeout_ms"],
        question: "Do unfinished handshakes shut the others out?",
    },
    Row {
        id: "nat",
        windows: "a NAT router or firewall in front",
        linux: "net.netfilter.nf_conntrack_max",
        keys: &[],
        question: "Does a firewall on this machine remember every connection?",
    },
    Row {
        id: "bio",
        windows: "one thread for each connection (Tomcat BIO: maxThreads 200)",
        linux: "kernel.threads-max, kernel.pid_max, RLIMIT_NPROC, vm.max_map_count",
        keys: &["reactors.count"],
        question: "Are there threads enough, and where would a thread for each connection stop?",
    },
    Row {
        id: "app-limits",
        windows: "licences, 'only 10 connections'",
        linux: "memory and pids limits of the control group",
        keys: &[],
        question: "Has the container, or the service, less than the machine?",
    },
];

/// The row of this id.
pub fn row(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn keys_of_the_rows_exist_and_no_row_is_there_twice() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..at].iter().all(|other| other.id != row.id), "{}", row.id);
            assert!(row.question.ends_with('?'), "{}", row.id);
            for key in row.keys {
                let (section, name) = key.split_once('.').expect("section.name");
                assert!(keys::find(section, name).is_some(), "{}: {key} is no key", row.id);
            }
        }
    }
}
