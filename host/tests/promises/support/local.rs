//! An embedded broker in a directory of its own.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lovage::broker::{
    Broker, Queue,
    local::{LocalBroker, LocalOptions},
};

use super::broker::{Features, Fixture, Spec};

/// The broker, and the directory that goes with it.
#[derive(Debug)]
pub struct Local {
    pub broker: Arc<LocalBroker>,
    queues: AtomicUsize,
    // Last, so that the file is closed before it is taken away.
    directory: tempfile::TempDir,
}

impl Local {
    pub fn start() -> Self {
        let options = LocalOptions::default();
        let directory = tempfile::tempdir().unwrap();
        let broker = LocalBroker::open(&directory.path().join("broker.db"), options).unwrap();
        Self { broker: Arc::new(broker), queues: AtomicUsize::new(0), directory }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("broker.db")
    }

    /// Closes the file and opens it again.
    pub fn reopen(&mut self) {
        let options = LocalOptions::default();
        // Opened first, closed then: with nobody else there the log would be folded in and gone.
        let again = LocalBroker::open(&self.path(), options).unwrap();
        self.broker = Arc::new(again);
    }

    /// One more broker on the same file, as another process would have it.
    pub fn another(&self) -> LocalBroker {
        LocalBroker::open(&self.path(), LocalOptions::default()).unwrap()
    }
}

impl Fixture for Local {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.broker) as _
    }

    async fn queue(&self, spec: Spec) -> Queue {
        assert!(spec.redrive.is_none(), "the embedded broker moves nothing");
        let name = format!("queue-{}", self.queues.fetch_add(1, Ordering::Relaxed));
        let visibility = spec.visibility.unwrap_or(Duration::from_secs(30));
        let declared = self.broker.declare(&name, spec.fifo, visibility);
        declared.await.unwrap()
    }

    fn tick(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn features(&self) -> Features {
        Features {
            keeps_results: true,
            binary_bodies: true,
            exact_depth: true,
            browse_is_invisible: true,
            refuses_stale_receipts: true,
            free_release_at_once: true,
            redrives: false,
        }
    }
}
