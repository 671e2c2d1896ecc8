//! Requests of any size, cut into parts that share the writer with others.

use std::{collections::HashMap, sync::Arc};

use super::{
    LocalBroker,
    fault::writer_gone,
    store::{Refusal, Store},
    writer::again,
};
use lovage_core::broker::{BrokerError, Fault, Queue};

/// The heaviest part, in rows and pages: others have their turn in between.
const PART: usize = 2048;

impl LocalBroker {
    /// Has `run` carried out for all of `input` that could be encoded, and gives one answer each,
    /// in order. All parts are handed over at once, in order.
    pub(super) async fn in_parts<I, T>(
        &self,
        queue: &Queue,
        input: Vec<Result<I, BrokerError>>,
        weigh: impl Fn(&I) -> usize + Send,
        run: impl Fn(&mut Store<'_>, &[I]) -> rusqlite::Result<Vec<Result<T, Refusal>>>
        + Clone
        + Send
        + 'static,
    ) -> Vec<Result<T, BrokerError>>
    where
        I: Send + 'static,
        T: Send + 'static,
    {
        let mut refused = Vec::with_capacity(input.len());
        let mut parts: Vec<(usize, Vec<I>)> = Vec::new();
        for item in input {
            match item {
                Ok(item) => {
                    refused.push(None);
                    let weight = weigh(&item);
                    match parts.last_mut() {
                        Some((sum, part)) if *sum + weight <= PART => {
                            *sum += weight;
                            part.push(item);
                        }
                        _ => parts.push((weight, vec![item])),
                    }
                }
                Err(error) => refused.push(Some(error)),
            }
        }
        let mut under_way = Vec::with_capacity(parts.len());
        for (weight, part) in parts {
            let (count, run) = (part.len(), run.clone());
            under_way.push((count, self.call(weight, move |store| run(store, &part))));
        }
        let mut answers = Vec::with_capacity(refused.len());
        for (count, call) in under_way {
            match call.await {
                Ok(outputs) => answers.extend(outputs.into_iter().map(Ok)),
                Err(error) => answers.extend((0..count).map(|_| Err(again(&error)))),
            }
        }
        self.merge(queue, refused, answers).await
    }

    /// Puts the writer's answers between those that never got to it.
    async fn merge<T>(
        &self,
        queue: &Queue,
        refused: Vec<Option<BrokerError>>,
        answers: Vec<Result<Result<T, Refusal>, BrokerError>>,
    ) -> Vec<Result<T, BrokerError>> {
        // A missing queue is explained once, however many messages were meant for it.
        let mut missing: HashMap<Arc<str>, BrokerError> = HashMap::new();
        let mut answers = answers.into_iter();
        let mut merged = Vec::with_capacity(refused.len());
        for error in refused {
            let answer = match error {
                Some(error) => Ok(Err(error)),
                None => match answers.next() {
                    Some(Ok(Ok(output))) => Ok(Ok(output)),
                    Some(Ok(Err(refusal))) => Err(refusal),
                    Some(Err(error)) => Ok(Err(error)),
                    None => Ok(Err(writer_gone(self.path()))),
                },
            };
            merged.push(match answer {
                Ok(answer) => answer,
                Err(Refusal::Stale) => Err(stale(queue)),
                Err(Refusal::NoQueue(name)) => Err(if let Some(error) = missing.get(&name) {
                    again(error)
                } else {
                    let error = self.missing(&name).await;
                    missing.insert(name, again(&error));
                    error
                }),
            });
        }
        merged
    }
}

fn stale(queue: &Queue) -> BrokerError {
    BrokerError::new(
        Fault::Stale,
        format!(
            "a lease on a message of queue {} is lost: it ended and another receiver has the \
             message, or the message is settled",
            queue.name
        ),
    )
}
