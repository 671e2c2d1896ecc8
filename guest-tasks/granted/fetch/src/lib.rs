//! Makes an HTTP request: what the task may reach is for the operator to grant.
//!
//! ```toml
//! [tasks.fetch.grants]
//! http = ["GET https://*.example.com"]
//! ```

mod client;

use std::collections::BTreeMap;

use client::{Request, fetch as send, join, origin};
use lovage_task::{TaskError, task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to ask.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ask {
    url: String,
    /// `GET` when absent.
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Text to send.
    #[serde(default)]
    body: String,
    /// How many redirects are followed; none when absent.
    #[serde(default)]
    follow: u32,
}

/// What was answered.
#[derive(Serialize, JsonSchema)]
struct Answer {
    status: u16,
    /// Those of one name are joined by commas.
    headers: BTreeMap<String, String>,
    /// As text; what is no UTF-8 is replaced.
    body: String,
}

/// Makes an HTTP request, and gives back what was answered.
#[task(name = "fetch", max_attempts = 3, timeout_ms = 60_000)]
fn fetch(ask: Ask) -> Result<Answer, TaskError> {
    let mut request = Request {
        method: ask.method.unwrap_or_else(|| "GET".to_owned()),
        url: ask.url,
        headers: ask.headers.into_iter().collect(),
        body: ask.body.into_bytes(),
    };
    let mut left = ask.follow;
    loop {
        let response = send(&request)?;
        let location = response.headers.iter().find(|(name, _)| name == "location");
        match (response.status, location) {
            (301 | 302 | 303 | 307 | 308, Some((_, location))) if left > 0 => {
                left -= 1;
                request = redirected(request, response.status, location);
            }
            _ => {
                let mut headers: BTreeMap<String, String> = BTreeMap::new();
                for (name, value) in response.headers {
                    headers
                        .entry(name)
                        .and_modify(|all| *all = format!("{all}, {value}"))
                        .or_insert(value);
                }
                let body = String::from_utf8_lossy(&response.body).into_owned();
                return Ok(Answer { status: response.status, headers, body });
            }
        }
    }
}

/// The request that follows from a redirect. What was meant for one host is not told to another.
fn redirected(mut request: Request, status: u16, location: &str) -> Request {
    let url = join(&request.url, location);
    if origin(&url) != origin(&request.url) {
        let private = ["authorization", "cookie"];
        request.headers.retain(|(name, _)| !private.contains(&name.to_ascii_lowercase().as_str()));
    }
    if matches!(status, 301..=303) && request.method != "HEAD" {
        "GET".clone_into(&mut request.method);
        request.body.clear();
        request.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("content-"));
    }
    Request { url, ..request }
}

lovage_task::export!(fetch);
