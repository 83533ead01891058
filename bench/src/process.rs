//! The programs under measurement: found, built when run by cargo, started, and ended.
//!
//! What they do is their own business: the server is ready when it says so on its standard output, and is
//! stopped by SIGTERM to its pid; `client-sim` ends by itself and leaves its result as JSON.
//!
//! Invariant: when a [`Server`] is gone, so is its process.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio, exit};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal, setpriority_process,
};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a server may take to close all connections.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// Lines of a server's log that are kept, for whoever asks what it had to say.
const LOG_LINES_KEPT: usize = 100;

/// What the server's readiness line says before its address.
const READY_MARK: &str = "listening on http://";

/// The server and the simulator.
#[derive(Debug)]
pub struct Programs {
    /// `tcbchat`.
    pub server: PathBuf,
    /// `client-sim`.
    pub simulator: PathBuf,
    /// This program.
    pub own: PathBuf,
}

impl Programs {
    /// Those beside this executable, built first when it was run by cargo: a measurement must not be of stale
    /// ones.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn find() -> Result<Programs, String> {
        let own = std::env::current_exe().map_err(|error| format!("own executable: {error}"))?;
        if let Some(cargo) = std::env::var_os("CARGO") {
            build(Path::new(&cargo), own.parent().and_then(Path::file_name).unwrap_or_default())?;
        }
        let beside = |name| {
            let path = own.with_file_name(name);
            if path.exists() {
                Ok(path)
            } else {
                Err(format!("{} is missing; run this through cargo", path.display()))
            }
        };
        let (server, simulator) = (beside("tcbchat")?, beside("client-sim")?);
        Ok(Programs { server, simulator, own })
    }
}

fn build(cargo: &Path, profile: &std::ffi::OsStr) -> Result<(), String> {
    let mut command = Command::new(cargo);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args(["build", "--package", "tcbchat", "--package", "client-sim", "--bins"]);
    if profile == "release" {
        command.arg("--release");
    } else if profile != "debug" {
        command.arg("--profile").arg(profile);
    }
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the programs could not be built: {status}")) }
}

/// Processes of ours that run.
static RUNNING: Mutex<Vec<(u32, OwnedFd)>> = Mutex::new(Vec::new());

/// A process that is told to end when this program is, as long as this value lives.
#[derive(Debug)]
pub struct Ours(u32);

impl Ours {
    /// Of a child that has not been waited for.
    pub fn of(child: &Child) -> Self {
        // A handle, as the number may be another's by the time. Without one it is not told: the kernel is too old.
        if let Ok(handle) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
            RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push((child.id(), handle));
        }
        Self(child.id())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|(pid, _)| *pid != self.0);
    }
}

/// Has this program, when it is told to end, tell all that it has started first.
///
/// # Errors
/// What the system says.
pub fn end_with_all_that_was_started() -> io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    thread::spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        for (_, handle) in &*RUNNING.lock().unwrap_or_else(PoisonError::into_inner) {
            // An error means that it has ended.
            pidfd_send_signal(handle, Signal::TERM).ok();
        }
        exit(128 + signal);
    });
    Ok(())
}

