//! Guests of a room: clients that do what the simulator's do not. They join and leave on time, stop reading and go on, or
//! reset their connections.
//!
//! All of them are served by the thread that they belong to, with one epoll. A guest has one connection and at most one
//! subscription; there are no heart-beats. Every guest watches the order of what it hears: the server gives a room's messages
//! consecutive numbers.
//!
//! Invariant: a guest that has missed a message, or has heard one twice, is an error of the turn in which it shows.

mod inbound;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use socket2::SockRef;
use tcbchat_bench::crowd::{UPGRADE, ws_frame};

pub use inbound::Heard;
use inbound::Problem;

/// How long the server may take to let a guest in, or to answer all of them.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes read from one guest's socket in one go, behind what is left of a frame.
const READ_BYTES: usize = 256 * 1024;
/// Guests that are looked at in one turn: few, so that others are looked at in between.
const EVENTS_MAX: usize = 32;
/// The receipts that guests ask for.
pub const JOINED: &[u8] = b"in";
/// See [`JOINED`].
pub const LEFT: &[u8] = b"out";

#[derive(Debug)]
struct Guest {
    /// `None` once it is gone.
    stream: Option<TcpStream>,
    /// Received, but not a whole frame yet.
    rest: Vec<u8>,
    /// The number that the next message must have; `None` before the first one of a subscription.
    next: Option<u64>,
}

/// What a guest says of itself beyond what all say, as lines of CONNECT.
const NOBODY: &str = "";

/// Some guests of one server, by number.
pub struct Guests {
    epoll: OwnedFd,
    guests: Vec<Guest>,
    events: Vec<epoll::Event>,
    scratch: Vec<u8>,
    /// How many the server has ended, if it may.
    ended: Option<u32>,
}

