//! The command line.
//!
//! Only names, defaults and help: what an option does is said where it is used.
//!
//! Invariant: every default makes a run that ends by itself.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgGroup, Args, Parser, Subcommand};

use crate::worker::orders::Leave;

const EXIT_CODES: &str = "Exit codes:
  0    everything asked for was reached
  1    a threshold was missed, or a message lost, duplicated, out of order or damaged
  2    the plan does not fit this machine, or the command line is wrong; nothing was tried
  3    the run could not be made: the server did not start, or the simulator itself failed
  4    `wall`: nothing failed, but a stage needs a privilege or a program that is not here, and was skipped
  130  interrupted";

/// Simulates thousands of STOMP clients over WebSocket, and checks every message they get.
#[derive(Debug, Parser)]
#[command(name = "client-sim", version, after_help = EXIT_CODES, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub scenario: Scenario,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Connect, subscribe each client to a room, hold, measure the memory per connection, leave
    Hold(HoldArgs),
    /// The same, and then messages over random rooms; every subscriber checks what it gets
    Chat(ChatArgs),
    /// Connect, subscribe and leave over and over, with a bounded population
    Churn(ChurnArgs),
    /// All clients connect at once
    Herd(HoldArgs),
    /// A chat in which some subscribers stop reading
    Slow(SlowArgs),
    /// Drive real sockets into a limit, show what happens, move the one knob, and pass
    Wall(WallArgs),
}

/// Options of every scenario.
#[derive(Debug, Args)]
pub struct Common {
    /// Where the clients connect to
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws", conflicts_with = "spawn_server")]
    pub url: String,
    /// `host` of every CONNECT, for brokers with virtual hosts; default: the URL's
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Start the server for this run and stop it afterwards; PATH defaults to `tcbchat` beside this program
    /// (built first when run by cargo)
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    pub spawn_server: Option<Option<PathBuf>>,
    /// Another argument for the started server (may be repeated)
    #[arg(long, value_name = "ARG", requires = "spawn_server", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// Process of a server on this machine that was not started by this run, to measure its memory
    #[arg(long, value_name = "PID", conflicts_with = "spawn_server")]
    pub server_pid: Option<u32>,

    /// Members of a room
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub room_size: u32,
    /// Rooms are /topic/PREFIX0, /topic/PREFIX1, ...; default: a prefix of this run alone
    #[arg(long, value_name = "PREFIX")]
    pub room_prefix: Option<String>,
    /// Connects per second, at most
    #[arg(long, value_name = "PER_S", default_value_t = 5000.0, value_parser = per_second)]
    pub connect_rate: f64,
    /// Connections that are not subscribed yet, at most; fewer while the machine is slow to answer
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_half_open: u32,
    /// Seconds that a client may take to get ready, and to leave
    #[arg(long, value_name = "S", default_value_t = 30.0, value_parser = seconds)]
    pub timeout: f64,
    /// Heart-beats offered in CONNECT: milliseconds out,in; 0 for none
    #[arg(long, value_name = "OUT,IN", default_value = "30000,30000", value_parser = parse_pair)]
    pub heart_beat: (u32, u32),
    /// Login of every client
    #[arg(long, requires = "passcode")]
    pub login: Option<String>,
    /// Passcode of every client
    #[arg(long, requires = "login")]
    pub passcode: Option<String>,
    /// Passcodes without a login, which are tokens: one a line, of which client N has the Nth; behind the last comes the first
    #[arg(long, value_name = "FILE", conflicts_with = "login")]
    pub tokens: Option<PathBuf>,

    /// Threads; more are used when one descriptor table does not suffice
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Loopback source addresses (127.1.x.y); default: as many as the ports demand
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub source_addresses: Option<u32>,
    /// Run even if the plan does not fit this machine, to see the wall
    #[arg(long)]
    pub force: bool,
    /// Seed of the random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Failed clients that are accepted
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub max_failures: u64,
    /// Accepted 99th percentile in milliseconds, of deliveries, or of the set-up where nothing is delivered
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub max_p99: Option<f64>,

    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the result as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long)]
    pub quiet: bool,
}

/// Options of `hold` and `herd`.
#[derive(Debug, Args)]
pub struct HoldArgs {
    #[command(flatten)]
    /// Options of every scenario.
    pub common: Common,
    #[command(flatten)]
    /// Options of the connections.
    pub held: Held,
    /// Seconds for which the connections are held
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub hold: f64,
}

/// Options of scenarios that connect all clients first.
#[derive(Debug, Args)]
pub struct Held {
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Close the sockets at the end without DISCONNECT and close handshake
    #[arg(long)]
    pub no_goodbye: bool,
    /// At the end stop the started server while all are connected, and see how everybody is let go
    #[arg(long, requires = "spawn_server", conflicts_with = "no_goodbye")]
    pub stop_server: bool,
}

/// Options of messages.
#[derive(Debug, Args)]
pub struct Messages {
    /// Messages per second over all rooms
    #[arg(long, value_name = "PER_S", default_value_t = 100.0, value_parser = per_second)]
    pub rate: f64,
    /// Closed loop instead of a rate: so many messages of each room are in flight, each until every member of the
    /// room has it
    #[arg(long, value_name = "N", conflicts_with = "rate", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub window: Option<u32>,
    /// Closed loop: at most so many messages are in flight in all rooms together; the rooms take turns
    #[arg(long, value_name = "N", requires = "window", value_parser = clap::value_parser!(u32).range(1..))]
    pub in_flight: Option<u32>,
    /// Seconds of sending
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub duration: f64,
    /// Bytes of a message's body (44 at least: the message's identity)
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    pub payload: usize,
    /// Ask for a receipt of each message
    #[arg(long)]
    pub receipts: bool,
    /// Poll without ever sleeping while messages are sent, which takes a core for each thread: a server on this machine
    /// then never pays for waking this program up
    #[arg(long)]
    pub busy_poll: bool,
    /// Seconds for which the end waits, without any progress, for messages still under way
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub drain: f64,
}

