//! Asking a worker, by the address that it has for that.

use anyhow::Context as _;
use bytes::Bytes;

use super::Misuse;
use crate::http;
use lovage_config::Config;

/// What a worker says at a path, and its URL: the one that was given, or that of
/// `worker.metrics_address`.
pub(super) async fn worker(
    url: Option<String>,
    config: &Config,
    path: &str,
) -> anyhow::Result<(String, Bytes)> {
    let url = url.or_else(|| url_of(config)).ok_or_else(|| {
        Misuse(
            "which worker? set worker.metrics_address in its configuration, or use --url"
                .to_owned(),
        )
    })?;
    match http::get(&url, path).await {
        Err(error @ http::AskError::Url(_)) => Err(Misuse(error.to_string()).into()),
        answer => Ok((url, answer.context("no worker answers")?)),
    }
}

/// Where the worker of a configuration is asked.
pub(super) fn url_of(config: &Config) -> Option<String> {
    let mut address = config.worker.metrics_address?;
    // Where it listens everywhere, it is here, too.
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(format!("http://{address}"))
}
