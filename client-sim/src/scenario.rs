//! A run from the plan to the verdict; the scenarios are different orders of the same acts.
//!
//! [`Stage`] is what all scenarios stand on: plan, server, workers, samples. An act that is cut short (by the
//! user, or a worker that ended) leaves the stage in order: what was counted until then is reported, and
//! the server is stopped.
//!
//! Invariant: a stage is always left through [`Stage::close`], which ends the workers before the server.

pub mod chat;
pub mod churn;
pub mod hold;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cli::{Common, Held};
use crate::crew::{Broken, Crew};
use crate::failure::Tally;
use crate::memory::Sample;
use crate::peer::script::{HeartBeats, Proof, Script};
use crate::peer::upgrade::Upgrade;
use crate::plan::{Machine, Plan, Wish};
use crate::progress::Watch;
use crate::report::{self, Idle, Leaving, Report};
use crate::scrape::{self, Metrics};
use crate::spawn::{self, Server};
use crate::target::Target;
use crate::worker::desk::{Tallies, histogram};
use crate::worker::orders::{ConnectOrder, LeaveOrder, Order};
use crate::worker::setup::Setup;

/// Connections that a started server has room for beyond those of the run.
const CAPACITY_SLACK: u32 = 64;
/// Between two acts the kernel and the server finish what they have begun.
const SETTLE: Duration = Duration::from_millis(500);
/// Time that a server may take for the first connect, before anything else is tried.
const REACH_MAX: Duration = Duration::from_secs(1);
/// Times that connections are rounded up to whole rooms for the threads that the last rounding asked for.
const ROUNDINGS_MAX: u32 = 16;
/// A start in the near future, so that all workers have their orders by then.
const START_AHEAD_US: u64 = 20_000;

/// Why there is no run.
#[derive(Debug)]
pub enum Refusal {
    /// It does not fit, or makes no sense: nothing was tried.
    Plan(String),
    /// The server did not start, or the simulator itself failed.
    Broken(String),
}

impl From<netns::Error> for Refusal {
    fn from(error: netns::Error) -> Self {
        match error {
            netns::Error::Missing(text) => Self::Plan(text),
            netns::Error::Broken(text) => Self::Broken(text),
        }
    }
}

/// What a scenario wants of the stage.
pub struct Casting<'a> {
    /// Name of the scenario.
    pub name: &'static str,
    /// Options of every scenario.
    pub common: &'a Common,
    /// Connections open at once.
    pub connections: u32,
    /// Bytes of a message.
    pub payload_bytes: usize,
    /// One in this many clients is deaf in the chat; 0 for none.
    pub deaf_every: u32,
    /// The subscribers' messages are checked.
    pub checked: bool,
    /// No room may be spread over several threads.
    pub whole_rooms: bool,
    /// Messages that may be in flight in all rooms together, if that is bounded.
    pub in_flight_max: Option<u32>,
}

/// What all scenarios stand on.
pub struct Stage {
    name: &'static str,
    setup: Arc<Setup>,
    crew: Crew,
    watch: Watch,
    server: Option<Server>,
    server_pid: Option<u32>,
    server_here: bool,
    samples: Vec<Sample>,
    set_up_s: f64,
    chat: Option<report::Chat>,
    churn: Option<report::Churn>,
    idle: Option<Idle>,
    leaving: Option<Leaving>,
    broken: Option<Broken>,
    /// Failures that no worker can see: receipts that never came.
    failures: Tally,
}

/// Whether every room of a plan is on one thread.
fn rooms_are_whole(plan: &Plan, room_size: u32) -> bool {
    (0..plan.threads).all(|thread| plan.share(thread).start.is_multiple_of(room_size))
}

/// The next number of connections over those of the plan whose rooms divide, by the plan that they would get:
/// the more connections, the more threads. `None` if no such number is near, as with rooms larger than a table.
fn connections_that_divide(plan: &Plan, wish: &Wish, machine: &Machine) -> Option<u32> {
    let (mut connections, mut threads) = (plan.connections, plan.threads);
    for _ in 0..ROUNDINGS_MAX {
        connections = connections.checked_next_multiple_of(wish.room_size.checked_mul(threads)?)?;
        let plan = Plan::new(&Wish { connections, ..wish.clone() }, machine);
        if rooms_are_whole(&plan, wish.room_size) {
            return Some(connections);
        }
        threads = plan.threads;
    }
    None
}

/// Why a window cannot be kept, and what to try: fewer threads only where descriptors do not ask for so many.
fn shared_room(plan: &Plan, wish: &Wish, machine: &Machine) -> String {
    let threads = plan.threads;
    let (why, advice) = if plan.private_fd_tables {
        let advice = match connections_that_divide(plan, wish, machine) {
            Some(connections) => format!("--connections {connections}"),
            None => "a smaller --room-size".to_owned(),
        };
        (format!(", as many as it takes with {} descriptors each,", plan.descriptors_per_table), advice)
    } else {
        (String::new(), "--threads 1".to_owned())
    };
    format!(
        "a window needs all members of a room on one thread, and {threads} threads{why} share a room; \
         try: {advice}"
    )
}

