//! A local AWS for the whole test binary: [ministack](https://pypi.org/project/ministack), started
//! when the first test asks for it, and ended with the binary however that ends.
//!
//! Known differences from AWS, so that no test leans on them: no limit of ten attributes; delays
//! over 900 seconds taken; trace headers lost in batches; visibility of an expired receipt can be
//! changed, and beyond twelve hours. The stub in `stub.rs` and unit tests cover those.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::{
    config::{Credentials, SharedCredentialsProvider},
    types::QueueAttributeName,
};

/// The region that everything is in.
pub const REGION: &str = "us-east-1";

/// Runs ministack until standard input ends, which it does when the test binary is gone: killed,
/// panicked or done. Then ends the whole process group, the functions that ministack runs included.
const GUARD: &str = r#"
"$@" </dev/null &
child=$!
(while kill -0 "$child" 2>/dev/null; do sleep 1; done; kill -KILL 0) &
cat >/dev/null
kill -TERM "$child" 2>/dev/null
sleep 1
kill -KILL 0
"#;

struct Ministack {
    address: SocketAddr,
    /// Holds the write end of the guard's standard input, which ends with this process.
    _guard: Child,
}

/// The address of ministack, as a URL: `http://127.0.0.1:PORT`.
///
/// Panics, with what to do, when it is not installed or does not start.
pub fn endpoint() -> String {
    static MINISTACK: OnceLock<Ministack> = OnceLock::new();
    let ministack = MINISTACK.get_or_init(start);
    format!("http://{}", ministack.address)
}

fn start() -> Ministack {
    let program = venv().join("bin/ministack");
    assert!(
        program.exists(),
        "{} is missing; run `make test-setup` (or host/tests/setup.sh) first",
        program.display()
    );
    let mut last = String::new();
    // A port that is free now can be taken a moment later.
    for _ in 0..3 {
        match try_start(&program) {
            Ok(ministack) => return ministack,
            Err(why) => last = why,
        }
    }
    panic!("ministack did not start: {last}");
}

fn try_start(program: &Path) -> Result<Ministack, String> {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| error.to_string())?
        .port();
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ministack.log");
    let output = std::fs::File::create(&log).map_err(|error| error.to_string())?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let mut guard = Command::new("sh")
        .args(["-c", GUARD, "guard"])
        .arg(program)
        .env("BIND_HOST", "127.0.0.1")
        .env("GATEWAY_PORT", port.to_string())
        .env("MINISTACK_REGION", REGION)
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(errors)
        // The guard ends its whole group, which must not be ours.
        .process_group(0)
        .spawn()
        .map_err(|error| error.to_string())?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_mins(1) {
        if is_healthy(address) {
            return Ok(Ministack { address, _guard: guard });
        }
        if let Ok(Some(status)) = guard.try_wait() {
            return Err(format!("it ended with {status}; see {}", log.display()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("no answer within a minute; see {}", log.display()))
}

fn is_healthy(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let request = "GET /_ministack/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = [0; 12];
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .and_then(|()| stream.read_exact(&mut answer))
        .is_ok_and(|()| answer.ends_with(b"200"))
}

/// The Python environment that `host/tests/setup.sh` makes.
pub fn venv() -> PathBuf {
    std::env::var_os("LOVAGE_TEST_VENV").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-venv"),
        PathBuf::from,
    )
}

/// The configuration of a client of ministack.
pub fn config() -> SdkConfig {
    config_for(&endpoint())
}

/// The configuration of a client of any endpoint.
pub fn config_for(endpoint: &str) -> SdkConfig {
    let credentials = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .build()
}

pub fn sqs_client() -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(&config())
}

pub fn lambda_client() -> aws_sdk_lambda::Client {
    aws_sdk_lambda::Client::new(&config())
}

/// A name that no other test has, for a queue or a function: `what` and a UUID.
pub fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4().simple())
}

/// A queue to be created.
#[derive(Debug, Default, Clone)]
pub struct NewQueue {
    pub fifo: bool,
    pub visibility_seconds: Option<u32>,
    /// The largest message that it takes, in bytes; 1,024 at least.
    pub max_bytes: Option<u32>,
    /// The URL of the dead-letter queue and how many receives lead there.
    pub redrive: Option<(String, u32)>,
}

impl NewQueue {
    /// Creates it under a unique name that begins with `what`; answers its URL.
    pub async fn create(self, what: &str) -> String {
        let client = sqs_client();
        let mut attributes = HashMap::new();
        let mut name = unique(what);
        if self.fifo {
            name.push_str(".fifo");
            attributes.insert(QueueAttributeName::FifoQueue, "true".to_owned());
        }
        if let Some(seconds) = self.visibility_seconds {
            attributes.insert(QueueAttributeName::VisibilityTimeout, seconds.to_string());
        }
        if let Some(bytes) = self.max_bytes {
            attributes.insert(QueueAttributeName::MaximumMessageSize, bytes.to_string());
        }
        if let Some((target, receives)) = &self.redrive {
            let policy = serde_json::json!({
                "deadLetterTargetArn": arn(target).await,
                "maxReceiveCount": receives,
            });
            attributes.insert(QueueAttributeName::RedrivePolicy, policy.to_string());
        }
        client
            .create_queue()
            .queue_name(name)
            .set_attributes(Some(attributes).filter(|attributes| !attributes.is_empty()))
            .send()
            .await
            .expect("ministack creates the queue")
            .queue_url
            .expect("a queue has a URL")
    }
}

/// A standard queue; answers its URL.
pub async fn queue(what: &str) -> String {
    NewQueue::default().create(what).await
}

/// A FIFO queue; answers its URL.
pub async fn fifo_queue(what: &str) -> String {
    let new = NewQueue { fifo: true, ..NewQueue::default() };
    new.create(what).await
}

/// A queue's ARN.
pub async fn arn(url: &str) -> String {
    sqs_client()
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::QueueArn)
        .send()
        .await
        .expect("ministack tells the queue's attributes")
        .attributes
        .and_then(|mut attributes| attributes.remove(&QueueAttributeName::QueueArn))
        .expect("a queue has an ARN")
}

/// A bucket of its own.
#[derive(Debug)]
pub struct Bucket {
    pub name: String,
    client: aws_sdk_s3::Client,
}

impl Bucket {
    /// Creates it under a unique name that begins with `what`.
    pub async fn create(what: &str) -> Self {
        // A bucket's name has no capitals.
        let name = format!("{what}-{}", uuid::Uuid::new_v4());
        let config = aws_sdk_s3::config::Builder::from(&config()).force_path_style(true).build();
        let client = aws_sdk_s3::Client::from_conf(config);
        client.create_bucket().bucket(&name).send().await.expect("ministack makes the bucket");
        Self { name, client }
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        let put = self.client.put_object().bucket(&self.name).key(key).body(bytes.into());
        put.send().await.expect("ministack takes the object");
    }

    pub async fn delete(&self, key: &str) {
        let delete = self.client.delete_object().bucket(&self.name).key(key);
        delete.send().await.expect("ministack deletes the object");
    }
}
