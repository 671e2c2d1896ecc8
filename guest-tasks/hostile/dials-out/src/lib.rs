//! Uses HTTP as nobody should: too often, too much, and without ever coming to an end.
#![allow(dead_code, reason = "not all of the client is used")]

#[path = "../../../granted/fetch/src/client.rs"]
mod client;

use client::{Request, begin, fetch, read, wait};
use lovage_task::{TaskError, task};
use schemars::JsonSchema;
use serde::Deserialize;
use wasip2::clocks::monotonic_clock::subscribe_duration;

#[derive(Deserialize, JsonSchema)]
struct Target {
    url: String,
    /// How many requests, bytes, or milliseconds.
    #[serde(default)]
    amount: u32,
}

fn get(url: String) -> Request {
    Request { method: "GET".to_owned(), url, headers: Vec::new(), body: Vec::new() }
}

/// Makes so many requests, one after the other, and says how many were answered.
#[task]
fn many_requests(target: Target) -> Result<u32, TaskError> {
    let mut answered = 0;
    for _ in 0..target.amount {
        fetch(&get(target.url.clone()))?;
        answered += 1;
    }
    Ok(answered)
}

/// Begins so many requests at once, copes with whatever happens to them, and says how many were
/// answered.
#[task]
fn at_once(target: Target) -> usize {
    let begun: Vec<_> = (0..target.amount).map(|_| begin(&get(target.url.clone()))).collect();
    let answers = begun.into_iter().flatten().map(|begun| wait(&begun).and_then(|it| read(&it)));
    answers.flatten().count()
}

/// Sends a body of so many bytes.
#[task]
fn uploads(target: Target) -> Result<u16, TaskError> {
    let body = vec![b'x'; usize::try_from(target.amount).unwrap_or(usize::MAX)];
    let request = Request { method: "POST".to_owned(), body, ..get(target.url) };
    Ok(fetch(&request)?.status)
}

/// Waits for so many milliseconds before it reads a body.
#[task]
fn reads_late(target: Target) -> Result<usize, TaskError> {
    let response = wait(&begin(&get(target.url))?)?;
    subscribe_duration(u64::from(target.amount) * 1_000_000).block();
    Ok(read(&response)?.len())
}

/// Begins a request, and waits for something else without end.
#[task]
fn holds_on(target: Target) -> Result<(), TaskError> {
    let _held = begin(&get(target.url))?;
    loop {
        subscribe_duration(1_000_000_000).block();
    }
}

lovage_task::export!(many_requests, at_once, uploads, reads_late, holds_on);
