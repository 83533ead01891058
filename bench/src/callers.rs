//! Clients that say who they are, and are gone when they have their answer: a flood of them, or a crowd.
//!
//! Each has a connection of its own, from an address that can be chosen, and writes opening handshake and CONNECT in one go.
//! All of them are served by the thread that they belong to, with one epoll. Who is gone has reset its connection, so no port
//! waits.
//!
//! Invariant: who has an answer, or has given up, holds no descriptor.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use memchr::memmem;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};
use tcbchat_bench::crowd::UPGRADE;

use crate::guests::connect_with;

/// How long the kernel may take for a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Callers that are looked at in one turn.
const EVENTS_MAX: usize = 64;

/// What became of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It has a session.
    Connected,
    /// It was told that it gets none, or the connection has ended.
    Refused,
}

#[derive(Debug)]
struct Caller {
    stream: TcpStream,
    since: Instant,
}

/// Callers of one server.
pub struct Callers {
    server: SocketAddr,
    epoll: OwnedFd,
    /// By number, which is their order.
    waiting: BTreeMap<u64, Caller>,
    next: u64,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
}

impl Callers {
    /// None yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(server: SocketAddr) -> Result<Callers, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        let events = Vec::with_capacity(EVENTS_MAX);
        Ok(Callers { server, epoll, waiting: BTreeMap::new(), next: 0, events, scratch: vec![0; 4096] })
    }

    /// One more from this address, with these lines of CONNECT.
    ///
    /// # Errors
    /// The server does not take the connection, or the kernel has none.
    pub fn call(&mut self, source: Ipv4Addr, lines: &str) -> Result<(), String> {
        let mut bytes = UPGRADE.as_bytes().to_vec();
        bytes.extend(connect_with(lines));
        let stream = dial(source, self.server, &bytes).map_err(|error| format!("{source}: {error}"))?;
        let data = epoll::EventData::new_u64(self.next);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)
            .map_err(|error| format!("epoll: {error}"))?;
        self.waiting.insert(self.next, Caller { stream, since: Instant::now() });
        self.next += 1;
        Ok(())
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Waits for answers, `at_most` so long, and tells `hear` of them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn turn(&mut self, at_most: Duration, mut hear: impl FnMut(Answer)) -> Result<(), String> {
        let at_most = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, Some(&at_most)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        for event in &self.events {
            let data = event.data;
            let number = data.u64();
            let Some(caller) = self.waiting.get_mut(&number) else { continue };
            if let Some(answer) = caller.read(&mut self.scratch) {
                self.waiting.remove(&number);
                hear(answer);
            }
        }
        Ok(())
    }

    /// Those who have waited so long are gone. Returns how many that are.
    pub fn give_up(&mut self, after: Duration) -> u32 {
        let mut gone = 0;
        while self.waiting.first_entry().is_some_and(|first| first.get().since.elapsed() > after) {
            self.waiting.pop_first();
            gone += 1;
        }
        gone
    }
}

impl Caller {
    /// What the server says to it, if that is an answer.
    fn read(&mut self, scratch: &mut [u8]) -> Option<Answer> {
        match self.stream.read(scratch) {
            Ok(length) => {
                let said = &scratch[..length];
                let has = |word: &[u8]| memmem::find(said, word).is_some();
                if has(b"CONNECTED\n") {
                    return Some(Answer::Connected);
                }
                // Of an answer that comes in pieces the end of the connection is the last one.
                (length == 0 || has(b"ERROR\n")).then_some(Answer::Refused)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Err(_) => Some(Answer::Refused),
        }
    }
}

/// A connection on which these bytes were written. It is reset when it is dropped.
fn dial(source: Ipv4Addr, server: SocketAddr, bytes: &[u8]) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&server.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(bytes)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(127, 7, 0, 3);

    /// A server that gives these answers, one to each caller, and then none.
    fn answering(answers: &'static [&str]) -> Callers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let callers = Callers::of(listener.local_addr().unwrap()).unwrap();
        thread::spawn(move || {
            let mut all = Vec::new();
            for answer in answers {
                let (mut stream, from) = listener.accept().unwrap();
                assert_eq!(from.ip(), OWN);
                let mut bytes = [0; 4096];
                let length = stream.read(&mut bytes).unwrap();
                assert!(memmem::find(&bytes[..length], b"\nlogin:me\n\n\0").is_some());
                stream.write_all(answer.as_bytes()).unwrap();
                all.push(stream);
            }
            // Until all are gone.
            all.iter_mut().for_each(|stream| drop(stream.read(&mut [0; 8])));
        });
        callers
    }

    #[test]
    fn answers_are_told_apart_and_who_has_none_gives_up() {
        let mut callers = answering(&[
            "HTTP/1.1 101 \r\n\r\n\u{1}CONNECTED\n\n",
            "HTTP/1.1 101 \r\n\r\nERROR\n\n",
            "HTTP/1.1 101 \r\n\r\n",
        ]);
        for _ in 0..3 {
            callers.call(OWN, "login:me\n").unwrap();
        }
        let mut heard = Vec::new();
        while heard.len() < 2 {
            callers.turn(PATIENCE, |answer| heard.push(answer)).unwrap();
        }
        heard.sort_by_key(|answer| *answer == Answer::Refused);
        assert_eq!(heard, [Answer::Connected, Answer::Refused]);
        assert_eq!((callers.waiting(), callers.give_up(PATIENCE)), (1, 0));
        assert_eq!((callers.give_up(Duration::ZERO), callers.waiting()), (1, 0));
    }
}
