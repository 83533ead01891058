//! Outcomes as text: one wall with its columns side by side, and the table of all.
//!
//! Everything fits into [`WIDTH`] columns; longer cells are wrapped at spaces.
//!
//! Invariant: what is printed says whether the wall was shown, and if not, which claim failed.

use std::fmt::Write;

use super::outcome::{Outcome, Played, Side, commas};
use super::{Performance, Wall};

/// Columns of the whole.
const WIDTH: usize = 118;
/// Columns of the names on the left.
const NAMES: usize = 14;

/// One wall: its names, its columns, what moved it, and what came of it.
pub fn render(wall: &Wall, played: &Played) -> String {
    let mut out = String::new();
    let title = format!("== {} ", wall.id);
    line(&mut out, format_args!("{title:=<WIDTH$}"));
    for (name, text) in [("Windows", wall.windows), ("Linux", wall.linux), ("tcbchat", wall.tcbchat)] {
        named(&mut out, name, text);
    }
    match played {
        Played::Done(outcome) => body(&mut out, outcome),
        Played::Skipped { reason } => named(&mut out, "SKIPPED", reason),
        Played::Broken { reason } => named(&mut out, "BROKEN", reason),
    }
    out.push('\n');
    out
}

fn body(out: &mut String, outcome: &Outcome) {
    named(out, "stage", &outcome.stage);
    out.push('\n');
    columns(out, &outcome.sides);
    out.push('\n');
    for (at, moved_by) in outcome.moved_by.iter().enumerate() {
        named(out, if at == 0 { "moved by" } else { "  or by" }, moved_by);
    }
    if let Some(doctor) = &outcome.doctor {
        named(out, "doctor", doctor);
    }
    for held in &outcome.held {
        let (forecast, error) = (held.forecast.map_or("none".into(), commas), held.error_percent());
        let error = error.map_or("unknown".into(), |error| format!("{error:+.1} %"));
        let text = format!("{forecast} {}; outcome {}; error {error}", held.what, commas(held.outcome));
        named(out, "forecast", &text);
    }
    if outcome.held.is_empty() {
        named(out, "forecast", "none: no number of the doctor is held against this wall");
    }
    for note in &outcome.notes {
        named(out, "note", note);
    }
    for claim in outcome.claims.iter().filter(|claim| !claim.holds) {
        named(out, "NOT TRUE", &claim.text);
    }
    let verdict = if outcome.is_shown() { "hit and passed" } else { "NOT SHOWN" };
    let held = outcome.claims.iter().filter(|claim| claim.holds).count();
    named(
        out,
        "result",
        &format!("{verdict} in {:.1} s; {held} of {} claims hold", outcome.elapsed_s, outcome.claims.len()),
    );
}

/// The sides beside each other, one line (or several) for each measure.
fn columns(out: &mut String, sides: &[Side]) {
    let width = (WIDTH - NAMES).saturating_sub(3 * sides.len()) / sides.len().max(1);
    let rule = format!("{}{}", "-".repeat(NAMES), format!("-+-{}", "-".repeat(width)).repeat(sides.len()));
    let mut row = |name: &str, cells: &[String]| {
        let cells: Vec<Vec<String>> = cells.iter().map(|cell| wrap(cell, width)).collect();
        let is_title = name.is_empty();
        let name = wrap(name, NAMES - 1);
        let height = cells.iter().map(Vec::len).max().unwrap_or(0).max(name.len());
        for at in 0..height {
            let mut text = format!("{:<NAMES$}", name.get(at).map_or("", String::as_str));
            for cell in &cells {
                // Counted in characters, as the padding is.
                let _infallible = write!(text, " | {:<width$}", cell.get(at).map_or("", String::as_str));
            }
            line(out, format_args!("{}", text.trim_end()));
        }
        if is_title {
            line(out, format_args!("{rule}"));
        }
    };
    let each = |cell: &dyn Fn(&Side) -> String| sides.iter().map(cell).collect::<Vec<_>>();
    row("", &each(&|side| side.title.clone()));
    row("limit", &each(&|side| side.limit.clone()));
    row("asked", &each(&|side| commas(side.asked)));
    row("admitted", &each(&|side| commas(side.admitted)));
    row("refused", &each(&|side| commas(side.refused)));
    row(
        "symptom",
        &each(&|side| if side.symptoms.is_empty() { "none".into() } else { side.symptoms.join("\n") }),
    );
    let mut names: Vec<&str> = Vec::new();
    for fact in sides.iter().flat_map(|side| &side.facts) {
        if !names.contains(&fact.name.as_str()) {
            names.push(&fact.name);
        }
    }
    for name in names {
        row(
            name,
            &each(&|side| {
                let fact = side.facts.iter().find(|fact| fact.name == name);
                fact.map_or_else(|| "-".to_owned(), |fact| fact.value.clone())
            }),
        );
    }
}

