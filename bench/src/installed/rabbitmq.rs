//! RabbitMQ with `rabbitmq_web_stomp`, a node of its own for one run.
//!
//! The package's script is told to become the Erlang machine rather than to wait for it, so that the process that is
//! measured is the one that works. It has one scheduler, as every server has one core. The port mapper, `epmd`, is our
//! own, too: the one that Erlang would start stays behind.
//!
//! Configured is what the clients need and no more: the listener, whom a client without a login is, and a virtual
//! host with the name that the clients' CONNECT has. All else is the package's default.
//!
//! Invariant: no file outside of the node's directory is read as configuration, and none is written.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Signal, getrlimit, pidfd_open, pidfd_send_signal};
use tempfile::TempDir;

use crate::process::{Ours, end};

const SCRIPT: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const PORT_MAPPER: &str = "/usr/bin/epmd";
/// All that has to be there.
pub const FILES: [&str; 3] = [SCRIPT, PORT_MAPPER, "/usr/bin/erl"];

/// How long it may take to start: some seconds on an idle core.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// What it says when it is ready.
const READY_MARK: &str = "Server startup complete";
/// How often it is started, on other ports each time, when one of them was taken meanwhile.
const STARTS_MAX: u32 = 3;
/// How long its helpers may take to end after it.
const HELPERS_END_WITHIN: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// Last words that are shown when it does not start.
const LOG_LINES_KEPT: usize = 20;
/// Descriptors that it may have. The Erlang machine closes all that there could be when it starts a helper, so no more
/// than it has ports for.
const DESCRIPTORS_MAX: u64 = 65_536;
/// One scheduler of each kind.
const ONE_SCHEDULER: &str = "+S 1:1 +SDcpu 1:1 +SDio 1";

/// A node that serves.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    // In the order in which they end.
    machine: Machine,
    _port_mapper: PortMapper,
    _directory: TempDir,
}

impl Node {
    /// Starts a node and waits until it serves.
    ///
    /// # Errors
    /// It does not start, with the end of its log.
    pub fn start() -> Result<Self, String> {
        for left in (0..STARTS_MAX).rev() {
            match Self::start_once() {
                Ok(node) => return Ok(node),
                Err(Failure { words, is_port_taken: true }) if left > 0 => {
                    eprintln!("one of its ports was taken meanwhile, and it is started on others; {words}");
                }
                Err(failure) => return Err(failure.words),
            }
        }
        unreachable!("the last start returns");
    }

    fn start_once() -> Result<Self, Failure> {
        let problem = |error: std::io::Error| format!("rabbitmq: {error}");
        let directory = tempfile::tempdir().map_err(problem)?;
        let [web, distribution, names] = free_ports().map_err(problem)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, web));
        configure(directory.path(), address).map_err(problem)?;
        let mut port_mapper = PortMapper::start(names)?;
        let machine = Machine::start(directory.path(), distribution, names).map_err(|failure| Failure {
            // It ends by itself only where it cannot listen.
            is_port_taken: failure.is_port_taken || port_mapper.has_ended(),
            ..failure
        })?;
        Ok(Self { address, machine, _port_mapper: port_mapper, _directory: directory })
    }

    /// Where its WebSocket endpoint `/ws` is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The Erlang machine.
    pub fn pid(&self) -> u32 {
        self.machine.child.id()
    }

    /// Every process that there is because of it.
    #[cfg(test)]
    pub fn processes(&self) -> Vec<Process> {
        let own = [&self.machine.child, &self._port_mapper.child]
            .map(|child| Process::open(Pid::from_child(child)));
        own.into_iter().flatten().chain(self.machine.helpers()).collect()
    }
}

/// Why it has not started.
#[derive(Debug)]
struct Failure {
    words: String,
    /// Its ports can only be named, so somebody else may take one before it does.
    is_port_taken: bool,
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self { words, is_port_taken: false }
    }
}

/// In the words of RabbitMQ's own check, or of Erlang's.
fn says_port_is_taken(line: &str) -> bool {
    line.contains("dist_port_already_used") || line.contains("eaddrinuse")
}

