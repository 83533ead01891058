//! The doctor held to its word: for each case the forecast, then the real server in the same place, then the error.
//!
//! A case is a place (limits of a process, control groups, a namespace, a sandbox), a configuration and what is in use.
//! The doctor is asked there first; then the server is started there, and clients come until they are refused. The
//! forecast must be within 5 % of how many were served, and the wall that it named must be the one that was met.
//! Nothing is recorded: every limit is a real one, of processes and groups that end with the case. It takes root.
//!
//! `UPDATE_DOCS=1 cargo test --test doctor_cases` writes the table of `docs/DOCTOR.md` anew.

// What the child does between fork and exec has no safe form.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

/// The server's address, in a namespace of its own.
const ADDRESS: &str = "127.0.0.1:8080";
/// Connections that come at once.
const BATCH: usize = 100;
/// Refusals after which nobody else comes.
const REFUSALS_ENOUGH: usize = 150;
/// Connections that are made at most: what one descriptor table of this process has room for.
const CLIENTS_MAX: usize = 19_000;
/// Time that an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Percent by which a forecast may be off.
const ERROR_MAX: f64 = 5.0;

/// Where a process is started.
#[derive(Debug, Clone, Default)]
struct Place {
    /// RLIMIT_NOFILE.
    files: Option<u64>,
    /// Descriptors that it is born with.
    inherited: u32,
    /// RLIMIT_DATA.
    data: Option<u64>,
    /// RLIMIT_AS.
    address_space: Option<u64>,
    /// RLIMIT_NPROC, as a user of its own.
    threads_of_user: Option<u64>,
    /// `unshare` is forbidden by a filter of system calls.
    is_sandboxed: bool,
    /// `/proc/sys` is empty.
    is_proc_hidden: bool,
    /// `pids.max` of its group.
    pids: Option<u64>,
    /// The memory limit of its group.
    memory: Option<u64>,
}

/// What there is before the doctor is asked.
#[derive(Debug, Clone, Copy, Default)]
enum Before {
    /// Nothing.
    #[default]
    Nothing,
    /// The server, with so many places in TIME_WAIT.
    Waiting(usize),
    /// The server with so many connections; so many more are asked for.
    Open(usize, u32),
    /// The server with so many connections, whose tables then get this limit; so many more are asked for.
    Lowered(usize, u64, u32),
    /// Another server, elsewhere in the same place.
    Neighbour,
}

/// One case.
#[derive(Debug, Clone, Default)]
struct Case {
    name: String,
    place: Place,
    options: Vec<String>,
    before: Before,
}

fn case(name: &str, options: &str, place: Place) -> Case {
    Case {
        name: name.to_owned(),
        place,
        options: options.split_whitespace().map(str::to_owned).collect(),
        before: Before::Nothing,
    }
}

impl Case {
    fn batch(&self) -> Option<usize> {
        self.options.iter().any(|option| option == "windows-xp").then_some(4)
    }

    fn after(self, before: Before) -> Case {
        Case { before, ..self }
    }
}

