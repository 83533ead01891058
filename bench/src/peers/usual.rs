//! axum as usual: the socket split, a task that writes, a task per subscription, a broadcast channel per room.
//!
//! A receiver that lags behind its channel loses messages, and is told how many: there is nothing to do about it.
//!
//! Invariant: one task alone writes to a socket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{broadcast, mpsc};

use super::stomp;

/// Messages that a room's channel holds for those who lag.
const CHANNEL_MESSAGES: usize = 256;
/// Messages that wait for one socket.
const SOCKET_MESSAGES: usize = 64;

#[derive(Debug, Default)]
struct Hub {
    rooms: Mutex<HashMap<String, broadcast::Sender<String>>>,
    messages: AtomicU64,
}

impl Hub {
    fn room(&self, name: &str) -> broadcast::Sender<String> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.entry(name.to_owned()).or_insert_with(|| broadcast::channel(CHANNEL_MESSAGES).0).clone()
    }
}

/// The server.
pub fn router() -> Router {
    Router::new().route("/ws", any(upgrade)).with_state(Arc::new(Hub::default()))
}

async fn upgrade(upgrade: WebSocketUpgrade, State(hub): State<Arc<Hub>>) -> Response {
    upgrade.protocols(["v12.stomp"]).on_upgrade(|socket| serve(socket, hub))
}

async fn serve(socket: WebSocket, hub: Arc<Hub>) {
    let (mut sink, mut stream) = socket.split();
    let (out, mut waiting) = mpsc::channel::<Message>(SOCKET_MESSAGES);
    let writer = tokio::spawn(async move {
        while let Some(message) = waiting.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // The reader has ended. Its answer to a close frame is still in the sink.
        sink.close().await.ok();
    });
    let mut subscription = None;
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else { continue };
        let Some(frame) = stomp::read(&text) else { continue };
        match (frame.command, frame.destination) {
            ("CONNECT", _) if out.send(Message::text(stomp::CONNECTED)).await.is_err() => break,
            ("SUBSCRIBE", Some(room)) => {
                let (mut messages, out) = (hub.room(room).subscribe(), out.clone());
                subscription = Some(tokio::spawn(async move {
                    loop {
                        let text = match messages.recv().await {
                            Ok(text) => text,
                            Err(broadcast::error::RecvError::Lagged(_)) => continue,
                            Err(broadcast::error::RecvError::Closed) => return,
                        };
                        if out.send(Message::text(text)).await.is_err() {
                            return;
                        }
                    }
                }));
            }
            ("SEND", Some(room)) => {
                let id = hub.messages.fetch_add(1, Ordering::Relaxed);
                // A room without members has nobody to miss the message.
                hub.room(room).send(stomp::message(room, id, frame.body)).ok();
            }
            _ => {}
        }
        if let Some(id) = frame.receipt
            && out.send(Message::text(stomp::receipt(id))).await.is_err()
        {
            break;
        }
    }
    if let Some(subscription) = subscription {
        subscription.abort();
    }
    drop(out);
    // It ends when the last sender is gone; how does not matter.
    writer.await.ok();
}
