//! Connections to the API: their number, the token, the time that a request has.
//!
//! Invariant: no byte of a request beyond its head is read before the token was right.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::counts::Refusal;
use super::operations::{Asked, Operations};
use super::problem::Problem;
use super::routes::{self, NoRoute};
use super::shards::Shards;
use super::{Counts, Operator, Setup, Terms};
use crate::limits;
use crate::mesh::Mesh;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long what is under way has to end when the server does.
const ENDING: Duration = Duration::from_secs(1);

/// How long nobody is accepted after that has failed: there are no descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What an operation answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    /// The status, 2xx.
    pub status: u16,
    /// JSON; empty for none.
    pub body: Bytes,
}

/// See the module.
pub(super) struct Service {
    terms: Arc<Terms>,
    limits: limits::Api,
    counts: Arc<Counts>,
    requests: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    operations: Operations,
    stopping: watch::Receiver<bool>,
}

impl Service {
    pub(super) fn new(
        setup: Setup,
        terms: Arc<Terms>,
        mesh: Arc<Mesh>,
        operator: Arc<dyn Operator>,
        stopping: watch::Receiver<bool>,
    ) -> Service {
        let Setup { limits, counts, is_guarded, seed, bans, .. } = setup;
        let shards = Shards::new(mesh, seed, stopping.clone());
        let operations =
            Operations::new(Arc::clone(&terms), is_guarded, &limits, &counts, shards, operator, bans);
        Service {
            terms,
            requests: Arc::new(Semaphore::new(limits.requests_max as usize)),
            connections: Arc::new(Semaphore::new(limits.connections_max as usize)),
            limits,
            counts,
            operations,
            stopping,
        }
    }
}

/// Takes connections until the server ends.
pub(super) async fn serve(service: Arc<Service>, listeners: Vec<TcpListener>) {
    let mut stopping = service.stopping.clone();
    for listener in listeners {
        // It is bound and listens, so nothing is left to fail but the registration.
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => drop(tokio::spawn(accept(Arc::clone(&service), listener))),
            Err(error) => tracing::error!(%error, "the API cannot watch its listener"),
        }
    }
    let banning = Arc::clone(&service);
    tokio::spawn(async move { banning.operations.end_bans().await });
    stopped(&mut stopping).await;
    // Whoever has a connection gives its place back when it is over.
    let all = service.connections.acquire_many(service.limits.connections_max);
    if timeout(ENDING, all).await.is_err() {
        tracing::debug!("connections to the API are left");
    }
}

/// Waits until the server ends.
pub(super) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender lives as long as the API does.
    drop(stopping.wait_for(|is_stopping| *is_stopping).await);
}

async fn accept(service: Arc<Service>, listener: tokio::net::TcpListener) {
    let mut stopping = service.stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the API accepts nobody");
                sleep(BACK_OFF).await;
                continue;
            }
        };
        match Arc::clone(&service.connections).try_acquire_owned() {
            Ok(place) => {
                let service = Arc::clone(&service);
                tokio::spawn(async move {
                    attend(service, stream).await;
                    drop(place);
                });
            }
            Err(_) => service.counts.refused(Refusal::Connections),
        }
    }
}

/// One connection, to its end.
async fn attend(service: Arc<Service>, stream: TcpStream) {
    let mut stopping = service.stopping.clone();
    // An answer is one write, and nobody waits for a second.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let head = service.patience();
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            timeout(ENDING, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the API failed");
    }
}

impl Service {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let response = match self.serve(request).await {
            Ok(answered) => respond(answered.status, "application/json", answered.body),
            Err(problem) => refuse(&problem),
        };
        self.counts.answered(response.status().as_u16());
        response
    }

    async fn serve(self: &Arc<Self>, request: Request<Incoming>) -> Result<Answered, Problem> {
        if !self.has_token(&request) {
            self.counts.refused(Refusal::Token);
            return Err(Problem::token());
        }
        let Ok(place) = Arc::clone(&self.requests).try_acquire_owned() else {
            self.counts.refused(Refusal::Requests);
            let max = self.limits.requests_max;
            return Err(Problem::new(
                503,
                "too-many-requests",
                format!("api.requests_max = {max} are under way"),
            ));
        };
        self.carry_out(request, place).await
    }

    /// How long a request has for each of its steps.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.limits.request_timeout_ms.into())
    }

    fn has_token(&self, request: &Request<Incoming>) -> bool {
        let mut values = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let value = value.as_bytes();
        let (scheme, said) = value.split_at_checked(7).unwrap_or_default();
        // Compared whole, so that the time says nothing of where they differ.
        scheme.eq_ignore_ascii_case(b"bearer ") && said.ct_eq(self.terms.token.read().0.as_bytes()).into()
    }

    async fn carry_out(
        self: &Arc<Self>,
        request: Request<Incoming>,
        place: OwnedSemaphorePermit,
    ) -> Result<Answered, Problem> {
        let (head, body) = request.into_parts();
        let (operation, id) =
            routes::find(head.method.as_str(), head.uri.path()).map_err(|none| match none {
                NoRoute::Path => Problem::not_found("there is nothing at this path"),
                NoRoute::Method(methods) => Problem {
                    allow: Some(methods),
                    ..Problem::new(405, "method-not-allowed", "the path does not have this method")
                },
            })?;
        let asked = Asked {
            operation,
            id,
            query: head.uri.query().unwrap_or_default(),
            idempotency_key: idempotency_key(&head.headers)?,
            body: self.read(body).await?,
            place,
        };
        match timeout(self.patience(), self.operations.carry_out(asked)).await {
            Ok(done) => done,
            Err(_) => {
                self.counts.refused(Refusal::Timeout);
                Err(Problem::timeout(self.limits.request_timeout_ms))
            }
        }
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Problem> {
        let max = self.limits.body_bytes_max;
        let Ok(read) = timeout(self.patience(), Limited::new(body, max as usize).collect()).await else {
            self.counts.refused(Refusal::Timeout);
            let ms = self.limits.request_timeout_ms;
            let detail = format!("the body did not come within api.request_timeout_ms = {ms}");
            return Err(Problem::new(408, "body-timeout", detail));
        };
        match read {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                self.counts.refused(Refusal::Body);
                let detail = format!("the body is longer than api.body_bytes_max = {max}");
                Err(Problem::new(413, "body-too-large", detail))
            }
            // The peer has gone, or its framing is broken: it will hardly read this.
            Err(error) => Err(Problem::new(400, "malformed", error.to_string())),
        }
    }
}

/// The value of `Idempotency-Key`, if there is one.
fn idempotency_key(headers: &hyper::HeaderMap) -> Result<Option<Box<str>>, Problem> {
    const NAME: HeaderName = HeaderName::from_static("idempotency-key");
    let mut values = headers.get_all(NAME).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad = || {
        Problem::new(
            422,
            "idempotency-key",
            "Idempotency-Key must be there once: 1 to 255 visible characters",
        )
    };
    let text = value.to_str().map_err(|_| bad())?;
    if values.next().is_some() || text.is_empty() || text.len() > 255 {
        return Err(bad());
    }
    Ok(Some(text.into()))
}

fn respond(status: u16, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // It is about this moment, and for whoever asks.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refuse(problem: &Problem) -> Response<Full<Bytes>> {
    let mut response = respond(problem.status, "application/problem+json", problem.body().into());
    let headers = response.headers_mut();
    if problem.status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = problem.retry_after_s() {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    // Methods are letters and commas.
    if let Some(Ok(methods)) = problem.allow.as_deref().map(HeaderValue::from_str) {
        headers.insert(ALLOW, methods);
    }
    response
}
