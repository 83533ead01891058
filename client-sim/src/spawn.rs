//! Starts the server for the time of a run, and stops it whatever happens.
//!
//! The server's own doings are its business: it is asked for a port of its choice, is ready when it says so
//! on its standard output, and is stopped by SIGTERM to its pid. Under cargo the binary is built first, so
//! that a measurement is never of a stale one.
//!
//! Invariant: when a [`Server`] is gone, so is its process.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long the server may take to listen: a large table is allocated first.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take to close all connections.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Lines of its log that are kept for the case that it fails.
const LOG_LINES_KEPT: usize = 30;

/// What the line on standard output says before the address.
const READY_MARK: &str = "listening on http://";

/// A server process of ours.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    ready_line: String,
    log: Log,
    /// It has been sent SIGTERM.
    told: Cell<bool>,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Server {
    /// Starts a server with room for `capacity` connections on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// A sentence for the user, with the end of the server's log.
    pub fn start(binary: &Path, capacity: u32, extra: &[String]) -> Result<Self, String> {
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--capacity", &capacity.to_string()]).args(extra);
        Self::launch(&mut command)
    }

    /// Starts whatever the command starts, and waits for its line of readiness.
    ///
    /// # Errors
    /// A sentence for the user, with the end of the server's log.
    pub fn launch(command: &mut Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", Path::new(command.get_program()).display()))?;
        let log = Log::default();
        let (lines, said) = mpsc::channel();
        let keep = Arc::clone(&log);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // Nobody listens any more once the server is ready; reading on keeps its pipe empty.
                    drop(lines.send(line));
                }
            });
        }
        if let Some(stderr) = child.stderr.take() {
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut kept = keep.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() == LOG_LINES_KEPT {
                        kept.pop_front();
                    }
                    kept.push_back(line);
                }
            });
        }
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { child, address, ready_line: String::new(), log, told: Cell::new(false) };
        server.wait_ready(&said)?;
        Ok(server)
    }

    fn wait_ready(&mut self, said: &mpsc::Receiver<String>) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some(address) = ready_address(&line) {
                        self.address = address;
                        self.ready_line = line;
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!(
                        "the server did not listen within {} s{}",
                        READY_WITHIN.as_secs(),
                        self.log_end()
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait().map_or_else(|error| error.to_string(), |s| s.to_string());
                    return Err(format!("the server ended before it listened: {status}{}", self.log_end()));
                }
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The line with which it said that it is ready: addresses and plan.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// The last line of its log that holds `words`, of those that are kept.
    pub fn logged(&self, words: &str) -> Option<String> {
        let kept = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|line| line.contains(words)).cloned()
    }

    /// Tells it to stop, by SIGTERM, and does not wait for it.
    pub fn ask_to_stop(&self) {
        // An error means that it has ended since; then there is nobody to tell.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        // A second signal would end it at once.
        self.told.set(true);
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Stops it by SIGTERM and waits for it.
    ///
    /// # Errors
    /// An exit other than 0, or none within the time; it is killed then.
    pub fn stop(mut self) -> Result<(), String> {
        match self.terminate() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the server ended with {status}{}", self.log_end())),
            None => {
                Err(format!("the server did not stop within {} s and was killed", STOPPED_WITHIN.as_secs()))
            }
        }
    }

    fn terminate(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        if !self.told.get() {
            self.ask_to_stop();
        }
        let deadline = Instant::now() + STOPPED_WITHIN;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        drop(self.child.kill());
        drop(self.child.wait());
        None
    }

    fn log_end(&self) -> String {
        let kept = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|line| format!("\n  | {line}")).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The status matters only to who asked for it by `stop`.
        self.terminate();
    }
}

/// The address in a readiness line.
fn ready_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(READY_MARK)?;
    let end = rest.find(|c: char| c.is_whitespace() || "/,;)".contains(c)).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The server binary: the one given, or `tcbchat` beside this executable, built first when that is cargo's
/// target directory and the workspace is there.
///
/// # Errors
/// A sentence for the user.
pub fn find_server(given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let own = std::env::current_exe().map_err(|error| format!("own executable: {error}"))?;
    let sibling = own.with_file_name("tcbchat");
    let under_cargo = std::env::var_os("CARGO").is_some();
    if !under_cargo && sibling.exists() {
        return Ok(sibling);
    }
    match workspace(&own) {
        Some(root) => build(&root, &own)?,
        None if sibling.exists() => {}
        None => {
            return Err(format!("no server at {}; give its path: --spawn-server PATH", sibling.display()));
        }
    }
    Ok(sibling)
}

/// The workspace whose target directory an executable lies in.
fn workspace(own: &Path) -> Option<PathBuf> {
    let root = own.parent()?.parent()?.parent()?;
    let manifest = std::fs::read_to_string(root.join("Cargo.toml")).ok()?;
    manifest.contains("name = \"tcbchat\"").then(|| root.to_owned())
}

fn build(root: &Path, own: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = own.parent().and_then(Path::file_name).unwrap_or_default();
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["build", "--package", "tcbchat", "--bin", "tcbchat"]);
    if profile == "release" {
        command.arg("--release");
    } else if profile != "debug" {
        command.arg("--profile").arg(profile);
    }
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the server could not be built: {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_readiness_line() {
        let address = |line| ready_address(line);
        let here = Some("127.0.0.1:4711".parse().unwrap());
        assert_eq!(address("tcbchat ready: listening on http://127.0.0.1:4711 (2 reactors)"), here);
        assert_eq!(address("listening on http://127.0.0.1:4711/ and more"), here);
        assert_eq!(address("listening on http://127.0.0.1:4711"), here);
        assert_eq!(address("listening on http://[::1]:80, twice"), Some("[::1]:80".parse().unwrap()));
        assert_eq!(address("starting"), None);
    }

    /// Starts a shell script as the server.
    fn start(text: &str) -> Result<Server, String> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("server");
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        // A process that another test forks between the open and the close of the file holds it open for
        // writing until it executes its own program; until then this one cannot be executed.
        loop {
            match Server::start(&script, 1, &[]) {
                Err(error) if error.contains("Text file busy") => std::thread::yield_now(),
                started => return started,
            }
        }
    }

    #[test]
    fn a_server_that_ends_at_once_is_reported_with_its_log() {
        let error = start("#!/bin/sh\necho no memory >&2\nexit 3\n").unwrap_err();
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn an_exit_other_than_zero_is_an_error() {
        let text = "#!/bin/sh\ntrap 'exit 7' TERM\necho listening on http://127.0.0.1:9\n\
                    while :; do sleep 0.05; done\n";
        let server = start(text).unwrap();
        assert_eq!(server.address(), "127.0.0.1:9".parse().unwrap());
        assert!(server.stop().unwrap_err().contains("exit status: 7"));
    }
}
