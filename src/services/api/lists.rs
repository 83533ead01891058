//! Lists, page by page over all shards, and what their queries say.
//!
//! A page is a part of a walk over the shards, each in its own order, which stays. So entries that are there from the first page
//! to the last are met once. The count is of the whole list, whichever page is asked for; with `limit=0` it comes alone.
//!
//! Invariant: the cursor of a page is the place of the first entry behind it.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::counts::{Counts, Refusal};
use super::problem::Problem;
use super::shards::Shards;
use crate::limits;
use crate::mesh::inquiry::{Inquiry, Page, Part, Reply};

/// Entries of a page where nothing is said.
const ENTRIES: u32 = 100;

/// The parameters of a query. Each is taken once, and none may be left.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads a query, escapes decoded.
    ///
    /// # Errors
    /// A name is there twice.
    pub(super) fn parse(text: &'a str) -> Result<Query<'a>, Problem> {
        let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(Problem::invalid(format!("the parameter {name:?} is there twice")));
            }
            pairs.push((name, value));
        }
        Ok(Query(pairs))
    }

    /// The value of a parameter, if it is there and not empty.
    pub(super) fn take(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.swap_remove(at).1).filter(|value| !value.is_empty())
    }

    /// All parameters were taken.
    ///
    /// # Errors
    /// One was not.
    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            Some((name, _)) => Err(Problem::invalid(format!("there is no parameter {name:?}"))),
            None => Ok(()),
        }
    }

    /// Which part of a list is asked for.
    ///
    /// # Errors
    /// The limit is no number or too large; the cursor is none of ours.
    pub(super) fn part(&mut self, limits: &limits::Api, counts: &Counts) -> Result<(Cursor, u32), Problem> {
        let limit = match self.take("limit") {
            None => ENTRIES.min(limits.page_entries_max),
            Some(text) => {
                let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse::<u64>().ok().filter(|_| is_number);
                let number = number.ok_or_else(|| Problem::invalid("limit must be a number"))?;
                let max = limits.page_entries_max;
                if number > max.into() {
                    counts.refused(Refusal::Page);
                    let detail = format!("a page has at most api.page_entries_max = {max} entries");
                    return Err(Problem::new(422, "page-too-long", detail));
                }
                number as u32
            }
        };
        let cursor = match self.take("after") {
            None => Cursor::default(),
            Some(text) => Cursor::decode(&text).ok_or_else(|| {
                Problem::new(422, "cursor", "after must be the value of next of the page before")
            })?,
        };
        Ok((cursor, limit))
    }
}

/// A place in a list of all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    shard: u16,
    place: u32,
}

