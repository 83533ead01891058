//! Benches of tcbchat: `cargo bench -p tcbchat-bench`, one file per noun in `benches/`.
//!
//! What they have in common is here: the paths that they measure, keys in an order that no cache foresees, and the
//! time that one bench may take. Invariant: a run takes minutes, not hours, and gives the same work to every run.

pub mod crowd;
pub mod paths;

use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use tcbchat::tcb::FourTuple;

/// Warm-up and measurement of one bench. The defaults of criterion are four times as long.
pub const WARM_UP: Duration = Duration::from_millis(500);
/// See [`WARM_UP`].
pub const MEASUREMENT: Duration = Duration::from_millis(1_500);

/// Endless numbers below `below`, in an order that is scattered and always the same: what a cache sees of
/// independent connections.
pub fn scattered(below: u32) -> impl FnMut() -> u32 {
    scattered_from(0, below)
}

/// The same from another place in that order, far from those of other numbers.
pub fn scattered_from(place: u32, below: u32) -> impl FnMut() -> u32 {
    // Knuth's multiplier spreads consecutive numbers over all 32 bits.
    let mut state = place.wrapping_mul(2_654_435_769);
    move || {
        // A linear congruential generator with the constants of Numerical Recipes; the high bits are the good
        // ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state) * u64::from(below)) >> 32) as u32
    }
}

/// Client `n` of one server socket, at 50,000 ports of as many addresses as it takes.
pub fn tuple(n: u32) -> FourTuple {
    let server = SocketAddr::from(([192, 0, 2, 1], 80));
    let address = Ipv4Addr::from_bits(0x0A00_0001 + n / 50_000);
    FourTuple::new(server, SocketAddr::from((address, (10_000 + n % 50_000) as u16)))
}

/// Prints a result. A reader that has gone has had what it wanted.
///
/// # Errors
/// A sentence for the user: why it cannot be printed.
pub fn show(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// Seconds of a measurement on a command line: some, and within what the simulator takes.
///
/// # Errors
/// What is wrong with them.
pub fn seconds(text: &str) -> Result<f64, String> {
    number(text, 0.1, 604_800.0)
}

/// A rate on a command line: within what the simulator takes.
///
/// # Errors
/// What is wrong with it.
pub fn per_second(text: &str) -> Result<f64, String> {
    number(text, 0.001, 10_000_000.0)
}

/// A file on a command line that is to be written at the end: asked for now is where it can lie.
///
/// # Errors
/// It cannot lie there.
pub fn output(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        return Err(format!("{} is no directory", directory.display()));
    }
    if path.is_dir() { Err("it is a directory".to_owned()) } else { Ok(path) }
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (least..=most).contains(&number) { Ok(number) } else { Err(format!("not within {least} to {most}")) }
}

/// The middle one, or the mean of the two in the middle; `None` of nothing.
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        length if length % 2 == 1 => Some(numbers[middle]),
        _ => Some((numbers[middle - 1] + numbers[middle]) / 2.0),
    }
}

/// The smallest of some numbers that `percent` of them do not exceed; `None` of nothing.
pub fn percentile(numbers: &[f64], percent: f64) -> Option<f64> {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * numbers.len() as f64).ceil() as usize;
    numbers.get(rank.max(1) - 1).copied()
}

/// Numbers of some rounds against others of the same: the ratio of the medians, and the least and the greatest of a round.
/// `None` of nothing.
pub fn ratio(of: &[f64], to: &[f64]) -> Option<Spread> {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    Some(Spread { median: median(of)? / median(to)?, ..Spread::of(&ratios)? })
}

/// The middle of some numbers, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// As [`median`] has it.
    pub median: f64,
    /// The least of them.
    pub least: f64,
    /// The greatest of them.
    pub most: f64,
}

impl Spread {
    /// Of these; `None` of nothing.
    pub fn of(numbers: &[f64]) -> Option<Spread> {
        let least = numbers.iter().copied().reduce(f64::min)?;
        let most = numbers.iter().copied().reduce(f64::max)?;
        Some(Spread { median: median(numbers)?, least, most })
    }

    /// For a table: the middle, and in brackets the others if they differ.
    #[must_use]
    pub fn cell(&self, digits: usize) -> String {
        let Spread { median, least, most } = self;
        if least == most {
            return format!("{median:.digits$}");
        }
        format!("{median:.digits$} ({least:.digits$}-{most:.digits$})")
    }
}

/// Writes a report as JSON that people can read too: indented, with a newline at its end.
///
/// # Errors
/// A sentence for the user: which file, and why it cannot be written.
pub fn write_json(path: &Path, report: &impl Serialize) -> Result<(), String> {
    let text =
        serde_json::to_string_pretty(report).map_err(|error| format!("{}: {error}", path.display()))?;
    write_text(path, &(text + "\n"))
}

/// Writes a text as it is.
///
/// # Errors
/// A sentence for the user: which file, and why it cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_in_a_directory_that_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let within = |name: &str| output(directory.path().join(name).to_str().unwrap());
        assert_eq!(within("new.json"), Ok(directory.path().join("new.json")));
        assert!(within("none/new.json").unwrap_err().ends_with("none is no directory"));
        assert_eq!(within(""), Err("it is a directory".to_owned()));
        assert_eq!(output("new.json"), Ok(PathBuf::from("new.json")));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_percentile_is_one_of_the_numbers() {
        let numbers: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((percentile(&numbers, 99.0), percentile(&numbers, 50.0)), (Some(198.0), Some(100.0)));
        assert_eq!((percentile(&[7.0], 99.0), percentile(&[7.0], 0.0)), (Some(7.0), Some(7.0)));
        assert_eq!(percentile(&[], 99.0), None);
    }

    #[test]
    fn numbers_on_a_command_line_are_within_bounds() {
        assert_eq!((seconds("0.1"), per_second("0.5")), (Ok(0.1), Ok(0.5)));
        for text in ["NaN", "inf", "-1", "604801", "0", "", "1s"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert_eq!(per_second("0"), Err("not within 0.001 to 10000000".to_owned()));
    }

    #[test]
    fn a_spread_is_shown_where_there_is_one() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]).unwrap().cell(1), "2.0 (1.0-3.0)");
        assert_eq!(Spread::of(&[7.25]).unwrap().cell(2), "7.25");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn the_order_is_scattered_complete_and_repeatable() {
        let numbers: Vec<u32> = std::iter::repeat_with(scattered(100)).take(2_000).collect();
        assert!(numbers.iter().all(|&number| number < 100));
        assert!((0..100).all(|number| numbers.contains(&number)));
        assert!(numbers.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) <= 1).count() < 100);
        assert!(std::iter::repeat_with(scattered(100)).take(2_000).eq(numbers.iter().copied()));
        assert!(std::iter::repeat_with(scattered_from(1, 100)).take(2_000).ne(numbers));
    }
}
