//! What `lovage dev` promises: what is saved is built and takes over, and what is not good does not.

use std::fs;

use serde_json::json;

use crate::support::stage::{Kind, Setup, Stage, guest};
use crate::support::worker::Worker;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_saved_is_built_and_takes_over_and_what_does_not_build_does_not() {
    let stage = Stage::set(Kind::Local, Setup::default()).await;
    let project = stage.directory().join("project");
    fs::create_dir(&project).unwrap();
    // A build of its own, so that no compiler is waited for: an empty source does not build.
    let settings = "name = \"mine\"\nlang = \"rust\"\n\
                    build = \"test -s source.txt && cp source.txt made.wasm\"\n\
                    output = \"made.wasm\"\n";
    fs::write(project.join("lovage-task.toml"), settings).unwrap();
    let save = |bytes: &[u8]| fs::write(project.join("source.txt"), bytes).unwrap();
    save(b"");
    let dev = Worker::spawn(stage.command(&["dev", "project"]));
    dev.logs("does not build; save to try again", 1).await;
    save(&fs::read(guest("process_data.wasm")).unwrap());
    dev.logs("worker started", 1).await;
    stage.send_job("one", "process_data", json!(21)).await;
    assert_eq!(stage.result_of("one").await["data"], json!(42));

    save(b"");
    dev.logs("does not build; save to try again", 2).await;
    stage.send_job("two", "process_data", json!(21)).await;
    assert_eq!(stage.result_of("two").await["data"], json!(42));
    // Another task, and nothing else: what is built lies in the project and changes nothing.
    save(&fs::read(guest("echo.wasm")).unwrap());
    dev.logs("another version of a component is served", 1).await;
    stage.send_job("three", "echo", json!("said")).await;
    assert_eq!(stage.result_of("three").await["data"], json!("said"));
    assert_eq!(dev.logged("built").len(), 2, "{:?}", dev.logged("built"));
    dev.stop().await;
    stage.is_done().await;
}
