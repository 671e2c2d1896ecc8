//! A connection, and those of an attempt that wait for its next request.
//!
//! A connection serves one request after the other to one scheme, host and port, and never leaves its
//! attempt. Each request is admitted by itself; the grants are those that the connection's address was
//! checked by. A request with a secret that would be sent without TLS looks at the address again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi_http::io::TokioIo;

use super::Attempt;
use super::connect::{Address, connect};
use super::exchange::{Exchange, RequestBody, of_hyper, too_long};
use super::fault::{Code, Fault};
use super::meter::Metered;
use lovage_policy::{Destination, Reach};

/// How much of a connection is kept in memory, each way; so large can a response's header be.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// What a connection counts as in the attempt's memory: a buffer, and what was read and waits.
const CHARGED_BYTES: u64 = 2 * BUFFER_BYTES as u64;

/// How many connections an attempt has at once; more requests wait for one.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// How long a connection waits for the next request. Servers close those that wait for longer than some
/// seconds.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// How long a connection may take to be done with its last request, whose response is read.
const SETTLES: Duration = Duration::from_millis(20);

/// The request that a connection serves now, with the end of its time; `None` while it is idle.
pub(super) type Current = Option<Arc<Exchange>>;

/// A connection to a server.
pub(super) struct Connection {
    pub sender: http1::SendRequest<RequestBody>,
    current: watch::Sender<(Instant, Current)>,
    _driver: AbortOnDropHandle<()>,
    to: Destination,
    reach: Reach,
    /// True if it has served a request.
    pub used: bool,
}

/// The connections of an attempt.
pub(super) struct Connections {
    idle: Mutex<Vec<Connection>>,
    room: Arc<Semaphore>,
}

impl Connections {
    pub fn new() -> Self {
        Self { idle: Mutex::default(), room: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection to where a request goes. With `granted`, only one to a granted network.
    pub async fn take(&self, to: &Destination, granted: bool) -> Option<Connection> {
        loop {
            let mut connection = {
                let mut idle = self.idle();
                idle.retain(|connection| !connection.sender.is_closed());
                let at = idle.iter().rposition(|connection| connection.leads_to(to, granted))?;
                idle.swap_remove(at)
            };
            if let Ok(Ok(())) = timeout(SETTLES, connection.sender.ready()).await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose response was read to its end.
    pub fn keep(&self, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        connection.current.send_replace((Instant::now() + MAX_IDLE, None));
        self.idle().push(connection);
    }

    /// A place for another connection, if need be that of an idle one.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.room);
        if room.available_permits() == 0 {
            self.idle().clear();
        }
        room.acquire_owned().await.ok()
    }
}

impl Connection {
    fn leads_to(&self, to: &Destination, granted: bool) -> bool {
        self.to.scheme == to.scheme
            && self.to.host == to.host
            && self.to.port == to.port
            && (!granted || self.reach == Reach::Granted)
    }

    /// Makes one to the first of these addresses that answers.
    pub async fn open(
        attempt: &Arc<Attempt>,
        to: &Destination,
        addresses: &[Address],
        by: Instant,
    ) -> Result<Self, Fault> {
        let full = |what| {
            Fault::new(Code::TooManyRequests, format!("no connection was free in time: {what}"))
        };
        let place = timeout_at(by, attempt.connections.place())
            .await
            .map_err(|_| full(format!("the attempt has {MAX_CONNECTIONS} open")))?;
        let payer = attempt.payer.as_ref();
        let charge = match payer.map(|payer| payer.memory.charge(CHARGED_BYTES)) {
            Some(Ok(charge)) => Some(charge),
            Some(Err(refusal)) => {
                let why = format!("there is no memory for a connection: the attempt {refusal}");
                return Err(Fault::new(Code::TooManyRequests, why));
            }
            None => None,
        };
        let tenant = payer.map_or("", |payer| &payer.tenant);
        let descriptor = timeout_at(by, attempt.network.descriptor(tenant))
            .await
            .map_err(|_| full("the tenant has its share of the process's files".to_owned()))?;
        let (stream, reach) = connect(attempt, to, addresses, by).await?;

        let (current, mut changes) = watch::channel((by, None));
        let exchange = changes.clone();
        let metered = Metered { stream, attempt: Arc::clone(attempt), exchange };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(metered))
            .await
            .map_err(|error| of_hyper(&error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn({
            let attempt = Arc::clone(attempt);
            async move {
                // They are free again when the connection is gone.
                let _held = (place, charge, descriptor);
                let mut connection = std::pin::pin!(connection);
                loop {
                    let (until, current) = changes.borrow_and_update().clone();
                    tokio::select! {
                        biased;
                        () = attempt.ended.cancelled() => return,
                        () = sleep_until(until) => {
                            // Written down before the connection is dropped: the body is told of its end at once, on
                            // another thread.
                            if let Some(exchange) = current {
                                exchange.fail(too_long(&attempt));
                            }
                            return;
                        }
                        changed = changes.changed() => if changed.is_err() { return },
                        // What is wrong with it is told by the response, or its body.
                        _ = &mut connection => return,
                    }
                }
            }
        }));
        Ok(Self { sender, current, _driver: driver, to: to.clone(), reach, used: false })
    }

    /// It serves this request from now on.
    pub fn begin(&self, exchange: &Arc<Exchange>, deadline: Instant) {
        self.current.send_replace((deadline, Some(Arc::clone(exchange))));
    }
}
