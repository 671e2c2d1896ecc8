//! Several processes share the embedded broker's file.

use std::{
    collections::BTreeSet,
    process::{Child, Command},
    time::{Duration, Instant},
};

use lovage::broker::{
    Broker, Turn,
    local::{LocalBroker, LocalOptions},
};

use crate::support::{
    broker::{Fixture, Spec, finish, outgoing, receive_one, send, settle, text},
    local::Local,
};

const LONG: Duration = Duration::from_mins(1);
const SOON: Duration = Duration::from_secs(20);

/// Tells this test binary, started once more, what to do and with which file.
const ROLE: &str = "LOVAGE_TEST_ROLE";
const FILE: &str = "LOVAGE_TEST_FILE";

/// Starts this test binary as another process that plays a role.
fn start(role: &str, local: &Local) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local_processes::plays_the_other_process"])
        .env(ROLE, role)
        .env(FILE, local.path())
        .spawn()
        .unwrap()
}

/// Nothing by itself: what the other process of the tests below does.
#[tokio::test]
async fn plays_the_other_process() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else {
        return;
    };
    let broker = LocalBroker::open(file.as_ref(), LocalOptions::default()).unwrap();
    let queue = Broker::open(&broker, "queue-0").await.unwrap();
    match role.as_str() {
        "sends" => {
            for n in 0..100 {
                send(&broker, &queue, &[outgoing(n.to_string())]).await;
            }
        }
        "works" => loop {
            let wait = Duration::from_millis(500);
            let messages = broker.receive(&queue, 5, wait, LONG, &Turn::default()).await.unwrap();
            if messages.is_empty() {
                break;
            }
            let done = Broker::open(&broker, "queue-1").await.unwrap();
            let bodies: Vec<_> = messages.iter().map(|m| outgoing(m.body.clone())).collect();
            send(&broker, &done, &bodies).await;
            let ends: Vec<_> = messages.iter().map(finish).collect();
            settle(&broker, &queue, &ends).await;
        },
        other => panic!("no such role: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_process_wakes_a_receiver() {
    let local = Local::start();
    let queue = local.queue(Spec::standard()).await;
    let mut other = start("sends", &local);
    let mut seen = BTreeSet::new();
    while seen.len() < 100 {
        let message = receive_one(&*local.broker, &queue, SOON, LONG).await;
        seen.insert(text(&message).to_owned());
        settle(&*local.broker, &queue, &[finish(&message)]).await;
    }
    assert!(other.wait().unwrap().success());
}

/// As close as one process gets to measuring it: a second broker on the file shares nothing with
/// the first but the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_missed() {
    let local = Local::start();
    let queue = local.queue(Spec::standard()).await;
    let other = local.another();
    for n in 0..200 {
        let before = Instant::now();
        let (message, _) = tokio::join!(receive_one(&*local.broker, &queue, SOON, LONG), async {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..3_000))).await;
            send(&other, &queue, &[outgoing(n.to_string())]).await
        });
        assert_eq!(text(&message), n.to_string());
        assert!(before.elapsed() < SOON / 2, "found by chance: {:?}", before.elapsed());
        settle(&*local.broker, &queue, &[finish(&message)]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_of_another_process_ends_a_wait() {
    let local = Local::start();
    let queue = local.queue(Spec::standard()).await;
    let other = local.another();
    let before = Instant::now();
    let (result, ()) = tokio::join!(local.broker.result("job".into(), SOON), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        send(&other, &queue, &[outgoing("1")]).await;
        let message = receive_one(&other, &queue, SOON, LONG).await;
        let mut end = finish(&message);
        end.disposal = lovage::broker::Disposal::Finish {
            result: Some(lovage::broker::KeptResult {
                tenant: String::new(),
                job_id: "job".to_owned(),
                envelope: "2".into(),
            }),
            sends: Vec::new(),
        };
        settle(&other, &queue, &[end]).await;
    });
    assert_eq!(result.unwrap().unwrap(), "2");
    assert!(before.elapsed() < SOON / 2, "found by chance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_share_the_work_and_do_none_twice() {
    const COUNT: usize = 400;
    let local = Local::start();
    let queue = local.queue(Spec::standard()).await;
    let done = local.queue(Spec::standard()).await;
    let bodies: Vec<_> = (0..COUNT).map(|n| outgoing(n.to_string())).collect();
    send(&*local.broker, &queue, &bodies).await;
    let mut others: Vec<_> = (0..3).map(|_| start("works", &local)).collect();
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    let results = local.broker.browse(&done, usize::MAX).await.unwrap();
    let distinct: BTreeSet<_> = results.iter().map(text).collect();
    assert_eq!((results.len(), distinct.len()), (COUNT, COUNT));
}
