//! The package as users deploy it, run by ministack, as a function that is created from the zip, or
//! by AWS's own emulator. `runtime_api.rs` has a third way.

use std::{
    collections::HashMap,
    io::{BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use aws_sdk_lambda::{
    primitives::Blob,
    types::{Environment, FunctionCode, FunctionResponseType, InvocationType, Runtime},
};
use serde_json::{Value, json};

use super::ministack;

const MAKE: &str = "run `make test-host`, or `deploy/lambda/build.sh --for-tests`, first";

/// Where `deploy/lambda/build.sh --for-tests` puts its work.
fn made() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../lambda-for-tests")
}

/// The package. Fails when it is missing, or older than what it is made of: a test of yesterday's
/// package proves nothing.
pub fn package() -> &'static [u8] {
    static PACKAGE: OnceLock<Vec<u8>> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
        let file = made().join(format!("lovage-lambda-{architecture}.zip"));
        let Ok(packed) = file.metadata().and_then(|it| it.modified()) else {
            panic!("{} is missing; {MAKE}", file.display());
        };
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        if let Some(newer) = newer_than(packed, &sources) {
            panic!("{} is older than {}; {MAKE}", file.display(), newer.display());
        }
        std::fs::read(&file).unwrap()
    })
}

fn newer_than(time: SystemTime, directory: &Path) -> Option<PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).find_map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            return newer_than(time, &entry.path());
        }
        (entry.metadata().unwrap().modified().unwrap() > time).then(|| entry.path())
    })
}

/// The same, unpacked.
pub fn directory() -> PathBuf {
    package();
    made().join("lambda").canonicalize().unwrap()
}

/// A function to be created.
#[derive(Debug, Clone)]
pub struct NewFunction {
    handler: &'static str,
    timeout_seconds: i32,
    environment: HashMap<String, String>,
}

impl NewFunction {
    pub fn worker() -> Self {
        Self { handler: "worker", timeout_seconds: 10, environment: HashMap::new() }
            .with("LOVAGE__QUEUES__JOBS__DEFAULT_TASK", "process_data")
            .with("LOVAGE__WORKER__CONCURRENCY", "10")
            // Nobody is to wait for a back-off.
            .with("LOVAGE__DEFAULTS__RETRY_CAP_MS", "0")
    }

    pub fn dispatcher() -> Self {
        Self { handler: "dispatcher", timeout_seconds: 10, environment: HashMap::new() }
    }

    /// Sets a variable of its environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// How long an invocation may take.
    pub fn timeout(mut self, seconds: i32) -> Self {
        self.timeout_seconds = seconds;
        self
    }

    /// Creates it under a unique name that begins with `what`.
    pub async fn create(self, what: &str) -> Function {
        let name = ministack::unique(what);
        let new = self.with("AWS_ENDPOINT_URL", &ministack::endpoint());
        ministack::lambda_client()
            .create_function()
            .function_name(&name)
            .runtime(Runtime::Providedal2023)
            .handler(new.handler)
            .role("arn:aws:iam::000000000000:role/lovage")
            .timeout(new.timeout_seconds)
            .environment(Environment::builder().set_variables(Some(new.environment)).build())
            .code(FunctionCode::builder().zip_file(Blob::new(package())).build())
            .send()
            .await
            .expect("ministack creates the function");
        Function { name }
    }
}

/// A function on ministack.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
}

impl Function {
    /// Invokes it and waits: its answer, or the error that it reports.
    pub async fn invoke(&self, event: &Value) -> Result<Value, Value> {
        let output = ministack::lambda_client()
            .invoke()
            .function_name(&self.name)
            .payload(Blob::new(event.to_string()))
            .send()
            .await
            .expect("ministack invokes the function");
        let payload = output.payload.expect("an invocation has an answer").into_inner();
        let answer = serde_json::from_slice(&payload).expect("answers are JSON");
        if output.function_error.is_some() { Err(answer) } else { Ok(answer) }
    }

    /// Invokes it without waiting.
    pub async fn invoke_event(&self, event: &Value) {
        let output = ministack::lambda_client()
            .invoke()
            .function_name(&self.name)
            .invocation_type(InvocationType::Event)
            .payload(Blob::new(event.to_string()))
            .send()
            .await
            .expect("ministack takes the event");
        assert_eq!(output.status_code, 202);
    }

    /// Has the messages of a queue handed to it, in batches, with partial failures.
    pub async fn map(&self, queue: &str) {
        ministack::lambda_client()
            .create_event_source_mapping()
            .function_name(&self.name)
            .event_source_arn(ministack::arn(queue).await)
            .batch_size(10)
            .function_response_types(FunctionResponseType::ReportBatchItemFailures)
            .send()
            .await
            .expect("ministack maps the queue to the function");
    }
}

