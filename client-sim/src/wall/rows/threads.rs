//! A thread for each connection, as Tomcat's BIO connector had it: where it stops, and what it costs.
//!
//! The server of that kind is here as well; it speaks just enough of the protocol that the same users can be
//! sent to both.
//!
//! Invariant: the thread-per-connection server never has more connections than threads.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, geteuid};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::HeaderValue;
use tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, accept_hdr_with_config};

use crate::stomp::{self, Step};
use crate::wall::doctor;
use crate::wall::outcome::{Outcome, Side, Trouble, bytes, commas};
use crate::wall::stage::{Launch, Served, Stage};
use crate::wall::user::{Crowd, Refusal, source};

/// Tomcat's default maxThreads.
const TOMCAT_THREADS: u32 = 200;
/// The same, raised.
const MANY_THREADS: u32 = 2000;
/// Users that want in.
const ASKED: u64 = 600;
/// Time that a user waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages that each user sends to itself.
const MESSAGES: u64 = 5;
/// Stack of a thread, as glibc's default is.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// 200 threads, 2,000 threads, and two.
pub fn bio(stage: &Stage) -> Result<Outcome, Trouble> {
    let mut outcome = Outcome {
        stage: format!(
            "this machine's loopback; each of {ASKED} users sends {MESSAGES} messages and gets them back"
        ),
        moved_by: vec![
            "NIO: the protocol Http11NioProtocol in server.xml; here, tcbchat's reactors".into(),
            "maxThreads (and its memory, and its context switches)".into(),
        ],
        ..Outcome::default()
    };
    outcome.doctor = doctor::predict(stage, "bio", &Launch::default(), ASKED);
    let mut few = talk(
        stage,
        "BIO, Tomcat's default",
        format!("maxThreads {TOMCAT_THREADS}"),
        &bio_with(TOMCAT_THREADS),
    )?;
    outcome.claim(
        few.side.admitted == u64::from(TOMCAT_THREADS) && few.unanswered == few.side.refused,
        format!(
            "{TOMCAT_THREADS} threads serve {} users; the others wait without an answer: {}",
            few.side.admitted, few.unanswered
        ),
    );
    few.side.symptoms.push("they wait for a thread, in the kernel's queue and in front of it".into());
    let many = talk(
        stage,
        "BIO, more threads",
        format!("maxThreads {}", commas(MANY_THREADS.into())),
        &bio_with(MANY_THREADS),
    )?;
    outcome.claim(many.side.admitted == ASKED, format!("more threads serve all: {}", many.side.admitted));
    let reactors = Launch::with(&[("tcb.capacity", 2 * ASKED)]);
    let reactor = talk(stage, "tcbchat", format!("tcb.capacity {}", 2 * ASKED), &reactors)?;
    outcome.claim(reactor.side.admitted == ASKED, format!("reactors serve all: {}", reactor.side.admitted));
    outcome.claim(
        reactor.resident_each < many.resident_each && reactor.switches_each < many.switches_each,
        format!(
            "a reactor takes less memory ({:.0} B against {:.0} B) and fewer context switches ({:.2} against {:.2})",
            reactor.resident_each, many.resident_each, reactor.switches_each, many.switches_each
        ),
    );
    outcome.sides = vec![few.side, many.side, reactor.side];
    Ok(outcome)
}

fn bio_with(threads: u32) -> Launch {
    Launch { bio_threads: Some(threads), ..Launch::default() }
}

/// What a server cost while its users talked.
struct Talk {
    side: Side,
    /// Users that heard nothing: those in the kernel's queue, and those that it has no room for.
    unanswered: u64,
    resident_each: f64,
    switches_each: f64,
}

/// The users come, and each talks to itself.
fn talk(stage: &Stage, title: &str, limit: String, launch: &Launch) -> Result<Talk, Trouble> {
    let served = stage.serve(launch)?;
    let resident = served.resident_bytes();
    let mut side = Side::new(title, limit);
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), u64::from(TOMCAT_THREADS));
    crowd.burst(served.address, source(0), ASKED - u64::from(TOMCAT_THREADS), PATIENCE)?;
    crowd.tell(&mut side);
    let users = crowd.admitted().max(1) as f64;
    let resident_each = served.resident_bytes().saturating_sub(resident) as f64 / users;
    side.fact("threads", commas(served.threads()));
    side.fact("user memory", format!("{} for each connection", bytes(resident_each as u64)));
    side.fact("address space", format!("{} reserved", bytes(served.reserved_bytes())));
    let switches = served.context_switches();
    talk_to_themselves(&mut crowd)?;
    let messages = users * MESSAGES as f64;
    let switches_each = served.context_switches().saturating_sub(switches) as f64 / messages;
    side.fact("switches", format!("{switches_each:.2} context switches for each message"));
    let unanswered = crowd.told(|refusal| matches!(refusal, Refusal::NoAnswer { .. } | Refusal::NoSynAck));
    drop(crowd);
    served.stop()?;
    Ok(Talk { side, unanswered, resident_each, switches_each })
}

