//! What shipping promises: another version of a component takes over in a running worker, a bad one
//! never does, and one can go back.

// Over 500 lines: the promises of a swap share its stage.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::stage::{Kind, Setup, Stage, guest, job};
use crate::support::worker::{Signal, Worker, until};

/// A component with one more custom section, of nothing but a name: another digest, the same tasks.
fn version(component: &Path, number: u32) -> Vec<u8> {
    let name = format!("{number:06}");
    let section = [&[0, 7, 6], name.as_bytes()].concat();
    [fs::read(component).unwrap(), section].concat()
}

/// Puts a file into its place in one step, as deployments should.
fn put(file: &Path, bytes: &[u8]) {
    let beside = file.with_extension("new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(beside, file).unwrap();
}

/// A worker of a directory with one component, which can be asked what it serves.
struct Shop {
    stage: Stage,
    tasks: PathBuf,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Shop {
    async fn open(config: &str) -> Self {
        let stage = Stage::set(Kind::Local, Setup::default()).await;
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let tasks = directory.path().join("tasks");
        fs::create_dir(&tasks).unwrap();
        stage.configure(&format!(
            "worker.metrics_address = '{address}'\ncomponents.paths = ['{}']\n{config}",
            tasks.display()
        ));
        let shop = Self { stage, tasks, address, _directory: directory };
        shop.put(1);
        shop
    }

    fn file(&self) -> PathBuf {
        self.tasks.join("process_data.wasm")
    }

    /// Ships a good version; its digest.
    fn put(&self, number: u32) -> String {
        let wasm = version(&guest("process_data.wasm"), number);
        put(&self.file(), &wasm);
        lovage::sandbox::digest(&wasm)
    }

    async fn tasks(&self, arguments: &[&str]) -> Value {
        let output = self.stage.lovage(&[&["tasks", "--json"], arguments].concat()).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// What the worker says of its one component.
    async fn status(&self) -> Value {
        let answer = lovage::http::get(&format!("http://{}", self.address), "/tasks").await;
        let all: Vec<Value> = serde_json::from_slice(&answer.unwrap()).unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    async fn serves(&self, digest: &str) -> Value {
        until(&format!("{digest} is served"), async || {
            let status = self.status().await;
            (status["version"]["digest"] == digest).then_some(status)
        })
        .await
    }

    async fn refuses(&self, why: &str) -> Value {
        until(&format!("a refusal: {why}"), async || {
            let status = self.status().await;
            let told = status["refused"]["why"].as_str().unwrap_or("").to_owned();
            told.contains(why).then_some(status)
        })
        .await
    }

    /// Runs one job; the digest of the component that made its result.
    async fn run(&self, id: &str) -> Value {
        self.stage.send_job(id, "process_data", json!(21)).await;
        let result = self.stage.result_of(id).await;
        assert_eq!((&result["status"], &result["data"]), (&json!("done"), &json!(42)), "{result}");
        result["component"].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hundred_versions_come_under_load_and_no_job_is_lost_or_fails_or_meets_an_old_one() {
    const JOBS: usize = 20_000;
    const VERSIONS: u32 = 100;
    let shop = Shop::open("worker.concurrency = 16\nlog.level = 'warn'\n").await;
    let worker = Worker::spawn(shop.stage.command(&["worker"]));
    let first = until("it serves", async || {
        let url = format!("http://{}", shop.address);
        let answer = lovage::http::get(&url, "/tasks").await.ok()?;
        let all: Vec<Value> = serde_json::from_slice(&answer).ok()?;
        all.first()?["version"]["digest"].as_str().map(str::to_owned)
    })
    .await;

    let ids: Vec<String> = (0..JOBS).map(|n| format!("job-{n}")).collect();
    // Two batches for each version, so that jobs come all the while, however long a swap takes.
    let shipped_so_far = AtomicUsize::new(0);
    let send = async {
        for (batch, some) in ids.chunks(JOBS / 200).enumerate() {
            while shipped_so_far.load(Ordering::Relaxed) < batch / 2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let jobs: Vec<_> = some.iter().map(|id| job(id, "process_data", json!(21))).collect();
            shop.stage.send(&jobs).await;
        }
    };
    // When each version was put there, and when it was seen to serve.
    let ship = async {
        let mut shipped = vec![(first, Timestamp::UNIX_EPOCH, Timestamp::now())];
        for number in 2..VERSIONS + 2 {
            let put = Timestamp::now();
            let digest = shop.put(number);
            shop.serves(&digest).await;
            shipped.push((digest, put, Timestamp::now()));
            shipped_so_far.fetch_add(1, Ordering::Relaxed);
        }
        shipped
    };
    let ((), shipped, results) =
        futures_util::join!(send, ship, shop.stage.results_of(ids.iter().cloned()));

    let mut made = std::collections::BTreeSet::new();
    for (id, result) in &results {
        let result = &result.envelope;
        assert_eq!((&result["status"], &result["data"]), (&json!("done"), &json!(42)), "{result}");
        let digest = result["component"].as_str().unwrap();
        let at = shipped.iter().position(|(shipped, ..)| shipped == digest).unwrap();
        made.insert(at);
        let started: Timestamp = result["started_at"].as_str().unwrap().parse().unwrap();
        let a_moment = jiff::SignedDuration::from_millis(2);
        assert!(started >= shipped[at].1 - a_moment, "{id} ran on {digest} before it was there");
        if let Some((_, _, next_serves)) = shipped.get(at + 1) {
            assert!(
                started <= *next_serves + a_moment,
                "{id} ran on {digest} after the next served"
            );
        }
    }
    assert!(made.len() > VERSIONS as usize / 2, "{} versions made results", made.len());
    worker.stop().await;
    shop.stage.is_done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_bad_version_never_replaces_a_good_one_and_the_refusal_is_seen() {
    let shop = Shop::open("").await;
    let worker = shop.stage.worker().await;
    let good = shop.put(2);
    shop.serves(&good).await;

    let whole = version(&guest("process_data.wasm"), 3);
    let cases: [(&str, Vec<u8>, &str); 4] = [
        ("torn", whole[..whole.len() / 2].to_vec(), "process_data.wasm"),
        ("no component", b"not at all".to_vec(), "is not WebAssembly"),
        ("ungranted", fs::read(guest("granted/fetch.wasm")).unwrap(), "wasi:http"),
        ("without a task", fs::read(guest("hostile/no-handler.wasm")).unwrap(), "lovage:task"),
    ];
    for (case, bytes, why) in cases {
        put(&shop.file(), &bytes);
        let status = shop.refuses(why).await;
        assert_eq!(status["version"]["digest"], json!(good), "{case}: {status}");
        assert_eq!(shop.run(case).await, json!(good), "{case}");
    }
    let told = worker.logged("a component is not served; what was served is, still");
    assert_eq!(told.len(), 4, "{told:?}");
    // People see it, too.
    let listed = shop.stage.lovage(&["tasks"]).await.stdout;
    assert!(listed.contains("not served: ") && listed.contains("lovage:task"), "{listed}");

    // What is not there at all is served all the same.
    fs::remove_file(shop.file()).unwrap();
    fs::copy(guest("echo.wasm"), shop.tasks.join("echo.wasm")).unwrap();
    worker.logs("a component is not there any more; it is served until the worker ends", 1).await;
    assert_eq!(shop.run("gone").await, json!(good));
    // And a directory that is not.
    fs::remove_dir_all(&shop.tasks).unwrap();
    worker.signal(Signal::HUP);
    worker.logs("cannot look for components; those that are served are, still", 1).await;
    assert_eq!(shop.run("all gone").await, json!(good));
    // Until it is there again, with something new: found at the next look.
    fs::create_dir(&shop.tasks).unwrap();
    let next = shop.put(4);
    worker.signal(Signal::HUP);
    until("the next one serves", async || {
        let answer =
            lovage::http::get(&format!("http://{}", shop.address), "/tasks").await.unwrap();
        String::from_utf8_lossy(&answer).contains(&next).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_is_written_slowly_is_taken_when_it_is_whole() {
    let shop = Shop::open("").await;
    let worker = shop.stage.worker().await;
    let whole = version(&guest("process_data.wasm"), 2);
    let digest = lovage::sandbox::digest(&whole);
    let mut file = fs::File::create(shop.file()).unwrap();
    for part in whole.chunks(whole.len() / 8 + 1) {
        std::io::Write::write_all(&mut file, part).unwrap();
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    drop(file);
    shop.serves(&digest).await;
    assert!(worker.logged("a component is not served; what was served is, still").is_empty());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_restart_serves_the_last_good_version_where_a_bad_one_lies() {
    let shop = Shop::open("").await;
    let worker = shop.stage.worker().await;
    let good = shop.put(2);
    shop.serves(&good).await;
    put(&shop.file(), b"not at all");
    shop.refuses("is not WebAssembly").await;
    worker.stop().await;

    let worker = shop.stage.worker().await;
    let status = shop.refuses("is not WebAssembly").await;
    assert_eq!(status["version"]["digest"], json!(good));
    assert_eq!(shop.run("after").await, json!(good));
    worker.stop().await;
    // Where nothing is known of it, a start says what is wrong, and ends.
    let other = Shop::open("").await;
    put(&other.file(), b"not at all");
    let mut worker = other.stage.spawn();
    assert!(!worker.ends().await.success());
    worker.says("process_data.wasm: is not WebAssembly").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_operator_goes_back_and_stays_there_until_something_new_comes() {
    let shop = Shop::open("").await;
    let worker = shop.stage.worker().await;
    let first = shop.status().await["version"]["digest"].as_str().unwrap().to_owned();
    let second = shop.put(2);
    shop.serves(&second).await;

    let said = shop.tasks(&["rollback", "process_data", "--why", "it is slow"]).await;
    assert_eq!((&said["from"], &said["to"]), (&json!(second), &json!(first)));
    let since = Instant::now();
    shop.serves(&first).await;
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    assert_eq!(shop.run("back").await, json!(first));
    // The file is there, still, and is not taken again: not now, and not at the next start.
    worker.signal(Signal::HUP);
    shop.refuses("it is slow").await;
    worker.stop().await;
    let worker = shop.stage.worker().await;
    assert_eq!(shop.run("restarted").await, json!(first));
    let output = shop.stage.lovage(&["tasks", "rollback", "process_data"]).await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("no version of `process_data` to go back to"), "{output:?}");
    let listed = shop.stage.lovage(&["tasks", "versions", "process_data"]).await.stdout;
    assert!(listed.contains("not served: it is slow"), "{listed}");

    // Until it is allowed, or another comes.
    let digest = &second["sha256:".len()..][..12];
    shop.tasks(&["allow", "process_data", digest]).await;
    shop.serves(&second).await;
    let third = shop.put(3);
    shop.serves(&third).await;
    // Further back than one.
    let said = shop.tasks(&["rollback", "process_data", "--to", &first]).await;
    assert_eq!(said["to"], json!(first));
    shop.serves(&first).await;
    let wrong = shop.stage.lovage(&["tasks", "rollback", "proces_data"]).await;
    assert!(wrong.stderr.contains("there are: process_data"), "{wrong:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_version_is_tried_on_some_jobs_and_taken_back_where_it_fails_more() {
    // How long attempts take is not what is tried here, and on a busy machine it is anybody's guess.
    let config = "[components.canary]\npercent = 20\nmin_calls = 20\nlatency_ratio = 1000.0\n";
    let shop = Shop::open(config).await;
    let worker = shop.stage.worker().await;
    let first = shop.status().await["version"]["digest"].as_str().unwrap().to_owned();
    let bad = fs::read(guest("hostile/regressed.wasm")).unwrap();
    put(&shop.file(), &bad);
    let bad = lovage::sandbox::digest(&bad);
    until("it is tried", async || {
        let status = shop.status().await;
        (status["trial"]["digest"] == bad && status["trial_percent"] == 20.0).then_some(())
    })
    .await;
    let ids: Vec<String> = (0..200).map(|n| format!("bad-{n}")).collect();
    let jobs: Vec<_> = ids.iter().map(|id| job(id, "process_data", json!(21))).collect();
    shop.stage.send(&jobs).await;
    let results = shop.stage.results_of(ids).await;
    // Those that met it failed by it, every attempt of theirs; and soon there were no more.
    let failed: Vec<_> = results.values().filter(|it| it.envelope["status"] != "done").collect();
    assert!(!failed.is_empty() && failed.len() < 40, "{} failed", failed.len());
    assert!(failed.iter().all(|it| it.envelope["component"] == json!(bad)));
    let status = shop.refuses("jobs failed at their first attempt").await;
    assert_eq!((&status["trial"], &status["version"]["digest"]), (&json!(null), &json!(first)));
    // It is not taken again, though it lies there.
    worker.signal(Signal::HUP);
    shop.refuses("taken back").await;
    worker.stop().await;

    // One that is as good takes over.
    let worker = shop.stage.worker().await;
    let good = shop.put(2);
    until("it is tried", async || (shop.status().await["trial"]["digest"] == good).then_some(()))
        .await;
    let ids: Vec<String> = (0..300).map(|n| format!("good-{n}")).collect();
    let jobs: Vec<_> = ids.iter().map(|id| job(id, "process_data", json!(21))).collect();
    shop.stage.send(&jobs).await;
    let results = shop.stage.results_of(ids).await;
    assert!(results.values().all(|it| it.envelope["status"] == "done"));
    let status = shop.serves(&good).await;
    assert_eq!(status["trial"], json!(null));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_task_goes_from_one_component_to_another() {
    let shop = Shop::open("").await;
    // `a.wasm` comes before it in the directory, and takes over what it gives away.
    fs::copy(guest("echo.wasm"), shop.tasks.join("a.wasm")).unwrap();
    let worker = shop.stage.worker().await;
    put(&shop.tasks.join("a.wasm"), &version(&guest("process_data.wasm"), 7));
    put(&shop.file(), &version(&guest("echo.wasm"), 7));
    let expected = lovage::sandbox::digest(&version(&guest("process_data.wasm"), 7));
    until("they have changed places", async || {
        let answer =
            lovage::http::get(&format!("http://{}", shop.address), "/tasks").await.unwrap();
        let all: Vec<Value> = serde_json::from_slice(&answer).unwrap();
        let served = |tasks: Value| all.iter().find(|it| it["version"]["tasks"] == tasks).cloned();
        (served(json!(["process_data"]))?["version"]["digest"] == expected).then_some(())?;
        served(json!(["echo", "echo_context"])).map(drop)
    })
    .await;
    assert_eq!(shop.run("moved").await, json!(expected));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_signatures_are_required_only_what_a_valid_key_signed_is_served() {
    let shop = Shop::open("").await;
    let lovage = async |arguments: &[&str]| shop.stage.lovage(arguments).await;
    let key = async |name: &str| {
        let output = lovage(&["sign", "--json", "--new-key", name]).await;
        let said: Value = serde_json::from_str(&output.stdout).unwrap();
        said["public"].as_str().unwrap().to_owned()
    };
    let (ours, old) = (key("ours.pem").await, key("old.pem").await);
    key("strangers.pem").await;
    let again = lovage(&["sign", "--new-key", "ours.pem"]).await;
    assert!(again.stderr.contains("cannot make ours.pem: File exists"), "{again:?}");
    shop.stage.configure(&format!(
        "components.signatures.required = true\n\
         [[components.signatures.keys]]\nid = 'ours'\npublic = '{ours}'\n\
         [[components.signatures.keys]]\nid = 'old'\npublic = '{old}'\n\
         not_after = '2026-01-01T00:00:00Z'\n"
    ));
    let file = shop.file().display().to_string();
    // Signed apart, so that the component and its signatures come at once; or not.
    let sign = async |key: &str, number: u32| {
        let wasm = version(&guest("process_data.wasm"), number);
        let apart = tempfile::tempdir().unwrap();
        let beside = apart.path().join("process_data.wasm");
        fs::write(&beside, &wasm).unwrap();
        let path = beside.display().to_string();
        let pem = format!("{key}.pem");
        let output = lovage(&["sign", &path, "--key", &pem, "--key-id", key]).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        (wasm, fs::read(beside.with_extension("wasm.sig")).unwrap())
    };
    let ship = |(wasm, signatures): &(Vec<u8>, Vec<u8>)| {
        fs::write(shop.file().with_extension("wasm.sig"), signatures).unwrap();
        put(&shop.file(), wasm);
        lovage::sandbox::digest(wasm)
    };
    let unsigned = shop.stage.lovage(&["run", &file, "--data", "21"]).await;
    assert!(unsigned.stderr.contains("is not signed, and components.signatures"), "{unsigned:?}");

    let good = ship(&sign("ours", 1).await);
    let verified = lovage(&["verify", &file]).await;
    assert!(verified.stdout.contains("signed as process_data, sha256:"), "{verified:?}");
    let worker = shop.stage.worker().await;
    shop.serves(&good).await;
    let stranger = sign("strangers", 2).await;
    ship(&stranger);
    shop.refuses("is signed by strangers, and none of them").await;
    ship(&sign("old", 3).await);
    shop.refuses("is signed by the key `old`, which is not valid since 2026-01-01").await;
    // The signatures of another version.
    let (third, _) = sign("ours", 4).await;
    ship(&(third, sign("ours", 1).await.1));
    let status = shop.refuses("what is signed is the component sha256:").await;
    assert_eq!(status["version"]["digest"], json!(good));
    let wrong = lovage(&["verify", &file]).await;
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    // And under another name.
    let (wasm, signatures) = sign("ours", 5).await;
    fs::remove_file(shop.file()).unwrap();
    fs::write(shop.tasks.join("other.wasm.sig"), signatures).unwrap();
    put(&shop.tasks.join("other.wasm"), &wasm);
    until("the name is refused", async || {
        let answer =
            lovage::http::get(&format!("http://{}", shop.address), "/tasks").await.unwrap();
        let told = String::from_utf8_lossy(&answer).into_owned();
        told.contains("what is signed is the component called process_data").then_some(())
    })
    .await;
    assert_eq!(shop.run("still").await, json!(good));
    let last = ship(&sign("ours", 6).await);
    until("the next one serves", async || {
        let answer =
            lovage::http::get(&format!("http://{}", shop.address), "/tasks").await.unwrap();
        String::from_utf8_lossy(&answer).contains(&last).then_some(())
    })
    .await;
    worker.stop().await;
    // What was kept is verified again: without its signatures it is not served.
    let state = shop.stage.directory().join("state");
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "sig") {
            fs::remove_file(path).unwrap();
        }
    }
    fs::remove_file(shop.tasks.join("other.wasm")).unwrap();
    put(&shop.file(), b"not at all");
    let mut worker = shop.stage.spawn();
    assert!(!worker.ends().await.success());
    worker.says("process_data.wasm: what is signed is the component").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signed_version_that_is_older_is_not_taken_for_new() {
    let shop = Shop::open("").await;
    let lovage = async |arguments: &[&str]| shop.stage.lovage(arguments).await;
    let made = lovage(&["sign", "--json", "--new-key", "ours.pem"]).await;
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    let expires = Timestamp::now() + jiff::SignedDuration::from_hours(24 * 7);
    shop.stage.configure(&format!(
        "components.signatures.required = true\n\
         [[components.signatures.keys]]\nid = 'ours'\npublic = '{}'\nnot_after = '{expires}'\n",
        made["public"].as_str().unwrap()
    ));
    let file = shop.file().display().to_string();
    let ship = async |number: u32, order: Option<&str>| {
        let wasm = version(&guest("process_data.wasm"), number);
        let apart = tempfile::tempdir().unwrap();
        let beside = apart.path().join("process_data.wasm");
        fs::write(&beside, &wasm).unwrap();
        let path = beside.display().to_string();
        let mut arguments = vec!["sign", &path, "--key", "ours.pem", "--key-id", "ours"];
        arguments.extend(order.map(|order| ["--order", order]).into_iter().flatten());
        let output = lovage(&arguments).await;
        assert_eq!(output.code, Some(0), "{output:?}");
        let signatures = fs::read(beside.with_extension("wasm.sig")).unwrap();
        fs::write(shop.file().with_extension("wasm.sig"), signatures).unwrap();
        put(&shop.file(), &wasm);
        lovage::sandbox::digest(&wasm)
    };
    ship(1, Some("4")).await;
    let worker = shop.stage.worker().await;
    // Told ahead, and by `config check`, that the key expires.
    let warned = worker
        .logs(
            "a signing key expires soon; then a component that only this key \
                              signed is not loaded any more: sign with a new key, too",
            1,
        )
        .await;
    assert_eq!(warned[0]["key"], json!("ours"), "{warned:?}");
    let checked = lovage(&["config", "check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stderr.contains("the signing key `ours` expires at"), "{checked:?}");
    let metrics = lovage::http::get(&format!("http://{}", shop.address), "/metrics").await.unwrap();
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    assert!(metrics.contains("lovage_signing_key_expires_in_seconds{key=\"ours\"}"), "{metrics}");

    let newer = ship(2, Some("7")).await;
    shop.serves(&newer).await;
    let older = ship(3, Some("6")).await;
    let status = shop.refuses("is an older version: its signed manifest has the order 6").await;
    assert_eq!(status["version"]["digest"], json!(newer));
    // Nor one without an order, nor another of the same order.
    ship(4, Some("0")).await;
    shop.refuses("has the order 0").await;
    ship(5, Some("7")).await;
    shop.refuses("has the order 7").await;
    worker.stop().await;
    // Nor after a restart.
    ship(3, Some("6")).await;
    let worker = shop.stage.worker().await;
    let status = shop.refuses("has the order 6").await;
    assert_eq!(status["version"]["digest"], json!(newer));
    // Signed again it is newer, and by default whatever is signed later is.
    let again = ship(3, Some("8")).await;
    assert_eq!(again, older);
    shop.serves(&again).await;
    let last = ship(6, None).await;
    shop.serves(&last).await;
    // A way back on purpose.
    shop.tasks(&["rollback", &file]).await;
    shop.serves(&again).await;
    worker.stop().await;
    let worker = shop.stage.worker().await;
    shop.serves(&again).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_task_that_came_from_two_places_is_rolled_back_where_it_is_served() {
    let shop = Shop::open("").await;
    // An earlier release in a directory of its own.
    let earlier = tempfile::tempdir().unwrap();
    let copy = earlier.path().join("process_data.wasm");
    fs::write(&copy, version(&guest("process_data.wasm"), 1)).unwrap();
    shop.stage.configure(&format!("components.paths = ['{}']", earlier.path().display()));
    shop.stage.worker().await.stop().await;
    shop.stage.configure(&format!("components.paths = ['{}']", shop.tasks.display()));
    let worker = shop.stage.worker().await;
    let first = shop.status().await["version"]["digest"].as_str().unwrap().to_owned();
    let second = shop.put(2);
    shop.serves(&second).await;
    // By its task, by its path, and by its path from here.
    let said = shop.tasks(&["rollback", "process_data"]).await;
    assert_eq!((&said["from"], &said["to"]), (&json!(second), &json!(first)));
    assert_eq!(said["component"], json!(shop.file()));
    shop.serves(&first).await;
    let path = shop.file().display().to_string();
    shop.tasks(&["allow", &path, &second["sha256:".len()..]]).await;
    shop.serves(&second).await;
    let versions = shop.tasks(&["versions", &copy.display().to_string()]).await;
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1, "{versions}");
    worker.stop().await;
    // Where the configuration does not tell, the places are named.
    let both = format!("'{}', '{}'", shop.tasks.display(), earlier.path().display());
    shop.stage.configure(&format!("components.paths = [{both}]"));
    let asked = shop.stage.lovage(&["tasks", "rollback", "process_data"]).await;
    assert_eq!(asked.code, Some(2), "{asked:?}");
    assert!(asked.stderr.contains("name one of them in its place"), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_job_gets_the_version_that_it_asks_for_where_jobs_may() {
    use crate::support::stage::job_with;
    let shop = Shop::open("").await;
    let worker = shop.stage.worker().await;
    let first = shop.status().await["version"]["digest"].as_str().unwrap().to_owned();
    let second = shop.put(2);
    shop.serves(&second).await;
    let asks = |id: &str, digest: &str| {
        job_with(id, "process_data", json!(21), json!({"headers": {"lovage-version": digest}}))
    };
    // Not where it was not said that they may.
    shop.stage.send(&[asks("unheard", &first)]).await;
    assert_eq!(shop.stage.result_of("unheard").await["component"], json!(second));
    worker.stop().await;

    shop.stage.configure("components.pins = true");
    let worker = shop.stage.worker().await;
    let strange = format!("sha256:{}", "0".repeat(64));
    let jobs = [asks("old", &first), asks("again", &first), asks("new", &second)];
    shop.stage.send(&jobs).await;
    shop.stage.send(&[asks("strange", &strange), asks("rubbish", "../../x")]).await;
    let results = shop.stage.results_of(["old", "again", "new", "strange", "rubbish"]).await;
    let of = |id: &str| results[id].envelope.clone();
    for (id, digest) in [("old", &first), ("again", &first), ("new", &second)] {
        assert_eq!((&of(id)["component"], &of(id)["data"]), (&json!(digest), &json!(42)), "{id}");
    }
    for id in ["strange", "rubbish"] {
        assert_eq!(of(id)["error"]["kind"], json!("unknown_version"), "{}", of(id));
    }
    // One that was taken back is not to be had.
    shop.tasks(&["rollback", "process_data"]).await;
    shop.serves(&first).await;
    shop.stage.send(&[asks("denied", &second)]).await;
    assert_eq!(shop.stage.result_of("denied").await["error"]["kind"], json!("unknown_version"));
    worker.stop().await;
}

/// Waits until the worker serves a version, whatever else it serves.
async fn served(shop: &Shop, digest: &str) {
    until(&format!("{digest} is served"), async || {
        let answer = lovage::http::get(&format!("http://{}", shop.address), "/tasks").await.ok()?;
        let all: Vec<Value> = serde_json::from_slice(&answer).unwrap();
        all.iter().any(|it| it["version"]["digest"] == digest).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn objects_of_s3_are_served_and_swapped_by_their_etags() {
    let s3 = crate::support::ministack::Bucket::create("tasks").await;
    let bucket = &s3.name;
    let put = async |key: &str, bytes: Vec<u8>| {
        let digest = lovage::sandbox::digest(&bytes);
        s3.put(key, bytes).await;
        digest
    };
    let first = put("live/process_data.wasm", version(&guest("process_data.wasm"), 1)).await;
    put("live/notes.txt", b"no component".to_vec()).await;
    put("other/broken.wasm", b"not at all".to_vec()).await;

    let shop = Shop::open("").await;
    shop.stage.configure(&format!(
        "components.paths = []\ncomponents.urls = ['s3://{bucket}/live/']\n\
         components.refresh_ms = 200\n"
    ));
    let mut command = shop.stage.command(&["worker"]);
    command.env("AWS_ENDPOINT_URL", crate::support::ministack::endpoint());
    let worker = Worker::spawn(command);
    worker.logs("worker started", 1).await;
    let status = shop.serves(&first).await;
    assert_eq!(status["place"], json!(format!("s3://{bucket}/live/process_data.wasm")));
    assert_eq!(shop.run("first").await, json!(first));
    let second = put("live/process_data.wasm", version(&guest("process_data.wasm"), 2)).await;
    shop.serves(&second).await;
    put("live/process_data.wasm", b"not at all".to_vec()).await;
    shop.refuses("is not WebAssembly").await;
    assert_eq!(shop.run("second").await, json!(second));
    let echo = put("live/echo.wasm", fs::read(guest("echo.wasm")).unwrap()).await;
    served(&shop, &echo).await;
    s3.delete("live/process_data.wasm").await;
    worker.logs("a component is not there any more; it is served until the worker ends", 1).await;
    assert_eq!(shop.run("gone").await, json!(second));
    worker.stop().await;

    // A start while S3 is away goes on with what was served; here it is at an address of nobody.
    shop.stage.configure("components.urls = []");
    shop.stage.configure(&format!("components.urls = ['s3://{bucket}/live/']"));
    let mut command = shop.stage.command(&["worker"]);
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("AWS_MAX_ATTEMPTS", "1");
    let worker = Worker::spawn(command);
    worker.logs("worker started", 1).await;
    worker.logs("cannot look for components; those that are served are, still", 1).await;
    served(&shop, &second).await;
    served(&shop, &echo).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_tag_of_a_registry_is_served_and_followed() {
    let mut registry = crate::support::oci::OciRegistry::start();
    let shop = Shop::open("").await;
    let url = format!("oci://{}/team/process_data:live", registry.address);
    let public = {
        let output = shop.stage.lovage(&["sign", "--json", "--new-key", "key.pem"]).await;
        let said: Value = serde_json::from_str(&output.stdout).unwrap();
        said["public"].as_str().unwrap().to_owned()
    };
    let push = async |number: u32, signed: bool| {
        let wasm = version(&guest("process_data.wasm"), number);
        let apart = tempfile::tempdir().unwrap();
        let file = apart.path().join("process_data.wasm");
        fs::write(&file, &wasm).unwrap();
        let file = file.display().to_string();
        if signed {
            let arguments = ["sign", &file, "--key", "key.pem", "--key-id", "ours"];
            assert_eq!(shop.stage.lovage(&arguments).await.code, Some(0));
        }
        let pushed = shop.stage.lovage(&["push", &file, &url]).await;
        assert_eq!(pushed.code, Some(0), "{pushed:?}");
        assert!(pushed.stdout.contains("manifest sha256:"), "{pushed:?}");
        lovage::sandbox::digest(&wasm)
    };
    let first = push(1, true).await;
    shop.stage.configure(&format!(
        "components.paths = []\ncomponents.urls = ['{url}']\ncomponents.refresh_ms = 200\n\
         components.signatures.required = true\n\
         [[components.signatures.keys]]\nid = 'ours'\npublic = '{public}'\n"
    ));
    let worker = shop.stage.worker().await;
    shop.serves(&first).await;
    assert_eq!(shop.run("first").await, json!(first));
    push(2, false).await;
    shop.refuses("is not signed").await;
    let third = push(3, true).await;
    shop.serves(&third).await;
    registry.stop();
    worker.logs("cannot look for components; those that are served are, still", 1).await;
    assert_eq!(shop.run("third").await, json!(third));
    worker.stop().await;
    // And it starts without the registry, by what it served.
    let worker = shop.stage.worker().await;
    assert_eq!(shop.run("restarted").await, json!(third));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_web_address_serves_the_component_that_it_pins_and_no_other() {
    use std::io::{Read as _, Write as _};
    let wasm = version(&guest("process_data.wasm"), 1);
    let digest = lovage::sandbox::digest(&wasm);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body = wasm.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let (status, body) = match head.split_whitespace().nth(1).unwrap_or("") {
                "/process_data.wasm?token=s3cret" => ("200 OK", body.as_slice()),
                "/other.wasm" => ("200 OK", b"another".as_slice()),
                _ => ("404 Not Found", b"".as_slice()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    let shop = Shop::open("").await;
    let serve = |path: &str| {
        shop.stage.configure(&format!(
            "components.paths = []\ncomponents.urls = ['http://{address}{path}#{digest}']\n"
        ));
    };
    for (path, why) in
        [("/other.wasm", "what is there is sha256:"), ("/none.wasm", "there is nothing")]
    {
        serve(path);
        let mut worker = shop.stage.spawn();
        assert!(!worker.ends().await.success());
        worker.says(why).await;
    }
    serve("/process_data.wasm?token=s3cret");
    shop.stage.configure("components.max_bytes = 1000");
    let mut worker = shop.stage.spawn();
    assert!(!worker.ends().await.success());
    worker.says("it is larger than the 1000 bytes that are allowed").await;
    shop.stage.configure("components.max_bytes = 67_108_864");
    let worker = shop.stage.worker().await;
    shop.serves(&digest).await;
    assert_eq!(shop.run("pinned").await, json!(digest));
    assert!(worker.lines().iter().all(|line| !line.contains("s3cret")));
    worker.stop().await;
}
