//! The descriptor plan: connections over descriptor tables.
//!
//! RLIMIT_NOFILE bounds the descriptors of one *table*, and a thread may have a table of its own
//! (`unshare(CLONE_FILES)`). So the number of threads follows from the limit, and it can be raised where the
//! limit cannot. The files behind the descriptors are counted system-wide (`fs.file-max`), and so are the
//! items in epoll sets; those are walls that more threads do not move.
//!
//! Invariant: threads x usable descriptors of a table is at least the connections asked for.

use super::{Machine, Shortage, Wish};

/// Descriptors of a table that are not connections: standard streams, epoll, timer, waker, the server's
/// pipes, files being read, and what a worker's copy of the first table holds.
const RESERVE: u64 = 64;

/// Threads of the two processes that are not event loops: main, signals, those that read the server's pipes.
const THREADS_OF_PROCESSES: u64 = 8;

/// Connections below which another thread is not worth its wake-ups.
const CONNECTIONS_PER_THREAD_MIN: u32 = 1000;

pub(super) struct Fds {
    pub(super) threads: u32,
    pub(super) private_tables: bool,
    pub(super) shortages: Vec<Shortage>,
}

impl Fds {
    pub(super) fn plan(wish: &Wish, machine: &Machine) -> Self {
        let connections = u64::from(wish.connections);
        let overhead = RESERVE + machine.descriptors_open;
        // Room borders move a share by up to a sixteenth: see `shares`.
        let usable = machine.descriptors_per_table.saturating_sub(overhead) * 16 / 17;
        let mut shortages = Vec::new();
        if usable == 0 {
            shortages.push(Shortage {
                what: "descriptors of a table (RLIMIT_NOFILE)",
                needed: overhead + 2,
                available: machine.descriptors_per_table,
                remedy: format!("ulimit -n {}", overhead + connections),
            });
        }
        let needed = connections.div_ceil(usable.max(1)).min(u64::from(u32::MAX)) as u32;
        // The server, on the same machine, needs the other half of the cores.
        let wished = wish.threads.unwrap_or(if wish.server_here { machine.cores / 2 } else { machine.cores });
        let worth = match wish.threads {
            Some(_) => wish.connections,
            None => wish.connections / CONNECTIONS_PER_THREAD_MIN,
        };
        let threads = needed.max(wished.min(worth)).clamp(1, wish.connections.max(1));
        let ends = if wish.server_here { 2 } else { 1 };
        let files = machine.files_open + ends * connections + u64::from(threads) * overhead;
        if files > machine.files_max {
            shortages.push(Shortage {
                what: "open files of the whole system (fs.file-max)",
                needed: files,
                available: machine.files_max,
                remedy: format!(
                    "sysctl -w fs.file-max={}{}",
                    files.next_multiple_of(100_000),
                    // True, and no reason to go on unasked: every other user's programs would get ENFILE.
                    if machine.exceeds_files_max {
                        " (or --force: this process may exceed it, others then get no file)"
                    } else {
                        ""
                    }
                ),
            });
        }
        let all_threads = ends * u64::from(threads) + THREADS_OF_PROCESSES;
        if let Some(bound) = machine.threads.as_ref().filter(|bound| all_threads > bound.left) {
            shortages.push(Shortage {
                what: "threads (of both processes)",
                needed: all_threads,
                available: bound.left,
                remedy: bound.remedy(all_threads - bound.left),
            });
        }
        if let Some(max) = machine.epoll_watches_max.filter(|max| ends * connections > *max) {
            shortages.push(Shortage {
                what: "sockets in epoll sets of one user (fs.epoll.max_user_watches)",
                needed: ends * connections,
                available: max,
                remedy: format!("sysctl -w fs.epoll.max_user_watches={}", ends * connections),
            });
        }
        Self { threads, private_tables: connections > usable, shortages }
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine::Threads;
    use super::super::tests::{machine, wish};
    use super::*;

    #[test]
    fn one_table_is_shared_while_it_suffices() {
        let fds = Fds::plan(&wish(10_000), &machine());
        assert_eq!((fds.threads, fds.private_tables), (1, false));
        let four = Fds::plan(&Wish { threads: Some(4), ..wish(10_000) }, &machine());
        assert_eq!((four.threads, four.private_tables), (4, false));
        let remote = Fds::plan(&Wish { server_here: false, ..wish(10_000) }, &machine());
        assert_eq!(remote.threads, 2);
    }

    #[test]
    fn a_high_limit_needs_no_private_tables() {
        let machine = Machine { descriptors_per_table: 1_048_576, ..machine() };
        let fds = Fds::plan(&wish(500_000), &machine);
        assert_eq!((fds.threads, fds.private_tables), (1, false));
    }

    #[test]
    fn file_max_is_named_with_a_number_that_suffices() {
        let fds = Fds::plan(&wish(2_000_000), &machine());
        let shortage = &fds.shortages[0];
        assert!(shortage.needed > 4_000_000 && shortage.available == 2_465_610);
        let asked: u64 = shortage.remedy.rsplit('=').next().unwrap().parse().unwrap();
        assert!(asked >= shortage.needed);
        let privileged = Machine { exceeds_files_max: true, ..machine() };
        let remedy = &Fds::plan(&wish(2_000_000), &privileged).shortages[0].remedy;
        assert!(remedy.starts_with("sysctl -w fs.file-max=") && remedy.contains("--force"), "{remedy}");
    }

    #[test]
    fn a_million_take_a_hundred_threads_and_more() {
        let machine = Machine { threads: Some(Threads { left: 100, limit: 200, group: None }), ..machine() };
        let shortage = &Fds::plan(&wish(1_000_000), &machine).shortages[0];
        assert_eq!((shortage.needed, shortage.available), (116, 100));
        assert_eq!(shortage.remedy, "sysctl -w kernel.threads-max=216");
        assert!(Fds::plan(&wish(50_000), &machine).shortages.is_empty());
    }

    #[test]
    fn a_table_without_room_is_refused() {
        let machine = Machine { descriptors_per_table: 32, ..machine() };
        assert!(Fds::plan(&wish(10), &machine).shortages[0].remedy.starts_with("ulimit -n"));
    }
}
