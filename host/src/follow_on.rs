//! Jobs that a job leads to: asked for by its guest, sent with its result.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::job::Job;

/// A job that a guest asked for. It was granted; it is sent when the attempt succeeds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FollowOn {
    /// Its id, the same at every attempt that asks for its jobs in the same order.
    pub id: String,
    /// The task.
    pub task: String,
    /// Media type of the payload.
    pub content_type: String,
    /// The payload. JSON is checked to be one value.
    #[serde(skip)]
    pub payload: Bytes,
    /// Not to be run before this has passed.
    pub delay: Duration,
}

/// Where a job stands in the chain of jobs that led to it. Travels beside the body, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The id of the first job.
    pub root: String,
    /// The id of the job that asked for this one.
    pub parent: String,
    /// How many jobs were before this one.
    pub depth: u32,
}

impl Lineage {
    /// Of a job that `parent` asks for.
    pub fn of_child(parent: &Job) -> Self {
        Self {
            root: parent.root_id.clone().unwrap_or_else(|| parent.id.clone()),
            parent: parent.id.clone(),
            depth: parent.depth.saturating_add(1),
        }
    }
}

/// The id of the follow-on job that a job asks for as its `number`th, counted from 0: a UUID (of
/// version 8, RFC 9562) made of the job's own id, so that what is sent twice is the same job.
pub fn id(parent: &str, number: usize) -> String {
    let digest: [u8; 32] = Sha256::digest(format!("follow-on {number}:{parent}")).into();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(byte, of)| *byte = of);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_each_time_and_differ_by_job_and_number() {
        assert_eq!(id("a", 0), id("a", 0));
        let ids = [id("a", 0), id("a", 1), id("b", 0), id("1:a", 1)];
        for (i, one) in ids.iter().enumerate() {
            assert!(ids.iter().skip(i + 1).all(|other| other != one));
        }
    }

    #[test]
    fn a_chain_remembers_where_it_began_and_how_long_it_is() {
        let mut job = Job::new("first", "t", "1");
        let lineage = Lineage::of_child(&job);
        assert_eq!((&*lineage.root, &*lineage.parent, lineage.depth), ("first", "first", 1));
        job.id = "second".into();
        job.root_id = Some(lineage.root);
        job.depth = lineage.depth;
        let lineage = Lineage::of_child(&job);
        assert_eq!((&*lineage.root, &*lineage.parent, lineage.depth), ("first", "second", 2));
    }
}
