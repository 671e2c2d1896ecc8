//! A way to ministack that can be closed: it hands requests on, and refuses the operations that
//! it is told to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use super::ministack;

/// A proxy that listens for as long as the test binary runs.
#[derive(Debug)]
pub struct Proxy {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The HTTP status and the error code that answer an operation, for queues whose URL contains
    /// the text.
    refused: Option<(&'static str, String, u16, &'static str)>,
    refusals: usize,
}

impl Proxy {
    pub fn start() -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A proxy at an address that is known already.
    pub fn listen(listener: TcpListener) -> Self {
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { endpoint, state }
    }

    /// Refuses operations that begin with `operation` on the queue of that URL, from now on.
    pub fn refuse(&self, operation: &'static str, queue: &str, status: u16, code: &'static str) {
        // With the quote at its end it is a name in the request, and not one that a body mentions.
        let name = format!("{}\"", queue.rsplit('/').next().unwrap_or_default());
        self.state.lock().unwrap().refused = Some((operation, name, status, code));
    }

    /// Lets everything pass again.
    pub fn allow(&self) {
        self.state.lock().unwrap().refused = None;
    }

    /// How many requests were refused so far.
    pub fn refusals(&self) -> usize {
        self.state.lock().unwrap().refusals
    }
}

/// One request; then the connection is closed.
fn serve(mut stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut operation, mut length) = (String::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok()?,
                "x-amz-target" => value.rsplit('.').next()?.clone_into(&mut operation),
                "connection" => continue,
                _ => {}
            }
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let refusal = {
        let mut state = state.lock().unwrap();
        let text = String::from_utf8_lossy(&body);
        let refusal = state.refused.as_ref().filter(|(refused, queue, ..)| {
            operation.starts_with(refused) && text.contains(queue.as_str())
        });
        let refusal = refusal.map(|(_, _, status, code)| (*status, *code));
        state.refusals += usize::from(refusal.is_some());
        refusal
    };
    if let Some((status, code)) = refusal {
        let answer = format!("{{\"__type\":\"com.amazonaws.sqs#{code}\",\"message\":\"refused\"}}");
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.0\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).ok()?;
        return Some(());
    }
    let mut upstream =
        TcpStream::connect(ministack::endpoint().strip_prefix("http://").unwrap_or_default())
            .ok()?;
    upstream.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).ok()?;
    upstream.write_all(&body).ok()?;
    std::io::copy(&mut upstream, &mut stream).ok()?;
    Some(())
}
