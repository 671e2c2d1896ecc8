//! A server of texts.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use wasmtime_wasi_http::io::TokioIo;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 32;

/// How long one may take, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// How long to wait after an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// What is answered.
#[derive(Debug)]
pub(super) struct Text {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub text: String,
}

/// Answers requests for ever: GET of a path that `answer` knows with its text, all else with
/// an error.
pub(super) async fn serve(
    listener: TcpListener,
    answer: impl Fn(&str) -> Option<Text> + Send + Sync + 'static,
) {
    let (answer, room) = (Arc::new(answer), Arc::new(Semaphore::new(CONNECTIONS)));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let _permit = permit;
                    // Whoever leaves early, or sends what is no HTTP, is no news.
                    let _ = tokio::time::timeout(PATIENCE, converse(stream, &*answer)).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection to the metrics");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    answer: &(impl Fn(&str) -> Option<Text> + Sync),
) -> hyper::Result<()> {
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(respond(request.method(), request.uri().path(), answer))
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn respond(
    method: &Method,
    path: &str,
    answer: impl Fn(&str) -> Option<Text>,
) -> Response<Full<bytes::Bytes>> {
    let plain = |text: &str| Text {
        status: StatusCode::OK,
        content_type: "text/plain",
        text: text.to_owned(),
    };
    let (status, text) = match answer(path) {
        None => (StatusCode::NOT_FOUND, plain("there is /metrics, /readyz, /usage and /tasks\n")),
        Some(_) if method != Method::GET && method != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, plain("only GET\n"))
        }
        Some(text) => (text.status, text),
    };
    let mut response = Response::new(Full::new(text.text.into()));
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(text.content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
