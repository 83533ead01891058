//! How shards, and services, talk: requests to owners, completions, messages for members.
//!
//! A *request* has an [`Origin`](crate::message::origin::Origin) and, if that waits for it, exactly one
//! [`Completion`](request::Completion). A service asks by an [`Inquiry`](inquiry::Inquiry). [`mail`] says what travels, [`mailbox`] how it arrives, [`port`] is one shard's
//! end of it, with its credit.
//!
//! Invariant: mail to one shard arrives in the order in which its sender wrote it.

pub mod inquiry;
pub mod mail;
pub mod mailbox;
pub mod port;
pub mod request;

pub use mailbox::Mesh;
