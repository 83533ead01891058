//! One simulated client: a STOMP of its own, over WebSocket or alone.

mod questions;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tcbchat::message::destination::EVENTS;
use tcbchat::message::reply::ERRORS;

use crate::bounds;
use crate::channel::{Bare, Channel, Heard};
use crate::gate;
use crate::model::{Model, SubscriptionId};
use crate::past;

use questions::Questions;
pub use questions::is_program;

/// What a receipt will confirm.
enum Awaited {
    Subscribed(SubscriptionId),
    /// The id, the topic, and the subscription that ends.
    Left(String, String, SubscriptionId),
    Sent(Vec<String>),
    Acked(String),
    /// The label of a question.
    Asked(String),
    Unasked(String),
    Answered(String),
    Nothing,
    /// It will be refused: the receipt does not come.
    Refused,
}

/// How far the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Waits for the answer to its upgrade.
    Http,
    /// Waits for CONNECTED.
    Connecting,
    /// Has a session.
    Ready,
    /// Has asked to end, or was told to.
    Leaving,
}

pub struct Client {
    pub stage: Stage,
    /// Whether the server may upgrade it; if not, it must say 403.
    may_open: bool,
    channel: Channel,
    /// Subscriptions by their ids and topics; those that it has asked to end are here until their receipts come.
    topics: BTreeMap<(String, String), SubscriptionId>,
    leaving: BTreeSet<(String, String)>,
    /// All that it ever had.
    had: HashSet<(String, String)>,
    /// Subscriptions whose end was confirmed.
    left: BTreeSet<(String, String)>,
    /// Ids of queue subscriptions and whether they acknowledge.
    queues: BTreeMap<String, bool>,
    /// Queue messages to acknowledge: ack id, body and subscription.
    pub unsettled: Vec<(String, String, String)>,
    /// Queue messages that came after somebody else's acknowledgement of them had been confirmed: right only
    /// if the server has ended this session, which has the news still before it.
    late: Vec<String>,
    awaited: HashMap<String, Awaited>,
    used: HashSet<String>,
    next: u32,
    name: String,
    /// The server asks who it is.
    is_guarded: bool,
    /// It has said so in its upgrade.
    has_token: bool,
    /// Whether its first CONNECT is right.
    pub proof: Option<bool>,
    /// Messages of topics that it has not reacted to.
    pub unanswered: usize,
    /// Names of the ERRORs that it was sent.
    pub faults: Vec<String>,
    /// Receipts that it asked for before it said how it ends, and has not got.
    due: HashSet<String>,
    /// The ERROR that it ends by, if it has said what no client may say.
    blundered: Option<&'static str>,
    /// Sessions that have ended, as it has heard.
    over: HashSet<String>,
    /// It goes on after a refusal, which is a MESSAGE.
    survives: bool,
    /// Names of the refusals that it was told.
    pub refusals: Vec<String>,
    questions: Questions,
}

/// Some have one login with the client that came before them.
fn login_of(name: &str) -> String {
    match name.strip_suffix('7') {
        Some(rest) => format!("{rest}6"),
        None => name.to_owned(),
    }
}

impl Client {
    /// A client that has asked for its upgrade. A server that asks who it is may hear it there already.
    pub fn new(name: String, is_guarded: bool) -> Client {
        Client::asking(name, is_guarded, "", true)
    }

    /// The same with these header lines, for which the server may upgrade it or not.
    pub fn asking(name: String, is_guarded: bool, lines: &str, may_open: bool) -> Client {
        let has_token = is_guarded && name.ends_with(['0', '2', '4', '6', '8']);
        let token = if has_token { format!("Authorization: Bearer {name}\r\n") } else { String::new() };
        let channel = Channel::asking(&format!("{token}{lines}"));
        Client { has_token, ..Client::over(channel, Stage::Http, name, is_guarded, may_open) }
    }

    /// A client whose frames travel as they are.
    pub fn bare(name: String, is_guarded: bool, may_open: bool) -> Client {
        Client::over(Channel::Bare(Bare::default()), Stage::Connecting, name, is_guarded, may_open)
    }

