//! The configuration: a TOML file, environment variables and flags become one validated [`Config`].
//!
//! * [`keys`] has every key, with its meaning and permitted values;
//! * [`settings`] lays the sources over each other and remembers where each value came from;
//! * [`profile`] has named sets of values that stand above the defaults;
//! * `file` reads TOML, `check` compares keys with each other;
//! * [`rules`] and [`destinations`] have the `[[rules]]` and `[[destination]]` tables of the file;
//! * [`credentials`] reads the files of users and keys, [`token`] that of the API;
//! * [`render`] prints the effective configuration;
//! * [`procfs`] opens the kernel's files, [`machine`] reads what the machine has, [`plan`] derives threads,
//!   descriptor tables and memory from it.
//!
//! Nothing here opens a socket or starts a thread; who runs the server takes the values from here.
//!
//! Invariant: a [`Config`] holds only values inside their ranges that fit each other, so nobody behind it
//! checks a bound again.

pub mod credentials;
pub mod destinations;
pub mod keys;
pub mod machine;
pub mod plan;
pub mod procfs;
pub mod profile;
pub mod render;
pub mod rules;
pub mod settings;
pub mod token;

mod check;
mod file;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::auth::Mode;
use crate::conn::handshake::Reach;
use crate::limits;
use crate::message::destination::Pattern;
use crate::message::fault::Refusals;
use crate::net::address::{Address, Endpoint};
use crate::policy::Rules;
use crate::policy::destinations::Destinations;
use crate::services;
use crate::tcb::time_wait;
use crate::wire::framing::Framing;
use crate::wire::http::{ClientHeader, OriginPattern};
use keys::{Goodbye, Key, LogFormat, LogLevel, MetricsAccess, ReadyLine, Value};
use settings::{Origin, Settings, Sources};

/// The validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[listen]`.
    pub listen: Listen,
    /// `[auth]`.
    pub auth: Auth,
    /// `[[rules]]`, compiled; in an [`Arc`], as all shards have the same.
    pub rules: Arc<Rules>,
    /// `[[destination]]`, in the same way.
    pub destinations: Arc<Destinations>,
    /// `[history]`.
    pub history: limits::History,
    /// `[reactors]`.
    pub reactors: limits::Reactors,
    /// `[tcb]`.
    pub tcb: Tcb,
    /// `[handshake]`.
    pub handshake: limits::Handshake,
    /// From where clients may come: see `reach` below.
    pub reach: Reach,
    /// `http.trusted_proxies`: who is believed when it names its clients.
    pub trusted_proxies: Vec<IpNet>,
    /// `stomp.refusals`.
    pub refusals: Refusals,
    /// `http.client_header`: where they name them.
    pub client_header: Option<ClientHeader>,
    /// `http.origins`: pages that may open a WebSocket beside the server's own.
    pub origins: Vec<OriginPattern>,
    /// `[websocket]`.
    pub websocket: limits::WebSocket,
    /// `[keepalive]`.
    pub keepalive: limits::KeepAlive,
    /// `[stomp]`.
    pub stomp: limits::Stomp,
    /// `[rate]`.
    pub rate: limits::Rate,
    /// `[outbound]`.
    pub outbound: limits::Outbound,
    /// `[buffers]`.
    pub buffers: limits::Buffers,
    /// `[rooms]`.
    pub rooms: limits::Rooms,
    /// `rooms.flush_delay_destinations`.
    pub flush_delay_destinations: Vec<Pattern>,
    /// `[mesh]`.
    pub mesh: limits::Mesh,
    /// `[turn]`.
    pub turn: limits::Turn,
    /// `[echo]`; `None` while it is off.
    pub echo: Option<limits::Echo>,
    /// `[api]`; `None` while it is off.
    pub api: Option<Api>,
    /// `ops.metrics`.
    pub metrics: MetricsAccess,
    /// `[log]`.
    pub log: Log,
    /// `[memory]`.
    pub memory: limits::Memory,
    /// `[drain]`.
    pub drain: Drain,
    /// `[shutdown]`.
    pub shutdown: limits::Shutdown,
}