/// Every user subscribes to a room of its own and sends messages to it; all send before any of them reads,
/// as they would if they were on machines of their own.
fn talk_to_themselves(crowd: &mut Crowd) -> Result<(), Trouble> {
    let failed = |error: tungstenite::Error| Trouble::Broken(format!("a user that was in: {error}"));
    for (number, user) in crowd.users.iter_mut().enumerate() {
        let room = format!("/topic/own-{number}");
        user.say("SUBSCRIBE", &[("id", "0"), ("destination", &room)], b"").map_err(failed)?;
    }
    for _ in 0..MESSAGES {
        for (number, user) in crowd.users.iter_mut().enumerate() {
            let room = format!("/topic/own-{number}");
            user.say("SEND", &[("destination", &room)], b"hello").map_err(failed)?;
        }
        for user in &mut crowd.users {
            user.hear("MESSAGE").map_err(failed)?;
        }
    }
    Ok(())
}

/// Tasks that the container may have.
const PIDS: u64 = 100;
/// Users that want into the container.
const CONTAINED: u64 = 300;

/// A container's limit of tasks: a wall for threads, none for reactors.
pub fn app_limits(stage: &Stage) -> Result<Outcome, Trouble> {
    let fence = Fence::make()?;
    let mut outcome = Outcome {
        stage: format!("this machine's loopback; the server is started {}", fence.describe()),
        moved_by: vec![
            "tcbchat instead of a thread for each connection: the same limit, not met".into(),
            "pids.max of the container (TasksMax= in the unit, --pids-limit of docker)".into(),
        ],
        notes: vec![
            "A container's limit is lower than the host's, and no sysctl shows it: `tcbchat doctor` reads the \
             cgroup and names the lowest of all walls."
                .into(),
        ],
        ..Outcome::default()
    };
    let mut side = Side::new("a thread for each, contained", format!("{PIDS} tasks"));
    let served = fence.serve(stage, &bio_with(MANY_THREADS), PIDS)?;
    outcome.doctor = doctor::predict(stage, "app-limits", &fence.within(Launch::default()), CONTAINED);
    let forecast = doctor::left(stage, &fence.within(Launch::default()), "cgroup-pids");
    let stopped = come(&served, &mut side);
    let log = served.logged("no thread").unwrap_or_default();
    side.symptoms.insert(0, "EAGAIN at clone() in the server".into());
    if let Some(events) = fence.events() {
        side.fact("kernel counts", format!("pids.events max {events}"));
        outcome.claim(events > 0, format!("the kernel counts the refused tasks: {events}"));
    }
    outcome.claim(log.contains("os error 11"), format!("the server's clone says EAGAIN: {}", log.trim()));
    if let Fence::Cgroup(_) = fence {
        outcome.hold("tasks left for connections", forecast, stopped);
    }
    outcome
        .claim(stopped < PIDS && side.refused > 0, format!("it stops below {PIDS} connections: {stopped}"));
    outcome.sides.push(side);
    served.stop()?;

    let mut side = Side::new("a thread for each, more tasks", format!("{} tasks", commas(4 * CONTAINED)));
    let served = fence.serve(stage, &bio_with(MANY_THREADS), 4 * CONTAINED)?;
    let admitted = come(&served, &mut side);
    outcome.claim(admitted == CONTAINED, format!("with more tasks all get in: {admitted}"));
    outcome.sides.push(side);
    served.stop()?;

    let mut side = Side::new("tcbchat, contained", format!("{PIDS} tasks"));
    let served = fence.serve(stage, &Launch::with(&[("tcb.capacity", 2 * CONTAINED)]), PIDS)?;
    let admitted = come(&served, &mut side);
    outcome.claim(admitted == CONTAINED, format!("reactors take all within {PIDS} tasks: {admitted}"));
    outcome.sides.push(side);
    served.stop()?;
    Ok(outcome)
}

fn come(served: &Served, side: &mut Side) -> u64 {
    let mut crowd = Crowd::default();
    crowd.queue(served.address, source(0), CONTAINED);
    crowd.tell(side);
    side.fact("threads", commas(served.threads()));
    crowd.admitted()
}

/// What bounds the tasks of a process and of its children.
enum Fence {
    /// A cgroup of its own, removed when this is dropped.
    Cgroup(PathBuf),
    /// RLIMIT_NPROC: it counts all tasks of the user, and does not hold for root.
    Nproc {
        /// Tasks that this user already has.
        already: u64,
    },
}

