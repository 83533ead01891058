//! Memory: what N connections take, and the walls that are made of bytes.
//!
//! It owns what a server and each connection take in bytes. There are three accounts, because limits count different
//! things: of the machine, what the server and the kernel hold; of a control group, what it is charged; of the process,
//! what is promised to it (`Data`).
//!
//! Invariant: in each account, more connections never take fewer bytes.

use crate::config::plan::memory::{
    Bytes, GROUP_BYTES_OF_PROCESS, GROUP_BYTES_OF_REACTOR, USER_BYTES_EACH, USER_BYTES_IDLE,
};
use crate::config::procfs::{Controller, GroupLimit, Version};
use crate::net::group_memory::full_at;
use crate::walls::probe::ProcessLimits;

use super::count::lowest;
use super::fix::roomy;
use super::{Context, Fix, Grouped, Kind, Verdict, Wall};

/// What N connections cost in memory while they are idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryForecast {
    /// Bytes of the server for each connection.
    pub user_bytes_each: u64,
    /// Bytes of the kernel for each connection, at this end of it.
    pub kernel_bytes_each: u64,
    /// Whether the kernel's bytes are this kernel's own object sizes, or the usual ones.
    pub is_kernel_read: bool,
    /// Bytes that a limited control group is charged for each connection; `None` if no group is limited.
    pub group_bytes_each: Option<u64>,
    /// Whether the kernel's part of those was measured, or is what kernels of this release charge.
    pub is_group_measured: bool,
    /// Bytes of the server for all, with what does not depend on their number.
    pub user_bytes: u64,
    /// Bytes of the kernel for all.
    pub kernel_bytes: u64,
    /// Bytes when every bound on what is under way is reached at once.
    pub bytes_max: u64,
}

/// [`Data`] of a process. This, that of a reactor and that of a place were measured with 2, 4 and 16 reactors, to which
/// they add up within 10 KB.
const DATA_OF_PROCESS: u64 = 2_900 * 1024;
/// The same of a reactor; a thread's stack is most of it.
const DATA_OF_REACTOR: u64 = 2_240 * 1024;
/// The same for each place of the table.
const DATA_OF_PLACE: u64 = 44;
/// [`Data`] for each connection that a reactor's arrays have room for. Between 100 and 200 bytes, by where servers with a
/// limit ended.
const DATA_OF_CONNECTION: u64 = 170;
/// What the program that [`GROUP_BYTES_OF_PROCESS`] was measured with takes for itself as a doctor.
const PROGRAM_BYTES: u64 = 580 * 1024;
/// What RLIMIT_AS counts beyond RLIMIT_DATA and the program's code: what is mapped for a moment, and the kernel's own pages.
const ADDRESS_SPACE_BESIDE: u64 = 160_000;

/// Private writable memory of a server (`VmData`), as RLIMIT_DATA counts it.
///
/// The arrays of a reactor double, so that more is promised than used.
#[derive(Debug, Clone, Copy)]
struct Data {
    reactors: u64,
    /// Places of the table.
    places: u64,
}

impl Data {
    /// With so many connections.
    fn bytes(self, connections: u64) -> u64 {
        let arrays = connections.div_ceil(self.reactors.max(1)).next_power_of_two();
        DATA_OF_PROCESS
            + self.reactors * DATA_OF_REACTOR
            + self.places * DATA_OF_PLACE
            + self.reactors * arrays * DATA_OF_CONNECTION
    }

    /// Connections at which an array doubles to more than so many bytes.
    fn stops_at(self, bytes: u64) -> u64 {
        let reactors = self.reactors.max(1);
        let fits = |each: &u64| self.bytes(reactors * each) <= bytes;
        let each = (0..24).rev().map(|step| 1_u64 << step).find(fits).unwrap_or(0);
        // The first reactor that is full is a little before the others: the kernel spreads by a hash.
        reactors * each.saturating_sub(each.isqrt())
    }
}

