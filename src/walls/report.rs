//! The report: one forecast, for people and as JSON.
//!
//! People get the answer first: how many connections, which wall, does N fit; then the walls as a table, what
//! they do, and the commands for those that are in the way. The JSON is in [`json`].
//!
//! Invariant: no line of a table or paragraph is longer than [`WIDTH`] columns; commands and paths are not
//! wrapped, because they are to be copied.

use std::fmt::Write as _;

use crate::config::plan::memory::Bytes;

use super::catalogue;
use super::forecast::{CONNECTIONS_MAX, Fix, Forecast, Grouped, Kind, Verdict, Wall};
use super::probe::Snapshot;
use super::running::Running;
use super::watch::{BLIND, Server, Watch};

pub mod json;

/// Columns of a page.
pub const WIDTH: usize = 100;
/// Columns of the name of a wall.
const NAME_COLUMNS: usize = 26;

/// Everything that is reported.
#[derive(Debug, Clone, Copy)]
pub struct Examination<'a> {
    /// What was read.
    pub snapshot: &'a Snapshot,
    /// What follows from it.
    pub forecast: &'a Forecast,
    /// The server that runs already, if it is to hold the connections.
    pub running: Option<&'a Running>,
    /// The counters, if they were watched.
    pub watch: Option<&'a Watch>,
}

/// The report for people.
pub fn text(examination: &Examination<'_>) -> String {
    let mut page = Page::default();
    page.summary(examination);
    if let Some(watch) = examination.watch {
        page.watch(watch);
    }
    page.walls(examination.forecast);
    page.behaviour(examination.forecast);
    page.fixes(examination.forecast);
    page.unreadable(examination.snapshot);
    page.text
}

