//! A running server's own numbers: of its metrics page, and of the kernel.
//!
//! Invariant: a number that cannot be read is an error, not a zero.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;

/// How long a busy server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One number of the metrics page, summed over all reactors, by its name without prefix.
///
/// # Errors
/// The page cannot be had, or has no such number.
pub fn metric(server: SocketAddr, name: &str) -> Result<u64, String> {
    let page = page(server).map_err(|error| format!("{server}/metrics: {error}"))?;
    find(&page, name).ok_or_else(|| format!("{server}/metrics has no tcbchat_{name}"))
}

fn page(server: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    // This side ends first, so that the server has no TIME_WAIT for it.
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn find(page: &str, name: &str) -> Option<u64> {
    let value =
        |line: &str| line.strip_prefix("tcbchat_")?.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(value)
}

/// Pages of a process, shared ones in proportion (PSS), in bytes.
///
/// # Errors
/// The process has ended, or is another user's.
pub fn pss_bytes(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
    kib.map(|kib: u64| kib * 1024).ok_or_else(|| format!("{path} has no Pss"))
}

/// CPU seconds of a process so far, to its clock's ticks.
///
/// # Errors
/// The process has ended.
pub fn cpu_s(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let ticks = ticks(&text).ok_or_else(|| format!("{path} has no CPU time"))?;
    Ok(ticks as f64 / clock_ticks_per_second() as f64)
}

/// CPU seconds so far of those threads of a process whose names begin with this.
///
/// # Errors
/// There is none, or the kernel does not count by nanoseconds.
pub fn threads_cpu_s(pid: u32, name: &str) -> Result<f64, String> {
    let directory = format!("/proc/{pid}/task");
    let read = |path: &Path| fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let tasks = fs::read_dir(&directory).map_err(|error| format!("{directory}: {error}"))?;
    let (mut threads, mut nanoseconds) = (0, 0);
    for task in tasks.map_while(Result::ok) {
        if read(&task.path().join("comm"))?.starts_with(name) {
            let path = task.path().join("schedstat");
            nanoseconds +=
                running_ns(&read(&path)?).ok_or_else(|| format!("{} has no CPU time", path.display()))?;
            threads += 1;
        }
    }
    if threads == 0 {
        return Err(format!("process {pid} has no thread {name}..."));
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// The first field: time on a CPU. (`Documentation/scheduler/sched-stats.rst` of the kernel)
fn running_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15; the second is a name that may have blanks.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// What TCP accounts for buffers of all sockets of this network namespace, in bytes.
///
/// # Errors
/// The kernel hides it.
pub fn tcp_buffer_bytes() -> Result<u64, String> {
    const PATH: &str = "/proc/net/sockstat";
    const PAGE_BYTES: u64 = 4096;
    let text = fs::read_to_string(PATH).map_err(|error| format!("{PATH}: {error}"))?;
    let pages = text.lines().find_map(|line| line.strip_prefix("TCP: ")?.rsplit_once("mem ")?.1.parse().ok());
    pages.map(|pages: u64| pages * PAGE_BYTES).ok_or_else(|| format!("{PATH} has no mem of TCP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# TYPE tcbchat_subscriptions gauge\ntcbchat_subscriptions_else 1\n\
                    tcbchat_subscriptions 5000\n# EOF\n";
        assert_eq!(find(page, "subscriptions"), Some(5000));
        assert_eq!((find(page, "subscription"), find(page, "rooms")), (None, None));
    }

    #[test]
    fn this_process_and_this_machine_have_some() {
        assert!(pss_bytes(std::process::id()).unwrap() > 100_000);
        assert!(tcp_buffer_bytes().is_ok());
        assert!(pss_bytes(u32::MAX).is_err() && cpu_s(u32::MAX).is_err());
        assert!(cpu_s(std::process::id()).is_ok());
        assert_eq!(running_ns("944943 94256 1\n"), Some(944_943));
        assert_eq!(ticks("7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 21 4 0 0 20"), Some(25));
    }
}
