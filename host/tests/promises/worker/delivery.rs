//! Every job that was accepted comes to one final result, whatever it does and whoever dies.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use lovage::broker::{Depth, Outgoing};
use serde_json::{Value, json};

use crate::support::{
    stage::{Kind, Setup, Stage, job, job_with, on_both, raw, take},
    worker::until,
};

on_both! {
    a_thousand_mixed_jobs_have_one_final_result_each
    jobs_of_a_worker_that_was_killed_are_redelivered_and_finished
    what_was_sent_is_done_whoever_is_killed_meanwhile
    each_queue_gets_its_share_of_a_worker
}

/// What one sort of job comes to.
struct Sort {
    count: usize,
    /// Makes the job of that id.
    make: fn(&str, usize) -> Outgoing,
    status: &'static str,
    /// The value, or the kind of the failure.
    value: fn(usize) -> Value,
    /// Text in the reason of the dead letter, where there is to be one.
    letter: Option<&'static str>,
}

const SORTS: &[Sort] = &[
    Sort {
        count: 500,
        make: |id, n| job(id, "process_data", json!(n)),
        status: "done",
        value: |n| json!(2 * n),
        letter: None,
    },
    Sort {
        count: 150,
        make: |id, n| raw(id, "echo", "application/json", format!("[{n},\"é\"]")),
        status: "done",
        value: |n| json!([n, "é"]),
        letter: None,
    },
    Sort {
        count: 60,
        make: |id, _| job(id, "fail", json!({"times": 1})),
        status: "done",
        value: |_| json!(2),
        letter: None,
    },
    Sort {
        count: 30,
        make: |id, _| job(id, "fail", json!({})),
        status: "failed",
        value: |_| json!("retry"),
        letter: Some("attempt 2 fails, as it was told to"),
    },
    Sort {
        count: 50,
        make: |id, _| job(id, "fail", json!({"error": "fail"})),
        status: "failed",
        value: |_| json!("ToldToFail"),
        letter: None,
    },
    Sort {
        count: 30,
        make: |id, _| job(id, "fail", json!({"error": "reject"})),
        status: "rejected",
        value: |_| json!("rejected"),
        letter: Some("attempt 1 fails, as it was told to"),
    },
    Sort {
        count: 20,
        make: |id, _| job(id, "panic", json!("out of order")),
        status: "crashed",
        value: |_| json!("panic"),
        letter: Some("out of order"),
    },
    Sort {
        count: 10,
        make: |id, _| job(id, "recurse", json!(null)),
        status: "crashed",
        value: |_| json!("trap:memory_out_of_bounds"),
        letter: Some("stack"),
    },
    Sort {
        count: 10,
        make: |id, _| job(id, "hoard", json!(null)),
        status: "crashed",
        value: |_| json!("memory_limit"),
        letter: Some("memory"),
    },
    Sort {
        count: 5,
        make: |id, _| job(id, "spin", json!(null)),
        status: "timed_out",
        value: |_| json!("timeout"),
        letter: Some("200ms"),
    },
    Sort {
        count: 10,
        make: |id, _| job(id, "flood", json!({"output_bytes": 2_000_000})),
        status: "failed",
        value: |_| json!("output_too_large"),
        letter: None,
    },
    Sort {
        count: 10,
        make: |id, _| job(id, "flood", json!({"stdout_bytes": 200_000, "stderr_bytes": 200_000})),
        status: "done",
        value: |_| json!(0),
        letter: None,
    },
    Sort {
        count: 30,
        make: |id, _| job(id, "proces_data", json!(1)),
        status: "rejected",
        value: |_| json!("unknown_task"),
        letter: Some("did you mean `process_data`?"),
    },
    Sort {
        count: 30,
        make: |id, _| job_with(id, "echo", json!(1), json!({"expires": 1})),
        status: "expired",
        value: |_| json!("expired"),
        letter: None,
    },
    Sort {
        count: 20,
        make: |id, _| job(id, "process_data", json!({"a": "dict"})),
        status: "rejected",
        value: |_| json!("rejected"),
        letter: Some("cannot be doubled"),
    },
    Sort {
        count: 20,
        make: |id, _| job_with(id, "echo", json!(1), json!({"max_attempts": "three"})),
        status: "rejected",
        value: |_| json!("invalid_message"),
        letter: Some("expected u32"),
    },
    Sort {
        count: 15,
        make: |id, _| raw(id, "echo", "application/json", "{\"a\":"),
        status: "rejected",
        value: |_| json!("invalid_message"),
        letter: Some("is not JSON"),
    },
];

