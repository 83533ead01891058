//! What operations do.
//!
//! A publication goes on when its request is given up: by its peer, or because its time is up. Its outcome is remembered if it has
//! a key.
//!
//! Invariant: an operation that only looks changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use super::bans::Register;
use super::counts::Refusal;
use super::idempotency::{Begun, Outcome, Window};
use super::listener::Answered;
use super::problem::Problem;
use super::publish::{self, Judge, Said};
use super::routes::Operation;
use super::shards::Shards;
use super::{Counts, Operator, Terms};
use crate::limits;
use crate::mesh::inquiry::Filter;
use crate::message::Message;
use crate::policy::bans::Host;

/// What `docs/openapi.json` says.
const DESCRIPTION: &str = include_str!("../../../docs/openapi.json");

/// A request whose token is right.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub operation: Operation,
    /// What stands for `{id}` in the path.
    pub id: &'a str,
    /// The query, without `?`.
    pub query: &'a str,
    pub idempotency_key: Option<Box<str>>,
    pub body: Bytes,
    /// Of the requests that are under way. What outlives the request takes it along.
    pub place: OwnedSemaphorePermit,
}

/// See the module.
pub(super) struct Operations {
    terms: Arc<Terms>,
    is_guarded: bool,
    pub(super) limits: limits::Api,
    pub(super) counts: Arc<Counts>,
    pub(super) shards: Shards,
    pub(super) operator: Arc<dyn Operator>,
    window: Arc<Mutex<Window>>,
    pub(super) bans: Mutex<Register>,
    /// A ban may end earlier than was known.
    pub(super) look_at_bans: Notify,
}

/// Messages of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    messages: Vec<Said>,
}

/// What came of messages.
#[derive(Serialize)]
struct Published {
    published: u64,
    refused: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    results: Vec<Placed>,
}

/// What came of one message of a batch.
#[derive(Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
enum Placed {
    Published,
    Refused { name: &'static str, detail: String },
}

impl Operations {
    pub(super) fn new(
        terms: Arc<Terms>,
        is_guarded: bool,
        limits: &limits::Api,
        counts: &Arc<Counts>,
        shards: Shards,
        operator: Arc<dyn Operator>,
        bans: Register,
    ) -> Operations {
        let age_max = Duration::from_secs(limits.idempotency_window_s.into());
        let window = Arc::new(Mutex::new(Window::new(limits.idempotency_keys_max.into(), age_max)));
        let (limits, counts) = (limits.clone(), Arc::clone(counts));
        Operations {
            terms,
            is_guarded,
            limits,
            counts,
            shards,
            operator,
            window,
            bans: Mutex::new(bans),
            look_at_bans: Notify::new(),
        }
    }

    /// Carries out what is asked for.
    pub(super) async fn carry_out(&self, asked: Asked<'_>) -> Result<Answered, Problem> {
        match asked.operation {
            Operation::Publish => {
                let said: Said = parsed(&asked.body)?;
                self.publish(asked, vec![said], false).await
            }
            Operation::PublishBatch => {
                let messages = batch(&asked.body)?;
                let max = self.limits.batch_messages_max;
                if messages.len() > max as usize {
                    self.counts.refused(Refusal::Batch);
                    let detail = format!("a batch has at most api.batch_messages_max = {max} messages");
                    return Err(Problem::new(422, "batch-too-long", detail));
                }
                self.publish(asked, messages, true).await
            }
            Operation::Sessions => self.sessions(asked.query).await,
            Operation::Session => self.session(asked.id).await,
            Operation::Disconnect => self.disconnect(&asked.body).await,
            Operation::Bans => self.list_bans(asked.query),
            Operation::Ban => self.ban(&asked.body).await,
            Operation::Unban => self.unban(&asked).await,
            Operation::Rooms => self.rooms(asked.query).await,
            Operation::Queues => self.queues(asked.query).await,
            Operation::Drain => Ok(self.drain()),
            Operation::Reload => Ok(self.reload()),
            Operation::Description => {
                Ok(Answered { status: 200, body: Bytes::from_static(DESCRIPTION.as_bytes()) })
            }
        }
    }

