//! The kernel's files that hold more than a number, one function each.
//!
//! Invariant: what does not look as the kernel writes it is a malformed reading or is passed over; nothing
//! panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::{Counters, Listener, Privileges, ProcessLimits, SlabSizes, Sockstat};
use crate::config::procfs::{Controller, Reading, Tree, Unreadable, Version};

/// The number after a word at the start of a line, as in `memory.stat`.
pub(super) fn named_number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

/// The number after a word anywhere in a line of pairs, as in `sockstat`.
fn paired_number(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

/// Cores by affinity (`/proc/self/status`).
pub(super) fn cores(tree: &Tree) -> Reading<u32> {
    const PATH: &str = "/proc/self/status";
    let text = tree.text(PATH)?;
    let count = || {
        let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        list.trim().split(',').try_fold(0_u32, |sum, part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
        })
    };
    count().ok_or(Unreadable::malformed(PATH, "Cpus_allowed_list"))
}

/// `/proc/self/limits`.
pub(super) fn process_limits(tree: &Tree) -> Reading<ProcessLimits> {
    const PATH: &str = "/proc/self/limits";
    let text = tree.text(PATH)?;
    let pair = |name: &'static str| {
        let limit = |word: &str| if word == "unlimited" { Some(None) } else { word.parse().ok().map(Some) };
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let mut words = line.unwrap_or_default().split_ascii_whitespace().map(limit);
        match (words.next(), words.next()) {
            (Some(Some(soft)), Some(Some(hard))) => Ok((soft, hard)),
            _ => Err(Unreadable::malformed(PATH, name)),
        }
    };
    let (files_soft, files_hard) = pair("Max open files")?;
    let (threads_soft, _) = pair("Max processes")?;
    let (address_space_soft, _) = pair("Max address space")?;
    let (data_soft, _) = pair("Max data size")?;
    Ok(ProcessLimits { files_soft, files_hard, threads_soft, address_space_soft, data_soft })
}

/// What the process may do, by `/proc/self/status` and `/proc/self/uid_map`.
pub(super) fn privileges(tree: &Tree) -> Reading<Privileges> {
    const PATH: &str = "/proc/self/status";
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let text = tree.text(PATH)?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let effective = field("CapEff:").and_then(|word| u64::from_str_radix(word.trim(), 16).ok());
    let effective = effective.ok_or(Unreadable::malformed(PATH, "CapEff"))?;
    // Capabilities of another user namespace count for nothing here. Where it is not told, it is the first one.
    let map = tree.numbers::<3>("/proc/self/uid_map").unwrap_or([0, 0, u64::from(u32::MAX)]);
    let is_first = map == [0, 0, u64::from(u32::MAX)];
    let is_root = field("Uid:").and_then(|ids| ids.split_ascii_whitespace().next()) == Some("0");
    Ok(Privileges {
        is_admin: is_first && effective & CAP_SYS_ADMIN != 0,
        exceeds_threads: is_first && (is_root || effective & (CAP_SYS_ADMIN | CAP_SYS_RESOURCE) != 0),
    })
}

/// Bytes of a process that are in memory and in no file (`RssAnon`), its page tables included; 0 where it is not told.
pub(super) fn anonymous_bytes(tree: &Tree) -> u64 {
    let text = tree.text("/proc/self/status").unwrap_or_default();
    let kib = |name| named_number(&text, name).unwrap_or(0);
    (kib("RssAnon:") + kib("VmPTE:")) * 1024
}

/// Bytes of address space of a process that map files and are not written to: code and constants; 0 where it is not told.
pub(super) fn code_bytes(tree: &Tree) -> u64 {
    let text = tree.text("/proc/self/maps").unwrap_or_default();
    // proc_pid_maps(5): address, permissions, offset, device, inode, path.
    let bytes = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let is_written = fields.next()?.contains('w');
        fields.nth(3).filter(|path| !is_written && path.starts_with('/'))?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        address(to)?.checked_sub(address(from)?)
    };
    text.lines().filter_map(bytes).sum()
}

