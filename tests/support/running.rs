//! A program that a test talks to by lines while it runs.
//!
//! Invariant: the process ends with its value, by its id, also when the test panics.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::peer;

/// Time that one expected line may take. A Java program compiles itself first, beside other tests.
const LINE_MAX: Duration = Duration::from_secs(60);
/// Time that an end may take.
const END_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// What was taken of both.
    written: Vec<String>,
}

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdout = lines(child.stdout.take().expect("a pipe"));
        let stderr = lines(child.stderr.take().expect("a pipe"));
        let stdin = child.stdin.take();
        Running { child, stdin, stdout, stderr, written: Vec::new() }
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// When it does not take the line.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("its input was not closed");
        writeln!(stdin, "{line}").unwrap_or_else(|error| panic!("{error}: {:#?}", self.written));
    }

    /// Ends its standard input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for a line of its standard output that contains this, and gives it. Lines before it are passed by.
    ///
    /// # Panics
    /// When none comes.
    pub fn expect(&mut self, part: &str) -> String {
        expect(&self.stdout, part, &mut self.written)
            .unwrap_or_else(|| panic!("it does not print {part:?}: {:#?}", self.all()))
    }

    /// The same of its standard error.
    ///
    /// # Panics
    /// When none comes.
    pub fn expect_log(&mut self, part: &str) -> String {
        expect(&self.stderr, part, &mut self.written)
            .unwrap_or_else(|| panic!("it does not log {part:?}: {:#?}", self.all()))
    }

    /// What it wrote until now, in no order over both streams.
    fn all(&mut self) -> &[String] {
        self.written.extend(self.stdout.try_iter());
        self.written.extend(self.stderr.try_iter());
        &self.written
    }

    /// Waits for its end, and gives its status with all that it wrote.
    ///
    /// # Panics
    /// When it does not end.
    pub fn finish(mut self) -> (ExitStatus, String) {
        self.close_input();
        let status = peer::await_end(&mut self.child, END_MAX);
        // The pipes end with the process.
        self.written.extend(self.stdout.iter());
        self.written.extend(self.stderr.iter());
        let written = self.written.join("\n");
        (status.unwrap_or_else(|| panic!("it does not end:\n{written}")), written)
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The next line that contains this, if one comes in time.
fn expect(lines: &Receiver<String>, part: &str, written: &mut Vec<String>) -> Option<String> {
    let deadline = Instant::now() + LINE_MAX;
    loop {
        let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()?;
        written.push(line.clone());
        if line.contains(part) {
            return Some(line);
        }
    }
}

/// The lines of a pipe, which a thread of its own reads.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
