//! What the program writes besides its log: results on standard output, the ready line, and last words on standard
//! error, in the format that was asked for.
//!
//! Nothing here may end or hold up the server: a sink that is full, closed or unread costs the text and no more.
//!
//! Invariant: with `log.format = "json"` every line that `serve` writes is a JSON object.

use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tcbchat::config::Config;
use tcbchat::config::keys::{LogFormat, ReadyLine};
use tcbchat::config::plan::Plan;
use tcbchat::net::address::Endpoint;
use tcbchat::ops::log::{Log, write_in_time};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// How long a pipe that nobody reads may hold up the end of the program, or its ready line.
const PATIENCE: Duration = Duration::from_secs(1);

/// How last words are written; text until the configuration has been read.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Sets the format of last words. The first call counts.
pub fn speak(format: LogFormat) {
    FORMAT.get_or_init(|| format);
}

/// Prints a result to standard output; a reader that has gone is no failure of ours.
pub fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

/// Says why the program ends, and gives the exit code.
pub fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    let line = match FORMAT.get() {
        Some(LogFormat::Json) => json_line("ERROR", &error.to_string(), Map::new()),
        _ => format!("tcbchat: {error}\n"),
    };
    // Nobody can be told that nobody can be told; the exit code says it.
    drop(write_in_time(io::stderr(), line.as_bytes(), PATIENCE));
    ExitCode::from(code)
}

/// A line as the log's JSON format writes it.
fn json_line(level: &str, message: &str, more: Map<String, Value>) -> String {
    let mut time = String::new();
    if SystemTime.format_time(&mut Writer::new(&mut time)).is_err() {
        // A time without its text is none.
        time.clear();
    }
    let mut fields = Map::from_iter([("message".to_owned(), Value::from(message))]);
    fields.extend(more);
    let line = json!({ "timestamp": time, "level": level, "fields": fields, "target": "tcbchat" });
    format!("{line}\n")
}

/// What the log is changed by while it is written.
#[derive(Debug, Clone)]
pub struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// Logs from this level on.
    pub fn set(&self, level: tcbchat::config::keys::LogLevel) {
        // Fails only when the subscriber is gone, which lives as long as the process.
        drop(self.0.reload(filter(level)));
    }
}

fn filter(level: tcbchat::config::keys::LogLevel) -> LevelFilter {
    level.word().parse().unwrap_or(LevelFilter::INFO)
}

/// Begins the log on standard error, through a thread of its own.
///
/// # Errors
/// The thread cannot be started.
pub fn begin_log(config: &tcbchat::config::Log) -> io::Result<(Log, Level)> {
    let log = Log::start(io::stderr(), config.limits.queue_bytes_max as usize)?;
    let (filter, handle) = reload::Layer::new(filter(config.level));
    let writer = log.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(config.format == LogFormat::Text && io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(move || writer.clone());
    let registry = tracing_subscriber::registry().with(filter);
    match config.format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json()).init(),
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok((log, Level(handle)))
}

/// A panic in the format of the log. The default hook writes to standard error by itself, and waits for it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let said = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::capture();
    match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => tracing::error!(place, %backtrace, "panicked: {said}"),
        _ => tracing::error!(place, "panicked: {said}"),
    }
}

/// Waits for the log's last lines to be written, for a bounded time.
pub fn end_log(log: &Log) {
    // What is not written then never will be: the reader is not there.
    log.flush(PATIENCE);
}

/// One line for whoever waits for the server to be ready.
pub fn announce(config: &Config, endpoints: &[Endpoint], plan: &Plan) {
    let urls: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let is_json = match config.log.ready_line {
        ReadyLine::Off => return,
        ReadyLine::Text => false,
        ReadyLine::AsLog => config.log.format == LogFormat::Json,
    };
    let line = if is_json {
        let more =
            [("addresses".to_owned(), Value::from(urls)), ("plan".to_owned(), Value::from(plan.to_string()))];
        json_line("INFO", "ready", Map::from_iter(more))
    } else {
        format!("tcbchat ready: listening on {} ({plan})\n", urls.join(" "))
    };
    if let Err(error) = write_in_time(io::stdout(), line.as_bytes(), PATIENCE) {
        tracing::debug!(%error, "nobody takes the ready line");
    }
}
