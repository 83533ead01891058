//! What a client asks the application, and what one of its programs answers.
//!
//! A question has a label, which goes with it as a header, and which its answer says. So each answer is known for what it is,
//! whatever ids are used again.
//!
//! Invariant: a client has an answer at most once, of its own questions only, and none after the RECEIPT of an UNSUBSCRIBE.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Awaited, Client, Stage, login_of};
use crate::model::Model;

/// What programs answer for.
const APPLICATION: [&str; 2] = ["/app/a", "/app/b"];
/// Where what they refuse too often goes.
const DEAD_LETTERS: [&str; 2] = ["/app/a.dlq", "/app/b.dlq"];
/// Questions that a client has open at most: below the bound of subscriptions to one destination.
const OPEN_MAX: usize = 20;

/// Whether a login is one of the application's programs, where that is proved.
pub fn is_program(login: &str) -> bool {
    login.ends_with(['1', '3', '9'])
}

struct Question {
    id: String,
    has_answer: bool,
    /// It has said UNSUBSCRIBE.
    is_over: bool,
    /// And has the RECEIPT of that, or the question was refused.
    is_gone: bool,
}

/// Questions of a client, or of a program's to answer.
#[derive(Default)]
pub(super) struct Questions {
    /// By their labels.
    asked: BTreeMap<String, Question>,
    /// Where to, and the label.
    to_answer: Vec<(String, String)>,
    answered: HashSet<String>,
}

impl Questions {
    pub(super) fn clear(&mut self) {
        *self = Questions::default();
    }
}

impl Client {
    fn is_program(&self) -> bool {
        self.is_guarded && is_program(&login_of(&self.name))
    }

    /// Whether it is a program that has work to do, or should look for some.
    pub fn is_needed(&self) -> bool {
        self.is_program() && (!self.questions.to_answer.is_empty() || !self.used.contains(APPLICATION[0]))
    }

