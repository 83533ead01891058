//! What the process uses, read from the kernel.
//!
//! The resident size is a counter of the kernel and free to read. The proportional size is summed over all
//! pages at each reading (`smaps_rollup`), which takes milliseconds for gigabytes: [`Meter`] reads it at
//! most once per second, whoever asks. Kernel memory for sockets does not belong to a process; the kernel
//! counts it per network namespace.
//!
//! Invariant: a number that cannot be read is absent, never zero.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time for which a reading of the proportional size is good.
const ROLLUP_AGE_MAX: Duration = Duration::from_secs(1);

/// Reads the memory of the own process.
#[derive(Debug, Default)]
pub struct Meter {
    /// The last proportional size, and when it was read.
    rollup: Mutex<Option<(Instant, u64)>>,
}

impl Meter {
    /// Bytes of the process that are in memory, those shared with other processes included.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/statm").ok()?;
        resident_pages(&text)?.checked_mul(rustix::param::page_size() as u64)
    }

    /// Bytes of the process that are in memory, pages shared by several processes divided among them. Up to
    /// a second old. `None` also while another thread is reading.
    pub fn proportional_bytes(&self) -> Option<u64> {
        // A reactor must not wait for another one's reading.
        let mut rollup = self.rollup.try_lock()?;
        match *rollup {
            Some((when, bytes)) if when.elapsed() < ROLLUP_AGE_MAX => Some(bytes),
            _ => {
                let text = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
                let bytes = rollup_bytes(&text)?;
                *rollup = Some((Instant::now(), bytes));
                Some(bytes)
            }
        }
    }
}

/// The second number of `/proc/self/statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// `Pss` of `smaps_rollup`.
fn rollup_bytes(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

/// TCP of the own network namespace, as the kernel counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTcp {
    /// Sockets, in every state that has one.
    pub sockets: u64,
    /// Sockets that no process has any more.
    pub orphans: u64,
    /// Connections in TIME_WAIT.
    pub time_wait: u64,
    /// Bytes of socket buffers, for the whole machine.
    pub buffer_bytes: u64,
}

impl KernelTcp {
    /// Reads `/proc/net/sockstat`.
    pub fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/net/sockstat").ok()?, rustix::param::page_size() as u64)
    }

    fn parse(sockstat: &str, page_bytes: u64) -> Option<Self> {
        let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let value = |name: &str| {
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1)?.parse::<u64>().ok()
        };
        Some(Self {
            sockets: value("alloc")?,
            orphans: value("orphan")?,
            time_wait: value("tw")?,
            buffer_bytes: value("mem")?.checked_mul(page_bytes)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_can_be_read() {
        let meter = Meter::default();
        let resident = meter.resident_bytes().unwrap();
        let proportional = meter.proportional_bytes().unwrap();
        assert!(resident > 100_000 && proportional > 100_000, "{resident} {proportional}");
        // The second reading is the first, for a second.
        assert!(meter.rollup.lock().is_some());
        assert!(meter.proportional_bytes().is_some());
    }

    #[test]
    fn nobody_waits_for_a_reading() {
        let meter = Meter::default();
        let held = meter.rollup.lock();
        assert_eq!(meter.proportional_bytes(), None);
        drop(held);
    }

    #[test]
    fn files_of_the_kernel() {
        assert_eq!(resident_pages("100 7 3 1 0 9 0\n"), Some(7));
        assert_eq!(resident_pages(""), None);
        assert_eq!(rollup_bytes("5-7 ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss:     8 kB\n"), Some(8192));
        assert_eq!(rollup_bytes("Rss: 9 kB\n"), None);
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 1 tw 2 alloc 7 mem 3\nUDP: inuse 1 mem 0\n";
        assert_eq!(
            KernelTcp::parse(sockstat, 4096),
            Some(KernelTcp { sockets: 7, orphans: 1, time_wait: 2, buffer_bytes: 12_288 })
        );
        assert_eq!(KernelTcp::parse("UDP: inuse 1\n", 4096), None);
    }
}
