//! What a wall is played with: the place it is played in, and servers started there.
//!
//! A server is started with everything at its defaults but the keys that the wall is about, on a port that
//! is not ephemeral when the place is a namespace, so that it does not take one of those that are counted.
//!
//! Invariant: a server started here is gone when its [`Served`] is.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use super::outcome::Trouble;
use super::user::SOON;
use crate::memory;
use crate::scrape::{Metrics, fetch};
use crate::spawn::Server;

/// The port of servers in a namespace: outside of every range of ephemeral ports that is set here.
const PORT: u16 = 8080;
/// Time between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where a wall is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the host's loopback: no limit of the kernel is lowered but those of own processes.
    Host,
    /// In a network namespace of its own.
    Namespace,
}

/// The stage of one wall.
#[derive(Debug)]
pub struct Stage {
    /// Where it is.
    pub place: Place,
    /// The server to start.
    pub binary: PathBuf,
}

/// How a server is started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// `--profile`.
    pub profile: Option<&'static str>,
    /// Keys that are not at their defaults.
    pub keys: Vec<(&'static str, String)>,
    /// An option of the shell's `ulimit` (`-n 512`).
    pub ulimit: Option<String>,
    /// A cgroup to start in.
    pub cgroup: Option<PathBuf>,
    /// Port in a namespace, if it is not the only server there.
    pub port: Option<u16>,
    /// Threads, if it is the thread-per-connection server that is to be started.
    pub bio_threads: Option<u32>,
}

