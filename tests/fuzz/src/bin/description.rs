#![no_main]
//! libFuzzer on [`stepwell_fuzz::description`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell_fuzz::description(data));
