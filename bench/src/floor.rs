//! `bench floor`: the least that a server can do for the same traffic, to measure others against.
//!
//! One thread, raw epoll, no framework and **no checks**: frames are told apart by their first letters, headers are
//! found by searching, a wrong client gets a wrong answer. Do not serve anybody with it.
//!
//! It is a fair floor, not a straw man: a room's members are one array of descriptors, a message is encoded once,
//! all that a room has to say in a loop pass is one buffer, and each member is sent that buffer with one `send`; who
//! has a receipt coming gets it in the same one. A read for each readable socket, nothing else. With
//! `--write-per-message` it gathers nothing: what a delivery costs that is a system call of its own.
//!
//! Invariant: a descriptor in a room is open, and its connection says where in the room it is.

mod parse;
mod rooms;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use parse::{Command, Inbound};
use rooms::{Place, Rooms};

/// Events taken in one pass.
const EVENTS_MAX: usize = 1024;
/// Bytes read from one socket in one pass.
const READ_BYTES: usize = 64 * 1024;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;

/// Options of `bench floor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Write each message by itself, rather than all that a pass has for a room at once
    #[arg(long)]
    write_per_message: bool,
}

/// One connection. An idle one has nothing on the heap.
#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    place: Option<Place>,
    upgraded: bool,
    /// Reserved for what is said to this client alone in this pass, and for what its socket did not take.
    extra: Option<Box<Extra>>,
}

#[derive(Debug, Default)]
struct Extra {
    /// Received, but not a whole frame yet.
    received: Vec<u8>,
    /// Said to this client alone in this pass.
    reply: Vec<u8>,
    /// What the socket has not taken; nothing overtakes it.
    unsent: Vec<u8>,
    /// To be closed when everything is sent.
    leaves: bool,
}

/// Serves until SIGTERM.
///
/// # Errors
/// The listener or the poll cannot be made.
pub fn run(args: &Args) -> Result<(), String> {
    raise_descriptor_limit();
    Floor::new(args.listen)
        .and_then(|floor| Floor { write_per_message: args.write_per_message, ..floor }.serve())
        .map_err(|error| format!("floor: {error}"))
}

/// As many descriptors as the hard limit allows. Without them the floor holds fewer connections, no more.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}

/// Says where a server listens, as the simulator's side expects it.
///
/// # Errors
/// Standard output is closed.
pub fn announce(name: &str, address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{name} ready: listening on http://{address} (1 reactor)")?;
    out.flush()
}

struct Floor {
    epoll: rustix::fd::OwnedFd,
    listener: TcpListener,
    term: UnixStream,
    /// By descriptor.
    conns: Vec<Option<Conn>>,
    rooms: Rooms,
    scratch: Vec<u8>,
    /// Connections with a reply.
    replying: Vec<RawFd>,
    /// Members whose sockets became full, until their rooms know; not there yet while these are lent out.
    blocked: Vec<Place>,
    message_id: u64,
    /// A room's members are written to for each message.
    write_per_message: bool,
}