/// Every case.
fn cases() -> Vec<Case> {
    let files = |files| Place { files: Some(files), ..Place::default() };
    let none = Place::default;
    let mut cases = Vec::new();
    for limit in [270, 300, 400, 512, 700, 1_024, 2_000, 4_096] {
        cases.push(case(&format!("nofile {limit}"), "", files(limit)));
    }
    for (limit, reactors) in [(700, 1), (1_024, 4), (600, 8), (2_000, 3)] {
        cases.push(case(&format!("nofile {limit}"), &format!("--reactors {reactors}"), files(limit)));
    }
    for (limit, options) in [
        (1_024, "--capacity 500"),
        (1_024, "--capacity 5000"),
        (600, "--capacity 2000 --reactors 1"),
        (250, ""),
        (1_000, "--set reactors.fd_reserve=600 --reactors 1"),
        (1_000, "--set reactors.fd_reserve=32 --reactors 1"),
        (700, "--set handshake.refusals_max=400 --reactors 1"),
    ] {
        cases.push(case(&format!("nofile {limit}"), options, files(limit)));
    }
    for (limit, inherited, options) in [
        (700, 100, "--reactors 1"),
        (700, 400, "--reactors 1"),
        (700, 650, "--reactors 1"),
        (1_024, 400, ""),
        (2_000, 900, "--reactors 2"),
    ] {
        let place = Place { inherited, ..files(limit) };
        cases.push(case(&format!("nofile {limit}, {inherited} inherited"), options, place));
    }
    for options in ["", "--capacity 2000", "--reactors 1", "--capacity 600 --reactors 2"] {
        let place = Place { is_sandboxed: true, ..files(1_000) };
        cases.push(case("nofile 1000, no unshare", options, place));
    }
    cases.push(case("/proc/sys hidden", "", Place { is_proc_hidden: true, ..none() }));
    for profile in ["windows-xp", "windows-2000", "windows-2003", "windows-2003-sp1", "tomcat-bio"] {
        cases.push(case("profile", &format!("--profile {profile}"), none()));
    }
    for (profile, waiting) in [("windows-2003", 500), ("windows-xp", 300), ("windows-2003-sp1", 300)] {
        let in_use = case(&format!("{waiting} in TIME_WAIT"), &format!("--profile {profile}"), none());
        cases.push(in_use.after(Before::Waiting(waiting)));
    }
    cases.push(case("700 open, 2,000 more", "--capacity 2000", none()).after(Before::Open(700, 2_000)));
    cases.push(case("1,000 open, 500 more", "--capacity 1000", none()).after(Before::Open(1_000, 500)));
    cases.push(
        case("1,500 open, 1,500 more", "--capacity 2000 --reactors 4", none())
            .after(Before::Open(1_500, 1_500)),
    );
    cases.push(
        case("100 open, nofile lowered to 300", "--capacity 2000 --reactors 1", none())
            .after(Before::Lowered(100, 300, 1_000)),
    );
    let pids = |pids| Place { pids: Some(pids), ..none() };
    for (limit, options) in [
        (11, "--reactors 8 --capacity 1500"),
        (10, "--reactors 8 --capacity 1500"),
        (5, "--reactors 2 --capacity 1500"),
        (4, "--reactors 2 --capacity 1500"),
        (4, "--reactors 1 --capacity 1200"),
    ] {
        cases.push(case(&format!("pids.max {limit}"), options, pids(limit)));
    }
    cases.push(
        case("pids.max 22, a server of 8 reactors beside", "--reactors 8 --capacity 1000", pids(22))
            .after(Before::Neighbour),
    );
    cases.push(
        case("pids.max 21, a server of 8 reactors beside", "--reactors 8 --capacity 1000", pids(21))
            .after(Before::Neighbour),
    );
    for (limit, options) in [(5, "--reactors 2 --capacity 900"), (4, "--reactors 2 --capacity 900")] {
        let place = Place { threads_of_user: Some(limit), ..none() };
        cases.push(case(&format!("nproc {limit}"), options, place));
    }
    for (mib, options) in [
        (24, "--capacity 60000 --reactors 4"),
        (32, "--capacity 60000 --reactors 4"),
        (32, "--capacity 60000 --reactors 4 --set memory.group_percent_max=60"),
        (16, "--capacity 3000 --reactors 2"),
    ] {
        let place = Place { memory: Some(mib << 20), ..none() };
        cases.push(case(&format!("group of {mib} MiB"), options, place));
    }
    // In the middle of a step each, so that it is known which one ends the server.
    for (data, reactors) in [(9_500_000, 2), (13_400_000, 4), (7_000_000, 2)] {
        let place = Place { data: Some(data), ..none() };
        let options = format!("--capacity 15000 --reactors {reactors}");
        cases.push(case(&format!("RLIMIT_DATA {data}"), &options, place));
    }
    let place = Place { address_space: Some(14_000_000), ..none() };
    cases.push(case("RLIMIT_AS 14000000", "--capacity 15000 --reactors 2", place));
    cases
}

/// Groups that a case has made; removed with it.
#[derive(Default)]
struct Groups(Vec<PathBuf>);

