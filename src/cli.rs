//! The command line: what can be typed, and how flags become values of the configuration.
//!
//! It decides nothing: `main` carries commands out, and [`tcbchat::config`] says what is permitted.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tcbchat::config::settings::{FILE_VARIABLE, Flag, Sources};
use tcbchat::walls::forecast::CONNECTIONS_MAX;

/// Exit code of a command line or configuration that is not right.
pub const EXIT_USAGE: u8 = 2;
/// Exit code of a doctor who has found a wall in the way, or cannot watch.
pub const EXIT_NOT: u8 = 1;

const AFTER_HELP: &str = "\
Every limit has a key in the configuration file, and an environment variable TCBCHAT_<SECTION>_<KEY>; --set sets \
any of them, and goes before the other flags. Flags go before environment variables, these before the file, the \
file before the profile, the profile before defaults. `tcbchat check` prints all keys with their values, meanings \
and ranges.

Exit codes: 0 ended as asked; 1 the server could not go on; 2 the command line or configuration is not right.";

/// A WebSocket + STOMP chat server that shows where every connection limit is.
#[derive(Debug, Parser)]
#[command(name = "tcbchat", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `serve` when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `serve`.
    #[command(flatten)]
    pub options: Options,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until SIGTERM or SIGINT.
    Serve(Options),
    /// Print the configuration and the plan as they would be in force, or what is wrong with them.
    Check(Options),
    /// Ask a running server whether it is well; exit code 1 if it is not.
    Health(Health),
    /// Add a login to a file of users, give it another password, or remove it.
    #[command(after_help = PASSWD_AFTER_HELP)]
    Passwd(Passwd),
    /// Print a signed token, to try a server out.
    #[command(after_help = TOKEN_AFTER_HELP)]
    Token(Token),
    /// Ask a running server's HTTP API: publish, look, disconnect, ban, drain.
    #[command(after_help = CTL_AFTER_HELP)]
    Ctl(Ctl),
    /// Print the manual page, for packages.
    #[command(hide = true)]
    Manual,
    /// Print what a shell completes, for packages.
    #[command(hide = true)]
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Say how many connections this machine holds, which limit is in the way, and what moves it.
    #[command(after_help = DOCTOR_AFTER_HELP)]
    Doctor(Doctor),
}

const DOCTOR_AFTER_HELP: &str = "\
Nothing is changed: commands are printed for a person to run, and only for walls that are in the way. The \
configuration is judged that `serve` would have with the same options: the maximum is where `serve` stops with it, \
and what another capacity could have is a second number. Run it where the server runs: counters \
and some limits belong to a network namespace, a control group or a user.

Examples:
  tcbchat doctor                              what holds this machine back, as it stands
  tcbchat doctor --connections 1000000        is there room for a million, or what is to do
  tcbchat doctor --watch 10                   which limit is being hit at this moment
  tcbchat doctor --json | jq .lowest          the same for a program (docs/DOCTOR.md)

Exit codes: 0 the connections fit; 1 a wall is below them, or (--watch) is being hit; 2 the command line or \
configuration is not right.";

const PASSWD_AFTER_HELP: &str = "\
The password is asked for twice on a terminal, without showing it; otherwise it is the one line of standard input. The \
file is made if it is not there, and replaced as a whole: readable by its owner only, who stays the same. Other lines and \
comments are kept. A running server reads it on SIGHUP.

Examples:
  tcbchat passwd users alice --role staff     asks for alice's password
  tcbchat passwd users bot < bot.secret       for scripts
  tcbchat passwd users alice --delete         alice may connect no more";

const TOKEN_AFTER_HELP: &str = "\
In earnest, tokens come from the application or its identity provider, with `sub`, `exp` and, if you have configured them, \
`roles`, `aud` and `iss`.

Examples:
  openssl genpkey -algorithm ed25519 -out key.pem
  openssl pkey -in key.pem -pubout -out key.pub.pem        this is the server's auth.keys_file
  tcbchat token --key key.pem --login alice --role staff   this is a passcode for the next hour";

const CTL_AFTER_HELP: &str = "\
The server has an API if api.listen and api.token_file are set (docs/API.md). Lists print one line for each entry, with tabs \
between the values; --json prints what the API answers.

Examples:
  tcbchat ctl --token-file token sessions --login alice
  tcbchat ctl --token-file token publish /topic/news 'Good morning'
  tcbchat ctl --token-file token ban --login mallory --seconds 3600 --reason spam
  tcbchat ctl --token-file token --json queues --all | jq '.queues[] | select(.messages > 100)'

Exit codes: 0 done; 1 the API has refused; 2 the command line or the token's file is not right; 3 the API cannot be reached, or \
does not answer in time.";