/// The first two numbers of a kernel's release.
pub(super) fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Threads of the user that the process belongs to, itself included.
pub(super) fn threads_of_user(tree: &Tree) -> Reading<u64> {
    const PATH: &str = "/proc/self/status";
    let user = |text: &str| -> Option<String> {
        let ids = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        Some(ids.split_ascii_whitespace().next()?.to_owned())
    };
    let own = user(&tree.text(PATH)?).ok_or(Unreadable::malformed(PATH, "Uid"))?;
    let mut threads = 0_u64;
    for process in tree.processes() {
        // A process that ends meanwhile has no threads.
        let Ok(text) = tree.text(&format!("/proc/{process}/status")) else { continue };
        if user(&text).as_ref() == Some(&own) {
            threads += named_number(&text, "Threads:").unwrap_or(0);
        }
    }
    Ok(threads)
}

/// Threads of the machine: the second number of `1/372` in `/proc/loadavg`.
pub(super) fn threads(tree: &Tree) -> Reading<u64> {
    const PATH: &str = "/proc/loadavg";
    let text = tree.text(PATH)?;
    let tasks = text.split_ascii_whitespace().nth(3).and_then(|word| word.split_once('/'));
    tasks.and_then(|(_, all)| all.parse().ok()).ok_or(Unreadable::malformed(PATH, "number of tasks"))
}

/// `net.ipv4.ip_local_port_range`.
pub(super) fn port_range(tree: &Tree) -> Reading<RangeInclusive<u16>> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let [first, last] = tree.numbers(PATH)?;
    match (u16::try_from(first), u16::try_from(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(Unreadable::malformed(PATH, "range of ports")),
    }
}

/// `net.ipv4.ip_local_reserved_ports`: ports and ranges (`8080,9148-9150`).
pub(super) fn reserved_ports(tree: &Tree) -> Reading<Vec<RangeInclusive<u16>>> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
    let text = tree.text(PATH)?;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    parts.map(range).collect::<Option<Vec<_>>>().ok_or(Unreadable::malformed(PATH, "list of ports"))
}

/// `net.ipv4.tcp_ehash_entries`: below zero in a network namespace that shares the first one's table, as most do.
pub(super) fn ehash_entries(tree: &Tree) -> Reading<u64> {
    const PATH: &str = "/proc/sys/net/ipv4/tcp_ehash_entries";
    let entries: Option<i64> = tree.text(PATH)?.trim().parse().ok();
    entries.map(i64::unsigned_abs).ok_or(Unreadable::malformed(PATH, "number"))
}

/// `/proc/net/sockstat`.
pub(super) fn sockstat(tree: &Tree) -> Reading<Sockstat> {
    const PATH: &str = "/proc/net/sockstat";
    let text = tree.text(PATH)?;
    let line = text.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    let number = |name| paired_number(line, name).ok_or(Unreadable::malformed(PATH, "line of TCP"));
    Ok(Sockstat {
        in_use: number("inuse")?,
        orphans: number("orphan")?,
        time_wait: number("tw")?,
        allocated: number("alloc")?,
        pages: number("mem")?,
    })
}

