#![no_main]
//! See `lovage::fuzz::sqs_message`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::sqs_message(data));
