//! The thread-per-connection server as a process: readiness, the end by SIGTERM, and a kernel that gives no more
//! threads.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// Connections that are tried before the test gives up: more than the address space below has stacks for.
const CONNECTIONS_MAX: usize = 400;
/// Address space that the server gets beyond what it has: at most 32 stacks of 2 MiB.
const ADDRESS_SPACE_BYTES: u64 = 64 << 20;

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(threads_max: &str) -> Server {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(["bio-server", "--listen", "127.0.0.1:0", "--threads-max", threads_max])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_once("listening on http://").unwrap().1;
        let address = address.split_whitespace().next().unwrap().parse().unwrap();
        Server { child, address }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Asks for an upgrade; the connection and the answer's head, or as much of it as came.
    fn dial(&self) -> (TcpStream, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = "GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = vec![0; 1024];
        // Nothing, if the process has ended with its last thread.
        let length = stream.read(&mut answer).unwrap_or_default();
        answer.truncate(length);
        (stream, String::from_utf8(answer).unwrap())
    }

    /// Whether the standard library has ended the process, as it does when a new thread has got its stack and there is
    /// no memory for what else it maps; its words if so.
    fn has_aborted(&mut self) -> Option<String> {
        let status = self.child.try_wait().unwrap()?;
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{log}");
        Some(log)
    }

    /// Its log, after SIGTERM.
    fn stop(mut self) -> String {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already unless the test has failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn sigterm_ends_it_with_its_connections_open() {
    let server = Server::start("2");
    let (_open, answer) = server.dial();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    assert_eq!(server.stop(), "");
}

#[test]
fn without_a_thread_a_connection_is_refused_with_the_reason_and_the_server_lives() {
    // What is left beside whole stacks decides whether the kernel refuses a stack, or something smaller.
    let is_refused =
        |attempt: u64| without_a_thread_a_connection_is_refused(ADDRESS_SPACE_BYTES + (attempt << 19));
    assert!((0..8_u64).any(is_refused), "the process ended each time");
}

/// `false` if the process has ended instead.
fn without_a_thread_a_connection_is_refused(address_space_bytes: u64) -> bool {
    let mut server = Server::start("1000");
    // One that is served shows that the server has all that it needs for itself.
    let (first, answer) = server.dial();
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    // A limit of the child alone, for memory that it has not taken yet.
    let status = std::fs::read_to_string(format!("/proc/{}/statm", server.child.id())).unwrap();
    let pages: u64 = status.split_whitespace().next().unwrap().parse().unwrap();
    let most = Some(pages * rustix::param::page_size() as u64 + address_space_bytes);
    prlimit(Some(server.pid()), Resource::As, Rlimit { current: most, maximum: most }).unwrap();
    let mut open = vec![first];
    let refusal = loop {
        assert!(open.len() < CONNECTIONS_MAX, "nothing was refused");
        match server.dial() {
            (stream, answer) if answer.starts_with("HTTP/1.1 101") => open.push(stream),
            (mut stream, mut answer) => {
                if stream.read_to_string(&mut answer).is_err() || answer.is_empty() {
                    std::thread::sleep(Duration::from_millis(200));
                    let log = server.has_aborted().expect("an answer, or the end of the process");
                    eprintln!("the process ended: {log}");
                    return false;
                }
                break answer;
            }
        }
    };
    assert!(refusal.starts_with("HTTP/1.1 503") && refusal.contains("there is no thread"), "{refusal}");
    // Who leaves makes room.
    open.clear();
    let again = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        server.dial().1.starts_with("HTTP/1.1 101")
    });
    assert!(again, "nobody is admitted after all have left");
    let log = server.stop();
    assert_eq!(log.matches("bio-server: wall at ").count(), 1, "{log}");
    true
}
