//! Credentials: rotated ones are used without a restart, and what is wrong with them is told.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::support::stage::{Kind, Setup, Stage};

/// A peer that speaks SQS's protocol, and takes one key only.
async fn peer(key: Arc<Mutex<String>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&key)));
        }
    });
    endpoint
}

async fn serve(stream: TcpStream, key: Arc<Mutex<String>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut length, mut operation, mut right) = (0, String::new(), false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if lower.starts_with("x-amz-target: ") {
                operation = line.rsplit('.').next().unwrap_or_default().to_owned();
            }
            right |= lower.starts_with("authorization: ")
                && line.contains(&format!("Credential={}/", key.lock().unwrap()));
            if line.is_empty() {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).await?;
        let (status, text) = match (right, &*operation) {
            (false, _) => (
                "403 Forbidden",
                r#"{"__type":"com.amazon.coral.service#ExpiredTokenException","message":"The security token included in the request is expired"}"#,
            ),
            (true, "GetQueueUrl") => ("200 OK", r#"{"QueueUrl":"http://127.0.0.1/1/jobs"}"#),
            (true, "GetQueueAttributes") => {
                ("200 OK", r#"{"Attributes":{"VisibilityTimeout":"30"}}"#)
            }
            (true, _) => {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                ("200 OK", "{}")
            }
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/x-amz-json-1.0\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_rotated_on_disk_are_read_again_when_they_are_refused() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    stage.configure("broker.kind = 'sqs'\nqueues.jobs.dead_letters = 'discard'");
    let file = stage.directory().join("credentials");
    let write = |key: &str| {
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n");
        std::fs::write(&file, text).unwrap();
    };
    write("FIRST");
    let key = Arc::new(Mutex::new("FIRST".to_owned()));
    let mut command = stage.command(&["worker"]);
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_SHARED_CREDENTIALS_FILE", &file)
        .env("AWS_ENDPOINT_URL", peer(Arc::clone(&key)).await);
    let worker = crate::support::worker::Worker::spawn(command);
    worker.logs("worker started", 1).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    // First the file, then AWS: as a rotation goes.
    write("SECOND");
    *key.lock().unwrap() = "SECOND".to_owned();
    worker.logs("AWS refused the credentials: they are read again", 1).await;
    let before = worker.logged("receiving failed").len();
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(worker.logged("receiving failed").len(), before, "{:?}", worker.lines());
    // And where AWS is first.
    *key.lock().unwrap() = "THIRD".to_owned();
    worker.logs("receiving failed", before + 1).await;
    write("THIRD");
    crate::support::worker::until("receives work again", async || {
        let before = worker.logged("receiving failed").len();
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        (worker.logged("receiving failed").len() == before).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_profile_that_is_not_there_is_named_with_the_nearest() {
    let stage = Stage::set(Kind::Sqs, Setup::default()).await;
    let config = stage.directory().join("config");
    std::fs::write(&config, "[profile production]\nregion = us-east-1\n").unwrap();
    for region in [true, false] {
        let mut command = stage.command(&["dlq", "list", "--queue", "jobs"]);
        command.env("AWS_PROFILE", "prodution").env("AWS_CONFIG_FILE", &config);
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        if !region {
            command.env_remove("AWS_REGION");
        }
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("the profile `prodution`"), "{said}");
        assert!(said.contains("did you mean `production`?"), "{said}");
        assert!(!said.contains("set AWS_PROFILE"), "{said}");
    }
}
