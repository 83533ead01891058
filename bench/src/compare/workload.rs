//! What the servers are to do, as arguments of `client-sim`.
//!
//! Invariant: every workload ends by itself within seconds.

/// One thing to do.
#[derive(Debug)]
pub struct Workload {
    /// For tables and for `--workloads`.
    pub name: &'static str,
    /// What the simulator is told.
    pub arguments: Vec<String>,
    /// Messages may be late for the sake of fewer writes: tcbchat has [`FLUSH_DELAY`], and what it is measured against is
    /// a floor that writes each message by itself.
    pub is_delayed: bool,
}

/// How tcbchat delays.
pub const FLUSH_DELAY: &str = "rooms.flush_delay_us=1000";

/// Name, arguments in full and in a quick run; an empty one is left out of it.
const ALL: &[(&str, &str, &str)] = &[
    ("1x1000-w1", "chat --connections 1000 --room-size 1000 --window 1 --duration 1", "--duration 0.7"),
    ("1x1000-w4", "chat --connections 1000 --room-size 1000 --window 4 --duration 1", "--duration 0.7"),
    (
        "1x1000-w1-polled",
        "chat --connections 1000 --room-size 1000 --window 1 --duration 1 --busy-poll",
        "--duration 0.7",
    ),
    ("1x1000-w4-polled", "chat --connections 1000 --room-size 1000 --window 4 --duration 1 --busy-poll", ""),
    ("100x100-w1", "chat --connections 10000 --room-size 100 --window 1 --duration 1", "--duration 0.7"),
    ("100x100-w4", "chat --connections 10000 --room-size 100 --window 4 --duration 1", ""),
    ("1000x10-w1", "chat --connections 10000 --room-size 10 --window 1 --duration 1", ""),
    ("1000x10-w4", "chat --connections 10000 --room-size 10 --window 4 --duration 1", ""),
    (
        "1x1000-w4-delayed",
        "chat --connections 1000 --room-size 1000 --window 4 --duration 1",
        "--duration 0.7",
    ),
    ("100x100-w4-delayed", "chat --connections 10000 --room-size 100 --window 4 --duration 1", ""),
    ("1x5000-10/s", "chat --connections 5000 --room-size 5000 --rate 10 --duration 3", "--duration 1.5"),
    ("churn", "churn --rate 3000 --population 500 --duration 1", "--duration 0.7"),
];

/// Of the chats: receipts, no wait before the first message, a quick end. No heart-beats: the floor has none.
const CHAT: &str = "--receipts --hold 0.3 --connect-rate 20000 --no-goodbye --drain 2 --heart-beat 0,0 \
    --room-prefix compare-";

/// The workloads of these names, or all.
///
/// # Errors
/// A name that is none.
pub fn chosen(names: &[String], quick: bool) -> Result<Vec<Workload>, String> {
    if let Some(wrong) = names.iter().find(|name| !ALL.iter().any(|(known, ..)| known == name)) {
        let known: Vec<&str> = ALL.iter().map(|(name, ..)| *name).collect();
        return Err(format!("no workload {wrong}; there are {}", known.join(", ")));
    }
    let wanted = |name: &str, short: &str| {
        if names.is_empty() { !quick || !short.is_empty() } else { names.iter().any(|wanted| wanted == name) }
    };
    Ok(ALL
        .iter()
        .filter(|(name, _, short)| wanted(name, short))
        .map(|&(name, full, short)| {
            let parts =
                [full, if full.starts_with("chat") { CHAT } else { "" }, if quick { short } else { "" }];
            let arguments =
                parts.iter().flat_map(|part| part.split_whitespace()).map(str::to_owned).collect();
            Workload { name, arguments, is_delayed: name.ends_with("-delayed") }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_chooses_and_a_wrong_one_is_named() {
        let names = |list: &[&str], quick| {
            let list: Vec<String> = list.iter().map(|&name| name.to_owned()).collect();
            chosen(&list, quick).map(|all| all.iter().map(|one| one.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], false).unwrap().len(), ALL.len());
        assert_eq!(names(&["churn"], true).unwrap(), ["churn"]);
        assert!(names(&[], true).unwrap().len() < ALL.len());
        assert!(names(&["nonsense"], false).unwrap_err().contains("1x1000-w1"));
    }
}
