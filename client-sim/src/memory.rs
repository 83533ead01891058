//! What a run costs in memory and CPU: of the server, of the simulator, and of the kernel.
//!
//! Three accounts that are never mixed: user pages of each process (PSS), and the kernel's own (slab, with
//! the caches that grow by connections named; page tables; TCP buffers). All are read from procfs, and a
//! value that cannot be read is absent, not zero. Kernel numbers are of the whole machine: other programs'
//! doings are in them, and both ends are when the server is on the same machine.
//!
//! Invariant: nothing here is per connection; [`crate::report`] divides differences of two samples.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

const PAGE_BYTES: u64 = 4096;

/// One reading of everything.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// At which point of the run it was taken.
    pub label: &'static str,
    /// Seconds after the start of the run.
    pub at_s: f64,
    /// The server's pages, shared ones in proportion; absent when the server is not known.
    pub server_pss_bytes: Option<u64>,
    /// Of these, the pages that no file is behind: heap, arrays, stacks.
    pub server_pss_anonymous_bytes: Option<u64>,
    /// Of these, the pages of files: code and constants.
    pub server_pss_file_bytes: Option<u64>,
    /// The server's own page tables, which are no part of its pages.
    pub server_page_table_bytes: Option<u64>,
    /// The simulator's own.
    pub simulator_pss_bytes: Option<u64>,
    /// All slab caches of the kernel.
    pub slab_bytes: Option<u64>,
    /// Page tables of all processes.
    pub page_table_bytes: Option<u64>,
    /// Kernel stacks of all threads of all processes.
    pub kernel_stack_bytes: Option<u64>,
    /// Memory that TCP accounts for buffers.
    pub tcp_buffer_bytes: Option<u64>,
    /// Sockets in TIME_WAIT.
    pub tcp_time_wait: Option<u64>,
    /// CPU seconds of the server so far.
    pub server_cpu_s: Option<f64>,
    /// Threads of the server.
    pub server_threads: Option<u64>,
    /// How often those threads have given up their CPU so far, to wait for something.
    pub server_switches_voluntary: Option<u64>,
    /// How often those threads have lost their CPU so far, while they had work to do.
    pub server_switches_involuntary: Option<u64>,
    /// Those of them outside the kernel; the kernel's clock tells the two apart by ticks.
    pub server_user_cpu_s: Option<f64>,
    /// CPU seconds of the simulator so far.
    pub simulator_cpu_s: Option<f64>,
    /// Those of them outside the kernel.
    pub simulator_user_cpu_s: Option<f64>,
    /// Memory of each slab cache; empty without the right to read `/proc/slabinfo`.
    #[serde(skip)]
    pub caches: Vec<Cache>,
}

/// One slab cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// The kernel's name for it.
    pub name: String,
    /// Pages that it holds, in bytes.
    pub bytes: u64,
    /// Objects in use.
    pub objects: u64,
}

impl Sample {
    /// Reads everything now.
    pub fn take(label: &'static str, at_s: f64, server_pid: Option<u32>) -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let threads = server_pid.and_then(Threads::of);
        let server = |name| process_file(&server_pid?.to_string(), name);
        let rollup = server("smaps_rollup").unwrap_or_default();
        let status = server("status").unwrap_or_default();
        Self {
            label,
            at_s,
            server_pss_bytes: kib_field(&rollup, "Pss:"),
            server_pss_anonymous_bytes: kib_field(&rollup, "Pss_Anon:"),
            server_pss_file_bytes: kib_field(&rollup, "Pss_File:"),
            server_page_table_bytes: kib_field(&status, "VmPTE:"),
            simulator_pss_bytes: pss_bytes("self"),
            slab_bytes: kib_field(&meminfo, "Slab:"),
            page_table_bytes: kib_field(&meminfo, "PageTables:"),
            kernel_stack_bytes: kib_field(&meminfo, "KernelStack:"),
            tcp_buffer_bytes: tcp_field(&sockstat, "mem").map(|pages| pages * PAGE_BYTES),
            tcp_time_wait: tcp_field(&sockstat, "tw"),
            server_cpu_s: server_pid.and_then(cpu_s),
            server_user_cpu_s: server_pid.and_then(user_cpu_s),
            server_threads: threads.map(|threads| threads.count),
            server_switches_voluntary: threads.map(|threads| threads.switches_voluntary),
            server_switches_involuntary: threads.map(|threads| threads.switches_involuntary),
            simulator_cpu_s: cpu_s(std::process::id()),
            simulator_user_cpu_s: user_cpu_s(std::process::id()),
            caches: parse_slabinfo(&fs::read_to_string("/proc/slabinfo").unwrap_or_default()),
        }
    }
}

/// The threads of a process. Those that have ended are not in it.
#[derive(Debug, Clone, Copy, Default)]
struct Threads {
    count: u64,
    switches_voluntary: u64,
    switches_involuntary: u64,
}