    fn over(channel: Channel, stage: Stage, name: String, is_guarded: bool, may_open: bool) -> Client {
        Client {
            stage,
            may_open,
            channel,
            topics: BTreeMap::new(),
            leaving: BTreeSet::new(),
            had: HashSet::new(),
            left: BTreeSet::new(),
            queues: BTreeMap::new(),
            unsettled: Vec::new(),
            late: Vec::new(),
            awaited: HashMap::new(),
            used: HashSet::new(),
            next: 0,
            name,
            is_guarded,
            has_token: false,
            proof: None,
            unanswered: 0,
            faults: Vec::new(),
            due: HashSet::new(),
            blundered: None,
            over: HashSet::new(),
            survives: false,
            refusals: Vec::new(),
            questions: Questions::default(),
        }
    }

    /// The same, of a server whose refusals sessions survive, or not.
    pub fn surviving(self, survives: bool) -> Client {
        Client { survives, ..self }
    }

    /// Bytes for the server.
    pub fn take_outgoing(&mut self) -> Vec<u8> {
        self.channel.take_outgoing()
    }

    /// Says these frames. The model does not hear of them.
    pub fn say(&mut self, text: String) {
        self.trace("says", &text);
        self.channel.say(&text);
    }

    fn receipt(&mut self, awaited: Awaited) -> String {
        self.next += 1;
        // Short ones and long ones are kept differently.
        let end = if self.next.is_multiple_of(3) { "-with-an-end-that-is-long-enough" } else { "" };
        let id = format!("r{}{end}", self.next);
        self.awaited.insert(id.clone(), awaited);
        id
    }

    pub fn connect(&mut self, heart_beat: Option<u32>, is_wrong: bool) {
        let beats = heart_beat.map(|ms| format!("heart-beat:{ms},{ms}\n")).unwrap_or_default();
        // Some are nobody.
        let is_silent = self.has_token || (self.is_guarded && self.name.ends_with('5'));
        let login = if is_silent { String::new() } else { format!("login:{}\n", login_of(&self.name)) };
        let passcode = if is_wrong { format!("passcode:{}\n", gate::WRONG) } else { String::new() };
        self.proof.get_or_insert(!is_wrong || !self.is_guarded);
        self.say(format!("CONNECT\naccept-version:1.1,1.2\n{login}{passcode}{beats}\n\0"));
    }

    /// Proves again who it is, or that it is somebody else.
    pub fn renew(&mut self, is_another: bool) {
        let token = if is_another { gate::ANOTHER.to_owned() } else { login_of(&self.name) };
        let receipt = self.receipt(Awaited::Nothing);
        self.say(format!("SEND\ndestination:/session/token\nreceipt:{receipt}\n\n{token}\0"));
    }

    pub fn beat(&mut self) {
        self.say("\n".into());
    }

    pub fn subscribe(&mut self, place: &str, model: &mut Model) {
        self.next += 1;
        // Half of them with an id that others use too.
        let common = format!("sub-{place}");
        // No id twice: what is under way for the first subscription would be taken for the second's.
        let is_common = self.next.is_multiple_of(2) && self.used.insert(common.clone());
        let id = if is_common { common } else { format!("s{}", self.next) };
        if place.starts_with("/queue/") {
            let acks = self.next.is_multiple_of(3);
            self.queues.insert(id.clone(), acks);
            let ack = if acks { "client-individual" } else { "auto" };
            let receipt = self.receipt(Awaited::Nothing);
            self.say(format!("SUBSCRIBE\nid:{id}\ndestination:{place}\nack:{ack}\nreceipt:{receipt}\n\n\0"));
        } else {
            let (subscription, asks) = past::ask(&self.name, place, self.next, &self.topics, model);
            self.had.insert((id.clone(), place.into()));
            self.topics.insert((id.clone(), place.into()), subscription);
            let receipt = self.receipt(Awaited::Subscribed(subscription));
            self.say(format!("SUBSCRIBE\nid:{id}\ndestination:{place}\n{asks}receipt:{receipt}\n\n\0"));
        }
    }

