//! What all attempts share of the world outside: clients and stores that grants lead to.

use super::egress::Network;

/// What stands behind the capabilities that guests are granted. Made once a process.
#[derive(Debug, Default)]
pub struct Services {
    /// The way to the network for HTTP requests.
    pub network: Network,
}
