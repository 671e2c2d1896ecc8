//! A worker that has lost a task that it needs does not live on without it: it drains, and ends with
//! an error that says which task and why.
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
    job::JobKey,
    load,
    pipeline::Pipeline,
    routes::Routes,
    worker::{Stop, Worker},
};
use serde_json::json;

use crate::support::{
    stage::{Kind, SOON, Setup, Stage},
    telemetry::Counts,
};

/// A broker that panics at one of its calls, once.
#[derive(Debug)]
struct Buggy {
    broker: Arc<dyn Broker>,
    call: &'static str,
    panicked: AtomicBool,
}

impl Buggy {
    fn called(&self, call: &str) {
        let panics = call == self.call && !self.panicked.swap(true, Ordering::Relaxed);
        assert!(!panics, "as the test wants it, in {call}");
    }
}

#[async_trait]
impl Broker for Buggy {
    async fn open(&self, name: &str) -> Result<Queue, BrokerError> {
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
        self.called("receive");
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
        self.called("extend");
        self.broker.extend(queue, receipts, visibility).await
    }

    async fn settle(
        &self,
        queue: &Queue,
        settlements: &[Settlement],
    ) -> Vec<Result<(), Unsettled>> {
        self.called("settle");
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

    async fn result(&self, job: JobKey<'_>, wait: Duration) -> Result<Option<Bytes>, BrokerError> {
        self.broker.result(job, wait).await
    }
}

// On one thread, which is the one that the counts are of.
#[tokio::test]
async fn a_panic_in_a_task_that_the_worker_needs_drains_it_and_ends_it_with_the_reason() {
    for (call, task) in [("receive", "receiver"), ("extend", "lease keeper"), ("settle", "settler")]
    {
        let stage = Stage::set(Kind::Local, Setup { visibility: 1, ..Setup::default() }).await;
        let config = Config::load(Some(&stage.directory().join("lovage.toml")), []).unwrap();
        let config = Arc::new(config);
        let broker = connect(&config).await.unwrap();
        let broker: Arc<dyn Broker> =
            Arc::new(Buggy { broker, call, panicked: AtomicBool::default() });
        let routes = Arc::new(Routes::new(Arc::clone(&broker), Arc::clone(&config)));
        let source = routes.source("jobs").await.unwrap();
        let host = load::host(&config, None).await.unwrap();
        let parts = (Arc::clone(&config), host.registry, host.sandbox, routes);
        let pipeline = Pipeline::new(parts.0, parts.1, parts.2, parts.3, broker.clone());
        let worker = Worker::new(broker, Arc::new(pipeline), config.worker.clone());

        let counts = Counts::default();
        let _counting = metrics::set_default_local_recorder(&counts);
        // Long enough for its lease to be renewed, and during the drain, too.
        stage.send_job("running", "sleep", json!({"ms": 3000})).await;
        let ended = tokio::time::timeout(SOON, worker.run(vec![(source, None)], Stop::default()));
        let error = ended.await.expect("the worker drains").unwrap_err();
        assert!(error.task.starts_with(task) && error.task.contains("`jobs`"), "{error}");
        assert!(error.to_string().contains(&format!("as the test wants it, in {call}")), "{error}");
        assert_eq!(counts.counters().remove("lovage_host_panics_total{queue=}"), Some(1));
        if call == "extend" {
            // What ran when its lease's keeper panicked has come to its end: another keeps it.
            assert_eq!(stage.result_of("running").await["attempt"], 1);
            stage.is_done().await;
        } else {
            // Nothing is lost: it is still there.
            let depth = stage.depth().await;
            assert_eq!(depth.ready + depth.in_flight, 1, "{call}: {depth:?}");
        }
    }
}
