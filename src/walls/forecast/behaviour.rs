//! Walls that shape the behaviour: ports, tables, times, buffers and queues.
//!
//! None of them makes a number of connections impossible, so the verdict is `Notice` at most, and a command
//! is named only where the setting works against this configuration or this number.
//!
//! Invariant: each sentence about an effect has the number of this machine in it.

use crate::config::plan::memory::Bytes;

use super::fix::roomy;
use super::{Context, Fix, Grouped, Kind, Stay, Verdict, Wall};

/// Seconds of TIME_WAIT on Linux (`TCP_TIMEWAIT_LEN`); no setting changes it.
const TIME_WAIT_S: u64 = 60;
/// Seconds until Linux gives up bytes that nobody acknowledges, with its 15 retries: at least 924.6 by the kernel's own
/// documentation (`tcp_retries2`); 1,028 were measured.
const RETRIES_S: u64 = 924;
/// Entries for each bucket of a hash table above which a lookup is felt.
const CHAIN_LENGTH_MAX: u64 = 4;

impl Context<'_> {
    pub(super) fn behaviour_walls(&self) -> Vec<Wall> {
        vec![
            self.user_ports(),
            self.reserved_ports(),
            self.tcb_buckets(),
            self.ehash_entries(),
            self.time_wait(),
            self.time_wait_max(),
            self.keep_alive(),
            self.tcp_mem(),
            self.bounds_at_once(),
            self.somaxconn(),
            self.syn_backlog(),
            self.thread_each(),
        ]
    }

    fn behaviour(id: &'static str, row: &'static str, name: &'static str, unit: &'static str) -> Wall {
        Self::wall(id, row, name, Kind::Behaviour, unit)
    }

    /// Ports that a client of this machine may use, those reserved subtracted, and the reserved ones.
    fn ports(&self) -> Result<(u64, u64), &crate::config::procfs::Unreadable> {
        let range = self.snapshot.ipv4.port_range.as_ref()?;
        let reserved = self.snapshot.ipv4.reserved_ports.as_ref()?;
        let is_reserved = |port: &u16| reserved.iter().any(|range| range.contains(port));
        let kept = range.clone().filter(is_reserved).count() as u64;
        Ok((range.len() as u64 - kept, kept))
    }

    fn user_ports(&self) -> Wall {
        let wall = Self::behaviour("user-ports", "user-ports", "net.ipv4.ip_local_port_range", "ports");
        let ports = match self.ports() {
            Ok((ports, _)) => ports,
            Err(error) => return Self::unreadable(wall, error),
        };
        let addresses = self.connections.div_ceil(ports.max(1));
        Wall {
            limit: Some(ports),
            needed: Some(self.connections),
            verdict: if addresses > 1 { Verdict::Notice } else { Verdict::Fits },
            effect: format!(
                "A client with this range has {} ports for each of its addresses, server address and server \
                 port: {} connections take {} such pairs. A proxy in front is one client.",
                Grouped(ports),
                Grouped(self.connections),
                Grouped(addresses)
            ),
            ..wall
        }
    }

    fn reserved_ports(&self) -> Wall {
        let name = "net.ipv4.ip_local_reserved_ports";
        let wall = Self::behaviour("reserved-ports", "reserved-ports", name, "ports");
        let kept = match self.ports() {
            Ok((_, kept)) => kept,
            Err(error) => return Self::unreadable(wall, error),
        };
        let effect = match kept {
            0 => "No port of the range is reserved.".to_owned(),
            _ => {
                format!("{} ports of the range are kept for others, for each client address.", Grouped(kept))
            }
        };
        Wall { limit: Some(kept), effect, ..wall }
    }

    /// The buckets of the server's own table.
    fn tcb_buckets(&self) -> Wall {
        let wall = Self::behaviour("tcb-buckets", "hash-table", "tcb.hash_buckets", "buckets");
        let configured = u64::from(self.config.tcb.limits.hash_buckets);
        let buckets = match (&self.plan, configured) {
            (Ok(plan), _) => u64::from(plan.tcb.hash_buckets),
            (Err(_), 0) => self.connections,
            (Err(_), buckets) => buckets,
        };
        self.chains(wall, buckets, "of the server's table", |buckets| {
            Fix::key("tcb", "hash_buckets", buckets, None)
        })
    }

    /// The buckets of the kernel's table of connections.
    fn ehash_entries(&self) -> Wall {
        let wall = Self::behaviour("ehash-entries", "hash-table", "net.ipv4.tcp_ehash_entries", "buckets");
        // Absent before Linux 6.1.
        let buckets = match &self.snapshot.ipv4.ehash_entries {
            Ok(buckets) => *buckets,
            Err(error) => return Self::unreadable(wall, error),
        };
        self.chains(wall, buckets, "of the kernel's table", |buckets| Fix {
            now: Vec::new(),
            stay: vec![Stay {
                file: "/etc/default/grub (then update-grub and a restart)".into(),
                lines: vec![format!("GRUB_CMDLINE_LINUX=\"thash_entries={buckets}\"")],
            }],
        })
    }

    fn chains(&self, wall: Wall, buckets: u64, of: &str, fix: impl Fn(u64) -> Fix) -> Wall {
        let length = self.connections as f64 / buckets.max(1) as f64;
        let is_long = self.connections > buckets.saturating_mul(CHAIN_LENGTH_MAX);
        Wall {
            limit: Some(buckets),
            needed: Some(self.connections),
            verdict: if is_long { Verdict::Notice } else { Verdict::Fits },
            effect: format!("{length:.1} connections for each bucket {of}."),
            fix: is_long.then(|| fix(self.connections.next_power_of_two())),
            ..wall
        }
    }

    fn time_wait(&self) -> Wall {
        let wall = Self::behaviour("time-wait", "time-wait", "TIME_WAIT (60 s, compiled in)", "seconds");
        let in_use = self.snapshot.sockstat.as_ref().ok().map(|sockstat| sockstat.time_wait);
        let so_many = in_use.map_or(String::new(), |count| format!(" {} are there now.", Grouped(count)));
        let effect = format!(
            "Each connection that this side closes first is remembered for 60 s: closing {} within that time \
             leaves as many behind. tcp_fin_timeout is another state's.{so_many}",
            Grouped(self.connections)
        );
        Wall { limit: Some(TIME_WAIT_S), effect, ..wall }
    }

    fn time_wait_max(&self) -> Wall {
        let name = "net.ipv4.tcp_max_tw_buckets";
        let wall = Self::behaviour("tw-buckets", "time-wait-max", name, "records");
        let limit = match &self.snapshot.ipv4.time_wait_max {
            Ok(limit) => *limit,
            Err(error) => return Self::unreadable(wall, error),
        };
        let in_use = self.snapshot.sockstat.as_ref().ok().map(|sockstat| sockstat.time_wait);
        // Records dropped early harm nobody while the peers are well; what is filling up is worth a word.
        let is_full = in_use.is_some_and(|count| count.saturating_mul(10) >= limit.saturating_mul(9));
        Wall {
            limit: Some(limit),
            in_use,
            verdict: if is_full { Verdict::Notice } else { Verdict::Fits },
            effect: format!(
                "Records past it are dropped early (TCPTimeWaitOverflow): it is reached by closing {} a second.",
                Grouped(limit / TIME_WAIT_S)
            ),
            fix: is_full.then(|| Fix::sysctl(name, roomy(limit.saturating_mul(2)))),
            ..wall
        }
    }

    /// When this server, with its own times, has found a peer that vanished.
    fn keep_alive(&self) -> Wall {
        let wall = Self::behaviour("keep-alive", "keep-alive", "keepalive.tcp_idle_s", "seconds");
        let keepalive = &self.config.keepalive;
        let probed_s = u64::from(keepalive.tcp_idle_s)
            + u64::from(keepalive.tcp_interval_s) * u64::from(keepalive.tcp_probes);
        let user_timeout_s = u64::from(keepalive.user_timeout_ms) / 1000;
        let pinged_s = u64::from(keepalive.ws_ping_interval_s) + u64::from(keepalive.ws_pong_timeout_s);
        let idle_s = match (keepalive.tcp_idle_s, keepalive.ws_ping_interval_s) {
            (0, 0) => None,
            (0, _) => Some(pinged_s),
            (_, 0) => Some(probed_s),
            (_, _) => Some(probed_s.min(pinged_s)),
        };
        let idle = match idle_s {
            Some(seconds) => {
                format!("Silent and idle, a peer that vanished holds its place for {seconds} s.")
            }
            None => {
                "Silent and idle, a peer that vanished holds its place for good: keepalive.tcp_idle_s and \
                     keepalive.ws_ping_interval_s are 0."
                    .to_owned()
            }
        };
        let unacknowledged = match user_timeout_s {
            0 => format!(
                "With bytes unacknowledged it is the kernel that gives it up, after {RETRIES_S} s or more \
                 (net.ipv4.tcp_retries2; keepalive.user_timeout_ms is 0)."
            ),
            seconds => format!("With bytes unacknowledged it is given up after {seconds} s."),
        };
        Wall {
            limit: idle_s,
            effect: format!(
                "{idle} A client that agreed to send a heart-beat every I seconds is missed after 2 I + 1. \
                 {unacknowledged}"
            ),
            ..wall
        }
    }

    /// `tcp_mem`: an idle connection has no pages, a busy one at least one.
    fn tcp_mem(&self) -> Wall {
        let wall = Self::behaviour("tcp-mem", "buffers", "net.ipv4.tcp_mem", "pages");
        let [_, pressure, hard] = match &self.snapshot.ipv4.tcp_mem {
            Ok(pages) => *pages,
            Err(error) => return Self::unreadable(wall, error),
        };
        let in_use = self.snapshot.sockstat.as_ref().ok().map(|sockstat| sockstat.pages);
        let free = hard.saturating_sub(in_use.unwrap_or(0));
        let is_low = self.connections > free;
        // Twice a page for each, for those that have more; only where the memory has so much.
        let wanted = roomy(self.connections.saturating_mul(2).saturating_add(in_use.unwrap_or(0)));
        let bytes = wanted.saturating_mul(self.snapshot.page_bytes);
        let has_memory = bytes <= self.machine.memory_bytes / 2;
        Wall {
            limit: Some(hard),
            in_use,
            needed: Some(self.connections),
            verdict: if is_low { Verdict::Notice } else { Verdict::Fits },
            effect: format!(
                "{} connections may be busy at once, with a page each ({}); buffers shrink past {} pages \
                 (TCPMemoryPressures), and connections are aborted past {} (TCPAbortOnMemory).",
                Grouped(free),
                Bytes(self.snapshot.page_bytes),
                Grouped(pressure),
                Grouped(hard)
            ),
            // The kernel's own proportions.
            fix: (is_low && has_memory).then(|| {
                Fix::sysctl("net.ipv4.tcp_mem", format!("{} {} {wanted}", wanted / 2, wanted / 3 * 2))
            }),
            ..wall
        }
    }

    /// The configuration's bounds on what is under way, all reached at once.
    fn bounds_at_once(&self) -> Wall {
        let wall = Self::behaviour("bounds-at-once", "buffers", "outbound, buffers, rooms, mesh", "bytes");
        if let Err(error) = &self.snapshot.memory {
            return Self::unreadable(wall, error);
        }
        let memory = self.memory();
        let limit = self.machine.memory_bytes;
        let is_above = memory.bytes_max > limit;
        let advice = if is_above {
            " Lower outbound.reactor_bytes_max, buffers.reactor_bytes_max, rooms.queues_bytes_max or mesh.bytes_max."
        } else {
            ""
        };
        Wall {
            limit: Some(limit),
            needed: Some(memory.bytes_max),
            verdict: if is_above { Verdict::Notice } else { Verdict::Fits },
            effect: format!(
                "If every bound of the configuration were reached at once, it would take {} of {}.{advice}",
                Bytes(memory.bytes_max),
                Bytes(limit)
            ),
            ..wall
        }
    }

    fn somaxconn(&self) -> Wall {
        let name = "net.core.somaxconn";
        let wall = Self::behaviour("somaxconn", "backlog", name, "connections");
        let limit = match &self.snapshot.somaxconn {
            Ok(limit) => *limit,
            Err(error) => return Self::unreadable(wall, error),
        };
        let backlog = u64::from(self.config.listen.limits.backlog);
        let listeners = self.snapshot.listeners.as_deref().unwrap_or_default();
        let full =
            listeners.iter().find(|of| of.queued_max.is_some_and(|most| most > 0 && of.queued >= most));
        let full_now = full.map_or(String::new(), |listener| {
            format!(
                " The queue of {} is full at this moment ({}).",
                listener.address,
                Grouped(listener.queued)
            )
        });
        let is_cut = limit < backlog;
        let ours = self.running.and_then(|running| listeners.iter().find(|of| of.address == running.address));
        let kept = match ours.and_then(|listener| listener.queued_max) {
            Some(most) if most != limit.min(backlog) => format!(
                " The server that runs listens with {}, and keeps that until it is started again.",
                Grouped(most)
            ),
            _ if is_cut => " A server that runs has to be started again for another value.".to_owned(),
            _ => String::new(),
        };
        Wall {
            limit: Some(limit),
            needed: Some(backlog),
            verdict: if is_cut || full.is_some() { Verdict::Notice } else { Verdict::Fits },
            effect: format!(
                "Each reactor's listener queues {} connections until they are accepted{}; past it they are \
                 dropped and try again (ListenOverflows).{full_now}{kept}",
                Grouped(limit.min(backlog)),
                if is_cut {
                    format!(", not {} as listen.backlog asks", Grouped(backlog))
                } else {
                    String::new()
                },
            ),
            fix: is_cut.then(|| Fix::sysctl(name, backlog)),
            ..wall
        }
    }

    /// What a server with a thread for each connection would meet, for comparison.
    fn thread_each(&self) -> Wall {
        let wall = Self::behaviour("thread-each", "bio", "a thread for each connection", "threads");
        let lowest = self.thread_limits().into_iter().min();
        let Some((free, name)) = lowest else {
            return Wall {
                verdict: Verdict::Unreadable,
                effect: "no limit on threads can be read".into(),
                ..wall
            };
        };
        Wall {
            limit: Some(free),
            needed: Some(self.connections),
            effect: format!(
                "This server has {} threads for its reactors. One with a thread for each connection would stop at \
                 {} ({name}).",
                self.reactors,
                Grouped(free)
            ),
            ..wall
        }
    }

    fn syn_backlog(&self) -> Wall {
        let name = "net.ipv4.tcp_max_syn_backlog";
        let wall = Self::behaviour("syn-backlog", "half-open", name, "connections");
        let (limit, cookies) = match (&self.snapshot.ipv4.syn_backlog_max, &self.snapshot.ipv4.syncookies) {
            (Ok(limit), Ok(cookies)) => (*limit, *cookies),
            (Err(error), _) | (_, Err(error)) => return Self::unreadable(wall, error),
        };
        let backlog = u64::from(self.config.listen.limits.backlog);
        let is_open_to_floods = cookies == 0 && limit < backlog;
        let handshake = &self.config.handshake;
        let past = if cookies > 0 { "SYN cookies answer" } else { "SYNs are dropped (tcp_syncookies = 0)" };
        Wall {
            limit: Some(limit),
            verdict: if is_open_to_floods { Verdict::Notice } else { Verdict::Fits },
            effect: format!(
                "Past {} half-open connections {past}. After that a reactor holds {} unfinished handshakes for \
                 {} s each (handshake.pending_max, handshake.timeout_ms).",
                Grouped(limit),
                Grouped(handshake.pending_max),
                handshake.timeout_ms / 1000
            ),
            fix: is_open_to_floods.then(|| Fix::sysctl("net.ipv4.tcp_syncookies", 1)),
            ..wall
        }
    }
}
