//! A chat server with a thread for each connection: what tcbchat is not.
//!
//! It speaks the part of the same protocol that a chat takes (CONNECT, SUBSCRIBE, SEND, UNSUBSCRIBE, DISCONNECT,
//! receipts, heart-beats), so that the same simulator can drive both. It is built as such servers are: a thread
//! blocks in the read of its socket, and what it publishes it writes itself, in a blocking write to each member
//! of the room. STOMP is read and written by tcbchat's own codec and a message is encoded once, so that what is
//! compared is the threads and nothing else. It is for measurements, not for use.
//!
//! Invariant: at most `threads_max` connections have a thread; one more is answered with 503 and the reason.

mod line;
mod room;
mod session;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use clap::value_parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::{Domain, Socket, Type};

use crate::thread_walls::Walls;
use line::Line;
use room::Rooms;

/// Connections that the kernel may hold for the one accepting thread.
const BACKLOG: i32 = 4_096;
/// How long a client that is refused may take to say what it wanted. Its request is read, because the kernel
/// throws an answer away that is followed by a close with unread bytes.
const REFUSAL_WITHIN: Duration = Duration::from_millis(200);
/// The pause after an accept that failed for want of a descriptor: trying again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Options of `bench bio-server`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// Connections, each with a thread; Tomcat's maxThreads, and its default
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = value_parser!(u32).range(1..=1_000_000))]
    threads_max: u32,
    /// KiB of address space for a thread's stack; the default is the standard library's
    #[arg(long, value_name = "KIB", default_value_t = 2_048, value_parser = value_parser!(u32).range(64..=65_536))]
    stack_kib: u32,
}

/// Serves until SIGTERM or SIGINT. The process ends with its connections open; the kernel closes them.
///
/// # Errors
/// A sentence for the user: it cannot listen.
pub fn run(args: &Args) -> Result<(), String> {
    let config = Config { threads_max: args.threads_max, stack_bytes: args.stack_kib as usize * 1024 };
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| error.to_string())?;
    if let Some(wall) = Walls::read(std::process::id()).first_below(args.threads_max) {
        eprintln!("bio-server: {} threads may not fit: {wall}", args.threads_max);
    }
    let server = Server::start(args.listen, config).map_err(|error| format!("{}: {error}", args.listen))?;
    println!(
        "bio-server ready: listening on http://{} (a thread per connection, at most {})",
        server.address, args.threads_max
    );
    signals.forever().next();
    Ok(())
}

/// The bounds of a server.
#[derive(Debug, Clone, Copy)]
struct Config {
    /// Connections with a thread.
    threads_max: u32,
    /// Address space of a thread's stack.
    stack_bytes: usize,
}

/// What all threads share.
#[derive(Debug, Default)]
struct Shared {
    rooms: Rooms,
    /// Connections that have a thread.
    threads: AtomicU32,
    stopping: AtomicBool,
    /// A thread, or a descriptor, was refused by the kernel, and the log has said so.
    wall_is_told: AtomicBool,
}

impl Shared {
    /// The kernel refused something: says what and why, once.
    fn tell_wall(&self, what: &str, error: &io::Error) {
        if !self.wall_is_told.swap(true, Ordering::Relaxed) {
            let threads = self.threads.load(Ordering::Relaxed);
            let walls = Walls::read(std::process::id());
            let nearest = walls.nearest().map_or_else(String::new, |wall| format!("; nearest: {wall}"));
            eprintln!("bio-server: wall at {threads} connections: {what}: {error}{nearest}");
        }
    }
}

/// A place among the connections with a thread; free again when it is dropped.
#[derive(Debug)]
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>, threads_max: u32) -> Option<Place> {
        // Only the accepting thread takes places, so nothing comes between the two.
        if shared.threads.load(Ordering::Relaxed) >= threads_max {
            return None;
        }
        shared.threads.fetch_add(1, Ordering::Relaxed);
        Some(Place(Arc::clone(shared)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.threads.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A server that listens; it accepts no more when it is dropped. Its connections live on.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(listen: SocketAddr, config: Config) -> io::Result<Server> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("acceptor".to_owned());
        let acceptor = acceptor.spawn(move || accept(&listener, config, &accepting))?;
        Ok(Server { address, shared, acceptor: Some(acceptor) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        // A connection wakes the thread that accepts; if none comes about, it has ended already.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            // It panics for nobody; if it did, the test that owns the server says so.
            acceptor.join().unwrap_or_else(|_| eprintln!("bio-server: the acceptor panicked"));
        }
    }
}

fn accept(listener: &TcpListener, config: Config, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        match stream {
            Ok(stream) => admit(stream, config, shared),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.tell_wall("accept", &error);
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// A thread for a connection, or an answer that there is none.
fn admit(stream: TcpStream, config: Config, shared: &Arc<Shared>) {
    let Some(place) = Place::take(shared, config.threads_max) else {
        let reason = format!("all {} threads have a connection (--threads-max)", config.threads_max);
        return refuse(&stream, &reason);
    };
    let line = Arc::new(Line::new(stream));
    let (served, sharing) = (Arc::clone(&line), Arc::clone(shared));
    let thread = thread::Builder::new().stack_size(config.stack_bytes);
    let spawned = thread.spawn(move || {
        session::serve(&served, &sharing.rooms);
        drop(place);
    });
    if let Err(error) = spawned {
        shared.tell_wall("no thread for a connection", &error);
        refuse(line.stream(), &format!("there is no thread for this connection: {error}"));
    }
}

/// Answers a request with 503. The client may be gone, and then there is nobody to tell.
fn refuse(mut stream: &TcpStream, reason: &str) {
    let mut answer = || -> io::Result<()> {
        stream.set_read_timeout(Some(REFUSAL_WITHIN))?;
        stream.set_write_timeout(Some(REFUSAL_WITHIN))?;
        let _request_bytes = stream.read(&mut [0; 1_024])?;
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{reason}",
            reason.len()
        );
        stream.write_all(answer.as_bytes())?;
        stream.shutdown(Shutdown::Both)
    };
    answer().unwrap_or_default();
}

#[cfg(test)]
mod tests;
