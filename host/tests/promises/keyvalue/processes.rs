//! The real program: several processes on one store, and the task that ships.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{
    ministack::unique,
    redis,
    stage::{cache, guest},
};

/// `lovage run` in a directory.
fn run(dir: &std::path::Path, component: &str, payload: &Value) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
    command
        .args(["run", &guest(component).display().to_string(), "--data", &payload.to_string()])
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn output(child: std::process::Child) -> Value {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn configure(dir: &std::path::Path, keyvalue: &str) {
    let settings = format!(
        "components.cache_dir = '{}'\n\
         tasks.buckets.grants.keyvalue = ['cache']\n\
         tasks.counter.grants.keyvalue = ['counters']\n\
         defaults.keyvalue_operations = 100000\n\
         {keyvalue}\n",
        cache().display()
    );
    std::fs::write(dir.join("lovage.toml"), settings).unwrap();
}

/// Three processes add to one number, in both ways; none of it is lost.
fn nothing_is_lost_between_processes(keyvalue: &str) {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), keyvalue);
    let mut steps = vec![json!({"open": "cache"}), json!({"add": ["swapped", 20]})];
    steps.extend((0..20).map(|_| json!({"increment": ["added", 1]})));
    let steps = json!(steps);
    let children: Vec<_> =
        (0..3).map(|_| run(dir.path(), "hostile/buckets.wasm", &steps).spawn().unwrap()).collect();
    for child in children {
        let done = output(child);
        assert_eq!(done[1], Value::Null, "{done}");
    }
    let steps = json!([{"open": "cache"}, {"get": "added"}, {"get": "swapped"}]);
    let done = output(run(dir.path(), "hostile/buckets.wasm", &steps).spawn().unwrap());
    assert_eq!(done, json!(["opened", "60", "60"]));
}

#[test]
fn nothing_is_lost_between_processes_on_one_file() {
    nothing_is_lost_between_processes("keyvalue.path = 'kv.db'");
}

#[test]
fn nothing_is_lost_between_processes_on_one_redis() {
    let (url, prefix) = (redis::url(), unique("processes"));
    nothing_is_lost_between_processes(&format!(
        "keyvalue.kind = 'redis'\nkeyvalue.url = '{url}'\nkeyvalue.prefix = '{prefix}:'"
    ));
}

#[test]
fn the_counter_that_ships_counts() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), "");
    let count = |payload: Value| {
        output(run(dir.path(), "granted/counter.wasm", &payload).spawn().unwrap())["count"].clone()
    };
    assert_eq!(count(json!({"key": "visits"})), json!(1));
    assert_eq!(count(json!({"key": "visits", "by": 41})), json!(42));
    assert_eq!(count(json!({"key": "other"})), json!(1));
}

#[test]
fn redis_is_reached_over_tls_and_only_where_its_certificate_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("cert"), key.cert.pem()).unwrap();
    std::fs::write(path("key"), key.signing_key.serialize_pem()).unwrap();
    let port = crate::support::guarded::free_port().to_string();
    let (cert, key) = (path("cert"), path("key"));
    let tls = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let _redis = redis::Redis::start_with(&[&tls[..], &["--tls-auth-clients", "no"]].concat());
    configure(
        dir.path(),
        &format!("keyvalue.kind = 'redis'\nkeyvalue.url = 'rediss://localhost:{port}'"),
    );
    let steps = json!([{"open": "cache"}, {"set": ["k", "v"]}, {"get": "k"}]);
    let mut trusting = run(dir.path(), "hostile/buckets.wasm", &steps);
    let done = output(trusting.env("SSL_CERT_FILE", &cert).spawn().unwrap());
    assert_eq!(done, json!(["opened", null, "v"]));
    let untrusting = json!({"error": "the key-value store cannot be used now"});
    // The parameters of Celery's and redis-py's URLs mean here what they mean there.
    for (parameters, expected) in [
        (String::new(), &untrusting),
        ("?ssl_cert_reqs=CERT_REQUIRED".to_owned(), &untrusting),
        (format!("?ssl_ca_certs={cert}"), &json!(null)),
        ("?ssl_cert_reqs=CERT_NONE".to_owned(), &json!(null)),
        ("?ssl_cert_reqs=none".to_owned(), &json!(null)),
    ] {
        let url = format!("rediss://localhost:{port}/0{parameters}");
        configure(dir.path(), &format!("keyvalue.kind = 'redis'\nkeyvalue.url = '{url}'"));
        let done = output(run(dir.path(), "hostile/buckets.wasm", &steps).spawn().unwrap());
        assert_eq!(&done[1], expected, "{parameters}");
    }
}
