//! Guests beside the simulator: both on the client's core, the simulator with the members of the room, the guests with what the
//! simulator's members do not do.
//!
//! Invariant: the guests have been read to the end of the simulator's run, so none of them was a slow consumer.

use std::thread;
use std::time::{Duration, Instant};

use crate::guests::Guests;
use crate::guests::Heard;
use crate::process::{Cores, NoRun, Programs, Run, Server, on_core, simulate};

/// Time between two looks at whether the simulator is done.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Rooms of the simulator, which has one.
const ROOM_PREFIX: &str = "large-room-";
/// What that one is called.
pub const ROOM: &str = "/topic/large-room-0";

/// What guests do.
pub trait Act {
    /// Does what is due; when the next thing will be.
    ///
    /// # Errors
    /// It cannot be done.
    fn act(&mut self, guests: &mut Guests) -> Result<Option<Instant>, String>;

    /// Takes note of what a guest hears.
    ///
    /// # Errors
    /// It must not be.
    fn hear(&mut self, n: u32, heard: &Heard<'_>) -> Result<(), String>;
}

/// The simulator chats with so many members of [`ROOM`]; the guests act until it is done.
///
/// # Errors
/// There is no result of the simulator, or something is wrong with the guests.
pub fn chat(
    programs: &Programs,
    cores: Cores,
    server: &Server,
    (members, options): (u32, &str),
    guests: &mut Guests,
    act: &mut impl Act,
) -> Result<Run, NoRun> {
    let arguments = arguments(members, options);
    on_core(cores.client_core, || {
        thread::scope(|scope| {
            let simulator = scope.spawn(|| simulate(programs, server, "chat", &arguments));
            while !simulator.is_finished() {
                let next = act.act(guests)?;
                let at_most = next.map_or(LOOK_EVERY, |next| next.saturating_duration_since(Instant::now()));
                guests.turn(at_most.min(LOOK_EVERY), &mut |n, heard| act.hear(n, heard))?;
            }
            simulator.join().map_err(|_| NoRun::Broken("the simulator's thread panicked".to_owned()))?
        })
    })
}

/// What the simulator is told: one room, no heart-beats, and patience with a server that is busy.
fn arguments(members: u32, options: &str) -> Vec<String> {
    let all = format!(
        "--connections={members} --room-size={members} --room-prefix={ROOM_PREFIX} --heart-beat 0,0 \
         --connect-rate 20000 --timeout 120 --no-goodbye {options}"
    );
    all.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_members_are_in_the_guests_room() {
        let arguments = arguments(4_999, "--rate 20 --duration 8");
        for wanted in ["--connections=4999", "--room-size=4999", "--rate", "20"] {
            assert!(arguments.iter().any(|argument| argument == wanted), "{arguments:?}");
        }
        let prefix = arguments.iter().find_map(|argument| argument.strip_prefix("--room-prefix="));
        assert_eq!(format!("/topic/{}0", prefix.unwrap()), ROOM);
    }
}
