//! What the command line promises: what it prints, and how it ends.
//!
//! Snapshots are in `snapshots/`; `INSTA_UPDATE=always cargo test --test promises cli` writes them
//! anew, to be read before they are committed.

// Over 500 lines: the cases of one program share its stage.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn task(name: &str) -> PathBuf {
    let file = root().join("guest-tasks/dist").join(format!("{name}.wasm"));
    assert!(file.exists(), "{} is missing: run `make guests` first", file.display());
    file
}

/// The command in an empty directory, with nothing of the caller's environment that could bear
/// on it.
struct Cli {
    folder: tempfile::TempDir,
}

#[derive(Debug)]
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Cli {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lovage"));
        command.args(arguments).current_dir(self.folder.path());
        for (name, _) in std::env::vars() {
            if name.starts_with("LOVAGE") || name.starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
        command.env("LOVAGE__COMPONENTS__CACHE_DIR", cache);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }
}

fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ended {
    /// All that there is to see, without what differs from run to run.
    fn seen(&self) -> String {
        let all =
            format!("exit {}\n--- stdout\n{}--- stderr\n{}", self.code, self.stdout, self.stderr);
        all.replace(&root().display().to_string(), "ROOT")
    }
}

fn run_task(name: &str, arguments: &[&str]) -> Ended {
    let file = task(name);
    let mut all = vec!["run", file.to_str().unwrap()];
    all.extend(arguments);
    Cli::new().run(&all)
}

#[test]
fn help_explains_every_command() {
    let cli = Cli::new();
    insta::assert_snapshot!("help", cli.run(&["--help"]).stdout);
    let commands = [
        &["new"][..],
        &["build"],
        &["test"],
        &["run"],
        &["worker"],
        &["lambda"],
        &["send"],
        &["status"],
        &["revoke"],
        &["dispatch"],
        &["inspect"],
        &["check"],
        &["compile"],
        &["dlq"],
        &["dlq", "list"],
        &["dlq", "show"],
        &["dlq", "redrive"],
        &["dlq", "delete"],
        &["dlq", "purge"],
        &["results"],
        &["results", "list"],
        &["db", "compact"],
        &["usage"],
        &["config"],
        &["config", "check"],
        &["config", "show"],
        &["completions"],
    ];
    for command in commands {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let help = cli.run(&arguments).stdout;
        let is_example = |line: &str| line.starts_with("  ") && line.contains("lovage ");
        assert!(help.lines().any(is_example), "no example: {help}");
        insta::assert_snapshot!(format!("help-{}", command.join("-")), help);
    }
}

#[test]
fn misuse_ends_with_2_and_says_what_is_right() {
    let cli = Cli::new();
    cli.write("lovage.toml", "[queues.jobs]\n[queues.more]\n");
    cli.write("sqs.toml", "broker.kind = 'sqs'\n[queues.jobs]\n");
    cli.write("a.wasm", "");
    std::fs::create_dir(cli.folder.path().join("b")).unwrap();
    cli.write("b/a.wasm", "");
    let send = ["send", "--data", "1"];
    let jobs = [&send[..], &["--queue", "jobs"]].concat();
    let sqs = [&["--config", "sqs.toml"], &send[..], &["--wait"]].concat();
    let raw = ["--raw", "text/plain"];
    let cases = [
        (send.to_vec(), "which queue? use --queue with one of: jobs, more"),
        ([&send[..], &["--queue", "job"]].concat(), "did you mean `jobs`?"),
        ([&jobs[..], &raw, &["--max-attempts", "2"]].concat(), "leave --raw away"),
        ([&sqs[..], &raw].concat(), "leave --raw away"),
        ([&sqs[..], &["--reply-to", "mine"]].concat(), "leave one of them away"),
        (vec!["usage"], "set worker.metrics_address in its configuration, or use --url"),
        (vec!["usage", "--url", "ftp://here"], "`ftp://here` is no URL of a worker"),
        (vec!["dlq", "list"], "use --queue with one of: jobs, more"),
        (vec!["dlq", "list", "--queue", "mor"], "did you mean `more`?"),
        (vec!["worker", "--queue", "nope"], "worker.queues names `nope`"),
        (vec!["compile", "--out", "out", "a.wasm", "b/a.wasm"], "rename one"),
        (vec!["dispatch", "--event", "hello"], "is not JSON"),
    ];
    for (arguments, part) in cases {
        let ended = cli.run(&arguments);
        assert_eq!(ended.code, 2, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(part), "{arguments:?}: {}", ended.stderr);
    }
}

