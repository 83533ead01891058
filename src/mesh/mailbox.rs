//! The mailboxes: one per shard, and nothing else is shared between shards on the data path.
//!
//! A mailbox is a single queue for all senders, not one per sender: order between senders matters. When a publisher has its
//! RECEIPT, its message is in the mailboxes of all shards with members, so whatever anybody does because of that receipt comes
//! behind it.
//!
//! The length of a mailbox is bounded by credit, not by refusal: see [`super::port`].
//!
//! Invariant: whoever posts into an empty mailbox wakes its shard; so a shard that emptied its mailbox and
//! then sleeps misses nothing.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::mail::Mail;

type Wake = Box<dyn Fn() + Send + Sync>;

struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    bytes: AtomicU64,
    /// Somebody holds mail back until this mailbox has been emptied.
    is_awaited: AtomicBool,
    wake: Wake,
}

/// The mailboxes of all shards.
pub struct Mesh {
    mailboxes: Box<[Mailbox]>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("shards", &self.mailboxes.len()).finish()
    }
}

impl Mesh {
    /// One mailbox for each of `wakers`, which wake the shard of that number from any thread.
    pub fn new(wakers: Vec<Wake>) -> Mesh {
        let mailbox = |wake| Mailbox {
            mail: Mutex::new(Vec::new()),
            bytes: AtomicU64::new(0),
            is_awaited: AtomicBool::new(false),
            wake,
        };
        Mesh { mailboxes: wakers.into_iter().map(mailbox).collect() }
    }

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        self.mailboxes.len() as u16
    }

    /// Moves all of `mail` into the mailbox of shard `to`, in order.
    pub fn post(&self, to: u16, mail: &mut Vec<Mail>) {
        if mail.is_empty() {
            return;
        }
        let mailbox = &self.mailboxes[to as usize];
        let bytes = mail.iter().map(Mail::weight).sum();
        let was_empty = {
            let mut queue = mailbox.mail.lock();
            mailbox.bytes.fetch_add(bytes, Ordering::Relaxed);
            let was_empty = queue.is_empty();
            queue.append(mail);
            was_empty
        };
        if was_empty {
            (mailbox.wake)();
        }
    }

    /// Moves all mail of shard `of` to the end of `into`.
    pub fn take(&self, of: u16, into: &mut Vec<Mail>) {
        let mailbox = &self.mailboxes[of as usize];
        {
            let mut queue = mailbox.mail.lock();
            mailbox.bytes.store(0, Ordering::SeqCst);
            if into.is_empty() {
                // Both buffers stay in use, at the size that the traffic needs.
                std::mem::swap(&mut *queue, into);
            } else {
                into.append(&mut queue);
            }
        }
        if mailbox.is_awaited.swap(false, Ordering::SeqCst) {
            for (shard, mailbox) in self.mailboxes.iter().enumerate() {
                if shard != usize::from(of) {
                    (mailbox.wake)();
                }
            }
        }
    }

    /// Gives back what the mailbox of shard `of` has beyond room for `kept` pieces of mail.
    pub fn shrink_to(&self, of: u16, kept: usize) {
        self.mailboxes[of as usize].mail.lock().shrink_to(kept);
    }

    /// Whether the mailbox of shard `of` holds more than `bytes_max`. If so, all shards are woken when it
    /// has been emptied.
    pub fn is_full(&self, of: u16, bytes_max: u64) -> bool {
        let mailbox = &self.mailboxes[of as usize];
        if mailbox.bytes.load(Ordering::Relaxed) <= bytes_max {
            return false;
        }
        mailbox.is_awaited.store(true, Ordering::SeqCst);
        // It may have been emptied between the look and the note. Each side writes one of the two and then reads
        // the other: only in a sequentially consistent order does one of them see what the other wrote.
        mailbox.bytes.load(Ordering::SeqCst) > bytes_max
    }

    /// Bytes in the mailbox of shard `of`.
    pub fn bytes(&self, of: u16) -> u64 {
        self.mailboxes[of as usize].bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    fn join(key: &str) -> Mail {
        Mail::RoomFull { key: key.into(), shard: 0, is_full: true }
    }

    #[test]
    fn the_first_mail_wakes_and_the_order_is_kept() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let mesh = Mesh::new(vec![Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })]);
        mesh.post(0, &mut vec![join("a"), join("b")]);
        mesh.post(0, &mut vec![join("c")]);
        mesh.post(0, &mut Vec::new());
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        let mut mail = Vec::new();
        mesh.take(0, &mut mail);
        let keys: Vec<_> =
            mail.iter().map(|mail| if let Mail::RoomFull { key, .. } = mail { key } else { "" }).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        mesh.post(0, &mut vec![join("d")]);
        assert_eq!(woken.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn whoever_waits_for_a_full_mailbox_is_woken() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let quiet: Wake = Box::new(|| {});
        let counting: Wake = Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let mesh = Mesh::new(vec![quiet, counting]);
        mesh.post(0, &mut vec![join("a")]);
        assert!(!mesh.is_full(0, 1_000_000));
        mesh.take(0, &mut Vec::new());
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        mesh.post(0, &mut vec![join("a")]);
        assert!(mesh.is_full(0, 1));
        mesh.take(0, &mut Vec::new());
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert_eq!(mesh.bytes(0), 0);
    }
}
