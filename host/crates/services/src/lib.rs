//! Services that jobs use beside their queue: key-value buckets, secrets and result stores.

#![forbid(unsafe_code)]

pub mod keyvalue;
pub mod redis_client;
pub mod secrets;
pub mod store;
