//! The embedded broker against a model of it: whatever is asked in whatever order, both agree.
//!
//! Time is left out: what is hidden is hidden for an hour, and a lease ends when the test cuts it
//! short. Nothing depends on how fast the test runs.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lovage::broker::{
    Broker, Disposal, Fault, KeptResult, Message, Outgoing, Queue, Send, SendKind, Settlement, Turn,
};
use proptest::prelude::*;

use crate::support::{broker::text, local::Local};

const NOW: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_hours(1);
const QUEUES: [(&str, bool); 2] = [("standard", false), ("fifo", true)];

#[derive(Debug, Clone)]
enum Op {
    Send { queue: usize, group: u8, delayed: bool },
    Receive { queue: usize, max: usize },
    Finish { which: usize, send: Option<Target>, result: bool },
    Release { which: usize, later: bool, spent: bool },
    CutShort { which: usize },
    Reopen,
}

#[derive(Debug, Clone)]
enum Target {
    Queue { queue: usize, group: u8 },
    Nowhere,
}

fn op() -> impl Strategy<Value = Op> {
    let (queue, group, which) = (0..2_usize, 0..3_u8, any::<usize>());
    let target = prop_oneof![
        4 => (queue.clone(), group.clone()).prop_map(|(queue, group)| Target::Queue { queue, group }),
        1 => Just(Target::Nowhere),
    ];
    prop_oneof![
        6 => (queue.clone(), group, prop::bool::weighted(0.1))
            .prop_map(|(queue, group, delayed)| Op::Send { queue, group, delayed }),
        5 => (queue, 1..4_usize).prop_map(|(queue, max)| Op::Receive { queue, max }),
        5 => (which, prop::option::of(target), any::<bool>())
            .prop_map(|(which, send, result)| Op::Finish { which, send, result }),
        3 => (which, prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(which, later, spent)| Op::Release { which, later, spent }),
        2 => which.prop_map(|which| Op::CutShort { which }),
        1 => Just(Op::Reopen),
    ]
}

/// What the model knows of a message.
#[derive(Debug, Clone)]
struct Entry {
    group: u8,
    attempts: u32,
    hidden: bool,
    /// The delivery that holds it, by its place in `Run::deliveries`.
    holder: Option<usize>,
}

/// The model: by queue, the messages by number, which is the order they were sent in.
#[derive(Debug, Default)]
struct Model {
    queues: [BTreeMap<usize, Entry>; 2],
    results: BTreeMap<String, usize>,
    sent: usize,
}

impl Model {
    fn send(&mut self, queue: usize, group: u8, hidden: bool) -> usize {
        self.sent += 1;
        let entry = Entry { group, attempts: 0, hidden, holder: None };
        self.queues[queue].insert(self.sent, entry);
        self.sent
    }

    /// The messages that may be received now. On a FIFO queue only heads of groups.
    fn ready(&self, queue: usize) -> Vec<usize> {
        let entries = &self.queues[queue];
        let is_head = |number: usize, entry: &Entry| {
            !entries.range(..number).any(|(_, other)| other.group == entry.group)
        };
        entries
            .iter()
            .filter(|(number, entry)| !entry.hidden && (queue == 0 || is_head(**number, entry)))
            .map(|(number, _)| *number)
            .collect()
    }
}

struct Run {
    broker: Local,
    queues: Vec<Queue>,
    model: Model,
    /// Every delivery there was: its queue, its message, and the message's number.
    deliveries: Vec<(usize, Arc<Message>, usize)>,
}

fn outgoing(number: usize, group: u8, delayed: bool) -> Outgoing {
    Outgoing {
        body: number.to_string().into(),
        group: Some(format!("group-{group}")),
        delay: if delayed { HOUR } else { NOW },
        ..Outgoing::default()
    }
}

impl Run {
    async fn start() -> Self {
        let broker = Local::start();
        let mut queues = Vec::new();
        for (name, fifo) in QUEUES {
            queues.push(broker.broker.declare(name, fifo, HOUR).await.unwrap());
        }
        Self { broker, queues, model: Model::default(), deliveries: Vec::new() }
    }

    async fn apply(&mut self, op: Op) {
        match op {
            Op::Send { queue, group, delayed } => {
                let number = self.model.send(queue, group, delayed);
                let message = outgoing(number, group, delayed);
                let answer = self.broker.broker.send(&self.queues[queue], &[message]).await;
                answer[0].as_ref().unwrap();
            }
            Op::Receive { queue, max } => self.receive(queue, max).await,
            Op::Finish { which, send, result } => self.finish(which, send, result).await,
            Op::Release { which, later, spent } => {
                let after = if later { HOUR } else { NOW };
                if let Some((queue, number)) =
                    self.settle(which, Disposal::Release { after, spent }).await
                {
                    let entry = self.model.queues[queue].get_mut(&number).unwrap();
                    entry.holder = None;
                    entry.hidden = later;
                    entry.attempts -= u32::from(!spent);
                }
            }
            Op::CutShort { which } => {
                let Some((queue, message, number)) = self.pick(which) else {
                    return;
                };
                let held = self.held(which);
                let answers = self
                    .broker
                    .broker
                    .extend(&self.queues[queue], std::slice::from_ref(&message.receipt), NOW)
                    .await;
                Self::check(held, answers[0].as_ref().copied());
                if held {
                    // The lease is over, but as long as nobody takes over its holder may settle.
                    self.model.queues[queue].get_mut(&number).unwrap().hidden = false;
                }
            }
            Op::Reopen => self.broker.reopen(),
        }
        self.compare().await;
    }

