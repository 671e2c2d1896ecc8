//! Code that comes from S3: signed by who may sign code, swapped while the function serves, and kept in
//! a directory of the function's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    lambda::directory,
    ministack::{self, Bucket},
    runtime_api::Process,
};

const TIME: Duration = Duration::from_secs(20);

/// What is shipped, where to, and a place to prepare it.
struct Shop {
    bucket: Bucket,
    directory: TempDir,
}

/// A key of the shop's: its name, and whether it may sign code.
const KEYS: [(&str, bool); 2] = [("ours", true), ("authors", false)];

impl Shop {
    async fn open() -> Self {
        let shop =
            Self { bucket: Bucket::create("code").await, directory: tempfile::tempdir().unwrap() };
        let mut config = format!(
            "components.refresh_ms = 200\ncomponents.urls = ['s3://{}/live/']\n\
             components.cache_dir = '{}'\n",
            shop.bucket.name,
            shop.path("cache").display()
        );
        for (key, precompiled) in KEYS {
            let made = shop.lovage(&["--json", "sign", "--new-key", &format!("{key}.pem")]);
            let said: Value = serde_json::from_slice(&made.stdout).unwrap();
            let table = format!(
                "[[components.signatures.keys]]\nid = '{key}'\npublic = {}\n\
                 precompiled = {precompiled}\n",
                said["public"]
            );
            config += &table;
        }
        fs::write(shop.path("lovage.toml"), config).unwrap();
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn lovage(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
        let output = command.args(arguments).current_dir(self.directory.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    /// Compiles a task, whose wasm is another one with each number; its digest.
    fn compile(&self, number: u8) -> String {
        let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-tasks/dist");
        let mut wasm = fs::read(dist.join("process_data.wasm")).unwrap();
        wasm.extend([0, 2, 1, b'0' + number]);
        fs::write(self.path("process_data.wasm"), &wasm).unwrap();
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let arguments = ["--config", "/dev/null", "compile", "process_data.wasm", "--out", "."];
        self.lovage(&[&arguments[..], &["--target", &target]].concat());
        lovage::sandbox::digest(&wasm)
    }

    fn sign(&self, key: &str) {
        let pem = format!("{key}.pem");
        self.lovage(&["sign", "process_data.cwasm", "--key", &pem, "--key-id", key]);
    }

    async fn upload(&self) {
        for ending in ["json", "cwasm.sig", "cwasm"] {
            let name = format!("process_data.{ending}");
            let bytes = fs::read(self.path(&name)).unwrap();
            self.bucket.put(&format!("live/{name}"), bytes).await;
        }
    }

    fn function(&self, endpoint: &str) -> (Command, PathBuf, Vec<(String, String)>) {
        let root = self.path("function");
        fs::create_dir_all(&root).unwrap();
        let variables = [
            ("AWS_ENDPOINT_URL", endpoint.to_owned()),
            ("AWS_MAX_ATTEMPTS", "1".to_owned()),
            ("LOVAGE_CONFIG", self.path("lovage.toml").display().to_string()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        (Command::new(directory().join("bootstrap")), root, variables)
    }

    fn start(&self, endpoint: &str) -> Process {
        let (program, root, variables) = self.function(endpoint);
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Process::of(program, &root, &variables)
    }

    /// What a function says that does not start.
    fn refusal(&self) -> String {
        let (mut program, root, variables) = self.function(&ministack::endpoint());
        let output = program
            .current_dir(&root)
            .envs(variables)
            .env("LAMBDA_TASK_ROOT", &root)
            .env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
            .env("AWS_LAMBDA_FUNCTION_NAME", "worker")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
            .env("AWS_REGION", ministack::REGION)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }
}

/// Runs one job; the digest of what made its result.
fn run(process: &Process) -> String {
    let answer = process.invoke(json!({"data": 21}), TIME).unwrap();
    assert_eq!((&answer["status"], &answer["data"]), (&json!("done"), &json!(42)), "{answer}");
    answer["component"].as_str().unwrap().to_owned()
}

/// Runs jobs until `done` is content with the digest of what made a result, or the log.
fn runs_until(process: &Process, what: &str, done: impl Fn(&str, &str) -> bool) {
    let until = Instant::now() + TIME;
    while !done(&run(process), &process.log()) {
        assert!(Instant::now() < until, "{what}: {}", process.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_code_of_s3_is_served_swapped_and_kept() {
    let shop = Shop::open().await;
    let first = shop.compile(1);
    shop.sign("ours");
    shop.upload().await;
    let function = shop.start(&ministack::endpoint());
    assert_eq!(run(&function), first);

    let second = shop.compile(2);
    shop.sign("ours");
    shop.upload().await;
    runs_until(&function, "the second version", |digest, _| digest == second);

    // Who may sign components may not sign code, and the good version serves on.
    shop.compile(3);
    fs::remove_file(shop.path("process_data.cwasm.sig")).unwrap();
    shop.sign("authors");
    shop.upload().await;
    let why = "is signed by the key `authors`, which may not sign native code";
    runs_until(&function, why, |_, log| log.contains(why));
    assert_eq!(run(&function), second);
    drop(function);

    // What was brought is served by the next process, be the newest bad or S3 away.
    for (endpoint, why) in [
        (ministack::endpoint(), "a component is not served"),
        ("http://127.0.0.1:1".to_owned(), "cannot look for components"),
    ] {
        let function = shop.start(&endpoint);
        assert_eq!(run(&function), second);
        assert!(function.log().contains(why), "{}", function.log());
    }
    let kept = fs::read_dir(shop.path("cache")).unwrap().count();
    assert!(kept <= 2, "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_nobody_signed_or_that_is_another_is_not_run() {
    let shop = Shop::open().await;
    assert!(shop.refusal().contains("there are no `.cwasm` objects"));
    shop.compile(1);
    let upload = async |ending: &str, bytes: Vec<u8>| {
        shop.bucket.put(&format!("live/process_data.{ending}"), bytes).await;
    };
    let read = |ending: &str| fs::read(shop.path(&format!("process_data.{ending}"))).unwrap();
    upload("cwasm", read("cwasm")).await;
    assert!(shop.refusal().contains("its manifest, is not beside it"));
    upload("json", read("json")).await;
    assert!(shop.refusal().contains("is native code and not signed"));
    shop.sign("ours");
    upload("cwasm.sig", read("cwasm.sig")).await;
    let mut code = read("cwasm");
    *code.last_mut().unwrap() ^= 1;
    upload("cwasm", code).await;
    assert!(shop.refusal().contains("are not from one `lovage compile`"));
    upload("cwasm", [read("cwasm"), vec![0]].concat()).await;
    assert!(shop.refusal().contains("is larger than the"));
    let json = String::from_utf8(read("json")).unwrap().replace("\"process_data\"", "\"other\"");
    upload("json", json.into_bytes()).await;
    upload("cwasm", read("cwasm")).await;
    assert!(shop.refusal().contains("what is signed is the component sha256:"));
    assert!(
        !shop.path("cache").read_dir().unwrap().any(|it| it
            .unwrap()
            .path()
            .join("code.cwasm")
            .exists())
    );

    // And without a key that may sign code nothing is asked for at all.
    let config = fs::read_to_string(shop.path("lovage.toml")).unwrap();
    fs::write(shop.path("lovage.toml"), config.replace("= true", "= false")).unwrap();
    assert!(shop.refusal().contains("name who may sign it by a key with `precompiled = true`"));
}

#[tokio::test]
async fn what_is_signed_of_code_is_verified_by_the_command() {
    let shop = Shop::open().await;
    shop.compile(1);
    shop.sign("ours");
    let verify = ["--config", "lovage.toml", "verify", "process_data.cwasm"];
    let said = shop.lovage(&verify);
    assert!(String::from_utf8_lossy(&said.stdout).contains("signed as process_data"), "{said:?}");
    let mut code = fs::read(shop.path("process_data.cwasm")).unwrap();
    code.push(0);
    fs::write(shop.path("process_data.cwasm"), code).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
    let output = command.args(verify).current_dir(shop.directory.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("has the digest"), "{said}");
}
