//! One connection, from its handshake to its end, on its own thread.
//!
//! Bytes come through tungstenite, which blocks; a read returns early only for a heart-beat that is due, to be
//! sent or to be missed. Invariant: whatever ends the session, its subscriptions have been taken back.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tcbchat::limits;
use tcbchat::wire::stomp::{Command, Decoder, Encoder, Step, StompFrame, Version};
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::{HeaderValue, StatusCode, header};
use tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use tungstenite::{Error, Message, WebSocket};

use super::line::{Ends, Line};
use super::room::Rooms;

/// Bytes of a connection's read buffer: Tomcat's `appReadBufSize`, as the article advises.
const READ_BUFFER_BYTES: usize = 1_024;
/// Bytes of a WebSocket message at most, as in tcbchat's defaults.
const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// How long a client may take to become a session, and to leave.
const PATIENCE: Duration = Duration::from_secs(10);
/// Heart-beats are agreed as tcbchat agrees to them: what the client asks for, within these bounds.
const HEART_BEAT_MS_MIN: u64 = 1_000;
/// See [`HEART_BEAT_MS_MIN`].
const HEART_BEAT_MS_MAX: u64 = 300_000;

/// Serves a connection until it ends.
pub fn serve(line: &Arc<Line>, rooms: &Rooms) {
    let opened = line.prepare().and_then(|()| line.stream().set_read_timeout(Some(PATIENCE)));
    if opened.is_err() {
        return;
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let accepted = tungstenite::accept_hdr_with_config(Ends(Arc::clone(line)), upgrade, Some(config));
    // A handshake that failed has been answered, where there was anybody to be answered.
    let Ok(mut socket) = accepted else { return };
    let mut session = Session::new(line, rooms);
    // Errors of the socket are the end of the session, and nobody is there to be told.
    session.talk(&mut socket).unwrap_or_default();
    session.leave_all();
}

#[allow(clippy::result_large_err, reason = "the type of tungstenite's callback")]
fn upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() != "/ws" {
        let mut answer = ErrorResponse::new(Some("There is nothing at this path.".to_owned()));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return Err(answer);
    }
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered =
        offers.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let protocol = Version::V12.subprotocol();
    if offered.any(|one| one.trim() == protocol) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}

/// Why a session's frames are not read any more.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// DISCONNECT.
    Asked,
    /// A rule was broken; the sentence goes out as ERROR.
    Fault(String),
}

fn fault(text: impl Into<String>) -> End {
    End::Fault(text.into())
}

#[derive(Debug)]
struct Session<'a> {
    line: &'a Arc<Line>,
    rooms: &'a Rooms,
    decoder: Decoder,
    limits: limits::Stomp,
    /// Bytes of a STOMP frame that is not complete.
    pending: Vec<u8>,
    /// Ids with their destinations; `None` before CONNECT.
    subscriptions: Option<Vec<(String, String)>>,
    /// What is sent at least this often, if anything.
    beat_every: Option<Duration>,
    /// How long the client may be silent; before CONNECT and after DISCONNECT, until when it is waited for.
    silence_max: Option<Duration>,
    heard: Instant,
}

