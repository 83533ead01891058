//! `tcbchat health`: asks a running server whether it is well, for containers without curl.
//!
//! Invariant: exit code 0 means that the server itself has answered 200.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use tcbchat::config::Config;
use tcbchat::net::address::Address;

use crate::cli::{EXIT_NOT, Health};
use crate::output::{fail, print};

/// Bytes of an answer that are read; a probe's is a few hundred.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Asks, prints the answer's body, and gives the exit code.
pub fn ask(health: &Health, config: &Config) -> ExitCode {
    let path = if health.ready { "/readyz" } else { "/healthz" };
    let address = &config.listen.addresses[0];
    let timeout = Duration::from_secs(health.timeout.into());
    match request(address, path, timeout) {
        Ok(answer) => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            if answer.starts_with("HTTP/1.1 200 ") {
                return print(body);
            }
            let status = answer.lines().next().unwrap_or_default();
            fail(&format!("{address} {path}: {status}: {}", body.trim_end()), EXIT_NOT)
        }
        Err(error) => fail(&format!("{address} {path}: {error}"), EXIT_NOT),
    }
}

/// One request, and everything that comes back.
fn request(address: &Address, path: &str, timeout: Duration) -> io::Result<String> {
    match address {
        Address::Tcp(address) => {
            let mut stream = TcpStream::connect_timeout(&reachable(*address), timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(&mut stream, path)
        }
        Address::Unix(file) => {
            let mut stream = UnixStream::connect(file)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(&mut stream, path)
        }
    }
}

fn exchange(stream: &mut (impl Read + Write), path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Where a server on this machine is reached that listens on `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}
