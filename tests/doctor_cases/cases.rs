//! The table of cases.
//!
//! Owns what a case is: a place, the options of the program, and what there is before the doctor is asked.

use std::process::Command;

use crate::place::{self, Place};

/// What there is before the doctor is asked.
#[derive(Debug, Clone, Copy)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// The server, with so many places in TIME_WAIT.
    Waiting(usize),
    /// The server with so many connections; so many more are asked for.
    Open(usize, u32),
    /// The server with so many connections, whose tables then get this limit; so many more are asked for.
    Lowered(usize, u64, u32),
    /// Another server, elsewhere in the same place.
    Neighbour,
}

/// One case.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub place: Place,
    pub options: Vec<String>,
    pub before: Before,
}

fn case(name: &str, options: &str, place: Place) -> Case {
    Case {
        name: name.to_owned(),
        place,
        options: options.split_whitespace().map(str::to_owned).collect(),
        before: Before::Nothing,
    }
}

impl Case {
    /// How its row in the table begins: what it is called, and its options.
    pub fn row(&self) -> String {
        let options = self.options.join(" ");
        let options = if options.is_empty() { options } else { format!("`{options}`") };
        format!("| {} | {options} |", self.name)
    }

    /// Clients that may come at once, if it bears fewer than others, or ends with them.
    pub fn batch(&self) -> Option<usize> {
        let is_xp = self.options.iter().any(|option| option == "windows-xp");
        // Whom the server ends with are counted by batches.
        is_xp.then_some(4).or(self.place.data.map(|_| 25))
    }

    fn after(self, before: Before) -> Case {
        Case { before, ..self }
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let files = |files| Place { files: Some(files), ..Place::default() };
    let none = Place::default;
    let mut cases = Vec::new();
    for limit in [270, 300, 400, 512, 700, 1_024, 2_000, 4_096] {
        cases.push(case(&format!("nofile {limit}"), "", files(limit)));
    }
    for (limit, reactors) in [(700, 1), (1_024, 4), (600, 8), (2_000, 3)] {
        cases.push(case(&format!("nofile {limit}"), &format!("--reactors {reactors}"), files(limit)));
    }
    for (limit, options) in [
        (1_024, "--capacity 500"),
        (1_024, "--capacity 5000"),
        (600, "--capacity 2000 --reactors 1"),
        (250, ""),
        (1_000, "--set reactors.fd_reserve=600 --reactors 1"),
        (1_000, "--set reactors.fd_reserve=32 --reactors 1"),
        (700, "--set handshake.refusals_max=400 --reactors 1"),
    ] {
        cases.push(case(&format!("nofile {limit}"), options, files(limit)));
    }
    for (limit, inherited, options) in [
        (700, 100, "--reactors 1"),
        (700, 400, "--reactors 1"),
        (700, 650, "--reactors 1"),
        (1_024, 400, ""),
        (2_000, 900, "--reactors 2"),
    ] {
        let place = Place { inherited, ..files(limit) };
        cases.push(case(&format!("nofile {limit}, {inherited} inherited"), options, place));
    }
    for options in ["", "--capacity 2000", "--reactors 1", "--capacity 600 --reactors 2"] {
        let place = Place { is_sandboxed: true, ..files(1_000) };
        cases.push(case("nofile 1000, no unshare", options, place));
    }
    cases.push(case("/proc/sys hidden", "", Place { is_proc_hidden: true, ..none() }));
    for profile in ["windows-xp", "windows-2000", "windows-2003", "windows-2003-sp1", "tomcat-bio"] {
        cases.push(case("profile", &format!("--profile {profile}"), none()));
    }
    for (profile, waiting) in [("windows-2003", 500), ("windows-xp", 300), ("windows-2003-sp1", 300)] {
        let in_use = case(&format!("{waiting} in TIME_WAIT"), &format!("--profile {profile}"), none());
        cases.push(in_use.after(Before::Waiting(waiting)));
    }
    cases.push(case("700 open, 2,000 more", "--capacity 2000", none()).after(Before::Open(700, 2_000)));
    cases.push(case("1,000 open, 500 more", "--capacity 1000", none()).after(Before::Open(1_000, 500)));
    cases.push(
        case("1,500 open, 1,500 more", "--capacity 2000 --reactors 4", none())
            .after(Before::Open(1_500, 1_500)),
    );
    cases.push(
        case("100 open, nofile lowered to 300", "--capacity 2000 --reactors 1", none())
            .after(Before::Lowered(100, 300, 1_000)),
    );
    let pids = |pids| Place { pids: Some(pids), ..none() };
    for (limit, options) in [
        (11, "--reactors 8 --capacity 1500"),
        (10, "--reactors 8 --capacity 1500"),
        (5, "--reactors 2 --capacity 1500"),
        (4, "--reactors 2 --capacity 1500"),
        (4, "--reactors 1 --capacity 1200"),
    ] {
        cases.push(case(&format!("pids.max {limit}"), options, pids(limit)));
    }
    cases.push(
        case("pids.max 22, a server of 8 reactors beside", "--reactors 8 --capacity 1000", pids(22))
            .after(Before::Neighbour),
    );
    cases.push(
        case("pids.max 21, a server of 8 reactors beside", "--reactors 8 --capacity 1000", pids(21))
            .after(Before::Neighbour),
    );
    for (limit, options) in [(5, "--reactors 2 --capacity 900"), (4, "--reactors 2 --capacity 900")] {
        let place = Place { threads_of_user: Some(limit), ..none() };
        cases.push(case(&format!("nproc {limit}"), options, place));
    }
    for (mib, options) in [
        (24, "--capacity 60000 --reactors 4"),
        (32, "--capacity 60000 --reactors 4"),
        (32, "--capacity 60000 --reactors 4 --set memory.group_percent_max=60"),
        (16, "--capacity 3000 --reactors 2"),
    ] {
        let place = Place { memory: Some(mib << 20), ..none() };
        cases.push(case(&format!("group of {mib} MiB"), options, place));
    }
    // In the middle of a step each, so that it is known which one ends the server; and of a high one, as the kernel spreads few
    // connections over reactors unevenly.
    for (data, reactors) in [(9_500_000, 2), (14_900_000, 4), (7_000_000, 2)] {
        let place = Place { data: Some(data), ..none() };
        let options = format!("--capacity 15000 --reactors {reactors}");
        cases.push(case(&format!("RLIMIT_DATA {data}"), &options, place));
    }
    // Enough for the doctor, and not for a server.
    let place = Place { address_space: Some(doctors_address_space() + (2 << 20)), ..none() };
    cases.push(case("RLIMIT_AS 2 MiB above the doctor's own", "--capacity 15000 --reactors 2", place));
    cases
}

/// Bytes of address space with which the doctor can answer, to a MiB: it depends on how the program was built.
fn doctors_address_space() -> u64 {
    let answers = |mib: &u64| {
        let command =
            format!("ulimit -v {}; exec \"$0\" doctor --json --capacity 15000 --reactors 2", mib << 10);
        let doctor = Command::new("sh").args(["-c", &command]).arg(place::program()).output();
        doctor.is_ok_and(|doctor| doctor.stdout.ends_with(b"}\n"))
    };
    (4..256).find(answers).expect("the doctor answers") << 20
}