    /// A subscription to a topic that it has not asked to end; to this one, if there is any.
    fn some_topic(&self, place: &str) -> Option<(String, String)> {
        let mut there = self.topics.keys().filter(|key| !self.leaving.contains(*key));
        let first = there.clone().next();
        there.find(|(_, topic)| topic == place).or(first).cloned()
    }

    /// Ends a subscription to `place`, or to another topic.
    pub fn unsubscribe(&mut self, place: &str, model: &mut Model) -> Option<(String, String)> {
        let (id, topic) = self.some_topic(place)?;
        let key = (id.clone(), topic.clone());
        self.next += 1;
        if self.next.is_multiple_of(3) {
            model.over(self.topics.remove(&key)?);
            self.say(format!("UNSUBSCRIBE\nid:{id}\n\n\0"));
        } else {
            let subscription = self.topics[&key];
            model.leaving(subscription);
            self.leaving.insert(key.clone());
            let receipt = self.receipt(Awaited::Left(id.clone(), topic, subscription));
            self.say(format!("UNSUBSCRIBE\nid:{id}\nreceipt:{receipt}\n\n\0"));
        }
        Some(key)
    }

    /// Ends a subscription to a queue.
    pub fn unsubscribe_queue(&mut self) {
        let Some(id) = self.queues.keys().next().cloned() else { return };
        self.queues.remove(&id);
        // What it has not settled goes to somebody else.
        self.unsettled.retain(|(_, _, subscription)| *subscription != id);
        let receipt = self.receipt(Awaited::Nothing);
        self.say(format!("UNSUBSCRIBE\nid:{id}\nreceipt:{receipt}\n\n\0"));
    }

    /// Ends a subscription and uses its id at once, for `place`.
    pub fn subscribe_again(&mut self, place: &str, model: &mut Model) -> bool {
        let before = self.some_topic(place).and_then(|key| self.topics.get(&key).copied());
        if before.is_some_and(|before| model.asks_for_the_past(before)) {
            // What comes for three with one id could not be told apart.
            return false;
        }
        let Some(old) = self.unsubscribe(place, model) else { return false };
        let key = (old.0.clone(), place.to_owned());
        let (subscription, asks) = if key == old {
            self.leaving.remove(&key);
            match self.topics.remove(&key).or(before) {
                Some(before) => past::ask_again(before, self.next, model),
                None => return false,
            }
        } else if self.had.contains(&key) {
            // Two of one id and one topic would be taken for one another.
            return true;
        } else {
            (model.subscribe(&self.name, place), String::new())
        };
        self.had.insert(key.clone());
        self.topics.insert(key, subscription);
        let receipt = self.receipt(Awaited::Subscribed(subscription));
        self.say(format!("SUBSCRIBE\nid:{}\ndestination:{place}\n{asks}receipt:{receipt}\n\n\0", old.0));
        true
    }

    pub fn send(&mut self, place: &str, padding: usize, model: &mut Model) {
        self.next += 1;
        let body = format!("{}-{}{}", self.name, self.next, ".".repeat(padding));
        model.sent(&self.name, place, &body);
        let receipt = self.receipt(Awaited::Sent(vec![body.clone()]));
        self.say(format!("SEND\ndestination:{place}\nreceipt:{receipt}\nsender:forged\nx:y\n\n{body}\0"));
    }

    /// A committed transaction of two messages.
    pub fn transact(&mut self, places: [&str; 2], model: &mut Model) {
        self.next += 1;
        let tx = format!("tx{}", self.next);
        let bodies = [0, 1].map(|part| format!("{}-{tx}-{part}", self.name));
        let mut text = format!("BEGIN\ntransaction:{tx}\n\n\0");
        for (place, body) in places.iter().zip(&bodies) {
            model.sent(&self.name, place, body);
            text += &format!("SEND\ndestination:{place}\ntransaction:{tx}\n\n{body}\0");
        }
        let receipt = self.receipt(Awaited::Sent(bodies.into()));
        self.say(format!("{text}COMMIT\ntransaction:{tx}\nreceipt:{receipt}\n\n\0"));
    }

