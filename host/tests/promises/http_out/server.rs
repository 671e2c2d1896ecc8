//! A server on 127.0.0.1 that answers well, badly, slowly, or not at all.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use wasmtime_wasi_http::io::TokioIo;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A server that listens for as long as its test runs.
#[derive(Debug, Clone)]
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
}

/// What a server saw.
#[derive(Debug, Default)]
pub struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
    received: AtomicUsize,
}

impl Server {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0", None).await
    }

    /// A server at an address, with TLS where there is a configuration for it.
    pub async fn at(address: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let seen = Arc::clone(&server.seen);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let (tls, seen) = (tls.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, seen).await,
                        Some(tls) => {
                            let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, seen).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://127.0.0.1:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Bytes of bodies that came.
    pub fn received(&self) -> usize {
        self.seen.received.load(Ordering::SeqCst)
    }

    /// Waits until all connections that there were are closed.
    pub async fn all_closed(&self) {
        let patience = Instant::now() + Duration::from_secs(30);
        while self.connections() == 0 || self.seen.open.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < patience, "a connection is still open");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

struct Open(Arc<Seen>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send, seen: Arc<Seen>) {
    seen.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(Arc::clone(&seen));
    let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    drop(open);
}

fn whole(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// A body of chunks, with pauses between them.
fn chunks(chunk: &'static [u8], pause: Duration, count: usize) -> Body {
    let stream = futures_util::stream::unfold(0, move |sent| async move {
        if sent == count {
            return None;
        }
        tokio::time::sleep(pause).await;
        Some((Ok(Frame::data(Bytes::from_static(chunk))), sent + 1))
    });
    StreamBody::new(stream).boxed_unsync()
}

static FILL: [u8; 1 << 16] = [b'.'; 1 << 16];

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Response<Body>, Infallible> {
    seen.requests.fetch_add(1, Ordering::SeqCst);
    let (parts, mut body) = request.into_parts();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            seen.received.fetch_add(data.len(), Ordering::SeqCst);
            text.extend_from_slice(&data);
        }
    }
    let number = || parts.uri.query().and_then(|query| query.parse::<usize>().ok()).unwrap_or(0);
    Ok(match parts.uri.path() {
        "/redirect" => {
            let mut response = whole(StatusCode::FOUND, "");
            let to = parts.uri.query().unwrap().parse().unwrap();
            response.headers_mut().insert("location", to);
            response
        }
        // So many chunks of 64 KiB.
        "/large" => Response::new(chunks(&FILL, Duration::ZERO, number())),
        "/headers" => {
            let mut response = whole(StatusCode::OK, "");
            let value = "h".repeat(number()).parse().unwrap();
            response.headers_mut().insert("x-large", value);
            response
        }
        "/drip" => Response::new(chunks(b".", Duration::from_millis(20), usize::MAX)),
        "/never" => std::future::pending().await,
        _ => {
            let headers: serde_json::Map<_, _> = parts
                .headers
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())
                })
                .collect();
            let seen = serde_json::json!({
                "method": parts.method.as_str(),
                "target": parts.uri.to_string(),
                "headers": headers,
                "body": String::from_utf8_lossy(&text),
            });
            let mut response = whole(StatusCode::OK, seen.to_string());
            response.headers_mut().insert("x-answer", "yes".parse().unwrap());
            response
        }
    })
}
