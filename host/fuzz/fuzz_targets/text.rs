#![no_main]
//! See `lovage::fuzz::text`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::text(data));
