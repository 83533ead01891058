//! `docs/GUIDE.md` as a reader follows it: its fenced blocks, in their order, in one shell and an empty directory.
//!
//! | fence | what becomes of the block |
//! |---|---|
//! | `sh` | the shell runs it |
//! | `text`, `json` | it is what the block before it printed; `…` stands for anything in a line |
//! | a language and a file name | it is saved under that name |
//!
//! Indented blocks are not run: they install something, or are for another machine. `… & NAME=$!` starts one of
//! [`PROGRAMS`], and the next block is run when it listens. Ports that the guide names are free ones here, nothing else
//! differs.
//!
//! Invariant: every fenced block is run, compared or saved; one that is not ends the test.

mod support;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use support::peer;

/// What the guide starts, by the variable that has its process, with the port that the guide says it listens on. The API
/// is the server's.
const PROGRAMS: &[(&str, u16)] = &[("server", 8080), ("application", 8090), ("nginx", 8443), ("api", 8070)];
/// Programs of others that the guide uses.
const TOOLS: &[&str] = &["openssl", "curl", "nginx"];
const PACKAGES: &[&str] = &["@stomp/stompjs", "ws"];

/// Time for one block. The longest renews a token for some seconds.
const BLOCK_MAX: Duration = Duration::from_secs(60);
/// Time for the shell's children to end when they are told.
const END_MAX: Duration = Duration::from_secs(5);
/// What the shell says behind each block.
const DONE: &str = "--- the block is done";
/// Ports that the kernel gives to nobody who has not asked for them, by default.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A fenced block.
#[derive(Debug)]
struct Block {
    line: usize,
    /// What stands behind the fence.
    fence: String,
    text: String,
}

