#![no_main]
//! See `lovage::fuzz::config`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::config(data));
