//! `bench peer`: the same protocol subset served by axum, to measure others against.
//!
//! Two servers: *usual* is what its documentation leads to, a task for reading and one for writing per connection
//! and a broadcast channel for each room; *lean* is the least that one does with it, one task per connection and a
//! room's message encoded once. What clients send is not checked any more than by the floor.
//!
//! Invariant: all STOMP is made and read in [`stomp`]; the servers differ only in how they move it.

mod lean;
mod stomp;
mod usual;

use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::floor;

/// Options of `bench peer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which one
    #[arg(value_enum)]
    peer: Peer,
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// A peer server.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Peer {
    /// One task per connection, a shared encoded frame
    AxumLean,
    /// Two tasks per connection, a broadcast channel per room
    AxumUsual,
}

/// Serves until SIGTERM.
///
/// # Errors
/// The listener or the runtime cannot be made.
pub fn run(args: &Args) -> Result<(), String> {
    floor::raise_descriptor_limit();
    // One thread for each core that this process may use.
    let runtime = tokio::runtime::Runtime::new().map_err(|error| format!("runtime: {error}"))?;
    let served = runtime.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        let (name, router) = match args.peer {
            Peer::AxumLean => ("axum-lean", lean::router()),
            Peer::AxumUsual => ("axum-usual", usual::router()),
        };
        floor::announce(name, listener.local_addr()?)?;
        serve(listener, router).await
    });
    // Connections that are open end with the process.
    runtime.shutdown_background();
    served.map_err(|error| format!("peer: {error}"))
}

async fn serve(listener: TcpListener, router: Router) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    use axum::serve::ListenerExt as _;
    let listener = listener.tap_io(|stream| {
        // Without it a delivery may wait for the acknowledgement of the one before; nothing else would break.
        stream.set_nodelay(true).ok();
    });
    tokio::select! {
        served = axum::serve(listener, router) => served,
        _ = term.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_serve_a_client_that_is_not_ours() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for router in [lean::router(), usual::router()] {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let address = listener.local_addr().unwrap();
            let served = runtime.spawn(serve(listener, router));
            crate::visit::pay(address);
            served.abort();
        }
        runtime.shutdown_background();
    }
}
