//! The started server's own numbers, from its metrics page.
//!
//! Only of a server that this run has started: asking another one for a page could be taken for a client's doing. A
//! number that the page does not have is absent, not zero.
//!
//! Invariant: nothing here can fail a run.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Serialize;

/// A server with a million connections answers late, when it is busy with all of them.
const PATIENCE: Duration = Duration::from_secs(10);
/// The page is some tens of kilobytes.
const PAGE_BYTES_MAX: u64 = 4 << 20;

/// What the server has counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Turns of all reactors' loops.
    pub turns: Option<u64>,
    /// Deadlines that came due.
    pub timers_fired: Option<u64>,
    /// Write system calls.
    pub sends: Option<u64>,
    /// Heart-beats that it sent.
    pub heart_beats_sent: Option<u64>,
    /// Heart-beats that it received.
    pub heart_beats_received: Option<u64>,
}

impl Counted {
    /// Asks the server; `None` when it does not answer.
    pub fn ask(server: SocketAddr) -> Option<Self> {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: client-sim\r\nConnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.take(PAGE_BYTES_MAX).read_to_string(&mut page).ok()?;
        page.starts_with("HTTP/1.1 200").then(|| Self::read(&page))
    }

    fn read(page: &str) -> Self {
        Self {
            turns: sum(page, "tcbchat_turns_total"),
            timers_fired: sum(page, "tcbchat_timers_fired_total"),
            sends: sum(page, "tcbchat_sends_total"),
            heart_beats_sent: sum(page, "tcbchat_heart_beats_sent_total"),
            heart_beats_received: sum(page, "tcbchat_heart_beats_received_total"),
        }
    }
}

/// A metric, summed over its labels.
fn sum(page: &str, name: &str) -> Option<u64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_whole = rest.starts_with([' ', '{']);
        rest.rsplit(' ').next().filter(|_| is_whole)?.parse::<u64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_summed_over_labels_and_found_by_their_whole_name() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# HELP tcbchat_turns x\ntcbchat_turns_total{reactor=\"0\"} 5\n\
                    tcbchat_turns_total{reactor=\"1\"} 7\ntcbchat_turns_total_more 9\ntcbchat_sends_total 3\n# EOF\n";
        let counted = Counted::read(page);
        assert_eq!((counted.turns, counted.sends, counted.timers_fired), (Some(12), Some(3), None));
    }
}
