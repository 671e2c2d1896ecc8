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

impl FollowOn {
    /// The approximate bytes of its message in the budget of its tree; base64 is assumed.
    pub fn bytes(&self) -> u64 {
        Self::bytes_of(&self.task, &self.content_type, &self.payload)
    }

    /// The same of a job of these parts.
    pub fn bytes_of(task: &str, content_type: &str, payload: &[u8]) -> u64 {
        /// Attributes: names, ids, lineage and budget.
        const ENVELOPE: usize = 1024;
        (payload.len() / 3 * 4 + task.len() + content_type.len() + ENVELOPE) as u64
    }
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
    /// The lineage of a job that `parent` asks for.
    pub fn of_child(parent: &Job) -> Self {
        Self {
            root: parent.root_id.clone().unwrap_or_else(|| parent.id.clone()),
            parent: parent.id.clone(),
            depth: parent.depth.saturating_add(1),
        }
    }
}

/// How many jobs and bytes may follow from a job, directly and indirectly: a part of its parent's
/// rest. Travels beside the body, as JSON.
///
/// A job's children share what is left of its budget, each by an equal part, so that a whole tree of
/// jobs stays within the budget of its first job, whichever workers run it. The parts depend on
/// nothing but the number of children: a job that is run twice gives them the same. A sender that
/// writes a budget gains nothing: no job has more than one that comes without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Budget {
    /// How many jobs.
    pub jobs: u64,
    /// How many bytes their messages may have together.
    pub bytes: u64,
}

impl Budget {
    /// Reads what [`encode`](Self::encode) writes. What cannot be read leaves nothing: it was not
    /// written by a worker.
    pub fn parse(text: &str) -> Option<Self> {
        Some(serde_json::from_str(text).unwrap_or(Self { jobs: 0, bytes: 0 }))
    }

    /// Encodes it as JSON.
    pub fn encode(self) -> String {
        format!(r#"{{"jobs":{},"bytes":{}}}"#, self.jobs, self.bytes)
    }

    /// The budget of a job whose tree may have `most`. A job that came by a message without one, from
    /// a worker that knows none, has the less the deeper it stands.
    pub fn of(job: &Job, most: Self) -> Self {
        /// Each level is taken for a fan-out of ten.
        const EACH_LEVEL: u64 = 10;
        if let Some(Self { jobs, bytes }) = job.budget {
            return Self { jobs: jobs.min(most.jobs), bytes: bytes.min(most.bytes) };
        }
        let divisor = EACH_LEVEL.saturating_pow(job.depth);
        Self { jobs: most.jobs / divisor, bytes: most.bytes / divisor }
    }

    /// What is left after so many jobs and bytes; `None` if that is more than there is.
    pub fn less(self, jobs: u64, bytes: u64) -> Option<Self> {
        Some(Self { jobs: self.jobs.checked_sub(jobs)?, bytes: self.bytes.checked_sub(bytes)? })
    }

    /// The part of the `number`th of `children`, counted from 0.
    #[must_use]
    pub fn part(self, number: usize, children: usize) -> Self {
        let (number, children) = (number as u64, (children as u64).max(1));
        let part = |whole: u64| whole / children + u64::from(number < whole % children);
        Self { jobs: part(self.jobs), bytes: part(self.bytes) }
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

    const MOST: Budget = Budget { jobs: 10_000, bytes: 1 << 20 };

    /// Runs a tree whose every job asks for `each` more and takes what it gets; how many follow.
    fn grow(budget: Budget, each: u64, bytes: u64) -> u64 {
        let fit = budget.bytes.checked_div(bytes).unwrap_or(u64::MAX);
        let children = each.min(budget.jobs).min(fit);
        let left = budget.less(children, children * bytes).unwrap();
        (0..children).map(|n| 1 + grow(left.part(n as usize, children as usize), each, bytes)).sum()
    }

    #[test]
    fn a_whole_tree_stays_within_the_budget_of_its_first_job() {
        let most = Budget { jobs: 700, bytes: 1 << 16 };
        for (each, bytes) in [(1, 0), (2, 0), (3, 7), (99, 0), (100, 100), (10_000, 0)] {
            let followed = grow(most, each, bytes);
            assert!(followed <= most.jobs && followed * bytes <= most.bytes, "{each}: {followed}");
            // Nothing is lost to rounding: whoever wants all can have all.
            assert!(bytes > 0 || followed == most.jobs, "{each}: {followed}");
        }
    }

    #[test]
    fn a_sender_that_writes_a_budget_gets_no_more_than_one_that_writes_none() {
        let mut job = Job::new("a", "t", "1");
        assert_eq!(Budget::of(&job, MOST), MOST);
        let huge = format!(r#"{{"jobs":{0},"bytes":{0}}}"#, u64::MAX);
        for (text, jobs) in [(huge.as_str(), 10_000), ("nonsense", 0), ("{}", 0), ("", 0)] {
            job.budget = Budget::parse(text);
            assert_eq!(Budget::of(&job, MOST).jobs, jobs, "{text}");
        }
    }

    #[test]
    fn a_job_of_an_older_worker_has_the_less_the_deeper_it_stands() {
        let mut job = Job::new("a", "t", "1");
        for (depth, jobs) in [(1, 1_000), (3, 10), (9, 0), (u32::MAX, 0)] {
            job.depth = depth;
            assert_eq!(Budget::of(&job, MOST).jobs, jobs, "{depth}");
        }
    }

    #[test]
    fn a_budget_is_read_as_it_was_written() {
        assert_eq!(Budget::parse(&MOST.encode()), Some(MOST));
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
