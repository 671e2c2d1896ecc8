//! What is promised of the HTTP requests of guests: where they go, how much, how long.

mod bounds;
#[cfg(all(feature = "cli", feature = "local"))]
mod command;
mod reach;
mod server;
mod stage;
mod tls;
mod wasi_0_3;
