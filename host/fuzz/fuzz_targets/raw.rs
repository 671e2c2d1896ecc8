#![no_main]
//! See `lovage::fuzz::raw`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::raw(data));
