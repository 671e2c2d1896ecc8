//! A bug in the host's own code costs a job an attempt, and the worker nothing.
//!
//! No message is known that makes the host panic, so the bug is in a broker of the test's own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use lovage::{
    broker::{
        Broker, BrokerError, Depth, Limits, Message, Outgoing, Queue, Receipt, Settlement, Turn,
        Unsettled,
    },
    config::Config,
    connect::connect,
    load,
    pipeline::Pipeline,
    routes::Routes,
    worker::{Stop, Worker},
};
use serde_json::json;

use crate::support::{
    stage::{Kind, Setup, Stage, job, job_with, take},
    telemetry::Counts,
    worker::until,
};

/// A broker that panics the first time that it is asked for the queue `reply`.
#[derive(Debug)]
struct Buggy {
    broker: Arc<dyn Broker>,
    fixed: AtomicBool,
}

#[async_trait]
impl Broker for Buggy {
    async fn open(&self, name: &str) -> Result<Queue, BrokerError> {
        assert!(
            name != "reply" || self.fixed.swap(true, Ordering::Relaxed),
            "as the test wants it"
        );
        self.broker.open(name).await
    }

    fn kind(&self) -> &'static str {
        self.broker.kind()
    }

    fn limits(&self) -> Limits {
        self.broker.limits()
    }

    async fn receive(
        &self,
        queue: &Queue,
        max: usize,
        wait: Duration,
        visibility: Duration,
        turn: &Turn,
    ) -> Result<Vec<Message>, BrokerError> {
        self.broker.receive(queue, max, wait, visibility, turn).await
    }

    fn interrupt(&self) {
        self.broker.interrupt();
    }

    async fn extend(
        &self,
        queue: &Queue,
        receipts: &[Receipt],
        visibility: Duration,
    ) -> Vec<Result<(), BrokerError>> {
        self.broker.extend(queue, receipts, visibility).await
    }

    async fn settle(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
    ) -> Vec<Result<(), Unsettled>> {
        self.broker.settle(queue, settlements).await
    }

    async fn send(&self, queue: &Queue, messages: &[Outgoing]) -> Vec<Result<String, BrokerError>> {
        self.broker.send(queue, messages).await
    }

    async fn depth(&self, queue: &Queue) -> Result<Depth, BrokerError> {
        self.broker.depth(queue).await
    }

    async fn browse(&self, queue: &Queue, max: usize) -> Result<Vec<Message>, BrokerError> {
        self.broker.browse(queue, max).await
    }

    async fn result(
        &self,
        job: lovage::job::JobKey<'_>,
        wait: Duration,
    ) -> Result<Option<Bytes>, BrokerError> {
        self.broker.result(job, wait).await
    }
}

// On one thread, which is the one that the counts are of.
#[tokio::test]
async fn a_panic_of_the_host_ends_one_attempt_and_nothing_else() {
    for fifo in [false, true] {
        let config = "worker.concurrency = 2\nworker.error_backoff_cap_ms = 200\n\
                      queues.reply.consume = false\nqueues.jobs.reply_to = ['*']";
        let stage = Stage::set(Kind::Local, Setup { fifo, config, ..Setup::default() }).await;
        let config = Config::load(Some(&stage.directory().join("lovage.toml")), []).unwrap();
        let config = Arc::new(config);
        let broker = connect(&config).await.unwrap();
        let broker: Arc<dyn Broker> = Arc::new(Buggy { broker, fixed: AtomicBool::default() });
        let routes = Arc::new(Routes::new(Arc::clone(&broker), Arc::clone(&config)));
        let source = routes.source("jobs").await.unwrap();
        let host = load::host(&config, None).await.unwrap();
        let parts = (Arc::clone(&config), host.registry, host.sandbox, routes);
        let pipeline = Pipeline::new(parts.0, parts.1, parts.2, parts.3, broker.clone());
        let worker = Worker::new(broker, Arc::new(pipeline), config.worker.clone());

        let counts = Counts::default();
        let _counting = metrics::set_default_local_recorder(&counts);
        let stop = Stop::default();
        let running = tokio::spawn(worker.run(vec![(source, None)], stop.clone()));
        let mut victim =
            job_with("victim", "process_data", json!(21), json!({"reply_to": "reply"}));
        let mut next = job("next", "process_data", json!(21));
        victim.group = fifo.then(|| "group".to_owned());
        next.group.clone_from(&victim.group);
        stage.send(&[victim, next]).await;
        assert_eq!(stage.result_of("next").await["data"], 42);
        let reply = stage.broker.open("reply").await.unwrap();
        let replies = until("the reply", || async {
            let replies = take(&*stage.broker, &reply, Duration::from_secs(1)).await;
            Some(replies).filter(|replies| !replies.is_empty())
        })
        .await;
        let reply = &replies[0].envelope;
        assert_eq!((&reply["data"], &reply["attempt"]), (&json!(42), &json!(2)), "{reply}");
        let panics = counts.counters().remove("lovage_host_panics_total{queue=jobs}");
        assert_eq!(panics, Some(1));
        let given_up = counts.counters().remove("lovage_attempts_abandoned_total{queue=jobs}");
        assert_eq!(given_up, Some(1));
        // All places are free again, or this would not end.
        stop.drain.cancel();
        running.await.unwrap().unwrap();
        stage.is_done().await;
    }
}
