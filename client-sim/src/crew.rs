//! The workers as the main thread sees them: started, given orders, waited for, sent home.
//!
//! Each worker's poll and waker are made here, before the worker gets a descriptor table of its own, so that
//! the waker's descriptor is valid in both tables.
//!
//! Invariant: after [`Crew::dismiss`] no thread and no socket of a worker is left.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::{Poll, Waker};

use crate::progress::{Interrupted, Watch};
use crate::worker::desk::{Counters, Counts, Tallies};
use crate::worker::orders::{Notice, Order};
use crate::worker::setup::Setup;
use crate::worker::{WAKER, Worker};

/// Time between two looks at the workers' counters.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// All workers of a run.
pub struct Crew {
    hands: Vec<Hand>,
    notices: Receiver<Notice>,
}

struct Hand {
    orders: Sender<Order>,
    waker: Waker,
    counters: Arc<Counters>,
    thread: JoinHandle<io::Result<Tallies>>,
}

/// Why waiting for the workers ended early.
#[derive(Debug)]
pub enum Broken {
    /// The user wants to stop.
    Interrupted,
    /// A worker ended by itself.
    WorkerGone,
}

impl From<Interrupted> for Broken {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl Crew {
    /// Starts the workers of a plan.
    ///
    /// # Errors
    /// No descriptor or no thread left.
    pub fn muster(setup: &Arc<Setup>) -> io::Result<Self> {
        let (notify, notices) = mpsc::channel();
        let hands = (0..setup.plan.threads)
            .map(|index| Hand::start(index, Arc::clone(setup), notify.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { hands, notices })
    }

    /// Gives all workers the same order.
    pub fn order(&self, order: &Order) {
        for hand in &self.hands {
            // A worker that is gone is found by whoever waits for it.
            drop(hand.orders.send(order.clone()));
            drop(hand.waker.wake());
        }
    }

    /// The live numbers of all workers.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for hand in &self.hands {
            counts.add(&hand.counters);
        }
        counts
    }

    /// Waits until every worker has said something, and returns what.
    ///
    /// # Errors
    /// The user interrupts, or a worker ends by itself.
    pub fn wait_all(&self, watch: &mut Watch) -> Result<Vec<Notice>, Broken> {
        let mut heard = Vec::new();
        while heard.len() < self.hands.len() {
            match self.notices.recv_timeout(LOOK_EVERY) {
                Ok(notice) => heard.push(notice),
                Err(RecvTimeoutError::Disconnected) => return Err(Broken::WorkerGone),
                Err(RecvTimeoutError::Timeout) => {
                    if self.hands.iter().any(|hand| hand.thread.is_finished()) {
                        return Err(Broken::WorkerGone);
                    }
                }
            }
            watch.look(&self.counts())?;
        }
        Ok(heard)
    }

    /// Waits until `done` says so, at most for `at_most`; true when it did.
    ///
    /// # Errors
    /// The user interrupts.
    pub fn wait_until(
        &self,
        watch: &mut Watch,
        at_most: Duration,
        mut done: impl FnMut(&Counts) -> bool,
    ) -> Result<bool, Broken> {
        let start = std::time::Instant::now();
        loop {
            let counts = self.counts();
            watch.look(&counts)?;
            if done(&counts) {
                return Ok(true);
            }
            let left = at_most.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            thread::sleep(left.min(LOOK_EVERY));
        }
    }

    /// Ends all workers, whatever they are doing, and returns what they counted.
    ///
    /// # Errors
    /// A worker's event loop failed.
    pub fn dismiss(self) -> io::Result<Vec<Tallies>> {
        self.order(&Order::Exit);
        self.hands
            .into_iter()
            .map(|hand| match hand.thread.join() {
                Ok(tallies) => tallies,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    }
}

impl Hand {
    fn start(index: u32, setup: Arc<Setup>, notices: Sender<Notice>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let counters = Arc::new(Counters::default());
        let (orders, inbox) = mpsc::channel();
        let theirs = Arc::clone(&counters);
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if setup.plan.private_fd_tables {
                own_descriptor_table()?;
            }
            Worker::new(index, setup, poll, theirs, inbox, notices)?.run()
        })?;
        Ok(Self { orders, waker, counters, thread })
    }
}

/// Gives the calling thread a descriptor table of its own: RLIMIT_NOFILE bounds a table, not a process.
fn own_descriptor_table() -> io::Result<()> {
    // SAFETY: the descriptors that exist now are valid in the copy, too (the poll and its waker among them).
    // Every descriptor made later by this thread is owned by its worker, which never leaves it; the tallies
    // that it returns hold none.
    #[allow(unsafe_code)]
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES)?;
    }
    Ok(())
}