/// All walls, a line each.
pub fn summary(performances: &[Performance]) -> String {
    let mut out = String::new();
    let title = "== all walls ";
    line(&mut out, format_args!("{title:=<WIDTH$}"));
    let head = ["wall", "the wall", "symptom", "past it", "time", ""];
    let mut rows: Vec<[String; 6]> = vec![head.map(str::to_owned)];
    for performance in performances {
        let id = performance.wall.id.to_owned();
        rows.push(match &performance.played {
            Played::Done(outcome) => {
                let (first, last) = (outcome.sides.first(), outcome.sides.last());
                let users = |side: Option<&Side>| {
                    side.map_or_else(String::new, |side| {
                        format!("{} of {}", commas(side.admitted), commas(side.asked))
                    })
                };
                let symptom = first.and_then(|side| side.symptoms.first()).cloned().unwrap_or_default();
                let verdict = if outcome.is_shown() { "passed" } else { "NOT SHOWN" };
                let time = format!("{:.1} s", outcome.elapsed_s);
                [id, users(first), symptom, users(last), time, verdict.to_owned()]
            }
            Played::Skipped { reason } => {
                [id, String::new(), reason.clone(), String::new(), String::new(), "skipped".to_owned()]
            }
            Played::Broken { reason } => {
                [id, String::new(), reason.clone(), String::new(), String::new(), "BROKEN".to_owned()]
            }
        });
    }
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let others: usize =
        widths.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, width)| width + 2).sum();
    let symptoms = widths[2].min(WIDTH.saturating_sub(others));
    for [id, hit, symptom, past, time, verdict] in &rows {
        for (at, symptom) in wrap(symptom, symptoms).iter().enumerate() {
            let [id, hit, past, time, verdict] =
                [id, hit, past, time, verdict].map(|cell| if at == 0 { cell.as_str() } else { "" });
            let text = format!(
                "{id:<a$}  {hit:<b$}  {symptom:<symptoms$}  {past:<d$}  {time:>e$}  {verdict}",
                a = widths[0],
                b = widths[1],
                d = widths[3],
                e = widths[4]
            );
            line(&mut out, format_args!("{}", text.trim_end()));
        }
    }
    out
}

fn named(out: &mut String, name: &str, text: &str) {
    for (at, part) in wrap(text, WIDTH - NAMES).iter().enumerate() {
        let name = if at == 0 { name } else { "" };
        line(out, format_args!("{}", format!("{name:<NAMES$}{part}").trim_end()));
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _infallible = writeln!(out, "{text}");
}

/// The text in lines of at most `width` characters, broken at spaces, and inside of words only if one is
/// longer; at least one line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut current = String::new();
        for word in paragraph.split_whitespace() {
            let mut word: Vec<char> = word.chars().collect();
            let used = current.chars().count();
            if used > 0 && used + 1 + word.len() > width {
                lines.push(std::mem::take(&mut current));
            } else if used > 0 {
                current.push(' ');
            }
            while word.len() > width {
                let rest = word.split_off(width);
                lines.push(word.into_iter().collect());
                word = rest;
            }
            current.extend(word);
        }
        lines.push(current);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(holds: bool) -> Outcome {
        let mut outcome = Outcome { stage: "a namespace".into(), elapsed_s: 1.25, ..Outcome::default() };
        let mut before = Side::new("before: one address", "3,977 ports");
        (before.asked, before.admitted, before.refused) = (5000, 3977, 1023);
        before.symptom("EADDRNOTAVAIL at connect() x 1,023");
        before.fact("threads", "1");
        let mut after = Side::new("after: two addresses", "7,954 ports");
        (after.asked, after.admitted) = (5000, 5000);
        outcome.sides = vec![before, after];
        outcome.moved_by = vec!["client-sim --source-addresses 2".into()];
        outcome.claim(holds, "3,977 were admitted");
        outcome.hold("ports of one address", Some(3_977), 3_977);
        outcome
    }

    fn wall() -> &'static Wall {
        super::super::find("user-ports").unwrap()
    }

    #[test]
    fn both_columns_stand_side_by_side_within_the_width() {
        let text = render(wall(), &Played::Done(outcome(true)));
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let admitted = text.lines().find(|line| line.starts_with("admitted")).unwrap();
        assert!(admitted.contains("3,977") && admitted.contains("| 5,000"), "{text}");
        assert!(text.contains("hit and passed in 1.2 s; 2 of 2 claims hold"), "{text}");
    }

    #[test]
    fn a_false_claim_is_printed() {
        let text = render(wall(), &Played::Done(outcome(false)));
        assert!(text.contains("NOT TRUE      3,977 were admitted"), "{text}");
        assert!(text.contains("NOT SHOWN"), "{text}");
        assert!(
            text.contains("forecast      3,977 ports of one address; outcome 3,977; error +0.0 %"),
            "{text}"
        );
    }

    #[test]
    fn the_table_has_every_verdict() {
        let performance = |played| Performance { wall: wall(), played };
        let text = summary(&[
            performance(Played::Done(outcome(true))),
            performance(Played::Skipped { reason: "needs root ".repeat(30) }),
            performance(Played::Broken { reason: "no server".into() }),
        ]);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        for words in ["3,977 of 5,000", "5,000 of 5,000", "passed", "skipped", "BROKEN"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn text_is_wrapped_without_loss() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("a\nb", 9), ["a", "b"]);
        assert_eq!(wrap("", 9), [""]);
    }
}