#[test]
fn a_reader_who_goes_away_is_no_failure() {
    let cli = Cli::new();
    for arguments in [&["completions", "bash"][..], &["config", "show"], &["config", "check"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = cli.command(arguments);
        let ended = ended(command.stdout(writer).stderr(Stdio::piped()).output().unwrap());
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{arguments:?}");
    }
}

#[test]
fn services_log_json_when_asked_to() {
    let cli = Cli::new();
    cli.write("text.wasm", "hello");
    // Something that is logged before the start fails: a cache that cannot be.
    let mut command = cli.command(&["worker", "--json", "--components", "text.wasm"]);
    let ended =
        ended(command.env("LOVAGE__COMPONENTS__CACHE_DIR", "text.wasm/x").output().unwrap());
    assert_eq!(ended.code, 1);
    let line: Value = serde_json::from_str(ended.stderr.lines().next().unwrap()).unwrap();
    assert_eq!(line["level"], "WARN", "{line}");
}

#[test]
fn run_prints_the_value_alone() {
    let ended = run_task("process_data", &["--data", "21"]);
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (0, "42\n", ""));
    let ended = run_task("process_data", &["--data", "-21"]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "-42\n"));
}

#[test]
fn run_takes_data_from_a_file_and_from_standard_input() {
    let cli = Cli::new();
    cli.write("data.json", "[1]");
    let file = task("process_data");
    let file = file.to_str().unwrap();
    assert_eq!(cli.run(&["run", file, "--data", "@data.json"]).stdout, "[1,1]\n");
    let mut child = cli
        .command(&["run", file, "--data", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\"ab\"").unwrap();
    assert_eq!(ended(child.wait_with_output().unwrap()).stdout, "\"abab\"\n");
}

#[test]
fn run_ends_with_1_when_there_is_no_value_and_says_why() {
    insta::assert_snapshot!("run-rejected", run_task("process_data", &["--data", "null"]).seen());
    let panicked = run_task("hostile/panic", &["--data", "\"it broke\""]);
    assert_eq!(panicked.code, 1);
    assert!(panicked.stderr.starts_with("crashed: panic: it broke (at "), "{}", panicked.stderr);
    let slow = run_task("hostile/spin", &["--timeout", "100ms"]);
    insta::assert_snapshot!("run-timeout", slow.seen());
}

#[test]
fn run_ends_with_2_on_misuse() {
    insta::assert_snapshot!("run-data", run_task("process_data", &["--data", "hello"]).seen());
    insta::assert_snapshot!("run-task", run_task("process_data", &["nope", "--data", "1"]).seen());
    insta::assert_snapshot!("run-which-task", run_task("echo", &["--data", "1"]).seen());
    assert_eq!(Cli::new().run(&["run"]).code, 2);
    assert_eq!(Cli::new().run(&["fly"]).code, 2);
}

#[test]
fn run_says_what_is_wrong_with_a_file() {
    let cli = Cli::new();
    cli.write("text.wasm", "hello");
    std::fs::write(cli.folder.path().join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    insta::assert_snapshot!("run-missing", cli.run(&["run", "missing.wasm"]).seen());
    insta::assert_snapshot!("run-text", cli.run(&["run", "text.wasm"]).seen());
    insta::assert_snapshot!("run-core", cli.run(&["run", "core.wasm"]).seen());
    insta::assert_snapshot!("run-no-handler", run_task("hostile/no-handler", &[]).seen());
    insta::assert_snapshot!("run-wants-missing", run_task("hostile/wants-missing", &[]).seen());
    insta::assert_snapshot!("run-twice", run_task("hostile/twice", &[]).seen());
    let traps = run_task("hostile/describe-traps", &[]);
    assert_eq!(traps.code, 1);
    assert!(traps.stderr.contains("describe"), "{}", traps.stderr);
}

#[test]
fn json_output_keeps_numbers_of_any_size() {
    let digits = "9".repeat(60);
    let ended = run_task("echo", &["echo", "--data", &digits, "--json", "--id", "i"]);
    assert!(ended.stdout.contains(&format!("\"data\": {digits}")), "{}", ended.stdout);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&value["status"], &value["id"]), (&"done".into(), &"i".into()));
    assert!(value["usage"]["cpu_us"].as_u64().unwrap() > 0);
}

