//! A server's own numbers, from its metrics page.
//!
//! Only of a server that this process has started: asking another one for a page could be taken for a client's doing.
//!
//! Invariant: a number that the page does not have is absent.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

/// A server with a million connections answers late, when it is busy with all of them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches a page of the server: its body, if the answer is 200.
///
/// The request and the end of this side's stream are one segment, so that this side has always ended first, and the visit
/// leaves no TIME_WAIT with the server.
///
/// # Errors
/// What the sockets say, or the first line of another answer.
pub fn fetch(from: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&from, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Nothing leaves until the end of the stream pushes it.
    SockRef::from(&stream).set_tcp_cork(true)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {from}\r\nConnection: close\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(head.lines().next().unwrap_or("an empty answer").to_owned()))
    }
}

/// Numbers of a scrape, by name without prefix and with label (`tcb_entries{state="time_wait"}`).
#[derive(Debug, Clone)]
pub struct Metrics(BTreeMap<String, u64>);

impl Metrics {
    /// The numbers of a page.
    pub fn parse(page: &str) -> Self {
        let numbers = page.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("tcbchat_")?.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse::<f64>().ok()? as u64))
        });
        Self(numbers.collect())
    }

    /// A number; `None` for one that is not there.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// A number; 0 for one that is not there.
    pub fn get(&self, name: &str) -> u64 {
        self.find(name).unwrap_or(0)
    }

    /// Every number whose name begins so, with the value of its label.
    pub fn labelled(&self, name: &str) -> Vec<(String, u64)> {
        self.0
            .iter()
            .filter_map(|(full, value)| {
                let label = full.strip_prefix(name)?.strip_prefix('{')?.split('"').nth(1)?;
                Some((label.to_owned(), *value))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read_by_name_and_label() {
        let page = "# TYPE tcbchat_tcb_entries gauge\n\
                    tcbchat_tcb_entries{state=\"established\"} 7\n\
                    tcbchat_tcb_entries{state=\"time_wait\"} 500\n\
                    tcbchat_tcb_refused_total 12\nother 1\n# EOF\n";
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.get("tcb_entries{state=\"time_wait\"}"), 500);
        assert_eq!((metrics.get("tcb_refused_total"), metrics.get("other")), (12, 0));
        assert_eq!(metrics.find("other"), None);
        let labelled = metrics.labelled("tcb_entries");
        assert_eq!(labelled, [("established".to_owned(), 7), ("time_wait".to_owned(), 500)]);
    }
}
