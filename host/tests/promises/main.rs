//! What Lovage promises, one test a promise, grouped by whom the promise is about.
//!
//! One test binary, so that the heavy dependencies are linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has to fail, loudly and on the spot"
)]
#![allow(clippy::print_stderr, reason = "a test that is skipped says why on standard error")]
#![allow(async_fn_in_trait, reason = "fixtures are only awaited in place, never spawned")]

#[cfg(feature = "compiler")]
mod compile_cache;
#[cfg(feature = "compiler")]
mod components;
#[cfg(feature = "compiler")]
mod guests;
#[cfg(feature = "compiler")]
mod precompiled;
#[cfg(feature = "compiler")]
mod registry;
#[cfg(feature = "compiler")]
mod sandbox;