    /// Settles the oldest queue message.
    pub fn settle(&mut self, is_nack: bool) {
        if self.unsettled.is_empty() {
            return;
        }
        let (ack, body, _) = self.unsettled.remove(0);
        if is_nack {
            self.say(format!("NACK\nid:{ack}\n\n\0"));
        } else {
            let receipt = self.receipt(Awaited::Acked(body));
            self.say(format!("ACK\nid:{ack}\nreceipt:{receipt}\n\n\0"));
        }
    }

    /// Says what no client may say; the session ends by it.
    pub fn blunder(&mut self, kind: usize, model: &mut Model) {
        const BLUNDERS: [(&str, &str); 5] = [
            ("SEND\nno colon\n\n\0", "header-malformed"),
            ("SEND\ndestination:/topic/a\ncontent-length:many\n\n\0", "content-length"),
            ("NONSENSE\n\n\0", "unknown-command"),
            ("SEND\ndestination:/elsewhere/a\n\n\0", "bad-destination"),
            ("ACK\nid:1-1\n\nwith a body that it must not have\0", "body-not-allowed"),
        ];
        let (text, fault) = BLUNDERS[kind % BLUNDERS.len()];
        self.say(text.into());
        self.blundered = Some(fault);
        self.leave_in_order(model);
    }

    /// Listens to events.
    pub fn listen(&mut self) {
        if self.used.insert("events".into()) {
            self.say(format!("SUBSCRIBE\nid:events\ndestination:{EVENTS}\n\n\0"));
        }
    }

    /// Hears an event: none of a session comes behind its end.
    fn hear(&mut self, body: &str) {
        let event: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let session = event["session"].as_str().expect("a session").to_owned();
        assert!(!self.over.contains(&session), "{event} of one that is over");
        if event["event"] == "disconnected" {
            self.over.insert(session);
        }
    }

    /// Does what the rules forbid; the session ends by it, or is told so.
    pub fn trespass(&mut self, kind: usize, model: &mut Model) {
        let place = bounds::FORBIDDEN;
        let asks = if self.survives && kind % 3 < 2 {
            format!("receipt:{}\n", self.receipt(Awaited::Refused))
        } else {
            String::new()
        };
        self.say(match kind % 3 {
            0 => format!("SEND\ndestination:{place}\n{asks}\nx\0"),
            1 => format!("SUBSCRIBE\ndestination:{place}\nid:trespass\n{asks}\n\0"),
            _ => format!(
                "BEGIN\ntransaction:t\n\n\0SEND\ntransaction:t\ndestination:{place}\n\nx\0COMMIT\ntransaction:t\n\n\0"
            ),
        });
        if asks.is_empty() {
            self.blundered = Some("forbidden");
            self.leave_in_order(model);
        }
    }

    /// Ends a subscription that it does not have; the session ends by it, or is told so.
    pub fn unsubscribe_nothing(&mut self, model: &mut Model) {
        if self.survives {
            let receipt = self.receipt(Awaited::Refused);
            return self.say(format!("UNSUBSCRIBE\nid:nothing\nreceipt:{receipt}\n\n\0"));
        }
        self.say("UNSUBSCRIBE\nid:nothing\n\n\0".into());
        self.blundered = Some("no-such-subscription");
        self.leave_in_order(model);
    }

    /// Takes the MESSAGE that says what was refused.
    fn refused(&mut self, headers: &HashMap<&str, &str>, fault: &str, model: &mut Model) {
        // That a new token cannot be judged is told in any case.
        assert!(self.survives || fault.starts_with("auth-"));
        assert_eq!(headers["subscription"], headers["destination"], "it has not subscribed to it");
        self.refusals.push(fault.into());
        let Some(receipt) = headers.get("receipt-id") else { return };
        self.due.remove(*receipt);
        match self.awaited.remove(*receipt) {
            Some(Awaited::Subscribed(subscription)) => {
                model.over(subscription);
                self.topics.retain(|_, other| *other != subscription);
            }
            Some(Awaited::Sent(bodies)) => bodies.iter().for_each(|body| model.refused(body)),
            Some(Awaited::Asked(label)) => {
                model.refused(&label);
                self.is_gone(&label);
            }
            _ => {}
        }
    }

