//! The program: command line, configuration, plan, server, exit code.

mod cli;
mod ctl;
mod doctor;
mod health;
mod lifecycle;
mod output;
mod passwd;
mod token;

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser};
use tcbchat::auth::{Mode, Secret};
use tcbchat::config::keys::{Goodbye, LogFormat, MetricsAccess};
use tcbchat::config::machine::raise_fd_limit;
use tcbchat::config::plan::Plan;
use tcbchat::config::procfs::{Controller, GroupLimit, Tree};
use tcbchat::config::settings::Settings;
use tcbchat::config::token::read as read_token;
use tcbchat::config::{self, Config, ConfigError, credentials, render};
use tcbchat::conn::pending::Pending;
use tcbchat::conn::quota::Tally;
use tcbchat::mesh::request::Authenticator;
use tcbchat::metrics::ShardMetrics;
use tcbchat::net::acceptor::ListenOptions;
use tcbchat::net::address::Address;
use tcbchat::net::group_memory::{self, Gate};
use tcbchat::net::reactor;
use tcbchat::net::reservation::ListenError;
use tcbchat::net::server::{self, ServeError};
use tcbchat::ops::log::Log;
use tcbchat::ops::metrics::{self, Metrics};
use tcbchat::ops::site::{MetricsFor, Proof, Site};
use tcbchat::services;
use tcbchat::services::api::{Api, Counts, Register};
use tcbchat::services::auth::{Application, Desk};
use tcbchat::session::ticket::Sources;
use tcbchat::shard::{Shard, ShardLimits, ShardSetup, farewell};
use tcbchat::tcb::TcbTable;
use tcbchat::time::Clock;
use tcbchat::walls::forecast::{Forecast, Question};
use tcbchat::walls::probe::Snapshot;

use cli::{Cli, Command, EXIT_USAGE, Options};
use lifecycle::Life;
use output::{fail, print};

/// Bytes from which glibc maps a block alone: its own default, which it would otherwise raise.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: std::ffi::c_int = 128 * 1024;

fn main() -> ExitCode {
    keep_large_blocks_mapped();
    let Cli { command, options } = Cli::parse();
    match command.unwrap_or(Command::Serve(options)) {
        Command::Serve(options) => {
            output::speak(format_said(&options));
            match load(&options) {
                Ok((config, settings)) => serve(&options, &config, settings),
                Err(code) => code,
            }
        }
        Command::Manual => {
            let mut page = Vec::new();
            match clap_mangen::Man::new(Cli::command()).render(&mut page) {
                Ok(()) => print(&String::from_utf8_lossy(&page)),
                Err(error) => fail(&error, 1),
            }
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tcbchat", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
        Command::Health(health) => match load(&health.options) {
            Ok((config, _)) => health::ask(&health, &config),
            Err(code) => code,
        },
        Command::Ctl(options) => ctl::carry_out(&options),
        Command::Passwd(options) => passwd::change(&options),
        Command::Token(options) => token::make(&options),
        Command::Check(options) => match load(&options) {
            Ok((config, settings)) => check(&config, &settings),
            Err(code) => code,
        },
        Command::Doctor(doctor) => match load(&doctor.options) {
            Ok((config, _)) => doctor::examine(&doctor, &config),
            Err(code) => code,
        },
    }
}

/// Keeps glibc mapping large blocks by themselves, for as long as the process lives.
///
/// The arrays of connections grow by doubling. Mapped alone, one grows by moving its pages, and the half that is
/// not used yet is no memory; inside an arena it is copied, and leaves its old places behind as holes. glibc raises
/// the size from which it maps whenever a mapped block is freed, so a single large buffer at the start (the
/// kernel's tables, say) would cost every connection some 100 bytes later. See `docs/lab/memory.md`.
fn keep_large_blocks_mapped() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt only sets a parameter of the allocator, and no other thread runs yet.
        #[allow(unsafe_code)]
        let is_set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) };
        debug_assert_eq!(is_set, 1, "the value is glibc's own default");
    }
}