/// Sends native messages in one batch. Each is of the group `g` on a FIFO queue.
pub async fn send(queue: &str, messages: &[Value]) {
    let fifo = Path::new(queue).extension().is_some_and(|it| it == "fifo");
    let entries = messages.iter().enumerate().map(|(index, message)| {
        let id = index.to_string();
        aws_sdk_sqs::types::SendMessageBatchRequestEntry::builder()
            .id(&id)
            .message_body(message.to_string())
            .set_message_group_id(fifo.then(|| "g".to_owned()))
            .set_message_deduplication_id(fifo.then_some(id))
            .build()
            .unwrap()
    });
    let sent = ministack::sqs_client()
        .send_message_batch()
        .queue_url(queue)
        .set_entries(Some(entries.collect()))
        .send()
        .await
        .expect("ministack takes the messages");
    assert!(sent.failed.is_empty(), "{:?}", sent.failed);
}

/// Waits for so many results; fails when they do not come, or one too many does.
pub async fn results(queue: &str, count: usize) -> Vec<Value> {
    let until = Instant::now() + Duration::from_secs(90);
    let mut results = Vec::new();
    while results.len() < count {
        assert!(Instant::now() < until, "{} of {count} results came: {results:?}", results.len());
        results.extend(receive(queue, 5).await);
    }
    results.extend(receive(queue, 0).await);
    assert_eq!(results.len(), count, "{results:?}");
    results
}

async fn receive(queue: &str, seconds: i32) -> Vec<Value> {
    let client = ministack::sqs_client();
    let received = client
        .receive_message()
        .queue_url(queue)
        .max_number_of_messages(10)
        .wait_time_seconds(seconds)
        .send()
        .await
        .expect("ministack hands out messages");
    let mut results = Vec::new();
    for message in received.messages.unwrap_or_default() {
        let body = message.body.expect("a message has a body");
        results.push(serde_json::from_str(&body).expect("results are JSON"));
        let receipt = message.receipt_handle.expect("a message has a receipt");
        let deleted = client.delete_message().queue_url(queue).receipt_handle(receipt);
        deleted.send().await.expect("ministack deletes messages");
    }
    results
}

/// An event of an event source mapping, with a record for each body.
pub fn batch(queue: &str, bodies: &[Value]) -> Value {
    let record = |(index, body): (usize, &Value)| {
        json!({
            "messageId": format!("m{index}"),
            "receiptHandle": format!("r{index}"),
            "body": body.to_string(),
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000",
                "MessageGroupId": "g"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:{}:000000000000:{queue}", ministack::REGION),
            "awsRegion": ministack::REGION,
        })
    };
    json!({"Records": bodies.iter().enumerate().map(record).collect::<Vec<_>>()})
}

/// AWS's own emulator of Lambda's runtime, as its Python package brings it.
pub struct Emulator {
    pub address: String,
    child: Child,
}

impl Emulator {
    /// Starts it with the package as its function.
    pub fn start(environment: &[(&str, &str)]) -> Self {
        let libraries = std::fs::read_dir(ministack::venv().join("lib")).expect("a test venv");
        let program = libraries
            .map(|entry| entry.unwrap().path())
            .map(|python| python.join("site-packages/samcli/local/rapid/aws-lambda-rie-x86_64"))
            .find(|file| file.exists())
            .expect("AWS's emulator is in the test venv; run `make test-setup` first");
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (address, runtime_api) = (free(), free());
        let directory = directory();
        let child = Command::new(program)
            .args(["--runtime-interface-emulator-address", &address])
            .args(["--runtime-api-address", &runtime_api])
            .arg(directory.join("bootstrap"))
            .current_dir(&directory)
            .env("AWS_REGION", ministack::REGION)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_LAMBDA_FUNCTION_TIMEOUT", "30")
            .env("LAMBDA_TASK_ROOT", &directory)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("AWS's emulator starts");
        Self { address, child }
    }

    /// Invokes the function and waits for its answer.
    pub fn invoke(&self, event: &Value) -> Value {
        let until = Instant::now() + Duration::from_secs(30);
        let mut stream = loop {
            match TcpStream::connect(&self.address) {
                Ok(stream) => break stream,
                Err(error) => {
                    assert!(Instant::now() < until, "the emulator does not listen: {error}");
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let body = event.to_string();
        write!(
            stream,
            "POST /2015-03-31/functions/function/invocations HTTP/1.1\r\nhost: localhost\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a body");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