/// `[listen]`: where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The addresses for HTTP and WebSocket; at least one, none twice.
    pub addresses: Vec<Address>,
    /// The addresses for STOMP frames in the stream itself; none twice, and none of the others.
    pub stomp: Vec<Address>,
    /// The numbers of the section.
    pub limits: limits::Backlog,
}

impl Listen {
    /// All addresses, each with what is spoken there; those for HTTP first.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let with = |framing| move |address: &Address| Endpoint { address: address.clone(), framing };
        self.addresses.iter().map(with(Framing::WebSocket)).chain(self.stomp.iter().map(with(Framing::Bare)))
    }
}

/// `[auth]`: who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The modes said, in order, or the one that loopback addresses imply; at least one.
    pub modes: Vec<Mode>,
    /// Logins with passwords; there if a mode is [`Mode::Users`].
    pub users_file: Option<PathBuf>,
    /// Keys that verify tokens; there if a mode is [`Mode::Jwt`].
    pub keys_file: Option<PathBuf>,
    /// What `iss` must be.
    pub issuer: Option<Box<str>>,
    /// What `aud` must be, or contain.
    pub audience: Option<Box<str>>,
    /// The claim that is the login.
    pub login_claim: Box<str>,
    /// The claim that lists the roles.
    pub roles_claim: Box<str>,
    /// The cookie that has a token.
    pub token_cookie: Option<Box<str>>,
    /// The parameter of the query that has a token.
    pub token_query: Option<Box<str>>,
    /// Where the application is asked; there if a mode is [`Mode::Http`].
    pub http_url: Option<Box<str>>,
    /// Headers of the upgrade that it is told, in lower case.
    pub http_headers: Box<[Box<str>]>,
    /// Whether a token without `exp` is refused.
    pub is_token_expiry_required: bool,
    /// The numbers of the section.
    pub limits: limits::Auth,
}

impl Auth {
    /// Whether clients have to prove who they are.
    pub fn is_guarded(&self) -> bool {
        self.modes != [Mode::Open]
    }
}

impl Config {
    /// Threads of the server that are no reactor.
    pub fn threads_beside_reactors(&self) -> u64 {
        let api = u64::from(self.api.is_some());
        plan::THREADS_OF_PROCESS + api + services::auth::threads(&self.auth.modes, &self.auth.limits)
    }
}

/// `[api]`: the HTTP API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Where it listens; at least one address.
    pub addresses: Vec<SocketAddr>,
    /// The token that every request must have.
    pub token_file: PathBuf,
    /// Where bans are kept.
    pub bans_file: Option<PathBuf>,
    /// The numbers of the section.
    pub limits: limits::Api,
}

/// `[tcb]`: the table of TCP control blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcb {
    /// The numbers of the section, those that [`plan`] replaces by what the machine has included.
    pub limits: limits::Tcb,
    /// How TIME_WAIT is modelled.
    pub time_wait: time_wait::Config,
}

/// `[log]`: what is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important messages logged.
    pub level: LogLevel,
    /// How they are written.
    pub format: LogFormat,
    /// What standard output says at the start.
    pub ready_line: ReadyLine,
    /// The numbers of the section.
    pub limits: limits::Log,
}

/// `[drain]`: from SIGTERM to the last goodbye.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// What clients are told.
    pub goodbye: Goodbye,
    /// The numbers of the section.
    pub limits: limits::Drain,
}

/// Reads, lays over each other and checks all sources.
///
/// # Errors
/// Everything that is wrong with them, in one error.
pub fn load(sources: &Sources) -> Result<(Config, Settings), ConfigError> {
    let mut problems = Vec::new();
    let settings = Settings::read(sources, &mut problems);
    check::check(&settings, &mut problems);
    if problems.is_empty() { Ok((Config::from(&settings), settings)) } else { Err(ConfigError { problems }) }
}

/// The configuration that settings make, if their values fit each other.
///
/// # Errors
/// Those that do not.
pub fn of(settings: &Settings) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    check::check(settings, &mut problems);
    if problems.is_empty() { Ok(Config::from(settings)) } else { Err(ConfigError { problems }) }
}