#[test]
fn json_output_tells_failures_too() {
    let ended = run_task("process_data", &["--data", "null", "--json"]);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, &value["status"]), (1, &"rejected".into()));
    assert!(value["error"]["message"].as_str().unwrap().contains("null"));
}

#[test]
fn inspect_shows_tasks_imports_and_contract() {
    let file = task("echo");
    let ended = Cli::new().run(&["inspect", file.to_str().unwrap()]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in
        ["lovage:task@1.1.0", "echo_context", "wasi:cli/stderr", "lovage:task/handler@1.1.0"]
    {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let ended = Cli::new().run(&["inspect", file.to_str().unwrap(), "--json"]);
    let value: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(value["tasks"][0]["name"], "echo");
    let ended = Cli::new().run(&["inspect", task("hostile/wants-missing").to_str().unwrap()]);
    assert_eq!(ended.code, 1);
    assert!(ended.stdout.contains("not offered"), "{}", ended.stdout);
}

#[test]
fn a_component_that_asks_for_more_than_is_granted_is_not_loaded() {
    let cli = Cli::new();
    let file = task("granted/fan_out");
    let file = file.to_str().unwrap();
    let missing = "imports what its tasks are not granted: `lovage:task/dispatch@1.1.0` for the \
                   task `fan_out` (tasks.fan_out.grants.dispatch)";
    let (data, one) = ("--data", r#"{"task": "echo", "items": [1]}"#);
    for arguments in [
        &["check", file][..],
        &["inspect", file],
        &["run", file, data, one],
        &["worker", "--components", file],
    ] {
        let ended = cli.run(arguments);
        assert_eq!(ended.code, 1, "{arguments:?}: {ended:?}");
        let seen = format!("{}{}", ended.stdout, ended.stderr);
        assert!(seen.contains(missing), "{arguments:?}: {seen}");
    }
    // An empty list is no grant.
    cli.write("lovage.toml", "tasks.fan_out.grants.dispatch = []");
    assert_eq!(cli.run(&["check", file]).code, 1);
    cli.write(
        "lovage.toml",
        "defaults.grants.dispatch = ['echo']\ntenants.acme.grants.dispatch = []\n\
         tenants.acme.limits.timeout_ms = 7000",
    );
    let ended = cli.run(&["check", file]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in
        ["granted: lovage:task/dispatch@1.1.0", "dispatch = [\"echo\"]", "a worker loads it"]
    {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    assert_eq!(cli.run(&["run", file, data, one]).code, 0);
    let json = cli.run(&["check", file, "--tenant", "acme", "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let task = &json["tasks"][0];
    assert_eq!(
        (&task["imports"][0]["granted"], &task["timeout_ms"]),
        (&false.into(), &7000.into())
    );
    let ended = cli.run(&["check", file, "--tenant", "acne"]);
    assert!(ended.code == 2 && ended.stderr.contains("did you mean `acme`?"), "{ended:?}");
    let ended = cli.run(&["run", file, data, one, "--tenant", "acme"]);
    assert!(ended.code == 1 && ended.stderr.contains("not granted jobs"), "{ended:?}");
}

#[test]
fn run_gives_the_task_what_its_flags_say() {
    let flags = "echo_context --data hi --content-type text/plain --header Colour=blue \
                 --header colour=a=b --tenant acme --attempt 3 --id mine";
    let ended = run_task("echo", &flags.split_whitespace().collect::<Vec<_>>());
    let seen: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let expected = json!({
        "id": "mine", "tenant": "acme", "attempt": 3, "content_type": "text/plain",
        "headers": [["colour", "blue"], ["colour", "a=b"]],
    });
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(seen[field], *value, "{field}: {seen}");
    }
    assert_eq!(run_task("echo", &["echo_context", "--header", "no-value"]).code, 2);
}

#[test]
fn run_takes_and_gives_what_is_no_json() {
    let cli = Cli::new();
    let bytes = b"\0\xff\n";
    std::fs::write(cli.folder.path().join("bytes"), bytes).unwrap();
    let file = task("echo");
    let png = ["run", file.to_str().unwrap(), "echo", "--data", "@bytes", "--content-type", "a/b"];
    let output = cli.command(&png).output().unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &bytes[..]));
    let shown: Value =
        serde_json::from_str(&cli.run(&[&png[..], &["--json"]].concat()).stdout).unwrap();
    assert_eq!((&shown["data_base64"], &shown["content_type"]), (&json!("AP8K"), &json!("a/b")));
    assert!(shown.get("data").is_none(), "{shown}");
}

#[test]
fn run_shows_what_the_task_wrote_when_asked() {
    let data = r#"{"stdout_bytes": 64, "stderr_bytes": 128, "output_bytes": 4}"#;
    let quiet = run_task("hostile/flood", &["--data", data]);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("\"xx\"\n", ""));
    let shown = run_task("hostile/flood", &["--data", data, "--show-output"]);
    let line = |name: &str, number: u8| format!("{name}: {number:.>63}\n");
    let expected = line("stdout", 0) + &line("stderr", 0) + &line("stderr", 1);
    assert_eq!((shown.code, shown.stdout.as_str()), (0, "\"xx\"\n"));
    assert_eq!(shown.stderr, expected);
}

#[test]
fn a_person_is_shown_that_a_component_is_being_compiled_and_a_script_is_not() {
    let cli = Cli::new();
    let file = task("greet");
    let arguments = ["run", file.to_str().unwrap(), "--data", r#"{"name":"you"}"#];
    let with_cache = |name: &str, command: &mut Command| {
        let cache = cli.folder.path().join(name);
        ended(command.env("LOVAGE__COMPONENTS__CACHE_DIR", cache).output().unwrap())
    };
    let script = with_cache("one", &mut cli.command(&arguments));
    assert_eq!((script.code, script.stderr.as_str()), (0, ""));
    let asked = [&arguments[..], &["--log", "info"]].concat();
    let asked = with_cache("two", &mut cli.command(&asked));
    assert!(asked.stderr.contains("compiling file=greet.wasm size="), "{asked:?}");

    // At a terminal of its own; what it shows comes out of `script`.
    let line = arguments.map(|it| format!("'{it}'")).join(" ");
    let at_terminal = || {
        let lovage = cli.command(&[]);
        let mut command = Command::new("script");
        command.args(["-qec", &format!("'{}' {line}", env!("CARGO_BIN_EXE_lovage")), "/dev/null"]);
        for (name, value) in lovage.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(cli.folder.path()).stdin(Stdio::null());
        with_cache("three", &mut command)
    };
    let first = at_terminal();
    assert!(first.stdout.contains("compiling"), "{first:?}");
    assert!(first.stdout.contains("greet.wasm"), "{first:?}");
    assert!(first.stdout.contains("Hello, you"), "{first:?}");
    // What is in the cache is not.
    let second = at_terminal();
    assert!(second.stdout.contains("Hello, you"), "{second:?}");
    assert!(!second.stdout.contains("compiling"), "{second:?}");
}

#[test]
fn inspect_shows_schemas_when_asked() {
    let file = task("greet");
    let inspect = |more: &[&str]| {
        Cli::new().run(&[&["inspect", file.to_str().unwrap()], more].concat()).stdout
    };
    let short = inspect(&[]);
    for part in ["input: object", "at most 5 attempt(s)", "at most 10s an attempt"] {
        assert!(short.contains(part), "no {part:?} in {short}");
    }
    assert!(!short.contains("exclamation"), "{short}");
    let long = inspect(&["--schema"]);
    let input = long.lines().find_map(|line| line.trim().strip_prefix("input: ")).unwrap();
    let input: Value = serde_json::from_str(input).unwrap();
    assert_eq!(input["properties"]["joy"]["description"], "How many exclamation marks.");
}

#[test]
fn config_check_says_what_is_wrong_where() {
    let cli = Cli::new();
    assert_eq!(cli.run(&["config", "check"]).stdout, "ok: takes jobs from default\n");
    cli.write("lovage.toml", "[worker]\nconcurency = 8\n");
    insta::assert_snapshot!("config-unknown-field", cli.run(&["config", "check"]).seen());
    let json = cli.run(&["config", "check", "--json"]);
    assert_eq!(json.code, 1);
    assert_eq!(serde_json::from_str::<Value>(&json.stdout).unwrap()["ok"], false);
    insta::assert_snapshot!(
        "config-missing",
        cli.run(&["--config", "no.toml", "config", "check"]).seen()
    );
}

#[test]
fn config_show_prints_a_configuration_that_reads_back() {
    let cli = Cli::new();
    let sample = std::fs::read_to_string(root().join("lovage.sample.toml")).unwrap();
    cli.write("lovage.toml", &sample);
    let shown = cli.run(&["config", "show"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    cli.write("lovage.toml", &shown.stdout);
    assert_eq!(cli.run(&["config", "show"]).stdout, shown.stdout);
}

#[cfg(feature = "local")]
#[test]
fn send_says_which_queues_there_are() {
    let cli = Cli::new();
    cli.write("lovage.toml", "[queues.jobs]\n[queues.more]\n");
    insta::assert_snapshot!("send-which-queue", cli.run(&["send", "--data", "1"]).seen());
    insta::assert_snapshot!(
        "send-unknown-queue",
        cli.run(&["send", "--data", "1", "--queue", "job"]).seen()
    );
    let sent = cli.run(&["send", "--data", "1", "--queue", "jobs", "--id", "mine"]);
    assert_eq!((sent.code, sent.stdout.as_str()), (0, "mine\n"));
}

#[cfg(feature = "local")]
#[test]
fn send_wait_gives_up_after_its_time() {
    let cli = Cli::new();
    let ended =
        cli.run(&["send", "echo", "--data", "1", "--id", "i", "--wait", "--wait-timeout", "100ms"]);
    insta::assert_snapshot!("send-wait-timeout", ended.seen());
}

#[test]
fn completions_are_there_for_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = Cli::new().run(&["completions", shell]);
        assert!(ended.code == 0 && ended.stdout.contains("lovage"), "{shell}");
    }
}

#[test]
fn compile_makes_code_and_a_manifest() {
    let cli = Cli::new();
    let file = task("process_data");
    let arguments = ["compile", "--out", "out", "--json", file.to_str().unwrap()];
    let ended = cli.run(&arguments);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let made: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(made["code"], "out/process_data.cwasm");
    assert!(cli.folder.path().join("out/process_data.json").exists());
    let ended = cli.run(&[
        "compile",
        "--out",
        "out",
        "--target",
        "moon-unknown-none",
        file.to_str().unwrap(),
    ]);
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("moon-unknown-none"), "{}", ended.stderr);
}