/// Options of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    #[command(flatten)]
    /// Options of every scenario.
    pub common: Common,
    #[command(flatten)]
    /// Options of the connections.
    pub held: Held,
    #[command(flatten)]
    /// Options of the messages.
    pub messages: Messages,
    /// Seconds for which the connections are held before the first message
    #[arg(long, value_name = "S", default_value_t = 3.0, value_parser = seconds)]
    pub hold: f64,
    /// Seconds for which they are idle after the last message, and the server after the last client, before the
    /// memory is measured once more
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = seconds)]
    pub settle: f64,
    /// Chat in a network namespace of its own whose sockets buffer at most so many bytes each way, so that a
    /// server has to hold back what its receivers have not read
    #[arg(long, value_name = "BYTES", requires = "spawn_server", value_parser = clap::value_parser!(u32).range(4096..=1 << 20))]
    pub socket_buffer: Option<u32>,
}

/// Options of `slow`.
#[derive(Debug, Args)]
pub struct SlowArgs {
    #[command(flatten)]
    /// Options of the chat.
    pub chat: ChatArgs,
    /// One in N clients stops reading when the chat begins
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub deaf_every: u32,
}

/// Options of `churn`.
#[derive(Debug, Args)]
pub struct ChurnArgs {
    #[command(flatten)]
    /// Options of every scenario.
    pub common: Common,
    /// Cycles per second
    #[arg(long, value_name = "PER_S", default_value_t = 500.0, value_parser = per_second)]
    pub rate: f64,
    /// Seconds in which cycles start
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    pub duration: f64,
    /// Connections open at once, at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    pub population: u32,
    /// Milliseconds that a client stays in its room
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub stay: u64,
    /// Each client sends one message to its room and waits for it
    #[arg(long)]
    pub message: bool,
    /// How a client leaves
    #[arg(long, value_enum, default_value_t = Leave::Goodbye)]
    pub leave: Leave,
}

/// Options of `wall`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["name", "all", "list", "bio_server"])))]
pub struct WallArgs {
    /// Which wall; `--list` has the names
    #[arg(value_parser = PossibleValuesParser::new(crate::wall::ids()))]
    pub name: Option<String>,
    /// Every wall, and a table of what came of them
    #[arg(long)]
    pub all: bool,
    /// The names of the walls, what Windows, Linux and tcbchat call them, and what each stage needs
    #[arg(long)]
    pub list: bool,
    /// The server to run into the walls; default: `tcbchat` beside this program (built first when run by cargo)
    #[arg(long, value_name = "PATH")]
    pub server: Option<PathBuf>,
    /// Write what was seen as JSON
    #[arg(long, value_name = "FILE", conflicts_with = "list")]
    pub json: Option<PathBuf>,
    /// Play the wall in this very process and print the outcome as JSON: what `wall` starts for each stage
    #[arg(long, hide = true, requires = "name")]
    pub stage: bool,
    /// Be the thread-per-connection server of the walls `bio` and `app-limits`, with so many threads
    #[arg(long, hide = true, value_name = "THREADS")]
    pub bio_server: Option<u32>,
}

/// Every run ends by itself: in a week at most.
fn seconds(text: &str) -> Result<f64, String> {
    number(text, 0.0, 604_800.0)
}

fn per_second(text: &str) -> Result<f64, String> {
    number(text, 0.001, 10_000_000.0)
}

fn milliseconds(text: &str) -> Result<f64, String> {
    number(text, 0.0, 604_800_000.0)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    // Not a number is within no bounds, too.
    if (least..=most).contains(&number) { Ok(number) } else { Err(format!("not within {least} to {most}")) }
}

fn parse_pair(text: &str) -> Result<(u32, u32), String> {
    let (out, r#in) = text.split_once(',').ok_or("two numbers with a comma between them")?;
    let number = |text: &str| text.trim().parse().map_err(|error| format!("{text}: {error}"));
    Ok((number(out)?, number(r#in)?))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_that_would_never_end_or_never_be_met_are_refused() {
        let refused = |option: &str| {
            let parsed = Cli::try_parse_from(["client-sim", "chat", option]);
            parsed.err().map(|error| error.to_string()).unwrap_or_default()
        };
        for option in ["--hold=inf", "--duration=NaN", "--timeout=-1", "--drain=604801"] {
            assert!(refused(option).contains("not within 0 to 604800"), "{option}");
        }
        assert!(refused("--rate=0").contains("not within 0.001 to 10000000"));
        assert!(refused("--max-p99=nan").contains("not within 0 to 604800000"));
        assert!(refused("--connect-rate=fast").contains("not a number"));
        assert_eq!(refused("--max-p99=0.5"), "");
    }

    #[test]
    fn spawn_server_takes_a_path_or_none() {
        let spawn = |args: &[&str]| match Cli::try_parse_from(args).unwrap().scenario {
            Scenario::Hold(hold) => hold.common.spawn_server,
            other => panic!("{other:?}"),
        };
        assert_eq!(spawn(&["client-sim", "hold"]), None);
        assert_eq!(spawn(&["client-sim", "hold", "--connections", "50000", "--spawn-server"]), Some(None));
        assert_eq!(spawn(&["client-sim", "hold", "--spawn-server", "x"]), Some(Some("x".into())));
    }
}
