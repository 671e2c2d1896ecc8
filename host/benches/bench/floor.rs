//! What nobody can do without who talks to SQS through its SDK: receive ten, send ten, delete ten.
//! No decoding, no sandbox, no leases, no order of things but that.

use aws_sdk_sqs::{
    Client,
    types::{DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry},
};
use tokio::runtime::Runtime;

use super::{
    measure::{Cost, stopwatch},
    stand_in::StandIn,
};

/// Works a stand-in's jobs off in so many loops at once. `result` is the body of each result.
pub fn drain(
    runtime: &Runtime,
    stand_in: &mut StandIn,
    jobs: usize,
    loops: usize,
    result: &str,
) -> Cost {
    let client = Client::new(&stand_in.config());
    let stop = stopwatch();
    let all: Vec<_> =
        (0..loops).map(|_| runtime.spawn(work(client.clone(), result.to_owned()))).collect();
    stand_in.done(jobs);
    let cost = stop();
    for one in all {
        one.abort();
    }
    cost
}

async fn work(client: Client, result: String) {
    loop {
        let received = client
            .receive_message()
            .queue_url("http://bench/1/jobs")
            .max_number_of_messages(10)
            .wait_time_seconds(20)
            .send()
            .await
            .unwrap();
        let messages = received.messages.unwrap_or_default();
        if messages.is_empty() {
            continue;
        }
        let mut results = Vec::with_capacity(10);
        let mut deletes = Vec::with_capacity(10);
        for (index, message) in messages.into_iter().enumerate() {
            let entry = SendMessageBatchRequestEntry::builder().id(index.to_string());
            results.push(entry.message_body(result.clone()).build().unwrap());
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
            deletes.push(entry.set_receipt_handle(message.receipt_handle).build().unwrap());
        }
        let send = client.send_message_batch().queue_url("http://bench/1/results");
        send.set_entries(Some(results)).send().await.unwrap();
        let delete = client.delete_message_batch().queue_url("http://bench/1/jobs");
        delete.set_entries(Some(deletes)).send().await.unwrap();
    }
}
