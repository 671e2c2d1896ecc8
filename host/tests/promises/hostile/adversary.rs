//! A server that attacks whoever asks it: it answers without end, drop by drop, with lies, or not
//! at all. By hand over TCP, since no library for HTTP would send such things.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// It listens for as long as its process runs.
#[derive(Debug)]
pub struct Adversary {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Adversary {
    pub async fn at(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let server = Self {
            address: listener.local_addr()?,
            connections: Arc::default(),
            open: Arc::default(),
        };
        let (connections, open) = (Arc::clone(&server.connections), Arc::clone(&server.open));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let open = Arc::clone(&open);
                tokio::spawn(async move {
                    // Whoever asked has closed the connection: that is how most of these end.
                    let _ = serve(stream).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(server)
    }

    /// How many connections there ever were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until nobody is connected any more.
    pub async fn all_closed(&self, name: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.open.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < until, "{name}: a connection is left");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let fill = ".".repeat(1 << 16);
    match path {
        "/echo" => {
            let length = head.len();
            say(&mut stream, &format!("{OK}content-length: {length}\r\n\r\n{head}")).await
        }
        "/redirect" => {
            let to = query.replace("%0d", "\r").replace("%1b", "\u{1b}");
            let head = "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: ";
            say(&mut stream, &format!("{head}{to}\r\n\r\n")).await
        }
        "/circle" => say(&mut stream, "HTTP/1.1 307 Again\r\nlocation: /circle\r\n\r\n").await,
        // Reads all that comes, and says nothing.
        "/never" => {
            let mut some = vec![0; 1 << 16];
            while stream.read(&mut some).await? > 0 {}
            Ok(())
        }
        "/drip" => drip(stream, &format!("{OK}\r\n"), ".").await,
        "/drip-a-head" => drip(stream, &format!("{OK}x: "), "h").await,
        "/drip-a-length" => drip(stream, &format!("{OK}content-length: 9999999\r\n\r\n"), "").await,
        "/endless" => repeat(stream, &format!("{OK}\r\n"), &fill).await,
        "/endless-chunks" => {
            let chunks = "1\r\n.\r\n".repeat(10_000);
            repeat(stream, &format!("{OK}transfer-encoding: chunked\r\n\r\n"), &chunks).await
        }
        "/endless-header" => repeat(stream, &format!("{OK}x: "), &fill).await,
        "/endless-headers" => repeat(stream, OK, "x: y\r\n").await,
        "/endless-trailers" => {
            let head = format!("{OK}transfer-encoding: chunked\r\n\r\n1\r\n.\r\n0\r\n");
            repeat(stream, &head, "x: y\r\n").await
        }
        "/endless-continues" => repeat(stream, "", "HTTP/1.1 100 Continue\r\n\r\n").await,
        "/endless-chunk-size" => {
            let head = format!("{OK}transfer-encoding: chunked\r\n\r\n1;x=");
            repeat(stream, &head, &fill).await
        }
        "/short" => say(&mut stream, &format!("{OK}content-length: 1000000\r\n\r\nshort")).await,
        "/wide-length" => {
            let length = "9".repeat(40);
            say(&mut stream, &format!("{OK}content-length: {length}\r\n\r\nok")).await
        }
        "/wide-chunk" => {
            let head = format!("{OK}transfer-encoding: chunked\r\n\r\n");
            say(&mut stream, &format!("{head}FFFFFFFFFFFFFFFFF\r\n.\r\n")).await
        }
        "/both-lengths" => {
            let head = format!("{OK}content-length: 5\r\ncontent-length: 6\r\n\r\n");
            say(&mut stream, &format!("{head}123456")).await
        }
        "/switches" => {
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n";
            repeat(stream, &format!("{head}\r\n"), &fill).await
        }
        "/no-http" => say(&mut stream, "\u{1b}[2J\u{202e}220 mail.test ESMTP\r\n\r\n").await,
        "/steers" => {
            let head = "HTTP/1.1 200 \u{1b}[2J\r\nx-a: \u{202e}\u{9}\r\nlocation: \u{7f}\r\n";
            say(&mut stream, &format!("{head}content-length: 5\r\n\r\n\u{1b}[2J\n")).await
        }
        "/closes" => Ok(()),
        _ => say(&mut stream, &format!("{OK}content-length: 4\r\n\r\ngood")).await,
    }
}

async fn say(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// A beginning, and then the rest for ever, slowly. Nothing as the rest is to wait.
async fn drip(mut stream: TcpStream, head: &str, rest: &str) -> io::Result<()> {
    stream.write_all(head.as_bytes()).await?;
    let (mut from, mut to) = stream.into_split();
    let drips = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            to.write_all(rest.as_bytes()).await?;
        }
    };
    // Who drips nothing would not see that the other has gone. What still comes of the request, an
    // empty body say, is no sign of that.
    let gone = async {
        let mut some = [0; 1024];
        while from.read(&mut some).await? > 0 {}
        Ok(())
    };
    tokio::select! {
        ended = gone => ended,
        ended = drips => ended,
    }
}

/// A beginning, and then the rest for ever, as fast as it is taken.
async fn repeat(mut stream: TcpStream, head: &str, rest: &str) -> io::Result<()> {
    let rest = rest.repeat(((1 << 16) / rest.len()).max(1));
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(rest.as_bytes()).await?;
    }
}