/// Options of `ctl`.
#[derive(Debug, Args)]
pub struct Ctl {
    /// Where the API is.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8090")]
    pub url: String,
    /// The file of the API's token, api.token_file of the server.
    #[arg(long, value_name = "FILE", env = "TCBCHAT_API_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Print the API's JSON.
    #[arg(long)]
    pub json: bool,
    /// Seconds to wait for an answer.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to ask of the API.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Publish one message.
    Publish {
        /// Where: /topic/..., /queue/... or /user/LOGIN/queue/...
        destination: String,
        /// The body; standard input if it is left out.
        body: Option<String>,
        /// A header of the message; may be given several times.
        #[arg(long, value_name = "NAME=VALUE", value_parser = parse_setting)]
        header: Vec<(String, String)>,
        /// Publish it once, however often this is said with the same key.
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// List and count sessions.
    Sessions {
        /// Those of this login.
        #[arg(long)]
        login: Option<String>,
        /// Those of this address, of IPv6 of its /64; or the one whose peer is IP:PORT.
        #[arg(long)]
        address: Option<String>,
        /// Those that are subscribed to this destination.
        #[arg(long)]
        destination: Option<String>,
        /// connected, connecting, ending, handshake, echo or any [default: connected].
        #[arg(long)]
        state: Option<String>,
        /// Which part.
        #[command(flatten)]
        listing: Listing,
    },
    /// Show all that is known of one session.
    Session {
        /// Its id, as in CONNECTED and in lists.
        id: String,
    },
    /// End sessions.
    #[command(group = clap::ArgGroup::new("whom").required(true).args(["login", "session", "address"]))]
    Disconnect {
        /// Those of this login.
        #[arg(long)]
        login: Option<String>,
        /// The one with this id.
        #[arg(long)]
        session: Option<String>,
        /// Those of this address.
        #[arg(long)]
        address: Option<String>,
        /// What they are told.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Ban a login or an address, and end its sessions.
    Ban {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// For how long [default: until it is ended].
        #[arg(long)]
        seconds: Option<u64>,
        /// What they are told.
        #[arg(long)]
        reason: Option<String>,
    },
    /// End a ban.
    Unban {
        /// Of whom.
        #[command(flatten)]
        whom: Whom,
    },
    /// List bans.
    Bans {
        /// Which part.
        #[command(flatten)]
        listing: Listing,
    },
    /// List and count rooms.
    Rooms {
        /// Those that begin so.
        #[arg(long)]
        prefix: Option<String>,
        /// Which part.
        #[command(flatten)]
        listing: Listing,
    },
    /// List and count queues.
    Queues {
        /// Those that begin so.
        #[arg(long)]
        prefix: Option<String>,
        /// Which part.
        #[command(flatten)]
        listing: Listing,
    },
    /// Have the server drain and end, as SIGTERM does.
    Drain,
    /// Have it read its configuration anew, as SIGHUP does.
    Reload,
}

/// A login or an address.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Whom {
    /// A login.
    #[arg(long)]
    pub login: Option<String>,
    /// An address, of IPv6 its /64.
    #[arg(long)]
    pub address: Option<String>,
}

/// Which part of a list.
#[derive(Debug, Args)]
pub struct Listing {
    /// Entries of a page [default: 100]; 0 counts them.
    #[arg(long)]
    pub limit: Option<u32>,
    /// Where the page before has ended.
    #[arg(long)]
    pub after: Option<String>,
    /// All pages.
    #[arg(long)]
    pub all: bool,
}

/// Options of `passwd`.
#[derive(Debug, Args)]
pub struct Passwd {
    /// The file, auth.users_file of the server.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The login.
    #[arg(value_name = "LOGIN")]
    pub login: String,
    /// A role of the login, in place of those that it has; may be given several times.
    #[arg(long, value_name = "ROLE", conflicts_with = "delete")]
    pub role: Vec<String>,
    /// Remove the login.
    #[arg(long)]
    pub delete: bool,
}

/// Options of `token`.
#[derive(Debug, Args)]
pub struct Token {
    /// The private key: PEM, a JWK or a JWKS, in which a shared secret is an "oct".
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The claim `sub`.
    #[arg(long, value_name = "LOGIN")]
    pub login: String,
    /// One of the claim `roles`; may be given several times.
    #[arg(long, value_name = "ROLE")]
    pub role: Vec<String>,
    /// How long it is good: a number with s, m, h or d. A negative one makes a token that has expired.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_seconds, allow_hyphen_values = true)]
    pub expires_in: i64,
    /// The claim `aud`.
    #[arg(long, value_name = "AUDIENCE")]
    pub audience: Option<String>,
    /// The claim `iss`.
    #[arg(long, value_name = "ISSUER")]
    pub issuer: Option<String>,
    /// Which key of a JWKS signs; of a key without a name, what the token calls it.
    #[arg(long, value_name = "KID")]
    pub kid: Option<String>,
}

/// Options of `health`.
#[derive(Debug, Args)]
pub struct Health {
    /// Ask /readyz, which is 503 from SIGTERM on, in place of /healthz.
    #[arg(long)]
    pub ready: bool,
    /// Seconds to wait for the connection, and for the answer.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub timeout: u32,
    /// The server's configuration, of which the first address is asked.
    #[command(flatten)]
    pub options: Options,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Connections to judge, on top of those that there are [default: the configuration's capacity].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CONNECTIONS_MAX)))]
    pub connections: Option<u32>,
    /// Print JSON, schema tcbchat.doctor/2.
    #[arg(long)]
    pub json: bool,
    /// Read the kernel's counters twice, SECONDS (5) apart, and name the walls that were hit in between.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5",
        value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub watch: Option<u32>,
    /// Measure what the control group is charged for a connection, with some hundred on loopback, instead of knowing it
    /// by the kernel's release.
    #[arg(long)]
    pub measure: bool,
    /// The server that runs already and is to hold the connections [default: the one that listens where the
    /// configuration says; of --connections and --watch, also the only one of this program].
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Read a copy of another machine's /proc and /sys below this directory, instead of this machine's.
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["watch", "pid", "measure"])]
    pub root: Option<PathBuf>,
    /// The configuration to judge.
    #[command(flatten)]
    pub options: Options,
}