impl Context<'_> {
    /// Bytes of the server that do not depend on the number of connections, while they are idle.
    fn user_bytes_fixed(&self) -> u64 {
        let each = u64::from(self.config.turn.read_bytes_max) + self.config.buffers.reactor_bytes_kept_max;
        u64::from(self.reactors).saturating_mul(each)
    }

    /// What N connections cost.
    pub(super) fn memory(&self) -> MemoryForecast {
        let (kernel_bytes_each, is_kernel_read) = self.snapshot.kernel_bytes_each();
        let kernel_bytes = self.connections.saturating_mul(kernel_bytes_each);
        let user_bytes = self.connections * USER_BYTES_EACH + self.user_bytes_fixed();
        MemoryForecast {
            user_bytes_each: USER_BYTES_EACH,
            kernel_bytes_each,
            is_kernel_read,
            group_bytes_each: self.lowest_group().map(|group| self.group_bytes(group.version)),
            is_group_measured: self.snapshot.measured_bytes_each.is_some(),
            user_bytes,
            kernel_bytes,
            bytes_max: match &self.plan {
                Ok(plan) => plan.memory.bytes_max(),
                Err(_) => user_bytes.saturating_add(kernel_bytes),
            },
        }
    }

    /// Bytes of one connection, and of the server without connections.
    fn bytes(&self) -> (u64, u64) {
        let (kernel, _) = self.snapshot.kernel_bytes_each();
        (kernel.saturating_add(USER_BYTES_EACH), self.user_bytes_fixed())
    }

    pub(super) fn machine_memory(&self) -> Wall {
        let wall = Self::wall("memory", "tcb-table", "memory of the machine", Kind::Count, "bytes");
        let memory = match &self.snapshot.memory {
            Ok(memory) => memory,
            Err(error) => return Self::unreadable(wall, error),
        };
        let (each, fixed) = self.bytes();
        let mut wall = self.line(wall, memory.limit, Some(memory.used), each, fixed);
        wall.effect = format!(
            "An idle connection takes {} bytes, most of them the kernel's. No command makes more of it.",
            Grouped(each)
        );
        wall
    }

    pub(super) fn group_memory(&self) -> Wall {
        let name = "memory limit of the group";
        let wall = Self::wall("cgroup-memory", "app-limits", name, Kind::Count, "bytes");
        let group = match lowest(&self.snapshot.group_memory) {
            Ok(group) => group,
            Err(wall_of) => return wall_of.wall(wall),
        };
        let each = self.group_bytes(group.version);
        let reactors = u64::from(self.reactors);
        let fixed = match self.running {
            Some(_) => 0,
            // The doctor is the program that serves. A larger one has more pages of its own before it has done anything.
            None => {
                GROUP_BYTES_OF_PROCESS
                    + self.snapshot.bytes_own.saturating_sub(PROGRAM_BYTES)
                    + reactors.saturating_sub(2) * GROUP_BYTES_OF_REACTOR
            }
        };
        // Whoever reads has gone when it is full.
        let used = group.used.map(|used| used.saturating_sub(self.snapshot.bytes_own));
        let percent = self.config.memory.group_percent_max;
        let (limit, past) = match percent {
            0 => (group.limit, "past the limit the kernel ends the server".to_owned()),
            _ => (
                full_at(group.limit, percent),
                format!(
                    "from {percent} % of {} on the server answers 503 (memory.group_percent_max), so that the kernel \
                     does not end it",
                    Bytes(group.limit)
                ),
            ),
        };
        let mut wall = self.line(wall, limit, used, each, fixed);
        wall.effect = format!(
            "{}. It is charged {} bytes for each idle connection ({}), most of them the kernel's; {past}.",
            group.directory,
            Grouped(each),
            if self.snapshot.measured_bytes_each.is_some() {
                "measured"
            } else {
                "by the kernel's release; --measure measures it"
            },
        );
        // The limit of which the share is enough.
        let whole = |value: u64| if percent == 0 { value } else { value.div_ceil(u64::from(percent)) * 100 };
        self.mend(&mut wall, |value| {
            Fix::group(&group.directory, group.version, Controller::Memory, roomy(whole(value)))
        });
        wall
    }

    fn data(&self) -> Data {
        Data { reactors: self.reactors.into(), places: self.capacity.unwrap_or(self.connections) }
    }

    pub(super) fn data_limit(&self) -> Wall {
        let wall = Self::wall("data-limit", "tcb-table", "RLIMIT_DATA", Kind::Count, "bytes");
        self.steps(wall, |limits| limits.data_soft, 0, ("data", "LimitDATA"))
    }

    pub(super) fn address_space(&self) -> Wall {
        let wall = Self::wall("address-space", "tcb-table", "RLIMIT_AS", Kind::Count, "bytes");
        // The doctor is the program that serves.
        let beside = self.snapshot.code_bytes + ADDRESS_SPACE_BESIDE;
        self.steps(wall, |limits| limits.address_space_soft, beside, ("as", "LimitAS"))
    }

    /// The verdict on a limit of the process's memory, which its arrays meet when one of them doubles. It counts
    /// `beside` as well; `names` are those of prlimit(1) and of systemd.
    fn steps(
        &self,
        wall: Wall,
        limit: impl Fn(&ProcessLimits) -> Option<u64>,
        beside: u64,
        names: (&str, &str),
    ) -> Wall {
        let limit = match self.snapshot.limits.as_ref().map(limit) {
            Ok(Some(limit)) => limit,
            Ok(None) => return Wall { effect: "No limit.".into(), ..wall },
            Err(error) => return Self::unreadable(wall, error),
        };
        let data = self.data();
        let needed = data.bytes(self.connections) + beside;
        let stops_at = data.stops_at(limit.saturating_sub(beside));
        let is_below = needed > limit;
        let reactors = data.reactors.max(1);
        let effect = format!(
            "Past it the server ends, and everybody with it. Its arrays double, so it stops in steps: to about a tenth, \
             with {} reactor{}.",
            reactors,
            if reactors == 1 { "" } else { "s" }
        );
        let mut wall = Wall {
            limit: Some(limit),
            in_use: Some(0),
            needed: Some(needed),
            stops_at: Some(if is_below {
                stops_at.min(self.connections.saturating_sub(1))
            } else {
                stops_at.max(self.connections)
            }),
            verdict: if is_below { Verdict::Below } else { Verdict::Fits },
            effect,
            ..wall
        };
        let (resource, property) = names;
        self.mend(&mut wall, |value| Fix::process_limit(resource, property, value));
        wall
    }

    /// `CommitLimit`, under strict overcommit only.
    pub(super) fn commit_limit(&self) -> Wall {
        let wall = Self::wall("commit-limit", "tcb-table", "vm.overcommit_memory", Kind::Count, "bytes");
        let (mode, commit) = match (&self.snapshot.overcommit, &self.snapshot.commit) {
            (Ok(mode), Ok(commit)) => (*mode, *commit),
            (Err(error), _) | (_, Err(error)) => return Self::unreadable(wall, error),
        };
        if mode != 2 {
            let effect = "Not strict: memory is promised beyond what there is.";
            return Wall { effect: effect.into(), ..wall };
        }
        let fixed = if self.running.is_some() { 0 } else { self.data().bytes(0) };
        let mut wall = self.line(wall, commit.limit, Some(commit.used), 2 * DATA_OF_CONNECTION, fixed);
        wall.effect =
            "Strict: what all processes are promised is bounded (CommitLimit); past it the server ends."
                .into();
        if wall.verdict == Verdict::Below {
            wall.fix = Some(Fix::sysctl("vm.overcommit_memory", 0));
        }
        wall
    }

    /// The group with the least memory left, if one is limited.
    fn lowest_group(&self) -> Option<&GroupLimit> {
        lowest(&self.snapshot.group_memory).ok()
    }

    /// Bytes that a group is charged for one idle connection.
    fn group_bytes(&self, version: Version) -> u64 {
        self.snapshot.group_kernel_bytes_each(version) + USER_BYTES_IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: Data = Data { reactors: 2, places: 15_000 };

    #[test]
    fn arrays_grow_by_doubling() {
        assert_eq!(DATA.bytes(2 * 1024), DATA.bytes(2 * 513));
        assert_eq!(DATA.bytes(2 * 1024 + 1) - DATA.bytes(2 * 1024), 2 * 1024 * DATA_OF_CONNECTION);
    }

    #[test]
    fn it_stops_a_little_before_the_arrays_that_do_not_fit() {
        let room_for = DATA.bytes(2 * 4096);
        assert_eq!(DATA.stops_at(room_for), 2 * (4096 - 64));
        assert_eq!(DATA.stops_at(room_for - 1), 2 * (2048 - 45));
        assert_eq!(DATA.stops_at(DATA.bytes(0) - 1), 0, "not even the threads");
    }
}