async fn a_thousand_mixed_jobs_have_one_final_result_each(kind: Kind) {
    let setup = Setup {
        hostile: &["panic", "recurse", "hoard", "spin", "flood"],
        config: "tasks.spin.timeout_ms = 200\ntasks.hoard.memory_bytes = 16_777_216\n",
        ..Setup::default()
    };
    let stage = Stage::set(kind, setup).await;
    let mut expected = BTreeMap::new();
    let mut messages = Vec::new();
    for (which, sort) in SORTS.iter().enumerate() {
        for n in 0..sort.count {
            let id = format!("{which}-{n}");
            messages.push((sort.make)(&id, n));
            expected.insert(id, (sort, n));
        }
    }
    assert_eq!(messages.len(), 1000);
    fastrand::shuffle(&mut messages);
    let worker = stage.worker().await;
    stage.send(&messages).await;

    let results = stage.results_of(expected.keys()).await;
    worker.stop().await;
    stage.is_done().await;
    let mut letters = stage.dead_letters().await;

    for (id, (sort, n)) in expected {
        let result = &results[&id].envelope;
        let value = result.get("data").unwrap_or(&result["error"]["kind"]);
        let got = (result["status"].as_str().unwrap(), value);
        assert_eq!(got, (sort.status, &(sort.value)(n)), "{id}: {result}");
        match (sort.letter, letters.remove(&id)) {
            (None, None) => {}
            (Some(reason), Some((_, Some(letter)))) => {
                assert!(letter.reason.contains(reason), "{id}: {letter:?}");
                assert_eq!(letter.status.as_str(), sort.status, "{id}");
                assert_eq!(letter.queue, *stage.jobs.name);
            }
            (_, letter) => panic!("{id}: {result}, {letter:?}"),
        }
    }
    assert!(letters.is_empty(), "{letters:?}");
}

async fn jobs_of_a_worker_that_was_killed_are_redelivered_and_finished(kind: Kind) {
    let stage = Stage::set(kind, Setup { visibility: 5, ..Setup::default() }).await;
    let ids: Vec<_> = (0..20).map(|n| format!("job-{n}")).collect();
    let victim = stage.worker().await;
    // Long enough that all that can run at once do so before the first ends.
    let long = |id: &String| job(id, "sleep", json!({"ms": 8000}));
    stage.send(&ids[..16].iter().map(long).collect::<Vec<_>>()).await;
    victim.logs("attempt started", 16).await;
    let quick = |id: &String| job(id, "process_data", json!(21));
    stage.send(&ids[16..].iter().map(quick).collect::<Vec<_>>()).await;
    assert!(victim.logged("job finished").is_empty(), "the jobs are too short for this machine");
    victim.kill();

    let worker = stage.worker().await;
    let results = stage.results_of(&ids).await;
    worker.stop().await;

    stage.is_done().await;
    assert!(stage.dead_letters().await.is_empty());
    for (id, result) in results {
        let result = result.envelope;
        assert_eq!(result["status"], "done", "{result}");
        if ids.iter().position(|it| *it == id).unwrap() < 16 {
            assert_eq!(result["attempt"], 2, "{result}");
            assert!(result["data"].as_u64() >= Some(8000), "{result}");
        } else {
            assert_eq!((&result["attempt"], &result["data"]), (&json!(1), &json!(42)), "{result}");
        }
    }
}

