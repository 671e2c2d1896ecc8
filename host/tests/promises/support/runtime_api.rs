//! A runtime API of our own making, as Lambda offers it to a function: it shows what the function
//! asks and says, and hands it several events at once.
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{lambda::directory, ministack};

/// What a function answers, or the error that it reports.
pub type Answer = Result<Value, Value>;

/// An event, the request's id, and when it has to be answered, in milliseconds since the epoch.
struct Invocation {
    id: String,
    event: Value,
    deadline: u128,
}

/// A function's process.
pub struct Process {
    events: Sender<Invocation>,
    answers: Receiver<(String, Answer)>,
    count: AtomicUsize,
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Process {
    /// Starts the package as the worker with this environment; returns when it has asked for its
    /// first event.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let directory = directory();
        Self::of(Command::new(directory.join("bootstrap")), &directory, environment)
    }

    /// Starts a program as a function that was deployed to `root`.
    pub fn of(mut command: Command, root: &Path, environment: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (events, to_hand_out) = channel();
        let (answered, answers) = channel();
        let (asked, first) = channel();
        let to_hand_out = Arc::new(Mutex::new(to_hand_out));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (events, answered, asked) =
                    (Arc::clone(&to_hand_out), answered.clone(), asked.clone());
                std::thread::spawn(move || serve(stream, &events, &answered, &asked));
            }
        });
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = command
            .stderr(log.reopen().unwrap())
            .env_clear()
            .current_dir(root)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "worker")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("LAMBDA_TASK_ROOT", root)
            .env("_HANDLER", "worker")
            .env("AWS_REGION", ministack::REGION)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("LOVAGE__QUEUES__JOBS__DEFAULT_TASK", "process_data")
            .env("LOVAGE__WORKER__CONCURRENCY", "10")
            .envs(environment.iter().copied())
            .spawn()
            .expect("the function's program starts");
        let process = Self { events, answers, count: AtomicUsize::new(1), child, log };
        let asked = first.recv_timeout(Duration::from_mins(1));
        assert!(asked.is_ok(), "the function asks for no event: {}", process.log());
        process
    }

    /// What it has written to its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    /// Hands it an event, to be worked on within `time`. The first request has the id
    /// `request-1`, and so on.
    pub fn invoke(&self, event: Value, time: Duration) -> Answer {
        self.invoke_all(vec![event], time).remove(0)
    }

    /// Hands it events as fast as it asks for them, and waits for all answers; these are in the
    /// order of their events.
    pub fn invoke_all(&self, events: Vec<Value>, time: Duration) -> Vec<Answer> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let until = Instant::now() + time;
        let deadline = (now + time).as_millis();
        let hand_out = |event| {
            let id = format!("request-{}", self.count.fetch_add(1, Ordering::Relaxed));
            self.events.send(Invocation { id: id.clone(), event, deadline }).unwrap();
            id
        };
        let ids: Vec<String> = events.into_iter().map(hand_out).collect();
        let mut answers = HashMap::new();
        while answers.len() < ids.len() {
            let left = until.saturating_duration_since(Instant::now());
            let (id, answer) = self.answers.recv_timeout(left).unwrap_or_else(|_| {
                panic!("the function answers before its deadline: {}", self.log())
            });
            assert!(answers.insert(id, answer).is_none(), "one answer a request");
        }
        ids.iter().map(|id| answers.remove(id).expect("an answer to each request")).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves one connection of the function.
fn serve(
    stream: TcpStream,
    events: &Mutex<Receiver<Invocation>>,
    answered: &Sender<(String, Answer)>,
    asked: &Sender<()>,
) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (path, body) = read_request(&mut reader)?;
        let (status, headers, body) = if path.ends_with("/invocation/next") {
            let _ = asked.send(());
            let Invocation { id, event, deadline } = events.lock().unwrap().recv().ok()?;
            let headers = format!(
                "lambda-runtime-aws-request-id: {id}\r\n\
                 lambda-runtime-deadline-ms: {deadline}\r\n\
                 lambda-runtime-trace-id: Root=1-5759e988-bd862e3fe1be46a994272793\r\n"
            );
            (200, headers, event.to_string())
        } else {
            let (before, kind) = path.rsplit_once('/')?;
            let id = before.rsplit('/').next()?.to_owned();
            let answer = serde_json::from_slice(&body).unwrap_or_default();
            let answer = if kind == "response" { Ok(answer) } else { Err(answer) };
            answered.send((id, answer)).ok()?;
            (202, String::new(), String::new())
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n");
        writer.write_all((head + &body).as_bytes()).ok()?;
    }
}

/// The path and the body of a request; the runtime sends its answers in chunks.
fn read_request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let header = line.trim_end().to_ascii_lowercase();
        match header.split_once(": ") {
            None if header.is_empty() => break,
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    loop {
        if chunked {
            line.clear();
            reader.read_line(&mut line).ok()?;
            length = usize::from_str_radix(line.trim_end(), 16).ok()?;
        }
        let start = body.len();
        body.resize(start + length, 0);
        reader.read_exact(&mut body[start..]).ok()?;
        if !chunked {
            break;
        }
        line.clear();
        reader.read_line(&mut line).ok()?;
        if length == 0 {
            break;
        }
    }
    Some((path, body))
}
