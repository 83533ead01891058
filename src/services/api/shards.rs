//! The way to the shards: inquiries out, answers back.
//!
//! Invariant: who waits for an answer has one when the server ends: that it does.

use std::sync::Arc;

use tokio::sync::watch;

use super::listener::stopped;
use super::problem::Problem;
use crate::broker::owner_of_message;
use crate::mesh::Mesh;
use crate::mesh::inquiry::{Answer, Inquiry, Reply};
use crate::mesh::mail::Mail;
use crate::message::Message;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Shards {
    mesh: Arc<Mesh>,
    seed: u64,
    stopping: watch::Receiver<bool>,
}

impl Shards {
    pub(super) fn new(mesh: Arc<Mesh>, seed: u64, stopping: watch::Receiver<bool>) -> Shards {
        Shards { mesh, seed, stopping }
    }

    /// The shard that gives a message its place.
    pub(super) fn owner_of(&self, message: &Message) -> u16 {
        owner_of_message(self.seed, message.kind(), message.key_bytes(), self.mesh.shards())
    }

    /// How many there are.
    pub(super) fn count(&self) -> u16 {
        self.mesh.shards()
    }

    /// Asks all shards, and waits for the sum of their answers.
    pub(super) async fn sum(&self, inquiry: impl Fn(Reply<u64>) -> Inquiry) -> Result<u64, Problem> {
        let answers: Vec<_> = (0..self.count()).map(|shard| self.ask(shard, &inquiry)).collect();
        let mut sum = 0;
        for answer in answers {
            sum += self.answer(answer).await?;
        }
        Ok(sum)
    }

    /// Asks one shard.
    pub(super) fn ask<T>(&self, shard: u16, inquiry: impl FnOnce(Reply<T>) -> Inquiry) -> Answer<T> {
        let (reply, answer) = Reply::channel();
        self.mesh.post(shard, &mut vec![Mail::Inquire(Box::new(inquiry(reply)))]);
        answer
    }

    /// Waits for an answer.
    pub(super) async fn answer<T>(&self, answer: Answer<T>) -> Result<T, Problem> {
        let mut stopping = self.stopping.clone();
        tokio::select! {
            biased;
            answered = answer => answered.map_err(|_| Problem::stopping()),
            () = stopped(&mut stopping) => Err(Problem::stopping()),
        }
    }
}