impl Threads {
    fn of(pid: u32) -> Option<Threads> {
        let mut all = Threads::default();
        for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            // One that ends meanwhile has no file any more.
            let Ok(status) = fs::read_to_string(thread.path().join("status")) else { continue };
            all.count += 1;
            all.switches_voluntary += number_field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
            all.switches_involuntary += number_field(&status, "nonvoluntary_ctxt_switches:").unwrap_or(0);
        }
        Some(all)
    }
}

/// Resident bytes of a process: cheap enough to be read every second, unlike PSS.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}

fn process_file(pid: &str, name: &str) -> Option<String> {
    fs::read_to_string(["/proc", pid, name].iter().collect::<PathBuf>()).ok()
}

fn pss_bytes(pid: &str) -> Option<u64> {
    kib_field(&process_file(pid, "smaps_rollup")?, "Pss:")
}

/// The process's CPU clock: all of its threads, those that have ended too, in nanoseconds.
fn cpu_s(pid: u32) -> Option<f64> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).ok()?)).ok()?;
    Some(Duration::from(clock_gettime(clock).ok()?).as_secs_f64())
}

fn user_cpu_s(pid: u32) -> Option<f64> {
    parse_user_ticks(&process_file(&pid.to_string(), "stat")?)
        .map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// `utime` of `/proc/PID/stat`; the name before it may hold spaces and brackets.
fn parse_user_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(11)?.parse().ok()
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    number_field(text, name).map(|kib| kib * 1024)
}

/// The number of the line that begins with `name`, without its unit.
fn number_field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().trim_end_matches(" kB").parse().ok()
}

fn tcp_field(sockstat: &str, name: &str) -> Option<u64> {
    let mut words = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?.split_whitespace();
    words.find(|word| *word == name)?;
    words.next()?.parse().ok()
}

/// Version 2.1 of slabinfo: `name active_objs num_objs objsize objperslab pagesperslab : tunables ... :
/// slabdata active_slabs num_slabs sharedavail`.
fn parse_slabinfo(text: &str) -> Vec<Cache> {
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with("slabinfo"))
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let slabs: u64 = words.get(14)?.parse().ok()?;
            Some(Cache {
                name: words[0].to_owned(),
                objects: words[1].parse().ok()?,
                bytes: slabs * words[5].parse::<u64>().ok()? * PAGE_BYTES,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabinfo_is_read_as_the_kernel_writes_it() {
        let text = "slabinfo - version: 2.1\n\
            # name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables\n\
            TCP                   12     26   2432   13    8 : tunables    0    0    0 : slabdata      2      2      0\n\
            garbage\n";
        assert_eq!(parse_slabinfo(text), [Cache { name: "TCP".into(), bytes: 2 * 8 * 4096, objects: 12 }]);
    }

    #[test]
    fn sockstat_and_stat_are_read_by_name_and_place() {
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 10 mem 4\nUDP: inuse 1 mem 7\n";
        assert_eq!((tcp_field(sockstat, "tw"), tcp_field(sockstat, "mem")), (Some(3), Some(4)));
        assert_eq!(tcp_field(sockstat, "nothing"), None);
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 4 0 0 20";
        assert_eq!(parse_user_ticks(stat), Some(30));
    }

    #[test]
    fn a_thread_that_waits_gives_up_its_cpu() {
        const WAITS: u64 = 3;
        std::thread::scope(|scope| {
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let (arrived, there) = std::sync::mpsc::channel();
            scope.spawn(move || {
                (0..WAITS).for_each(|_| std::thread::sleep(std::time::Duration::from_millis(1)));
                arrived.send(()).unwrap();
                wait.recv().unwrap_err();
            });
            there.recv().unwrap();
            let threads = Threads::of(std::process::id()).unwrap();
            assert!(threads.switches_voluntary >= WAITS && threads.count >= 2, "{threads:?}");
            drop(go);
        });
    }

    #[test]
    fn this_process_can_be_sampled() {
        let sample = Sample::take("now", 0.0, Some(std::process::id()));
        assert!(sample.simulator_pss_bytes.unwrap() > 100_000);
        let parts = [sample.server_pss_anonymous_bytes.unwrap(), sample.server_pss_file_bytes.unwrap()];
        // Each is rounded to a KiB, and shared memory is a third part.
        assert!(parts.iter().all(|part| *part > 0), "{parts:?}");
        assert!(parts.iter().sum::<u64>() <= sample.server_pss_bytes.unwrap() + 2048, "{parts:?}");
        assert!(sample.server_page_table_bytes.unwrap() > 0);
        assert!(sample.slab_bytes.unwrap() > 0 && sample.simulator_cpu_s.is_some());
        assert!(rss_bytes(std::process::id()).unwrap() > 100_000);
        assert!(sample.kernel_stack_bytes.unwrap() > 0);
        assert!(sample.server_threads.unwrap() >= 1);
    }
}
