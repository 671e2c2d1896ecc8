//! What every broker promises. A broker's own tests instantiate the suite with [`conformance!`].
//!
//! Times are counted in the fixture's tick, so that the suite is quick where a broker knows
//! milliseconds and still right where it knows whole seconds. Nothing here asks that a message
//! comes in the first receive: a broker may come back with fewer than there are.

// A promise that stands in no list would never be tested: then it is dead code, and no build.
#![deny(dead_code)]

use std::time::Duration;

pub mod leases;
pub mod order;
pub mod queues;
pub mod sending;
pub mod settling;
pub mod turns;

/// A lease that ends in no test.
const LONG: Duration = Duration::from_mins(1);

/// Long enough for anything that is to happen at once, on a machine with other things to do.
const SOON: Duration = Duration::from_secs(20);

/// Makes one test a promise. Takes the path of an `async fn() -> Option<impl Fixture>`; `None`
/// passes the test over, and the function says why.
macro_rules! conformance {
    ($fixture:path) => {
        $crate::conformance::conformance! { @each $fixture;
            leases: redelivers_when_a_lease_ends
            leases: a_receive_names_the_lease_whatever_the_queue_says
            leases: extend_keeps_a_lease_beyond_its_first_timeout
            leases: a_lease_can_be_cut_short
            leases: a_lease_that_ended_may_be_settled_until_somebody_takes_over
            leases: stale_receipts_are_refused
            leases: concurrent_receivers_never_get_the_same_message
            leases: receive_waits_and_returns_early_when_a_message_comes
            leases: receive_gives_up_after_its_wait
            leases: receive_returns_no_more_than_asked_for
            leases: a_dropped_receive_loses_nothing
            order: keeps_order_within_a_group
            order: groups_do_not_wait_for_each_other
            order: a_group_waits_for_its_head
            order: a_released_message_keeps_its_place_in_its_group
            order: messages_without_a_group_are_one_group
            order: deduplicates_for_five_minutes
            queues: an_open_of_a_missing_queue_says_so
            queues: open_tells_what_a_queue_is
            queues: depth_tells_ready_from_delayed_from_in_flight
            queues: browse_takes_nothing_away
            queues: queues_are_apart
            queues: exhausted_messages_move_where_the_queue_says
            sending: carries_bodies_and_attributes_unchanged
            sending: carries_bytes_that_are_no_text
            sending: carries_the_group_of_a_standard_queue
            sending: an_id_is_the_same_from_send_to_last_delivery
            sending: takes_any_number_of_messages
            sending: takes_the_largest_message
            sending: refuses_what_is_too_large
            sending: one_bad_message_fails_alone
            sending: delays_of_any_length
            settling: a_settled_message_never_comes_again
            settling: release_spends_or_keeps_the_attempt
            settling: a_release_hides_for_as_long_as_it_says
            settling: finish_delivers_what_it_sends
            settling: finish_sends_before_it_deletes
            settling: partial_failures_are_told_apart
            settling: takes_any_number_of_settlements
            settling: keeps_results_by_job
            settling: a_wait_for_a_result_ends_when_it_comes
            turns: what_a_turn_leaves_alone_comes_to_others
            turns: what_is_avoided_comes_where_nothing_else_is_ready
            turns: a_fifo_queue_has_no_turns
            turns: groups_take_turns
        }
    };
    (@each $fixture:path; $($group:ident: $promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                if let Some(fixture) = $fixture().await {
                    $crate::conformance::$group::$promise(&fixture).await;
                }
            }
        )*
    };
}
pub(crate) use conformance;