impl<'a> Session<'a> {
    fn new(line: &'a Arc<Line>, rooms: &'a Rooms) -> Session<'a> {
        Session {
            line,
            rooms,
            decoder: Decoder::default(),
            limits: limits::Stomp::default(),
            pending: Vec::new(),
            subscriptions: None,
            beat_every: None,
            silence_max: Some(PATIENCE),
            heard: Instant::now(),
        }
    }

    fn talk(&mut self, socket: &mut WebSocket<Ends>) -> Result<(), Error> {
        let mut is_ending = false;
        loop {
            self.line.stream().set_read_timeout(self.wait())?;
            let data = match socket.read() {
                Ok(Message::Text(text)) => text.into(),
                Ok(Message::Binary(bytes)) => bytes,
                // Pings and closes are answered by tungstenite.
                Ok(_) => tungstenite::Bytes::new(),
                Err(Error::Io(error)) if is_timeout(&error) => {
                    if !self.is_alive_after_silence()? {
                        return Ok(());
                    }
                    continue;
                }
                // The end of the close handshake, or of the connection.
                Err(error) => return Err(error),
            };
            self.heard = Instant::now();
            if is_ending {
                continue;
            }
            let Err(end) = self.take(&data)? else { continue };
            is_ending = true;
            (self.beat_every, self.silence_max) = (None, Some(PATIENCE));
            if let End::Fault(text) = end {
                self.reply(|out| {
                    Encoder::new(out, Command::Error, Version::V12).header("message", &text).finish();
                })?;
                let close = CloseFrame { code: CloseCode::Protocol, reason: "".into() };
                socket.close(Some(close))?;
            }
        }
    }

    /// How long a read may block; `None` is for ever.
    fn wait(&self) -> Option<Duration> {
        let silence = self.silence_max.map(|max| self.heard + max);
        let beat = self.beat_every.map(|every| self.line.written() + every);
        let due = silence.into_iter().chain(beat).min()?;
        // A timeout of zero would mean none (socket(7), SO_RCVTIMEO).
        Some(due.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
    }

    /// A heart-beat is sent if it is due. False if the client has been silent for too long.
    fn is_alive_after_silence(&mut self) -> io::Result<bool> {
        if self.silence_max.is_some_and(|max| self.heard.elapsed() >= max) {
            return Ok(false);
        }
        if self.beat_every.is_some_and(|every| self.line.written().elapsed() >= every) {
            self.line.send_text(b"\n")?;
        }
        Ok(true)
    }

    /// Takes the payload of one WebSocket message. The inner result is how the session ends, if it does.
    fn take(&mut self, data: &[u8]) -> io::Result<Result<(), End>> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(data);
        let mut rest = &pending[..];
        let ended = loop {
            match self.decoder.decode(rest, Version::V12, &self.limits) {
                Ok(Step::Need) => break Ok(()),
                Ok(Step::HeartBeat { consumed }) => rest = &rest[consumed..],
                Ok(Step::Frame { stomp_frame, consumed }) => {
                    rest = &rest[consumed..];
                    if let Err(end) = self.take_frame(&stomp_frame)? {
                        break Err(end);
                    }
                }
                Err(error) => break Err(fault(error.to_string())),
            }
        };
        let left = rest.len();
        pending.drain(..pending.len() - left);
        self.pending = pending;
        Ok(ended)
    }

    fn take_frame(&mut self, stomp_frame: &StompFrame<'_>) -> io::Result<Result<(), End>> {
        let header = |name| stomp_frame.header(name);
        let needed = |name: &'static str| header(name).ok_or_else(|| fault(format!("no header {name}")));
        let Some(subscriptions) = &mut self.subscriptions else {
            return match stomp_frame.command {
                Command::Connect | Command::Stomp => self.connect(stomp_frame),
                _ => Ok(Err(fault("the first frame must be CONNECT"))),
            };
        };
        let done = match stomp_frame.command {
            Command::Send => needed("destination").map(|to| self.rooms.publish(&to, stomp_frame)),
            Command::Subscribe => {
                needed("id").and_then(|id| Ok((id, needed("destination")?))).and_then(|(id, destination)| {
                    if subscriptions.iter().any(|(known, _)| *known == *id) {
                        return Err(fault("the session has a subscription with this id"));
                    }
                    self.rooms.enter(&destination, &id, self.line);
                    subscriptions.push((id.into_owned(), destination.into_owned()));
                    Ok(())
                })
            }
            Command::Unsubscribe => needed("id").and_then(|id| {
                let known = subscriptions.iter().position(|(known, _)| *known == *id);
                let (id, destination) = subscriptions
                    .swap_remove(known.ok_or_else(|| fault("the session has no subscription with this id"))?);
                self.rooms.leave(&destination, &id, self.line);
                Ok(())
            }),
            Command::Disconnect => Ok(()),
            other => Err(fault(format!("this server does not know {}", other.as_str()))),
        };
        if let Err(end) = done {
            return Ok(Err(end));
        }
        if let Some(id) = header("receipt") {
            self.reply(|out| {
                Encoder::new(out, Command::Receipt, Version::V12).header("receipt-id", &id).finish();
            })?;
        }
        Ok(if stomp_frame.command == Command::Disconnect { Err(End::Asked) } else { Ok(()) })
    }

    /// CONNECTED, with the heart-beats that the client asks for.
    fn connect(&mut self, stomp_frame: &StompFrame<'_>) -> io::Result<Result<(), End>> {
        let offered = stomp_frame.header("accept-version");
        if !offered.is_some_and(|versions| versions.split(',').any(|one| one.trim() == Version::V12.as_str()))
        {
            return Ok(Err(fault("this server speaks STOMP 1.2 only")));
        }
        let Some((sends_ms, wants_ms)) = heart_beats(stomp_frame.header("heart-beat").as_deref()) else {
            return Ok(Err(fault("heart-beat must be two numbers of milliseconds with a comma between")));
        };
        let agree = |ms: u64| (ms > 0).then(|| ms.clamp(HEART_BEAT_MS_MIN, HEART_BEAT_MS_MAX));
        let (out_ms, in_ms) = (agree(wants_ms), agree(sends_ms));
        self.reply(|out| {
            Encoder::new(out, Command::Connected, Version::V12)
                .header("version", Version::V12.as_str())
                .header("server", concat!("bio-server/", env!("CARGO_PKG_VERSION")))
                .header("heart-beat", &format!("{},{}", out_ms.unwrap_or(0), in_ms.unwrap_or(0)))
                .finish();
        })?;
        // Early by a quarter, because a beat also has to get there.
        self.beat_every = out_ms.map(|ms| Duration::from_millis(ms / 4 * 3));
        // Twice the interval and a second, as tcbchat has it.
        self.silence_max = in_ms.map(|ms| Duration::from_millis(2 * ms + 1_000));
        self.subscriptions = Some(Vec::new());
        Ok(Ok(()))
    }

    fn reply(&self, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut stomp_frame = Vec::new();
        write(&mut stomp_frame);
        self.line.send_text(&stomp_frame)
    }

    fn leave_all(&mut self) {
        for (id, destination) in self.subscriptions.take().into_iter().flatten() {
            self.rooms.leave(&destination, &id, self.line);
        }
    }
}

/// What a client can send and what it wants, in milliseconds; zeros without the header. `None` if it is none.
fn heart_beats(header: Option<&str>) -> Option<(u64, u64)> {
    let Some(header) = header else { return Some((0, 0)) };
    let (sends, wants) = header.split_once(',')?;
    Some((sends.trim().parse().ok()?, wants.trim().parse().ok()?))
}

/// SO_RCVTIMEO has passed.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