impl Stage {
    /// Plans, starts the server if asked to, and the workers.
    ///
    /// # Errors
    /// Why there is no run.
    pub fn open(casting: &Casting<'_>) -> Result<Self, Refusal> {
        let common = casting.common;
        let target = match &common.spawn_server {
            None => Some(Target::resolve(&common.url).map_err(Refusal::Plan)?),
            Some(_) => None,
        };
        let destination =
            target.as_ref().map_or(std::net::Ipv4Addr::LOCALHOST.into(), |target| target.address.ip());
        let server_here = destination.is_loopback();
        let wish = Wish {
            connections: casting.connections,
            destination,
            server_here,
            threads: common.threads,
            source_addresses: common.source_addresses,
            room_size: common.room_size,
        };
        let machine = Machine::read();
        let plan = Plan::new(&wish, &machine);
        if !common.quiet {
            eprintln!("plan: {plan}");
        }
        if casting.whole_rooms && !rooms_are_whole(&plan, wish.room_size) {
            return Err(Refusal::Plan(shared_room(&plan, &wish, &machine)));
        }
        if let Some(all) = casting.in_flight_max.filter(|all| *all < plan.threads) {
            return Err(Refusal::Plan(format!(
                "{all} messages in flight are less than one for each of the {} threads; try: --in-flight {}",
                plan.threads, plan.threads
            )));
        }
        if !plan.shortages.is_empty() {
            let list: String = plan.shortages.iter().map(|shortage| format!("\n  {shortage}")).collect();
            if !common.force {
                return Err(Refusal::Plan(format!("this machine does not have what the run needs:{list}")));
            }
            eprintln!("warning: this machine does not have what the run needs:{list}");
        }
        let server = match &common.spawn_server {
            None => None,
            Some(path) => {
                let binary = spawn::find_server(path.as_deref()).map_err(Refusal::Broken)?;
                let capacity = casting.connections.saturating_add(CAPACITY_SLACK);
                Some(Server::start(&binary, capacity, &common.server_arg).map_err(Refusal::Broken)?)
            }
        };
        let target = match (&server, target) {
            (Some(server), _) => Target::of(server.address()),
            (None, Some(target)) => {
                target.reach(REACH_MAX).map_err(Refusal::Broken)?;
                target
            }
            (None, None) => return Err(Refusal::Broken("no server".to_owned())),
        };
        let target = Target { host: common.host.clone().unwrap_or(target.host), ..target };
        let server_pid = server.as_ref().map(Server::pid).or(common.server_pid);
        let epoch = Instant::now();
        let setup = Arc::new(setup(casting, plan, target, epoch)?);
        let io = |error: std::io::Error| Refusal::Broken(error.to_string());
        let watch = Watch::new(epoch, server_pid, common.quiet).map_err(io)?;
        let crew = Crew::muster(&setup).map_err(io)?;
        let mut stage = Self {
            name: casting.name,
            setup,
            crew,
            watch,
            server,
            server_pid,
            server_here,
            samples: Vec::new(),
            set_up_s: 0.0,
            chat: None,
            churn: None,
            idle: None,
            leaving: None,
            broken: None,
            failures: Tally::default(),
        };
        std::thread::sleep(SETTLE);
        stage.sample("start");
        Ok(stage)
    }

    /// Plays the scenario. What breaks it off is kept for the verdict.
    pub fn play(&mut self, acts: impl FnOnce(&mut Self) -> Result<(), Broken>) {
        self.broken = acts(self).err();
    }

    /// Act: all clients connect and subscribe.
    pub fn connect(&mut self, rate: f64, half_open_max: u32) -> Result<(), Broken> {
        let plan = &self.setup.plan;
        self.watch.begin("connect", u64::from(plan.connections));
        let order = ConnectOrder {
            start_us: self.setup.now_us() + START_AHEAD_US,
            rate,
            half_open_max: half_open_max.div_ceil(plan.threads),
        };
        self.crew.order(&Order::Connect(order));
        self.crew.wait_all(&mut self.watch)?;
        self.set_up_s = self.setup.epoch.elapsed().as_secs_f64() - order.start_us as f64 / 1e6;
        self.watch.note(&self.crew.counts());
        Ok(())
    }

