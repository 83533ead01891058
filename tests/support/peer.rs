//! Programs of others that the server is tested with: Node, Python, Java, Chromium and their packages.
//!
//! `.ci/setup` installs them. Where one is missing its test is noted as skipped and passes, unless `CI`
//! is `true`: there, nothing may be left out.
//!
//! Invariant: no peer runs longer than it was given; past that it is killed, by its id.

use std::fmt::Display;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::skipped;

/// Where Debian's package puts the browser; `CHROMIUM` names another one.
const CHROMIUM: &str = "/usr/bin/chromium";
/// Bytes kept of what a peer writes to one pipe.
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// Time that a pipe may stay open after its process has ended.
const PIPE_END_MAX: Duration = Duration::from_secs(5);

/// The folder with the peers' scripts and installed packages.
pub fn clients_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Node with one of our scripts, if it and its packages are there.
pub fn node(script: &str, packages: &[&str]) -> Option<Command> {
    for package in packages {
        let manifest = clients_dir().join("node_modules").join(package).join("package.json");
        if !manifest.is_file() {
            return missing(format_args!("the Node package {package} is not installed"));
        }
    }
    if !answers(Command::new("node").arg("--version")) {
        return missing("there is no node");
    }
    let mut command = Command::new("node");
    command.arg(clients_dir().join(script)).current_dir(clients_dir());
    Some(command)
}

/// A program of the peers' Python environment (`python`, `kosoku`), if it is there.
pub fn python_program(name: &str) -> Option<Command> {
    let program = clients_dir().join(".venv/bin").join(name);
    if program.is_file() {
        Some(Command::new(program))
    } else {
        missing(format_args!("{name} is not installed in tests/clients/.venv"))
    }
}

/// Java, which compiles one file and runs it, if its compiler is there.
pub fn java() -> Option<Command> {
    program("javac")?;
    let mut command = Command::new(program("java")?);
    // Programs of seconds: start fast, and leave the other core to other tests. Before Java 18 a locale says how bytes of a
    // String look.
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]);
    Some(command)
}

/// A class path of jars that `.ci/setup` takes out of Debian's packages, if they are there.
pub fn jars(names: &[&str]) -> Option<String> {
    let mut paths = Vec::new();
    for name in names {
        let path = clients_dir().join(".java").join(name).with_extension("jar");
        if !path.is_file() {
            return missing(format_args!("{name}.jar is not in tests/clients/.java"));
        }
        paths.push(path.to_str().expect("a path of characters").to_owned());
    }
    Some(paths.join(":"))
}

/// The browser, if it is there.
pub fn chromium() -> Option<PathBuf> {
    let program = std::env::var_os("CHROMIUM").map_or_else(|| PathBuf::from(CHROMIUM), PathBuf::from);
    if program.is_file() { Some(program) } else { missing(format_args!("there is no {}", program.display())) }
}

/// A program of the system, if it is there.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];
    match folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file()) {
        Some(path) => Some(path),
        None => missing(format_args!("there is no {name}")),
    }
}

/// Says that a test is left out, and why.
///
/// # Panics
/// When `CI` is `true`.
fn missing<T>(reason: impl Display) -> Option<T> {
    skipped::note(format_args!("{reason}; .ci/setup installs it"));
    None
}

fn answers(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a peer to its end and returns what it wrote.
///
/// # Panics
/// When it fails, or is not done within `time_max`; what it wrote is shown.
pub fn run(command: &mut Command, time_max: Duration) -> String {
    let (status, output) = finish(command, time_max);
    assert!(status.success(), "{} ended with {status}:\n{output}", name_of(command));
    output
}

/// Runs a peer to its end, whatever that is, and returns its status with what it wrote.
///
/// # Panics
/// When it is not done within `time_max`; what it wrote is shown.
pub fn finish(command: &mut Command, time_max: Duration) -> (ExitStatus, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", name_of(command)));
    let (text, texts) = channel();
    collect(child.stdout.take().expect("a pipe"), text.clone());
    collect(child.stderr.take().expect("a pipe"), text);
    let status = await_end(&mut child, time_max);
    // Two texts, one for each pipe; a process that the peer left behind may hold one of them open.
    let output: String = (0..2).map_while(|_| texts.recv_timeout(PIPE_END_MAX).ok()).collect();
    let Some(status) = status else {
        panic!("{} was not done after {time_max:?}:\n{output}", name_of(command));
    };
    (status, output)
}

/// Reads a pipe to its end in a thread of its own, so that the peer never blocks on writing.
fn collect(pipe: impl Read + Send + 'static, text: Sender<String>) {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has said all that it can.
        drop(pipe.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes));
        // Nobody waits for it any more after PIPE_END_MAX.
        drop(text.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
}

/// The status of a process that ended in time; one that did not is killed.
pub fn await_end(child: &mut Child, time_max: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + time_max;
    loop {
        if let Some(status) = child.try_wait().expect("our own child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn name_of(command: &Command) -> String {
    let mut name = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        name.push(' ');
        name.push_str(&argument.to_string_lossy());
    }
    name
}
