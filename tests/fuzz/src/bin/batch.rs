#![no_main]
//! libFuzzer on [`stepwell_fuzz::batch`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell_fuzz::batch(data));
