//! A connection as those who write to it see it: its own thread, and all who publish to its rooms.
//!
//! Reading is its own thread's business and needs no lock. Invariant: a write is whole, and nothing comes between
//! its bytes; after one that failed the connection is shut down, because half a ws_frame may be out.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tcbchat::wire::ws;

/// How long a client may leave its socket full before it is given up. Until then whoever publishes to one of its
/// rooms waits, and the room with him: that is what blocking writes cost.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// The writing end of a connection.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    opened: Instant,
    /// Milliseconds from `opened` to the last write.
    written_ms: AtomicU64,
    turn: Mutex<()>,
}

impl Line {
    /// The line of a connection that was just accepted.
    pub fn new(stream: TcpStream) -> Line {
        Line { stream, opened: Instant::now(), written_ms: AtomicU64::new(0), turn: Mutex::new(()) }
    }

    /// Sets what never changes. An error means that the connection is gone.
    pub fn prepare(&self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.set_write_timeout(Some(WRITE_WITHIN))
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// When something was last written.
    pub fn written(&self) -> Instant {
        self.opened + Duration::from_millis(self.written_ms.load(Ordering::Relaxed))
    }

    /// Writes whole ws_frames, after those of others. Blocks until the kernel has them.
    ///
    /// # Errors
    /// The connection is gone, or was given up; it is shut down, which its own thread will see.
    pub fn send(&self, ws_frames: &[u8]) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = (&self.stream).write_all(ws_frames);
        match sent {
            Ok(()) => self.written_ms.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed),
            // An error means that it is shut down already.
            Err(_) => self.stream.shutdown(Shutdown::Both).unwrap_or_default(),
        }
        sent
    }

    /// Writes one text message. Errors are those of [`send`](Line::send).
    pub fn send_text(&self, text: &[u8]) -> io::Result<()> {
        let mut ws_frame = Vec::with_capacity(text.len() + 4);
        ws::encode_message(ws::Kind::Text, text, &mut ws_frame);
        self.send(&ws_frame)
    }
}

/// Both ends, for the thread that reads. What tungstenite writes by itself (the handshake, pongs, the answer to a
/// close) takes its turn like everything else; it hands over whole ws_frames, because it buffers none.
#[derive(Debug)]
pub struct Ends(pub Arc<Line>);

impl Read for Ends {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&self.0.stream).read(buf)
    }
}

impl Write for Ends {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(buf).map(|()| buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