    /// Begins the closing handshake.
    pub fn close(&mut self, model: &mut Model) {
        self.channel.close();
        self.leave_in_order(model);
    }

    /// Has said how it ends, and listens. What it asked for before, it gets.
    pub fn leave_in_order(&mut self, model: &mut Model) {
        self.due = self.awaited.keys().cloned().collect();
        self.trace("ends in order", "");
        self.leave(model);
    }

    /// Its process is killed: nothing is owed to it, whatever it has said.
    pub fn vanish(&mut self, model: &mut Model) {
        self.due.clear();
        self.leave(model);
    }

    /// Receipts that it should have got and has not. None if the server has ended it by something else.
    pub fn missed(&self) -> usize {
        let is_its_own = self.faults.iter().all(|fault| Some(fault.as_str()) == self.blundered);
        if is_its_own { self.due.len() } else { 0 }
    }

    pub fn disconnect(&mut self, model: &mut Model) {
        let receipt = self.receipt(Awaited::Nothing);
        self.say(format!("DISCONNECT\nreceipt:{receipt}\n\n\0"));
        self.leave_in_order(model);
    }

    /// From here on nothing is owed to this client.
    pub fn leave(&mut self, model: &mut Model) {
        self.stage = Stage::Leaving;
        self.topics.values().for_each(|subscription| model.over(*subscription));
        self.topics.clear();
        self.leaving.clear();
        self.queues.clear();
        self.unsettled.clear();
        self.late.clear();
        self.questions.clear();
    }

    /// Everything under way has arrived: this session lives, so nothing may have come to it late.
    pub fn check_complete(&self, model: &Model) {
        self.check_answers(model);
        let is_untold = |awaited: &Awaited| matches!(awaited, Awaited::Refused);
        let untold = self.awaited.values().filter(|awaited| is_untold(awaited)).count();
        assert!(
            untold == 0 || self.stage == Stage::Leaving,
            "{untold} refusals were not told to {}",
            self.name
        );
        assert!(self.late.is_empty(), "acknowledged, and came again to {}: {:?}", self.name, self.late);
    }

    /// Takes bytes from the server.
    pub fn receive(&mut self, bytes: &[u8], model: &mut Model) {
        for heard in self.channel.receive(bytes) {
            match heard {
                Heard::Opened => {
                    assert!(self.may_open);
                    if self.stage == Stage::Http {
                        self.stage = Stage::Connecting;
                    }
                }
                Heard::Refused(answer) => {
                    gate::check_refusal(&answer, self.may_open);
                    self.leave(model);
                }
                Heard::Frame(text) => self.stomp(&text, model),
                Heard::Closed => self.leave(model),
            }
        }
    }

    /// Prints a frame, if a person wants to see what happens.
    fn trace(&self, how: &str, text: &str) {
        if std::env::var_os("TCBCHAT_SIMULATION_TRACE").is_some() {
            let start: String = text.chars().take(160).collect();
            eprintln!("{} {how} {start:?}", self.name);
        }
    }

    /// Takes a message of a queue, which comes by this subscription; bodies, or labels of questions, tell them apart.
    fn take_of_queue(&mut self, id: &str, headers: &HashMap<&str, &str>, body: &str, model: &mut Model) {
        let Some(acks) = self.queues.get(id) else { return model.handed_over(body) };
        if model.is_settled(body) {
            self.late.push(body.into());
        }
        model.offered(body);
        if *acks {
            self.unsettled.push((headers["ack"].into(), body.into(), id.into()));
        }
    }

