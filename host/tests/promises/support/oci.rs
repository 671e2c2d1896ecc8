//! An OCI registry for tests: Debian's `docker-registry`, which `host/tests/setup.sh` installs, on a
//! free port of this machine.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Child,
    time::{Duration, Instant},
};

use super::guarded::{free_port, guarded};

/// A registry, until it is dropped.
#[derive(Debug)]
pub struct OciRegistry {
    pub address: SocketAddr,
    guard: Option<Child>,
    _directory: tempfile::TempDir,
}

impl OciRegistry {
    /// Starts one. Panics, with what to do, when it is not installed or does not start.
    pub fn start() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.yml");
        let store = directory.path().join("store");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            store.display()
        );
        std::fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        let guard = guarded(&["docker-registry", "serve", &config]).unwrap();
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "docker-registry did not start; run `make test-setup` (or host/tests/setup.sh) first"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { address, guard: Some(guard), _directory: directory }
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let Some(mut guard) = self.guard.take() else { return };
        drop(guard.stdin.take());
        guard.wait().unwrap();
    }
}

impl Drop for OciRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}
