//! One request and its response, from the connection to the last byte.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, WasiBody};

use super::admit::Admitted;
use super::connect::{addresses, connect};
use super::fault::{Code, Fault};
use super::meter::Metered;
use super::placeholders::{fill_in, may_pass};
use super::{Attempt, Boxed};

/// How much of a connection is kept in memory, each way; so large can a response's header be.
const BUFFER_BYTES: usize = 64 << 10;

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

/// Sends a request, and gives its response when its header is there. The rest is read while the
/// second of the two lives.
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

    let to = &admitted.to;
    let mut addresses = addresses(attempt, to, connected_by).await?;
    if !admitted.secrets.is_empty() {
        addresses.retain(|address| may_pass(to, address.reach));
        if addresses.is_empty() {
            let why = "it has the placeholder of a secret, and would be sent without TLS; use \
                       `https`, or grant the network (`http_networks`)";
            return Err(Fault::new(Code::Denied, why));
        }
        fill_in(&admitted.secrets, &mut admitted.headers, &mut admitted.target)?;
    }
    let stream = connect(attempt, to, &addresses, connected_by).await?;

    let exchange = Arc::new(Exchange::default());
    let metered = Metered { stream, attempt: Arc::clone(attempt), exchange: Arc::clone(&exchange) };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(BUFFER_BYTES)
        .handshake(TokioIo::new(metered))
        .await
        .map_err(|error| of_hyper(&error))?;
    let driver = AbortOnDropHandle::new(tokio::spawn({
        let (attempt, exchange) = (Arc::clone(attempt), Arc::clone(&exchange));
        async move {
            // Written down before the connection is dropped, which is before a branch's own code runs:
            // the body is told of its end at once, on another thread.
            let is_over = async {
                sleep_until(deadline).await;
                exchange.fail(too_long(&attempt));
            };
            tokio::select! {
                biased;
                () = attempt.ended.cancelled() => {}
                () = is_over => {}
                // What is wrong with it is told by the response, or its body.
                _ = connection => {}
            }
        }
    }));

    let Admitted { to, method, target, mut headers, body, options, .. } = admitted;
    let wrong = |_| Fault::new(Code::UriInvalid, "its URL cannot be sent");
    headers.insert(
        HOST,
        HeaderValue::try_from(to.authority())
            .map_err(|_| Fault::new(Code::UriInvalid, "its host cannot be sent"))?,
    );
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::new(RequestBody { body, ended: attempt.ended.clone() });
    *request.method_mut() = method;
    *request.uri_mut() = Uri::try_from(target).map_err(wrong)?;
    *request.headers_mut() = headers;

    let first_byte = options.first_byte_timeout.unwrap_or(Duration::MAX);
    let response = match timeout(first_byte, sender.send_request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(exchange.fault().unwrap_or_else(|| of_hyper(&error))),
        Err(_) => {
            let why = format!("no response within {first_byte:?}, as the guest wished");
            return Err(Fault::new(Code::ReadTimeout, why));
        }
    };
    let response = response.map(|incoming| {
        let body = ResponseBody {
            incoming,
            attempt: Arc::clone(attempt),
            exchange,
            to: to.to_string(),
            between: options.between_bytes_timeout,
            waits: None,
        };
        body.boxed_unsync()
    });
    // Errors are the body's to tell; said here, they would be logged.
    let rest = async move {
        let _ = driver.await;
        Ok(())
    };
    Ok((response, Box::new(rest)))
}

fn too_long(attempt: &Attempt) -> Fault {
    let allowed = attempt.limits.http_timeout;
    let why = format!(
        "request and response were not over within {allowed:?} (`http_timeout_ms` raises it), or \
         within the attempt's own time"
    );
    Fault::new(Code::ResponseTimeout, why)
}

fn of_hyper(error: &hyper::Error) -> Fault {
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
struct RequestBody {
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
    to: String,
    /// How long the guest is willing to wait for the next bytes.
    between: Option<Duration>,
    waits: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
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
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let fault = self.exchange.fault().unwrap_or_else(|| of_hyper(&error));
                self.fail(fault)
            }
            // A connection that is dropped looks to hyper like one that has said all.
            Poll::Ready(None) => match self.exchange.fault() {
                Some(fault) => self.fail(fault),
                None => Poll::Ready(None),
            },
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
