#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sled_fuzz::cache(data));
