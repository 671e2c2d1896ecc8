//! What breaks for the person on call: the reader of the log, signals, the broker's files, the
//! metrics address, dead letters and results, credentials.

mod credentials;
mod files;
mod letters;
mod log_reader;
mod metrics_address;
mod signals;