impl Launch {
    /// A server with these keys.
    pub fn with<V: ToString>(keys: &[(&'static str, V)]) -> Self {
        Self { keys: keys.iter().map(|(key, value)| (*key, value.to_string())).collect(), ..Self::default() }
    }

    /// One more key.
    pub fn and(mut self, key: &'static str, value: impl ToString) -> Self {
        self.keys.push((key, value.to_string()));
        self
    }
}

impl Stage {
    /// Starts a server.
    ///
    /// # Errors
    /// Why it did not start, with the end of its log.
    pub fn serve(&self, launch: &Launch) -> Result<Served, Trouble> {
        let port = if self.place == Place::Namespace { launch.port.unwrap_or(PORT) } else { 0 };
        let listen = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = match launch.bio_threads {
            Some(threads) => {
                let own = std::env::current_exe()?;
                self.command(&own, &["wall", "--bio-server", &threads.to_string()], launch)
            }
            None => self.command(&self.binary, &["serve", "--listen", &listen.to_string()], launch),
        };
        let server = Server::launch(&mut command)?;
        Ok(Served { address: server.address(), server })
    }

    /// A command under the limits and with the keys of a launch.
    pub fn command(&self, program: &Path, words: &[&str], launch: &Launch) -> Command {
        let mut command = Command::new("sh");
        for (name, _) in std::env::vars_os() {
            // The user's own configuration is not what is shown here.
            if name.to_string_lossy().starts_with("TCBCHAT_") {
                command.env_remove(name);
            }
        }
        let mut script = String::new();
        if let Some(cgroup) = &launch.cgroup {
            script.push_str("echo $$ > \"$WALL_CGROUP/cgroup.procs\" && ");
            command.env("WALL_CGROUP", cgroup);
        }
        if let Some(ulimit) = &launch.ulimit {
            script.push_str(&format!("ulimit {ulimit} && "));
        }
        // The shell becomes the program, which keeps its process id.
        script.push_str("exec \"$@\"");
        command.args(["-c", &script, "sh"]).arg(program).args(words);
        if launch.bio_threads.is_none() {
            command.args(launch.profile.iter().flat_map(|profile| ["--profile", profile]));
            for (key, value) in &launch.keys {
                command.env(format!("TCBCHAT_{}", key.replace('.', "_")).to_ascii_uppercase(), value);
            }
        }
        command
    }
}

/// A server on the stage.
#[derive(Debug)]
pub struct Served {
    server: Server,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Served {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The last line of its log with these words.
    pub fn logged(&self, words: &str) -> Option<String> {
        self.server.logged(words)
    }

    /// Its numbers, as `/metrics` tells them.
    ///
    /// # Errors
    /// No answer, or another one.
    pub fn metrics(&self) -> Result<Metrics, Trouble> {
        let end = Instant::now() + SOON;
        loop {
            match fetch(self.address, "/metrics") {
                Ok(page) => return Ok(Metrics::parse(&page)),
                // At the wall of half-open handshakes the page is refused like everybody else, until the server
                // has seen that those at the wall have gone.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && Instant::now() < end => {
                    thread::sleep(LOOK_EVERY);
                }
                Err(error) => return Err(format!("/metrics: {error}").into()),
            }
        }
    }

    /// Waits until its numbers are as wished, for a while at most; the last ones read.
    ///
    /// # Errors
    /// Of [`metrics`](Self::metrics).
    pub fn metrics_when(
        &self,
        at_most: Duration,
        wish: impl Fn(&Metrics) -> bool,
    ) -> Result<Metrics, Trouble> {
        let end = Instant::now() + at_most;
        loop {
            let metrics = self.metrics()?;
            if wish(&metrics) || Instant::now() >= end {
                return Ok(metrics);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until nobody is connected but who asks, so that two runs do not meet.
    ///
    /// # Errors
    /// Of [`metrics`](Self::metrics).
    pub fn settle(&self) -> Result<Metrics, Trouble> {
        self.metrics_when(SOON, |metrics| metrics.get("connections_open") <= 1)
    }

    /// Sets a soft limit of its process while it runs, as `prlimit --pid PID` does; what it was before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_limit(&self, resource: Resource, soft: u64) -> io::Result<u64> {
        // prlimit(2) takes both limits: the hard one is inherited from this process, and stays.
        let maximum = getrlimit(resource).maximum;
        let before = prlimit(self.rustix_pid(), resource, Rlimit { current: Some(soft), maximum })?;
        Ok(before.current.unwrap_or(u64::MAX))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.rustix_pid().ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }

    /// Stops it as a long pause would, and waits until the kernel has taken all its threads off the cores.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)?;
        let end = Instant::now() + SOON;
        while !self.is_paused()? {
            if Instant::now() >= end {
                return Err(io::Error::other("the server did not stop for SIGSTOP"));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn is_paused(&self) -> io::Result<bool> {
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let text = fs::read_to_string(task?.path().join("stat"))?;
            // proc_pid_stat(5): the state follows the name, which may hold brackets.
            if !text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn rustix_pid(&self) -> Option<Pid> {
        i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
    }

    /// Descriptors that it has open.
    ///
    /// # Errors
    /// What reading procfs says.
    pub fn descriptors_open(&self) -> io::Result<u64> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count() as u64)
    }

    /// CPU seconds so far.
    pub fn cpu_s(&self) -> f64 {
        memory::Sample::take("", 0.0, Some(self.pid())).server_cpu_s.unwrap_or(0.0)
    }

    /// Pages of the process in memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        memory::rss_bytes(self.pid()).unwrap_or(0)
    }

    /// Address space of the process, in bytes: what is reserved, used or not.
    pub fn reserved_bytes(&self) -> u64 {
        self.status("VmSize:") * 1024
    }

    /// Threads of the process.
    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    fn status(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        field(&text, name)
    }

    /// Context switches of all its threads so far.
    pub fn context_switches(&self) -> u64 {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.pid())) else { return 0 };
        tasks
            .flatten()
            // A thread that ends meanwhile takes its count with it.
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .map(|text| {
                field(&text, "voluntary_ctxt_switches:") + field(&text, "nonvoluntary_ctxt_switches:")
            })
            .sum()
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// That it did not end as it should.
    pub fn stop(self) -> Result<(), Trouble> {
        Ok(self.server.stop()?)
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_what_the_server_reads() {
        let launch = Launch::with(&[("tcb.capacity", 2000)]).and("tcb.time_wait_counts", true);
        assert_eq!(launch.keys[1], ("tcb.time_wait_counts", "true".to_owned()));
    }
}
