//! A descriptor table of a thread's own, and the rule for using it safely.
//!
//! # Why a reactor may have a table of its own
//! `RLIMIT_NOFILE` does not bound the descriptors of a process: it bounds the highest number in one
//! *descriptor table*. Threads share their process's table unless they say otherwise, and
//! `unshare(CLONE_FILES)` is how a thread says otherwise: it goes on with a copy of its own, to which the
//! limit applies anew. A server that has to hold more connections than the hard limit allows therefore
//! needs neither privileges nor processes: reactors with private tables hold `reactors x limit` together.
//!
//! # The rule that makes it safe
//! After the split, a descriptor number means nothing in another thread's table, or, worse, it means
//! another file. So:
//!
//! 1. **What all threads use is made before any thread splits**: standard streams, the pipe behind the
//!    signal handlers (a handler runs on whichever thread the kernel picks), each reactor's epoll instance,
//!    and the eventfd of each reactor's wake-up, which every other reactor writes to. The copy then refers to
//!    the same open file under the same number in every table, as long as nobody closes it.
//! 2. **What one thread uses is made by that thread, after its split**: listeners and connections. A
//!    listener made before it would live on in every copy, and the kernel would go on queueing connections
//!    for it after its owner had closed it.
//! 3. **A value that owns a descriptor is dropped on the thread that made it.** A reactor is therefore built,
//!    run and dropped inside its thread's function, and never returned from it.
//!
//! The copies a reactor gets and does not need (the epoll instances of the others: one descriptor each)
//! stay open: they are fewer than `reactors.fd_reserve`, and closing them would gain nothing, because an open
//! file lives as long as any table refers to it.
//!
//! This module plans nothing: what the limit is, and whether tables are shared or private, is read and decided
//! in the configuration.
//!
//! Invariant: [`unshare`] is only ever called by a thread that owns no descriptor yet.

use std::io;

use rustix::thread::UnshareFlags;

/// Gives the calling thread a descriptor table of its own: a copy of the one it shared until now.
///
/// See the [module](self) for what may be used across tables afterwards.
///
/// # Errors
/// What `unshare(2)` says: ENOMEM, or EPERM where a sandbox's system call filter forbids it.
pub fn unshare() -> io::Result<()> {
    // SAFETY: the danger is a descriptor made in one table and used in another. The rule in the module's
    // documentation excludes it: descriptors used by several threads exist before this call and are never
    // closed while those threads run, and all others are made, used and closed by this thread alone.
    #[allow(unsafe_code)]
    let done = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FILES) };
    done.map_err(io::Error::from)
}
