//! The metrics address answers from the first moment on, and nobody holds it up.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{
    stage::{Kind, Setup, Stage},
    worker::until,
};

/// An address that nobody has.
pub fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The status and the text of an answer.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_mins(1), read).await.unwrap().unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default().parse().unwrap();
    (status, text.to_owned())
}

async fn listens(address: SocketAddr) {
    until("the address is open", async || TcpStream::connect(address).await.ok().map(drop)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn it_answers_while_the_broker_is_away_at_the_start() {
    let address = free();
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    // Nobody listens at the endpoint of the stage.
    stage.configure(&format!("broker.kind = 'sqs'\nworker.metrics_address = '{address}'"));
    let mut worker = stage.spawn();
    worker.logs("receiving failed", 1).await;
    let (status, metrics) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("lovage_worker_state{state=\"starting\"} 1"), "{metrics}");
    assert_eq!(get(address, "/health").await, (200, "{\"state\":\"starting\"}".to_owned()));
    assert_eq!(get(address, "/tasks").await.0, 503);
    let tasks = stage.lovage(&["tasks"]).await;
    assert!(tasks.stderr.contains("still starting"), "{tasks:?}");
    worker.signal(crate::support::worker::Signal::TERM);
    assert!(worker.ends().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn silent_connections_keep_nobody_out() {
    let address = free();
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    stage.configure(&format!("worker.metrics_address = '{address}'"));
    let worker = stage.worker().await;
    listens(address).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Some say half of something.
        if silent.len() % 2 == 0 {
            stream.write_all(b"GET /metr").await.unwrap();
        }
        silent.push(stream);
    }
    let begin = Instant::now();
    let (status, metrics) = get(address, "/metrics").await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert_eq!(status, 200);
    assert!(metrics.contains("lovage_worker_state{state=\"running\"} 1"), "{metrics}");
    drop(silent);
    worker.stop().await;
}