    /// Publishes what is right of what is said, once for each key.
    async fn publish(&self, asked: Asked<'_>, said: Vec<Said>, is_batch: bool) -> Result<Answered, Problem> {
        let judge = Judge { stomp: self.terms.stomp.read().clone(), is_guarded: self.is_guarded };
        let messages: Vec<Result<Message, Problem>> = said.iter().map(|said| judge.message(said)).collect();
        let Some(key) = &asked.idempotency_key else {
            return self.place(messages, is_batch, None, asked.place).await;
        };
        let path = if is_batch { "batch" } else { "" };
        let (begun, forgotten) =
            self.window.lock().begin(key, path, &asked.body, messages.len() as u64, Instant::now());
        (0..forgotten).for_each(|_| self.counts.refused(Refusal::Keys));
        match begun {
            Begun::First(number) => {
                let key = Some((key.clone(), number));
                self.place(messages, is_batch, key, asked.place).await
            }
            Begun::Other => Err(Problem::new(
                422,
                "idempotency-key-reused",
                "the Idempotency-Key was used for another request",
            )),
            Begun::Again(mut outcome) => {
                self.counts.repeated();
                // Its sender is dropped only if it is forgotten while it is under way.
                let known = outcome.wait_for(Option::is_some).await.map_err(|_| Problem::stopping())?;
                known.clone().unwrap_or_else(|| Err(Problem::stopping()))
            }
        }
    }

    /// Gives messages their places, in a task of their own, and waits for that.
    async fn place(
        &self,
        messages: Vec<Result<Message, Problem>>,
        is_batch: bool,
        key: Option<(Box<str>, u64)>,
        place_of_request: OwnedSemaphorePermit,
    ) -> Result<Answered, Problem> {
        let (done, outcome) = oneshot::channel();
        let (shards, counts, window) =
            (self.shards.clone(), Arc::clone(&self.counts), Arc::clone(&self.window));
        tokio::spawn(async move {
            let (outcome, published) = place(&shards, &counts, messages, is_batch).await;
            if let Some((key, number)) = key {
                window.lock().end(&key, number, outcome.clone(), published > 0);
            }
            drop(place_of_request);
            // Who asked may have gone.
            drop(done.send(outcome));
        });
        outcome.await.unwrap_or_else(|_| Err(Problem::stopping()))
    }
}

async fn place(
    shards: &Shards,
    counts: &Counts,
    messages: Vec<Result<Message, Problem>>,
    is_batch: bool,
) -> (Outcome, u64) {
    let right: Vec<Message> = messages.iter().flatten().cloned().collect();
    let mut placed = publish::publish(shards, right).await.into_iter();
    let results: Vec<Result<(), Problem>> = messages
        .into_iter()
        .map(|message| match message {
            Ok(_) => placed.next().unwrap_or_else(|| Err(Problem::stopping())),
            Err(problem) => Err(problem),
        })
        .collect();
    let published = results.iter().filter(|result| result.is_ok()).count() as u64;
    counts.published(published);
    let refused = results.len() as u64 - published;
    if !is_batch {
        let outcome = results.into_iter().collect::<Result<(), Problem>>();
        let body = Published { published, refused, results: Vec::new() };
        return (outcome.map(|()| answered(200, &body)), published);
    }
    let results = results
        .into_iter()
        .map(|result| match result {
            Ok(()) => Placed::Published,
            Err(Problem { name, detail, .. }) => Placed::Refused { name, detail: detail.into_owned() },
        })
        .collect();
    (Ok(answered(200, &Published { published, refused, results })), published)
}

/// The sessions that are meant by what is said of them.
///
/// # Errors
/// The id or the address is none.
pub(super) fn filter_by(
    login: Option<&str>,
    address: Option<&str>,
    session: Option<&str>,
) -> Result<Filter, Problem> {
    let mut filter = Filter { login: login.map(Into::into), ..Filter::default() };
    if let Some(text) = session {
        let wrong = |_| Problem::invalid("session is the id of a session, such as 0-12-34");
        filter.session = Some(text.parse().map_err(wrong)?);
    }
    match address.map(|text| (text.parse::<Host>(), text.parse::<SocketAddr>())) {
        None => {}
        Some((Ok(host), _)) => filter.host = Some(host),
        Some((_, Ok(peer))) => filter.peer = Some(peer),
        Some(_) => {
            return Err(Problem::invalid(
                "address is an IP address, of IPv6 also a /64, or IP:PORT of a peer",
            ));
        }
    }
    Ok(filter)
}

/// JSON with this status.
pub(super) fn answered(status: u16, body: &impl Serialize) -> Answered {
    let body = serde_json::to_vec(body).expect("what is answered has names and numbers only");
    Answered { status, body: body.into() }
}

/// Reads a body.
pub(super) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        if error.is_data() {
            Problem::invalid(error.to_string())
        } else {
            Problem::new(400, "malformed", format!("the body is no JSON: {error}"))
        }
    })
}

/// The messages of a batch: a list, or an object that has one.
fn batch(body: &[u8]) -> Result<Vec<Said>, Problem> {
    match body.trim_ascii_start().first() {
        Some(b'[') => parsed(body),
        _ => parsed(body).map(|batch: Batch| batch.messages),
    }
}
