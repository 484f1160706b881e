#![no_main]
//! libFuzzer on [`stepwell_fuzz::statement`].

libfuzzer_sys::fuzz_target!(|data: &[u8]| stepwell_fuzz::statement(data));