/// What is configured by flags; everything else by file or environment.
#[derive(Debug, Default, Args)]
pub struct Options {
    /// Configuration file, TOML [env: TCBCHAT_CONFIG].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Limits of another system: linux, windows-xp, windows-2000, windows-2003, windows-2003-sp1, windows-2008 or
    /// tomcat-bio [default: linux].
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Address to listen on; may be given several times [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Vec<String>,
    /// Connections that the server takes at most [default: what the machine holds].
    #[arg(long, value_name = "N")]
    pub capacity: Option<String>,
    /// Reactor threads [default: one per core, more if the descriptor limit demands it].
    #[arg(long, value_name = "N")]
    pub reactors: Option<String>,
    /// Serve `/echo`, for conformance suites.
    #[arg(long)]
    pub echo: bool,
    /// Accept any login and passcode, also on addresses that are not loopback.
    #[arg(long)]
    pub open: bool,
    /// Least important messages to log: error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    pub log: Option<String>,
    /// How to write them: text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Any key of the configuration; may be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
}

fn parse_setting(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("SECTION.KEY=VALUE is needed")?;
    Ok((key.trim().into(), value.trim().into()))
}

/// Seconds of a text such as `90s`, `5m`, `-1h`.
fn parse_seconds(text: &str) -> Result<i64, &'static str> {
    const NEEDED: &str = "a number with s, m, h or d is needed, such as 90s";
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(NEEDED)?;
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(NEEDED),
    };
    let number: i64 = number.parse().map_err(|_| NEEDED)?;
    number.checked_mul(unit_s).ok_or("that is too long")
}

impl Options {
    /// The sources that these flags, and the environment of the process, make.
    pub fn sources(&self) -> Sources {
        let mut flags = Vec::new();
        let mut add = |flag, key: &str, value: Option<String>| {
            flags.extend(value.map(|value| Flag { flag, key: key.into(), value }));
        };
        let addresses = (!self.listen.is_empty()).then(|| self.listen.join(","));
        add("--profile", "profile.name", self.profile.clone());
        add("--listen", "listen.address", addresses);
        add("--capacity", "tcb.capacity", self.capacity.clone());
        add("--reactors", "reactors.count", self.reactors.clone());
        add("--echo", "echo.enabled", self.echo.then(|| "true".into()));
        add("--open", "auth.mode", self.open.then(|| "open".into()));
        add("--log", "log.level", self.log.clone());
        add("--log-format", "log.format", self.log_format.clone());
        // The last one wins.
        flags.extend(self.set.iter().map(|(key, value)| Flag {
            flag: "--set",
            key: key.clone(),
            value: value.clone(),
        }));
        let file = self.config.clone().or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
        Sources { file, environment: std::env::vars_os().collect(), flags }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("-1h", -3_600), ("2d", 172_800), ("0s", 0)] {
            assert_eq!(parse_seconds(text), Ok(seconds), "{text}");
        }
        for bad in ["", "s", "90", "1.5h", "5 m", "1w", "9223372036854775807d", "5\u{e9}"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_flag_sets_a_key_that_exists() {
        let all =
            ["tcbchat", "serve", "--listen", "127.0.0.1:1", "--capacity", "1", "--reactors", "1", "--echo"];
        let more = [
            "--open",
            "--log",
            "info",
            "--log-format",
            "text",
            "--set",
            "stomp.headers_max=8",
            "--profile",
            "linux",
        ];
        let cli = Cli::parse_from(all.into_iter().chain(more));
        let Some(Command::Serve(options)) = cli.command else { panic!("serve") };
        let flags = options.sources().flags;
        assert_eq!(flags.len(), 9);
        for flag in flags {
            let (section, name) = flag.key.split_once('.').expect("section.name");
            assert!(tcbchat::config::keys::find(section, name).is_some(), "{}", flag.key);
        }
    }
}
