//! What the service manager is told: ready, reloading, stopping, alive (sd_notify(3)).
//!
//! One datagram for each message, to the socket that the environment names. Without one nothing is sent.
//!
//! Invariant: a manager that cannot be reached is no failure of the server.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager.
#[derive(Debug, Default)]
pub struct Notify {
    address: Option<SocketAddr>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// The manager that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn from_environment() -> Notify {
        let address = env::var_os("NOTIFY_SOCKET").and_then(|name| address(name.as_bytes()).ok());
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_ours);
        Notify { address, watchdog: watchdog.map(Duration::from_micros) }
    }

    /// How often the manager wants to hear that the server is alive.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.address.is_some())
    }

    /// It serves.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// It reads its configuration anew; [`Notify::ready`] ends that.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// It is alive.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| {
            // A manager that does not read must not hold up the supervisor.
            socket.set_nonblocking(true)?;
            socket.send_to_addr(message.as_bytes(), address)
        });
        if let Err(error) = sent {
            tracing::debug!(%error, message, "the service manager was not told");
        }
    }
}

/// A path, or with `@` before it a name in the abstract namespace.
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_at_a_path_and_at_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("@tcbchat-notify-{}", std::process::id());
        for wanted in [path.as_os_str().as_bytes(), name.as_bytes()] {
            let address = address(wanted).unwrap();
            let manager = UnixDatagram::bind_addr(&address).unwrap();
            let notify = Notify { address: Some(address), watchdog: None };
            notify.ready();
            notify.stopping();
            let mut buffer = [0; 64];
            for expected in ["READY=1", "STOPPING=1"] {
                let length = manager.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], expected.as_bytes());
            }
        }
    }

    #[test]
    fn nobody_there_is_no_failure() {
        Notify::default().ready();
        Notify { address: address(b"/nonexistent/notify").ok(), watchdog: None }.alive();
        assert_eq!(Notify { address: None, watchdog: Some(Duration::from_secs(1)) }.watchdog(), None);
    }
}