impl Floor {
    fn new(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        // What the standard library asked for is short of a herd; a second listen() changes it.
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let (term, tell) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, tell)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for fd in [listener.as_fd(), term.as_fd()] {
            let data = epoll::EventData::new_u64(fd.as_raw_fd() as u64);
            epoll::add(&epoll, fd, data, epoll::EventFlags::IN)?;
        }
        announce("floor", listener.local_addr()?)?;
        Ok(Self {
            epoll,
            listener,
            term,
            conns: Vec::new(),
            rooms: Rooms::default(),
            scratch: vec![0; READ_BYTES],
            replying: Vec::new(),
            blocked: Vec::new(),
            message_id: 0,
            write_per_message: false,
        })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            for event in &events {
                let (data, flags) = (event.data, event.flags);
                let fd = data.u64() as RawFd;
                if fd == self.term.as_raw_fd() {
                    return Ok(());
                } else if fd == self.listener.as_raw_fd() {
                    self.accept()?;
                } else {
                    if flags.contains(epoll::EventFlags::OUT) {
                        self.send_rest(fd);
                    }
                    if flags
                        .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
                    {
                        self.read(fd);
                    }
                }
            }
            self.fan_out();
            self.reply();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let stream = match rustix::net::accept_with(&self.listener, flags) {
                Ok(fd) => TcpStream::from(fd),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let fd = stream.as_raw_fd();
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(fd as u64), epoll::EventFlags::IN)?;
            if self.conns.len() <= fd as usize {
                self.conns.resize_with(fd as usize + 1, || None);
            }
            self.conns[fd as usize] = Some(Conn { stream, place: None, upgraded: false, extra: None });
        }
    }

    /// Reads once and does what the frames say. Level-triggered: what is left comes in the next pass.
    fn read(&mut self, fd: RawFd) {
        let Some(conn) = self.conns[fd as usize].as_mut() else { return };
        let len =
            match rustix::net::recv(&conn.stream, &mut self.scratch[..], rustix::net::RecvFlags::empty()) {
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok((0, _)) | Err(_) => return self.close(fd),
                Ok((_, len)) => len,
            };
        let mut scratch = std::mem::take(&mut self.scratch);
        match conn.extra.as_mut().filter(|extra| !extra.received.is_empty()) {
            None => {
                let used = self.take(fd, &mut scratch[..len]);
                self.keep(fd, &scratch[used..len]);
            }
            Some(extra) => {
                let mut joined = std::mem::take(&mut extra.received);
                joined.extend_from_slice(&scratch[..len]);
                let used = self.take(fd, &mut joined);
                self.keep(fd, &joined[used..]);
            }
        }
        self.scratch = scratch;
    }

    fn keep(&mut self, fd: RawFd, rest: &[u8]) {
        if let Some(conn) = self.conns[fd as usize].as_mut().filter(|_| !rest.is_empty()) {
            conn.extra.get_or_insert_default().received.extend_from_slice(rest);
        }
    }

    /// Does what all whole frames say; how many bytes they were.
    fn take(&mut self, fd: RawFd, bytes: &mut [u8]) -> usize {
        let mut used = 0;
        while let Some(conn) = self.conns[fd as usize].as_mut() {
            if !conn.upgraded {
                let Some((head, answer)) = parse::upgrade(&bytes[used..]) else { return used };
                used += head;
                conn.upgraded = true;
                self.say(fd, &answer);
                continue;
            }
            let Some((len, inbound)) = parse::frame(&mut bytes[used..]) else { return used };
            used += len;
            match inbound {
                Inbound::Nothing => {}
                Inbound::Close => {
                    self.say(fd, parse::CLOSE);
                    if let Some(conn) = self.conns[fd as usize].as_mut() {
                        conn.extra.get_or_insert_default().leaves = true;
                    }
                    return used;
                }
                Inbound::Stomp { command, destination, receipt, body } => {
                    match command {
                        Command::Connect => self.say(fd, parse::CONNECTED),
                        Command::Subscribe => {
                            if conn.place.is_none() {
                                conn.place = Some(self.rooms.join(destination, fd));
                            }
                        }
                        Command::Send => {
                            self.message_id += 1;
                            self.rooms.publish(destination, self.message_id, body);
                            if self.write_per_message {
                                self.fan_out();
                            }
                        }
                        Command::Disconnect => self.leave(fd),
                    }
                    if !receipt.is_empty() {
                        let reply = parse::receipt(receipt);
                        self.say(fd, &reply);
                    }
                }
            }
        }
        used
    }

    /// Says something to one client, at the end of the pass.
    fn say(&mut self, fd: RawFd, bytes: &[u8]) {
        let Some(conn) = self.conns[fd as usize].as_mut() else { return };
        let extra = conn.extra.get_or_insert_default();
        if extra.reply.is_empty() {
            self.replying.push(fd);
        }
        extra.reply.extend_from_slice(bytes);
    }

    /// Sends every busy room's bytes to its members.
    fn fan_out(&mut self) {
        let mut rooms = std::mem::take(&mut self.rooms);
        let mut passed_by = Vec::new();
        for busy in rooms.busy() {
            // Members who are to get something else, too, or whose sockets were full: few, and by themselves.
            passed_by.clear();
            passed_by.extend(
                self.replying
                    .iter()
                    .filter_map(|fd| self.conns[*fd as usize].as_ref())
                    .filter_map(|conn| conn.place.filter(|place| place.room == busy.room))
                    .map(|place| place.member),
            );
            passed_by.extend_from_slice(busy.blocked);
            passed_by.sort_unstable();
            passed_by.dedup();
            let mut start = 0;
            for &member in passed_by.iter().chain([&(busy.members.len() as u32)]) {
                for &fd in &busy.members[start..member as usize] {
                    // SAFETY: a descriptor in a room is open (the invariant of this file).
                    #[allow(unsafe_code)]
                    let socket = unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) };
                    let sent = rustix::net::send(socket, busy.bytes, SendFlags::NOSIGNAL);
                    if sent != Ok(busy.bytes.len()) {
                        self.owe(fd, busy.bytes, sent);
                    }
                }
                start = member as usize + 1;
                if let Some(&fd) = busy.members.get(member as usize) {
                    self.append(fd, busy.bytes);
                }
            }
        }
        rooms.settle();
        self.rooms = rooms;
        self.note_blocked();
    }

    /// For a member who gets something else, too: one write for both.
    fn append(&mut self, fd: RawFd, bytes: &[u8]) {
        let Some(conn) = self.conns[fd as usize].as_mut() else { return };
        let extra = conn.extra.get_or_insert_default();
        if !extra.unsent.is_empty() {
            extra.unsent.extend_from_slice(bytes);
        } else {
            if extra.reply.is_empty() {
                self.replying.push(fd);
            }
            extra.reply.extend_from_slice(bytes);
        }
    }

    /// Sends what clients are told alone, and lets those go who leave.
    fn reply(&mut self) {
        let mut replying = std::mem::take(&mut self.replying);
        for fd in replying.drain(..) {
            let Some(conn) = self.conns[fd as usize].as_mut() else { continue };
            let Some(extra) = &mut conn.extra else { continue };
            let reply = std::mem::take(&mut extra.reply);
            let leaves = extra.leaves;
            if extra.unsent.is_empty() {
                if extra.received.is_empty() && !leaves {
                    conn.extra = None;
                }
                let sent = rustix::net::send(&conn.stream, &reply, SendFlags::NOSIGNAL);
                if sent != Ok(reply.len()) {
                    self.owe(fd, &reply, sent);
                } else if leaves {
                    self.close(fd);
                }
            } else {
                extra.unsent.extend_from_slice(&reply);
            }
        }
        self.replying = replying;
        self.note_blocked();
    }

    /// Keeps what a socket did not take, until it does.
    fn owe(&mut self, fd: RawFd, bytes: &[u8], sent: Result<usize, Errno>) {
        let sent = match sent {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            // The read that follows sees the error, too, and closes.
            Err(_) => return,
        };
        let Some(conn) = self.conns[fd as usize].as_mut() else { return };
        conn.extra.get_or_insert_default().unsent.extend_from_slice(&bytes[sent..]);
        self.watch(fd, epoll::EventFlags::IN | epoll::EventFlags::OUT);
        if let Some(place) = self.conns[fd as usize].as_ref().and_then(|conn| conn.place) {
            self.blocked.push(place);
        }
    }

    /// Rooms pass those by whose sockets became full.
    fn note_blocked(&mut self) {
        for place in self.blocked.drain(..) {
            self.rooms.block(place);
        }
    }

    fn send_rest(&mut self, fd: RawFd) {
        let Some(conn) = self.conns[fd as usize].as_mut() else { return };
        let Some(extra) = &mut conn.extra else { return };
        match rustix::net::send(&conn.stream, &extra.unsent, SendFlags::NOSIGNAL) {
            Ok(sent) => drop(extra.unsent.drain(..sent)),
            Err(_) => return,
        }
        if !extra.unsent.is_empty() {
            return;
        }
        if extra.leaves {
            return self.close(fd);
        }
        if extra.received.is_empty() && extra.reply.is_empty() {
            conn.extra = None;
        }
        if let Some(place) = conn.place {
            self.rooms.unblock(place);
        }
        self.watch(fd, epoll::EventFlags::IN);
    }

    fn watch(&self, fd: RawFd, flags: epoll::EventFlags) {
        if let Some(conn) = &self.conns[fd as usize] {
            // Fails for want of memory only; the socket is then not told of, and its client gives up.
            epoll::modify(&self.epoll, &conn.stream, epoll::EventData::new_u64(fd as u64), flags).ok();
        }
    }

    fn leave(&mut self, fd: RawFd) {
        let Some(place) = self.conns[fd as usize].as_mut().and_then(|conn| conn.place.take()) else { return };
        if let Some(moved) = self.rooms.leave(place)
            && let Some(conn) = self.conns[moved as usize].as_mut()
        {
            conn.place = Some(place);
        }
    }

    fn close(&mut self, fd: RawFd) {
        self.leave(fd);
        self.conns[fd as usize] = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_serves_a_client_that_is_not_ours() {
        let floor = Floor::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = floor.listener.local_addr().unwrap();
        // It ends with the tests' process: there is no other way to stop it than SIGTERM.
        std::thread::spawn(move || floor.serve());
        crate::visit::pay(address);
    }

    #[test]
    fn a_subscriber_who_does_not_read_gets_everything_later() {
        let floor = Floor::new("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = floor.listener.local_addr().unwrap();
        std::thread::spawn(move || floor.serve());
        let mut visitor = crate::visit::Visitor::new(address);
        // More than the buffers of both sockets hold, said before anything is read.
        let body = "x".repeat(60_000);
        for _ in 0..400 {
            visitor.say(&format!("SEND\ndestination:/topic/a\n\n{body}\0"));
        }
        for number in 1..=400 {
            let text = visitor.hear();
            assert!(text.contains(&format!("-{number}\n")) && text.len() > body.len());
        }
    }
}