impl Groups {
    /// Makes those that the place needs.
    fn make(place: &Place) -> Result<Groups, String> {
        let mut groups = Groups::default();
        for (controller, limit, files) in [
            ("pids", place.pids, ["pids.max", "pids.max"]),
            ("memory", place.memory, ["memory.limit_in_bytes", "memory.max"]),
        ] {
            let Some(limit) = limit else { continue };
            let root = Path::new("/sys/fs/cgroup");
            let one = root.join(controller);
            let parent = if one.is_dir() { one } else { root.to_owned() };
            let group = parent.join(format!("tcbchat-case-{}", std::process::id()));
            // One that is left from a case that was killed is as good.
            if !group.is_dir() {
                fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
            }
            groups.0.push(group.clone());
            let file = files.iter().map(|file| group.join(file)).find(|file| file.exists());
            let file = file.ok_or(format!("{} does not limit {controller}", group.display()))?;
            fs::write(&file, limit.to_string()).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(groups)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let end = Instant::now() + ANSWER_MAX;
            // The last process in it takes a moment to be gone.
            while fs::remove_dir(group).is_err() && Instant::now() < end {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A program started in a place.
fn command(place: &Place, groups: &Groups, words: &[&str], options: &[String]) -> Command {
    let program = std::env::var_os("TCBCHAT").unwrap_or_else(|| env!("CARGO_BIN_EXE_tcbchat").into());
    let mut command = Command::new(program);
    command.args(words).args(options).env_clear().stdin(Stdio::null());
    let joins: Vec<CString> = groups
        .0
        .iter()
        .map(|group| {
            CString::new(group.join("cgroup.procs").display().to_string()).expect("no NUL in a path")
        })
        .collect();
    let place = place.clone();
    // SAFETY: between fork and exec only system calls are made, on values that were made before.
    unsafe {
        command.pre_exec(move || enter(&place, &joins));
    }
    command
}

/// Takes this process to its place.
fn enter(place: &Place, joins: &[CString]) -> std::io::Result<()> {
    let done = |result: libc::c_int| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) };
    let limit = |resource, value: Option<u64>| match value {
        Some(value) => {
            let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
            // SAFETY: the limit is a valid structure.
            done(unsafe { libc::setrlimit(resource, &limit) })
        }
        None => Ok(()),
    };
    for join in joins {
        // SAFETY: the path and the byte live; "0" is the process that writes it.
        unsafe {
            let file = libc::open(join.as_ptr(), libc::O_WRONLY);
            done(file)?;
            done(libc::write(file, b"0".as_ptr().cast(), 1) as libc::c_int)?;
            done(libc::close(file))?;
        }
    }
    if place.is_proc_hidden {
        let (root, none, tmpfs, sys) = (c"/", c"none", c"tmpfs", c"/proc/sys");
        // SAFETY: all strings live; the mounts are those of a namespace that ends with the process.
        unsafe {
            done(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::MS_REC | libc::MS_PRIVATE;
            done(libc::mount(none.as_ptr(), root.as_ptr(), std::ptr::null(), private, std::ptr::null()))?;
            done(libc::mount(none.as_ptr(), sys.as_ptr(), tmpfs.as_ptr(), 0, std::ptr::null()))?;
        }
    }
    for _ in 0..place.inherited {
        // SAFETY: standard input is open.
        done(unsafe { libc::dup(0) })?;
    }
    limit(libc::RLIMIT_NOFILE, place.files)?;
    if let Some(threads) = place.threads_of_user {
        limit(libc::RLIMIT_NPROC, Some(threads))?;
        // Nobody else's processes count for a user that there is none of.
        let user = 61_234;
        // SAFETY: this process alone changes its user.
        unsafe {
            done(libc::setgroups(0, std::ptr::null()))?;
            done(libc::setgid(user))?;
            done(libc::setuid(user))?;
        }
    }
    limit(libc::RLIMIT_DATA, place.data)?;
    limit(libc::RLIMIT_AS, place.address_space)?;
    if place.is_sandboxed {
        let step = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
        // seccomp_data begins with the number of the system call: `unshare` is answered EPERM, all others pass.
        let mut filter = [
            step(0x20, 0, 0, 0),
            step(0x15, 0, 1, libc::SYS_unshare as u32),
            step(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            step(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: the program lives until the call returns.
        unsafe {
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            done(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program))?;
        }
    }
    Ok(())
}

/// A server in a place.
struct Server {
    child: Child,
}

impl Server {
    /// Starts it; `None` if it does not become ready.
    fn start(case: &Case, groups: &Groups, address: &str) -> Option<Server> {
        let mut command = command(&case.place, groups, &["serve", "--listen", address], &case.options);
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut server = Server { child: spawned.expect("the place can be entered") };
        let mut line = String::new();
        let stdout = server.child.stdout.take().expect("it is a pipe");
        // A server that does not start closes it.
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        line.starts_with("tcbchat ready").then_some(server)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32).expect("a process has a number")
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// One of its numbers, when nobody is connected any more.
    fn number(&self, name: &str) -> u64 {
        let end = Instant::now() + 2 * ANSWER_MAX;
        while Instant::now() < end {
            let mut page = String::new();
            let asked = TcpStream::connect(ADDRESS).and_then(|mut stream| {
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
                stream.read_to_string(&mut page)
            });
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            if let (Ok(_), Some(Ok(number))) = (asked, line.map(str::parse)) {
                return number;
            }
            thread::sleep(Duration::from_millis(50));
        }
        0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is what some cases are about.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A masked text frame; the mask is zero.
fn frame(text: &str) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match text.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length => bytes.extend([0xFE, (length >> 8) as u8, length as u8]),
    }
    bytes.extend([0; 4]);
    bytes.extend(text.as_bytes());
    bytes
}

/// A connection that has this source address.
fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect_timeout(&address, ANSWER_MAX) };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&address.into(), ANSWER_MAX)?;
    Ok(socket.into())
}

/// Clients that came.
#[derive(Default)]
struct Crowd {
    served: Vec<TcpStream>,
    refused: usize,
    lost: usize,
    /// Those who come at once, if not [`BATCH`]: a backlog of 5, or 10 half-open, bears fewer.
    batch: Option<usize>,
    /// Where they come from, if not from where everybody does. A connection with the address and port of one that is
    /// in TIME_WAIT takes its place, and the kernel may give the same ports again.
    source: Option<Ipv4Addr>,
}

impl Crowd {
    /// Clients come, a batch at a time, until so many are served or enough are refused.
    fn come(&mut self, count: usize) {
        let most = self.served.len() + count;
        while self.served.len() < most && self.refused + self.lost < REFUSALS_ENOUGH {
            let room = most - self.served.len();
            let upgraded: Vec<TcpStream> =
                (0..self.batch.unwrap_or(BATCH).min(room)).filter_map(|_| self.dial()).collect();
            let upgraded: Vec<TcpStream> =
                upgraded.into_iter().filter_map(|stream| self.expect(stream, "\r\n\r\n", "101")).collect();
            let mut subscribed = Vec::new();
            for mut stream in upgraded {
                let room = (self.served.len() + subscribed.len()) / BATCH;
                let connect = frame("CONNECT\naccept-version:1.2\nhost:x\nheart-beat:0,0\n\n\0");
                let subscribe =
                    frame(&format!("SUBSCRIBE\nid:0\ndestination:/topic/{room}\nreceipt:r\n\n\0"));
                match stream.write_all(&[connect, subscribe].concat()) {
                    Ok(()) => subscribed.push(stream),
                    Err(_) => self.lost += 1,
                }
            }
            for stream in subscribed {
                let stream = self.expect(stream, "RECEIPT", "");
                self.served.extend(stream);
            }
        }
    }

    fn dial(&mut self) -> Option<TcpStream> {
        let address: SocketAddr = ADDRESS.parse().expect("an address");
        let dialled = connect(address, self.source).and_then(|mut stream| {
            // Where some have waited in vain the others need not wait as long.
            let patience = if self.lost == 0 { ANSWER_MAX } else { ANSWER_MAX / 10 };
            stream.set_read_timeout(Some(patience))?;
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            stream.write_all(
                b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Protocol: v12.stomp\r\n\r\n",
            )?;
            Ok(stream)
        });
        self.lost += usize::from(dialled.is_err());
        dialled.ok()
    }

    /// Reads until `end`; counts who is told something else than `wanted`, or nothing.
    fn expect(&mut self, mut stream: TcpStream, end: &str, wanted: &str) -> Option<TcpStream> {
        let (mut text, mut buffer) = (String::new(), [0; 2048]);
        if self.lost > 0 {
            stream.set_read_timeout(Some(ANSWER_MAX / 10)).expect("an option of a socket");
        }
        while !text.contains(end) {
            match stream.read(&mut buffer) {
                Ok(read) if read > 0 => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
                _ => {
                    self.lost += 1;
                    return None;
                }
            }
        }
        if text.contains(wanted) {
            return Some(stream);
        }
        self.refused += 1;
        None
    }

    /// Those who are connected still.
    fn alive(&self) -> usize {
        let is_alive = |stream: &&TcpStream| {
            stream.set_nonblocking(true).is_ok()
                && stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
        };
        self.served.iter().filter(is_alive).count()
    }

    /// Says goodbye so that the server closes first, and has the TIME_WAIT.
    fn leave_in_order(self) {
        for mut stream in self.served {
            SockRef::from(&stream).set_linger(None).expect("an option of a socket");
            let close = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8];
            stream
                .write_all(&[frame("DISCONNECT\n\n\0").as_slice(), &close].concat())
                .expect("it is connected");
            let mut rest = Vec::new();
            // Its end is what is waited for, in whatever way it comes.
            drop(stream.read_to_end(&mut rest));
        }
    }
}

/// What came of a case.
struct Outcome {
    forecast: u64,
    wall: String,
    served: u64,
    met: &'static str,
    is_lost: bool,
}

impl Outcome {
    fn error(&self) -> f64 {
        (self.forecast as f64 - self.served as f64) / (self.served.max(1) as f64) * 100.0
    }