    /// Act: nothing happens but heart-beats; what they cost, and then the memory, is measured.
    pub fn hold(&mut self, seconds: f64) -> Result<(), Broken> {
        self.watch.begin("hold", u64::from(self.setup.plan.connections));
        self.sample("ready");
        let (before, counted) = (self.crew.counts(), self.counted());
        self.crew.wait_until(&mut self.watch, duration(seconds), |_| false)?;
        let (after, counted) = (self.crew.counts(), counted.zip(self.counted()));
        self.sample("held");
        self.idle = Idle::between(&self.samples, (&before, &after), counted);
        Ok(())
    }

    /// Act: the same after the chat, for so long that a server has given back what it will.
    pub fn settle(&mut self, seconds: f64) -> Result<(), Broken> {
        if seconds > 0.0 {
            self.watch.begin("settle", u64::from(self.setup.plan.connections));
            self.crew.wait_until(&mut self.watch, duration(seconds), |_| false)?;
            self.sample("settled");
        }
        Ok(())
    }

    /// Act: all clients leave, as fast as the server lets them go, and the memory is measured after
    /// a rest.
    pub fn leave(&mut self, under_way_max: u32, goodbye: bool, rest: f64) -> Result<(), Broken> {
        self.watch.begin("leave", u64::from(self.setup.plan.connections));
        let before = self.crew.counts();
        let start = Instant::now();
        let under_way_max = under_way_max.div_ceil(self.setup.plan.threads);
        self.crew.order(&Order::Leave(LeaveOrder { under_way_max, goodbye }));
        self.crew.wait_all(&mut self.watch)?;
        let how = if goodbye { "goodbye" } else { "close" };
        self.leaving = Some(Leaving::of(how, before.open, start.elapsed()));
        self.crew.wait_until(&mut self.watch, SETTLE.max(duration(rest)), |_| false)?;
        self.sample("left");
        Ok(())
    }

    /// Act: the server is stopped while all are connected, and says goodbye to them.
    pub fn stop_server(&mut self, patience_s: f64) -> Result<(), Broken> {
        self.crew.order(&Order::Farewell);
        self.crew.wait_all(&mut self.watch)?;
        self.watch.begin("leave", u64::from(self.setup.plan.connections));
        let before = self.crew.counts();
        let start = Instant::now();
        let Some(server) = &mut self.server else { return Ok(()) };
        server.ask_to_stop();
        let mut last = (u64::MAX, start);
        let mut ended = None;
        self.crew.wait_until(&mut self.watch, Duration::MAX, |counts| {
            if counts.open < last.0 {
                last = (counts.open, Instant::now());
            }
            ended = ended.or_else(|| server.has_ended().then(|| start.elapsed()));
            (counts.open == 0 && ended.is_some()) || last.1.elapsed() >= duration(patience_s)
        })?;
        let mut leaving = Leaving::of("server-stop", before.open, last.1 - start);
        leaving.server_ended_s = ended.map(|ended| ended.as_secs_f64());
        leaving.server_said = server.logged("reset=");
        self.leaving = Some(leaving);
        self.sample("left");
        Ok(())
    }

    /// Act: everybody goes, as the user has asked.
    pub fn end(&mut self, common: &Common, held: &Held, rest: f64) -> Result<(), Broken> {
        if held.stop_server {
            self.stop_server(common.timeout)
        } else {
            self.leave(common.max_half_open, !held.no_goodbye, rest)
        }
    }

    /// What the started server has counted.
    fn counted(&self) -> Option<Metrics> {
        let page = scrape::fetch(self.server.as_ref()?.address(), "/metrics").ok()?;
        Some(Metrics::parse(&page))
    }

    fn sample(&mut self, label: &'static str) {
        let sample = Sample::take(label, self.watch.elapsed_s(), self.server_pid);
        self.samples.push(sample);
        self.watch.note(&self.crew.counts());
    }