/// Has glibc return to the kernel what is free between blocks in use.
///
/// After a burst that is most of what the burst has left, because boxes and shared segments were allocated among blocks
/// that live on, and glibc by itself returns only what is free at the end of an arena. See `docs/lab/memory.md`.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: malloc_trim takes the allocator's own locks and touches free memory only.
        #[allow(unsafe_code)]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}

/// Prints what would be in force on this machine.
fn check(config: &Config, settings: &Settings) -> ExitCode {
    let checks = match credentials::load(&config.auth, &claims(config)) {
        Ok(checks) => checks,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    if let Err(error) = api_files(config) {
        return fail(&error, EXIT_USAGE);
    }
    match machine_plan(config) {
        Ok((plan, _)) => {
            // As comments, so that all of it can be read back.
            let who: String = credentials::describe(&config.auth, &checks)
                .lines()
                .map(|line| format!("#   {line}\n"))
                .collect();
            let settings = render::toml(settings);
            print(&format!("{settings}\n# Who may connect:\n{who}\n# On this machine: {plan}.\n"))
        }
        Err(code) => code,
    }
}

/// What to start, and what the doctor says of it: both from one reading of the machine.
fn machine_plan(config: &Config) -> Result<(Plan, Forecast), ExitCode> {
    raise_fd_limit().map_err(|error| fail(&format!("cannot raise the descriptor limit: {error}"), 1))?;
    let snapshot = Snapshot::live();
    let question = Question { snapshot: &snapshot, config, running: None, connections: None };
    let plan = question.start().map_err(|refusal| fail(&refusal.reason, EXIT_USAGE))?;
    Ok((plan, Forecast::new(&question)))
}

fn load(options: &Options) -> Result<(Config, Settings), ExitCode> {
    config::load(&options.sources()).map_err(|error: ConfigError| fail(&error, EXIT_USAGE))
}

/// The format that is asked for, also by a configuration that is refused for something else.
fn format_said(options: &Options) -> LogFormat {
    let settings = Settings::read(&options.sources(), &mut Vec::new());
    settings.word("log.format").and_then(LogFormat::from_word).unwrap_or(LogFormat::Text)
}

fn serve(options: &Options, config: &Config, settings: Settings) -> ExitCode {
    let (log, level) = match output::begin_log(&config.log) {
        Ok(begun) => begun,
        Err(error) => return fail(&format!("cannot start the log's thread: {error}"), 1),
    };
    let desk = match desk(config) {
        Ok(desk) => desk,
        Err(code) => return code,
    };
    let api_files = match api_files(config) {
        Ok(files) => files,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let (plan, forecast) = match machine_plan(config) {
        Ok(planned) => planned,
        Err(code) => return code,
    };
    if let Some(warning) = doctor::warning(&forecast) {
        tracing::warn!("{warning}");
    }
    if !settings.passed_over().is_empty() {
        let variables = settings.passed_over().join(", ");
        tracing::info!(variables, "passed over: Kubernetes makes these for a service of this name");
    }
    let mut life = Life::new(options, config, settings, &plan, level, desk.clone());
    let result = run(config, &plan, &log, desk, api_files, &mut life);
    life.end();
    output::end_log(&log);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// Who finds out who clients are, if they have to prove it.
fn desk(config: &Config) -> Result<Option<Arc<Desk>>, ExitCode> {
    let auth = &config.auth;
    if !auth.is_guarded() {
        return Ok(None);
    }
    let checks = credentials::load(auth, &claims(config)).map_err(|error| fail(&error, EXIT_USAGE))?;
    let timeout = Duration::from_millis(auth.limits.http_timeout_ms.into());
    let is_asked = auth.modes.contains(&Mode::Http);
    let url = auth.http_url.as_deref().filter(|_| is_asked);
    let setup = services::auth::Setup {
        modes: auth.modes.clone(),
        checks,
        application: url.map(|url| Application::new(url, timeout)),
        sources: Sources {
            cookie: auth.token_cookie.clone(),
            query: auth.token_query.clone(),
            upgrade_headers: if is_asked { auth.http_headers.clone() } else { Box::default() },
            connect_headers: is_asked,
            token_bytes_max: auth.limits.token_bytes_max,
        },
        patience: Duration::from_millis(config.handshake.connect_timeout_ms.into()),
        limits: auth.limits.clone(),
    };
    let desk =
        Desk::open(setup).map_err(|error| fail(&format!("cannot start a thread of auth: {error}"), 1))?;
    Ok(Some(Arc::new(desk)))
}

/// The claims that rules name: others are not kept.
fn claims(config: &Config) -> Box<[Box<str>]> {
    config.rules.claims().map(Into::into).collect()
}

/// Makes what all reactors share, and serves.
fn run(
    config: &Config,
    plan: &Plan,
    log: &Log,
    desk: Option<Arc<Desk>>,
    api_files: Option<ApiFiles>,
    life: &mut Life<'_>,
) -> Result<(), ServeError> {
    let clock = Clock::start();
    let tcbs = Arc::new(TcbTable::new(plan.tcb));
    let api_counts = Arc::new(Counts::default());
    let metrics: Vec<Arc<ShardMetrics>> = (0..plan.reactors).map(|_| Arc::default()).collect();
    let sources = metrics::Sources {
        shards: metrics.clone(),
        tcbs: Arc::clone(&tcbs),
        limits: life.bounds(),
        log: log.losses(),
        api: Arc::clone(&api_counts),
    };
    let metrics_for = match config.metrics {
        MetricsAccess::Loopback => MetricsFor::Loopback,
        MetricsAccess::All => MetricsFor::All,
        MetricsAccess::Off => MetricsFor::Nobody,
    };
    let retry_after_s = config.handshake.retry_after_s;
    let proofs = Proof::of(&config.auth.modes, config.auth.token_cookie.is_some());
    let site = Site::new(&proofs, Metrics::new(sources), metrics_for, life.readiness(), retry_after_s);
    let site = Arc::new(site);
    let limits = Arc::new(shard_limits(config));
    let pending = Arc::new(Pending::new(config.handshake.pending_per_address_max));
    let [logins, addresses] = [(); 2].map(|()| Arc::<Tally>::default());
    let audience = Arc::default();
    let is_echo_enabled = config.echo.is_some();
    let connections_max = plan.connections_per_reactor_max;
    // From the operating system's randomness; the time would be a guess away.
    let seed = RandomState::new().hash_one("tcbchat");
    // A clock before 1970 only makes message ids of two starts alike. In 2106 32 bits begin again, which is harmless.
    let started_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
    let bans = api_files.as_ref().map(|files| files.bans.snapshot()).unwrap_or_default();
    if let (Some(api), Some(files)) = (&config.api, api_files) {
        life.set_api(open_api(api, files, config, seed, api_counts)?);
    }
    let shard = move |id: u16, mesh: &Arc<_>| {
        Shard::new(ShardSetup {
            id,
            limits: Arc::clone(&limits),
            connections_max,
            is_echo_enabled,
            mesh: Arc::clone(mesh),
            pending: Arc::clone(&pending),
            logins: Arc::clone(&logins),
            addresses: Arc::clone(&addresses),
            audience: Arc::clone(&audience),
            tcbs: Arc::clone(&tcbs),
            metrics: Arc::clone(&metrics[usize::from(id)]),
            site: Arc::clone(&site) as Arc<_>,
            bans: Arc::clone(&bans),
            authenticator: desk.clone().map(|desk| desk as Arc<dyn Authenticator>),
            seed,
            started_s,
            now: clock.now(),
        })
    };
    let server = server::Settings {
        endpoints: config.listen.endpoints().collect(),
        reactors: u16::try_from(plan.reactors).expect("a plan has at most 1,024 reactors"),
        private_tables: plan.private_fd_tables,
        listen: ListenOptions {
            backlog: config.listen.limits.backlog,
            keepalive: config.keepalive.clone(),
            unsent_bytes_max: config.outbound.kernel_unsent_bytes_max,
        },
        reactor: reactor::Options {
            turn: config.turn.clone(),
            shutdown_timeout_ms: config.shutdown.timeout_ms,
            connections: connections_max as usize,
            has_flush_delay: config.rooms.flush_delay_us > 0,
            trim_heap,
            gate: gate(config),
        },
        drain: server::Drain {
            grace: Duration::from_millis(config.drain.limits.ready_grace_ms.into()),
            spread_ms: config.drain.limits.spread_ms,
            code: match config.drain.goodbye {
                Goodbye::GoingAway => farewell::GOING_AWAY,
                Goodbye::Restart => farewell::SERVICE_RESTART,
            },
        },
    };
    server::run(&server, clock, shard, life)
}

/// What the API needs of files.
#[derive(Debug)]
struct ApiFiles {
    token: Secret,
    bans: Register,
}

fn api_files(config: &Config) -> Result<Option<ApiFiles>, ConfigError> {
    let Some(api) = &config.api else { return Ok(None) };
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let bans = Register::read(api.bans_file.as_deref(), now_s)
        .map_err(|error| ConfigError::of_file(api.bans_file.as_deref().unwrap_or(Path::new("")), &error))?;
    Ok(Some(ApiFiles { token: read_token(&api.token_file)?, bans }))
}

/// The HTTP API, which listens and takes no connection yet.
fn open_api(
    api: &config::Api,
    files: ApiFiles,
    config: &Config,
    seed: u64,
    counts: Arc<Counts>,
) -> Result<Api, ServeError> {
    let ApiFiles { token, bans } = files;
    let setup = services::api::Setup {
        addresses: api.addresses.clone(),
        token,
        stomp: config.stomp.clone(),
        is_guarded: config.auth.is_guarded(),
        seed,
        limits: api.limits.clone(),
        counts,
        bans,
    };
    Api::open(setup).map_err(|(address, source)| {
        ServeError::Address(ListenError { address: Address::Tcp(address), source })
    })
}

/// The gate that is shut while a control group is short of memory; open for good if none limits it.
fn gate(config: &Config) -> Arc<Gate> {
    let percent = config.memory.group_percent_max;
    let groups = Tree::live().group_limits(Controller::Memory).unwrap_or_default();
    let limit = |group: &GroupLimit| {
        let [_, used] = Controller::Memory.files(group.version);
        group_memory::limit_of(Path::new(&group.directory), used, group.version.stat_prefix(), group.limit)
    };
    let limits: Vec<group_memory::Limit> = groups.iter().map(limit).collect();
    if percent == 0 || limits.is_empty() {
        return Arc::new(Gate::open());
    }
    Arc::new(Gate::new(&limits, percent).unwrap_or_else(|error| {
        tracing::warn!(%error, "what the control group uses cannot be read: memory.group_percent_max has no effect");
        Gate::open()
    }))
}

fn shard_limits(config: &Config) -> ShardLimits {
    ShardLimits {
        handshake: config.handshake.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        client_header: config.client_header,
        origins: config.origins.clone(),
        reach: config.reach,
        websocket: config.websocket.clone(),
        rules: Arc::clone(&config.rules),
        history: config.history.clone(),
        destinations: Arc::clone(&config.destinations),
        sessions_per_login_max: config.auth.limits.sessions_per_login_max,
        echo: config.echo.clone().unwrap_or_default(),
        keepalive: config.keepalive.clone(),
        stomp: config.stomp.clone(),
        refusals: config.refusals,
        rate: config.rate.clone(),
        outbound: config.outbound.clone(),
        buffers: config.buffers.clone(),
        rooms: config.rooms.clone(),
        flush_delay_destinations: config.flush_delay_destinations.clone(),
        mesh: config.mesh.clone(),
        turn: config.turn.clone(),
    }
}
