//! The HTTP/1.1 request that opens a connection: parsed, upgraded to WebSocket, or answered.
//!
//! One request per connection: whatever is not an upgrade is answered with `Connection: close`. Request
//! bodies are not read. Which path leads where is decided above.
//!
//! Invariant: a request that [`parse`] gives out has a path that begins with `/`, and an HTTP/1.1 request
//! one `Host`; every refusal is one of [`HttpError::ALL`].

mod error;
mod forwarded;
mod request;
mod response;
mod upgrade;
mod web_origin;

pub use error::HttpError;
pub use forwarded::ClientHeader;
pub use request::{HEADERS_CEILING, Request, Scratch, is_mark_of_proxy, parse};
pub use response::{write_error, write_page, write_refusal};
pub use upgrade::{Upgrade, upgrade, write_upgrade};
pub use web_origin::{BadOriginPattern, OriginPattern, WebOrigin};

#[cfg(test)]
mod tests;
