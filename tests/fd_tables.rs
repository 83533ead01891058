//! Descriptor tables of threads, as the kernel really treats them: what is private after a split, what is
//! shared, and that one port can be served from several tables.
//!
//! In a process of its own, because a thread that splits copies every descriptor that other tests have open
//! at that moment, and with it keeps their sockets alive.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use tcbchat::net::acceptor::{self, ListenOptions};
use tcbchat::net::address::{Address, Endpoint};
use tcbchat::net::fd_table;
use tcbchat::net::reservation::Reservation;
use tcbchat::wire::framing::Framing;

/// More than anything here takes; a test that waits longer fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(10);

/// Open descriptors in the calling thread's table.
fn open_descriptors() -> usize {
    // One of the entries is the directory that is being read.
    fs::read_dir("/proc/thread-self/fd").unwrap().count() - 1
}

#[test]
fn descriptors_made_after_the_split_are_private() {
    let observer = thread::spawn(|| {
        fd_table::unshare().unwrap();
        let before = open_descriptors();
        let (report, reported) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        let other = thread::spawn(move || {
            fd_table::unshare().unwrap();
            let files: Vec<_> = (0..16).map(|_| File::open("/dev/null").unwrap()).collect();
            report.send((open_descriptors(), files.last().unwrap().as_raw_fd())).unwrap();
            finished.recv_timeout(PATIENCE).unwrap_err();
        });
        let (theirs, number) = reported.recv_timeout(PATIENCE).unwrap();
        assert_eq!(theirs, before + 16);
        assert_eq!(open_descriptors(), before, "the other table's files must not show here");
        assert!(!fs::exists(format!("/proc/thread-self/fd/{number}")).unwrap());
        drop(finish);
        other.join().unwrap();
    });
    observer.join().unwrap();
}

#[test]
fn a_wake_up_made_before_the_split_works_from_another_table() {
    let mut poll = Poll::new().unwrap();
    let waker = Waker::new(poll.registry(), Token(7)).unwrap();
    let (split, splits) = mpsc::channel();
    let split_too = split.clone();
    let sleeper = thread::spawn(move || {
        fd_table::unshare().unwrap();
        split.send(()).unwrap();
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        events.iter().map(|event| event.token()).collect::<Vec<_>>()
    });
    let (go, may_wake) = mpsc::channel();
    let waking = thread::spawn(move || {
        fd_table::unshare().unwrap();
        split_too.send(()).unwrap();
        may_wake.recv_timeout(PATIENCE).unwrap();
        waker.wake().unwrap();
    });
    for _ in 0..2 {
        splits.recv_timeout(PATIENCE).unwrap();
    }
    go.send(()).unwrap();
    waking.join().unwrap();
    assert_eq!(sleeper.join().unwrap(), [Token(7)]);
}

/// 64 connects to one port are shared out over listeners in three tables, and each is served in the table of
/// the listener that got it.
#[test]
fn one_port_is_served_from_three_tables() {
    const CLIENTS: usize = 64;
    let wanted = Endpoint { address: "127.0.0.1:0".parse().unwrap(), framing: Framing::WebSocket };
    let reservation = Reservation::make(&wanted, 128).unwrap();
    let Address::Tcp(address) = reservation.endpoint().address else {
        unreachable!("no Unix socket was asked for")
    };
    let (listening, listeners) = mpsc::channel();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let listening = listening.clone();
            thread::spawn(move || {
                fd_table::unshare().unwrap();
                let listener =
                    acceptor::listen(address, &ListenOptions { backlog: 128, ..Default::default() }).unwrap();
                listener.set_nonblocking(false).unwrap();
                listening.send(()).unwrap();
                let mut served = 0;
                loop {
                    let (mut stream, _) = listener.accept().unwrap();
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    if byte == [b'.'] {
                        return served;
                    }
                    stream.write_all(b"y").unwrap();
                    served += 1;
                }
            })
        })
        .collect();
    for _ in &threads {
        listeners.recv_timeout(PATIENCE).unwrap();
    }
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    // A full stop ends the thread that gets it, and closes its listener with its table; so the next one
    // reaches a thread that is still listening, or is refused and sent again.
    while threads.iter().any(|thread| !thread.is_finished()) {
        let Ok(mut stream) = TcpStream::connect(address) else { continue };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if stream.write_all(b".").is_ok() {
            // The end of the stream, or a reset: that thread is done with it either way.
            stream.read_exact(&mut [0]).unwrap_err();
        }
    }
    let served: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(served.iter().sum::<usize>(), CLIENTS);
}