impl From<&Settings> for Config {
    /// The settings as values of their types. Settings that [`load`] accepted always convert.
    fn from(settings: &Settings) -> Self {
        let word = |path| settings.word(path).unwrap_or_default();
        Self {
            listen: Listen {
                addresses: addresses(settings, "listen.address").to_vec(),
                stomp: addresses(settings, "listen.stomp").to_vec(),
                limits: settings.numbers("listen"),
            },
            auth: auth(settings),
            rules: match rules::compile(settings.rules()) {
                Ok(rules) => Arc::new(rules),
                // Not one that would allow everything.
                Err(problems) => unreachable!("`check` lets no such rules pass: {problems:?}"),
            },
            destinations: match destinations::compile(settings.destinations()) {
                Ok(destinations) => Arc::new(destinations),
                Err(problems) => unreachable!("`check` lets nothing like that pass: {problems:?}"),
            },
            history: settings.numbers("history"),
            reactors: settings.numbers("reactors"),
            tcb: tcb(settings),
            handshake: settings.numbers("handshake"),
            reach: reach(settings),
            refusals: keys::of_word(keys::REFUSALS, settings.word("stomp.refusals")).unwrap_or_default(),
            client_header: keys::of_word(keys::CLIENT_HEADERS, settings.word("http.client_header")),
            origins: match &settings.get("http.origins").value {
                Some(Value::Origins(origins)) => origins.clone(),
                _ => Vec::new(),
            },
            trusted_proxies: match &settings.get("http.trusted_proxies").value {
                Some(Value::Networks(networks)) => networks.clone(),
                _ => Vec::new(),
            },
            websocket: settings.numbers("websocket"),
            keepalive: settings.numbers("keepalive"),
            stomp: settings.numbers("stomp"),
            rate: settings.numbers("rate"),
            outbound: settings.numbers("outbound"),
            buffers: settings.numbers("buffers"),
            rooms: settings.numbers("rooms"),
            flush_delay_destinations: match &settings.get("rooms.flush_delay_destinations").value {
                Some(Value::Patterns(patterns)) => patterns.clone(),
                _ => Vec::new(),
            },
            mesh: settings.numbers("mesh"),
            turn: settings.numbers("turn"),
            echo: settings.switch("echo.enabled").then(|| settings.numbers("echo")),
            api: api(settings),
            metrics: MetricsAccess::from_word(word("ops.metrics")).unwrap_or(MetricsAccess::Off),
            log: Log {
                level: LogLevel::from_word(word("log.level")).unwrap_or(LogLevel::Info),
                format: LogFormat::from_word(word("log.format")).unwrap_or(LogFormat::Text),
                ready_line: ReadyLine::from_word(word("log.ready_line")).unwrap_or(ReadyLine::AsLog),
                limits: settings.numbers("log"),
            },
            drain: Drain {
                goodbye: Goodbye::from_word(word("drain.goodbye")).unwrap_or(Goodbye::GoingAway),
                limits: settings.numbers("drain"),
            },
            memory: settings.numbers("memory"),
            shutdown: settings.numbers("shutdown"),
        }
    }
}

fn api(settings: &Settings) -> Option<Api> {
    let Some(Value::Addresses(addresses)) = &settings.get("api.listen").value else { return None };
    let tcp = |address: &Address| match address {
        Address::Tcp(address) => Some(*address),
        // `check` lets none pass.
        Address::Unix(_) => None,
    };
    Some(Api {
        addresses: addresses.iter().filter_map(tcp).collect(),
        token_file: settings.path("api.token_file")?.into(),
        bans_file: settings.path("api.bans_file").map(Into::into),
        limits: settings.numbers("api"),
    })
}

fn auth(settings: &Settings) -> Auth {
    let line = |path| settings.line(path).map(Into::into);
    Auth {
        // Unset is open: `check` lets that pass on loopback addresses only.
        modes: settings.words("auth.mode").map_or(vec![Mode::Open], |words| {
            words.iter().filter_map(|word| keys::of_word(keys::AUTH_MODES, Some(word))).collect()
        }),
        users_file: settings.path("auth.users_file").map(Into::into),
        keys_file: settings.path("auth.keys_file").map(Into::into),
        issuer: line("auth.issuer"),
        audience: line("auth.audience"),
        login_claim: line("auth.login_claim").unwrap_or_default(),
        roles_claim: line("auth.roles_claim").unwrap_or_default(),
        token_cookie: line("auth.token_cookie"),
        token_query: line("auth.token_query"),
        http_url: line("auth.http_url"),
        http_headers: settings
            .line("auth.http_headers")
            .unwrap_or_default()
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty())
            .map(Into::into)
            .collect(),
        is_token_expiry_required: settings.switch("auth.token_expiry_required"),
        limits: settings.numbers("auth"),
    }
}

