//! The real server, started in a place, and what can be seen of it from outside.
//!
//! Owns the process: it ends with [`Server`].

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::ANSWER_MAX;
use crate::cases::Case;
use crate::place::Groups;

/// The server's address, in a namespace of its own.
pub const ADDRESS: &str = "127.0.0.1:8080";

/// A server in a place.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts it; `None` if it does not become ready.
    pub fn start(case: &Case, groups: &Groups, address: &str) -> Option<Server> {
        let mut command = case.place.command(groups, &["serve", "--listen", address], &case.options);
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut server = Server { child: spawned.expect("the place can be entered") };
        let mut line = String::new();
        let stdout = server.child.stdout.take().expect("it is a pipe");
        // A server that does not start closes it.
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        line.starts_with("tcbchat ready").then_some(server)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).expect("a process has a number")
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// The same of one that may be ending: its clients know first.
    pub fn ends_soon(&mut self) -> bool {
        let end = Instant::now() + ANSWER_MAX;
        while !self.has_ended() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        self.has_ended()
    }

    /// One of its numbers, when nobody is connected any more.
    pub fn number(&self, name: &str) -> u64 {
        let end = Instant::now() + 2 * ANSWER_MAX;
        while Instant::now() < end {
            let mut page = String::new();
            let asked = TcpStream::connect(ADDRESS).and_then(|mut stream| {
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
                stream.read_to_string(&mut page)
            });
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            if let (Ok(_), Some(Ok(number))) = (asked, line.map(str::parse)) {
                return number;
            }
            thread::sleep(Duration::from_millis(50));
        }
        0
    }

    /// Whether a table of descriptors of it is full.
    pub fn is_out_of_descriptors(&self) -> bool {
        let open = fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count) as u64;
        // The limit of another process is read where it stands.
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
        let limit = line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
        open >= limit
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is what some cases are about.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
