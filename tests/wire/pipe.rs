//! A stream in memory for tungstenite: what it reads was put in before, what it writes is kept.
//!
//! Invariant: reading past what was put in says "would block" while the stream is open, and nothing after.

use std::io::{self, Read, Write};

/// Both directions of a connection, seen from the peer under tungstenite.
#[derive(Debug, Default)]
pub struct Pipe {
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    /// Whether more input may come.
    pub is_open: bool,
    read: usize,
}

impl Pipe {
    /// A stream that ends after `input`.
    pub fn closed(input: Vec<u8>) -> Pipe {
        Pipe { input, ..Pipe::default() }
    }

    /// A stream whose input is still to come.
    pub fn open() -> Pipe {
        Pipe { is_open: true, ..Pipe::default() }
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = (&self.input[self.read..]).read(buf)?;
        self.read += read;
        if read == 0 && self.is_open { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(read) }
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
