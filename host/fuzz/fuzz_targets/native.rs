#![no_main]
//! See `lovage::fuzz::native`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::native(data));
