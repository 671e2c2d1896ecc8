#![no_main]
//! See `lovage::fuzz::policy_names`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::policy_names(data));
