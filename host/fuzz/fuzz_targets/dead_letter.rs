#![no_main]
//! See `lovage::fuzz::dead_letter`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::dead_letter(data));
