//! Where a function finds its tasks and its configuration, and which builds serve as one.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    lambda::{Emulator, directory},
    ministack, namespace,
    runtime_api::Process,
    stub::Stub,
};

const TIME: Duration = Duration::from_secs(20);

#[test]
fn the_package_serves_aws_own_emulator() {
    let emulator = Emulator::start(&[("LOVAGE__QUEUES__JOBS__DEFAULT_TASK", "process_data")]);
    for (data, doubled) in [(21, 42), (4, 8)] {
        let answer = emulator.invoke(&json!({"data": data}));
        assert_eq!(answer["data"], doubled, "{answer}");
    }
    assert_eq!(emulator.invoke(&json!({"task": "fail", "data": {}}))["errorType"], "Retry");
}

#[cfg(feature = "cli")]
#[test]
fn the_worker_says_what_it_misses_outside_of_lambda() {
    let output = Command::new(env!("CARGO_BIN_EXE_lovage"))
        .arg("lambda")
        .current_dir(directory())
        .env_remove("AWS_LAMBDA_RUNTIME_API")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("AWS_LAMBDA_RUNTIME_API is not set"), "{said}");
}

/// The package's program, deployed to a place where there is nothing else.
fn bare() -> (Command, tempfile::TempDir) {
    (Command::new(directory().join("bootstrap")), tempfile::tempdir().unwrap())
}

fn doubles(process: &Process) {
    let answer = process.invoke(json!({"data": 21}), TIME).unwrap();
    assert_eq!((&answer["status"], &answer["data"]), (&json!("done"), &json!(42)), "{answer}");
}

#[test]
fn tasks_are_taken_from_where_the_configuration_says() {
    let (program, root) = bare();
    let tasks = format!("['{}']", directory().join("tasks").display());
    let named = [("LOVAGE__COMPONENTS__PRECOMPILED", tasks.as_str())];
    doubles(&Process::of(program, root.path(), &named));
}

#[test]
fn tasks_are_taken_from_a_layer() {
    let (bootstrap, root) = bare();
    let mut program = match namespace::command() {
        Ok(program) => program,
        Err(why) => return namespace::skipped("tasks_are_taken_from_a_layer", &why),
    };
    let script = "mount -t tmpfs none /opt && cp -r \"$1\" /opt/tasks && exec \"$2\"";
    let tasks = directory().join("tasks");
    program.args(["sh", "-ec", script, "sh"]).arg(tasks).arg(bootstrap.get_program());
    doubles(&Process::of(program, root.path(), &[]));
}

#[test]
fn a_function_without_tasks_says_where_they_could_be() {
    let (mut program, root) = bare();
    let output = program
        .env("LAMBDA_TASK_ROOT", root.path())
        .env("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:1")
        .env("AWS_LAMBDA_FUNCTION_NAME", "worker")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
        .env("AWS_REGION", ministack::REGION)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/opt/tasks") && said.contains("components.precompiled"), "{said}");
}

/// The answer to what a small `output_bytes` refuses.
fn answer_to_much(answer: &Value) -> &str {
    assert_eq!(answer["status"], "failed", "{answer}");
    answer["error"]["message"].as_str().unwrap()
}

#[tokio::test]
async fn the_packages_configuration_holds() {
    let (function, _) = super::worker(|new| new).await;
    let event = json!({"task": "echo", "data": "x".repeat(2000)});
    let answer = function.invoke(&event).await.unwrap();
    // As host/tests/package.toml says, which `--for-tests` packs.
    let message = answer_to_much(&answer);
    assert!(message.contains("1234 bytes") || message.contains("1.2 KiB"), "{message}");
}

#[test]
fn the_environment_stands_over_the_packages_configuration_and_may_name_another() {
    let event = || json!({"task": "echo", "data": "x".repeat(2000)});
    let stub = Stub::new(|_, _| None);
    let endpoint = ("AWS_ENDPOINT_URL", stub.endpoint.as_str());
    let more = [endpoint, ("LOVAGE__TASKS__ECHO__OUTPUT_BYTES", "10000")];
    let answer = Process::start(&more).invoke(event(), TIME).unwrap();
    assert_eq!(answer["status"], "done", "{answer}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("other.toml");
    std::fs::write(&file, "[tasks.echo]\noutput_bytes = 1024\n").unwrap();
    let named = [endpoint, ("LOVAGE_CONFIG", file.to_str().unwrap())];
    let answer = Process::start(&named).invoke(event(), TIME).unwrap();
    let message = answer_to_much(&answer);
    assert!(message.contains("1 KiB"), "{message}");
}

/// The usual build, as somebody has it who takes it for a function.
#[cfg(all(feature = "cli", feature = "compiler"))]
mod usual_build {
    use std::path::Path;

    use super::*;

    const LOVAGE: &str = env!("CARGO_BIN_EXE_lovage");

    #[test]
    fn it_serves_by_its_command_and_compiles_its_tasks() {
        let mut command = Command::new(LOVAGE);
        command.arg("lambda");
        let root = tempfile::tempdir().unwrap();
        let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-tasks/dist");
        let tasks = format!("['{}']", dist.join("process_data.wasm").display());
        let cache = root.path().join("cache");
        doubles(&Process::of(
            command,
            root.path(),
            &[
                ("LOVAGE__COMPONENTS__PATHS", &tasks),
                ("LOVAGE__COMPONENTS__CACHE_DIR", cache.to_str().unwrap()),
            ],
        ));
    }

    #[test]
    fn it_serves_when_it_is_called_bootstrap() {
        let root = tempfile::tempdir().unwrap();
        let bootstrap = root.path().join("bootstrap");
        std::os::unix::fs::symlink(LOVAGE, &bootstrap).unwrap();
        std::os::unix::fs::symlink(directory().join("tasks"), root.path().join("tasks")).unwrap();
        doubles(&Process::of(Command::new(bootstrap), root.path(), &[]));
    }
}
