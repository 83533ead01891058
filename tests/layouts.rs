//! What a connection consists of in memory, compared with the tables in `docs/ARCHITECTURE.md`, "Layouts and cache lines".
//!
//! The tables between `<!-- begin: NAME -->` and `<!-- end: NAME -->` are printed by the code. After a change of a
//! structure, `UPDATE_DOCS=1 cargo test --test layouts` writes them anew. That no structure grows, and that a delivery
//! finds what it needs in one line, is asserted at compile time, where each structure is.

#[path = "support/generated.rs"]
mod generated;

use std::fmt::Write as _;
use std::mem::offset_of;

use tcbchat::conn::output::{DEBT_BYTES, Output};
use tcbchat::conn::{Connection, HOT_OFFSET};
use tcbchat::members::{Member, Room};
use tcbchat::net::socket::BYTES_PER_SOCKET;
use tcbchat::session::{Session, Subscription};
use tcbchat::tcb::TCB_BYTES;
use tcbchat::time::BYTES_PER_KEY;

const LINE: usize = 64;

fn compare(name: &str, expected: &str) {
    generated::compare("layouts", "ARCHITECTURE.md", name, &format!("\n{}\n\n", expected.trim()));
}

/// The fields of a connection with offset and size, in the order of memory.
fn fields() -> Vec<(usize, usize, &'static str)> {
    fn size<T>(_: fn(&Connection) -> &T) -> usize {
        size_of::<T>()
    }
    macro_rules! fields {
        ($($field:ident)*) => {
            vec![$((offset_of!(Connection, $field), size(|it| &it.$field), stringify!($field))),*]
        };
    }
    let mut fields = fields!(
        tcb output inbound generation pinged heard sent phase framing is_writable is_dirty has_one_source holds
        has_ended ended_first
    );
    fields.sort_unstable();
    fields
}

#[test]
fn the_tables_say_what_the_structures_are() {
    let rows = [
        ("`tcb::Tcb`", TCB_BYTES, "connection", "", "accept, close, a change of state"),
        ("`Connection`", size_of::<Connection>(), "connection", "its last 16 bytes", "the rest: below"),
        (
            "`Session`",
            size_of::<Session>(),
            "connection",
            "",
            "frames from the client; idle check: heart-beat intervals",
        ),
        ("— `Subscription`", size_of::<Subscription>(), "subscription", "", "joining and leaving"),
        ("`Output`, in `Connection`", size_of::<Output>(), "", "", "bytes that wait"),
        ("`Debt`", DEBT_BYTES, "room of which a member is behind", "", "what is owed"),
        (
            "`Wheel`'s link",
            BYTES_PER_KEY,
            "connection",
            "",
            "idle check, and those of two neighbours in its list",
        ),
        (
            "`Sockets`: descriptor, readiness",
            BYTES_PER_SOCKET,
            "connection",
            "the descriptor",
            "readiness: events, reads, a write that was not taken whole",
        ),
        (
            "`Member`",
            size_of::<Member>(),
            "subscription to a room",
            "all of it, in order: eight are a line",
            "",
        ),
        ("`Room`", size_of::<Room>(), "room and shard with members", "once for all its members", ""),
    ];
    let mut table =
        String::from("| structure | bytes | one per | a delivery touches | only others touch |\n");
    table += "|---|---:|---|---|---|\n";
    for (name, bytes, per, delivery, others) in rows {
        writeln!(table, "| {name} | {bytes} | {per} | {delivery} | {others} |").unwrap();
    }
    compare("structures", &table);

    let mut table = String::from("| bytes of `Connection` | field | a delivery |\n|---|---|---|\n");
    for (offset, size, name) in fields() {
        let delivery = match name {
            "sent" => "writes",
            "is_writable" | "is_dirty" | "has_one_source" => "reads",
            _ if offset >= HOT_OFFSET => "in its line",
            _ => "",
        };
        writeln!(table, "| {offset} to {} | `{name}` | {delivery} |", offset + size - 1).unwrap();
    }
    compare("connection", &table);
}

#[test]
fn the_fields_fill_the_connection_and_no_line_cuts_what_a_delivery_touches() {
    let fields = fields();
    let mut end = 0;
    for (offset, size, name) in &fields {
        assert_eq!(*offset, end, "a hole before {name}");
        end = offset + size;
    }
    assert_eq!(end.next_multiple_of(4), size_of::<Connection>());
    // Wherever the array begins.
    for begin in (0..LINE).step_by(16) {
        for place in 0..LINE {
            let first = begin + place * size_of::<Connection>() + HOT_OFFSET;
            let last = first + size_of::<Connection>() - HOT_OFFSET - 1;
            assert_eq!(first / LINE, last / LINE, "place {place} of an array at {begin}");
        }
    }
}
