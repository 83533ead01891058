//! What a room takes whose members do not read: memory of the server beyond the room's log, and what becomes of the members.
//!
//! All members are guests. Once they have heard a first message, they do not read their sockets for a while in which the room
//! is published to. Then they read again until they have everything. Beside it, the same with members who read all the time.
//! The server has its default bounds on what a member may be owed.
//!
//! The log is counted by the server itself (`outbound_bytes`, which has a message to a room once). Memory is the growth of the
//! server's pages (PSS) since before the first message that is not read, looked at once a second.
//!
//! Invariant: every member has heard every message once and in order, by its body and by its number, or there is no result.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::beside::ROOM;
use super::{Args, SPARE};
use crate::guests::Guests;
use crate::guests::Heard;
use crate::load::{self, Serving};
use crate::process::{NoRun, Programs, on_core};
use crate::scrape;

/// Messages a second.
pub const RATE: u32 = 5;
/// Bytes of a message's body.
const BODY_BYTES: usize = 4096;
/// Those of its number, in decimal.
const NUMBER_BYTES: usize = 10;
/// The others.
const FILL: [u8; BODY_BYTES - NUMBER_BYTES] = [b'x'; BODY_BYTES - NUMBER_BYTES];
/// What the kernel keeps unsent for a member, beside what is in the member's own socket. With the default of 128 KiB it would
/// have more for ten thousand members than `net.ipv4.tcp_mem` allows for all sockets of this machine, and drop segments. With
/// less, the server has more to keep.
const SETTINGS: &[&str] = &["outbound.kernel_unsent_bytes_max=16384"];
/// Time in which members get ready, and the server's heap is trimmed: it takes two calm seconds.
const SETTLE: Duration = Duration::from_secs(4);
/// Time between two looks at the memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Members that catch up, as long as somebody hears something.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the members do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// They read all the time.
    Reading,
    /// They do not read, and then go on.
    Stalled,
}

impl Side {
    /// Both, as they alternate.
    pub const ALL: [Side; 2] = [Side::Reading, Side::Stalled];

    /// For a table.
    pub fn name(self) -> &'static str {
        match self {
            Side::Reading => "reading",
            Side::Stalled => "stalled",
        }
    }
}

/// What one round has shown. Memory is growth since before.
#[derive(Debug, Serialize)]
pub struct Round {
    /// What the members did.
    pub side: Side,
    /// Messages that every member has heard.
    pub messages: u32,
    /// The most that the room's log had while the members did not read.
    pub log_bytes: u64,
    /// The most that the server's pages took, the log not counted, in that time.
    pub beyond_log_bytes: u64,
    /// The same while they caught up.
    pub catching_up_bytes: u64,
    /// The most that the kernel's buffers of all sockets took.
    pub kernel_bytes: u64,
    /// From the first read of those who had stalled to the last message of the last of them.
    pub catch_up_s: Option<f64>,
}

/// One round of a side.
///
/// # Errors
/// A run that does not fit, or has failed in any way.
pub fn measure(programs: &Programs, args: &Args, side: Side) -> Result<Round, NoRun> {
    let capacity = args.stalled_members + 1 + SPARE;
    let serving = Serving { capacity, reactors: Some(1), settings: SETTINGS };
    let mut server = load::start(programs, args.cores, serving)?;
    let (address, pid) = (server.address()?, server.pid());
    let round = on_core(args.cores.client_core, || stall(address, pid, args, side))?;
    match server.ended() {
        Some(status) => Err(NoRun::Broken(format!("the server has ended: {status}"))),
        None => Ok(round),
    }
}

fn stall(address: SocketAddr, pid: u32, args: &Args, side: Side) -> Result<Round, String> {
    let members = args.stalled_members;
    let mut hall = Hall::open(address, members)?;
    hall.publish()?;
    hall.read_until_all_have_everything(&mut || Ok(()))?;
    hall.read_for(SETTLE)?;
    let mut memory = Memory::now(address, pid)?;
    if side == Side::Stalled {
        (0..members).try_for_each(|n| hall.guests.stop_reading(n))?;
    }
    let (start, every) = (Instant::now(), Duration::from_secs(1) / RATE);
    let messages = (f64::from(RATE) * args.stall).round() as u32;
    for message in 0..messages {
        hall.read_until(start + every * message, &mut || memory.look())?;
        hall.publish()?;
    }
    hall.read_until(start + every * messages, &mut || memory.look())?;
    let (log_bytes, beyond_log_bytes) = (memory.log_bytes, std::mem::take(&mut memory.beyond_log_bytes));
    let reads = Instant::now();
    if side == Side::Stalled {
        (0..members).try_for_each(|n| hall.guests.read_again(n))?;
    }
    hall.read_until_all_have_everything(&mut || memory.look())?;
    let catch_up_s = (side == Side::Stalled).then(|| reads.elapsed().as_secs_f64());
    Ok(Round {
        side,
        messages: hall.published,
        log_bytes,
        beyond_log_bytes,
        catching_up_bytes: memory.beyond_log_bytes,
        kernel_bytes: memory.kernel_bytes,
        catch_up_s,
    })
}

/// The room: its members, and a publisher behind them who is none.
struct Hall {
    guests: Guests,
    published: u32,
    heard: Account,
}

impl Hall {
    fn open(address: SocketAddr, members: u32) -> Result<Hall, String> {
        let mut guests = Guests::connect(address, members + 1)?;
        guests.join_all(0..members, ROOM)?;
        Ok(Hall { guests, published: 0, heard: Account::new(members) })
    }