    fn holds(&self) -> bool {
        // Who is not started meets the wall that was named; the reason is its own.
        let is_named = self.wall == self.met || self.met == "does not start";
        self.error().abs() <= ERROR_MAX && is_named && !self.is_lost
    }
}

fn play(case: &Case) -> Result<Outcome, String> {
    let groups = Groups::make(&case.place)?;
    let mut before = Crowd::default();
    let (mut server, mut neighbour, mut asked) = (None, None, None);
    match case.before {
        Before::Nothing => {}
        Before::Neighbour => neighbour = Server::start(case, &groups, "127.0.0.1:8081"),
        Before::Waiting(count) => {
            server = Server::start(case, &groups, ADDRESS);
            let source = Some(Ipv4Addr::new(127, 0, 0, 2));
            let mut leaving = Crowd { batch: case.batch(), source, ..Crowd::default() };
            leaving.come(count);
            leaving.leave_in_order();
        }
        Before::Open(count, more) | Before::Lowered(count, _, more) => {
            server = Server::start(case, &groups, ADDRESS);
            before.come(count);
            asked = Some(more.to_string());
        }
    }
    if let (Before::Lowered(_, limit, _), Some(server)) = (case.before, &server) {
        let limit = Rlimit { current: Some(limit), maximum: getrlimit(Resource::Nofile).maximum };
        prlimit(Some(server.pid()), Resource::Nofile, limit).expect("root may");
    }
    let mut words = vec!["doctor", "--json", "--listen", ADDRESS];
    if let Some(more) = &asked {
        words.extend(["--connections", more.as_str()]);
    }
    let output =
        command(&case.place, &groups, &words, &case.options).output().map_err(|error| error.to_string())?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let forecast = report["maximum"]["connections"].as_u64().expect("a number");
    let wall = report["maximum"]["wall"].as_str().expect("a wall").to_owned();
    let is_refused = !report["refusal"].is_null();

    if server.is_none() {
        server = Server::start(case, &groups, ADDRESS);
    }
    drop(neighbour);
    let Some(mut server) = server else {
        let met = if is_refused { "does not start" } else { "does not start, unforeseen" };
        return Ok(Outcome { forecast, wall, served: 0, met, is_lost: false });
    };
    let mut crowd = Crowd { batch: case.batch(), ..Crowd::default() };
    let count = (forecast as usize + forecast as usize / 5 + 2 * BATCH).min(CLIENTS_MAX);
    crowd.come(count);
    let served = crowd.served.len() as u64;
    let has_ended = server.has_ended();
    let is_lost = !has_ended && (crowd.alive() as u64) < served;
    let is_full = server_is_out_of_descriptors(&server);
    drop((crowd, before));
    let met = if has_ended {
        "data-limit"
    } else if server.number("tcbchat_refused_memory_total") > 0 {
        "cgroup-memory"
    } else if server.number("tcbchat_refused_table_full_total") > 0 {
        "tcb-capacity"
    } else if is_full {
        "fd-table"
    } else {
        "nothing"
    };
    Ok(Outcome { forecast, wall, served, met, is_lost })
}

/// Whether a table of a server is full.
fn server_is_out_of_descriptors(server: &Server) -> bool {
    let open = fs::read_dir(format!("/proc/{}/fd", server.child.id())).map_or(0, Iterator::count) as u64;
    // The limit of another process is read where it stands.
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let limit = line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX);
    open >= limit
}

