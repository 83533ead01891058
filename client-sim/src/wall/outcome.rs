//! What came of a wall, as values: the stage's process makes them, the parent shows and judges them.
//!
//! Nothing is measured and nothing is drawn here.
//!
//! Invariant: a wall is shown only if it claims something and every claim holds.

use serde::{Deserialize, Serialize};

/// Everything that was seen on one stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What the stage was made of, for a person.
    pub stage: String,
    /// The columns: the wall hit first, then each knob moved.
    pub sides: Vec<Side>,
    /// What moves the wall: commands or keys, for a person.
    pub moved_by: Vec<String>,
    /// What else was seen that a reader should know.
    pub notes: Vec<String>,
    /// What `tcbchat doctor` says of the machine as it is on this stage.
    pub doctor: Option<String>,
    /// Numbers that the doctor had said, and what came.
    pub held: Vec<Held>,
    /// What must be true for the wall to be shown.
    pub claims: Vec<Claim>,
    /// Seconds from the first step to the last.
    pub elapsed_s: f64,
}

/// One run against the wall, or past it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// What is different in this column.
    pub title: String,
    /// The bound in force.
    pub limit: String,
    /// Connections that were tried.
    pub asked: u64,
    /// Those that became users.
    pub admitted: u64,
    /// Those that did not.
    pub refused: u64,
    /// How that looked: errno, answer, counter.
    pub symptoms: Vec<String>,
    /// Other measures; those of one name stand in one line.
    pub facts: Vec<Fact>,
}

/// A measure with its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// What was measured.
    pub name: String,
    /// The value with its unit.
    pub value: String,
}

/// Percent by which a forecast may be off.
const ERROR_PERCENT_MAX: f64 = 5.0;

/// A number that the doctor had said, and what came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Of what.
    pub what: String,
    /// What it had said; `None` if it said nothing that can be read.
    pub forecast: Option<u64>,
    /// What came.
    pub outcome: u64,
}

impl Held {
    /// How far the forecast was off, in percent of what came.
    pub fn error_percent(&self) -> Option<f64> {
        let (forecast, outcome) = (self.forecast? as f64, self.outcome as f64);
        Some((forecast - outcome) / outcome.max(1.0) * 100.0)
    }
}

/// Something that must be true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// In words, with the numbers seen.
    pub text: String,
    /// Whether it is.
    pub holds: bool,
}

impl Outcome {
    /// Claims something.
    pub fn claim(&mut self, holds: bool, text: impl Into<String>) {
        self.claims.push(Claim { text: text.into(), holds });
    }

    /// Holds a number that the doctor had said against what came; it must be within 5 %.
    pub fn hold(&mut self, what: impl Into<String>, forecast: Option<u64>, outcome: u64) {
        let held = Held { what: what.into(), forecast, outcome };
        let text = match held.error_percent() {
            Some(error) => format!("the doctor is within 5 %: {} ({error:+.1} %)", held.what),
            None => format!("the doctor says a number: {}", held.what),
        };
        let holds = held.error_percent().is_some_and(|error| error.abs() <= ERROR_PERCENT_MAX);
        self.held.push(held);
        self.claim(holds, text);
    }

    /// Whether the wall was hit and passed as it should.
    pub fn is_shown(&self) -> bool {
        !self.claims.is_empty() && self.claims.iter().all(|claim| claim.holds)
    }
}

impl Side {
    /// A column with its title and its bound.
    pub fn new(title: impl Into<String>, limit: impl Into<String>) -> Self {
        Self { title: title.into(), limit: limit.into(), ..Self::default() }
    }

    /// Adds a measure.
    pub fn fact(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.facts.push(Fact { name: name.into(), value: value.into() });
    }

    /// Adds a symptom.
    pub fn symptom(&mut self, text: impl Into<String>) {
        self.symptoms.push(text.into());
    }
}

/// What the stage's process tells its parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Played {
    /// It was played; whether the wall was shown is [`Outcome::is_shown`]'s to say.
    Done(Outcome),
    /// A privilege or a program is missing: nothing was tried.
    Skipped {
        /// What is missing, and what to do about it.
        reason: String,
    },
    /// It could not be played.
    Broken {
        /// Why.
        reason: String,
    },
}

/// Why a stage was not played to its end.
#[derive(Debug)]
pub enum Trouble {
    /// A privilege or a program is missing.
    Missing(String),
    /// Anything else.
    Broken(String),
}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self::Broken(text)
    }
}

impl From<netns::Error> for Trouble {
    fn from(error: netns::Error) -> Self {
        match error {
            netns::Error::Missing(text) => Self::Missing(text),
            netns::Error::Broken(text) => Self::Broken(text),
        }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<Result<Outcome, Trouble>> for Played {
    fn from(result: Result<Outcome, Trouble>) -> Self {
        match result {
            Ok(outcome) => Self::Done(outcome),
            Err(Trouble::Missing(reason)) => Self::Skipped { reason },
            Err(Trouble::Broken(reason)) => Self::Broken { reason },
        }
    }
}

/// A number with commas between its thousands.
pub fn commas(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that keeps them short.
pub fn bytes(number: u64) -> String {
    const KIB: f64 = 1024.0;
    let number = number as f64;
    match number {
        _ if number >= KIB * KIB * KIB => format!("{:.1} GiB", number / KIB / KIB / KIB),
        _ if number >= KIB * KIB => format!("{:.1} MiB", number / KIB / KIB),
        _ if number >= KIB => format!("{:.1} KiB", number / KIB),
        _ => format!("{number} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_without_claims_or_with_a_false_one_is_not_shown() {
        let mut outcome = Outcome::default();
        assert!(!outcome.is_shown());
        outcome.claim(true, "it was hit");
        assert!(outcome.is_shown());
        outcome.claim(false, "it was passed");
        assert!(!outcome.is_shown());
    }

    #[test]
    fn a_forecast_that_is_off_fails_the_wall() {
        for (forecast, holds) in [(Some(1050), true), (Some(950), true), (Some(1051), false), (None, false)] {
            let mut outcome = Outcome::default();
            outcome.hold("users", forecast, 1000);
            assert_eq!(outcome.is_shown(), holds, "{forecast:?}");
        }
    }

    #[test]
    fn what_a_stage_says_is_read_back() {
        let mut outcome = Outcome { stage: "namespace".into(), ..Outcome::default() };
        let mut side = Side::new("before", "5");
        side.fact("threads", "3");
        side.symptom("EMFILE");
        outcome.sides.push(side);
        for played in [
            Played::from(Ok(outcome)),
            Played::from(Err(Trouble::Missing("root".into()))),
            Played::from(Err(Trouble::Broken("no server".into()))),
        ] {
            let text = serde_json::to_string(&played).unwrap();
            assert_eq!(serde_json::from_str::<Played>(&text).unwrap(), played, "{text}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(["0", "999", "1,000", "16,777,214"], [0, 999, 1000, 16_777_214].map(commas)[..]);
        assert_eq!(["12 B", "1.5 KiB", "3.0 MiB"], [12, 1536, 3 << 20].map(bytes)[..]);
    }
}