/// A server process of ours.
#[derive(Debug)]
pub struct Server {
    child: Child,
    _ours: Ours,
    /// What it said when it was ready: address and plan.
    pub ready_line: String,
    log: Log,
    /// Held open, so that the server never writes into a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Server {
    /// Starts a server with room for `capacity` connections on a free port of 127.0.0.1, with these settings
    /// (`key=value`), and waits until it listens. Its log goes where ours goes.
    ///
    /// # Errors
    /// It does not start, or ends before it listens.
    pub fn start(programs: &Programs, capacity: u32, settings: &[String]) -> Result<Server, NoRun> {
        let mut command = Command::new(&programs.server);
        command.args(["serve", "--listen", "127.0.0.1:0", "--capacity", &capacity.to_string()]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Server::launch(&mut command)
    }

    /// Starts the server with a thread per connection, at most so many, in the same way.
    ///
    /// # Errors
    /// It does not start, or ends before it listens.
    pub fn start_bio(programs: &Programs, threads_max: u32) -> Result<Server, NoRun> {
        let mut command = Command::new(&programs.own);
        command.args(["bio-server", "--listen", "127.0.0.1:0", "--threads-max", &threads_max.to_string()]);
        Server::launch(&mut command)
    }

    /// Starts any server that says where it listens, and waits until it does.
    ///
    /// # Errors
    /// It does not start, or ends before it listens.
    pub fn launch(command: &mut Command) -> Result<Server, NoRun> {
        let binary = Path::new(command.get_program()).display().to_string();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{binary}: {error}"))?;
        let ours = Ours::of(&child);
        let stdout = child.stdout.take().ok_or("the server has no standard output".to_owned())?;
        let stderr = child.stderr.take().ok_or("the server has no standard error".to_owned())?;
        let log = Log::default();
        let kept = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("{line}");
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == LOG_LINES_KEPT {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        let mut server =
            Server { child, _ours: ours, ready_line: String::new(), log, _stdout: BufReader::new(stdout) };
        let read = server._stdout.read_line(&mut server.ready_line).map_err(|error| error.to_string())?;
        if read == 0 || address(&server.ready_line).is_none() {
            return Err(server.why_not(reader));
        }
        server.ready_line.truncate(server.ready_line.trim_end().len());
        Ok(server)
    }

    /// Why it does not listen: a plan that does not fit, or anything else.
    fn why_not(mut self, reader: JoinHandle<()>) -> NoRun {
        let has_closed = self.ready_line.is_empty();
        let status = if has_closed { self.child.wait().ok() } else { None };
        if status.and_then(|status| status.code()) != Some(PLAN_DOES_NOT_FIT) {
            return NoRun::Broken(format!("the server did not listen; it said {:?}", self.ready_line));
        }
        // It has ended, so its log has, too. A reader that panicked has kept what it read.
        reader.join().ok();
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        NoRun::Refused(log.iter().map(String::as_str).collect::<Vec<_>>().join("; "))
    }

    /// Its WebSocket endpoint.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", address(&self.ready_line).unwrap_or_default())
    }

    /// Where it listens.
    ///
    /// # Errors
    /// It has not said so.
    pub fn address(&self) -> Result<SocketAddr, String> {
        let said = address(&self.ready_line).and_then(|address| address.parse().ok());
        said.ok_or_else(|| format!("no address in {:?}", self.ready_line))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // An error means that it is not known to have ended.
        self.child.try_wait().unwrap_or_default()
    }

    /// The last line of its log so far that has this in it, and the one after.
    pub fn logged(&self, mark: &str) -> Option<String> {
        let kept = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().rposition(|line| line.contains(mark))?;
        Some(kept.iter().skip(at).take(2).map(String::as_str).collect::<Vec<_>>().join(" "))
    }

    /// How many reactors it has.
    ///
    /// # Errors
    /// It has not said so.
    pub fn reactors(&self) -> Result<u16, String> {
        reactors(&self.ready_line).ok_or_else(|| format!("no number of reactors in {:?}", self.ready_line))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a child: SIGTERM, and after a while SIGKILL.
pub fn end(child: &mut Child) {
    // An error of the signal means that it has ended since.
    kill_process(Pid::from_child(child), Signal::TERM).ok();
    if wait(child, STOPPED_WITHIN).is_none() {
        drop(child.kill());
        drop(child.wait());
    }
}

/// Waits for the end of a child, for a while; `None` if it has not ended.
pub fn wait(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + within;
    loop {
        // An error means that it is not known to have ended.
        let ended = child.try_wait().unwrap_or_default();
        if ended.is_some() || Instant::now() >= deadline {
            return ended;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn address(ready_line: &str) -> Option<&str> {
    let (_, rest) = ready_line.split_once(READY_MARK)?;
    rest.split_whitespace().next()
}

fn reactors(ready_line: &str) -> Option<u16> {
    let (before, _) = ready_line.split_once(" reactor")?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// What `client-sim hold` is to do.
#[derive(Debug, Clone)]
pub struct Hold<'a> {
    /// Sessions.
    pub connections: u32,
    /// Members of a room.
    pub room_size: u32,
    /// Rooms are `/topic/PREFIX0` and so on.
    pub room_prefix: &'a str,
    /// Seconds for which all of them are idle before the memory is measured.
    pub seconds: f64,
    /// Tokens that they log in with, one a line.
    pub tokens: Option<&'a Path>,
}

/// Holds sessions on a server and returns the simulator's JSON.
///
/// # Errors
/// The run has failed in any way; partial results are no results.
pub fn hold(programs: &Programs, server: &Server, hold: &Hold<'_>) -> Result<Value, String> {
    let run = simulate(programs, server, "hold", &hold.arguments())?;
    if run.has_passed { Ok(run.json) } else { Err(format!("client-sim failed: {}", run.said)) }
}

impl Hold<'_> {
    /// As the simulator's command line has it.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments =
            vec![format!("--connections={}", self.connections), format!("--hold={}", self.seconds)];
        arguments.extend([
            format!("--room-size={}", self.room_size),
            format!("--room-prefix={}", self.room_prefix),
        ]);
        arguments.extend(self.tokens.map(|tokens| format!("--tokens={}", tokens.display())));
        arguments
    }
}

/// A run of the simulator, to its end.
#[derive(Debug)]
pub struct Run {
    /// Its result, schema `tcbchat.client-sim/1`.
    pub json: Value,
    /// Everything that was asked for was reached.
    pub has_passed: bool,
    /// Its table.
    pub said: String,
}

/// Why there is no server, or no result of the simulator.
#[derive(Debug)]
pub enum NoRun {
    /// The plan does not fit this machine, and nothing was tried: the words of the program on what is missing.
    Refused(String),
    /// Anything else.
    Broken(String),
}

impl From<String> for NoRun {
    fn from(problem: String) -> Self {
        NoRun::Broken(problem)
    }
}

impl From<netns::Error> for NoRun {
    fn from(error: netns::Error) -> Self {
        match error {
            netns::Error::Missing(reason) => NoRun::Refused(reason),
            netns::Error::Broken(reason) => NoRun::Broken(reason),
        }
    }
}

impl From<NoRun> for String {
    fn from(reason: NoRun) -> Self {
        match reason {
            NoRun::Refused(words) | NoRun::Broken(words) => words,
        }
    }
}

/// Exit code of both programs when the plan does not fit.
const PLAN_DOES_NOT_FIT: i32 = 2;

/// Runs a scenario of the simulator on a server.
///
/// # Errors
/// There is no result: the simulator does not start, or refuses the run.
pub fn simulate(
    programs: &Programs,
    server: &Server,
    scenario: &str,
    arguments: &[String],
) -> Result<Run, NoRun> {
    let directory = tempfile::tempdir().map_err(|error| format!("temporary directory: {error}"))?;
    let json = directory.path().join("result.json");
    let child = Command::new(&programs.simulator)
        .args([scenario, "--quiet", "--url", &server.url(), "--server-pid", &server.pid().to_string()])
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{}: {error}", programs.simulator.display()))?;
    let ours = Ours::of(&child);
    let output =
        child.wait_with_output().map_err(|error| format!("{}: {error}", programs.simulator.display()))?;
    drop(ours);
    let warned = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(PLAN_DOES_NOT_FIT) {
        return Err(NoRun::Refused(warned.trim().to_owned()));
    }
    eprint!("{warned}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = std::fs::read_to_string(&json)
        .map_err(|error| format!("client-sim: {}, no result: {error}{said}", output.status))?;
    let json = serde_json::from_str(&text).map_err(|error| format!("client-sim's JSON: {error}"))?;
    Ok(Run { json, has_passed: output.status.success(), said })
}

/// Who runs where.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Cores {
    /// Core of the server
    #[arg(long, value_name = "CORE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..1024))]
    pub server_core: u32,
    /// Core of the simulator
    #[arg(long, value_name = "CORE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(..1024))]
    pub client_core: u32,
}

impl Cores {
    /// Asks before anything is measured whether both are there.
    ///
    /// # Errors
    /// One is not.
    pub fn check(self) -> Result<(), String> {
        let set = sched_getaffinity(None).map_err(|error| format!("cores: {error}"))?;
        let own: Vec<u32> = (0..1024).filter(|core| set.is_set(*core as usize)).collect();
        for (option, core) in [("--server-core", self.server_core), ("--client-core", self.client_core)] {
            if !own.contains(&core) {
                return Err(format!("{option} {core}: this process may run on {own:?} only"));
            }
        }
        Ok(())
    }
}

/// This thread lets others go first, as far as the kernel allows it.
pub fn give_way() {
    // A lower priority is always permitted.
    setpriority_process(Some(gettid()), 19).ok();
}

/// Does something, starting a process above all, on one core: a child inherits it.
///
/// # Errors
/// The core is not there, or what `act` says.
pub fn on_core<T, E: From<String>>(core: u32, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let problem = |error: rustix::io::Errno| format!("core {core}: {error}");
    let before = sched_getaffinity(None).map_err(problem)?;
    let mut only = CpuSet::new();
    only.set(core as usize);
    sched_setaffinity(None, &only).map_err(problem)?;
    let done = act();
    sched_setaffinity(None, &before).map_err(problem)?;
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_goes_on_is_not_waited_for_and_ends_when_it_is_ended() {
        let mut child = Command::new("/bin/sleep").arg("600").spawn().unwrap();
        assert_eq!(wait(&mut child, Duration::from_millis(30)), None);
        end(&mut child);
        let status = wait(&mut child, Duration::ZERO).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::TERM.as_raw()));
    }

    #[test]
    fn a_core_that_is_not_there_is_named_with_those_that_are() {
        let own = (0..1024).find(|core| sched_getaffinity(None).unwrap().is_set(*core)).unwrap() as u32;
        assert_eq!(Cores { server_core: own, client_core: own }.check(), Ok(()));
        let refused = Cores { server_core: own, client_core: 1023 }.check().unwrap_err();
        assert!(
            refused.starts_with(&format!("--client-core 1023: this process may run on [{own}")),
            "{refused}"
        );
    }

    #[test]
    fn the_readiness_line_is_understood() {
        let line =
            "tcbchat ready: listening on http://127.0.0.1:4711 (3 reactors with a private table each)\n";
        assert_eq!(address(line), Some("127.0.0.1:4711"));
        assert_eq!(reactors(line), Some(3));
        assert_eq!(reactors("listening on http://127.0.0.1:1 (1 reactor with one table)"), Some(1));
        assert_eq!((address("starting"), reactors("starting")), (None, None));
    }
}
