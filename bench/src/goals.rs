//! What is promised, beside what was measured.
//!
//! A goal is held against the median. A measurement shows its goals, and fails for one that was missed only if it is told to:
//! other work on the machine can make any time long.
//!
//! Invariant: a goal that was not measured is neither reached nor missed.

use serde::Serialize;
use tcbchat_bench::Spread;

/// Something that is promised.
#[derive(Debug, Serialize)]
pub struct Goal {
    what: String,
    at_most: f64,
    measured: Option<Spread>,
    /// By the median.
    is_reached: Option<bool>,
}

impl Goal {
    /// `what` is to be `at_most` so much, in the unit that it names.
    pub fn new(what: impl Into<String>, at_most: f64, measured: Option<Spread>) -> Goal {
        let is_reached = measured.map(|measured| measured.median <= at_most);
        Goal { what: what.into(), at_most, measured, is_reached }
    }
}

/// Goals as Markdown, with an empty line before them.
pub fn table(goals: &[Goal]) -> String {
    let mut text = "\n| goal | at most | measured | reached |\n|---|---|---|---|\n".to_owned();
    for Goal { what, at_most, measured, is_reached } in goals {
        let measured = measured.map_or_else(|| "-".to_owned(), |measured| measured.cell(2));
        let reached = match is_reached {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        text += &format!("| {what} | {at_most} | {measured} | {reached} |\n");
    }
    text
}

/// Whether a missed goal is a failure.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Strictness {
    /// Fail if a goal is missed
    #[arg(long)]
    strict: bool,
}

impl Strictness {
    /// The verdict on these.
    ///
    /// # Errors
    /// Those that were missed, if that is a failure.
    pub fn judge(self, goals: &[Goal]) -> Result<(), String> {
        let missed = goals.iter().filter(|goal| goal.is_reached == Some(false));
        let missed: Vec<&str> = missed.map(|goal| &*goal.what).collect();
        if self.strict && !missed.is_empty() {
            return Err(format!("missed: {}", missed.join("; ")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_held_against_the_median_and_one_without_measurement_is_open() {
        let goals = [
            Goal::new("p99, ms", 25.0, Spread::of(&[10.0, 20.0, 30.0])),
            Goal::new("at once, ms", 1_000.0, Spread::of(&[1_200.0])),
            Goal::new("CPU", 1.1, None),
        ];
        let text = table(&goals);
        for line in [
            "| p99, ms | 25 | 20.00 (10.00-30.00) | yes |\n",
            "| at once, ms | 1000 | 1200.00 | **no** |\n",
            "| CPU | 1.1 | - | - |\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert_eq!(Strictness { strict: false }.judge(&goals), Ok(()));
        assert_eq!(Strictness { strict: true }.judge(&goals), Err("missed: at once, ms".to_owned()));
        assert_eq!(Strictness { strict: true }.judge(&goals[2..]), Ok(()));
    }
}