#[test]
fn the_doctor_is_held_to_its_word() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped here, and this takes root");
        eprintln!("skipped: limits of groups and namespaces take root");
        return;
    }
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("the hard limit may be had");
    let only = std::env::var("CASE").unwrap_or_default();
    let mut table = String::from(
        "\n| case | options | forecast | wall | served | met | error |\n|---|---|---:|---|---:|---|---:|\n",
    );
    let (mut wrong, mut played) = (Vec::new(), 0);
    for case in cases().into_iter().filter(|case| case.name.contains(&only)) {
        let options = case.options.join(" ");
        let name = case.name.clone();
        // A namespace is a thread's.
        let outcome = thread::spawn(move || match netns::enter() {
            Ok(()) => play(&case),
            Err(error) => Err(error.to_string()),
        });
        let outcome = match outcome.join().expect("no case panics") {
            Ok(outcome) => outcome,
            Err(why) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "nothing may be skipped here: {name} {options}: {why}"
                );
                eprintln!("skipped: {name} {options}: {why}");
                continue;
            }
        };
        played += 1;
        let line = format!(
            "| {name} | {} | {} | `{}` | {} | {} | {:+.1} % |",
            if options.is_empty() { String::new() } else { format!("`{options}`") },
            outcome.forecast,
            outcome.wall,
            outcome.served,
            if outcome.met.contains(' ') { outcome.met.to_owned() } else { format!("`{}`", outcome.met) },
            outcome.error(),
        );
        println!("{line}{}", if outcome.is_lost { " LOST SOMEBODY" } else { "" });
        if !outcome.holds() {
            wrong.push(line.clone());
        }
        writeln!(table, "{line}").expect("a String takes every text");
    }
    assert!(wrong.is_empty(), "{} of {played}:\n{}", wrong.len(), wrong.join("\n"));
    if only.is_empty() && std::env::var_os("UPDATE_DOCS").is_some() {
        write_table(&table);
    }
}

/// Puts the table between its marks.
fn write_table(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/DOCTOR.md");
    let text = fs::read_to_string(&path).expect("the documentation");
    let (begin, end) = ("<!-- begin: cases -->\n", "<!-- end: cases -->");
    let (head, rest) = text.split_once(begin).expect("a mark");
    let (_, tail) = rest.split_once(end).expect("a mark");
    fs::write(path, format!("{head}{begin}{table}\n{end}{tail}")).expect("it can be written");
}

/// The documented table is of these cases.
#[test]
fn every_case_is_documented() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/DOCTOR.md")).unwrap();
    assert!(cases().len() >= 40);
    for case in cases() {
        let options = case.options.join(" ");
        let options = if options.is_empty() { String::new() } else { format!("`{options}`") };
        assert!(text.contains(&format!("| {} | {options} |", case.name)), "{} {options}", case.name);
    }
}
