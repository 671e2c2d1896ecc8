//! A server of texts.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use wasmtime_wasi_http::io::TokioIo;

/// Connections at once. A new one beyond that takes the place of the oldest that has asked for
/// nothing yet, so that those who are silent keep nobody else out.
const CONNECTIONS: usize = 64;

/// The time for a request's head.
const HEAD_TIME: Duration = Duration::from_secs(3);

/// The time for a whole connection, from its first byte to its last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);

/// The most bytes of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// How long to wait after an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// What is answered.
#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "the text of an answer is its text")]
pub(super) struct Text {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub text: String,
}

/// One connection.
struct Connection {
    task: JoinHandle<()>,
    /// A request's head has come.
    has_asked: Arc<AtomicBool>,
}

/// Answers requests for ever: GET of a path that `answer` knows with its text, all else with
/// an error.
pub(super) async fn serve(
    listener: TcpListener,
    answer: impl Fn(&str) -> Option<Text> + Send + Sync + 'static,
) {
    let answer = Arc::new(answer);
    // The oldest first.
    let mut connections: VecDeque<Connection> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection to the metrics");
                // Silent connections may hold the descriptors that are missing.
                make_room(&mut connections, CONNECTIONS / 2);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        make_room(&mut connections, CONNECTIONS - 1);
        let has_asked = Arc::new(AtomicBool::new(false));
        let (answer, asked) = (Arc::clone(&answer), Arc::clone(&has_asked));
        let task = tokio::spawn(async move {
            // Whoever leaves early, or sends what is no HTTP, is no news.
            let _ = tokio::time::timeout(CONNECTION_TIME, converse(stream, &*answer, &asked)).await;
        });
        connections.push_back(Connection { task, has_asked });
    }
}

/// Ends connections until there are no more than `most`: first those that are over, then the oldest
/// that asked for nothing, then the oldest.
fn make_room(connections: &mut VecDeque<Connection>, most: usize) {
    connections.retain(|connection| !connection.task.is_finished());
    while connections.len() > most {
        let silent = connections.iter().position(|it| !it.has_asked.load(Relaxed));
        if let Some(connection) = connections.remove(silent.unwrap_or(0)) {
            connection.task.abort();
        }
    }
}

async fn converse(
    stream: TcpStream,
    answer: &(impl Fn(&str) -> Option<Text> + Sync),
    has_asked: &AtomicBool,
) -> hyper::Result<()> {
    let service = service_fn(async |request: Request<Incoming>| {
        has_asked.store(true, Relaxed);
        Ok::<_, Infallible>(respond(request.method(), request.uri().path(), answer))
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        over = &mut connection => return over,
        () = tokio::time::sleep(HEAD_TIME) => {}
    }
    if has_asked.load(Relaxed) { connection.await } else { Ok(()) }
}

fn respond(
    method: &Method,
    path: &str,
    answer: impl Fn(&str) -> Option<Text>,
) -> Response<Full<bytes::Bytes>> {
    let plain =
        |status, text: &str| Text { status, content_type: "text/plain", text: text.to_owned() };
    let text = match answer(path) {
        None => {
            plain(StatusCode::NOT_FOUND, "there is /metrics, /readyz, /health, /usage and /tasks\n")
        }
        Some(_) if method != Method::GET && method != Method::HEAD => {
            plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
        }
        Some(text) => text,
    };
    let mut response = Response::new(Full::new(text.text.into()));
    *response.status_mut() = text.status;
    let content_type = header::HeaderValue::from_static(text.content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