impl Fence {
    fn make() -> Result<Self, Trouble> {
        // Version 1 has a tree for each controller; in version 2 the controller must be on in the parent.
        for parent in ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"] {
            let group = PathBuf::from(parent).join(format!("client-sim-wall-{}", std::process::id()));
            if fs::create_dir(&group).is_ok() {
                let fence = Self::Cgroup(group.clone());
                if group.join("pids.max").exists() {
                    return Ok(fence);
                }
            }
        }
        if geteuid().is_root() {
            return Err(Trouble::Missing(
                "no cgroup with a pids controller can be made here, and root has no limit of tasks of its own; \
                 run it as another user, or where /sys/fs/cgroup can be written"
                    .into(),
            ));
        }
        Ok(Self::Nproc { already: own_tasks()? })
    }

    fn describe(&self) -> String {
        match self {
            Self::Cgroup(group) => format!("in a cgroup of its own ({}/pids.max)", group.display()),
            Self::Nproc { already } => {
                format!("with RLIMIT_NPROC, on top of the {already} tasks that this user already has")
            }
        }
    }

    /// The launch inside of the cgroup, if there is one.
    fn within(&self, launch: Launch) -> Launch {
        match self {
            Self::Cgroup(group) => Launch { cgroup: Some(group.clone()), ..launch },
            Self::Nproc { .. } => launch,
        }
    }

    /// Starts a server that may have so many tasks.
    fn serve(&self, stage: &Stage, launch: &Launch, tasks: u64) -> Result<Served, Trouble> {
        match self {
            Self::Cgroup(group) => {
                fs::write(group.join("pids.max"), tasks.to_string())?;
                stage.serve(&self.within(launch.clone()))
            }
            Self::Nproc { already } => {
                let served = stage.serve(launch)?;
                served.set_limit(Resource::Nproc, already + tasks)?;
                Ok(served)
            }
        }
    }

    /// How often the kernel has refused a task.
    fn events(&self) -> Option<u64> {
        let Self::Cgroup(group) = self else { return None };
        let text = fs::read_to_string(group.join("pids.events")).ok()?;
        text.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok())
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        if let Self::Cgroup(group) = self {
            // Empty since its server has ended; if it is not, the directory is left for who looks into it.
            drop(fs::remove_dir(group));
        }
    }
}

/// Tasks of this user: those that procfs shows.
fn own_tasks() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let uid = geteuid().as_raw();
    let mut tasks = 0;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // A process may end while it is looked at.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.uid() == uid)
            && let Ok(entries) = fs::read_dir(path.join("task"))
        {
            tasks += entries.count() as u64;
        }
    }
    Ok(tasks)
}

/// Connections that are served, and a way to wait until one ends.
#[derive(Default)]
struct Busy {
    count: Mutex<u32>,
    ended: Condvar,
}

/// The thread-per-connection server: accepts while there are threads, as BIO does; whoever comes later waits
/// in the kernel's queue. Ends by a signal.
pub fn bio_server(threads: u32) -> ExitCode {
    match serve(threads) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("bio server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(threads: u32) -> io::Result<std::convert::Infallible> {
    // A person stops it by the signal; what is open then is nobody's loss.
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 0, Arc::new(true.into()))?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("bio server: listening on http://{} (maxThreads {threads})", listener.local_addr()?);
    io::stdout().flush()?;
    let busy = Arc::new(Busy::default());
    let failures = AtomicU32::new(0);
    loop {
        let mut count = busy.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count >= threads {
            count = busy.ended.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
        *count += 1;
        drop(count);
        let (stream, _) = listener.accept()?;
        let mine = Arc::clone(&busy);
        let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
            let _ended = Ended(&mine);
            // Whatever ends a connection ends its thread, and says nothing about the server.
            drop(converse(stream));
        });
        if let Err(error) = spawned {
            Ended(&busy);
            eprintln!(
                "no thread for connection: {error} ({} so far)",
                failures.fetch_add(1, Ordering::Relaxed) + 1
            );
        }
    }
}

/// Gives a place back.
struct Ended<'a>(&'a Busy);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_one();
    }
}

/// One connection, from its handshake to its end: every SEND comes back to its sender.
fn converse(stream: TcpStream) -> tungstenite::Result<()> {
    stream.set_nodelay(true)?;
    #[allow(clippy::result_large_err, reason = "tungstenite's callback has this type")]
    let choose = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v12.stomp"));
        Ok(response)
    };
    // The article's appReadBufSize and appWriteBufSize.
    let config = WebSocketConfig::default().read_buffer_size(1024).write_buffer_size(1024);
    let mut socket = accept_hdr_with_config(stream, choose, Some(config))
        .map_err(|_| tungstenite::Error::ConnectionClosed)?;
    loop {
        let data = socket.read()?.into_data();
        let Ok(Step::Frame { stomp_frame, .. }) = stomp::decode(&data) else { continue };
        let mut reply = Vec::new();
        match stomp_frame.command {
            "CONNECT" => stomp::encode(&mut reply, "CONNECTED", &[("version", "1.2")], b""),
            "SEND" => {
                let destination = stomp_frame.header("destination").unwrap_or_default();
                let headers =
                    [("subscription", "0"), ("message-id", "0"), ("destination", destination.as_ref())];
                stomp::encode(&mut reply, "MESSAGE", &headers, stomp_frame.body);
            }
            _ => continue,
        }
        socket.send(Message::text(String::from_utf8_lossy(&reply).into_owned()))?;
    }
}