    /// Asks or answers something; says what.
    pub fn converse(&mut self, kind: usize, model: &mut Model) -> &'static str {
        match (self.is_program(), kind % 4) {
            (true, 0) if !self.used.contains(APPLICATION[0]) => {
                self.work();
                "a program comes"
            }
            (true, _) => self.answer(),
            (false, 0) => self.unask(),
            (false, _) => self.ask(model),
        }
    }

    /// Takes what is for the application, and what was refused too often.
    pub fn work_to_the_end(&mut self) {
        assert!(self.is_program());
        self.work();
        DEAD_LETTERS.iter().for_each(|place| self.take_part(place));
    }

    fn work(&mut self) {
        APPLICATION.iter().for_each(|place| self.take_part(place));
    }

    fn take_part(&mut self, place: &str) {
        self.next += 1;
        let acks = self.next.is_multiple_of(3);
        self.used.insert(place.into());
        self.queues.insert(place.into(), acks);
        let ack = if acks { "client-individual" } else { "auto" };
        self.say(format!("SUBSCRIBE\nid:{place}\ndestination:{place}\nack:{ack}\n\n\0"));
    }

    fn ask(&mut self, model: &mut Model) -> &'static str {
        let open: HashSet<&str> =
            self.questions.asked.values().filter(|one| !one.is_over).map(|one| &*one.id).collect();
        if open.len() >= OPEN_MAX {
            return self.unask();
        }
        // Its end is under way, perhaps.
        let before = self.questions.asked.values().map(|one| &*one.id).find(|id| !open.contains(id));
        let before = before.map(str::to_owned);
        self.next += 1;
        let label = format!("{}-{}", self.name, self.next);
        let (id, what) = match before {
            Some(id) if self.next.is_multiple_of(2) => (id, "asked with an id that was in use"),
            _ => (format!("ask/{}%2F", self.next), "asked"),
        };
        let place = APPLICATION[self.next as usize % 2];
        model.sent(&self.name, place, &label);
        let question = Question { id: id.clone(), has_answer: false, is_over: false, is_gone: false };
        self.questions.asked.insert(label.clone(), question);
        let receipt = self.receipt(Awaited::Asked(label.clone()));
        self.say(format!(
            "SUBSCRIBE\nid:{id}\ndestination:{place}\nlabel:{label}\nreply-to:/topic/a\nreceipt:{receipt}\n\n\0"
        ));
        what
    }

    fn unask(&mut self) -> &'static str {
        let has_any = self.questions.asked.values().any(|one| one.has_answer && !one.is_over);
        let open = self.questions.asked.iter_mut().find(|(_, one)| !one.is_over && one.has_answer == has_any);
        let Some((label, question)) = open else { return "nothing to end" };
        question.is_over = true;
        let (label, id, has_answer) = (label.clone(), question.id.clone(), question.has_answer);
        let receipt = self.receipt(Awaited::Unasked(label));
        self.say(format!("UNSUBSCRIBE\nid:{id}\nreceipt:{receipt}\n\n\0"));
        if has_answer { "ended behind its answer" } else { "ended before its answer" }
    }

    fn answer(&mut self) -> &'static str {
        let Some((to, label)) = self.questions.to_answer.pop() else { return "nothing to answer" };
        self.next += 1;
        let body = format!("{}-{} {label}", self.name, self.next);
        let is_new = self.questions.answered.insert(label.clone());
        let receipt = self.receipt(Awaited::Answered(label.clone()));
        self.say(format!("SEND\ndestination:{to}\nreceipt:{receipt}\nsender:forged\n\n{body}\0"));
        if self.next.is_multiple_of(2) {
            self.questions.to_answer.insert(0, (to, label));
        }
        if is_new { "answered" } else { "answered again" }
    }

    /// Its question is gone: it was ended, or refused.
    pub(super) fn is_gone(&mut self, label: &str) {
        if let Some(question) = self.questions.asked.get_mut(label) {
            (question.is_over, question.is_gone) = (true, true);
        }
    }

    /// Takes a MESSAGE of the application's destinations.
    pub(super) fn hear_application(&mut self, headers: &HashMap<&str, &str>, body: &str, model: &mut Model) {
        let (said, id) = (headers.get("sender").copied(), headers["subscription"]);
        let is_by = |author: &str| {
            let expected = (!author.ends_with('5')).then(|| login_of(author));
            assert_eq!(said, expected.as_deref());
        };
        assert!(headers.contains_key("timestamp"));
        if !self.is_program() {
            let (author, rest) = body.split_once('-').expect("an answer begins with its author");
            let (_, label) = rest.split_once(' ').expect("and with its question");
            is_by(author);
            let question = self.questions.asked.get_mut(label).expect("it has asked that");
            assert_eq!(question.id, id, "of {label}");
            assert!(!question.has_answer, "{label} has two answers");
            assert!(!question.is_gone, "{label} has an answer behind its end");
            question.has_answer = true;
            return;
        }
        let label = headers["label"];
        is_by(label.split_once('-').expect("a label begins with its author").0);
        assert!(!headers.contains_key("id"));
        let to = headers["reply-to"];
        assert!(to.starts_with(&format!("/reply/{}/", headers["sender-session"])), "{to}");
        if self.questions.to_answer.len() < OPEN_MAX {
            self.questions.to_answer.push((to.into(), label.into()));
        }
        self.take_of_queue(id, headers, label, model);
    }

    /// Panics if an answer that has its place did not come.
    pub(super) fn check_answers(&self, model: &Model) {
        let missing = |(label, one): &(&String, &Question)| {
            self.stage == Stage::Ready && !one.is_over && !one.has_answer && model.is_answered(label)
        };
        let lost: Vec<&String> =
            self.questions.asked.iter().filter(missing).map(|(label, _)| label).collect();
        assert!(lost.is_empty(), "answers to {} are lost: {lost:?}", self.name);
    }
}