/// `TcpExt` of `/proc/net/netstat` and `Tcp` of `/proc/net/snmp`; the firewall's and the control group's
/// counters of refusals where there are any.
pub(super) fn counters(tree: &Tree) -> Reading<Counters> {
    const PATH: &str = "/proc/net/netstat";
    let mut counters = Counters::new();
    add_table(&tree.text(PATH)?, "TcpExt:", &mut counters);
    if counters.is_empty() {
        return Err(Unreadable::malformed(PATH, "TcpExt"));
    }
    add_table(&tree.text("/proc/net/snmp").unwrap_or_default(), "Tcp:", &mut counters);
    add_conntrack(&tree.text("/proc/net/stat/nf_conntrack").unwrap_or_default(), &mut counters);
    for (controller, file, name, counter) in [
        (Controller::Memory, "memory.events", "max", "memory.events:max"),
        (Controller::Pids, "pids.events", "max", "pids.events:max"),
    ] {
        let directories = tree.group_directories(controller).unwrap_or_default();
        let Some((directory, version)) = directories.first() else { continue };
        let refusals = match (controller, version) {
            (Controller::Memory, Version::V1) => tree.number(&format!("{directory}/memory.failcnt")).ok(),
            _ => tree.text(&format!("{directory}/{file}")).ok().and_then(|text| named_number(&text, name)),
        };
        if let Some(refusals) = refusals {
            counters.insert(counter.to_owned(), refusals);
        }
    }
    Ok(counters)
}

/// A line of names and the line of numbers after it, both with the same first word.
fn add_table(text: &str, table: &str, counters: &mut Counters) {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table));
    if let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
        // A number below zero (`Tcp: MaxConn -1`) counts nothing.
        counters.extend(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))));
    }
}

/// `/proc/net/stat/nf_conntrack`: a line of names, then hexadecimal numbers for each core.
fn add_conntrack(text: &str, counters: &mut Counters) {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split_ascii_whitespace().collect();
    for line in lines {
        for (name, word) in names.iter().zip(line.split_ascii_whitespace()) {
            if let (true, Ok(value)) =
                (matches!(*name, "insert_failed" | "drop" | "early_drop"), u64::from_str_radix(word, 16))
            {
                let sum = counters.entry(format!("nf_conntrack:{name}")).or_insert(0);
                *sum = sum.saturating_add(value);
            }
        }
    }
}

/// Listening sockets of `/proc/net/tcp` and `tcp6`. Of those, `rx_queue` is what waits for `accept`
/// (`tcp4_seq_show` writes `sk_ack_backlog` there); the maximum is not in the file.
pub(super) fn listeners(tree: &Tree) -> Reading<Vec<Listener>> {
    const LISTEN: &str = "0A";
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, _, state, queues) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let (_, queued) = queues.split_once(':')?;
        let listener = Listener {
            address: socket_address(address)?,
            queued: u64::from_str_radix(queued, 16).ok()?,
            queued_max: None,
            // After the queues come timer, retransmits, user and timeout.
            inode: fields.nth(4).and_then(|word| word.parse().ok()),
        };
        (state == LISTEN).then_some(listener)
    };
    // The file begins with the listening sockets: what follows, however many, need not be read.
    let of = |text: String| -> Vec<Listener> { text.lines().skip(1).map_while(parse).collect() };
    let mut listeners = of(tree.text("/proc/net/tcp")?);
    listeners.extend(tree.text("/proc/net/tcp6").map(of).unwrap_or_default());
    Ok(listeners)
}

/// `0100007F:1F90`: groups of four bytes in the machine's order, the port in the network's.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Object sizes of `/proc/slabinfo`, which only root may read. A kernel that merges caches of like size lists
/// them under one name, so a name that is missing fails the reading, and the default is used.
pub(super) fn slab(tree: &Tree) -> Reading<SlabSizes> {
    const PATH: &str = "/proc/slabinfo";
    let text = tree.text(PATH)?;
    let size = |name: &'static str| {
        let size = text.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some(name)).then(|| words.nth(2)?.parse().ok())?
        });
        // An object of no bytes, or of more than any, is none.
        size.filter(|size| (1..1 << 20).contains(size)).ok_or(Unreadable::malformed(PATH, name))
    };
    Ok(SlabSizes {
        tcp: size("TCP")?,
        inode: size("sock_inode_cache")?,
        file: size("filp")?,
        dentry: size("dentry")?,
        epoll_item: size("eventpoll_epi")?,
    })
}
