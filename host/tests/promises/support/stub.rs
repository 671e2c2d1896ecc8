//! An SQS of our own making, for what ministack cannot be brought to do: failing in part, being
//! throttled, denying, and the limits that ministack does not keep. It writes down every request.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use lovage::broker::sqs::SqsBroker;
use serde_json::{Value, json};

use super::ministack::config_for;

/// A request: the operation (`SendMessageBatch`), and its input.
pub type Request = (String, Value);

type Answer = dyn Fn(&str, &Value) -> Option<(u16, Value)> + Send + Sync;

/// A stub that listens for as long as the test binary runs.
pub struct Stub {
    pub endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Stub {
    /// Answers what `answer` says, an HTTP status and a JSON body; where it says `None`, that all
    /// went well.
    pub fn new(answer: impl FnMut(&str, &Value) -> Option<(u16, Value)> + Send + 'static) -> Self {
        let answer = Mutex::new(answer);
        Self::at_once(move |operation, input| (*answer.lock().unwrap())(operation, input))
    }

    /// [`new`](Self::new), for answers that take their time: requests are answered at once, and
    /// not one after the other.
    pub fn at_once(
        answer: impl Fn(&str, &Value) -> Option<(u16, Value)> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let log = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &log, &*answer));
            }
        });
        Self { endpoint, requests }
    }

    pub async fn broker(&self) -> SqsBroker {
        SqsBroker::from_config(&config_for(&self.endpoint)).await.unwrap()
    }

    /// What came in so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The operations that came in so far, in order.
    pub fn operations(&self) -> Vec<String> {
        self.requests().into_iter().map(|(name, _)| name).collect()
    }
}

fn serve(stream: TcpStream, log: &Mutex<Vec<Request>>, answer: &Answer) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut operation, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(": ") {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => length = value.parse().ok()?,
                    "x-amz-target" => value.rsplit('.').next()?.clone_into(&mut operation),
                    _ => {}
                }
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let input: Value = serde_json::from_slice(&body).unwrap_or_default();
        log.lock().unwrap().push((operation.clone(), input.clone()));
        let scripted = answer(&operation, &input);
        let (status, output) = scripted.unwrap_or_else(|| (200, all_well(&operation, &input)));
        let output = output.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/x-amz-json-1.0\r\n\
             x-amzn-requestid: stub-request\r\ncontent-length: {}\r\n\r\n",
            output.len()
        );
        writer.write_all(head.as_bytes()).ok()?;
        writer.write_all(output.as_bytes()).ok()?;
    }
}

/// The ids of a batch's entries.
pub fn ids(input: &Value) -> Vec<String> {
    let entries = input["Entries"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| entry["Id"].as_str().unwrap_or_default().to_owned()).collect()
}

/// An answer to a batch: these entries failed with this code, the rest went well.
pub fn failing(input: &Value, which: &[&str], code: &str, message: &str) -> Value {
    let (failed, successful): (Vec<_>, Vec<_>) =
        ids(input).into_iter().partition(|id| which.contains(&id.as_str()));
    let sender = !code.starts_with("Internal");
    json!({
        "Successful": successful.iter().map(|id| success(id)).collect::<Vec<_>>(),
        "Failed": failed.iter().map(|id| json!({
            "Id": id, "Code": code, "Message": message, "SenderFault": sender,
        })).collect::<Vec<_>>(),
    })
}

/// An error of the whole request.
pub fn error(code: &str, message: &str) -> Value {
    json!({ "__type": format!("com.amazonaws.sqs#{code}"), "message": message })
}

fn success(id: &str) -> Value {
    json!({ "Id": id, "MessageId": format!("stub-{id}"), "MD5OfMessageBody": "0" })
}

fn all_well(operation: &str, input: &Value) -> Value {
    match operation {
        "GetQueueUrl" => json!({
            "QueueUrl": format!("https://stub/1/{}", input["QueueName"].as_str().unwrap_or("")),
        }),
        _ if operation.ends_with("Batch") => failing(input, &[], "", ""),
        _ => json!({}),
    }
}
