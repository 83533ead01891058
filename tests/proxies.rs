//! The files of `deploy/nginx`, `deploy/haproxy` and `deploy/caddy`, in the real programs: TLS, sessions, health.
//!
//! Each file is taken as it is but for places that a test cannot have (port 443, `/etc`, `/run`, a user); each of these must
//! be found in it. How many sessions there are is bounded by the time of a test and by the descriptors of one table; more
//! are had with `PROXY_SESSIONS`.
//!
//! Invariant: every session that a proxy carries gets the message, and a restart behind HAProxy refuses nobody.

#[path = "support/mod.rs"]
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::{Server, peer};
use tempfile::TempDir;

/// Sessions through each proxy. Both sides' TLS in one test on two cores takes some milliseconds for each.
const SESSIONS: u32 = 3_000;
/// Time that a proxy may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// Time for the whole crowd.
const CROWD_MAX: Duration = Duration::from_secs(480);

/// One proxy with its folder; ended with its value.
struct Proxy {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Proxy {
    /// Starts `program` with the file, in which each `from` is replaced by its `to`; `{folder}` and `{port}` stand for
    /// the test's.
    fn start(program: &Path, file: &str, places: &[(&str, &str)], arguments: &[&str]) -> Proxy {
        let folder = tempfile::tempdir().unwrap();
        certificate(folder.path());
        let port = free_port();
        let fill = |text: &str| {
            text.replace("{folder}", folder.path().to_str().unwrap()).replace("{port}", &port.to_string())
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file);
        let mut text = std::fs::read_to_string(&source).unwrap();
        for (from, to) in places {
            assert!(text.contains(from), "{file} has no {from:?}");
            text = text.replace(from, &fill(to));
        }
        std::fs::write(folder.path().join("configuration"), text).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|argument| fill(argument)).collect();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = Command::new(program)
            .args(arguments)
            .env("HOME", folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + START_MAX;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "{file}: it has ended:\n{}", log());
            assert!(Instant::now() < deadline, "{file}: it does not listen:\n{}", log());
            thread::sleep(Duration::from_millis(20));
        }
        Proxy { child, folder, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets a crowd in over `path`, and expects that everybody is told what one says.
    fn carry(&self, path: &str, sessions: u32) {
        let python = peer::program("python3").expect("it was there before");
        let mut crowd = Command::new(python);
        crowd.arg(peer::clients_dir().join("crowd.py")).arg(self.port.to_string()).arg(self.path("crt"));
        let said = peer::run(crowd.arg(sessions.to_string()).arg(path), CROWD_MAX);
        println!("{said}");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // In order: nginx' master ends its workers, which would outlive it. It fails for one that has ended already.
        if kill_process(Pid::from_child(&self.child), Signal::TERM).is_ok() {
            peer::await_end(&mut self.child, START_MAX);
        }
        if thread::panicking() {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            eprintln!("--- the proxy wrote:\n{log}---");
        }
    }
}

fn sessions() -> u32 {
    std::env::var("PROXY_SESSIONS").map_or(SESSIONS, |text| text.parse().expect("a number"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `crt`, `key`, and `pem` of both.
fn certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=chat.example.com", "-addext", "subjectAltName=DNS:chat.example.com"])
        .args(["-keyout", "key", "-out", "crt"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let both =
        [std::fs::read(folder.join("crt")).unwrap(), std::fs::read(folder.join("key")).unwrap()].concat();
    std::fs::write(folder.join("pem"), both).unwrap();
}

/// A proxy's program, if it and what the test needs beside it are there.
fn installed(name: &str) -> Option<PathBuf> {
    for tool in ["openssl", "python3"] {
        peer::program(tool)?;
    }
    peer::program(name)
}

/// A server on a Unix socket beside its TCP port.
fn server(folder: &Path) -> (Server, String) {
    let path = folder.join("tcbchat.sock");
    let server = Server::start(&["--open", "--listen", &format!("unix:{}", path.display())]);
    (server, path.display().to_string())
}

#[test]
fn nginx_carries_sessions() {
    let Some(program) = installed("nginx") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, socket) = server(folder.path());
    let proxy = Proxy::start(
        &program,
        "nginx/tcbchat.conf",
        &[
            // The test's own user, who may use the socket.
            ("user www-data;", "user root; daemon off;"),
            // The descriptors that one table has on any machine.
            ("worker_rlimit_nofile 131072;", ""),
            ("worker_connections 65536;", "worker_connections 19000;"),
            ("/run/nginx.pid", "{folder}/pid"),
            ("/var/log/nginx/error.log warn", "stderr warn"),
            ("listen 443 ssl", "listen 127.0.0.1:{port} ssl"),
            ("/etc/nginx/tcbchat.crt", "{folder}/crt"),
            ("/etc/nginx/tcbchat.key", "{folder}/key"),
            ("/run/tcbchat/tcbchat.sock", &socket),
        ],
        &["-c", "{folder}/configuration", "-p", "{folder}", "-e", "stderr"],
    );
    proxy.carry("/ws", sessions());
    proxy.carry("/chat/ws", 10);
    server.await_metric("upgrades_total", |count| count == u64::from(sessions() + 10));
}

#[test]
fn caddy_carries_sessions() {
    let Some(program) = installed("caddy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (server, socket) = server(folder.path());
    let proxy = Proxy::start(
        &program,
        "caddy/Caddyfile",
        &[
            ("\tadmin off\n", "\tadmin off\n\tauto_https disable_redirects\n"),
            ("\nchat.example.com {", "\nhttps://chat.example.com:{port} {"),
            ("/etc/caddy/tcbchat.crt", "{folder}/crt"),
            ("/etc/caddy/tcbchat.key", "{folder}/key"),
            ("/run/tcbchat/tcbchat.sock", &socket),
        ],
        &["run", "--config", "{folder}/configuration", "--adapter", "caddyfile"],
    );
    proxy.carry("/ws", sessions());
    proxy.carry("/chat/ws", 10);
    server.await_metric("upgrades_total", |count| count == u64::from(sessions() + 10));
}

/// The places of HAProxy's file, with the servers' addresses.
fn haproxy(program: &Path, blue: SocketAddr, green: SocketAddr) -> Proxy {
    Proxy::start(
        program,
        "haproxy/haproxy.cfg",
        &[
            ("maxconn 60000", "maxconn 9900"),
            ("bind :443 ssl", "bind 127.0.0.1:{port} ssl"),
            ("/etc/haproxy/tcbchat.pem", "{folder}/pem"),
            ("127.0.0.1:8081", &blue.to_string()),
            ("127.0.0.1:8082", &green.to_string()),
        ],
        &["-db", "-f", "{folder}/configuration"],
    )
}

const DRAINING: [&str; 11] = [
    "--open",
    "--set",
    "http.trusted_proxies=127.0.0.1",
    "--set",
    "drain.ready_grace_ms=3000",
    "--set",
    "drain.spread_ms=500",
    "--set",
    "drain.goodbye=restart",
    "--set",
    "handshake.pending_per_address_max=200",
];

#[test]
fn haproxy_carries_sessions() {
    let Some(program) = installed("haproxy") else { return };
    let (blue, green) = (Server::start(&DRAINING), Server::start(&DRAINING));
    let proxy = haproxy(&program, blue.address(), green.address());
    // Two descriptors for each, of one process.
    let most = sessions().min(9_800);
    proxy.carry("/ws", most);
    // Nobody is sent to the other server.
    blue.await_metric("upgrades_total", |count| count == u64::from(most));
    assert_eq!(blue.metric("handshakes_failed_total"), 0, "its checks are no failures");
}

/// A request through the proxy by a client of openssl's: the status line, or why there is none.
fn status_through(proxy: &Proxy) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-no_ign_eof", "-verify_quiet", "-servername", "chat.example.com"])
        .args([
            "-CAfile",
            proxy.path("crt").to_str().unwrap(),
            "-connect",
            &format!("127.0.0.1:{}", proxy.port),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    if let Err(error) = stdin.write_all(request.as_bytes()) {
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
    let mut line = Vec::new();
    let mut byte = [0];
    let mut stdout = client.stdout.take().unwrap();
    while !line.ends_with(b"\r\n") && stdout.read(&mut byte).is_ok_and(|read| read == 1) {
        line.push(byte[0]);
    }
    client.kill().unwrap();
    client.wait().unwrap();
    String::from_utf8_lossy(&line).trim_end().to_owned()
}

#[test]
fn a_rolling_restart_behind_haproxy_refuses_nobody() {
    let Some(program) = installed("haproxy") else { return };
    let (blue, green) = (Server::start(&DRAINING), Server::start(&DRAINING));
    let addresses = [blue.address(), green.address()];
    let proxy = haproxy(&program, blue.address(), green.address());
    let is_over = Arc::new(AtomicBool::new(false));
    let proxy = &proxy;
    let statuses = thread::scope(|scope| {
        let connects = scope.spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                let mut statuses = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    statuses.push(status_through(proxy));
                }
                statuses
            }
        });
        let mut servers = vec![blue, green];
        for address in addresses {
            let mut old = servers.remove(0);
            old.signal(Signal::TERM);
            assert_eq!(old.wait().code(), Some(0));
            servers.push(Server::start_at(address, &DRAINING));
            // Until the balancer has seen it.
            thread::sleep(Duration::from_secs(3));
        }
        is_over.store(true, Ordering::Relaxed);
        connects.join().unwrap()
    });
    let refused: Vec<&String> = statuses.iter().filter(|line| !line.starts_with("HTTP/1.1 101 ")).collect();
    println!("{} connects, {} refused", statuses.len(), refused.len());
    assert!(
        refused.is_empty() && statuses.len() > 20,
        "{} of {}: {refused:?}",
        refused.len(),
        statuses.len()
    );
}
