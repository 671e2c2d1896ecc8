//! Requests as wasmtime hands them over, to a real server.

use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use lovage_policy::{HttpPolicy, HttpRules};

const RESPONSE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Answers each connection with `ok`, and sends what it was asked.
async fn server() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (send, seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut few = [0; 1024];
                match stream.read(&mut few).await {
                    Ok(1..) => asked.extend(few.iter().take_while(|byte| **byte != 0)),
                    _ => break,
                }
            }
            let _ = send.send(String::from_utf8(asked).unwrap());
            let _ = stream.write_all(RESPONSE.as_bytes()).await;
        }
    });
    (address, seen)
}

fn egress(rules: &[String], limits: Limits) -> Egress {
    let networks = ["127.0.0.0/8".to_owned()];
    let http = HttpPolicy::new(rules, "t.http", &networks, "t.http_networks").unwrap();
    let grants = Arc::new(Grants { http, ..Grants::default() });
    let deadline = Instant::now() + Duration::from_secs(30);
    Egress::new(grants, limits, deadline, Network::default())
}

fn get(url: &str, header: &str) -> Request<WasiBody> {
    let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
    Request::get(url).header("authorization", header).body(body).unwrap()
}

async fn send(egress: &mut Egress, request: Request<WasiBody>) -> Result<String, String> {
    let sent = egress.hooks.send_request(request, None, Box::new(async { Ok(()) }));
    let (response, rest) = Box::into_pin(sent).await.map_err(|error| error.to_string())?;
    let _rest = tokio::spawn(Box::into_pin(rest));
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

fn note(egress: &Egress) -> String {
    match egress.explain(Outcome::Failed(Failure::new("k", "m"))) {
        Outcome::Failed(failure) => failure.detail.unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_secret_goes_where_it_may_and_nowhere_else() {
    let (home, mut at_home) = server().await;
    let (away, mut at_away) = server().await;
    let rules = [format!("http://{home}"), format!("http://{away}")];
    let mut egress = egress(&rules, Limits::default());
    let only = HttpRules::parse(&[format!("http://{home}/v1")], "secrets.s.only_for").unwrap();
    egress.placeholders().insert("ph-7f3a".to_owned(), "s3cr&t".to_owned(), only);

    let request = get(&format!("http://{home}/v1/x?key=ph-7f3a&a=b"), "Bearer ph-7f3a");
    assert_eq!(send(&mut egress, request).await.unwrap(), "ok");
    let seen = at_home.recv().await.unwrap();
    assert!(seen.starts_with("GET /v1/x?key=s3cr%26t&a=b HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("authorization: Bearer s3cr&t\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {home}\r\n")) && !seen.contains("ph-7f3a"), "{seen}");

    for url in [format!("http://{away}/v1"), format!("http://{home}/v2")] {
        for request in [get(&url, "ph-7f3a"), get(&format!("{url}?a=p%68-7f3a"), "")] {
            let error = send(&mut egress, request).await.unwrap_err();
            assert_eq!(error, Error::HttpRequestDenied.to_string());
            let note = note(&egress);
            assert!(note.contains("`secrets.s.only_for`") && !note.contains("s3cr"), "{note}");
            assert!(!note.contains("a=p"), "the query is shown: {note}");
        }
    }
    // Without a placeholder it may go there.
    send(&mut egress, get(&format!("http://{away}/v1"), "none")).await.unwrap();
    assert!(at_away.recv().await.unwrap().contains("authorization: none"));
    assert!(at_away.try_recv().is_err() && at_home.try_recv().is_err());
}

#[tokio::test]
async fn a_response_may_have_just_what_is_left_and_not_a_byte_more() {
    let (address, _seen) = server().await;
    let url = format!("http://{address}/");
    let size = RESPONSE.len() as u64;
    for (http_bytes, answered) in [(size * 2, 2), (size * 2 - 1, 1), (size, 1), (size + 1, 1)] {
        // Requests have more bytes than these responses; so they are few and counted apart.
        let mut egress =
            egress(std::slice::from_ref(&url), Limits { http_bytes: 1 << 20, ..Limits::default() });
        let attempt = egress.hooks.attempt();
        let already = (1 << 20) - http_bytes;
        attempt.traffic.receive_for_test(already);
        let mut got = 0;
        while send(&mut egress, get(&url, "")).await.is_ok() {
            got += 1;
        }
        assert_eq!(got, answered, "{http_bytes}");
        assert!(note(&egress).contains("`http_bytes` raises it"), "{}", note(&egress));
        assert_eq!(egress.bytes().0 - already, http_bytes);
    }
}

/// Two addresses of one name: the first lets nobody in and refuses nobody, the second answers.
struct Half(Vec<std::net::IpAddr>);

#[async_trait::async_trait]
impl Resolve for Half {
    async fn resolve(&self, _: &str) -> std::io::Result<Vec<std::net::IpAddr>> {
        Ok(self.0.clone())
    }
}

#[tokio::test]
async fn a_first_address_that_is_dead_costs_no_more_than_a_moment() {
    let (alive, mut seen) = server().await;
    // A queue of connections that is full: the kernel answers no more.
    let dead = tokio::net::TcpSocket::new_v4().unwrap();
    dead.bind(std::net::SocketAddr::new([127, 0, 0, 2].into(), alive.port())).unwrap();
    let dead = dead.listen(0).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let connect = tokio::net::TcpStream::connect(dead.local_addr().unwrap());
        waiting.push(tokio::time::timeout(Duration::from_millis(200), connect).await);
    }
    assert!(waiting.iter().any(Result::is_err), "it still lets somebody in");
    let rule = [format!("http://half.test:{}", alive.port())];
    let networks = |networks: &[&str]| {
        let networks: Vec<_> = networks.iter().map(|it| (*it).to_owned()).collect();
        HttpPolicy::new(&rule, "t.http", &networks, "t.http_networks").unwrap()
    };
    let url = format!("http://half.test:{}/", alive.port());
    let with = |http: HttpPolicy, addresses: [[u8; 4]; 2]| {
        let grants = Arc::new(Grants { http, ..Grants::default() });
        let network = Network::new(Arc::new(Half(addresses.map(Into::into).to_vec())), None);
        Egress::new(grants, Limits::default(), Instant::now() + Duration::from_secs(30), network)
    };
    let both = [[127, 0, 0, 2], [127, 0, 0, 1]];
    let mut egress = with(networks(&["127.0.0.0/8"]), both);
    let started = Instant::now();
    assert_eq!(send(&mut egress, get(&url, "")).await.unwrap(), "ok");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(seen.recv().await.is_some());
    // An address that is not allowed is not tried, however long the other takes.
    let mut egress = with(networks(&["127.0.0.2/32"]), both);
    egress.hooks.limits.http_connect_timeout = Duration::from_millis(700);
    let error = send(&mut egress, get(&url, "")).await.unwrap_err();
    assert_eq!(error, Error::ConnectionTimeout.to_string());
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn a_server_that_closes_an_idle_connection_fails_no_request() {
    let (address, mut seen) = server().await;
    let url = format!("http://{address}/");
    let mut egress = egress(std::slice::from_ref(&url), Limits::default());
    for _ in 0..20 {
        // It says nothing of closing, and closes after each response.
        assert_eq!(send(&mut egress, get(&url, "")).await.unwrap(), "ok");
        assert!(seen.recv().await.is_some());
    }
}

#[tokio::test]
async fn an_attempt_without_requests_allocates_nothing_for_them() {
    let egress = egress(&[], Limits::default());
    assert!(egress.hooks.shared.is_none());
    assert_eq!(egress.bytes(), (0, 0));
    let outcome = Outcome::Failed(Failure::new("k", "m"));
    assert_eq!(egress.explain(outcome.clone()), outcome);
}
