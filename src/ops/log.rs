//! The log's way out: a bounded queue of lines, and a thread that writes them.
//!
//! Whoever logs puts a line into the queue and goes on. The thread alone meets the sink: a pipe that nobody reads, a
//! full disk, a reader that is gone. What cannot be queued or written is dropped and counted, and the next line that can
//! be written is followed by one that says how many are missing.
//!
//! It knows nothing of levels and formats. `tracing-appender`, the crate for this, swallows failed writes without a count,
//! bounds lines and not bytes, and its end prints to the very sink that may be broken.
//!
//! Invariant: [`Log`] never fails and never waits for the sink; bytes queued and being written are at most the bound.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The thread only copies lines. The default of 2 MiB would count in full against a limit on data (RLIMIT_DATA).
const STACK_BYTES: usize = 128 * 1024;

/// Bytes for which a batch keeps its memory after it was written.
const BATCH_BYTES_KEPT: usize = 64 * 1024;

/// Bytes that fit into a pipe which is reported as writable (`PIPE_BUF` of Linux): writing so many does not wait.
const PIPE_BYTES: usize = 4096;

/// Lines that did not reach the sink.
#[derive(Debug, Default)]
pub struct Losses {
    queue_full: AtomicU64,
    write_failed: AtomicU64,
}

impl Losses {
    /// Lines dropped because the queue was full: the sink is not read, or slower than the log.
    pub fn queue_full(&self) -> u64 {
        self.queue_full.load(Ordering::Relaxed)
    }

    /// Lines dropped because writing them failed: a full disk, or a reader that is gone.
    pub fn write_failed(&self) -> u64 {
        self.write_failed.load(Ordering::Relaxed)
    }

    fn all(&self) -> u64 {
        self.queue_full() + self.write_failed()
    }
}

/// A log. Clones are the same log.
#[derive(Debug, Clone)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    queue: Mutex<Queue>,
    /// There is a line to write.
    filled: Condvar,
    /// All lines have been written, or dropped.
    emptied: Condvar,
    losses: Arc<Losses>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Whole lines.
    text: Vec<u8>,
    /// Bytes that the thread has taken and is writing.
    under_way: usize,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.text.is_empty() && self.under_way == 0
    }
}

impl Log {
    /// Starts the thread that writes to `sink`; at most `bytes_max` bytes wait for it.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(sink: impl AsFd + Send + 'static, bytes_max: usize) -> io::Result<Log> {
        let log = Log(Arc::new(Shared {
            bytes_max,
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            losses: Arc::default(),
        }));
        let shared = Arc::clone(&log.0);
        thread::Builder::new()
            .name("log".into())
            .stack_size(STACK_BYTES)
            .spawn(move || write_for_ever(&shared, sink.as_fd()))?;
        Ok(log)
    }

    /// What has been lost.
    pub fn losses(&self) -> Arc<Losses> {
        Arc::clone(&self.0.losses)
    }

    /// Queues a line, its line feed included; drops it if there is no room.
    pub fn put(&self, line: &[u8]) {
        let Shared { bytes_max, queue, filled, losses, .. } = &*self.0;
        let mut queue = queue.lock();
        if queue.text.len() + queue.under_way + line.len() > *bytes_max {
            losses.queue_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.text.extend_from_slice(line);
        drop(queue);
        filled.notify_one();
    }

    /// Waits until all that was queued has been written or dropped, at most so long. Returns whether it has.
    pub fn flush(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        let mut queue = self.0.queue.lock();
        while !queue.is_empty() {
            if self.0.emptied.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        queue.is_empty()
    }
}

/// One event's line, as the formatter writes it: in one piece.
impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread: takes all that is queued, writes it, and says what is missing once something could be written.
fn write_for_ever(shared: &Shared, sink: BorrowedFd<'_>) {
    let mut batch = Vec::new();
    let mut lost_told = 0;
    let mut is_torn = false;
    loop {
        {
            let mut queue = shared.queue.lock();
            while queue.text.is_empty() {
                shared.filled.wait(&mut queue);
            }
            std::mem::swap(&mut batch, &mut queue.text);
            queue.under_way = batch.len();
        }
        // A line that was cut ends here, so that the next one is read as a line.
        let mended = if is_torn { write_all(sink, b"\n") } else { Ok(()) };
        let result = mended.map_err(|error| (0, error)).and_then(|()| {
            is_torn = false;
            write_all_counted(sink, &batch)
        });
        match result {
            Ok(()) => {
                let lost = shared.losses.all();
                if lost > lost_told {
                    // Queued behind what is there, like any other line.
                    tracing::warn!(lines = lost - lost_told, "lines of the log were lost");
                    lost_told = lost;
                }
            }
            Err((written, _)) => {
                is_torn |= written > 0 && batch[written - 1] != b'\n';
                let lost = memchr::memchr_iter(b'\n', &batch[written..]).count() as u64;
                shared.losses.write_failed.fetch_add(lost, Ordering::Relaxed);
            }
        }
        batch.clear();
        batch.shrink_to(BATCH_BYTES_KEPT);
        let mut queue = shared.queue.lock();
        queue.under_way = 0;
        if queue.is_empty() {
            shared.emptied.notify_all();
        }
    }
}

fn write_all(sink: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    write_all_counted(sink, bytes).map_err(|(_, error)| error)
}

/// Writes everything and waits as long as it takes; of a failure it is said after how many bytes.
fn write_all_counted(sink: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(sink, &bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(Errno::INTR) => {}
            // Whoever shares the terminal or pipe may have made it non-blocking.
            Err(Errno::AGAIN) => {
                let mut waiting = [PollFd::new(&sink, PollFlags::OUT)];
                match poll(&mut waiting, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err((written, error.into())),
                }
            }
            Err(error) => return Err((written, error.into())),
        }
    }
    Ok(())
}

