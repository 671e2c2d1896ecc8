#![no_main]
//! See `lovage::fuzz::celery`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| lovage::fuzz::celery(data));
