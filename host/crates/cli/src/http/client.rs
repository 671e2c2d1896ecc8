//! Asking a worker what it has counted.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use tokio::net::TcpStream;
use wasmtime_wasi_http::io::TokioIo;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes of one.
const ANSWER_BYTES: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// That is no address to ask at.
    #[error("`{0}` is no URL of a worker, which is such as http://127.0.0.1:9464")]
    Url(String),
    /// Nobody is there, or they say nothing that makes sense.
    #[error("cannot ask {url}: {why}")]
    Failed {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
}

/// Gets a path from a worker at an `http` URL.
pub async fn get(url: &str, path: &str) -> Result<Bytes, AskError> {
    let wrong = || AskError::Url(lovage_core::text::one_line(url, 200));
    let at: Uri = url.parse().map_err(|_| wrong())?;
    let (Some("http"), Some(authority)) = (at.scheme_str(), at.authority()) else {
        return Err(wrong());
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = (host, authority.port_u16().unwrap_or(80));
    let failed = |why: String| AskError::Failed { url: url.to_owned(), why };
    let ask = async {
        let stream =
            TcpStream::connect(address).await.map_err(|error| failed(error.to_string()))?;
        ask(stream, authority.as_str(), path).await.map_err(failed)
    };
    let late = |_| failed(format!("no answer within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, ask).await.map_err(late)?
}

async fn ask(stream: TcpStream, host: &str, path: &str) -> Result<Bytes, String> {
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        if status == http::StatusCode::SERVICE_UNAVAILABLE {
            return Err(
                "it answers 503: the worker is still starting, or is not ready; its log says why"
                    .to_owned(),
            );
        }
        if !status.is_success() {
            return Err(format!("it answers {status}, so that is no worker of this version"));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES);
        Ok(body.collect().await.map_err(|error| error.to_string())?.to_bytes())
    };
    let answer = std::pin::pin!(answer);
    // The connection makes no progress of its own.
    let connection = std::pin::pin!(connection);
    match futures_util::future::select(answer, connection).await {
        futures_util::future::Either::Left((answer, _)) => answer,
        // It may have ended well, with the answer on this side of it.
        futures_util::future::Either::Right((Ok(()), answer)) => answer.await,
        futures_util::future::Either::Right((Err(error), _)) => Err(said(error)),
    }
}
