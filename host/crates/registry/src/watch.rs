//! Being told of other versions.

use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Registry;

/// How long after a change one waits for more of them: whoever deploys changes several files.
const QUIET: Duration = Duration::from_millis(50);

impl Registry {
    /// Refreshes when somebody asks by `wake`, and never else. Until `stop`.
    pub async fn refresh_when(&self, wake: Arc<Notify>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = wake.notified() => self.refresh().await,
            }
        }
    }

    /// Refreshes whenever a directory changes, somebody asks by `wake`, and after each `interval`
    /// at the latest, which is how what cannot be watched is noticed. Until `stop`.
    pub async fn watch(&self, interval: Duration, wake: Arc<Notify>, stop: CancellationToken) {
        let changed = Arc::clone(&wake);
        let tell = move |event: notify::Result<notify::Event>| {
            // Reading is no change.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                changed.notify_one();
            }
        };
        let directories = self.suppliers.iter().filter_map(|supplier| supplier.watched());
        let history = self.options.history.as_ref().map(super::History::path);
        let bundles = self.bundles.iter().map(std::path::PathBuf::as_path);
        // Held for as long as this runs.
        let _watcher = match notify::recommended_watcher(tell) {
            Ok(mut watcher) => {
                for path in directories.chain(history).chain(bundles) {
                    if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
                        tracing::warn!(
                            path = %path.display(), %error,
                            "cannot watch a directory of components; it is looked at every \
                             {interval:?}"
                        );
                    }
                }
                Some(watcher)
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot watch directories of components; they are looked at every {interval:?}"
                );
                None
            }
        };
        loop {
            // What failed for a reason that may pass is tried again when its time comes.
            let next = self.next_retry().map_or(interval, |retry| interval.min(retry.max(QUIET)));
            tokio::select! {
                () = stop.cancelled() => return,
                () = wake.notified() => tokio::time::sleep(QUIET).await,
                () = tokio::time::sleep(next) => {}
            }
            self.refresh().await;
        }
    }
}
