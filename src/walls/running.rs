//! The server that runs here: found by its listener, counted by its descriptors, and asked for its numbers.
//!
//! What is in use of a limit belongs to somebody, and most often to a server that runs already. The doctor finds it
//! among the processes of its own network namespace: the one that it was told (`--pid`), the one that listens where
//! the configuration says, or, if there is but one of this very program, that one. Its `/metrics` page tells what only
//! the server can know: places in TIME_WAIT, and what it has refused.
//!
//! It reads procfs and asks one page of one server; it judges nothing.
//!
//! Invariant: what the server did not tell is an error with its reason, never zero; the doctor's own connection is
//! not among the server's.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use socket2::SockRef;

use super::probe::Listener;

/// Time that the server may take for each step of an answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Bytes of the page of numbers that are read at most.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// Descriptors of a thread that are looked at for its listener, which is among the first that it makes.
const DESCRIPTORS_LOOKED_AT: usize = 4_096;

/// The numbers of a page, by name and label as they stand there, without `tcbchat_`.
pub type Numbers = BTreeMap<String, u64>;

/// Why a server did not tell its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// It answered 503: it is full.
    Full,
    /// Anything else, in words.
    Other(String),
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => f.write_str("it answered 503: it is full"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

/// A server that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Where it listens and tells its numbers; the first if it tells them nowhere.
    pub address: SocketAddr,
    /// Whether it listens where the configuration says.
    pub is_configured: bool,
    /// Its reactor threads.
    pub reactors: u32,
    /// Descriptors that one of its tables may hold; `None` is no limit.
    pub fd_limit: Option<u64>,
    /// Descriptors that are open in each of its tables that accept.
    pub tables: Vec<u64>,
    /// Its numbers.
    pub numbers: Result<Numbers, Silence>,
}

impl Running {
    /// One of its numbers; `None` if it does not tell it.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.numbers.as_ref().ok()?.get(name).copied()
    }

    /// The doctor's own connection, if it has a place: it is in its handshake while it is told. A server that is full
    /// tells its numbers to one that has no place, too.
    fn own(&self) -> Option<u64> {
        Some(self.number("tcb_entries{state=\"half_open\"}")?.min(1))
    }

    /// Connections that it has, the doctor's own not counted.
    pub fn open(&self) -> Option<u64> {
        let states = ["half_open", "established", "closing"];
        let count = |state: &str| self.number(&format!("tcb_entries{{state=\"{state}\"}}"));
        let open = states.into_iter().map(count).sum::<Option<u64>>()?;
        Some(open.saturating_sub(self.own()?))
    }

    /// Places of its table that are taken, and how many there are. The doctor's own is not counted.
    pub fn places(&self) -> Option<(u64, u64)> {
        Some((self.number("tcb_in_use")?.saturating_sub(self.own()?), self.number("tcb_capacity")?))
    }

    /// Places that records in TIME_WAIT take from connections.
    pub fn waiting(&self) -> Option<u64> {
        let (in_use, _) = self.places()?;
        Some(in_use.saturating_sub(self.open()?))
    }

    /// Descriptors that its tables have room for.
    pub fn descriptors_free(&self) -> Option<u64> {
        let limit = self.fd_limit?;
        Some(self.tables.iter().map(|open| limit.saturating_sub(*open)).sum())
    }

    /// Reads its descriptors and numbers again.
    #[must_use]
    pub fn again(&self) -> Self {
        let threads = reactors_of(self.pid);
        let (fd_limit, tables) = descriptors(self.pid, &threads, self.tables.len() > 1);
        Self { fd_limit, tables, numbers: ask(self.address), ..self.clone() }
    }
}

