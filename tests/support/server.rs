//! The real server binary, started for one test on a port that the kernel chooses.
//!
//! Invariant: a [`Server`] value is a process that has said that it listens; dropping it kills that
//! process, and shows what it wrote if the test is failing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// Time that a start may take on a loaded machine.
const START_MAX: Duration = Duration::from_secs(20);
/// Time that an orderly end may take: the default `shutdown.timeout_ms` and as much again.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Time that one read or write of a test may wait.
const IO_MAX: Duration = Duration::from_secs(20);

const BINARY: &str = env!("CARGO_BIN_EXE_tcbchat");

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    readiness: String,
    output: Arc<Mutex<String>>,
}

impl Server {
    /// Starts `tcbchat serve` on a free loopback port with `arguments` added, and waits until it listens.
    ///
    /// # Panics
    /// When it does not start in time.
    pub fn start(arguments: &[&str]) -> Server {
        Server::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), arguments)
    }

    /// The same, on a given address: the one of a server that was there before, for instance.
    ///
    /// # Panics
    /// When it does not start in time.
    pub fn start_at(listen: SocketAddr, arguments: &[&str]) -> Server {
        Server::start_by(Command::new(BINARY), listen, arguments)
    }

    /// The same with limits of the process that the shell's `ulimit` sets by these options.
    ///
    /// # Panics
    /// When it does not start in time.
    pub fn start_limited(limits: &str, arguments: &[&str]) -> Server {
        let mut shell = Command::new("sh");
        // `exec`: the server is the process that was started here.
        shell.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\""), BINARY]);
        Server::start_by(shell, SocketAddr::from(([127, 0, 0, 1], 0)), arguments)
    }

    /// Runs a start that must be refused, to its end.
    ///
    /// # Panics
    /// When the server starts after all.
    pub fn refused(arguments: &[&str]) -> Output {
        let mut child = Command::new(BINARY)
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server's binary starts");
        // What it writes before it ends fits into the pipes.
        let status = await_end(&mut child, START_MAX);
        if status.is_none() {
            child.kill().expect("our own child can be killed");
        }
        let output = child.wait_with_output().expect("our own child can be waited for");
        assert!(status.is_some(), "the server is running: {output:?}");
        output
    }

    /// The same with variables added to the environment.
    ///
    /// # Panics
    /// When it does not start in time.
    pub fn start_in(environment: &[(&str, &str)], arguments: &[&str]) -> Server {
        let mut command = Command::new(BINARY);
        command.envs(environment.iter().copied());
        Server::start_by(command, SocketAddr::from(([127, 0, 0, 1], 0)), arguments)
    }

    /// Runs another command of the program to its end.
    pub fn run(arguments: &[&str]) -> Output {
        Command::new(BINARY).args(arguments).stdin(Stdio::null()).output().expect("the binary starts")
    }

    /// The same, with a line on its standard input.
    ///
    /// # Panics
    /// When it does not take the line.
    pub fn run_saying(arguments: &[&str], line: &str) -> Output {
        let mut command = Command::new(BINARY);
        let command =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("it has one");
        writeln!(stdin, "{line}").expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("our own child can be waited for")
    }

    /// The same with standard error on this sink, which the test looks after.
    ///
    /// # Panics
    /// When it does not start in time.
    pub fn start_logging_to(sink: impl Into<Stdio>, arguments: &[&str]) -> Server {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Server::start_with(Command::new(BINARY), listen, arguments, sink.into())
    }

    fn start_by(command: Command, listen: SocketAddr, arguments: &[&str]) -> Server {
        Server::start_with(command, listen, arguments, Stdio::piped())
    }

    fn start_with(mut command: Command, listen: SocketAddr, arguments: &[&str], stderr: Stdio) -> Server {
        let mut child = command
            .arg("serve")
            .args(["--listen", &listen.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the server's binary starts");
        let output = Arc::new(Mutex::new(String::new()));
        let (readiness_found, readiness) = channel();
        collect(child.stdout.take().expect("a pipe"), &output, Some(readiness_found));
        if let Some(stderr) = child.stderr.take() {
            collect(stderr, &output, None);
        }
        match await_readiness(&mut child, &readiness) {
            Some((address, readiness)) => Server { child, address, readiness, output },
            None => {
                child.kill().expect("our own child can be killed");
                child.wait().expect("our own child can be waited for");
                panic!("the server did not become ready; it wrote:\n{}", text_of(&output));
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for STOMP without WebSocket: the first of these addresses.
    ///
    /// # Panics
    /// When it does not.
    pub fn stomp_address(&self) -> SocketAddr {
        let (_, rest) = self.readiness.split_once(" stomp://").expect("it was started with listen.stomp");
        let (address, _) = rest.split_once(' ').expect("the plan follows");
        address.parse().expect("an address and a port")
    }

    /// The readiness line.
    pub fn readiness(&self) -> &str {
        &self.readiness
    }

    /// `http://ADDRESS<path>`.
    pub fn http_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// `ws://ADDRESS<path>`.
    pub fn ws_url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// The process, for tests that look at it from outside.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote until now, standard output and standard error by lines as they came.
    pub fn output(&self) -> String {
        text_of(&self.output)
    }

    /// The last line that it wrote with these words in it; waits for one.
    ///
    /// # Panics
    /// When none comes for too long.
    pub fn await_output(&self, words: &str) -> String {
        let deadline = Instant::now() + IO_MAX;
        loop {
            let output = self.output();
            if let Some(line) = output.lines().rev().find(|line| line.contains(words)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no line with {words:?} in\n{output}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a crash does (SIGKILL): its peers get no close frame.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("our own child can be waited for");
    }

    /// Ends it as an operator does (SIGTERM), and gives its exit status.
    ///
    /// # Panics
    /// When it is still there after [`STOP_MAX`].
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it as an operator does, and expects that it ends in order.
    ///
    /// # Panics
    /// When it is still there after [`STOP_MAX`], or its exit code is not 0.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child takes signals");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it is still there after [`STOP_MAX`].
    pub fn wait(&mut self) -> ExitStatus {
        await_end(&mut self.child, STOP_MAX).expect("the server ends in time")
    }

    /// A TCP connection to it that does not wait for ever.
    pub fn dial(&self) -> TcpStream {
        self.try_dial().expect("the server accepts")
    }

    /// The same, at the address for STOMP without WebSocket.
    pub fn dial_stomp(&self) -> TcpStream {
        TcpStream::connect(self.stomp_address()).map(prepared).expect("the server accepts")
    }

    /// The same as [`dial`](Server::dial), where the server may refuse: its reset may come before the connection is known to be made.
    ///
    /// # Errors
    /// What `connect` says.
    pub fn try_dial(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.address).map(prepared)
    }

    /// The same, from this address of the machine.
    pub fn dial_from(&self, source: Ipv4Addr) -> TcpStream {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("an address of this machine");
        socket.connect(&self.address.into()).expect("the server accepts");
        prepared(socket.into())
    }

    /// The same, of a client whose kernel takes only about `bytes` that its program has not read.
    pub fn dial_with_little_room(&self, bytes: usize) -> TcpStream {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None).expect("a socket");
        // Before the connection is made: its window is said then.
        socket.set_recv_buffer_size(bytes).expect("an option that TCP has");
        socket.connect(&self.address.into()).expect("the server accepts");
        prepared(socket.into())
    }

    /// Sends these bytes on a connection of their own, and gives all that comes back until the server ends it.
    pub fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        exchange_on(self.dial(), request)
    }

    /// A number from `/metrics`: `name`, summed over its labels, or `name{label="value"}`.
    ///
    /// A reactor shows its numbers after it has written, so an answer may be here before the number that counts it:
    /// what has just happened is for [`Server::await_metric`].
    pub fn metric(&self, name: &str) -> u64 {
        self.metric_on(self.dial(), name)
    }

    /// The same, on a connection that is there.
    pub fn metric_on(&self, stream: TcpStream, name: &str) -> u64 {
        let page = exchange_on(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
        let name = format!("tcbchat_{name}");
        let is_named = |line: &&str| {
            line.split(' ').next() == Some(&name) || line.split(['{', ' ']).next() == Some(&name)
        };
        let lines = page.lines().filter(is_named);
        let values: Vec<u64> =
            lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap()).collect();
        assert!(!values.is_empty(), "no {name} in\n{page}");
        values.iter().sum()
    }

    /// Waits until a number from `/metrics` is what it should be.
    ///
    /// # Panics
    /// When it is not for too long.
    pub fn await_metric(&self, name: &str, is_right: impl Fn(u64) -> bool) -> u64 {
        let deadline = Instant::now() + IO_MAX;
        loop {
            let value = self.metric(name);
            if is_right(value) {
                return value;
            }
            assert!(Instant::now() < deadline, "{name} stays {value}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Sends these bytes, and gives all that comes back until the server ends the connection.
fn exchange_on(mut stream: TcpStream, request: impl AsRef<[u8]>) -> String {
    stream.write_all(request.as_ref()).expect("the server reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the server answers and closes");
    String::from_utf8(answer).expect("an answer in UTF-8")
}

/// A connection that does not wait for ever, and delays nothing.
fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(IO_MAX)).expect("a timeout that is not zero");
    stream.set_write_timeout(Some(IO_MAX)).expect("a timeout that is not zero");
    stream.set_nodelay(true).expect("an option that TCP has");
    stream
}

/// Waits for the end of a process; `None` if it does not end in time.
fn await_end(child: &mut Child, most: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + most;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("our own child can be waited for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("--- the server wrote:\n{}---", self.output());
        }
    }
}

/// Reads a pipe to its end in a thread of its own, so that the server never blocks on writing.
fn collect(pipe: impl Read + Send + 'static, output: &Arc<Mutex<String>>, lines: Option<Sender<String>>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            {
                let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
                output.push_str(&line);
                output.push('\n');
            }
            if let Some(lines) = &lines {
                // Nobody listens once the server is ready.
                drop(lines.send(line));
            }
        }
    });
}

fn await_readiness(child: &mut Child, lines: &Receiver<String>) -> Option<(SocketAddr, String)> {
    let deadline = Instant::now() + START_MAX;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(address) = address_in(&line) {
                    return Some((address, line));
                }
            }
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => {
                child.wait().expect("our own child can be waited for");
                return None;
            }
        }
    }
}

/// The address in `... listening on http://ADDRESS ...`, whatever follows it.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on http://")?;
    rest.split(|c: char| c.is_whitespace() || matches!(c, '/' | ',' | ';')).next()?.parse().ok()
}

fn text_of(output: &Mutex<String>) -> String {
    output.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
