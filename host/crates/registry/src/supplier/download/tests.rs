use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use aws_sdk_s3::config::{BehaviorVersion, Region};

use super::super::oci_pull::{Descriptor, Repository};
use super::super::s3::S3;
use super::*;

/// A server of one kind of answer: gets the path of each request, and its connection to write to.
fn serve(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = std::sync::Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), std::sync::Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut head = [0; 8192];
                let read = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                answer(head.split_whitespace().nth(1).unwrap_or(""), &mut stream);
            });
        }
    });
    address
}

/// Writes a head without a length, and then without end.
fn endless(stream: &mut TcpStream, begins: &str) {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(begins.as_bytes()));
    let more = vec![b' '; 64 << 10];
    while stream.write_all(&more).is_ok() {}
}

/// The same, a byte at a time.
fn drips(stream: &mut TcpStream) {
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
    while stream.write_all(b" ").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn url() -> ComponentUrl {
    ComponentUrl::parse("oci://127.0.0.1/team/task:1").unwrap()
}

#[tokio::test]
async fn a_download_without_end_or_by_drops_is_given_up() {
    let address =
        serve(|path, stream| if path == "/endless" { endless(stream, "") } else { drips(stream) });
    let client = client(true).unwrap();
    let get = async |path: &str| client.get(format!("http://{address}{path}")).send().await;
    let error = read(&url(), get("/endless").await.unwrap(), 1 << 20).await.unwrap_err();
    assert!(error.to_string().contains("larger than the 1048576 bytes"), "{error}");
    let begin = Instant::now();
    let drips = async { read(&url(), get("/drips").await.unwrap(), 1 << 20).await };
    let error = within(&url(), Duration::from_millis(300), drips).await.unwrap_err();
    assert!(error.to_string().contains("took more than 300ms"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn whatever_a_registry_answers_is_bounded() {
    const TOKEN: &str = "/token-endless";
    let address = serve(|path, stream| {
        let challenge = |stream: &mut TcpStream, realm: &str| {
            let host = stream.local_addr().unwrap();
            let head = format!(
                "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\
                 www-authenticate: Bearer realm=\"http://{host}{realm}\",service=\"x\"\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes());
        };
        match path {
            "/v2/team/locked/manifests/1" => challenge(stream, TOKEN),
            _ if path.starts_with(TOKEN) => endless(stream, "{\"token\":\""),
            _ => endless(stream, "{\"layers\":["),
        }
    });
    let repository = |name: &str| {
        let reference = format!("{address}/team/{name}:1").parse().unwrap();
        Repository::new(url(), reference, true).unwrap()
    };
    let manifest = repository("open").manifest().await.unwrap_err().to_string();
    assert!(manifest.contains("larger than the 4194304 bytes"), "{manifest}");
    let token = repository("locked").manifest().await.unwrap_err().to_string();
    assert!(token.contains("larger than the 262144 bytes"), "{token}");
    // A part that is longer than it was said to be.
    let part = r#"{"mediaType": "application/wasm", "digest": "sha256:ab", "size": 1000}"#;
    let part: Descriptor = serde_json::from_str(part).unwrap();
    let blob = repository("open").blob(&part, 1 << 20).await.unwrap_err().to_string();
    assert!(blob.contains("larger than the 1000 bytes"), "{blob}");
    let large = repository("open").blob(&part, 999).await.unwrap_err().to_string();
    assert!(large.contains("it has 1000 bytes, and 999 are allowed"), "{large}");
}

#[tokio::test]
async fn a_listing_without_end_is_given_up() {
    let page = "<?xml version=\"1.0\"?><ListBucketResult><Contents>";
    let endless_page = serve(move |_, stream| endless(stream, page));
    // Pages without end, each of them short.
    let endless_pages = serve(|_, stream| {
        let object = "<Contents><Key>k</Key><ETag>e</ETag></Contents>".repeat(1000);
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>more</NextContinuationToken>{object}</ListBucketResult>"
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
    });
    for (address, why) in
        [(endless_page, "length limit exceeded"), (endless_pages, "more than 100000 objects")]
    {
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://{address}"))
            .force_path_style(true)
            .allow_no_auth()
            .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
            .build();
        let url = ComponentUrl::parse("s3://bucket/").unwrap();
        let s3 = S3::of_client(url, "bucket", aws_sdk_s3::Client::from_conf(config));
        let error = s3.objects().await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