/// Finds the server of process `pid`; without one, the server that listens at one of `addresses`; and if there is
/// none, the only one of this very program.
///
/// # Errors
/// That the process is no server that can be seen, or that there are several to choose from.
pub fn find(
    pid: Option<u32>,
    addresses: &[SocketAddr],
    listeners: &[Listener],
) -> Result<Option<Running>, String> {
    let own = fs::canonicalize("/proc/self/exe").ok();
    let name = own.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let network = fs::read_link("/proc/self/ns/net").ok();
    let by_inode: BTreeMap<u64, SocketAddr> =
        listeners.iter().filter_map(|listener| Some((listener.inode?, listener.address))).collect();
    let mut others = Vec::new();
    for process in crate::config::procfs::Tree::live().processes() {
        if process == std::process::id() || pid.is_some_and(|pid| pid != process) {
            continue;
        }
        let Ok(exe) = fs::read_link(format!("/proc/{process}/exe")) else { continue };
        let exe_name =
            exe.file_name().map(|name| name.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
        let is_here = fs::read_link(format!("/proc/{process}/ns/net")).ok() == network;
        if pid.is_none() && (exe_name != name || !is_here) {
            continue;
        }
        let threads = reactors_of(process);
        let Some((places, is_private)) = listens(process, &threads, &by_inode, addresses) else { continue };
        let (fd_limit, tables) = descriptors(process, &threads, is_private);
        let is_configured = is_one_of(places[0], addresses);
        let running = || {
            let (address, numbers) = ask_first(&places);
            let reactors = threads.len() as u32;
            Running { pid: process, address, is_configured, reactors, fd_limit, tables, numbers }
        };
        if pid.is_some() || is_configured {
            return Ok(Some(running()));
        }
        if is_same_file(process) {
            others.push((process, running()));
        }
    }
    match (pid, others.len()) {
        (Some(pid), _) => Err(format!(
            "process {pid} is no server that can be seen from here (its network namespace, and its owner or root)"
        )),
        (None, 0) => Ok(None),
        (None, 1) => Ok(others.pop().map(|(_, running)| running)),
        (None, _) => {
            let pids: Vec<String> = others.iter().map(|(pid, _)| pid.to_string()).collect();
            Err(format!("several servers run here; --pid says which: {}", pids.join(", ")))
        }
    }
}

/// Whether the process runs the same file as this one.
fn is_same_file(process: u32) -> bool {
    let id = |path: String| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let own = id("/proc/self/exe".into());
    own.is_some() && id(format!("/proc/{process}/exe")) == own
}

fn is_one_of(address: SocketAddr, addresses: &[SocketAddr]) -> bool {
    addresses.iter().any(|wanted| {
        wanted.port() == address.port()
            && (wanted.ip() == address.ip() || wanted.ip().is_unspecified() || address.ip().is_unspecified())
    })
}

/// The threads of a server that have listeners.
fn reactors_of(process: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let number = |name: std::ffi::OsString| name.to_str()?.parse::<u32>().ok();
    let is_reactor = |task: &u32| {
        fs::read_to_string(format!("/proc/{process}/task/{task}/comm"))
            .is_ok_and(|name| name.starts_with("reactor-"))
    };
    tasks.flatten().filter_map(|task| number(task.file_name())).filter(is_reactor).collect()
}

/// Where the first reactor listens, those of `addresses` first, and whether its table is its own. There is one place at least.
fn listens(
    process: u32,
    threads: &[u32],
    by_inode: &BTreeMap<u64, SocketAddr>,
    addresses: &[SocketAddr],
) -> Option<(Vec<SocketAddr>, bool)> {
    let sockets = |directory: String| -> Vec<u64> {
        let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
        let links = entries.flatten().take(DESCRIPTORS_LOOKED_AT);
        let inode = |link: std::path::PathBuf| {
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        };
        links.filter_map(|entry| inode(fs::read_link(entry.path()).ok()?)).collect()
    };
    let thread = threads.first()?;
    let mut found: Vec<(u64, SocketAddr)> = sockets(format!("/proc/{process}/task/{thread}/fd"))
        .into_iter()
        .filter_map(|inode| Some((inode, *by_inode.get(&inode)?)))
        .collect();
    found.sort_by_key(|(_, address)| !is_one_of(*address, addresses));
    let is_private = !sockets(format!("/proc/{process}/fd")).contains(&found.first()?.0);
    Some((found.into_iter().map(|(_, address)| address).collect(), is_private))
}

/// The limit of each table, and what is open in those that accept.
fn descriptors(process: u32, threads: &[u32], is_private: bool) -> (Option<u64>, Vec<u64>) {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    let tables = threads.iter().take(if is_private { usize::MAX } else { 1 });
    (limit, tables.map(|thread| open(&format!("/proc/{process}/task/{thread}/fd"))).collect())
}

/// Descriptors that are open in a table.
fn open(directory: &str) -> u64 {
    // Since Linux 6.2 the directory's size is their number; before that it was zero.
    match fs::metadata(directory).map(|directory| directory.len()) {
        Ok(0) | Err(_) => fs::read_dir(directory).map_or(0, |entries| entries.count() as u64),
        Ok(count) => count,
    }
}

/// The first place where a server of this machine tells its numbers, or that it is full; and if it does nowhere, the first of
/// all. At an address of `listen.stomp` nobody answers HTTP.
fn ask_first(places: &[SocketAddr]) -> (SocketAddr, Result<Numbers, Silence>) {
    let mut first = None;
    for place in places {
        match ask(*place) {
            Err(Silence::Other(why)) => {
                first.get_or_insert((*place, Err(Silence::Other(why))));
            }
            told => return (*place, told),
        }
    }
    first.expect("a server listens somewhere")
}

/// Asks a server of this machine for its numbers.
fn ask(address: SocketAddr) -> Result<Numbers, Silence> {
    let page = page(address).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Silence::Other(format!(
            "http://{address}/metrics did not answer within {} s",
            ANSWER_MAX.as_secs()
        )),
        _ => Silence::Other(format!("http://{address}/metrics: {error}")),
    })?;
    let (head, body) = page.split_once("\r\n\r\n").unwrap_or((&page, ""));
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|line| line.split_ascii_whitespace().next());
    match status {
        Some("200") => Ok(parse(body)),
        Some("503") => Err(Silence::Full),
        Some(code) => {
            Err(Silence::Other(format!("http://{address}/metrics answered {code} (metrics.access)")))
        }
        None => Err(Silence::Other(format!("http://{address}/metrics gave no answer"))),
    }
}