/// The fenced blocks of the guide.
fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, text) in (1..).zip(guide.lines()) {
        match (&mut open, text.strip_prefix("```")) {
            (None, Some(fence)) => open = Some(Block { line, fence: fence.into(), text: String::new() }),
            (Some(_), Some(end)) => {
                assert_eq!(end, "", "line {line}: a fence inside a block");
                blocks.extend(open.take());
            }
            (Some(block), None) => writeln!(block.text, "{text}").expect("a String takes every text"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end: {open:?}");
    blocks
}

/// The reader's shell. What it writes comes by lines.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    /// Blocks, outside of the directory that they are run in.
    scripts: tempfile::TempDir,
    count: u32,
}

impl Shell {
    fn start(directory: &Path, port: u16) -> Shell {
        let bin = Path::new(env!("CARGO_BIN_EXE_tcbchat")).parent().expect("a program is in a folder");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = [bin.to_owned()].into_iter().chain(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TCBCHAT_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .arg("-eu")
            .env("PATH", std::env::join_paths(paths).expect("paths of a PATH"))
            .env("TCBCHAT_LISTEN_ADDRESS", format!("127.0.0.1:{port}"))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // What it starts ends with it.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let (sender, lines) = channel();
        collect(child.stdout.take().expect("a pipe"), sender.clone());
        collect(child.stderr.take().expect("a pipe"), sender);
        let stdin = child.stdin.take().expect("a pipe");
        let scripts = tempfile::tempdir().expect("a folder for the blocks");
        Shell { child, stdin, lines, scripts, count: 0 }
    }

    /// Runs a block, and gives the lines that it wrote; or, if it failed, the same as an error.
    fn run(&mut self, block: &str) -> Result<Vec<String>, Vec<String>> {
        self.count += 1;
        let script = self.scripts.path().join(self.count.to_string());
        std::fs::write(&script, block).expect("it can be written");
        let both = format!(". '{}' </dev/null 2>&1\necho '{DONE}'\n", script.display());
        // A shell that has ended reads no more; what it said is looked at below.
        drop(self.stdin.write_all(both.as_bytes()));
        let deadline = Instant::now() + BLOCK_MAX;
        let mut said = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == DONE => return Ok(said),
                Ok(line) => said.push(line),
                Err(_) => return Err(said),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // It fails only if all have ended already.
        if kill_process_group(group, Signal::TERM).is_ok() {
            peer::await_end(&mut self.child, END_MAX);
            if kill_process_group(group, Signal::KILL).is_ok() {
                eprintln!("the guide's programs were killed");
            }
        }
    }
}

/// Reads a pipe by lines, in a thread of its own.
fn collect(pipe: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}

/// A port that nobody listens on, and that no outgoing connection gets.
fn free_port(nth: u16) -> u16 {
    let count = PORTS.end - PORTS.start;
    // Another run begins elsewhere.
    let first = (std::process::id() % u32::from(count)) as u16;
    let mut ports = (0..count).map(|step| PORTS.start + (first + nth * 1000 + step) % count);
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).expect("one port is free")
}

/// Waits until a program listens.
fn await_listener(port: u16) -> bool {
    let deadline = Instant::now() + BLOCK_MAX;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Whether a line is what the guide says it is.
fn is_like(said: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = said.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        last = Some(part);
    }
    match last {
        // What stands behind the last `…` is the end of the line, wherever else it is.
        Some(part) => said.len() >= first.len() + part.len() && said.ends_with(part),
        None => rest.is_empty(),
    }
}

/// All that is in the directory in files of text, for who must find out what went wrong.
fn logs(directory: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(directory).expect("it can be listed").map_while(Result::ok) {
        if entry.path().extension().is_some_and(|extension| extension == "log") {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            write!(text, "--- {}:\n{log}", entry.path().display()).expect("a String takes every text");
        }
    }
    text
}

/// A program of the reader, if all are there.
fn tools() -> Option<Vec<PathBuf>> {
    peer::node("stompjs.mjs", PACKAGES)?;
    TOOLS.iter().map(|tool| peer::program(tool)).collect()
}

#[test]
fn every_step_of_the_guide_does_what_it_says() {
    if tools().is_none() {
        return;
    }
    let directory = tempfile::tempdir().expect("an empty folder");
    let modules = peer::clients_dir().join("node_modules");
    symlink(modules, directory.path().join("node_modules")).expect("a link");
    let ports: Vec<u16> = (0..PROGRAMS.len() as u16).map(free_port).collect();
    // By way of names: a free port may contain one of the guide's.
    let here = |text: &str| {
        let named = PROGRAMS.iter().fold(text.to_owned(), |text, (name, port)| {
            text.replace(&port.to_string(), &format!("\0{name}\0"))
        });
        PROGRAMS
            .iter()
            .zip(&ports)
            .fold(named, |text, ((name, _), free)| text.replace(&format!("\0{name}\0"), &free.to_string()))
    };
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/GUIDE.md");
    let guide = std::fs::read_to_string(guide).expect("there is a guide");
    let mut shell = Shell::start(directory.path(), ports[0]);
    // What a block printed that nothing was compared with yet.
    let mut said: Option<Vec<String>> = None;
    for Block { line, fence, text } in blocks(&guide) {
        let text = here(&text);
        let explain = || format!("docs/GUIDE.md:{line}:\n{text}\n{}", logs(directory.path()));
        match fence.split_once(' ') {
            Some((_, file)) => {
                assert!(!file.contains(['/', ' ']), "{}", explain());
                std::fs::write(directory.path().join(file), &text).expect("it can be written");
            }
            None if fence == "sh" => {
                // What is printed is shown to the reader, or there is nothing.
                let before = said.take().unwrap_or_default();
                assert!(before.is_empty(), "before docs/GUIDE.md:{line}: not in the guide: {before:#?}");
                said = match shell.run(&text) {
                    Ok(said) => Some(said),
                    Err(said) => panic!("it fails, or does not end: {said:#?}\n{}", explain()),
                };
                for ((name, _), port) in PROGRAMS.iter().zip(&ports) {
                    let is_started = text.contains(&format!("& {name}=$!"));
                    assert!(!is_started || await_listener(*port), "{name} does not listen\n{}", explain());
                }
            }
            None if fence == "text" || fence == "json" => {
                let said = said.take().unwrap_or_else(|| panic!("of what block is this? {}", explain()));
                let is_same = said.len() == text.lines().count()
                    && said.iter().zip(text.lines()).all(|(said, pattern)| is_like(said, pattern));
                assert!(is_same, "it prints:\n{}\n{}", said.join("\n"), explain());
            }
            None => panic!("what is to be done with a block of {fence:?}? {}", explain()),
        }
    }
    assert!(said.unwrap_or_default().is_empty(), "the last block prints what is not in the guide");
}

#[test]
fn blocks_and_patterns_are_read() {
    let read = blocks("a\n```sh\none\n\ntwo\n```\n    not this\n```js x.mjs\n```\n");
    let read: Vec<_> = read.iter().map(|block| (block.line, &*block.fence, &*block.text)).collect();
    assert_eq!(read, [(2, "sh", "one\n\ntwo\n"), (8, "js x.mjs", "")]);
    for (said, pattern, is) in [
        ("same", "same", true),
        ("same", "sam", false),
        ("same", "", false),
        ("", "", true),
        ("anything", "…", true),
        ("", "…", true),
        ("a = 12 s", "a = … s", true),
        ("a = 12 s, and more", "a = … s", false),
        ("a s b s", "a … s", true),
        ("ab", "ab…b", false),
        ("1 and 2", "…and…", true),
        ("1 or 2", "…and…", false),
    ] {
        assert_eq!(is_like(said, pattern), is, "{said:?} {pattern:?}");
    }
}
