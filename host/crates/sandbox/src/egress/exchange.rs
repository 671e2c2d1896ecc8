//! One request and its response, from the connection to the last byte.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_http::{Error, WasiBody};

use super::admit::Admitted;
use super::connect::addresses;
use super::connection::{BUFFER_BYTES, Connection};
use super::fault::{Code, Fault};
use super::placeholders::{fill_in, may_pass};
use super::{Attempt, Boxed};
use lovage_policy::{Destination, Scheme};

/// What became of an exchange, where somebody other than hyper ended it. hyper itself would then
/// only say that the connection closed, or even that the body is complete.
#[derive(Debug, Default)]
pub(super) struct Exchange(Mutex<Option<Fault>>);

impl Exchange {
    /// Writes down why it ends; the first reason counts.
    pub fn fail(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
    }

    fn fault(&self) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends a request, and gives its response when its header is there.
pub(super) async fn run(
    attempt: &Arc<Attempt>,
    mut admitted: Admitted,
) -> Result<(Response<WasiBody>, Boxed<()>), Fault> {
    let limits = &attempt.limits;
    let started = Instant::now();
    let end = Instant::from(attempt.deadline);
    let within = |time| started.checked_add(time).map_or(end, |by| by.min(end));
    let deadline = within(limits.http_timeout);
    let patience = admitted.options.connect_timeout.unwrap_or(Duration::MAX);
    let connected_by = within(limits.http_connect_timeout.min(patience)).min(deadline);

    let to = admitted.to.clone();
    let secret = !admitted.secrets.is_empty();
    let granted = secret && to.scheme == Scheme::Http;
    let mut idle = attempt.connections.take(&to, granted).await;
    let mut filled = false;
    let exchange = Arc::new(Exchange::default());
    let mut request = None;
    let response = loop {
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => open(attempt, &to, secret, connected_by).await?,
        };
        if !std::mem::replace(&mut filled, true) && secret {
            fill_in(&admitted.secrets, &mut admitted.headers, &mut admitted.target)?;
        }
        let sent = match request.take() {
            Some(request) => request,
            None => whole(attempt, &mut admitted)?,
        };
        let again = if connection.used { repeatable(&sent, attempt) } else { None };
        connection.begin(&exchange, deadline);
        let first_byte = admitted.options.first_byte_timeout.unwrap_or(Duration::MAX);
        match timeout(first_byte, connection.sender.try_send_request(sent)).await {
            Ok(Ok(response)) => break (response, connection),
            Ok(Err(mut error)) => {
                // The server has closed a connection that was idle: nothing was sent, or what was sent
                // may be sent twice.
                let fault = exchange.fault();
                let unsent = error.take_message();
                request = if connection.used && fault.is_none() { unsent.or(again) } else { None };
                if request.is_none() {
                    return Err(fault.unwrap_or_else(|| of_hyper(error.error())));
                }
            }
            Err(_) => {
                let why = format!("no response within {first_byte:?}, as the guest wished");
                return Err(Fault::new(Code::ReadTimeout, why));
            }
        }
    };
    let (response, mut connection) = response;
    connection.used = true;
    let (to, between) = (admitted.to.to_string(), admitted.options.between_bytes_timeout);
    let response = response.map(|incoming| {
        let mut body = ResponseBody {
            incoming,
            attempt: Arc::clone(attempt),
            exchange,
            connection: Some(connection),
            to,
            between,
            waits: None,
        };
        body.give_back_if_read();
        body.boxed_unsync()
    });
    // The body holds the connection, and tells what is wrong with it.
    Ok((response, Box::new(async { Ok(()) })))
}

/// A connection that is made for a request.
async fn open(
    attempt: &Arc<Attempt>,
    to: &Destination,
    secret: bool,
    by: Instant,
) -> Result<Connection, Fault> {
    let mut addresses = addresses(attempt, to, by).await?;
    if secret {
        addresses.retain(|address| may_pass(to, address.reach));
        if addresses.is_empty() {
            let why = "it has the placeholder of a secret, and would be sent without TLS; use \
                       `https`, or grant the network (`http_networks`)";
            return Err(Fault::new(Code::Denied, why));
        }
    }
    Connection::open(attempt, to, &addresses, by).await
}