fn page(address: SocketAddr) -> io::Result<String> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(ip, address.port()), ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.set_write_timeout(Some(ANSWER_MAX))?;
    // Who ends first has the TIME_WAIT: if it were the server, each look would take one of its places for minutes. So the
    // request and the end of this side's stream are one segment, and no server is quick enough to end between them.
    SockRef::from(&stream).set_tcp_cork(true)?;
    stream.write_all(
        format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    stream.shutdown(Shutdown::Write)?;
    let mut page = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn parse(page: &str) -> Numbers {
    let number = |line: &str| {
        let (name, value) = line.strip_prefix("tcbchat_")?.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    page.lines().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn running(numbers: &str) -> Running {
        Running {
            pid: 1,
            address: ([127, 0, 0, 1], 8080).into(),
            is_configured: true,
            reactors: 2,
            fd_limit: Some(100),
            tables: vec![40, 70],
            numbers: Ok(parse(numbers)),
        }
    }

    #[test]
    fn the_doctors_own_connection_is_not_counted() {
        let page = |half_open: u64, in_use: u64| {
            format!(
                "# HELP x y\ntcbchat_tcb_entries{{state=\"half_open\"}} {half_open}\n\
                 tcbchat_tcb_entries{{state=\"established\"}} 9\ntcbchat_tcb_entries{{state=\"closing\"}} 1\n\
                 tcbchat_tcb_in_use {in_use}\ntcbchat_tcb_capacity 510\n"
            )
        };
        let server = running(&page(1, 511));
        assert_eq!(
            (server.open(), server.places(), server.waiting()),
            (Some(10), Some((510, 510)), Some(500))
        );
        assert_eq!(server.descriptors_free(), Some(90));
        let full = running(&page(0, 510));
        assert_eq!((full.open(), full.places()), (Some(10), Some((510, 510))), "it had no place");
    }

    #[test]
    fn addresses_match_through_the_wildcard() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(is_one_of(at("0.0.0.0:80"), &[at("10.0.0.1:80")]));
        assert!(is_one_of(at("10.0.0.1:80"), &[at("[::]:80")]));
        assert!(!is_one_of(at("10.0.0.1:80"), &[at("10.0.0.2:80"), at("10.0.0.1:81")]));
    }

    /// Somewhere where one request has this answer.
    fn answering(text: &'static str) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).unwrap() > 0);
            stream.write_all(text.as_bytes()).unwrap();
        });
        (address, thread)
    }

    /// What answers, and how, is told apart; what does not answer is said so.
    #[test]
    fn a_server_that_tells_nothing_is_silent_for_a_reason() {
        let answer = |text: &'static str| {
            let (address, thread) = answering(text);
            let numbers = ask(address);
            thread.join().unwrap();
            numbers
        };
        let told = answer("HTTP/1.1 200 OK\r\n\r\ntcbchat_reactors 3\n").unwrap();
        assert_eq!(told.get("reactors"), Some(&3));
        assert_eq!(answer("HTTP/1.1 503 Service Unavailable\r\n\r\n"), Err(Silence::Full));
        let refused = answer("HTTP/1.1 404 Not Found\r\n\r\n").unwrap_err().to_string();
        assert!(refused.ends_with("answered 404 (metrics.access)"), "{refused}");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(nobody).unwrap_err().to_string().contains("refused"));
    }

    /// Numbers are taken from the first place that tells them, not from the first that is there.
    #[test]
    fn the_first_place_that_tells_is_asked() {
        let (stomp, refuses) = answering("ERROR\nmessage:400; 503 is no frame\n\n\0");
        let (http, tells) = answering("HTTP/1.1 200 OK\r\n\r\ntcbchat_reactors 3\n");
        let (place, numbers) = ask_first(&[stomp, http]);
        assert_eq!((place, numbers.unwrap().get("reactors")), (http, Some(&3)));
        refuses.join().unwrap();
        tells.join().unwrap();
        let (stomp, refuses) = answering("ERROR\nmessage:400\n\n\0");
        let (place, numbers) = ask_first(&[stomp]);
        assert_eq!(
            (place, numbers.unwrap_err().to_string()),
            (stomp, format!("http://{stomp}/metrics gave no answer"))
        );
        refuses.join().unwrap();
    }
}