impl Cursor {
    fn encode(self) -> String {
        let Cursor { shard, place } = self;
        let mut bytes = [0; 6];
        bytes[..2].copy_from_slice(&shard.to_be_bytes());
        bytes[2..].copy_from_slice(&place.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn decode(text: &str) -> Option<Cursor> {
        let bytes: [u8; 6] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let [a, b, place @ ..] = bytes;
        Some(Cursor { shard: u16::from_be_bytes([a, b]), place: u32::from_be_bytes(place) })
    }
}

/// A page of a list of all shards.
#[derive(Debug, Serialize)]
pub(super) struct Listed<T> {
    /// The entries.
    #[serde(skip)]
    pub entries: Vec<T>,
    /// How many the whole list has.
    pub count: u64,
    /// The cursor of the next page, if there is one.
    pub next: Option<String>,
}

/// Asks all shards for a page, one after the other: the page is full before its successors are asked for more than their number.
pub(super) async fn list<T>(
    shards: &Shards,
    (cursor, limit): (Cursor, u32),
    ask: impl Fn(Part, Reply<Page<T>>) -> Inquiry,
) -> Result<Listed<T>, Problem> {
    let mut listed = Gathered { entries: Vec::new(), count: 0, next: None };
    for shard in 0..shards.count() {
        let part = listed.part_of(shard, cursor, limit);
        let answer = shards.ask(shard, |reply| ask(part, reply));
        listed.add(shard, part, limit, shards.answer(answer).await?, cursor);
    }
    let Gathered { entries, count, next } = listed;
    Ok(Listed { entries, count, next: next.map(Cursor::encode) })
}

/// What shards have answered until now.
#[derive(Debug)]
struct Gathered<T> {
    entries: Vec<T>,
    count: u64,
    next: Option<Cursor>,
}

impl<T> Gathered<T> {
    /// What the next shard is asked for.
    fn part_of(&self, shard: u16, cursor: Cursor, limit: u32) -> Part {
        let from = if shard == cursor.shard { cursor.place } else { 0 };
        let is_wanted = shard >= cursor.shard && self.next.is_none();
        Part { from, limit: if is_wanted { limit - self.entries.len() as u32 } else { 0 } }
    }

    /// It has answered.
    fn add(&mut self, shard: u16, part: Part, limit: u32, page: Page<T>, cursor: Cursor) {
        self.count += page.count;
        self.entries.extend(page.entries);
        if self.next.is_some() || limit == 0 || shard < cursor.shard {
            return;
        }
        if part.limit > 0 {
            self.next = page.next.map(|place| Cursor { shard, place });
        } else if page.count > 0 {
            // The page was full with the last entry of the shard before.
            self.next = Some(Cursor { shard, place: 0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_parameter_is_known_and_there_once() {
        let mut query = Query::parse("login=a%20b&limit=7&empty=").unwrap();
        assert_eq!((query.take("login").as_deref(), query.take("login")), (Some("a b"), None));
        assert_eq!(query.take("empty"), None);
        let (limits, counts) = (limits::Api::default(), Counts::default());
        assert_eq!(query.part(&limits, &counts).unwrap(), (Cursor::default(), 7));
        assert!(query.finish().is_ok());
        assert!(Query::parse("a=1&b=2&a=1").is_err());
        assert!(Query::parse("a=1").unwrap().finish().is_err());
        for bad in [
            "limit=-1",
            "limit=+1",
            "limit=1e3",
            "limit=1001",
            "limit=99999999999999999999",
            "after=AAA",
            "after=!",
        ] {
            assert!(Query::parse(bad).unwrap().part(&limits, &counts).is_err(), "{bad}");
        }
    }

    /// A shard's answer, as `Page::add` makes it.
    fn answer(entries: &[(u32, u32)], part: Part) -> Page<u32> {
        let mut page = Page::default();
        entries.iter().for_each(|(place, entry)| page.add(*place, part, || *entry));
        page
    }

    proptest! {
        #[test]
        fn pages_together_are_the_list(
            shards in prop::collection::vec(prop::collection::vec(any::<bool>(), 0..12), 1..5), limit in 1u32..6,
        ) {
            // Each place of each shard that is taken has an entry of its own.
            let lists: Vec<Vec<(u32, u32)>> = (0u32..).zip(&shards).map(|(shard, places)| {
                let taken = (0u32..).zip(places).filter(|(_, is_taken)| **is_taken);
                taken.map(|(place, _)| (place, shard * 100 + place)).collect()
            }).collect();
            let all: Vec<u32> = lists.iter().flatten().map(|(_, entry)| *entry).collect();
            let (mut met, mut cursor) = (Vec::new(), Cursor::default());
            loop {
                let mut page = Gathered { entries: Vec::new(), count: 0, next: None };
                for (shard, entries) in (0u16..).zip(&lists) {
                    let part = page.part_of(shard, cursor, limit);
                    page.add(shard, part, limit, answer(entries, part), cursor);
                }
                prop_assert_eq!(page.count, all.len() as u64);
                prop_assert!(page.entries.len() == limit as usize || page.next.is_none());
                met.extend(page.entries);
                match page.next {
                    Some(next) => {
                        prop_assert_eq!(Cursor::decode(&next.encode()), Some(next));
                        cursor = next;
                    }
                    None => break,
                }
            }
            prop_assert_eq!(met, all);
        }
    }
}