    fn stomp(&mut self, text: &str, model: &mut Model) {
        self.trace("hears", text);
        if text == "\n" {
            return;
        }
        let (head, body) = text.split_once("\n\n").expect("a head");
        let body = body.strip_suffix('\0').expect("a NUL");
        let mut lines = head.lines();
        let command = lines.next().expect("a command");
        let headers: HashMap<&str, &str> = lines.filter_map(|line| line.split_once(':')).collect();
        if self.stage == Stage::Leaving {
            if command == "ERROR" {
                self.faults.push(body.trim_end().into());
            }
            if command == "RECEIPT" {
                assert!(self.faults.is_empty(), "an ERROR is the last frame");
                self.due.remove(headers["receipt-id"]);
            }
            if command == "MESSAGE" && headers["destination"] == ERRORS {
                return self.refused(&headers, body.trim_end(), model);
            }
            // Under `auto`, what was handed to the socket is delivered, whether or not anybody is left to see.
            if command == "MESSAGE" && headers["destination"].starts_with("/queue/") {
                model.handed_over(body);
            }
            if let Some(label) = headers.get("label") {
                model.handed_over(label);
            }
            return;
        }
        match command {
            "CONNECTED" => {
                assert!(self.may_open);
                assert_eq!(headers["version"], "1.2");
                self.stage = Stage::Ready;
                assert_eq!(self.proof, Some(true), "it is let in");
            }
            "RECEIPT" => match self.awaited.remove(headers["receipt-id"]).expect("a receipt once") {
                Awaited::Subscribed(subscription) => model.subscribed(subscription),
                Awaited::Left(id, topic, subscription) => {
                    let key = (id, topic);
                    // Unless its id and its topic are in use again.
                    if self.topics.get(&key) == Some(&subscription) {
                        self.leaving.remove(&key);
                        model.left(subscription);
                        self.topics.remove(&key);
                        self.left.insert(key);
                    }
                }
                Awaited::Sent(bodies) => bodies.iter().for_each(|body| model.confirmed(body)),
                Awaited::Acked(body) => model.settled(&body),
                Awaited::Asked(label) => model.confirmed(&label),
                Awaited::Unasked(label) => self.is_gone(&label),
                Awaited::Answered(label) => model.answered(&label),
                Awaited::Nothing => {}
                Awaited::Refused => panic!("it is not to be confirmed"),
            },
            "MESSAGE" if headers["destination"] == EVENTS => self.hear(body),
            "MESSAGE" if headers["destination"] == ERRORS => {
                self.refused(&headers, body.trim_end(), model);
            }
            "MESSAGE" if headers.contains_key("marker") => {
                assert!(body.is_empty());
                let key = (headers["subscription"].to_owned(), headers["destination"].to_owned());
                if let Some(subscription) = self.topics.get(&key) {
                    model.marked(*subscription, &headers);
                }
            }
            "MESSAGE" if headers["destination"].starts_with("/app/") => {
                self.hear_application(&headers, body, model);
            }
            "MESSAGE" => {
                let (author, _) = body.split_once('-').expect("a body begins with its author");
                let said = headers.get("sender").copied();
                // Some are nobody; where nothing is proved, all are.
                let is_known = self.is_guarded && !author.ends_with('5');
                let expected = is_known.then(|| login_of(author));
                assert_eq!(said, expected.as_deref(), "of {body}");
                assert_eq!(headers.contains_key("timestamp"), self.is_guarded);
                let id = headers["subscription"];
                let key = (id.to_owned(), headers["destination"].to_owned());
                assert!(!self.left.contains(&key), "{key:?} got {body} after the RECEIPT of its end");
                if let Some(subscription) = self.topics.get(&key) {
                    model.received(*subscription, headers["message-id"], body);
                    self.unanswered += 1;
                } else if headers["destination"].starts_with("/queue/") {
                    self.take_of_queue(id, &headers, body, model);
                }
            }
            "ERROR" => {
                self.faults.push(body.trim_end().into());
                self.leave(model);
            }
            other => panic!("unexpected {other}"),
        }
    }
}
