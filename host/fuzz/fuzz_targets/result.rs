#![no_main]
//! See `lovage::fuzz::result`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::result(data));
