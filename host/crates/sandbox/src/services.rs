//! What all attempts share of the world outside: clients and stores that grants lead to.

use super::{egress::Network, host_interface::HostInterface};
use lovage_services::{keyvalue::KeyValue, secrets::Secrets};

/// What stands behind the capabilities that guests are granted. Made once a process.
#[derive(Debug, Default)]
pub struct Services {
    /// The operator's secrets.
    pub secrets: Secrets,
    /// Where key-value buckets are kept; `None` where nobody is granted any.
    pub keyvalue: Option<KeyValue>,
    /// The way to the network for HTTP requests.
    pub network: Network,
    /// Interfaces that the embedding program serves.
    pub interfaces: Vec<HostInterface>,
}