/// The request as it is sent. Its body is taken.
fn whole(attempt: &Attempt, admitted: &mut Admitted) -> Result<Request<RequestBody>, Fault> {
    let wrong = |_| Fault::new(Code::UriInvalid, "its URL cannot be sent");
    let mut headers = std::mem::take(&mut admitted.headers);
    headers.insert(
        HOST,
        HeaderValue::try_from(admitted.to.authority())
            .map_err(|_| Fault::new(Code::UriInvalid, "its host cannot be sent"))?,
    );
    let body = std::mem::replace(&mut admitted.body, empty());
    let mut request = Request::new(RequestBody { body, ended: attempt.ended.clone() });
    *request.method_mut() = admitted.method.clone();
    *request.uri_mut() = Uri::try_from(std::mem::take(&mut admitted.target)).map_err(wrong)?;
    *request.headers_mut() = headers;
    Ok(request)
}

fn empty() -> WasiBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The request once more, where it may be sent twice: its method is idempotent (RFC 9110, section 9.2.2),
/// and it has no body.
fn repeatable(request: &Request<RequestBody>, attempt: &Attempt) -> Option<Request<RequestBody>> {
    if !request.method().is_idempotent() || !request.body().is_end_stream() {
        return None;
    }
    let mut again = Request::new(RequestBody { body: empty(), ended: attempt.ended.clone() });
    request.method().clone_into(again.method_mut());
    request.uri().clone_into(again.uri_mut());
    request.headers().clone_into(again.headers_mut());
    Some(again)
}

pub(super) fn too_long(attempt: &Attempt) -> Fault {
    let allowed = attempt.limits.http_timeout;
    let why = format!(
        "request and response were not over within {allowed:?} (`http_timeout_ms` raises it), or \
         within the attempt's own time"
    );
    Fault::new(Code::ResponseTimeout, why)
}

pub(super) fn of_hyper(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        let why = format!("the header of the response has more than {} KiB", BUFFER_BYTES >> 10);
        return Fault::new(Code::ResponseHeaders, why);
    }
    // Of a body it says no more than what it met when it read on.
    let source = std::error::Error::source(error).and_then(|it| it.downcast_ref::<io::Error>());
    let met = |kind: io::ErrorKind| source.is_some_and(|source| source.kind() == kind);
    let code = if error.is_incomplete_message() || met(io::ErrorKind::UnexpectedEof) {
        Code::ResponseIncomplete
    } else if error.is_parse()
        || error.is_user()
        || met(io::ErrorKind::InvalidInput)
        || met(io::ErrorKind::InvalidData)
    {
        Code::Protocol
    } else {
        Code::ConnectionTerminated
    };
    Fault::new(code, format!("the exchange failed: {error}"))
}

/// The body of a request, as the guest writes it.
pub(super) struct RequestBody {
    body: WasiBody,
    ended: CancellationToken,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        // The body of a guest that was stopped seems to be complete. The server is not to take a
        // half of it for the whole.
        if frame.is_none() && self.ended.is_cancelled() {
            return Poll::Ready(Some(Err(Error::ConnectionTerminated)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response, as the guest reads it.
struct ResponseBody {
    incoming: Incoming,
    attempt: Arc<Attempt>,
    exchange: Arc<Exchange>,
    /// The next request has it when all was read; it ends with a body that was not.
    connection: Option<Connection>,
    to: String,
    /// How long the guest is willing to wait for the next bytes.
    between: Option<Duration>,
    waits: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    fn give_back_if_read(&mut self) {
        if self.incoming.is_end_stream()
            && self.exchange.fault().is_none()
            && let Some(connection) = self.connection.take()
        {
            self.attempt.connections.keep(connection);
        }
    }

    fn fail(&self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(Some(Err(self.attempt.notes.tell(&fault.of_request_to(&self.to)))))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waits = None;
                self.give_back_if_read();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let fault = self.exchange.fault().unwrap_or_else(|| of_hyper(&error));
                self.fail(fault)
            }
            // A connection that is dropped looks to hyper like one that has said all.
            Poll::Ready(None) => {
                if let Some(fault) = self.exchange.fault() {
                    return self.fail(fault);
                }
                if let Some(connection) = self.connection.take() {
                    self.attempt.connections.keep(connection);
                }
                Poll::Ready(None)
            }
            Poll::Pending => {
                let Some(patience) = self.between else { return Poll::Pending };
                let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(patience)));
                if waits.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let why = format!("nothing came for {patience:?}, as the guest wished");
                self.fail(Fault::new(Code::ReadTimeout, why))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
