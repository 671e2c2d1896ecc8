#![no_main]
//! See `lovage::fuzz::shape`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::shape(data));
