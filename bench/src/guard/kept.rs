//! The file of the kept numbers, and the comparison with it.
//!
//! Slack is in the file too, beside what it is for, and stays when the numbers are written anew. Invariant: every
//! number that was counted has a verdict; one that is not in the file is refused.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use serde::Deserialize;

use super::{COMMAND, CONNECTIONS, version};

/// What the bytes are called among the paths.
const PARTS: &str = "bytes of an idle connection: its parts";
/// See [`PARTS`].
const GROWN: &str = "bytes of an idle connection: the process";

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// What the numbers depend on beside this repository.
    pub made_with: MadeWith,
    instructions: Instructions,
    bytes: KeptBytes,
}

/// What built and counted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeWith {
    /// The processor's architecture.
    pub target: String,
    rustc: String,
    valgrind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Instructions {
    slack_percent: f64,
    per_operation: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptBytes {
    parts: PerConnection,
    grown: PerConnection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PerConnection {
    slack_percent: f64,
    per_connection: f64,
}

/// User bytes of an idle, subscribed connection.
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    /// The sum of its parts in use: the same in each run.
    pub parts: f64,
    /// What a server has grown by.
    pub grown: f64,
}

impl MadeWith {
    /// As it is here.
    pub fn here(valgrind: &str) -> MadeWith {
        MadeWith {
            target: std::env::consts::ARCH.to_owned(),
            rustc: version("rustc").unwrap_or_else(|| "unknown".to_owned()),
            valgrind: valgrind.to_owned(),
        }
    }

    /// A sentence, if these are not the same: counts then differ without a change of ours.
    pub fn difference(&self, here: &MadeWith) -> Option<String> {
        let sentence = |what, kept: &str, here: &str| {
            format!("The kept numbers are of another {what}, {kept}; this is {here}.")
        };
        if self.rustc != here.rustc {
            Some(sentence("compiler", &self.rustc, &here.rustc))
        } else if self.valgrind != here.valgrind {
            Some(sentence("valgrind", &self.valgrind, &here.valgrind))
        } else {
            None
        }
    }
}

/// One number and its bound.
#[derive(Debug)]
pub struct Verdict {
    name: String,
    unit: &'static str,
    counted: f64,
    /// `None`: it is not in the file.
    kept: Option<f64>,
    slack_percent: f64,
}

impl Verdict {
    /// A sentence, if it is not good.
    pub fn refusal(&self) -> Option<String> {
        let Verdict { name, unit, counted, slack_percent, .. } = self;
        let Some(kept) = self.kept else {
            return Some(format!("  {name}: {counted:.1} {unit}, and no number is kept"));
        };
        let allowed = kept * (1.0 + slack_percent / 100.0);
        let more = self.change_percent(kept);
        // A number that is none is not below anything.
        let is_allowed = *counted <= allowed;
        (!is_allowed).then(|| {
            format!(
                "  {name}: {counted:.1} {unit}, {more:+.2} %; kept {kept:.1}, allowed {allowed:.1} \
                 ({slack_percent:+} %)"
            )
        })
    }

    fn change_percent(&self, kept: f64) -> f64 {
        (self.counted / kept - 1.0) * 100.0
    }

    /// So much better that what was gained could be lost again unseen.
    fn is_better(&self) -> bool {
        self.kept.is_some_and(|kept| self.change_percent(kept) < -self.slack_percent)
    }
}

impl Kept {
    /// Reads the file.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn read(path: &Path) -> Result<Kept, String> {
        let failed = |error: String| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        toml::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    /// Takes these numbers for the old ones.
    pub fn keep(&mut self, made_with: MadeWith, counted: &[(&str, f64)], bytes: Bytes) {
        self.made_with = made_with;
        self.instructions.per_operation =
            counted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        self.bytes.parts.per_connection = bytes.parts;
        self.bytes.grown.per_connection = bytes.grown;
    }

    /// A verdict on each number.
    pub fn compare(&self, counted: &[(&str, f64)], bytes: Option<Bytes>) -> Vec<Verdict> {
        let instructions = counted.iter().map(|&(name, counted)| Verdict {
            name: name.to_owned(),
            unit: "instructions",
            counted,
            kept: self.instructions.per_operation.get(name).copied(),
            slack_percent: self.instructions.slack_percent,
        });
        let verdict = |name: &str, counted, kept: &PerConnection| Verdict {
            name: name.to_owned(),
            unit: "bytes",
            counted,
            kept: Some(kept.per_connection),
            slack_percent: kept.slack_percent,
        };
        let bytes = bytes.into_iter().flat_map(|bytes| {
            [verdict(PARTS, bytes.parts, &self.bytes.parts), verdict(GROWN, bytes.grown, &self.bytes.grown)]
        });
        instructions.chain(bytes).collect()
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MadeWith { target, rustc, valgrind } = &self.made_with;
        writeln!(
            f,
            "# What `{COMMAND}` compares with; with `--update` it writes this file anew.\n\
             # The slack is set by hand. docs/BENCHMARKS.md, \"Guard\", says what it rests on.\n\n\
             [made_with]\ntarget = {target:?}\nrustc = {rustc:?}\nvalgrind = {valgrind:?}\n\n\
             [instructions]\nslack_percent = {:?}\n\n\
             # By the names of the benches. An operation is what their throughput counts: a message, a delivery, a\n\
             # connection, a timer.\n\
             [instructions.per_operation]",
            self.instructions.slack_percent
        )?;
        for (name, count) in &self.instructions.per_operation {
            writeln!(f, "{name:?} = {count:.1}")?;
        }
        let KeptBytes { parts, grown } = &self.bytes;
        writeln!(
            f,
            "\n# Of each of {CONNECTIONS} idle, subscribed sessions: the sum of their parts in use, and the growth of a\n\
             # server's proportional set size.\n\
             [bytes]\n\
             parts = {{ slack_percent = {:?}, per_connection = {:.1} }}\n\
             grown = {{ slack_percent = {:?}, per_connection = {:.1} }}",
            parts.slack_percent, parts.per_connection, grown.slack_percent, grown.per_connection
        )
    }
}

/// All numbers beside what is kept.
pub fn table(verdicts: &[Verdict]) -> String {
    let mut text = format!("{:<48} {:>12} {:>12}\n", "per operation", "counted", "kept");
    for verdict in verdicts {
        let Verdict { name, counted, kept, .. } = verdict;
        let change = kept.map_or_else(String::new, |kept| format!("{:+.2} %", verdict.change_percent(kept)));
        let kept = kept.map_or_else(|| "-".to_owned(), |kept| format!("{kept:.1}"));
        let note = match verdict.refusal() {
            Some(_) => "  too much",
            None if verdict.is_better() => "  better: --update keeps it",
            None => "",
        };
        // Writing to a String cannot fail.
        writeln!(text, "{name:<48} {counted:>12.1} {kept:>12} {change:>10}{note}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let file = "[made_with]\ntarget = \"t\"\nrustc = \"r\"\nvalgrind = \"v\"\n\
                    [instructions]\nslack_percent = 2\n[instructions.per_operation]\n\"a/b\" = 1000.0\n\"c\" = 50\n\
                    [bytes]\nparts = { slack_percent = 1, per_connection = 100 }\n\
                    grown = { slack_percent = 5, per_connection = 200 }\n";
        toml::from_str(file).unwrap()
    }

    #[test]
    fn more_than_the_slack_is_refused_and_named() {
        let verdicts =
            kept().compare(&[("a/b", 1020.1), ("c", 51.0)], Some(Bytes { parts: 101.5, grown: 210.5 }));
        let refused: Vec<String> = verdicts.iter().filter_map(Verdict::refusal).collect();
        assert_eq!(
            refused,
            [
                "  a/b: 1020.1 instructions, +2.01 %; kept 1000.0, allowed 1020.0 (+2 %)",
                "  bytes of an idle connection: its parts: 101.5 bytes, +1.50 %; kept 100.0, allowed 101.0 (+1 %)",
                "  bytes of an idle connection: the process: 210.5 bytes, +5.25 %; kept 200.0, allowed 210.0 (+5 %)",
            ]
        );
    }

    #[test]
    fn what_is_not_kept_is_refused_and_so_is_no_number() {
        let verdicts = kept().compare(&[("new", 1.0), ("c", f64::NAN)], None);
        assert!(verdicts[0].refusal().unwrap().contains("new: 1.0 instructions, and no number is kept"));
        assert!(verdicts[1].refusal().is_some());
    }

    #[test]
    fn what_became_better_is_said_and_not_refused() {
        let verdicts = kept().compare(&[("a/b", 979.0), ("c", 49.5)], None);
        let table = table(&verdicts);
        assert!(verdicts.iter().all(|verdict| verdict.refusal().is_none()));
        assert_eq!(table.matches("--update").count(), 1, "{table}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut kept = kept();
        let made_with = MadeWith { target: "x".into(), rustc: "rustc \"1\"".into(), valgrind: "v".into() };
        kept.keep(made_with.clone(), &[("n", 12.34)], Bytes { parts: 169.81, grown: 177.77 });
        let again: Kept = toml::from_str(&kept.to_string()).unwrap();
        assert_eq!(again.made_with, made_with);
        assert_eq!(again.instructions.per_operation, BTreeMap::from([("n".to_owned(), 12.3)]));
        assert_eq!((again.bytes.parts.per_connection, again.bytes.parts.slack_percent), (169.8, 1.0));
        assert_eq!((again.bytes.grown.per_connection, again.bytes.grown.slack_percent), (177.8, 5.0));
        assert_eq!(again.instructions.slack_percent, 2.0);
    }

    #[test]
    fn another_compiler_is_said() {
        let here = MadeWith { rustc: "s".into(), ..kept().made_with };
        assert!(kept().made_with.difference(&here).unwrap().contains("another compiler, r; this is s"));
        assert_eq!(here.difference(&here), None);
    }

    #[test]
    fn the_file_has_the_paths_that_there_are() {
        let kept = Kept::read(&super::super::kept_file()).unwrap();
        let names: Vec<&str> = kept.instructions.per_operation.keys().map(String::as_str).collect();
        let mut paths: Vec<&str> = super::super::paths::ALL.iter().map(|path| path.name).collect();
        paths.sort_unstable();
        assert_eq!(names, paths, "`{COMMAND} --update` writes the file anew");
    }
}
