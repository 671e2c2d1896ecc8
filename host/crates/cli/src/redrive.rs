//! Where a dead letter goes back to: the queue that it came from, for the tenant that it was for.
//!
//! Several queues may share a queue of dead letters, and each may stand for a tenant. So the queue is
//! that of the letter, and not the one of the command line; and a letter whose job would run for
//! another tenant than before is refused.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    dlq::{Pair, letter},
    sweep::{self, Action},
};
use lovage_config::Config;
use lovage_core::{
    broker::{DeadLetter, Disposal, Message, Outgoing, Queue, Send, SendKind, attribute},
    text::one_line,
};
use lovage_runtime::{
    message::decode,
    routes::{Routes, Source},
};

/// Sends letters back.
pub(super) struct Redrive<'a> {
    pair: &'a Pair,
    config: &'a Config,
    routes: &'a Routes,
    /// Letters that are refused go to the queue of the command line.
    force: bool,
    sources: BTreeMap<String, Result<Arc<Source>, String>>,
    /// How many went where.
    pub sent: BTreeMap<String, usize>,
}

impl<'a> Redrive<'a> {
    pub(super) fn new(pair: &'a Pair, config: &'a Config, routes: &'a Routes, force: bool) -> Self {
        Self { pair, config, routes, force, sources: BTreeMap::new(), sent: BTreeMap::new() }
    }

    /// The queue that a letter came from, or why that cannot be said.
    async fn home(&mut self, message: &Message) -> Result<Arc<Source>, String> {
        let name = match letter(message) {
            Some(letter) => self.configured(&letter.queue)?,
            None => self.unrecorded(message)?,
        };
        if !self.sources.contains_key(&name) {
            let found = self.routes.source(&name).await;
            let found = found.map(Arc::new).map_err(|error| error.to_string());
            self.sources.insert(name.clone(), found);
        }
        let source = self.sources.get(&name).cloned();
        let source = source.unwrap_or_else(|| Err("its queue was not found".to_owned()))?;
        let letters = source.dead_letters.as_ref().map(|queue| &queue.address);
        if letters != Some(&self.pair.letters.address) {
            return Err(format!(
                "it names the queue `{name}`, whose dead letters are not in {}",
                self.pair.letters.name
            ));
        }
        Ok(source)
    }

    /// All queues that jobs are taken from, also by workers other than those of `worker.queues`.
    fn taken(&self) -> Vec<String> {
        let mut names = self.config.consumed_queues();
        let others = self.config.queues.iter().filter(|(_, queue)| queue.consume);
        names.extend(others.map(|(name, _)| name.clone()));
        names.sort();
        names.dedup();
        names
    }

    /// The queue of the configuration that the broker knows by this name; else the one of this name.
    fn configured(&self, recorded: &str) -> Result<String, String> {
        let consumed = self.taken();
        let is_meant =
            |name: &&String| self.config.address(name).rsplit(['/', ':']).next() == Some(recorded);
        let named = || consumed.iter().find(|name| *name == recorded);
        consumed.iter().find(is_meant).or_else(named).cloned().ok_or_else(|| {
            format!(
                "it came from the queue `{}`, which is none of the configuration that jobs are \
                 taken from",
                one_line(recorded, 200)
            )
        })
    }

    /// The queue of a letter that the broker itself moved, which says nothing: the only one whose
    /// letters come here.
    fn unrecorded(&self, message: &Message) -> Result<String, String> {
        let named = &*self.pair.queue.name;
        let consumed = self.taken();
        if let Some(moved_from) = message.attributes.get(attribute::MOVED_FROM) {
            return self.configured(moved_from);
        }
        let shares = |name: &&String| {
            name.as_str() != named
                && self.config.queue(name).and_then(|queue| queue.dead_letters).is_some_and(|to| {
                    let to = self.config.address(&to);
                    to == &*self.pair.letters.address || to == &*self.pair.letters.name
                })
        };
        match consumed.iter().find(shares) {
            None => Ok(named.to_owned()),
            Some(other) => Err(format!(
                "it does not say which queue it came from, and `{named}` and `{other}` share {}",
                self.pair.letters.name
            )),
        }
    }

    async fn way(&mut self, message: &Message) -> Result<(Queue, Outgoing), String> {
        let source = self.home(message).await?;
        let outgoing = original(message, source.queue.fifo);
        if let Some(letter) = letter(message) {
            let tenant = tenant_of(message, &outgoing, &source);
            if tenant != letter.tenant {
                return Err(format!(
                    "its job was for the tenant `{}`, and would run for `{}` on the queue `{}`",
                    one_line(&letter.tenant, 200),
                    one_line(&tenant, 200),
                    source.name
                ));
            }
        }
        Ok((source.queue.clone(), outgoing))
    }
}

impl Action for Redrive<'_> {
    fn job(&self, message: &Message) -> String {
        letter(message).map_or_else(|| message.id.clone(), |letter: DeadLetter| letter.job_id)
    }

    async fn disposal(&mut self, message: &Message) -> Result<Disposal, String> {
        let (queue, outgoing) = match self.way(message).await {
            Ok(way) => way,
            Err(_) if self.force => {
                (self.pair.queue.clone(), original(message, self.pair.queue.fifo))
            }
            Err(why) => {
                return Err(format!(
                    "letter {} is left: {why}; --force sends it to `{}`",
                    message.id, self.pair.queue.name
                ));
            }
        };
        *self.sent.entry(queue.name.to_string()).or_default() += 1;
        let sends = vec![Send { kind: SendKind::Copy, to: queue.address, message: outgoing }];
        Ok(Disposal::Finish { result: None, sends })
    }
}

/// The tenant that a message would be for, were it received from there.
fn tenant_of(message: &Message, outgoing: &Outgoing, source: &Source) -> String {
    let received = Message {
        attributes: outgoing.attributes.clone(),
        group: outgoing.group.clone(),
        ..message.clone()
    };
    match decode(&received, &source.defaults) {
        Ok(job) => job.tenant.clone(),
        Err(malformed) => malformed.tenant,
    }
}

/// A dead letter as it was when it was a job. It keeps the job's id, so that effects stay
/// idempotent.
fn original(message: &Message, fifo: bool) -> Outgoing {
    let mut job = sweep::copy(message, fifo);
    if let Some(letter) = letter(message) {
        job.attributes.entry(attribute::ID.to_owned()).or_insert(letter.job_id);
    }
    job.attributes.remove(attribute::DEAD_LETTER);
    job.attributes.remove(attribute::MOVED_FROM);
    job
}