/// Writes to a sink that may be a pipe which nobody reads: gives up when it takes no byte for so long.
///
/// # Errors
/// What writing says; `TimedOut` if the sink takes no more.
pub fn write_in_time(sink: impl AsFd, bytes: &[u8], patience: Duration) -> io::Result<()> {
    let sink = sink.as_fd();
    let patience = Timespec::try_from(patience).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut waiting = [PollFd::new(&sink, PollFlags::OUT)];
        match poll(&mut waiting, Some(&patience)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match rustix::io::write(sink, &rest[..rest.len().min(PIPE_BYTES)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, pipe};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn lines_arrive_in_order() {
        let (mut reader, writer) = pipe().unwrap();
        let log = Log::start(writer, 1 << 20).unwrap();
        let expected: String = (0..1000).map(|i| format!("line {i}\n")).collect();
        expected.lines().for_each(|line| log.put(format!("{line}\n").as_bytes()));
        let mut read = vec![0; expected.len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), expected);
        assert!(log.flush(SOON));
        assert_eq!(log.losses().all(), 0);
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
        let (mut reader, writer) = pipe().unwrap();
        let log = Log::start(writer, 8192).unwrap();
        let line = [&[b'x'; 99][..], b"\n"].concat();
        // The pipe holds 64 KiB, the queue 8: the rest is more.
        for _ in 0..600 {
            log.put(&line);
            assert!(log.flush(SOON));
        }
        (600..10_000).for_each(|_| log.put(&line));
        assert!(!log.flush(Duration::from_millis(50)), "it can't have been written");
        let lost = log.losses().queue_full();
        assert!((9_000..9_400).contains(&lost), "{lost}");
        assert_eq!(log.losses().write_failed(), 0);
        // Whoever reads again finds whole lines.
        let mut read = vec![0; (10_000 - lost as usize) * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(line.len()).all(|chunk| chunk == line));
        assert!(log.flush(SOON));
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let full = Log::start(File::options().write(true).open("/dev/full").unwrap(), 8192).unwrap();
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let closed = Log::start(writer, 8192).unwrap();
        for log in [full, closed] {
            log.put(b"one\n");
            log.put(b"two\n");
            assert!(log.flush(SOON));
            assert_eq!((log.losses().write_failed(), log.losses().queue_full()), (2, 0));
            log.put(b"three\n");
            assert!(log.flush(SOON));
            assert_eq!(log.losses().write_failed(), 3);
        }
    }

    #[test]
    fn a_line_larger_than_the_queue_is_dropped_and_others_are_not() {
        let (mut reader, writer) = pipe().unwrap();
        let log = Log::start(writer, 64).unwrap();
        log.put(&[b'x'; 65]);
        log.put(b"short\n");
        let mut read = [0; 6];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"short\n");
        assert_eq!(log.losses().queue_full(), 1);
    }

    #[test]
    fn patience_with_a_sink_ends() {
        let (reader, writer) = pipe().unwrap();
        let text = vec![b'x'; 1 << 20];
        let error = write_in_time(&writer, &text, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(reader);
        let error = write_in_time(&writer, &text, SOON).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