/// Ports of 127.0.0.1 that nobody had a moment ago, all different.
fn free_ports<const N: usize>() -> std::io::Result<[u16; N]> {
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn configure(directory: &Path, address: SocketAddr) -> std::io::Result<()> {
    fs::write(
        directory.join("rabbitmq.conf"),
        format!(
            "listeners.tcp = none\nstomp.listeners.tcp = none\nweb_stomp.tcp.listener = {address}\n\
             stomp.default_user = guest\nstomp.default_pass = guest\ndefault_vhost = {}\n\
             log.console = true\nlog.console.level = info\nlog.file = false\n",
            address.ip()
        ),
    )?;
    fs::write(directory.join("enabled_plugins"), "[rabbitmq_web_stomp].\n")
}

/// `epmd` in the foreground.
#[derive(Debug)]
struct PortMapper {
    child: Child,
    _ours: Ours,
}

impl PortMapper {
    fn start(port: u16) -> Result<Self, String> {
        Command::new(PORT_MAPPER)
            .args(["-address", "127.0.0.1", "-port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map(|child| {
                let ours = Ours::of(&child);
                Self { child, _ours: ours }
            })
            .map_err(|error| format!("{PORT_MAPPER}: {error}"))
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

impl Drop for PortMapper {
    fn drop(&mut self) {
        // It has nothing to finish. An error means that it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The Erlang machine with RabbitMQ in it.
#[derive(Debug)]
struct Machine {
    child: Child,
    _ours: Ours,
}

impl Machine {
    fn start(directory: &Path, distribution: u16, names: u16) -> Result<Self, Failure> {
        let descriptors = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).min(DESCRIPTORS_MAX);
        let mut child = Command::new("/bin/sh")
            .args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", &descriptors.to_string()])
            .args([SCRIPT, "-noinput", "-kernel", "inet_dist_use_interface", "{127,0,0,1}"])
            // Variables of RabbitMQ and Erlang that a user has set are for another node.
            .env_clear()
            .envs([("PATH", "/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("RABBITMQ_CONF_ENV_FILE", "/dev/null")])
            // Where it would leave its dump if it crashed.
            .current_dir(directory)
            .env("HOME", directory)
            .envs([("ERL_EPMD_ADDRESS", "127.0.0.1"), ("ERL_EPMD_PORT", &names.to_string())])
            .envs([("RABBITMQ_NODENAME", "compare@localhost"), ("RABBITMQ_LOGS", "-")])
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("RABBITMQ_MNESIA_BASE", directory.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", directory.join("log"))
            .env("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", directory.join("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("enabled_plugins"))
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", ONE_SCHEDULER)
            // The script becomes the machine; without it, a shell would wait for it.
            .env("RABBITMQ_ALLOW_INPUT", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("/bin/sh: {error}"))?;
        let (says, said) = channel();
        forward(child.stdout.take(), says.clone());
        forward(child.stderr.take(), says);
        let ours = Ours::of(&child);
        let machine = Self { child, _ours: ours };
        let deadline = Instant::now() + READY_WITHIN;
        let mut last = VecDeque::with_capacity(LOG_LINES_KEPT);
        let mut is_port_taken = false;
        loop {
            let problem = match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(READY_MARK) => return Ok(machine),
                Ok(line) => {
                    is_port_taken |= says_port_is_taken(&line);
                    if last.len() == LOG_LINES_KEPT {
                        last.pop_front();
                    }
                    last.push_back(line);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => "has ended".to_owned(),
                Err(RecvTimeoutError::Timeout) => {
                    // Another start would take as long.
                    is_port_taken = false;
                    format!("is not ready after {READY_WITHIN:?}")
                }
            };
            let last: Vec<String> = last.into();
            let words = format!("rabbitmq {problem}; its last words:\n{}", last.join("\n"));
            return Err(Failure { words, is_port_taken });
        }
    }

    /// All below it: the parent of what it runs, resolvers of names, looks at the disk.
    fn helpers(&self) -> Vec<Process> {
        descendants(self.child.id()).into_iter().filter_map(Process::open).collect()
    }
}

/// Passes on what is said, for as long as it is said: a pipe that nobody empties would stop the machine.
fn forward(pipe: Option<impl Read + Send + 'static>, says: Sender<String>) {
    let Some(pipe) = pipe else { return };
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            // Once it is ready nobody listens.
            says.send(String::from_utf8_lossy(&line).into_owned()).ok();
        }
    });
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Afterwards nobody knows whose they were.
        let helpers = self.helpers();
        end(&mut self.child);
        helpers.iter().for_each(Process::kill);
        // One that does not end by SIGKILL is the kernel's; there is nothing more to do about it.
        for helper in &helpers {
            helper.has_ended(HELPERS_END_WITHIN);
        }
    }
}

/// A process that is not our child. Its number may be another's one day, this handle is not.
#[derive(Debug)]
pub struct Process(OwnedFd);

impl Process {
    /// `None` if there is none.
    fn open(pid: Pid) -> Option<Self> {
        pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    fn kill(&self) {
        // An error means that it has ended.
        pidfd_send_signal(&self.0, Signal::KILL).ok();
    }

    /// Has it ended, or does it within this time?
    pub fn has_ended(&self, within: Timespec) -> bool {
        // Readable once there is nothing left of it but its status.
        let mut handle = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut handle, Some(&within)), Ok(1))
    }
}

/// The processes whose parent, or parent's parent, and so on, it is.
fn descendants(ancestor: u32) -> Vec<Pid> {
    let pairs: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, parent(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect();
    let mut family = vec![ancestor];
    let mut at = 0;
    while let Some(&one) = family.get(at) {
        family.extend(pairs.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        at += 1;
    }
    family[1..].iter().filter_map(|&pid| Pid::from_raw(pid as i32)).collect()
}

/// The fourth field of `/proc/PID/stat`; the name before it may hold spaces and brackets.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installed::{Installed, tests::is_there};

    #[test]
    fn a_taken_port_is_told_from_other_trouble() {
        if !is_there(Installed::Rabbitmq) {
            return;
        }
        let [taken] = free_ports().unwrap();
        let _holder = TcpListener::bind((Ipv4Addr::LOCALHOST, taken)).unwrap();
        let start = |web: u16, distribution: u16| {
            let directory = tempfile::tempdir().unwrap();
            configure(directory.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, web))).unwrap();
            let [names] = free_ports().unwrap();
            let _port_mapper = PortMapper::start(names).unwrap();
            Machine::start(directory.path(), distribution, names).unwrap_err()
        };
        let [free] = free_ports().unwrap();
        for failure in [start(free, taken), start(taken, free)] {
            assert!(failure.is_port_taken, "{}", failure.words);
        }
        let mut port_mapper = PortMapper::start(taken).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !port_mapper.has_ended() {
            assert!(Instant::now() < deadline, "a port mapper without a port");
            thread::sleep(Duration::from_millis(10));
        }
        // No port is wrong with this one.
        let failure = Failure::from("rabbitmq has ended".to_owned());
        assert!(!failure.is_port_taken && !says_port_is_taken(&failure.words));
    }

    #[test]
    fn a_child_s_child_is_a_descendant() {
        assert_eq!(parent("77 (a (b) c) S 42 77 77 0"), Some(42));
        // A shell that waits for what it runs.
        let mut shell = Command::new("/bin/sh").args(["-c", "sleep 60; true"]).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let found = loop {
            let found = descendants(shell.id());
            if !found.is_empty() || Instant::now() > deadline {
                break found;
            }
            thread::sleep(Duration::from_millis(10));
        };
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let sleeper = Process::open(found[0]).unwrap();
        assert!(!sleeper.has_ended(Timespec::default()));
        sleeper.kill();
        assert!(sleeper.has_ended(HELPERS_END_WITHIN));
    }
}