    async fn receive(&mut self, queue: usize, max: usize) {
        let ready = self.model.ready(queue);
        let received =
            self.broker.broker.receive(&self.queues[queue], max, NOW, HOUR, &Turn::default()).await;
        let received = received.unwrap();
        assert_eq!(received.len(), max.min(ready.len()), "of {ready:?}");
        for message in received {
            let number: usize = text(&message).parse().unwrap();
            assert!(ready.contains(&number), "{number} is not one of {ready:?}");
            let entry = self.model.queues[queue].get_mut(&number).unwrap();
            assert!(!entry.hidden, "{number} came twice");
            entry.attempts += 1;
            entry.hidden = true;
            entry.holder = Some(self.deliveries.len());
            assert_eq!(message.attempt, entry.attempts);
            self.deliveries.push((queue, Arc::new(message), number));
        }
    }

    async fn finish(&mut self, which: usize, send: Option<Target>, result: bool) {
        let Some((_, _, number)) = self.pick(which) else {
            return;
        };
        let job_id = format!("job-{number}");
        let sent = self.model.sent + 1;
        let sends = send.iter().map(|target| match target {
            Target::Queue { queue, group } => Send {
                kind: SendKind::Result,
                to: Arc::clone(&self.queues[*queue].address),
                message: outgoing(sent, *group, false),
            },
            Target::Nowhere => Send {
                kind: SendKind::Result,
                to: "nowhere".into(),
                message: outgoing(sent, 0, false),
            },
        });
        let disposal = Disposal::Finish {
            sends: sends.collect(),
            result: result.then(|| KeptResult {
                tenant: String::new(),
                job_id: job_id.clone(),
                envelope: number.to_string().into(),
            }),
        };
        if let Some((queue, number)) = self.settle(which, disposal).await {
            self.model.queues[queue].remove(&number);
            if let Some(Target::Queue { queue, group }) = send {
                self.model.send(queue, group, false);
            }
            if result {
                self.model.results.insert(job_id, number);
            }
        }
    }

    fn pick(&self, which: usize) -> Option<(usize, Arc<Message>, usize)> {
        let count = self.deliveries.len();
        // Of the later ones rather: most of the early ones are long gone.
        (count > 0).then(|| self.deliveries[count - 1 - which % count.min(12)].clone())
    }

    /// Whether the delivery is the message's last, and the message is there.
    fn held(&self, which: usize) -> bool {
        let count = self.deliveries.len();
        let at = count - 1 - which % count.min(12);
        let (queue, _, number) = &self.deliveries[at];
        let entry = self.model.queues[*queue].get(number);
        entry.is_some_and(|entry| entry.holder == Some(at))
    }

    fn check(held: bool, answer: Result<(), &lovage::broker::BrokerError>) {
        match answer {
            Ok(()) => assert!(held, "a lost lease was taken for good"),
            Err(error) if held => panic!("a good lease was refused: {error}"),
            Err(error) => assert_eq!(error.fault, Fault::Stale),
        }
    }

    /// Settles; the message concerned, if it was done.
    async fn settle(&self, which: usize, disposal: Disposal) -> Option<(usize, usize)> {
        let (queue, message, number) = self.pick(which)?;
        let held = self.held(which);
        let nowhere = match &disposal {
            Disposal::Finish { sends, .. } => sends.iter().any(|send| &*send.to == "nowhere"),
            Disposal::Release { .. } => false,
        };
        let settlement = Settlement { message, disposal };
        let answers = self.broker.broker.settle(&self.queues[queue], &[settlement]).await;
        if nowhere {
            assert_eq!(answers[0].as_ref().unwrap_err().error.fault, Fault::NotFound);
            return None;
        }
        Self::check(held, answers[0].as_ref().copied().map_err(|it| &it.error));
        held.then_some((queue, number))
    }

    /// Everything there is, in both.
    async fn compare(&self) {
        for (index, queue) in self.queues.iter().enumerate() {
            let seen = self.broker.broker.browse(queue, usize::MAX).await.unwrap();
            let mut seen: Vec<usize> =
                seen.iter().map(|message| text(message).parse().unwrap()).collect();
            seen.sort_unstable();
            let expected: Vec<_> = self.model.queues[index].keys().copied().collect();
            assert_eq!(seen, expected);
            let depth = self.broker.broker.depth(queue).await.unwrap();
            let all = depth.ready + depth.delayed + depth.in_flight;
            assert_eq!(all, expected.len() as u64);
        }
        if let Some((job_id, number)) = self.model.results.last_key_value() {
            let kept = self.broker.broker.result(job_id.as_str().into(), NOW).await.unwrap();
            assert_eq!(kept.unwrap(), number.to_string());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_its_model(ops in prop::collection::vec(op(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut run = Run::start().await;
            for op in ops {
                run.apply(op).await;
            }
        });
    }
}