impl Guests {
    /// `count` sessions, in no room yet.
    ///
    /// # Errors
    /// The server does not let all of them in.
    pub fn connect(server: SocketAddr, count: u32) -> Result<Guests, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
        let scratch = vec![0; READ_BYTES + inbound::FRAME_BYTES_MAX];
        let events = Vec::with_capacity(EVENTS_MAX);
        let mut all = Guests { epoll, guests: Vec::new(), events, scratch, ended: None };
        for n in 0..count {
            all.guests.push(Guest::enter(server).map_err(|problem| format!("guest {n}: {problem}"))?);
            all.read_again(n)?;
        }
        Ok(all)
    }

    /// A guest that the server ends is no error from here on: it is gone.
    pub fn may_end(&mut self) {
        self.ended = Some(0);
    }

    /// How many there are, those that are gone included.
    pub fn count(&self) -> u32 {
        self.guests.len() as u32
    }

    /// A guest without a subscription asks for one. The receipt is [`JOINED`].
    ///
    /// # Errors
    /// Its socket does not take it.
    pub fn join(&mut self, n: u32, destination: &str) -> Result<(), String> {
        self.guests[n as usize].next = None;
        self.say(n, &format!("SUBSCRIBE\nid:0\ndestination:{destination}\nreceipt:in\n\n\0"))
    }

    /// A guest ends its subscription. The receipt is [`LEFT`].
    ///
    /// # Errors
    /// Its socket does not take it.
    pub fn leave(&mut self, n: u32) -> Result<(), String> {
        self.say(n, "UNSUBSCRIBE\nid:0\nreceipt:out\n\n\0")
    }

    /// A guest sends one STOMP frame.
    ///
    /// # Errors
    /// Its socket does not take it.
    pub fn say(&mut self, n: u32, stomp_frame: &str) -> Result<(), String> {
        let Some(stream) = &mut self.guests[n as usize].stream else {
            return Err(format!("guest {n} has gone"));
        };
        stream.write_all(&ws_frame(stomp_frame)).map_err(|error| format!("guest {n} says something: {error}"))
    }

    /// These guests join, and all of them have their receipts.
    ///
    /// # Errors
    /// One has not got it in time.
    pub fn join_all(&mut self, these: impl Iterator<Item = u32>, destination: &str) -> Result<(), String> {
        let mut awaited = 0;
        for n in these {
            self.join(n, destination)?;
            awaited += 1;
        }
        let deadline = Instant::now() + PATIENCE;
        while awaited > 0 {
            if Instant::now() > deadline {
                return Err(format!("{awaited} guests have waited {PATIENCE:?} for their receipts"));
            }
            self.turn(PATIENCE, &mut |_, heard| {
                awaited -= u32::from(*heard == Heard::Receipt(JOINED));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// A guest's socket is not read any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn stop_reading(&mut self, n: u32) -> Result<(), String> {
        let Some(stream) = &self.guests[n as usize].stream else { return Ok(()) };
        epoll::delete(&self.epoll, stream).map_err(|error| format!("epoll, guest {n}: {error}"))
    }

    /// It is read again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_again(&mut self, n: u32) -> Result<(), String> {
        let Some(stream) = &self.guests[n as usize].stream else { return Ok(()) };
        let data = epoll::EventData::new_u64(u64::from(n));
        epoll::add(&self.epoll, stream, data, epoll::EventFlags::IN)
            .map_err(|error| format!("epoll, guest {n}: {error}"))
    }

    /// A guest resets its connection (`SO_LINGER` of 0).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset(&mut self, n: u32) -> Result<(), String> {
        let Some(stream) = self.guests[n as usize].stream.take() else { return Ok(()) };
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .map_err(|error| format!("SO_LINGER, guest {n}: {error}"))
    }

    /// Waits until there is something for these guests or those, `at_most` so long.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait_for_either(&self, other: &Guests, at_most: Duration) -> Result<(), String> {
        let mut both = [&self.epoll, &other.epoll].map(|epoll| PollFd::new(epoll, PollFlags::IN));
        match poll(&mut both, Some(&timespec(at_most))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(format!("poll: {error}")),
        }
    }

    /// Waits for what the server says, `at_most` so long, and tells `hear` of it frame by frame.
    ///
    /// # Errors
    /// A guest's session has ended and may not, its order is broken, or what `hear` says.
    pub fn turn(
        &mut self,
        at_most: Duration,
        hear: &mut impl FnMut(u32, &Heard<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let at_most = timespec(at_most);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_most)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        for event in &events {
            let data = event.data;
            let n = data.u64() as u32;
            match (self.read(n, hear), &mut self.ended) {
                (Ok(()), _) => {}
                (Err(Problem::Ended(_)), Some(ended)) => {
                    *ended += 1;
                    self.reset(n)?;
                }
                (Err(Problem::Ended(problem) | Problem::Wrong(problem)), _) => {
                    return Err(format!("guest {n}: {problem}"));
                }
            }
        }
        self.events = events;
        Ok(())
    }

    fn read(
        &mut self,
        n: u32,
        hear: &mut impl FnMut(u32, &Heard<'_>) -> Result<(), String>,
    ) -> Result<(), Problem> {
        let Guest { stream, rest, next } = &mut self.guests[n as usize];
        let Some(stream) = stream else { return Ok(()) };
        let before = rest.len();
        self.scratch[..before].copy_from_slice(rest);
        let length = match stream.read(&mut self.scratch[before..]) {
            Ok(0) => return Err(Problem::Ended("the server has ended the connection".to_owned())),
            Ok(length) => before + length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(Problem::Ended(error.to_string())),
        };
        let mut used = 0;
        while let Some((bytes, heard)) = inbound::frame(&self.scratch[used..length])? {
            if let Heard::Message { sequence, .. } = heard {
                if next.is_some_and(|next| next != sequence) {
                    return Err(Problem::Wrong(format!("message {sequence} where {next:?} is next")));
                }
                *next = Some(sequence + 1);
            }
            hear(n, &heard)?;
            used += bytes;
        }
        rest.clear();
        rest.extend_from_slice(&self.scratch[used..length]);
        Ok(())
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

impl Guest {
    /// One session, in no room yet.
    fn enter(server: SocketAddr) -> Result<Guest, String> {
        let mut stream = upgraded(server)?;
        log_in(&mut stream, NOBODY)?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        Ok(Guest { stream: Some(stream), rest: Vec::new(), next: None })
    }
}

/// A connection with its WebSocket open, on which nothing was said. Reading and writing wait.
///
/// # Errors
/// The server does not open one.
pub fn upgraded(server: SocketAddr) -> Result<TcpStream, String> {
    let open = || {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(UPGRADE.as_bytes())?;
        Ok::<TcpStream, std::io::Error>(stream)
    };
    let mut stream = open().map_err(|error| error.to_string())?;
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        hear_more(&mut stream, &mut received)?;
    }
    if !received.starts_with(b"HTTP/1.1 101 ") {
        return Err(String::from_utf8_lossy(&received).lines().next().unwrap_or_default().to_owned());
    }
    Ok(stream)
}

/// Says CONNECT with these lines, and waits until the session is there.
///
/// # Errors
/// The server says something else, or nothing.
pub fn log_in(stream: &mut TcpStream, lines: &str) -> Result<(), String> {
    stream.write_all(&connect_with(lines)).map_err(|error| error.to_string())?;
    let mut received = Vec::new();
    while inbound::frame(&received)?.is_none_or(|(_, heard)| heard != Heard::Connected) {
        hear_more(stream, &mut received)?;
    }
    Ok(())
}

/// A CONNECT without heart-beats that has these lines, each with its end.
pub fn connect_with(lines: &str) -> Vec<u8> {
    ws_frame(&format!("CONNECT\naccept-version:1.2\nhost:localhost\nheart-beat:0,0\n{lines}\n\0"))
}

/// More of what the server says; it says nothing that is not asked for.
fn hear_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<(), String> {
    let mut bytes = [0; 1024];
    match stream.read(&mut bytes) {
        Ok(0) => Err("the server has ended the connection".to_owned()),
        Ok(length) => {
            received.extend_from_slice(&bytes[..length]);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// A server that lets one guest in, then says this.
    fn saying(frames: &'static [&str]) -> Guests {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (is_in, in_first) = mpsc::channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4096];
            let say = |mut stream: &TcpStream, text: &str| {
                stream.write_all(&[&[0x81, text.len() as u8], text.as_bytes()].concat()).unwrap();
            };
            assert!(stream.read(&mut bytes).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
            assert!(stream.read(&mut bytes).unwrap() > 0);
            say(&stream, "CONNECTED\nversion:1.2\n\n\0");
            in_first.recv().unwrap();
            frames.iter().for_each(|text| say(&stream, text));
            // Until the guest is gone, in whatever way.
            drop(stream.read(&mut bytes));
        });
        let guests = Guests::connect(address, 1).unwrap();
        is_in.send(()).unwrap();
        guests
    }

    /// All bodies that the guest hears, to the first error.
    fn bodies(guests: &mut Guests) -> (Vec<u8>, String) {
        let mut bodies = Vec::new();
        loop {
            let turn = guests.turn(PATIENCE, &mut |_, heard| {
                if let Heard::Message { body, .. } = heard {
                    bodies.extend_from_slice(body);
                }
                Ok(())
            });
            if let Err(error) = turn {
                return (bodies, error);
            }
        }
    }

    #[test]
    fn a_gap_and_a_message_that_comes_twice_are_seen() {
        const A: &str = "MESSAGE\nmessage-id:f-7\n\na\0";
        const B: &str = "MESSAGE\nmessage-id:f-8\n\nb\0";
        const C: &str = "MESSAGE\nmessage-id:f-9\n\nc\0";
        let (heard, error) = bodies(&mut saying(&[A, B, C, C]));
        assert_eq!(heard, b"abc");
        assert_eq!(error, "guest 0: message 9 where Some(10) is next");
        let (heard, error) = bodies(&mut saying(&[A, C]));
        assert_eq!((&heard[..], &*error), (&b"a"[..], "guest 0: message 9 where Some(8) is next"));
    }

    #[test]
    fn one_who_does_not_read_hears_nothing_until_it_reads_again() {
        let mut guests = saying(&["MESSAGE\nmessage-id:f-7\n\na\0", "ERROR\nmessage:enough\n\n\0"]);
        guests.stop_reading(0).unwrap();
        guests.turn(Duration::from_millis(100), &mut |n, _| Err(format!("{n} hears something"))).unwrap();
        guests.read_again(0).unwrap();
        let (heard, error) = bodies(&mut guests);
        assert_eq!(heard, b"a");
        assert!(error.contains("enough"), "{error}");
    }

    #[test]
    fn either_of_two_ends_the_wait() {
        let (quiet, loud) = (saying(&[]), saying(&["MESSAGE\nmessage-id:f-7\n\na\0"]));
        for (one, other) in [(&quiet, &loud), (&loud, &quiet)] {
            let since = Instant::now();
            one.wait_for_either(other, PATIENCE).unwrap();
            assert!(since.elapsed() < PATIENCE);
        }
        let since = Instant::now();
        quiet.wait_for_either(&quiet, Duration::from_millis(30)).unwrap();
        assert!(since.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn one_that_the_server_may_end_is_gone_and_one_with_a_gap_is_an_error() {
        let mut guests = saying(&["MESSAGE\nmessage-id:f-7\n\na\0", "ERROR\nmessage:enough\n\n\0"]);
        guests.may_end();
        while guests.ended == Some(0) {
            guests.turn(PATIENCE, &mut |_, _| Ok(())).unwrap();
        }
        assert_eq!(guests.leave(0), Err("guest 0 has gone".to_owned()));
        let mut guests = saying(&["MESSAGE\nmessage-id:f-7\n\na\0", "MESSAGE\nmessage-id:f-9\n\na\0"]);
        guests.may_end();
        assert!(bodies(&mut guests).1.contains("message 9"));
    }

    #[test]
    fn one_who_resets_is_gone() {
        let mut guests = saying(&[]);
        guests.reset(0).unwrap();
        assert_eq!(guests.leave(0), Err("guest 0 has gone".to_owned()));
        assert_eq!(guests.count(), 1);
        guests.turn(Duration::ZERO, &mut |_, _| Ok(())).unwrap();
    }
}