/// Like a machine that loses its power again and again: neither senders nor workers end well.
async fn what_was_sent_is_done_whoever_is_killed_meanwhile(kind: Kind) {
    let stage = Stage::set(kind, Setup { visibility: 2, ..Setup::default() }).await;
    let mut accepted = BTreeSet::new();
    for round in 0..6 {
        let worker = stage.worker().await;
        let mut sender = stage
            .command(&["send", "process_data", "--data", "21"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A round later each time, from long before the send to after it.
        std::thread::sleep(Duration::from_millis(30 * round));
        sender.kill().unwrap();
        worker.kill();
        let printed = sender.wait_with_output().unwrap().stdout;
        accepted.extend(String::from_utf8(printed).unwrap().lines().map(str::to_owned));
        let sure = stage.lovage(&["send", "process_data", "--data", "21"]).await;
        assert_eq!(sure.code, Some(0), "{sure:?}");
        accepted.insert(sure.stdout.trim().to_owned());
    }
    let worker = stage.worker().await;
    // A sender that was killed may have sent without having said so, and SQS may have a result of
    // a worker that was killed before its delete.
    let done = RefCell::new(BTreeSet::new());
    until("each job that was accepted is done", || async {
        let results = take(&*stage.broker, &stage.results, Duration::from_secs(2)).await;
        assert!(results.iter().all(|result| result.envelope["data"] == 42), "{results:?}");
        let ids = results.iter().map(|it| it.envelope["id"].as_str().unwrap().to_owned());
        let mut done = done.borrow_mut();
        done.extend(ids);
        accepted.is_subset(&done).then_some(())
    })
    .await;
    // What was sent without having been said so comes to its end, too.
    until("nothing is left", || async { (stage.depth().await == Depth::default()).then_some(()) })
        .await;
    worker.stop().await;
    assert_eq!(stage.depth().await, Depth::default());
}

async fn each_queue_gets_its_share_of_a_worker(kind: Kind) {
    let config = "worker.concurrency = 4\nqueues.slow.concurrency = 1\n\
                  queues.slow.results = 'results'\nqueues.slow.dead_letters = 'letters'";
    let stage = Stage::set(kind, Setup { config, ..Setup::default() }).await;
    let slow = match kind {
        Kind::Local => stage.broker.open("slow").await.unwrap(),
        Kind::Sqs => {
            let url = crate::support::ministack::queue("slow").await;
            stage.configure(&format!("queues.slow.address = '{url}'"));
            stage.broker.open(&url).await.unwrap()
        }
    };
    let ids = |what: &str| (0..6).map(|n| format!("{what}-{n}")).collect::<Vec<_>>();
    let jobs = |ids: &[String]| -> Vec<_> {
        ids.iter().map(|id| job(id, "sleep", json!({"ms": 300}))).collect()
    };
    let (at_once, in_turn) = (ids("at-once"), ids("in-turn"));
    crate::support::broker::send(&*stage.broker, &slow, &jobs(&in_turn)).await;
    stage.send(&jobs(&at_once)).await;
    let worker = stage.worker().await;
    let results = stage.results_of(at_once.iter().chain(&in_turn)).await;
    worker.stop().await;
    stage.is_done().await;
    let time = |id: &String, field: &str| -> jiff::Timestamp {
        results[id].envelope[field].as_str().unwrap().parse().unwrap()
    };
    let mut spans: Vec<_> =
        in_turn.iter().map(|id| (time(id, "started_at"), time(id, "finished_at"))).collect();
    spans.sort();
    for pair in spans.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two at once: {spans:?}");
    }
    let last = at_once.iter().map(|id| time(id, "finished_at")).max();
    assert!(last < spans.iter().map(|span| span.1).max(), "the slow queue held up the other");
}