/// From where clients may come: from anywhere once somebody has said who may connect as whom. What nobody has said is for
/// trying out, and a proxy on this machine would open it to everyone.
fn reach(settings: &Settings) -> Reach {
    match settings.get("auth.mode").origin {
        Origin::Default => Reach::ThisMachine,
        _ => Reach::Anywhere,
    }
}

fn tcb(settings: &Settings) -> Tcb {
    let limits: limits::Tcb = settings.numbers("tcb");
    let reuse = keys::of_word(keys::TIME_WAIT_REUSE, settings.word("tcb.time_wait_reuse"));
    let time_wait = time_wait::Config {
        delay_ms: limits.time_wait_delay_ms,
        records_max: limits.time_wait_max,
        reuse: reuse.unwrap_or_default(),
        counts_against_capacity: settings.switch("tcb.time_wait_counts"),
    };
    Tcb { limits, time_wait }
}

/// What is said under this key; none if nothing is.
fn addresses<'a>(settings: &'a Settings, key: &str) -> &'a [Address] {
    match &settings.get(key).value {
        Some(Value::Addresses(addresses)) => addresses,
        _ => &[],
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was said.
    pub origin: Origin,
    /// Key, value and what is permitted.
    pub text: String,
}

impl Problem {
    fn new(origin: Origin, text: String) -> Self {
        Self { origin, text }
    }

    /// A list in which one item cannot be, with the reason as the end of a sentence.
    fn item(origin: Origin, key: &Key, item: &str, reason: &str) -> Self {
        Self::new(origin, format!("{}: {item:?} {reason}", key.path()))
    }

    fn refused(origin: Origin, key: &Key, written: &str) -> Self {
        Self::new(origin, format!("{} = {written}: allowed are {}", key.path(), key.allowed()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// A configuration that cannot be used: every reason, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong; at least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// A file that cannot be used.
    pub fn of_file(path: &Path, error: &io::Error) -> ConfigError {
        let origin = Origin::File { file: path.to_string_lossy().into(), line: 0 };
        ConfigError { problems: vec![Problem::new(origin, error.to_string())] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_a_valid_configuration_of_the_defaults() {
        let (config, _) = load(&Sources::default()).unwrap();
        assert_eq!(config.listen.addresses, ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(config.auth.modes, [Mode::Open]);
        assert_eq!(config.auth.limits, limits::Auth::default());
        assert_eq!(config.stomp, limits::Stomp::default());
        assert_eq!(config.outbound, limits::Outbound::default());
        assert_eq!(config.tcb.limits, limits::Tcb::default());
        assert_eq!(config.tcb.time_wait, time_wait::Config::default());
        assert_eq!(config.echo, None);
        assert_eq!(config.metrics, MetricsAccess::Loopback);
    }

    #[test]
    fn a_mode_that_is_said_opens_the_server_to_those_behind_proxies() {
        assert_eq!(load(&Sources::default()).unwrap().0.reach, Reach::ThisMachine);
        let sources =
            Sources { environment: vec![("TCBCHAT_AUTH_MODE".into(), "open".into())], ..Sources::default() };
        assert_eq!(load(&sources).unwrap().0.reach, Reach::Anywhere);
    }

    #[test]
    fn an_error_is_one_line_for_each_problem() {
        let sources = Sources {
            environment: vec![
                ("TCBCHAT_LISTEN_ADDRESS".into(), "0.0.0.0:80".into()),
                ("TCBCHAT_STOMP_HEADERS_MAX".into(), "1".into()),
            ],
            ..Sources::default()
        };
        let error = load(&sources).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 2, "{error}");
    }
}
