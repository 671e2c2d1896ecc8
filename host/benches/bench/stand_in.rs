//! An SQS that answers at once, so that it is the host that is measured: a process of its own,
//! whose CPU time is nobody else's, and which looks at no more of a request than it must.
//!
//! It hands out a number of jobs, each once, and counts what is deleted and what is sent.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use serde::Deserialize;

/// What this program is called with to be the stand-in.
pub const NAME: &str = "stand-in";

/// The stand-in's process.
pub struct StandIn {
    process: Child,
    output: BufReader<std::process::ChildStdout>,
    pub endpoint: String,
}

impl StandIn {
    /// One that has so many jobs.
    pub fn start(jobs: usize) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut process = Command::new(program)
            .args([NAME, &jobs.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut stand_in = Self { process, output, endpoint: String::new() };
        stand_in.endpoint = stand_in.line();
        stand_in
    }

    /// Waits until each job was deleted, and holds the number of results to that of the jobs. How
    /// many requests it took.
    pub fn done(&mut self, jobs: usize) -> usize {
        let line = self.line();
        let (done, requests) = line.rsplit_once(", ").unwrap();
        assert_eq!(done, format!("{jobs} deleted, {jobs} sent"));
        requests.strip_suffix(" requests").unwrap().parse().unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn config(&self) -> aws_config::SdkConfig {
        let credentials = Credentials::new("bench", "bench", None, None, "bench");
        aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .endpoint_url(&self.endpoint)
            .build()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Counts {
    jobs: usize,
    handed_out: AtomicUsize,
    deleted: AtomicUsize,
    sent: AtomicUsize,
    requests: AtomicUsize,
    done: Mutex<bool>,
    changed: Condvar,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow, rename = "Entries")]
    entries: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(rename = "Id")]
    id: &'a str,
}

#[derive(Deserialize)]
struct Receive {
    #[serde(rename = "MaxNumberOfMessages")]
    max: usize,
}

/// The stand-in's own `main`.
pub fn serve(jobs: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("http://{}", listener.local_addr().unwrap());
    let counts = Arc::new(Counts {
        jobs,
        handed_out: AtomicUsize::new(0),
        deleted: AtomicUsize::new(0),
        sent: AtomicUsize::new(0),
        requests: AtomicUsize::new(0),
        done: Mutex::new(false),
        changed: Condvar::new(),
    });
    for stream in listener.incoming().flatten() {
        let counts = Arc::clone(&counts);
        std::thread::spawn(move || converse(stream, &counts));
    }
}

fn converse(stream: TcpStream, counts: &Counts) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let (mut line, mut body, mut answer) = (String::new(), Vec::new(), String::new());
    loop {
        let (mut operation, mut length) = (String::new(), 0);
        loop {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            // The first line is no header.
            let Some((name, value)) = line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().ok()?;
            } else if name.eq_ignore_ascii_case("x-amz-target") {
                value.rsplit('.').next()?.clone_into(&mut operation);
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
        answer.clear();
        counts.answer(&operation, &body, &mut answer);
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0\r\n\
             x-amzn-requestid: bench\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        writer.write_all(&[head.as_bytes(), answer.as_bytes()].concat()).ok()?;
    }
}

impl Counts {
    fn answer(&self, operation: &str, body: &[u8], answer: &mut String) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        match operation {
            "ReceiveMessage" => self.receive(body, answer),
            "SendMessageBatch" => {
                self.sent.fetch_add(accept(body, answer), Ordering::SeqCst);
            }
            "DeleteMessageBatch" => {
                let count = accept(body, answer);
                let deleted = self.deleted.fetch_add(count, Ordering::SeqCst) + count;
                if deleted == self.jobs {
                    let sent = self.sent.load(Ordering::SeqCst);
                    let requests = self.requests.load(Ordering::SeqCst);
                    println!("{deleted} deleted, {sent} sent, {requests} requests");
                    *self.done.lock().unwrap() = true;
                    self.changed.notify_all();
                }
            }
            "GetQueueUrl" => {
                let request: serde_json::Value = serde_json::from_slice(body).unwrap();
                let name = request["QueueName"].as_str().unwrap();
                *answer = format!(r#"{{"QueueUrl":"http://bench/1/{name}"}}"#);
            }
            "GetQueueAttributes" => {
                answer.push_str(r#"{"Attributes":{"VisibilityTimeout":"30"}}"#);
            }
            _ => {
                accept(body, answer);
            }
        }
    }

    fn receive(&self, body: &[u8], answer: &mut String) {
        let request: Receive = serde_json::from_slice(body).unwrap();
        let first = self.handed_out.fetch_add(request.max, Ordering::SeqCst);
        if first >= self.jobs {
            // A long poll of an empty queue.
            let done = self.done.lock().unwrap();
            let wait = Duration::from_secs(1);
            let _ = self.changed.wait_timeout_while(done, wait, |done| !*done).unwrap();
            answer.push_str("{}");
            return;
        }
        answer.push_str(r#"{"Messages":["#);
        for number in first..(first + request.max).min(self.jobs) {
            let comma = if number > first { "," } else { "" };
            // As long as SQS's own, which are some 400 characters.
            let _ = write!(
                answer,
                r#"{comma}{{"MessageId":"00000000-0000-4000-8000-{number:012}","ReceiptHandle":"{number:0400}","MD5OfBody":"0","Body":"{{\"id\":\"job-{number}\",\"data\":21}}","Attributes":{{"ApproximateReceiveCount":"1","SentTimestamp":"1764000000000"}}}}"#
            );
        }
        answer.push_str("]}");
    }
}

/// All entries of a batch went well; how many they were.
fn accept(body: &[u8], answer: &mut String) -> usize {
    let batch: Batch<'_> = serde_json::from_slice(body).unwrap();
    answer.push_str(r#"{"Successful":["#);
    for (index, entry) in batch.entries.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let id = entry.id;
        let _ = write!(
            answer,
            r#"{comma}{{"Id":"{id}","MessageId":"{index}","MD5OfMessageBody":"0"}}"#
        );
    }
    answer.push_str(r#"],"Failed":[]}"#);
    batch.entries.len()
}
