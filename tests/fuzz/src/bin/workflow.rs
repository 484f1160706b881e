#![no_main]
//! libFuzzer on [`stepwell_fuzz::workflow`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell_fuzz::workflow(data));