    fn publish(&mut self) -> Result<(), String> {
        let body = body(self.published);
        let publisher = self.guests.count() - 1;
        self.guests.say(publisher, &format!("SEND\ndestination:{ROOM}\n\n{body}\0"))?;
        self.published += 1;
        Ok(())
    }

    /// Who reads reads until then; `look` is called now and again.
    fn read_until(
        &mut self,
        then: Instant,
        look: &mut impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left, look)?;
        }
    }

    fn read_for(&mut self, time: Duration) -> Result<(), String> {
        self.read_until(Instant::now() + time, &mut || Ok(()))
    }

    fn read_until_all_have_everything(
        &mut self,
        look: &mut impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        let mut last = (self.heard.deliveries, Instant::now());
        while self.heard.deliveries < self.heard.expected(self.published) {
            self.turn(LOOK_EVERY, look)?;
            if self.heard.deliveries > last.0 {
                last = (self.heard.deliveries, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                return Err(self.heard.missing(self.published));
            }
        }
        Ok(())
    }

    fn turn(
        &mut self,
        at_most: Duration,
        look: &mut impl FnMut() -> Result<(), String>,
    ) -> Result<(), String> {
        self.guests.turn(at_most.min(LOOK_EVERY), &mut |n, heard| self.heard.take(n, heard))?;
        look()
    }
}

/// What each member has heard.
#[derive(Debug)]
struct Account {
    /// By member: messages, which is the number of the next one.
    messages: Vec<u32>,
    deliveries: u64,
}

impl Account {
    fn new(members: u32) -> Account {
        Account { messages: vec![0; members as usize], deliveries: 0 }
    }

    fn take(&mut self, n: u32, heard: &Heard<'_>) -> Result<(), String> {
        let Heard::Message { body: said, .. } = heard else { return Ok(()) };
        let next =
            self.messages.get_mut(n as usize).ok_or("the publisher is no member, and has a message")?;
        if !is_body(said, *next) {
            let said = String::from_utf8_lossy(&said[..said.len().min(NUMBER_BYTES)]);
            return Err(format!("a message begins with {said:?} where {next} is next"));
        }
        *next += 1;
        self.deliveries += 1;
        Ok(())
    }

    fn expected(&self, published: u32) -> u64 {
        self.messages.len() as u64 * u64::from(published)
    }

    fn missing(&self, published: u32) -> String {
        let behind = self.messages.iter().filter(|messages| **messages < published).count();
        let missing = self.expected(published) - self.deliveries;
        format!("{behind} members wait for {missing} messages, and nothing has come for {PATIENCE:?}")
    }
}

/// What message `number` says.
fn body(number: u32) -> String {
    format!("{number:010}{}", "x".repeat(FILL.len()))
}

fn is_body(said: &[u8], number: u32) -> bool {
    said.split_first_chunk().is_some_and(|(first, fill)| {
        let first: &[u8; NUMBER_BYTES] = first;
        first == format!("{number:010}").as_bytes() && *fill == FILL
    })
}

/// The server's memory, as it grows.
#[derive(Debug)]
struct Memory {
    server: SocketAddr,
    pid: u32,
    looked: Instant,
    pss_before: u64,
    kernel_before: u64,
    /// See [`Round`].
    log_bytes: u64,
    beyond_log_bytes: u64,
    kernel_bytes: u64,
}

impl Memory {
    fn now(server: SocketAddr, pid: u32) -> Result<Memory, String> {
        Ok(Memory {
            server,
            pid,
            looked: Instant::now(),
            pss_before: scrape::pss_bytes(pid)?,
            kernel_before: scrape::tcp_buffer_bytes()?,
            log_bytes: 0,
            beyond_log_bytes: 0,
            kernel_bytes: 0,
        })
    }

    /// Looks, if it is time.
    fn look(&mut self) -> Result<(), String> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        let growth = scrape::pss_bytes(self.pid)?.saturating_sub(self.pss_before);
        let log = scrape::metric(self.server, "outbound_bytes")?;
        self.log_bytes = self.log_bytes.max(log);
        self.beyond_log_bytes = self.beyond_log_bytes.max(growth.saturating_sub(log));
        let kernel = scrape::tcp_buffer_bytes()?.saturating_sub(self.kernel_before);
        self.kernel_bytes = self.kernel_bytes.max(kernel);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_missing_or_comes_twice_is_seen() {
        let mut account = Account::new(2);
        let mut take = |n, number| {
            let body = body(number);
            account.take(n, &Heard::Message { sequence: 1, body: body.as_bytes() })
        };
        assert_eq!((take(0, 0), take(0, 1), take(1, 0)), (Ok(()), Ok(()), Ok(())));
        assert!(take(0, 1).unwrap_err().contains("where 2 is next"));
        assert!(take(1, 2).unwrap_err().contains("\"0000000002\" where 1 is next"));
        assert!(take(2, 0).is_err());
        assert_eq!((account.deliveries, account.expected(2)), (3, 4));
        assert!(account.missing(2).starts_with("1 members wait for 1 messages"));
    }

    #[test]
    fn a_body_that_was_damaged_is_no_message() {
        assert!(is_body(body(7).as_bytes(), 7));
        for damaged in [body(7).replacen('x', "y", 1), body(7)[1..].to_owned(), body(7) + "x"] {
            assert!(!is_body(damaged.as_bytes(), 7));
        }
    }
}
