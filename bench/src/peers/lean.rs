//! axum, lean: one task per connection, and a room's message encoded once for all its members.
//!
//! The task waits for the socket and for its own queue, and sends all that waits before it flushes. Queues are
//! unbounded: a subscriber that does not read grows one, which nobody should serve strangers with.
//!
//! Invariant: a room names only queues of connections that are in it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::stomp;

type Rooms = HashMap<String, HashMap<u64, UnboundedSender<Utf8Bytes>>>;

#[derive(Debug, Default)]
struct Hub {
    rooms: Mutex<Rooms>,
    messages: AtomicU64,
    clients: AtomicU64,
}

impl Hub {
    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server.
pub fn router() -> Router {
    Router::new().route("/ws", any(upgrade)).with_state(Arc::new(Hub::default()))
}

async fn upgrade(upgrade: WebSocketUpgrade, State(hub): State<Arc<Hub>>) -> Response {
    // Small buffers: one idle connection costs less, and a chat message fits.
    let upgrade = upgrade.read_buffer_size(1024).write_buffer_size(0);
    upgrade.protocols(["v12.stomp"]).on_upgrade(|socket| serve(socket, hub))
}

async fn serve(mut socket: WebSocket, hub: Arc<Hub>) {
    let client = hub.clients.fetch_add(1, Ordering::Relaxed);
    let (out, mut waiting) = unbounded_channel::<Utf8Bytes>();
    let mut room = None;
    loop {
        tokio::select! {
            Some(text) = waiting.recv() => {
                let mut next = Some(text);
                while let Some(text) = next {
                    if socket.feed(Message::Text(text)).await.is_err() {
                        return leave(&hub, room, client);
                    }
                    next = waiting.try_recv().ok();
                }
                if socket.flush().await.is_err() {
                    break;
                }
            }
            message = socket.next() => {
                let Some(Ok(message)) = message else { break };
                let Message::Text(text) = message else { continue };
                let Some(frame) = stomp::read(&text) else { continue };
                take(&hub, &frame, client, &out, &mut room);
            }
        }
    }
    leave(&hub, room, client);
    // The answer to a close frame, if there was one; the connection ends either way.
    socket.close().await.ok();
}

/// Does what one frame wants.
fn take(
    hub: &Hub,
    frame: &stomp::Frame<'_>,
    client: u64,
    out: &UnboundedSender<Utf8Bytes>,
    room: &mut Option<String>,
) {
    // The receiver lives as long as the task that calls this: no send to `out` fails.
    match (frame.command, frame.destination) {
        ("CONNECT", _) => drop(out.send(Utf8Bytes::from_static(stomp::CONNECTED))),
        ("SUBSCRIBE", Some(name)) => {
            hub.rooms().entry(name.to_owned()).or_default().insert(client, out.clone());
            *room = Some(name.to_owned());
        }
        ("SEND", Some(name)) => {
            // Numbered and handed out under one lock: all members see one order.
            let rooms = hub.rooms();
            let id = hub.messages.fetch_add(1, Ordering::Relaxed);
            let text = Utf8Bytes::from(stomp::message(name, id, frame.body));
            for member in rooms.get(name).into_iter().flat_map(HashMap::values) {
                // A member whose task has just ended is about to leave the room.
                member.send(text.clone()).ok();
            }
        }
        _ => {}
    }
    if let Some(id) = frame.receipt {
        drop(out.send(stomp::receipt(id).into()));
    }
}

fn leave(hub: &Hub, room: Option<String>, client: u64) {
    let Some(room) = room else { return };
    let mut rooms = hub.rooms();
    if let Some(members) = rooms.get_mut(&room) {
        members.remove(&client);
        if members.is_empty() {
            rooms.remove(&room);
        }
    }
}