/// One line about the wall that is in the way of a capacity, for the server's log.
pub fn warning(forecast: &Forecast) -> Option<String> {
    let wall = forecast.in_the_way()?;
    let command = wall.fix.as_ref().and_then(|fix| fix.now.first());
    let moved = command.map_or(String::new(), |command| format!("; {command}"));
    Some(format!(
        "capacity {} is above the lowest wall: {} stops at {} connections{moved} (tcbchat doctor says more)",
        forecast.connections,
        wall.name,
        wall.holds().unwrap_or(0),
    ))
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, arguments: std::fmt::Arguments<'_>) {
        self.text.write_fmt(arguments).expect("a String takes every text");
        let kept = self.text.trim_end_matches(' ').len();
        self.text.truncate(kept);
        self.text.push('\n');
    }

    fn heading(&mut self, words: &str) {
        self.line(format_args!("\n{words}"));
    }

    /// Words wrapped between `indent` and [`WIDTH`], the first line after `lead`.
    fn paragraph(&mut self, lead: &str, indent: usize, words: &str) {
        let mut line = format!("{lead:<indent$}");
        let mut is_empty = true;
        for word in words.split_whitespace() {
            let room = line.chars().count() + usize::from(!is_empty) + word.chars().count() <= WIDTH;
            if !room && !is_empty {
                self.line(format_args!("{line}"));
                line = " ".repeat(indent);
                is_empty = true;
            }
            if !is_empty {
                line.push(' ');
            }
            line.push_str(word);
            is_empty = false;
        }
        self.line(format_args!("{line}"));
    }

    fn summary(&mut self, examination: &Examination<'_>) {
        const INDENT: usize = 16;
        let forecast = examination.forecast;
        let (asked, maximum, lowest) = (forecast.connections, forecast.maximum, forecast.lowest);
        let name = |id| forecast.wall(id).map_or("tcb.capacity", |wall| wall.name);
        let unread =
            of_kind(forecast, Kind::Count).filter(|wall| wall.verdict == Verdict::Unreadable).count();
        let doubt = match unread {
            0 => String::new(),
            1 => " One wall could not be read and may be lower.".into(),
            _ => format!(" {unread} walls could not be read and may be lower."),
        };
        match &forecast.start {
            Ok(_) => self.paragraph(
                "Maximum",
                INDENT,
                &format!(
                    "{} connections{}: so many does serve take here with this configuration; {} stops the next \
                     one.{doubt}",
                    Grouped(maximum.connections),
                    if forecast.is_on_top && examination.running.is_some() { " more" } else { "" },
                    name(maximum.wall)
                ),
            ),
            Err(refusal) => {
                self.paragraph(
                    "Maximum",
                    INDENT,
                    &format!("0 connections: serve does not start here: {}.", refusal.reason),
                );
                for command in refusal.fix.iter().flat_map(|fix| &fix.now) {
                    self.line(format_args!("{:INDENT$}{command}", ""));
                }
            }
        }
        let possible = forecast.possible;
        if possible.connections > maximum.connections {
            self.paragraph(
                "Possible",
                INDENT,
                &format!(
                    "{} connections with another capacity; then {} stops the next one. So it is started:",
                    Grouped(possible.connections),
                    name(possible.wall),
                ),
            );
            self.line(format_args!("{:INDENT$}{}", "", command_for(possible.connections)));
        }
        if let Some(running) = examination.running {
            let words = match (running.open(), running.waiting(), &running.numbers) {
                (Some(open), Some(waiting), _) => format!(
                    "by process {} at {}: {} connections, and {} places of TIME_WAIT.",
                    running.pid,
                    running.address,
                    Grouped(open),
                    Grouped(waiting)
                ),
                (.., Err(silence)) => {
                    format!("process {} at {} does not tell: {silence}.", running.pid, running.address)
                }
                _ => format!("process {} at {} does not tell.", running.pid, running.address),
            };
            self.paragraph("In use", INDENT, &words);
        }
        let passed = forecast.wall(lowest.wall).and_then(|wall| wall.passed_until);
        let beyond = match (passed, &forecast.plan) {
            (Some(_), Ok(plan)) if plan.private_fd_tables => format!(
                "; this server passes it by itself, with {} reactors that have a private table each",
                plan.reactors
            ),
            (Some(_), _) => "; this server passes it by itself, with a private table for each reactor".into(),
            (None, _) => String::new(),
        };
        self.paragraph(
            "Lowest wall",
            INDENT,
            &format!("{}, {} connections{beyond}.", name(lowest.wall), Grouped(lowest.connections)),
        );
        let origin = match (forecast.is_on_top, examination.running) {
            (true, Some(_)) => "asked for, on top of those that are open",
            (true, None) => "asked for",
            (false, Some(_)) => "the capacity of the server that runs, those that are open included",
            (false, None) => "the configuration's capacity",
        };
        let answer = match forecast.in_the_way() {
            None if forecast.start.is_err() => "there is no server to hold them.".to_owned(),
            None => "they fit.".to_owned(),
            Some(wall) => {
                format!("they do not fit: {} stops at {}.", wall.name, Grouped(wall.holds().unwrap_or(0)))
            }
        };
        self.paragraph("Connections", INDENT, &format!("{} ({origin}): {answer}", Grouped(asked)));
        let memory = &forecast.memory;
        let source = if memory.is_kernel_read { "this kernel's objects" } else { "usual sizes" };
        self.paragraph(
            "Memory",
            INDENT,
            &format!(
                "{} each while idle: {} bytes of the kernel ({source}, this end only) and {} of the server. For \
                 all: {} of the kernel, {} of the server; with every bound on bytes under way reached, {}.",
                Bytes(memory.kernel_bytes_each + memory.user_bytes_each),
                Grouped(memory.kernel_bytes_each),
                Grouped(memory.user_bytes_each),
                Bytes(memory.kernel_bytes),
                Bytes(memory.user_bytes),
                Bytes(memory.bytes_max),
            ),
        );
        if let Ok(plan) = &forecast.plan {
            let tables = if plan.private_fd_tables {
                "a private descriptor table each"
            } else {
                "one descriptor table"
            };
            let plural = if plan.reactors == 1 { "" } else { "s" };
            let is_served =
                forecast.start.as_ref().is_ok_and(|served| served.tcb.capacity == plan.tcb.capacity);
            self.paragraph("Plan", INDENT, &format!("{} reactor{plural} with {tables}.", plan.reactors));
            if !is_served && examination.running.is_none() {
                self.line(format_args!("{:INDENT$}{}", "", command_for(asked.into())));
            }
        }
    }

    fn watch(&mut self, watch: &Watch) {
        self.heading(&format!("Counters of this network namespace, {:.1} s apart", watch.seconds));
        let hit = watch.hit();
        if hit.is_empty() {
            self.line(format_args!("  None of {} counters of the kernel rose.", watch.deltas.len()));
        } else {
            self.line(format_args!("  Being hit right now: {}", hit.join(", ")));
        }
        for delta in watch.rises() {
            let rate = delta.rise() as f64 / watch.seconds.max(0.001);
            self.paragraph(
                &format!("  {:<24}{:>12}  ", delta.watched.counter, format!("+{}", Grouped(delta.rise()))),
                40,
                &format!("{rate:.1}/s, {}: {}", delta.watched.row, delta.watched.meaning),
            );
        }
        match &watch.server {
            Server::Told { pid, compared, refused } if refused.is_empty() => {
                self.line(format_args!(
                    "  None of {compared} refusals that the server (process {pid}) counts rose."
                ));
            }
            Server::Told { refused, .. } => {
                for refused in refused {
                    self.paragraph(
                        &format!("  {:<24}{:>12}  ", refused.counter, format!("+{}", Grouped(refused.rise))),
                        40,
                        &format!("by the server, {}: {}", refused.row, refused.meaning),
                    );
                }
            }
            Server::Silent { pid, why, .. } => self.paragraph(
                "  ",
                2,
                &format!("Not seen: what the server (process {pid}) refuses, because {why}."),
            ),
            Server::Unseen { why } => {
                self.paragraph("  ", 2, &format!("Not seen: what a server refuses, because {why}."));
            }
        }
        for full in &watch.full_tables {
            self.paragraph(
                "  ",
                2,
                &format!(
                    "A descriptor table of process {} is full: {} of {} are open, so accept fails with EMFILE.",
                    full.pid,
                    Grouped(full.open),
                    Grouped(full.limit)
                ),
            );
        }
        self.paragraph("  ", 2, &format!("Never seen from here: {BLIND}."));
    }

    fn walls(&mut self, forecast: &Forecast) {
        self.heading(&format!(
            "Walls that bound the number, the lowest first, for {} connections",
            Grouped(forecast.connections)
        ));
        self.line(format_args!(
            "  {:<NAME_COLUMNS$}{:>14}{:>10}{:>11}{:>14}{:>11}  verdict",
            "", "limit", "in use", "needed", "headroom", "stops at"
        ));
        for wall in of_kind(forecast, Kind::Count) {
            let number =
                |value: Option<u64>| value.map_or("-".to_owned(), |value| quantity(wall, value.into()));
            let limit = match (wall.limit, wall.verdict) {
                (None, Verdict::Unreadable) => "?".to_owned(),
                (None, _) => "none".to_owned(),
                (limit, _) => number(limit),
            };
            let in_use = match wall.in_use {
                None if wall.limit.is_some() => "?".to_owned(),
                in_use => number(in_use),
            };
            self.line(format_args!(
                "  {:<NAME_COLUMNS$}{limit:>14}{in_use:>10}{:>11}{:>14}{:>11}  {}",
                wall.name,
                number(wall.needed),
                wall.headroom().map_or("-".to_owned(), |left| quantity(wall, left)),
                // Beyond what the server's own table can hold it stops nobody.
                wall.stops_at
                    .filter(|at| *at <= u64::from(CONNECTIONS_MAX))
                    .map_or("-".to_owned(), |at| Grouped(at).to_string()),
                wall.verdict
            ));
        }
        let told = |wall: &&Wall| !matches!(wall.verdict, Verdict::Fits | Verdict::Unreadable);
        for wall in of_kind(forecast, Kind::Count).filter(told) {
            self.line(format_args!("\n  {}: {}", wall.name, wall.verdict));
            self.paragraph("", 4, &wall.effect);
        }
    }

    fn behaviour(&mut self, forecast: &Forecast) {
        self.heading("Walls that shape the behaviour");
        for wall in of_kind(forecast, Kind::Behaviour).filter(|wall| wall.verdict != Verdict::Unreadable) {
            let mark = if wall.verdict == Verdict::Notice { "! " } else { "  " };
            self.paragraph(&format!("{mark}{}", wall.id), 18, &wall.effect);
        }
    }

    fn fixes(&mut self, forecast: &Forecast) {
        let movable = |verdict: Verdict| -> Vec<(&Wall, &Fix)> {
            let of = forecast.walls.iter().filter(|wall| wall.verdict == verdict);
            of.filter_map(|wall| Some((wall, wall.fix.as_ref()?))).collect()
        };
        let (below, felt) = (movable(Verdict::Below), movable(Verdict::Notice));
        if !below.is_empty() {
            self.heading("What moves the walls in the way");
            self.fixes_of(&below);
        } else if forecast.fits() {
            self.heading("No wall needs to be moved.");
        }
        if !felt.is_empty() {
            self.heading("What moves walls that are felt under load, if that matters here");
            self.fixes_of(&felt);
        }
    }

    fn fixes_of(&mut self, walls: &[(&Wall, &Fix)]) {
        for (wall, fix) in walls {
            let windows = catalogue::row(wall.row).map_or("", |row| row.windows);
            self.paragraph("", 2, &format!("{} ({}; on Windows: {windows})", wall.name, wall.row));
            for command in &fix.now {
                self.line(format_args!("      {command}"));
            }
            for stay in &fix.stay {
                self.line(format_args!("    to make it stay, in {}:", stay.file));
                for line in &stay.lines {
                    self.line(format_args!("      {line}"));
                }
            }
        }
    }

    fn unreadable(&mut self, snapshot: &Snapshot) {
        let unreadable = snapshot.unreadable();
        if unreadable.is_empty() {
            return;
        }
        self.heading("Unreadable; walls that need it are not judged, and sizes are the usual ones");
        for error in unreadable {
            self.paragraph("", 2, &error.to_string());
        }
    }
}

/// What starts a server of this capacity.
fn command_for(connections: u64) -> String {
    format!("tcbchat serve --capacity {connections}")
}

fn of_kind(forecast: &Forecast, kind: Kind) -> impl Iterator<Item = &Wall> {
    forecast.walls.iter().filter(move |wall| wall.kind == kind)
}

/// A number in the unit of a wall.
fn quantity(wall: &Wall, value: i128) -> String {
    match (wall.unit, u64::try_from(value.unsigned_abs())) {
        ("bytes", Ok(bytes)) => format!("{}{}", if value < 0 { "-" } else { "" }, Bytes(bytes)),
        _ => Grouped(value).to_string(),
    }
}

#[cfg(test)]
mod tests;
