//! What the long-lived worker promises, on the embedded broker and on SQS alike: the real program,
//! in processes of its own.

mod bad_messages;
mod dead_letters;
mod delivery;
mod disks;
mod eta;
mod fifo;
mod follow_ons;
mod host_health;
mod isolation;
mod leases;
mod left;
mod logs;
mod outages;
mod polling;
mod progress;
mod publishing;
mod quotas;
mod results;
mod retries;
mod shutdown;
mod start_up;
mod tenants;
mod trust;