    /// Sends the workers home, stops the server, and writes down what happened.
    ///
    /// # Errors
    /// A worker's event loop failed.
    pub fn close(self, common: &Common) -> Result<Report, Refusal> {
        let counts = self.crew.counts();
        let elapsed_s = self.watch.elapsed_s();
        let tallies = self.crew.dismiss();
        let ready_line = self.server.as_ref().map(|server| server.ready_line().to_owned());
        let server_stopped = self.server.map_or(Ok(()), Server::stop);
        let series = self.watch.finish();
        let tallies = tallies.map_err(|error| Refusal::Broken(format!("event loop: {error}")))?;
        let mut all = merge(tallies);
        all.failures.merge(self.failures);
        let connections = report::Connections {
            asked: self.setup.plan.connections,
            started: counts.started,
            ready: counts.ready,
            failed: all.failures.total(),
            set_up_s: self.set_up_s,
            set_up_ms: report::Latency::of(&all.setup_intended),
            set_up_service_ms: report::Latency::of(&all.setup_service),
            closed_by_server_first: all.closed_by_server_first,
            closed_by_client_first: all.closed_by_client_first,
        };
        let mut leaving = self.leaving;
        if let Some(leaving) = &mut leaving {
            leaving.in_order = all.closed_by_server_first + all.closed_by_client_first;
            leaving.cut_off = all.cut_off;
        }
        let mut chat = self.chat;
        if let Some(chat) = &mut chat {
            chat.latency_ms = report::Latency::of(&all.delivery);
            chat.deaf = all.deaf_failures.rows();
        }
        let mut churn = self.churn;
        if let Some(churn) = &mut churn {
            churn.cycles_late = all.cycles_late;
            churn.echo_ms = report::Latency::of(&all.delivery);
        }
        let open = u64::from(self.setup.plan.connections).min(counts.ready);
        let memory = report::Memory::of(self.samples, open, self.server_here);
        let mut report = Report {
            schema: report::SCHEMA,
            scenario: self.name,
            version: env!("CARGO_PKG_VERSION"),
            started_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| now.as_secs().saturating_sub(elapsed_s as u64)),
            elapsed_s,
            target: self.setup.target.url.clone(),
            server_ready_line: ready_line,
            plan: self.setup.plan.clone(),
            connections,
            memory,
            idle: self.idle,
            chat,
            churn,
            leaving,
            failures: all.failures.rows(),
            series,
            verdict: report::Verdict::default(),
        };
        report.judge(common.max_failures, common.max_p99);
        if let Err(problem) = server_stopped {
            report.verdict.fail(problem);
        }
        match self.broken {
            Some(Broken::Interrupted) => report.verdict.interrupt(),
            Some(Broken::WorkerGone) => report.verdict.fail("a worker ended early".to_owned()),
            None => {}
        }
        Ok(report)
    }
}

fn setup(casting: &Casting<'_>, plan: Plan, target: Target, epoch: Instant) -> Result<Setup, Refusal> {
    let common = casting.common;
    let upgrade = Upgrade::new(&target.url).map_err(Refusal::Plan)?;
    let heart_beats = HeartBeats { out_ms: common.heart_beat.0, in_ms: common.heart_beat.1 };
    let proof = proof(common).map_err(Refusal::Plan)?;
    // Another run, at the same time or before, must not be heard.
    let prefix = common.room_prefix.clone().unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        format!("sim-{:x}-{:x}-", now & 0xffff_ffff, std::process::id())
    });
    let rooms = if casting.checked { casting.connections.div_ceil(common.room_size) } else { 0 };
    Ok(Setup {
        epoch,
        script: Script::new(upgrade, &target.host, heart_beats, &proof, &prefix),
        plan,
        target,
        room_size: common.room_size,
        payload_bytes: casting.payload_bytes,
        patience: duration(common.timeout),
        seed: common.seed,
        deaf_every: casting.deaf_every,
        sent: (0..rooms).map(|_| AtomicU32::new(0)).collect(),
    })
}

/// What the clients of a run prove who they are with.
fn proof(common: &Common) -> Result<Proof, String> {
    if let Some(path) = &common.tokens {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
        // An empty line would end the CONNECT.
        let is_in_order = !tokens.is_empty() && tokens.iter().all(|token| !token.is_empty());
        return if is_in_order {
            Ok(Proof::Tokens(tokens))
        } else {
            Err(format!("{}: a token a line is needed", path.display()))
        };
    }
    let password = common.login.clone().zip(common.passcode.clone());
    Ok(password.map_or(Proof::None, |(login, passcode)| Proof::Password(login, passcode)))
}

fn merge(tallies: Vec<Tallies>) -> Tallies {
    let mut all = Tallies {
        failures: Tally::default(),
        deaf_failures: Tally::default(),
        setup_intended: histogram(),
        setup_service: histogram(),
        delivery: histogram(),
        closed_by_server_first: 0,
        closed_by_client_first: 0,
        cut_off: 0,
        cycles_late: 0,
    };
    for one in tallies {
        all.failures.merge(one.failures);
        all.deaf_failures.merge(one.deaf_failures);
        for (sum, part) in [
            (&mut all.setup_intended, &one.setup_intended),
            (&mut all.setup_service, &one.setup_service),
            (&mut all.delivery, &one.delivery),
        ] {
            // All histograms are made with the same bounds.
            sum.add(part).unwrap_or_else(|error| panic!("{error}"));
        }
        all.closed_by_server_first += one.closed_by_server_first;
        all.closed_by_client_first += one.closed_by_client_first;
        all.cut_off += one.cut_off;
        all.cycles_late += one.cycles_late;
    }
    all
}

/// A duration from a command line: what is no time at all is zero, what is endless is a day.
fn duration(seconds: f64) -> Duration {
    const DAY_S: f64 = 86_400.0;
    Duration::from_secs_f64(if seconds.is_nan() { 0.0 } else { seconds.clamp(0.0, DAY_S) })
}
