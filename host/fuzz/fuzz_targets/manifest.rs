#![no_main]
//! See `lovage::fuzz::manifest`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::manifest(data));
