//! What a scratch directory promises: private, empty, no larger than it may be, without a way out,
//! and gone afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lovage::outcome::Outcome;
use lovage::policy::Grants;
use lovage::sandbox::{EngineOptions, Limits, LoadedComponent, Plan, Report, Sandbox};
use serde_json::{Value, json};

use crate::guests::{component_that_imports, load, run, sandbox};

/// Runs steps with a scratch directory.
async fn steps(
    sandbox: &Sandbox,
    files: &Arc<LoadedComponent>,
    steps: Value,
    change: impl FnOnce(&mut Plan),
) -> Report {
    run(sandbox, files, "files", &steps.to_string(), |plan| {
        plan.grants = Arc::new(Grants { scratch: true, ..Grants::default() });
        change(plan);
    })
    .await
}

fn said(report: &Report) -> Vec<String> {
    match &report.outcome {
        Outcome::Done(output) => serde_json::from_slice(&output.data).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_guest_has_an_empty_directory_where_that_is_granted_and_none_otherwise() {
    let sandbox = sandbox();
    let files = load(&sandbox, "hostile/files").await;
    let work = json!([
        {"list": "/scratch"},
        {"mkdir": "/scratch/a"},
        {"write": {"path": "/scratch/a/b", "bytes": 100_000}},
        {"append": {"path": "/scratch/a/b", "bytes": 10}},
        {"length": "/scratch/a/b"},
        {"rename": {"from": "/scratch/a/b", "path": "/scratch/c"}},
        {"link": {"from": "/scratch/c", "path": "/scratch/d"}},
        {"symlink": {"to": "c", "path": "/scratch/e"}},
        {"length": "/scratch/e"},
        {"list": "/scratch"},
        {"list": "/"},
    ]);
    for _ in 0..2 {
        let report = steps(&sandbox, &files, work.clone(), |_| {}).await;
        assert_eq!(
            said(&report),
            ["", "ok", "ok", "ok", "100010", "ok", "ok", "ok", "100010", "a c d e", "NotFound"]
        );
    }
    let report = run(&sandbox, &files, "files", &work.to_string(), |_| {}).await;
    assert!(said(&report).iter().all(|step| step == "NotFound"), "{:?}", said(&report));
}

/// Attacks: ways out of the directory, by paths and by links of both kinds.
#[tokio::test]
async fn no_path_and_no_link_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let secret = secret.to_str().unwrap();
    let up = "../".repeat(20);
    let sandbox = sandbox();
    let files = load(&sandbox, "hostile/files").await;
    let climb = format!("/scratch/{up}{secret}");
    let report = steps(
        &sandbox,
        &files,
        json!([
            {"read": secret},
            {"read": climb},
            {"read": "/scratch/../../etc/passwd"},
            {"read": "/scratch/a/../../b"},
            {"list": "/scratch/.."},
            {"write": {"path": "/scratch/../mine", "bytes": 1}},
            {"symlink": {"to": secret, "path": "/scratch/absolute"}},
            {"symlink": {"to": format!("{up}{secret}"), "path": "/scratch/relative"}},
            {"symlink": {"to": "..", "path": "/scratch/parent"}},
            {"read": "/scratch/absolute"},
            {"read": "/scratch/relative"},
            {"list": "/scratch/parent"},
            {"write": {"path": "/scratch/relative", "bytes": 1}},
            {"link": {"from": secret, "path": "/scratch/hard"}},
            {"link": {"from": climb, "path": "/scratch/hard"}},
            {"link": {"from": "/scratch/relative", "path": "/scratch/hard"}},
            {"read": "/scratch/hard"},
            {"rename": {"from": climb, "path": "/scratch/stolen"}},
            {"mkdir": "/scratch/deep"},
            {"symlink": {"to": "../../..", "path": "/scratch/deep/up"}},
            {"read": format!("/scratch/deep/up/{secret}")},
            {"symlink": {"to": "loop", "path": "/scratch/loop"}},
            {"read": "/scratch/loop"},
            {"read": "/proc/self/environ"},
            {"read": "/scratch/\u{0}/etc/passwd"},
        ]),
        |_| {},
    )
    .await;
    let said = said(&report);
    assert!(!said.iter().any(|step| step.contains("secret") || step.contains("root:")), "{said:?}");
    for (step, what) in said.iter().enumerate() {
        // Links may say what they like, as long as they lead nowhere.
        let may = [6, 7, 8, 15, 18, 19, 21];
        assert!(may.contains(&step) || what != "ok", "step {step}: {said:?}");
    }
    assert_eq!(std::fs::read_to_string(secret).unwrap(), "secret");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

/// Attacks: the disk, by all ways of making files larger, deleting them again included.
#[tokio::test]
async fn no_more_is_written_than_is_allowed() {
    let sandbox = sandbox();
    let files = load(&sandbox, "hostile/files").await;
    let limits = |plan: &mut Plan| plan.limits.scratch_bytes = 1_000_000;
    // wasi-libc does not ask a stream for the code of its error.
    let over = ["QuotaExceeded", "I/O error (os error 29)"];
    let attacks = [
        json!([{"write": {"path": "/scratch/a", "bytes": 1_000_001}}]),
        // What is deleted was written all the same.
        json!([
            {"write": {"path": "/scratch/a", "bytes": 600_000}},
            {"remove": "/scratch/a"},
            {"write": {"path": "/scratch/a", "bytes": 600_000}},
        ]),
        json!([
            {"write": {"path": "/scratch/a", "bytes": 600_000}},
            {"write": {"path": "/scratch/a", "bytes": 600_000}},
        ]),
        json!([
            {"write": {"path": "/scratch/a", "bytes": 600_000}},
            {"append": {"path": "/scratch/a", "bytes": 600_000}},
        ]),
        // Holes take no room until each of their blocks is written to.
        json!([
            {"write": {"path": "/scratch/a", "bytes": 0}},
            {"resize": {"path": "/scratch/a", "size": 1_000_001}},
        ]),
        json!([{"write": {"path": "/scratch/a", "bytes": 1, "at": 1_000_000_000_000_u64}}]),
        json!([{"write": {"path": "/scratch/a", "bytes": 1, "at": i64::MAX}}]),
        json!([
            {"write": {"path": "/scratch/a", "bytes": 0}},
            {"resize": {"path": "/scratch/a", "size": 600_000}},
            {"resize": {"path": "/scratch/a", "size": 0}},
            {"resize": {"path": "/scratch/a", "size": 600_000}},
        ]),
    ];
    for attack in attacks {
        let report = steps(&sandbox, &files, attack.clone(), limits).await;
        let said = said(&report);
        let (last, before) = said.split_last().unwrap();
        assert!(over.contains(&last.as_str()), "{attack}: {said:?}");
        assert!(before.iter().all(|step| step == "ok"), "{attack}: {said:?}");
    }
    let within = json!([
        {"write": {"path": "/scratch/a", "bytes": 400_000}},
        {"resize": {"path": "/scratch/a", "size": 500_000}},
        {"write": {"path": "/scratch/b", "bytes": 400_000, "at": 100_000}},
        {"length": "/scratch/b"},
    ]);
    let report = steps(&sandbox, &files, within, limits).await;
    assert_eq!(said(&report), ["ok", "ok", "ok", "500000"]);
}

/// Attacks: the number of files, of the file system and of the host's descriptors.
#[tokio::test]
async fn no_more_is_made_or_held_open_than_is_allowed() {
    let sandbox = sandbox();
    let files = load(&sandbox, "hostile/files").await;
    let limits = |plan: &mut Plan| {
        plan.limits.scratch_files = 20;
        plan.limits.scratch_open = 10;
    };
    let over = "QuotaExceeded";
    let report = steps(
        &sandbox,
        &files,
        json!([
            {"many": {"path": "/scratch", "files": 10}},
            {"many": {"path": "/scratch", "files": 10}},
            {"remove": "/scratch/f9"},
            {"link": {"from": "/scratch/none", "path": "/scratch/l"}},
            {"nest": {"path": "/scratch/d", "levels": 10}},
            {"mkdir": "/scratch/more"},
            {"symlink": {"to": "f1", "path": "/scratch/s"}},
            {"link": {"from": "/scratch/f1", "path": "/scratch/l"}},
            {"write": {"path": "/scratch/f9", "bytes": 1}},
            {"write": {"path": "/scratch/f8", "bytes": 1}},
            {"hold": {"path": "/scratch/f1", "times": 10}},
            {"hold": {"path": "/scratch/f1", "times": 10}},
            {"hold": {"path": "/scratch/f1", "times": 11}},
        ]),
        limits,
    )
    .await;
    assert_eq!(
        said(&report),
        ["ok", "ok", "ok", "NotFound", "ok", over, over, over, over, "ok", "ok", "ok", over]
    );
}

#[tokio::test]
async fn a_refusal_is_in_the_detail_of_a_failure_with_the_limit_and_what_raises_it() {
    let sandbox = sandbox();
    let files = load(&sandbox, "hostile/files").await;
    let note =
        "refused: wrote more than 10 bytes to its scratch directory (`scratch_bytes` raises it)\n";
    for (end, kind) in [("fail", "ToldToFail"), ("panic", "panic"), ("spin", "timeout")] {
        let work = json!([{"write": {"path": "/scratch/a", "bytes": 11}}, end]);
        let report = steps(&sandbox, &files, work, |plan| {
            plan.limits.scratch_bytes = 10;
            plan.limits.timeout = Duration::from_secs(1);
        })
        .await;
        let (Outcome::Failed(failure) | Outcome::Crashed(failure) | Outcome::TimedOut(failure)) =
            report.outcome
        else {
            panic!("{:?}", report.outcome)
        };
        assert_eq!(failure.kind, kind);
        let detail = failure.detail.unwrap();
        assert_eq!(detail.matches(note).count(), 1, "{kind}: {detail}");
    }
}

/// Scratch directories of this process, by what is in them.
fn left() -> Vec<PathBuf> {
    let entries = |path: &Path| {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    entries(&std::env::temp_dir())
        .filter(|path| path.display().to_string().contains("/lovage-scratch-"))
        .flat_map(|home| entries(&home).collect::<Vec<_>>())
        .flat_map(|attempt| entries(&attempt).collect::<Vec<_>>())
        .filter(|path| path.ends_with("of-this-test"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_however_the_attempt_ends() {
    let sandbox = Sandbox::new(EngineOptions { slots: 1, ..EngineOptions::default() }).unwrap();
    let files = load(&sandbox, "hostile/files").await;
    let made = |end: Value| {
        json!([
            {"mkdir": "/scratch/of-this-test"},
            {"nest": {"path": "/scratch/of-this-test/n", "levels": 30}},
            {"many": {"path": "/scratch/of-this-test", "files": 50}},
            {"write": {"path": "/scratch/of-this-test/w", "bytes": 100_000}},
            end
        ])
    };
    for end in [json!({"list": "/scratch"}), json!("fail"), json!("panic"), json!("spin")] {
        steps(&sandbox, &files, made(end), |plan| plan.limits.timeout = Duration::from_secs(2))
            .await;
    }
    for _ in 0..3 {
        let attempt = steps(&sandbox, &files, made(json!("spin")), |_| {});
        let dropped = tokio::time::timeout(Duration::from_millis(500), attempt).await;
        assert!(dropped.is_err());
    }
    let end = Instant::now() + Duration::from_mins(1);
    while !left().is_empty() {
        assert!(Instant::now() < end, "{:?}", left());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_times_of_files_are_hidden_from_deterministic_tasks() {
    let sandbox = sandbox();
    let files = load(&sandbox, "hostile/files").await;
    let work = json!([{"write": {"path": "/scratch/a", "bytes": 1}}, {"timed": "/scratch/a"}]);
    let report = steps(&sandbox, &files, work.clone(), |_| {}).await;
    assert_eq!(said(&report), ["ok", "true"]);
    let report = steps(&sandbox, &files, work, |plan| {
        plan.grants = Arc::new(Grants {
            scratch: true,
            deterministic: Some(lovage::config::DeterminismConfig::default()),
            ..Grants::default()
        });
    })
    .await;
    assert_ne!(said(&report)[1], "true");
}

/// Attacks: the count of what is written, by handing a descriptor of WASI 0.2 to a function of
/// WASI 0.3. In wasmtime-wasi both are one type, and a component may say that it is.
#[tokio::test]
async fn wasi_0_3_is_no_way_around_the_limits() {
    let component = wat::parse_str(
        r#"(component
            (import "wasi:filesystem/types@0.2.0" (instance $two
              (export "descriptor" (type (sub resource)))))
            (alias export $two "descriptor" (type $descriptor))
            (import "wasi:filesystem/types@0.3.0" (instance $three
              (alias outer 1 $descriptor (type $d))
              (export "descriptor" (type (eq $d)))))
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func $f (canon lift (core func $i "f")))
            (instance $h (export "describe" (func $f)) (export "run" (func $f)))
            (export "lovage:task/handler@1.0.0" (instance $h)))"#,
    )
    .unwrap();
    let problem = sandbox().prepare_bytes("mixes", &component, &Limits::default()).await;
    let problem = problem.unwrap_err().to_string();
    assert!(problem.contains("in a shape that this host does not offer"), "{problem}");

    // And there is no directory to begin with.
    let component = component_that_imports(
        &["package wasi:filesystem@0.3.0;
           interface types { resource descriptor; }
           interface preopens {
             use types.{descriptor};
             get-directories: func() -> list<tuple<descriptor, string>>;
           }"],
        "import wasi:filesystem/preopens@0.3.0;",
        r#"(module
            (import "wasi:filesystem/preopens@0.3.0" "get-directories" (func $dirs (param i32)))
            (memory (export "memory") 1)
            TASK REALLOC
            (data (i32.const 8) "text/plain")
            (func (export "lovage:task/handler@1.0.0#run") (param i32) (result i32)
              (memory.fill (i32.const 512) (i32.const 255) (i32.const 8))
              (call $dirs (i32.const 512))
              (i32.store (i32.const 264) (i32.const 8))
              (i32.store (i32.const 268) (i32.const 10))
              (i32.store (i32.const 272) (i32.const 516))
              (i32.store (i32.const 276) (i32.const 4))
              (i32.const 256)))"#,
    );
    let sandbox = sandbox();
    let component = sandbox.prepare_bytes("asks", &component, &Limits::default()).await.unwrap();
    let report = run(&sandbox, &component, "t", "", |plan| {
        plan.grants = Arc::new(Grants { scratch: true, ..Grants::default() });
    })
    .await;
    match report.outcome {
        Outcome::Done(output) => assert_eq!(*output.data, [0; 4]),
        other => panic!("{other:?}"),
    }
}

/// The whole life of a process: what one left that was killed is gone at the start of the next, and
/// that leaves nothing when it is stopped.
#[cfg(all(feature = "cli", feature = "local"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_killed_worker_leaves_goes_at_the_next_start() {
    use crate::support::stage::{Kind, Setup, Stage};
    use crate::support::worker::{Worker, until};

    let setup = Setup {
        hostile: &["files"],
        config: "tasks.files.grants.scratch = true\n",
        ..Setup::default()
    };
    let stage = Stage::set(Kind::Local, setup).await;
    let temporary = stage.directory().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let worker = async || {
        let mut command = stage.command(&["worker"]);
        command.env("TMPDIR", &temporary);
        let worker = Worker::spawn(command);
        worker.logs("worker started", 1).await;
        worker
    };
    let homes = || -> Vec<PathBuf> {
        std::fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let first = worker().await;
    let steps = json!([{"write": {"path": "/scratch/a", "bytes": 10}}, "spin"]);
    stage.send_job("a", "files", steps).await;
    let [home] = &homes()[..] else { panic!("{:?}", homes()) };
    until("the job has written", || async { home.join("0/a").exists().then_some(()) }).await;
    first.kill();
    assert!(home.join("0/a").exists());
    let second = worker().await;
    assert!(!home.exists());
    assert_eq!(homes().len(), 1);
    second.stop().await;
    assert_eq!(homes(), Vec::<PathBuf>::new());

    // One job without any worker leaves nothing, either.
    let file = crate::guests::file("hostile/files");
    let steps = r#"[{"many": {"path": "/scratch", "files": 100}}, {"list": "/"}]"#;
    let mut command = stage.command(&["run", file.to_str().unwrap(), "--data", steps]);
    command.env("TMPDIR", &temporary);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("[\"ok\""), "{output:?}");
    assert_eq!(homes(), Vec::<PathBuf>::new());
}
