//! HTTP requests of guests, on their way out.
//!
//! What it promises:
//!
//! - A request goes only where a rule allows, and that is looked at for each: a guest follows
//!   redirects itself, so each step is a request of its own.
//! - The address that was checked is the one that is connected to. A name is resolved once.
//! - Bytes are counted where they cross the socket (below HTTP, above TLS), so that nothing in a
//!   request or response is free of charge.
//! - A request ends at its deadline whatever its guest and its server do, and with its attempt.
//! - Connections are used again by requests of the same attempt to the same scheme, host and port.
//!
//! ```text
//! request → admit (method, URL, rules, count) → resolve → check addresses → fill in secrets
//!         → connect to that address → TLS → hyper, over a counted stream → response
//! ```
//!
//! The guest sees a code of `wasi:http`; what the host knows beyond it stands in the failure's
//! detail if the attempt fails.

mod admit;
mod connect;
mod connection;
mod exchange;
mod fault;
mod meter;
mod methods;
mod network;
mod placeholders;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wasi_0_3;

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::{CancellationToken, DropGuard};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use self::connection::Connections;
use self::fault::Notes;
pub(super) use self::fault::code_of;
use self::meter::Traffic;
pub(super) use self::methods::add_to_linker;
pub use self::network::{Network, Resolve};
pub(super) use self::placeholders::Placeholders;
use super::host_memory::HostMemory;
use super::limits::Limits;
use super::state::State;
use super::table_memory;
use lovage_core::outcome::{Failure, Outcome};
use lovage_core::text::printable;
use lovage_policy::Grants;

/// The most bytes of the headers or trailers that a guest makes, as wasmtime counts them: with what
/// they take in memory. A guest may hold as many of them as it may hold handles.
const FIELDS_BYTES: usize = 32 << 10;

/// How much of a body crosses from the guest at once; for each that is not sent yet, two of them
/// may wait in the host.
pub(super) const CHUNK_BYTES: usize = 16 << 10;

/// What one attempt has for HTTP. Nothing is allocated for those that make no requests.
pub(super) struct Egress {
    ctx: WasiHttpCtx,
    hooks: Hooks,
    /// Calls since the resource table was last looked through.
    calls: u32,
}

/// What wasmtime asks when a guest makes a request.
struct Hooks {
    grants: Arc<Grants>,
    limits: Limits,
    deadline: Instant,
    network: Network,
    placeholders: Placeholders,
    /// Whose connections are; there when the first call is made.
    payer: Option<Payer>,
    requests: u32,
    shared: Option<Shared>,
}

/// Who has what connections and look-ups take.
#[derive(Debug, Clone)]
struct Payer {
    memory: HostMemory,
    tenant: Arc<str>,
}

/// What the requests of an attempt share, made with the first of them.
struct Shared {
    attempt: Arc<Attempt>,
    /// Ends all connections with the attempt, whoever still holds a part of one.
    _end: DropGuard,
}

/// The same, for the requests themselves.
struct Attempt {
    grants: Arc<Grants>,
    limits: Limits,
    deadline: Instant,
    network: Network,
    /// `None` in tests of what is below it.
    payer: Option<Payer>,
    connections: Connections,
    traffic: Traffic,
    notes: Notes,
    ended: CancellationToken,
}

impl Egress {
    pub fn new(grants: Arc<Grants>, limits: Limits, deadline: Instant, network: Network) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(FIELDS_BYTES);
        let placeholders = Placeholders::default();
        let hooks = Hooks {
            grants,
            limits,
            deadline,
            network,
            placeholders,
            payer: None,
            requests: 0,
            shared: None,
        };
        Self { ctx, hooks, calls: 0 }
    }

    /// The placeholders that the guest was given in place of secrets.
    #[allow(dead_code, reason = "filled by who gives secrets to guests")]
    pub fn placeholders(&mut self) -> &mut Placeholders {
        &mut self.hooks.placeholders
    }

    /// Bytes of responses, and bytes of requests, so far.
    pub fn bytes(&self) -> (u64, u64) {
        self.hooks.shared.as_ref().map_or((0, 0), |shared| shared.attempt.traffic.bytes())
    }

    /// Says in a failure what became of the last request that did not succeed. The guest may have
    /// coped with that, but it knows less of it than the host does.
    pub fn explain(&self, outcome: Outcome) -> Outcome {
        let note = self.hooks.shared.as_ref().and_then(|shared| shared.attempt.notes.last());
        let Some(note) = note else { return outcome };
        let explained = |failure: Failure| {
            let detail = failure.detail.as_deref().unwrap_or_default();
            let detail = format!("the last HTTP request that did not succeed: {note}\n{detail}");
            failure.with_detail(printable(&detail, super::DETAIL_BYTES))
        };
        match outcome {
            Outcome::Failed(failure) => Outcome::Failed(explained(failure)),
            Outcome::Rejected(failure) => Outcome::Rejected(explained(failure)),
            Outcome::Crashed(failure) => Outcome::Crashed(explained(failure)),
            Outcome::TimedOut(failure) => Outcome::TimedOut(explained(failure)),
            Outcome::Retry { failure, after } => {
                Outcome::Retry { failure: explained(failure), after }
            }
            other => other,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.calls.count();
        self.egress.calls += 1;
        if self.egress.calls >= table_memory::EVERY {
            self.egress.calls = 0;
            self.look_at_table();
        }
        if self.egress.hooks.payer.is_none() {
            let tenant = self.job.as_deref().map_or("", |job| &job.tenant).into();
            let memory = self.limiter.host_memory().clone();
            self.egress.hooks.payer = Some(Payer { memory, tenant });
        }
        let (egress, table) = self.egress();
        WasiHttpCtxView { ctx: &mut egress.ctx, table, hooks: &mut egress.hooks }
    }
}

impl Hooks {
    fn attempt(&mut self) -> Arc<Attempt> {
        let shared = self.shared.get_or_insert_with(|| {
            let ended = CancellationToken::new();
            let attempt = Attempt {
                grants: Arc::clone(&self.grants),
                limits: self.limits,
                deadline: self.deadline,
                network: self.network.clone(),
                payer: self.payer.clone(),
                connections: Connections::new(),
                traffic: Traffic::new(self.limits.http_bytes),
                notes: Notes::default(),
                ended: ended.clone(),
            };
            Shared { attempt: Arc::new(attempt), _end: ended.drop_guard() }
        });
        Arc::clone(&shared.attempt)
    }
}

type Boxed<T> = Box<dyn Future<Output = Result<T, Error>> + Send>;

impl WasiHttpHooks for Hooks {
    /// All are looked at in one place, where it is noted why one is refused.
    fn is_supported_scheme(&mut self, _: &http::uri::Scheme) -> bool {
        true
    }

    fn set_host_header(&mut self) -> bool {
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Boxed<()>,
    ) -> Boxed<(http::Response<WasiBody>, Boxed<()>)> {
        let attempt = self.attempt();
        self.requests = self.requests.saturating_add(1);
        let admitted = admit::admit(&attempt, self.requests, &self.placeholders, request, options);
        Box::new(async move {
            let admitted = admitted.map_err(|fault| attempt.notes.tell(&fault))?;
            let to = admitted.to.to_string();
            exchange::run(&attempt, admitted)
                .await
                .map_err(|fault| attempt.notes.tell(&fault.of_request_to(&to)))
        })
    }
}
