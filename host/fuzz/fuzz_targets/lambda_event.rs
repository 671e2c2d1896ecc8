#![no_main]
//! See `lovage::fuzz::lambda_event`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::lambda_event(data));
